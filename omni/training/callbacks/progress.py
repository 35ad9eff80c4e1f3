"""Progress of a run: `progress.json` for `omni train`, and the progress bar."""

import json
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from omni.files import atomic_write
from omni.training.trainer import logs_now, run_folder


class Progress(Callback):
    """Writes the progress of training and the latest metrics to `progress.json` in the run's folder.

    It holds `step`, `steps` (where training ends; null if unknown), `first_step` (at which this process started),
    `seconds` (since then), `finished` and `metrics`. `omni train` reads it.

    Args:
        seconds: Least time between two writes during training.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self._folder = ""
        self._steps: float = 0
        self._started, self._written, self._first_step = 0.0, 0.0, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = run_folder(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._first_step = time.monotonic(), trainer.global_step
        self._steps = trainer.estimated_stepping_batches
        self._write(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes where Lightning reads metrics anyway, to avoid a further wait for the device."""
        if logs_now(trainer):
            self._write(trainer, at_least=self.seconds)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, finished=True)

    def _write(self, trainer: Trainer, *, finished: bool = False, at_least: float = 0.0) -> None:
        metrics = trainer.callback_metrics  # on every rank and before the clock is read: it may reduce over ranks
        if not trainer.is_global_zero or time.monotonic() - self._written < at_least:
            return
        self._written = time.monotonic()
        content = {
            "step": trainer.global_step,
            "steps": int(self._steps) if self._steps < float("inf") else None,
            "first_step": self._first_step,
            "seconds": round(self._written - self._started, 1),
            "finished": finished,
            "metrics": {name: float(value) for name, value in metrics.items()},
        }
        with atomic_write(Path(self._folder) / "progress.json", sync=False) as file:
            file.write(json.dumps(content, indent=1).encode())


class StepBar(TQDMProgressBar):
    """Lightning's progress bar with the right total where an optimizer step takes several batches."""

    @property
    def total_train_batches(self) -> int | float:
        """Batches of this epoch that are trained on; Lightning counts the remaining optimizer steps instead."""
        trainer = self.trainer
        left = trainer.max_steps - trainer.global_step if trainer.max_steps > 0 else float("inf")
        return min(trainer.num_training_batches, left * trainer.accumulate_grad_batches)
