"""Small worlds on disk: written by the function of `omni data world`, and read back."""

import json
from pathlib import Path
from typing import Any

from omni.commands import data_world
from omni.synthetic.world import WorldSizes


def write(out: Path, *, seed: int = 0, **sizes: int) -> None:
    """`omni data world` with these sizes."""
    data_world.write(out, sizes=WorldSizes(**sizes), seed=seed)


def tree(folder: Path) -> dict[str, bytes]:
    """The content of all files in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a manifest."""
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
