"""Curves of a run that was killed and resumed, without gaps and without points that were logged twice."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from omni.curves.event_files import read_curves
from omni.training.trainer import leaves_files, logs_now, run_folder


class SeamlessCurves(Callback):
    """Makes the curves of a resumed run those of a run that was never killed.

    - Loggers keep points in memory, TensorBoard's for two minutes: they are written before a checkpoint is.
    - Lightning logs a step's metrics after the callbacks that save it. The checkpoint holds them, and a resumed run
      logs those that are not on the disk.
    - Points that were logged after the checkpoint are logged again: TensorBoard's file marks the old ones as discarded.
    """

    def __init__(self) -> None:
        self._unlogged: dict[str, Any] = {}
        self._resumes = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Writes the points to the disk, and adds those of this step to the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
            else:
                logger.save()
        if "callbacks" in checkpoint and trainer.training and logs_now(trainer):
            metrics = trainer._logger_connector.metrics["log"]
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            numbers = {name: float(value) for name, value in metrics.items()} | {"epoch": float(trainer.current_epoch)}
            checkpoint["callbacks"][self.state_key] = {"step": step, "metrics": numbers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._unlogged = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the points of the checkpoint that the killed process did not write."""
        self._resumes = trainer.global_step > 0 and leaves_files(trainer)
        unlogged, self._unlogged = self._unlogged, {}
        if not (self._resumes and unlogged and trainer.loggers and trainer.is_global_zero):
            return
        step, there = unlogged["step"], read_curves(Path(run_folder(trainer)))
        missing = {name: value for name, value in unlogged["metrics"].items() if step not in there.get(name, {})}
        for logger in trainer.loggers if missing else ():
            logger.log_metrics(missing, step=step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Marks what the killed process logged from this step on as discarded, once."""
        if not self._resumes:
            return
        self._resumes = False
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        start = Event(session_log=SessionLog(status=SessionLog.START))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment._get_file_writer().add_event(start, trainer.fit_loop.epoch_loop._batches_that_stepped)
