"""Rebuilds an untrained part from its recipe: the class and the arguments that it was made with."""

import importlib
from typing import Any

from omni.errors import UserError
from omni.models.part import Part
from omni.renamed import current_recipe


def build(recipe: dict[str, Any]) -> Part:
    """Makes an untrained part from its recipe (see `Part.recipe`).

    Raises:
        UserError: If the recipe's class is not a `Part`, cannot be imported, or does not accept the arguments.
    """
    class_path, arguments = current_recipe(recipe)
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"the checkpoint needs {class_path}, which cannot be imported: {error}") from error
    # Only parts: a checkpoint must not be able to call whatever else is installed.
    if not (isinstance(cls, type) and issubclass(cls, Part)):
        raise UserError(f"the checkpoint names {class_path} as a part, but it is not a Part of omni")
    try:
        return cls(**{name: _build_nested(value) for name, value in arguments.items()})
    except TypeError as error:
        raise UserError(f"the checkpoint's {class_path} was written by another version of omni: {error}") from error


def _build_nested(value: Any) -> Any:
    if isinstance(value, list):
        return [_build_nested(item) for item in value]
    if isinstance(value, dict):
        return build(value) if "class_path" in value else {key: _build_nested(item) for key, item in value.items()}
    return value
