"""Configurations that come with omni are found from any folder, of a checkout and of an installed package."""

import importlib.util
import shutil
import tomllib
from pathlib import Path

import pytest

from omni.cli import main
from omni.training.shipped import CONFIGS, find_config, find_configs

REPOSITORY = Path(__file__).parents[2]


def test_a_checkout_reads_its_own_and_an_installed_package_those_that_the_wheel_brings(tmp_path):
    assert CONFIGS == REPOSITORY / "configs"
    wheel = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["omni"]
    for source, target in wheel["force-include"].items():
        shutil.copytree(REPOSITORY / source, tmp_path / target)
    (tmp_path / "omni" / "training").mkdir()
    shutil.copy(REPOSITORY / "omni" / "training" / "shipped.py", tmp_path / "omni" / "training")
    (tmp_path / "configs").mkdir()  # somebody else's, in site-packages
    spec = importlib.util.spec_from_file_location("shipped", tmp_path / "omni" / "training" / "shipped.py")
    assert spec is not None
    assert spec.loader is not None
    shipped = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shipped)
    assert tmp_path / "omni" in shipped.CONFIGS.parents
    assert (shipped.CONFIGS / "base.yaml").is_file()
    assert shipped.find_config("world/thinker.yaml").is_file()


def test_a_local_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("thinker.yaml", "configs/thinker.yaml"):
        assert find_config(name) == CONFIGS / "thinker.yaml"
    for name in ("mine.yaml", "world", ".", "configs"):
        assert find_config(name) == Path(name)
    Path("thinker.yaml").touch()
    assert find_config("thinker.yaml") == Path("thinker.yaml")


def test_only_the_option_config_is_looked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = str(CONFIGS / "audio.yaml")
    argv = ["fit", "--config", "audio.yaml", "--config=audio.yaml", "-c", "audio.yaml", "--init_from", "audio.yaml"]
    assert find_configs(argv) == [
        *("fit", "--config", there, f"--config={there}", "-c", there, "--init_from", "audio.yaml")
    ]


@pytest.mark.parametrize("config", ["world/thinker.yaml", "configs/world/thinker.yaml"])
def test_a_verb_reads_a_shipped_configuration_from_an_empty_folder(tmp_path, monkeypatch, capsys, config):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", config, "--print_config"])
    assert ended.value.code == 0
    assert "name: world/thinker" in capsys.readouterr().out
