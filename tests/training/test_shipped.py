"""Configurations that come with omni are found from any folder, of a checkout and of an installed package."""

import importlib.util
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from omni.cli import main
from omni.training.shipped import CONFIGS, find_config, find_configs

REPOSITORY = Path(__file__).parents[2]


def test_configurations_of_a_checkout_and_of_an_installed_wheel_are_found(tmp_path):
    assert CONFIGS == REPOSITORY / "configs"
    wheel = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["omni"]
    for source, target in wheel["force-include"].items():
        shutil.copytree(REPOSITORY / source, tmp_path / target)
    (tmp_path / "omni" / "training").mkdir()
    shutil.copy(REPOSITORY / "omni" / "training" / "shipped.py", tmp_path / "omni" / "training")
    (tmp_path / "configs").mkdir()  # another package's, in site-packages
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


def test_only_the_option_config_is_resolved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = str(CONFIGS / "audio.yaml")  # has no base
    argv = ["fit", "--config", "audio.yaml", "--config=audio.yaml", "-c", "audio.yaml", "--init_from", "audio.yaml"]
    assert find_configs(argv) == [
        *("fit", "--config", there, f"--config={there}", "-c", there, "--init_from", "audio.yaml")
    ]


def test_a_shipped_part_is_found_and_a_local_one_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = str(CONFIGS / "models" / "small" / "thinker.yaml")
    argv = ["--model.a=models/small/thinker.yaml", "--model.b", "configs/models/small/thinker.yaml", "--c=small.yaml"]
    assert find_configs(argv) == [f"--model.a={there}", "--model.b", there, "--c=small.yaml"]
    overlay("models/small/thinker.yaml", "dim: 8\n")
    assert find_configs(argv)[0] == argv[0]
    assert find_configs(["--model.a=models/none.yaml"]) == ["--model.a=models/none.yaml"]


def overlay(path, content):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return str(path)


def test_a_configuration_follows_its_bases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overlay("mine.yaml", "base: runs/long.yaml")
    overlay("runs/long.yaml", "base: ../house.yaml")
    overlay("house.yaml", "trainer: {max_steps: 5}")
    chain = ["--config", "house.yaml", "--config", "runs/long.yaml", "--config", "mine.yaml"]
    assert find_configs(["fit", "--config", "mine.yaml", "--x=1"]) == ["fit", *chain, "--x=1"]
    assert find_configs(chain) == chain  # DDP starts the other ranks with arguments that are already expanded
    assert find_configs(["--config=runs/long.yaml"]) == ["--config=house.yaml", "--config=runs/long.yaml"]


def test_a_base_may_be_a_shipped_configuration_and_a_local_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overlay("mine/audio.yaml", "base: world/audio.yaml")
    shipped = ["--config", str(CONFIGS / "audio.yaml"), "--config", str(CONFIGS / "world/audio.yaml")]
    assert find_configs(["--config", "mine/audio.yaml"]) == [*shipped, "--config", "mine/audio.yaml"]
    overlay("mine/world/audio.yaml", "trainer: {max_steps: 5}")
    expected = ["--config", "mine/world/audio.yaml", "--config", "mine/audio.yaml"]
    assert find_configs(["--config", "mine/audio.yaml"]) == expected


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (
            "gone.yaml",
            r"one.yaml: base is gone.yaml, but neither gone.yaml nor a shipped configuration",
        ),
        ("two.yaml", r"one.yaml: configurations are based on each other: one.yaml -> two.yaml -> one.yaml; remove"),
        ("one.yaml", r"one.yaml: configurations are based on each other: one.yaml -> one.yaml; remove"),
        ("[a.yaml, b.yaml]", r"one.yaml: base is \['a.yaml', 'b.yaml'\]: give the name of one configuration file"),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "plan"])
def test_a_bad_base_is_reported_in_one_line(tmp_path, monkeypatch, fails, verb, base, message):
    monkeypatch.chdir(tmp_path)
    overlay("one.yaml", f"base: {base}")
    overlay("two.yaml", "base: one.yaml")
    assert re.search(message, fails(main, [verb, "--config", "one.yaml"]))


def printed(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main(["fit", *argv, "--print_config"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_an_overlay_alone_is_the_same_as_after_its_base(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    alone = printed(capsys, "--config", "world/omni.yaml")
    assert alone == printed(capsys, "--config", "omni.yaml", "--config", "world/omni.yaml")
    assert "base:" not in alone
    overlay("whole.yaml", alone)  # as saved by a run
    assert printed(capsys, "--config", "whole.yaml") == alone
    last = printed(capsys, "--config", "world/omni.yaml", "--config", "omni.yaml")
    assert last != alone  # the later file wins


def test_a_syntax_error_names_the_file(tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    overlay("broken.yaml", "base: audio.yaml\ntrainer: [")
    message = fails(main, ["fit", "--config", "broken.yaml"])
    assert message.startswith("omni: broken.yaml: not valid YAML: while parsing")


@pytest.mark.parametrize("config", ["world/thinker.yaml", "configs/world/thinker.yaml"])
def test_a_verb_reads_a_shipped_configuration_from_an_empty_folder(tmp_path, monkeypatch, capsys, config):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", config, "--print_config"])
    assert ended.value.code == 0
    assert "name: world/thinker" in capsys.readouterr().out
