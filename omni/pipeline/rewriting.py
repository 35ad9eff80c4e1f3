"""A pipeline's YAML file with other configurations."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import yaml

from omni.training.shipped import find_config


def with_configs(path: Path, files: Mapping[str, Path], keys: Mapping[str, Collection[str]], target: Path) -> str:
    """The text of a pipeline whose stages take other configurations.

    Args:
        path: The pipeline, which has been read before.
        files: New configuration by stage; the other stages keep theirs.
        keys: Keys that each of these sets itself: they are left out of the stage's `overrides`.
        target: Where the text is going to be written: configurations are named relative to it.
    """
    path = find_config(path)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, entry in content["stages"].items():
        named = [entry["config"]] if isinstance(entry["config"], str) else entry["config"]
        kept = [path.parent / each if (path.parent / each).is_file() else find_config(each) for each in named]
        chosen = [files[name]] if name in files else kept
        relative = [os.path.relpath(file.resolve(), target.parent.resolve()) for file in chosen]
        entry["config"] = relative[0] if len(relative) == 1 else relative
        set_here = set(keys.get(name, ()))
        entry["overrides"] = {
            key: value for key, value in (entry.get("overrides") or {}).items() if key not in set_here
        }
        if not entry["overrides"]:
            del entry["overrides"]
    return yaml.dump(content, Dumper=_PlainDumper, sort_keys=False, width=120)


class _PlainDumper(yaml.SafeDumper):
    """Writes values that several stages share at each of them, without anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True
