"""Configuration files: where `--config` finds them, and the base file that one names by its key `base`.

Shipped ones lie in `configs/` of the repository, or in its copy in an installed package.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from omni.errors import UserError, is_deep, yaml_faults

_PACKAGED = Path(__file__).resolve().parents[1] / "configs"  # the wheel puts them there; a checkout has none
CONFIGS = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "configs"
BASE = "base"  # the key
_OPTIONS = ("--config", "-c")
_PART = re.compile(r"(configs/)?models/\S+\.yaml$")


def find_config(path: str | Path) -> Path:
    """The local file of that name, or else the shipped configuration, with or without `configs/` before its name."""
    path = Path(path)
    return path if path.is_file() or path.is_absolute() else _shipped(path) or path


def find_configs(argv: Sequence[str]) -> list[str]:
    """Arguments of a command with the path of every `--config` (or `-c`), each after its base files.

    `--config world/omni.yaml`, whose key `base` is `../omni.yaml`, becomes `--config omni.yaml --config
    world/omni.yaml`. A base that was given before is not repeated. Shipped parts, such as
    `--model.init_args.thinker models/small/thinker.yaml`, are found likewise.

    Raises:
        UserError: If a file is not valid YAML, a base does not exist, or files are based on each other.
    """
    found: list[str] = []
    given: set[Path] = set()
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in _OPTIONS or (not equals and (value := next(arguments, "")) == ""):
            found.append(f"{name}={_find_part(value)}" if equals else _find_part(argument))
            continue
        *bases, path = _with_bases(find_config(value))
        new = [base for base in bases if base.resolve() not in given]
        given |= {each.resolve() for each in (*new, path)}
        for each in (*new, path):
            found += [f"{name}={each}"] if equals else [name, str(each)]
    return found


def split_configs(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments of a command without every `--config`, and the paths that these give."""
    others: list[str] = []
    files: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in _OPTIONS:
            others.append(argument)
        else:
            files.append(value if equals else next(arguments, ""))
    return others, files


def without_base(content: str) -> str:
    """A configuration's YAML without its key `base`."""
    try:
        loaded = _load(content)
    except yaml_faults():
        return content  # which the parser refuses
    if BASE not in loaded:
        return content
    return yaml.safe_dump({key: value for key, value in loaded.items() if key != BASE}, sort_keys=False)


def _find_part(value: str) -> str:
    """The path of a part's file, if a value is the name of a shipped one; any other value as it is."""
    return str(find_config(value)) if _PART.match(value) else value


def _with_bases(path: Path) -> list[Path]:
    """A file and its chain of base files, the innermost first."""
    chain = [path]
    while (base := _base(chain[0])) is not None:
        if base.resolve() in {each.resolve() for each in chain}:
            loop = " -> ".join(map(str, (*reversed(chain), base)))
            raise UserError(f"{path}: configurations are based on each other: {loop}; remove one `{BASE}`")
        chain.insert(0, base)
    return chain


def _base(path: Path) -> Path | None:
    if not path.is_file():
        return None
    try:
        content = _load(path.read_text(encoding="utf-8"))
    except yaml_faults() as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if is_deep(content):
        raise UserError(f"{path}: its values are nested too deeply")
    name = content.get(BASE)
    if name is None:
        return None
    if not isinstance(name, str):
        raise UserError(f"{path}: {BASE} is {name!r}: give the name of one configuration file")
    beside = Path(os.path.normpath(path.parent / name))
    base = beside if beside.is_file() else _shipped(Path(name))
    if base is None:
        raise UserError(f"{path}: {BASE} is {name}, but neither {beside} nor a shipped configuration {name} exists")
    return base


def _shipped(path: Path) -> Path | None:
    name = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    return CONFIGS / name if name.parts and (CONFIGS / name).is_file() else None


def _load(content: str) -> dict[Any, Any]:
    loaded = yaml.safe_load(content)
    return loaded if isinstance(loaded, dict) else {}  # the parser refuses anything else
