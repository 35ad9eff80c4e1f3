"""Ends a run whose metric has stopped to improve."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from omni.errors import UserError

_SHARE = 1 / 3  # of the steps so far


class Converged(Callback):
    """Ends training once the last third of the steps has improved the stage's metric by less than `gain`.

    The metric is the one that selects `best.ckpt` (see `Stage.monitor`), and only its best value counts. A third of the
    steps, unlike a patience in validations, is a longer wait the longer the run has been. A schedule that lowers the
    learning rate improves the metric most at its end: `min_steps` lets it get there.

    Args:
        gain: Least improvement: 0.003 are 0.3 points of a word error rate.
        min_steps: Steps before which a run does not end.
    """

    def __init__(self, gain: float = 0.003, *, min_steps: int = 0) -> None:
        if gain < 0 or min_steps < 0:
            raise UserError(f"Converged: gain is {gain:g} and min_steps {min_steps}: both must be 0 or more")
        self.gain, self.min_steps = gain, min_steps
        self._values: list[list[float]] = []  # step and value of each validation

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the latest value, on every rank."""
        stage: Any = pl_module
        metric, mode = stage.monitor
        if trainer.state.fn != "fit" or trainer.sanity_checking or metric not in trainer.callback_metrics:
            return
        step = trainer.global_step
        self._values = [each for each in self._values if each[0] < step]
        self._values.append([step, float(trainer.callback_metrics[metric])])
        gained = late_gain({int(at): value for at, value in self._values}, mode)
        if gained is not None and gained < self.gain and step >= self.min_steps:
            trainer.should_stop = True
            rank_zero_info(f"\nconverged at step {step}: the last third of the steps improved {metric} by {gained:.2g}")

    def state_dict(self) -> dict[str, Any]:
        return {"values": self._values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._values = state_dict["values"]


def late_gain(values: Mapping[int, float], mode: str) -> float | None:
    """The improvement of the best value in the last third of the steps.

    Args:
        values: Value of each validation, by step.
        mode: `min` if lower values are better, `max` otherwise.

    Returns:
        The improvement, 0 or more; None without a validation before the last third.
    """
    last = max(values, default=0)
    earlier = [value for step, value in values.items() if step <= last * (1 - _SHARE)]
    if not earlier:
        return None
    return abs(_best(earlier, mode) - _best(list(values.values()), mode))


def _best(values: Sequence[float], mode: str) -> float:
    return min(values) if mode == "min" else max(values)
