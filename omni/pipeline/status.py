"""The status of a stage, from the lineage in its checkpoints."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omni.checkpoints.checkpoint import Checkpoint, Lineage
from omni.errors import UserError
from omni.pipeline.definition import StageSpec


class StageStatus(NamedTuple):
    """The status of a stage before it is started.

    Attributes:
        state: `done`, `interrupted` (to be resumed) or `new` (to be trained from scratch).
        reason: Why it is trained from scratch although there was a run; empty if there was none.
        resume: The checkpoint to resume from, `last` or `best`.
    """

    state: Literal["done", "interrupted", "new"]
    reason: str = ""
    resume: str | None = None


def stage_status(stage: StageSpec) -> StageStatus:
    """Determines the status of a stage, once the stages that it needs are done.

    Raises:
        UserError: If its data cannot be read.
    """
    last, best = _lineage(stage.folder / "last.ckpt"), _lineage(stage.folder / "best.ckpt")
    if last is None:
        return StageStatus("new")
    if reason := _changed(stage, last):
        return StageStatus("new", reason)
    progress = read_progress(stage.folder)
    if progress.get("finished") and progress["step"] == last["step"]:
        return StageStatus("new", "its best.ckpt is missing") if best is None else StageStatus("done")
    if last["step"] != progress.get("steps"):
        return StageStatus("interrupted", resume="last")
    # Interrupted during the last validation, which a run resumed from `last` would not repeat.
    if best is None or best["step"] >= last["step"]:
        return StageStatus("new", "it was interrupted in its only validation")
    return StageStatus("interrupted", resume="best")


def read_progress(folder: Path) -> dict[str, Any]:
    """The progress of the run in a folder (see `omni.training.callbacks.Progress`); empty without a run."""
    try:
        return json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _changed(stage: StageSpec, lineage: Lineage) -> str:
    """What has changed since a stage was trained; empty if nothing has."""
    configuration = stage.configuration
    if lineage["config"] != configuration.fingerprint:
        return "its configuration has changed"
    for part, path in configuration.init_from.items():
        if lineage["ancestors"].get(part) != Checkpoint(path).lineage:
            return f"{part}, which it starts from, has changed"
    if lineage["data"] != configuration.data_fingerprint():
        return "its data has changed"
    return ""


def _lineage(path: Path) -> Lineage | None:
    """The lineage of a checkpoint; None if it is missing or damaged."""
    try:
        return Checkpoint(path).lineage
    except UserError:
        return None
