"""The configurations that come with omni: `configs/` of the repository, or its copy in an installed package."""

from collections.abc import Sequence
from pathlib import Path

_PACKAGED = Path(__file__).parents[1] / "configs"  # the wheel puts them there; a checkout has none
CONFIGS = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "configs"


def find_config(path: str | Path) -> Path:
    """The local file of that name, or else the shipped configuration, with or without `configs/` before its name."""
    path = Path(path)
    if path.is_file() or path.is_absolute():
        return path
    name = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    return CONFIGS / name if name.parts and (CONFIGS / name).is_file() else path


def find_configs(argv: Sequence[str]) -> list[str]:
    """Arguments of a command, each `--config` (or `-c`) as `find_config` finds it."""
    found: list[str] = []
    for number, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if equals and name in _OPTIONS:
            found.append(f"{name}={find_config(value)}")
        elif number and argv[number - 1] in _OPTIONS:
            found.append(str(find_config(argument)))
        else:
            found.append(argument)
    return found


_OPTIONS = ("--config", "-c")
