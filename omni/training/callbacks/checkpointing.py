"""Checkpoints: when they are saved and how they are written."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from omni.checkpoints.safetensors_folder import is_folder, read_folder
from omni.errors import UserError
from omni.files import atomic_write
from omni.training.trainer import run_folder, validates_next


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint only once the new one is complete.

    A kill or a full disk at any moment leaves the previous file intact. (Lightning's own transaction goes through the
    system's temporary folder; moving from there to another disk is a copy, which can be interrupted.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        try:
            with atomic_write(Path(path)) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # PyTorch's writer reports a full disk as RuntimeError
            raise UserError(
                f"checkpoint {path} could not be written ({error}); the previous one is unchanged"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a `.ckpt` file, or a folder written by `omni hub pull`, onto the CPU.

        Lightning copies weights and optimizer states to each rank's device afterwards.
        """
        if is_folder(Path(path)):
            return read_folder(Path(path))
        return super().load_checkpoint(path, map_location, weights_only=True)  # runs no code from the file


class StageCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that writes into the run's folder, beside its logs.

    Args:
        filename: Name without suffix: `best` or `last`.
        monitor: Metric that decides which checkpoint is kept: its name, or `stage` for the one that the stage declares
            (`Stage.monitor`). None keeps the newest.
        mode: Whether lower (`min`) or higher (`max`) is better; declared by the stage, too, with `monitor: stage`.
        every_n_train_steps: Optimizer steps between checkpoints; 0 saves after each validation instead.
    """

    def __init__(
        self, filename: str, *, monitor: str | None = None, mode: str = "min", every_n_train_steps: int = 0
    ) -> None:
        super().__init__(
            filename=filename,
            monitor=monitor,
            mode=mode,
            every_n_train_steps=every_n_train_steps or None,
            enable_version_counter=False,
            save_on_train_epoch_end=False,  # Lightning regroups accumulated batches when it resumes from there
            auto_insert_metric_name=False,
        )
        self._save_after_validation = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sets `dirpath` to the run's folder."""
        self.dirpath = str(run_folder(trainer))
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves now, or after the validation that follows, so that a resumed run does not miss its result."""
        self._save_after_validation = self.monitor is None and validates_next(trainer)
        if not self._save_after_validation:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the deferred checkpoint."""
        if self._save_after_validation:
            self._save_after_validation = False
            super().on_train_batch_end(trainer, pl_module, {}, None, 0)
        super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the final step too, where it is not a multiple of `every_n_train_steps`."""
        super().on_train_end(trainer, pl_module)
        if self.monitor is None and not self._should_skip_saving_checkpoint(trainer):  # already saved, fast_dev_run
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))
