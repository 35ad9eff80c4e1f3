"""`omni configs` lists the shipped configurations and copies them, with the files that they name."""

from pathlib import Path

import pytest
import yaml

from omni.cli import main
from omni.training.shipped import CONFIGS


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def copied() -> set[str]:
    return {path.relative_to("configs").as_posix() for path in Path("configs").rglob("*") if path.is_file()}


def test_all_are_listed_by_the_names_that_the_option_config_accepts(capsys):
    main(["configs"])
    listed = capsys.readouterr().out.splitlines()
    names = {line.split()[0] for line in listed[: listed.index("")]}
    assert names == {
        path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml") if "models" not in path.parts
    }
    assert all(len(line.split()) > 3 for line in listed[: len(names)])  # each with the first line of its file
    assert "laptop" in listed[len(names) + 1]


def test_a_copy_includes_the_files_that_it_names_and_is_used(capsys):
    main(["configs", "copy", "world/thinker.yaml"])
    assert copied() == {
        *("world/thinker.yaml", "thinker.yaml", "models/laptop/thinker.yaml", "models/tiny/thinker.yaml")
    }
    path = Path("configs/world/thinker.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("max_steps: 1200", "max_steps: 7"), encoding="utf-8")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", "--config", "configs/world/thinker.yaml", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_steps"] == 7


def test_all_files_and_a_chain_are_copied():
    main(["configs", "copy", "world/chain.yaml", "--out", "configs"])
    assert {"world/chain.yaml", "world/omni.yaml", "omni.yaml", "models/laptop/talker.yaml"} <= copied()
    main(["configs", "copy", "all"])  # existing files are equal
    assert copied() == {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*") if path.is_file()}


def test_a_different_file_is_not_overwritten_and_nothing_is_copied(fails):
    Path("configs").mkdir()
    Path("configs/thinker.yaml").write_text("mine", encoding="utf-8")
    message = fails(main, ["configs", "copy", "world/thinker.yaml"])
    assert message == "omni: configs/thinker.yaml exists and differs from the copy: move it, or give another --out"
    assert copied() == {"thinker.yaml"}


@pytest.mark.parametrize("name", ["thinkr.yaml", "world", "../pyproject.toml"])
def test_an_unknown_name_is_reported_in_one_line(fails, name):
    message = fails(main, ["configs", "copy", name])
    assert message == f"omni: no configuration {name} comes with omni: `omni configs` lists them"
