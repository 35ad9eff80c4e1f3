"""SIGINT and SIGTERM: a run saves a checkpoint and ends."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from omni.distributed import all_agree
from omni.training.trainer import accumulates, leaves_files, logs_now, run_folder, validates_next

_AGREE_EVERY = 50  # steps after which ranks agree whether to stop, if nothing is logged


class Stopped(Exception):
    """A signal has ended the run.

    Args:
        signum: The signal.
        step: Optimizer steps made before the checkpoint was saved; None without a checkpoint.
        path: The checkpoint.
    """

    def __init__(self, signum: int, step: int | None = None, path: Path | None = None) -> None:
        name = signal.Signals(signum).name
        if path is None:
            super().__init__(f"stopped by {name}")
        else:
            super().__init__(f"stopped at step {step} by {name}; resume with --ckpt_path {path}")
        self.exit_code = 128 + signum


class GracefulStop(Callback):
    """SIGINT (Ctrl-C) and SIGTERM end training after the current optimizer step, with `last.ckpt` saved.

    A second signal ends the run at once; outside of training the first one does. Several ranks stop together, after a
    logged step, whichever of them received the signal.
    """

    def __init__(self) -> None:
        self._signum: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Installs the signal handlers; Lightning restores the previous ones at the end."""
        self._signum = None
        _handle(self._remember)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is no step to wait for."""
        _handle(_stop_now)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Installs the signal handlers outside of training, where Lightning would not stop."""
        if trainer.state.fn != "fit":
            _handle(_stop_now)

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self._signum = signum
        _handle(_stop_now)
        rank_zero_info("\nstopping after this step; press Ctrl-C again to stop at once")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves and stops, unless gradients are being accumulated or validation follows."""
        if accumulates(trainer) or validates_next(trainer):
            return
        stop = self._signum is not None
        if trainer.world_size > 1:
            # A signal may reach the ranks at different steps. They agree where Lightning logs, and waits anyway.
            if not logs_now(trainer, otherwise=_AGREE_EVERY):
                return
            stop = not all_agree(not stop)
        if not stop:
            return
        signum = self._signum or signal.SIGTERM
        if not leaves_files(trainer):
            raise Stopped(signum)
        path = Path(run_folder(trainer)) / "last.ckpt"
        trainer.save_checkpoint(path)
        raise Stopped(signum, trainer.global_step, path)


def _handle(handler: Any) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, handler)


def _stop_now(signum: int, frame: FrameType | None) -> None:
    raise Stopped(signum)
