"""A configuration file that holds the differences from another one, its `base`, with a comment at each value."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from omni.errors import UserError
from omni.files import write_text
from omni.training.configuration import Configuration
from omni.training.shipped import BASE, CONFIGS, find_config, split_configs

HEADER = "# Written by `omni plan --suggest`."


def overlay(
    configuration: Configuration,
    argv: Sequence[str],
    changes: Mapping[str, tuple[Any, str]],
    file: Path,
) -> str:
    """The text of a configuration that changes another one.

    Args:
        configuration: The configuration without the changes.
        argv: Its arguments of `omni fit`: one `--config`, which becomes the base, and values, which are kept.
        changes: Value and comment by dotted key; a key that ends in `+` appends to a list.
        file: Where the text is going to be written: the base is named relative to it.

    Raises:
        UserError: If there is not exactly one `--config`, or it is `file`.
    """
    others, files = split_configs(argv)
    if len(files) != 1:
        raise UserError(f"--write: give one --config, which {file} will be based on, not {len(files)}")
    path = find_config(files[0])
    if path.resolve() == file.resolve():
        raise UserError(f"--write {file} is the configuration itself: name another file")
    tree: dict[str, Any] = {}
    if keys := _given(others):
        content = yaml.safe_load(configuration.parser.dump(configuration.config, skip_none=False, skip_validation=True))
        for key in keys:
            _put(tree, key, _at(content, key), "given on the command line")
    for key, (value, comment) in changes.items():
        _put(tree, key, value, comment)
    return "\n".join([f"{HEADER} omni fit --config {file}", f"{BASE}: {_base_name(path, file)}", *_lines(tree)]) + "\n"


def write_overlay(text: str, file: Path) -> None:
    """Writes an overlay; an earlier one is replaced.

    Raises:
        UserError: If the file exists and is not an overlay, or cannot be written.
    """
    try:
        if file.exists() and not file.read_text(encoding="utf-8").startswith(HEADER):
            raise UserError(f"--write {file} exists and was not written by omni plan: name another file")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise UserError(f"--write {file} cannot be written: {error.strerror}") from error


def _given(others: Sequence[str]) -> list[str]:
    """Keys of the values on a command line."""
    keys = [argument[2:].partition("=")[0].removesuffix("+") for argument in others if argument.startswith("--")]
    return list(dict.fromkeys(keys))


def _at(content: Mapping[str, Any], key: str) -> Any:
    value: Any = content
    for name in key.split("."):
        if name not in value and "init_args" in value:  # the key was given without `init_args`
            value = value["init_args"]
        value = value[name]
    return value


def _put(tree: dict[str, Any], key: str, value: Any, comment: str) -> None:
    """Puts a value with its comment into a tree of mappings; a value that is a mapping becomes a branch."""
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    whole = last.removesuffix("+")
    if whole != last and whole in tree:  # the whole list is written already
        last, value = whole, [*(tree[whole][0] or ()), *value]
    tree[last] = _branch(value, comment)


def _branch(value: Any, comment: str) -> Any:
    """A value with its comment; of a mapping, each of its values."""
    if isinstance(value, dict) and value:
        return {name: _branch(inner, comment) for name, inner in value.items()}
    return value, comment


def _base_name(path: Path, file: Path) -> str:
    if path.resolve().is_relative_to(CONFIGS.resolve()):
        return str(Path("configs") / path.resolve().relative_to(CONFIGS.resolve()))
    return os.path.relpath(path, file.parent)


def _lines(tree: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        else:
            plain, comment = value
            text = yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
            lines.append(f"{indent}{key}: {text}  # {comment}")
    return lines
