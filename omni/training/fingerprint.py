"""The fingerprint of a configuration: equal for two runs that train the same weights."""

import hashlib
import importlib
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

# The keys that decide the weights, and those of `trainer` that do.
FINGERPRINTED = ("model", "data", "init_from", "seed_everything")
FINGERPRINTED_OF_TRAINER = (
    *("max_steps", "max_epochs", "max_time", "accumulate_grad_batches", "limit_train_batches", "overfit_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm"),
)


def config_fingerprint(config: Mapping[str, Any]) -> str:
    """A hash, in hex, of everything in a configuration that decides the weights, independent of paths and devices.

    Arguments that a stage, a data module or a part lists in `no_effect`, such as `num_workers`, are left out.

    Args:
        config: `model`, `data`, `init_from`, `seed_everything` and `trainer`.
    """
    trainer = [config["trainer"][key] for key in FINGERPRINTED_OF_TRAINER]
    content = _plain([*(config[key] for key in FINGERPRINTED), trainer])
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _plain(config: Any) -> Any:
    """A configuration as plain containers, without the paths of its files and without arguments of no effect."""
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, Mapping):
        if "class_path" in config:
            arguments = config.get("init_args") or {}
            arguments = vars(arguments) if isinstance(arguments, Namespace) else arguments
            left_out = _without_effect(config["class_path"], arguments)
            config = {**config, "init_args": {key: each for key, each in arguments.items() if key not in left_out}}
        return {key: _plain(value) for key, value in sorted(config.items()) if key != "__path__"}
    return [_plain(value) for value in config] if isinstance(config, list | tuple) else config


def _without_effect(class_path: str, arguments: Mapping[str, Any]) -> set[str]:
    """Names of the arguments of a class that have no effect on the weights."""
    module, _, name = class_path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    names = {each for base in kind.__mro__ for each in vars(base).get("no_effect", ())}
    streams = getattr(kind, "only_of_streams", frozenset())
    return names - streams if arguments.get("streaming") else names | streams
