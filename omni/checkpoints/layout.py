"""The types of a checkpoint's entries, checked before they are used: a damaged one is refused by name."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from omni.errors import UserError

_Check = Callable[[Any], bool]


def check_layout(content: Mapping[str, Any], name: str) -> None:
    """Checks the entries of a checkpoint that are not of the run's state (see `omni.checkpoints.checkpoint`).

    Args:
        content: The entries.
        name: Name of the checkpoint, for errors.

    Raises:
        UserError: If one has another type.
    """
    for key, check in _ENTRIES.items():
        if content.get(key) is not None and not check(content[key]):
            raise UserError(f"checkpoint {name} is damaged: its entry {key!r} is not what omni writes there")


def _is(*kinds: type) -> _Check:
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _mapping(check: _Check) -> _Check:
    return lambda value: (
        isinstance(value, dict) and all(isinstance(key, str) and check(each) for key, each in value.items())
    )


def _with(**fields: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(check(value.get(name)) for name, check in fields.items())


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list | tuple) and all(map(check, value))


def _is_recipe(value: Any) -> bool:
    return _with(class_path=_is(str), init_args=_mapping(_is_argument))(value)


def _is_argument(value: Any) -> bool:
    """Whether a value may be an argument of a part: recipes may be anywhere in it."""
    if isinstance(value, dict):
        return _is_recipe(value) if "class_path" in value else all(map(_is_argument, value.values()))
    return all(map(_is_argument, value)) if isinstance(value, list | tuple) else True


def is_lineage(value: Any) -> bool:
    """Whether a value is a whole `Lineage`."""
    return _with(**_LINEAGE)(value)


def _is_part_of_lineage(value: Any) -> bool:
    """Whether a value is a `Lineage`, some of whose keys may be missing."""
    return isinstance(value, dict) and all(check(value[key]) for key, check in _LINEAGE.items() if key in value)


_LINEAGE: dict[str, _Check] = {
    **dict.fromkeys(("stage", "config", "data", "tokenizer"), _is(str)),
    "step": _is(int),
    "ancestors": _mapping(is_lineage),
}


def _is_source(value: Any) -> bool:
    return isinstance(value, dict) and (not value or isinstance(value.get("class"), str))


_TOKENIZER = _mapping(lambda value: value is None or isinstance(value, str | bytes | dict))
_NUMBER = _is(int, float)
_ENTRIES: dict[str, _Check] = {
    "state_dict": _mapping(_is(Tensor)),
    "parts": _mapping(_is_recipe),
    "lineage": _is_part_of_lineage,
    "tokenizer": _TOKENIZER,
    "units": _TOKENIZER,
    "thinker_tokenizer": _TOKENIZER,
    "metrics": _mapping(_NUMBER),
    "origins": _mapping(_with(source=_is(str), fingerprint=_is(str))),
    "audio": _mapping(_NUMBER),
    "context": _is(int),
    "answer_tokens": _is(int),
    "template": _is(str),
    "speakers": _list_of(_is(str)),
    "images": lambda value: isinstance(value, dict) and isinstance(value.get("size", 1), int),
    "dictation": _with(instructions=_list_of(_is(str))),
    "card": _with(data=_is_source, metrics=_mapping(_with(step=_is(int), value=_NUMBER))),
}
