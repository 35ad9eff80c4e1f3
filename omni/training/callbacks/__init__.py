"""Callbacks, those of every run (see `configs/base.yaml`) among them, under the paths that configurations name.

A run's `config.yaml` holds these paths, so that moving a class between the files of this package leaves it valid.
"""

from omni.training.callbacks.checkpointing import StageCheckpoint
from omni.training.callbacks.converged import Converged
from omni.training.callbacks.graceful_stop import GracefulStop
from omni.training.callbacks.hub_push import HubPush
from omni.training.callbacks.loss_drops import LossDropNote
from omni.training.callbacks.predictions import WritePredictions
from omni.training.callbacks.progress import Progress, StepBar
from omni.training.callbacks.throughput import Throughput

__all__ = [
    "Converged",
    "GracefulStop",
    "HubPush",
    "LossDropNote",
    "Progress",
    "StageCheckpoint",
    "StepBar",
    "Throughput",
    "WritePredictions",
]
