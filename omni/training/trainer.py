"""Questions about a running Lightning Trainer."""

from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def run_folder(trainer: Trainer) -> str:
    """The folder that a run writes to: that of its TensorBoardLogger or CSVLogger, or else `default_root_dir`."""
    loggers = (logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger | CSVLogger))
    return next((logger.log_dir for logger in loggers), trainer.default_root_dir)


def leaves_files(trainer: Trainer) -> bool:
    """Whether a run writes into its folder: not with `fast_dev_run`, nor with `barebones`, which measures the speed."""
    return not (trainer.fast_dev_run or trainer.barebones)  # pyright: ignore[reportAttributeAccessIssue]


def logs_now(trainer: Trainer, *, otherwise: int = 0) -> bool:
    """Whether the batch that has just ended completes an optimizer step at which Lightning logs.

    Args:
        trainer: The trainer.
        otherwise: Steps between two that count where nothing is logged (`log_every_n_steps: 0`); 0: none does.
    """
    interval = int(getattr(trainer, "log_every_n_steps")) or otherwise  # noqa: B009  unknown to pyright
    return interval > 0 and trainer.global_step % interval == 0 and not accumulates(trainer)


def accumulates(trainer: Trainer) -> bool:
    """Whether the batch that has just ended leaves its gradients for the next one."""
    return trainer.fit_loop._should_accumulate()


def validates_next(trainer: Trainer) -> bool:
    """Whether validation follows the batch that has just ended."""
    fetcher: Any = trainer.fit_loop._data_fetcher
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
