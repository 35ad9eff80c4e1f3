"""Pruners: whether a trial that has just been validated is stopped early."""

from typing import Any

import optuna
from optuna.trial import FrozenTrial

from omni.errors import UserError
from omni.sweeps.definition import Sweep


class SuccessiveHalving(optuna.pruners.BasePruner):
    """Asynchronous successive halving (ASHA, arXiv:1810.05934) on the optimizer steps of trials.

    Rungs lie at `min_steps · factor^k` steps, k from `first_rung` on. A trial passes a rung if it is among the best
    `1 / factor` of the trials that have reached it so far. The decision depends on the reported values alone: unlike
    Optuna's own pruner, which also keeps marks in the storage, it is the same if it is made again after a kill.

    Args:
        min_steps: Optimizer steps of rung 0; those of the first validation of any trial by default.
        factor: See above.
        first_rung: The first rung with a decision; see above.
    """

    def __init__(self, min_steps: int | None, factor: int, *, first_rung: int = 0) -> None:
        self.min_steps, self.factor, self.first_rung = min_steps, factor, first_rung

    def prune(self, study: Any, trial: FrozenTrial) -> bool:
        """Whether the trial is stopped after its last reported value."""
        trials = study.get_trials(deepcopy=False)
        first_steps = [min(each.intermediate_values) for each in trials if each.intermediate_values]
        rung = (self.min_steps or min(first_steps)) * self.factor**self.first_rung
        *before, step = sorted(trial.intermediate_values)
        while rung <= step:
            if (not before or before[-1] < rung) and not self._passes(study, trials, trial, rung):
                return True
            rung *= self.factor
        return False

    def _passes(self, study: Any, trials: list[FrozenTrial], trial: FrozenTrial, rung: int) -> bool:
        own = _value_at(trial, rung)
        if own is None or own != own:  # NaN
            return False
        others = [_value_at(each, rung) for each in trials if each.number != trial.number]
        sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
        better = sum(other is not None and sign * other < sign * own for other in others)
        reached = 1 + sum(other is not None for other in others)
        return better < max(1, reached // self.factor)


class Hyperband(optuna.pruners.HyperbandPruner):
    """Hyperband (arXiv:1603.06560) with brackets of `SuccessiveHalving`.

    Args:
        min_steps: Optimizer steps of the lowest rung.
        max_steps: Those of a full trial.
        factor: See `SuccessiveHalving`.
    """

    def __init__(self, min_steps: int, max_steps: int, factor: int) -> None:
        super().__init__(min_resource=min_steps, max_resource=max_steps, reduction_factor=factor)
        self._min_steps, self._factor = min_steps, factor

    def _try_initialization(self, study: optuna.Study) -> None:
        super()._try_initialization(study)
        brackets: Any = [
            SuccessiveHalving(self._min_steps, self._factor, first_rung=number) for number in range(len(self._pruners))
        ]
        self._pruners = brackets


def _value_at(trial: FrozenTrial, rung: int) -> float | None:
    """The first value that was reported at a rung or after it; None if there is none yet."""
    steps = [step for step in trial.intermediate_values if step >= rung]
    return trial.intermediate_values[min(steps)] if steps else None


def make_pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    """The pruner of a sweep.

    Raises:
        UserError: If Hyperband has no number of steps.
    """
    options = sweep.pruner
    if options.kind == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=max(0, (options.min_steps or 0) - 1))
    if options.kind == "asha":
        return SuccessiveHalving(options.min_steps, options.factor)
    if options.kind == "hyperband":
        if options.min_steps is None or sweep.steps is None:
            raise UserError(
                f"sweep {sweep.path}: hyperband needs the steps of its lowest and its highest rung: give "
                "`pruner: {kind: hyperband, min_steps: ...}`, and trainer.max_steps in the configuration"
            )
        return Hyperband(options.min_steps, sweep.steps, options.factor)
    return optuna.pruners.NopPruner()
