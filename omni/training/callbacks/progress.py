"""Progress of a run: `progress.json` and `validations.jsonl` for other commands, and the progress bar."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from omni.files import atomic_write, write_text
from omni.training.history import VALIDATIONS, read_validations
from omni.training.trainer import leaves_files, logs_now, run_folder


class Progress(Callback):
    """Writes the progress of training and its metrics into the run's folder.

    `progress.json` holds `step`, `steps` (where training ends; null if unknown), `first_step` (at which this process
    started), `seconds` (since then), `finished` and the latest `metrics`. `validations.jsonl` holds `step` and
    `metrics` of every validation; a resumed run removes those after the step from which it resumes, and makes them
    again. `omni train` and `omni sweep` read both.

    Args:
        seconds: Least time between two writes during training.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self._folder, self._writes = "", True
        self._steps: float = 0
        self._started, self._written, self._first_step = 0.0, 0.0, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = run_folder(trainer)
        self._writes = trainer.is_global_zero and leaves_files(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._first_step = time.monotonic(), trainer.global_step
        self._steps = trainer.estimated_stepping_batches
        if self._writes:
            kept = [each for each in read_validations(Path(self._folder)) if each["step"] <= trainer.global_step]
            write_text(Path(self._folder) / VALIDATIONS, "".join(map(_line, kept if trainer.global_step else ())))
        self._write(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes where Lightning reads metrics anyway, to avoid a further wait for the device."""
        if logs_now(trainer):
            self._write(trainer, at_least=self.seconds)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._write(trainer)
        record = {"step": trainer.global_step, "metrics": _numbers(trainer.callback_metrics)}
        if self._writes:
            with (Path(self._folder) / VALIDATIONS).open("a", encoding="utf-8") as file:
                file.write(_line(record))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, finished=True)

    def _write(self, trainer: Trainer, *, finished: bool = False, at_least: float = 0.0) -> None:
        metrics = trainer.callback_metrics  # on every rank and before the clock is read: it may reduce over ranks
        if not self._writes or time.monotonic() - self._written < at_least:
            return
        self._written = time.monotonic()
        content = {
            "step": trainer.global_step,
            "steps": int(self._steps) if self._steps < float("inf") else None,
            "first_step": self._first_step,
            "seconds": round(self._written - self._started, 1),
            "finished": finished,
            "metrics": _numbers(metrics),
        }
        with atomic_write(Path(self._folder) / "progress.json", sync=False) as file:
            file.write(json.dumps(content, indent=1).encode())


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"


class StepBar(TQDMProgressBar):
    """Lightning's progress bar with the right total where an optimizer step takes several batches."""

    @property
    def total_train_batches(self) -> int | float:
        """Batches of this epoch that are trained on; Lightning counts the remaining optimizer steps instead."""
        trainer = self.trainer
        left = trainer.max_steps - trainer.global_step if trainer.max_steps > 0 else float("inf")
        return min(trainer.num_training_batches, left * trainer.accumulate_grad_batches)
