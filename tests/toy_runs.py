"""What tests of runs share: a run's curves and weights, and callbacks that disturb it."""

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
    """A curve from TensorBoard's files; where a run was resumed, the later value of a step counts."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def weights(path: Path) -> dict[str, torch.Tensor]:
    return Checkpoint(path).weights


def step_of(path: Path) -> int:
    """The step of a checkpoint that another process writes; 0 while it is not there, or just moved away."""
    try:
        return Checkpoint(path).lineage["step"]
    except UserError:
        return 0


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def callback(path: str, **arguments: Any) -> str:
    """The option that adds a callback."""
    return f"--trainer.callbacks+={json.dumps({'class_path': path, 'init_args': arguments})}"


class SignalAt(Callback):
    """Sends this process a signal in the middle of a training step."""

    def __init__(self, step: int, signum: int) -> None:
        self.step, self.signum = step, signum

    def on_before_zero_grad(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(self.signum)


class SignalTwice(SignalAt):
    """Sends it twice in one step, or where a batch is predicted once."""

    def on_before_zero_grad(self, trainer: Any, *args: Any) -> None:
        super().on_before_zero_grad(trainer)
        super().on_before_zero_grad(trainer)

    def on_predict_batch_start(self, *args: Any) -> None:
        signal.raise_signal(self.signum)


class KeepLast(Callback):
    """Copies `last.ckpt` as it is at the beginning of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step - 1:
            shutil.copy(RUN / "last.ckpt", RUN / "kept.ckpt")
