"""The fingerprint of a configuration: equal for two runs that train the same weights."""

import hashlib
import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonargparse import ArgumentParser, Namespace

_VERSION = 1  # increased where a default changes: runs with the earlier one are then out of date

# The keys that decide the weights, and those of `trainer` that do.
FINGERPRINTED = ("model", "data", "init_from", "seed_everything")
FINGERPRINTED_OF_TRAINER = (
    *("max_steps", "max_epochs", "max_time", "accumulate_grad_batches", "limit_train_batches", "overfit_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm"),
)


def config_fingerprint(config: Mapping[str, Any]) -> str:
    """A hash, in hex, of everything in a configuration that decides the weights, independent of paths and devices.

    Arguments that a stage, a data module or a part lists in `no_effect`, such as `num_workers`, are left out, and so
    are those with their default: a version of omni that adds an argument does not make finished runs out of date.

    Args:
        config: `model`, `data`, `init_from`, `seed_everything` and `trainer`.
    """
    trainer = [config["trainer"][key] for key in FINGERPRINTED_OF_TRAINER]
    content = _plain([_VERSION, *(config[key] for key in FINGERPRINTED), trainer])
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _plain(config: Any) -> Any:
    """A configuration as plain containers, without paths of its files, arguments of no effect, and defaults."""
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, Mapping):
        plain = {key: _plain(value) for key, value in sorted(config.items()) if key != "__path__"}
        if "class_path" in config:
            arguments = plain.get("init_args") or {}
            left_out = _without_effect(config["class_path"], arguments)
            kept = {key: each for key, each in arguments.items() if key not in left_out}
            plain["init_args"] = _without_defaults(kept, _defaults(config["class_path"]))
        return plain
    return [_plain(value) for value in config] if isinstance(config, list | tuple) else config


def _without_defaults(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ from the defaults; of values in groups, such as `augmentation`, likewise."""
    kept = {}
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict) and value.keys() == default.keys():
            value, default = _without_defaults(value, default), {}
        if key not in defaults or value != default:
            kept[key] = value
    return kept


@cache
def _defaults(class_path: str) -> Mapping[str, Any]:
    """The defaults of a class's arguments, as plain containers."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(_class(class_path), fail_untyped=False)
    return _plain(parser.get_defaults())


def _class(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _without_effect(class_path: str, arguments: Mapping[str, Any]) -> set[str]:
    """Names of the arguments of a class that have no effect on the weights."""
    kind = _class(class_path)
    names = {each for base in kind.__mro__ for each in vars(base).get("no_effect", ())}
    streams = getattr(kind, "only_of_streams", frozenset())
    return names - streams if arguments.get("streaming") else names | streams
