"""A pre-flight: what a run needs, checked in seconds, in a temporary folder."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer

from omni.checkpoints.checkpoint import Checkpoint
from omni.data.loading.statistics import DataStatistics
from omni.errors import UserError, one_line
from omni.training.configuration import Configuration, muted_logs, options_of
from omni.training.lightning_cli import run
from omni.training.loggers_reachable import unreachable
from omni.training.memory import format_size
from omni.training.memory_plan import Plan, plan_of
from omni.training.process_memory import free_bytes, process_bytes, resident_bytes

_STEPS = 3  # of a run; the checkpoint of the one before is resumed


class Check(NamedTuple):
    """The result of a check.

    Attributes:
        name: What was checked.
        passed: Whether it is as a run needs it.
        reason: What was found, in a line.
    """

    name: str
    passed: bool
    reason: str


class SaveSteps(Callback):
    """Writes the checkpoints of the last two steps of a pre-flight: `2.ckpt`, `3.ckpt`.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves as `ModelCheckpoint` does."""
        if trainer.global_step >= _STEPS - 1:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def preflight(configuration: Configuration, *, gpu_memory: int | None = None) -> Iterator[Check]:
    """Checks data, disk, memory and loggers, then trains, evaluates and resumes for a few batches.

    The steps run in a temporary folder, without accumulation and with a logger of their own: the folder of the run is
    not touched. The data module may fill its cache, as in training.

    Args:
        configuration: The configuration of a stage.
        gpu_memory: Bytes of the device's memory; None: what is free here.

    Yields:
        Each check as it is done. Those that need the data are left out if it cannot be read.
    """
    plan, resident = plan_of(configuration), resident_bytes()
    counted: list[DataStatistics] = []
    data = _attempt("data", lambda: _data(configuration, counted))
    yield data
    yield _attempt("disk", lambda: _disk(configuration, plan))
    in_memory = counted[0].memory if counted else 0
    process = process_bytes(plan, in_memory, resident=resident)
    yield _attempt("memory", lambda: _memory(configuration, plan.per_device, process, gpu_memory))
    yield _attempt("loggers", lambda: _loggers(configuration))
    if not data.passed:
        return
    with TemporaryDirectory(prefix="omni-preflight-") as folder:
        first = _attempt("train, evaluate", lambda: _train(configuration, Path(folder)))
        yield first
        if first.passed:
            yield _attempt("resume", lambda: _resume(configuration, Path(folder)))


def _attempt(name: str, check: Any) -> Check:
    """The result of a function that returns what it found, or raises what is wrong."""
    try:
        logging.disable(logging.WARNING)  # what a run prints about its settings
        with muted_logs():
            return Check(name, True, check())
    except UserError as error:
        return Check(name, False, str(error))
    except Exception as error:  # a run would end with this traceback: here it is one of several results
        if os.environ.get("JSONARGPARSE_DEBUG"):
            raise
        return Check(name, False, f"{type(error).__name__}: {one_line(error)}")
    finally:
        logging.disable(logging.NOTSET)


def _data(configuration: Configuration, counted: list[DataStatistics]) -> str:
    data = configuration.configured_data()
    if not hasattr(data, "statistics"):
        data.prepare_data()
        data.setup("fit")
        return f"{type(data).__name__} is set up"
    counted.append(data.statistics())
    return "; ".join(f"{split}: {text}" for split, text in counted[0].described().items())


def _disk(configuration: Configuration, plan: Plan) -> str:
    callbacks = configuration.get("trainer.callbacks") or []
    kept = sum(each["class_path"].endswith("Checkpoint") for each in callbacks)
    folder = _existing(configuration.folder)
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written: set trainer.logger.init_args.save_dir to another folder")
    free, size = shutil.disk_usage(folder).free, plan.weights + plan.optimizer_state
    need = (kept + 1) * size
    text = f"{kept} checkpoints of {format_size(size)}, and one while it is written, of {format_size(free)} free"
    if need > free:
        raise UserError(f"{folder}: {text}: make room, or set trainer.logger.init_args.save_dir to another disk")
    return text


def _memory(configuration: Configuration, on_device: int, process: int, gpu_memory: int | None) -> str:
    on_gpu = configuration.get("trainer.accelerator") != "cpu" and torch.cuda.is_available()
    if gpu_memory is None and not on_gpu:
        need, room, where = process, free_bytes(), "of this machine"
    else:
        need, where = on_device, "of the GPU"
        room = torch.cuda.mem_get_info()[0] if gpu_memory is None else gpu_memory
    text = f"training takes about {format_size(need)} of {format_size(room)} {where}"
    if need > room:
        raise UserError(f"{text}: `omni plan --suggest --gpu_memory` finds a batch that fits")
    return text


def _loggers(configuration: Configuration) -> str:
    given = configuration.get("trainer.logger")
    loggers = [each for each in (given if isinstance(given, list) else [given]) if not isinstance(each, bool | None)]
    for logger in loggers:
        if problem := unreachable(logger["class_path"], dict(logger.get("init_args") or {})):
            raise UserError(f"trainer.logger: {problem}")
    return ", ".join(each["class_path"].rpartition(".")[2] for each in loggers) or "none"


def _train(configuration: Configuration, folder: Path) -> str:
    trainer = _run(configuration, folder / "first")
    values = trainer.callback_metrics
    metrics = ", ".join(f"{name} {float(values[name]):.4g}" for name in ("train/loss", "val/loss") if name in values)
    if not torch.isfinite(values["train/loss"]):
        raise UserError(f"the loss is not finite after {_STEPS} steps: {metrics}")
    return f"{_STEPS} training and {trainer.num_val_batches[0]} validation batches: {metrics}"


def _resume(configuration: Configuration, folder: Path) -> str:
    before = folder / "first" / f"{_STEPS - 1}.ckpt"
    trainer = _run(configuration, folder / "second", ckpt_path=str(before))
    if trainer.global_step != _STEPS:
        raise UserError(f"resumed at step {_STEPS - 1}, but {trainer.global_step} steps were made in the end")
    whole, resumed = (Checkpoint(folder / name / f"{_STEPS}.ckpt").weights for name in ("first", "second"))
    worst = max(whole, key=lambda name: _difference(whole[name], resumed[name]))
    if (largest := _difference(whole[worst], resumed[worst])) == 0:
        return f"saved at step {_STEPS - 1}, resumed: step {_STEPS} is the same, bit for bit"
    close = trainer.strategy.root_device.type != "cpu" and largest <= 1e-3 * float(whole[worst].float().abs().max())
    text = f"saved at step {_STEPS - 1}, resumed: {worst} differs by {largest:.1g} at step {_STEPS}"
    if not close:
        raise UserError(f"{text}: a callback or a class of your own may keep a state that checkpoints lack")
    return f"{text}, as sums on a GPU do"


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0


def _run(configuration: Configuration, folder: Path, *, ckpt_path: str | None = None) -> Trainer:
    """A few steps in a folder, and its trainer."""
    folder.mkdir()
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": str(folder), "name": "run", "version": ""},
    }
    callback = {"class_path": "omni.training.preflight.SaveSteps", "init_args": {"folder": str(folder)}}
    values = {
        "trainer.max_steps": _STEPS,
        "trainer.max_epochs": None,
        "trainer.max_time": None,
        "trainer.accumulate_grad_batches": 1,
        "trainer.val_check_interval": _STEPS,
        "trainer.check_val_every_n_epoch": None,
        "trainer.limit_val_batches": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": False,
        "trainer.default_root_dir": str(folder),
        "trainer.logger": logger,
        "trainer.callbacks+": callback,
        "ckpt_path": ckpt_path,
    }
    return run(["fit", *configuration.fit_arguments, *options_of(values)]).trainer


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.is_dir())
