"""The folder of a run: which files in it are omni's own, and what becomes of those of an earlier run."""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from omni.checkpoints.checkpoint import Checkpoint
from omni.curves.csv_files import METRICS
from omni.errors import UserError
from omni.training.history import VALIDATIONS

MARKER = ".omni-run"  # in every folder that a run has written to
REPLACED = ("config.yaml", "hparams.yaml", "progress.json", VALIDATIONS, METRICS, "predictions.pt")
EVALUATED = ("hparams.yaml", "metrics.csv", "predictions.pt")  # the part of them that an evaluation replaces
ADDED = ("events.out.tfevents.*", "metrics.*.csv")  # files of other names in each run


def claim_folder(folder: Path, checkpoints: Iterable[str], *, evaluates: bool = False) -> None:
    """Marks the folder of a run as omni's, so that later runs may move and replace what runs write there.

    Args:
        folder: The folder; made if it is missing.
        checkpoints: File names of the run's checkpoints.
        evaluates: Whether the run only evaluates: it replaces fewer files. A folder with others of these names that
            are not omni's is used and not marked.

    Raises:
        UserError: If it holds files of these names that no run of omni wrote, or cannot be written to.
    """
    found = [name for name in (*checkpoints, *REPLACED) if (folder / name).exists()]
    foreign = [] if (folder / MARKER).exists() or _is_run(folder, checkpoints) else found
    replaced = [name for name in foreign if not evaluates or name in EVALUATED]
    if replaced:
        raise UserError(
            f"{folder} holds {', '.join(replaced)}, which no run of omni has written, and which this run would "
            "replace: name another folder (--trainer.logger.init_args.name, or --trainer.default_root_dir)"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not foreign and not (folder / MARKER).exists():
            (folder / MARKER).touch()
        if not evaluates:
            _remove_unfinished(folder, (*checkpoints, *REPLACED))
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}): name another folder") from error


def _remove_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Removes what a process that was killed while it wrote a file has left (see `omni.files.private`)."""
    unfinished = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[0-9a-f]{{32}}\.part")
    for path in folder.glob(".*.part"):
        if unfinished.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _is_run(folder: Path, checkpoints: Iterable[str]) -> bool:
    """Whether a folder without the marker holds a run of omni, from a version that wrote none."""
    with suppress(OSError, ValueError):
        progress = json.loads((folder / "progress.json").read_text("utf-8"))
        if isinstance(progress, dict) and progress.keys() >= {"step", "first_step", "finished"}:
            return True
    for name in checkpoints:
        with suppress(UserError):
            return bool(Checkpoint(folder / name).lineage)
    return False


class EarlierRun(Callback):
    """Moves the files of an earlier run to `earlier/1`, ... in its folder, and back if the new run fails early.

    A run that starts from scratch then neither overwrites earlier checkpoints nor mixes their curves with its own. Only
    files that runs write, known by name, are moved; the folder must be claimed, see `claim_folder`.

    Args:
        folder: The folder of the run.
        checkpoints: File names of the run's checkpoints.
    """

    def __init__(self, folder: Path, checkpoints: Iterable[str]) -> None:
        self.folder, self.names = folder, (*checkpoints, *REPLACED, *ADDED)
        self.target: Path | None = None
        curves = (*ADDED, METRICS)  # also of a run that was killed before its first checkpoint: they would be mixed
        if not any(next(folder.glob(name), None) for name in (*checkpoints, *curves)):
            return
        earlier = folder / "earlier"
        self.target = earlier / str(1 + max((int(p.name) for p in earlier.glob("*") if p.name.isdigit()), default=0))
        self.target.mkdir(parents=True)
        for path in self._files():
            path.rename(self.target / path.name)
        rank_zero_info(f"{folder} held an earlier run: moved to {self.target}. To resume a run: --ckpt_path last")

    def _files(self) -> list[Path]:
        return [path for name in self.names for path in self.folder.glob(name) if not path.is_dir()]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The new run has begun: the earlier one stays where it was moved to."""
        self.target = None

    def restore(self) -> None:
        """Moves the files back if no batch was trained on; those that the new run has written are deleted."""
        target, self.target = self.target, None
        if target is None:
            return
        for path in self._files():
            path.unlink()
        for path in target.iterdir():
            path.rename(self.folder / path.name)
        target.rmdir()
        with suppress(OSError):  # it holds others
            target.parent.rmdir()
        rank_zero_info(f"the earlier run is back in {self.folder}")
