"""The resolved values of every shipped configuration, compared with earlier ones in `resolved_configs.jsonl`.

That file has one line for each configuration, with the names of when it was written; `renamed` replaces them by the
current ones. To change the values of a configuration, run `python tests/resolved.py`, which writes the lines with
current names, and empty `KEYS` and `CHANGED`.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from omni.renamed import MOVED, current_recipe
from omni.training.configuration import Configuration

CONFIGS = Path(__file__).parents[1] / "configs"
KEPT = Path(__file__).with_name("resolved_configs.jsonl")

# Old to new names of keys that are not arguments of a class with a class path; None: removed, and never set.
KEYS: dict[str, str | None] = {}

# Prefixes of keys whose values changed on purpose, by file.
CHANGED: dict[str, tuple[str, ...]] = {}

# Arguments of the trainer that omni's configurations set; all others are Lightning's, which differ by version.
TRAINER = {
    *("accelerator", "devices", "precision", "gradient_clip_val", "accumulate_grad_batches", "max_steps", "callbacks"),
    *("val_check_interval", "check_val_every_n_epoch", "log_every_n_steps", "num_sanity_val_steps", "logger"),
    *("use_distributed_sampler", "enable_model_summary"),
}


def stage_files() -> list[Path]:
    """The configurations of stages."""
    files = [
        path
        for path in sorted(CONFIGS.rglob("*.yaml"))
        if not {"models", "launch", "sweeps"} & set(path.relative_to(CONFIGS).parts)
    ]
    chains = ("chain", "language", "local", "medium", "small", "smoke", "speedrun", "voice")
    return [path for path in files if path.stem not in ("base", *chains)]


@cache
def resolve(path: Path) -> dict[str, Any]:
    """All values of a configuration, with the metric that its stage declares filled in."""
    configuration = Configuration(["--config", str(path)])
    config = _plain({key: configuration.config[key] for key in configuration.config.keys(branches=True, nested=False)})
    by_name = {(each["class_path"], each.get("init_args", {}).get("filename")): each
               for each in config["trainer"]["callbacks"]}  # fmt: skip
    for each in by_name.values():
        if each.get("init_args", {}).get("monitor") == "stage":
            with torch.device("meta"):
                each["init_args"]["monitor"], each["init_args"]["mode"] = configuration.make("model").monitor
    config["trainer"]["callbacks"] = list(by_name.values())
    return own(config)


def own(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the values that are Lightning's."""
    trainer = {key: value for key, value in config["trainer"].items() if key in TRAINER}
    arguments = trainer["logger"]["init_args"]
    trainer["logger"] = {
        **trainer["logger"],
        "init_args": {key: arguments[key] for key in ("save_dir", "name", "version")},
    }
    trainer["callbacks"] = [each if each["class_path"].startswith("omni.") else {"class_path": each["class_path"]}
                            for each in trainer["callbacks"]]  # fmt: skip
    return {**config, "trainer": trainer}


def renamed(value: Any) -> Any:
    """A part of a line with current names."""
    if isinstance(value, list):
        return [renamed(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    if isinstance(value.get("class_path"), str):
        module, _, name = value["class_path"].rpartition(".")
        class_path = MOVED.get(f"{module}.{name}", f"{MOVED.get(module, module)}.{name}")
        class_path, arguments = current_recipe({"class_path": class_path, "init_args": value.get("init_args", {})})
        return {"class_path": class_path, **({"init_args": renamed(arguments)} if "init_args" in value else {})}
    return {key: renamed(each) for key, each in value.items()}


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted keys; callbacks are keyed by class and file name, because their order does not matter."""
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from flat(each, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for each in value:
            name = each["class_path"].rpartition(".")[2]
            file = each.get("init_args", {}).get("filename", "")
            yield from flat(each, f"{key}.{name}{file and f'[{file}]'}")
    elif (today := KEYS.get(key, key)) is not None:
        yield today, value


def _plain(value: Any) -> Any:
    value = value.as_dict() if hasattr(value, "as_dict") else value
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items() if not key.startswith("__") and key != "config"}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    lines = [{"name": str(path.relative_to(CONFIGS)), **resolve(path)} for path in stage_files()]
    KEPT.write_text("".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines), encoding="utf-8")
