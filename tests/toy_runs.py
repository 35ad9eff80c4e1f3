"""Helpers for tests of runs: curves, weights, and callbacks that disturb a run."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError

RUN = Path("lightning_logs/thinker")


def scalars(run: Path, tag: str) -> dict[int, float]:
    """A curve from TensorBoard's files; the later one of two values of a step, as after resuming, is kept."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def weights(path: Path) -> dict[str, torch.Tensor]:
    return Checkpoint(path).weights


def step_of(path: Path) -> int:
    """The step of a checkpoint that another process writes; 0 until it exists."""
    try:
        return Checkpoint(path).lineage["step"]
    except UserError:
        return 0


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def callback(path: str, **arguments: Any) -> str:
    """The command-line option that adds a callback."""
    return f"--trainer.callbacks+={json.dumps({'class_path': path, 'init_args': arguments})}"


class SignalAt(Callback):
    """Sends this process a signal in the middle of a training step."""

    def __init__(self, step: int, signum: int) -> None:
        self.step, self.signum = step, signum

    def on_before_zero_grad(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(self.signum)


class SignalTwice(SignalAt):
    """Sends the signal twice in one step, or once in prediction."""

    def on_before_zero_grad(self, trainer: Any, *args: Any) -> None:
        super().on_before_zero_grad(trainer)
        super().on_before_zero_grad(trainer)

    def on_predict_batch_start(self, *args: Any) -> None:
        signal.raise_signal(self.signum)


class KeepLast(Callback):
    """Copies `last.ckpt` at the start of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step - 1:
            shutil.copy(RUN / "last.ckpt", RUN / "kept.ckpt")
