"""Rebuilds an untrained part from its recipe: the class and the arguments that it was made with."""

import importlib
import os
import sys
from typing import Any

from omni.errors import UserError
from omni.models.part import Part
from omni.renamed import current_recipe

TRUSTED = "OMNI_TRUST"  # environment variable: packages whose parts checkpoints may name, separated by commas
_OWN = "omni.models."


def build(recipe: dict[str, Any]) -> Part:
    """Makes an untrained part from its recipe (see `Part.recipe`).

    Importing a module runs its code. A module that is not omni's is imported only if the user has named its package in
    the environment variable `OMNI_TRUST`; one that the program has imported already is used.

    Raises:
        UserError: If the recipe's class is not a `Part`, is not trusted, cannot be imported, or does not accept the
            arguments.
    """
    class_path, arguments = current_recipe(recipe)
    module, _, name = class_path.rpartition(".")
    _check_trust(module, class_path)
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"the checkpoint needs {class_path}, which cannot be imported: {error}") from error
    # Only parts: a checkpoint must not be able to call whatever else is installed.
    if not (isinstance(cls, type) and issubclass(cls, Part)):
        raise UserError(f"the checkpoint names {class_path} as a part, but it is not a Part of omni")
    try:
        return cls(**{name: _build_nested(value) for name, value in arguments.items()})
    except UserError:
        raise
    except TypeError as error:
        raise UserError(f"the checkpoint's {class_path} was written by another version of omni: {error}") from error
    except Exception as error:  # whatever a constructor meets in arguments that are damaged
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"the checkpoint's {class_path} cannot be built from its arguments: {reason}") from error


def is_own(recipe: Any) -> bool:
    """Whether a recipe, with those in its arguments, names only omni's parts that are not pretrained."""
    if isinstance(recipe, dict):
        path = recipe.get("class_path", _OWN)
        return path.startswith(_OWN) and "pretrained" not in path and all(map(is_own, recipe.values()))
    return all(map(is_own, recipe)) if isinstance(recipe, list) else True


def _check_trust(module: str, class_path: str) -> None:
    package = module.partition(".")[0]
    trusted = {each.strip() for each in os.environ.get(TRUSTED, "").split(",")} - {""}
    if not (module.startswith(_OWN) or module in sys.modules or package in trusted):
        raise UserError(
            f"the checkpoint needs {class_path}, whose code is not omni's: if you trust it, set {TRUSTED}={package}",
            page="trust.md",
        )


def _build_nested(value: Any) -> Any:
    if isinstance(value, list):
        return [_build_nested(item) for item in value]
    if isinstance(value, dict):
        return build(value) if "class_path" in value else {key: _build_nested(item) for key, item in value.items()}
    return value
