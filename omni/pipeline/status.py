"""Where a stage stands, by what its checkpoints say of where they come from."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omni.checkpoints.checkpoint import Checkpoint, Lineage
from omni.errors import UserError
from omni.pipeline.definition import StageSpec


class StageStatus(NamedTuple):
    """Where a stage stands.

    Attributes:
        state: `done`; `cut`: it is to be gone on with; or `new`: it is to be begun.
        reason: Why it is to be begun although there was a run; empty where there was none.
        resume: The checkpoint to go on from: `last` or `best`.
    """

    state: Literal["done", "cut", "new"]
    reason: str = ""
    resume: str | None = None


def standing(link: StageSpec) -> StageStatus:
    """Finds out where a stage stands. What it begins with must be there, as after the stages that it needs.

    Raises:
        UserError: If its data cannot be read.
    """
    folder = link.folder
    try:
        lineage = Checkpoint(folder / "last.ckpt").lineage
    except UserError:
        return StageStatus("new")
    if reason := _changed(link, lineage):
        return StageStatus("new", reason)
    progress = read_progress(folder)
    if progress.get("finished") and progress["step"] == lineage["step"]:
        return StageStatus("done") if (folder / "best.ckpt").is_file() else StageStatus("new", "its best.ckpt is gone")
    if lineage["step"] == progress.get("steps"):  # cut in its last validation: that is made up for from the one before
        best = _step(folder / "best.ckpt")
        same = best is not None and best < lineage["step"]
        return StageStatus("cut", resume="best") if same else StageStatus("new", "it was cut in its only validation")
    return StageStatus("cut", resume="last")


def read_progress(folder: Path) -> dict[str, Any]:
    """The progress that the run in a folder reports (see `omni.training.callbacks.Progress`); empty without one."""
    try:
        return json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _changed(link: StageSpec, lineage: Lineage) -> str:
    """What of a stage is no longer as it was for its checkpoint; empty if nothing."""
    configuration = link.configuration
    if lineage["config"] != configuration.fingerprint:
        return "its configuration has changed"
    for part, path in configuration.init_from.items():
        if lineage["ancestors"].get(part) != Checkpoint(path).lineage:
            return f"{part}, which it begins with, has changed"
    if lineage["data"] != configuration.data_fingerprint():
        return "its data has changed"
    return ""


def _step(path: Path) -> int | None:
    try:
        return Checkpoint(path).lineage["step"]
    except UserError:
        return None
