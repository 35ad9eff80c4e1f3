"""Which values a trial tries: a function of the seed, the number of the trial, and the trials before it.

A sweep that is killed and started again therefore tries the same values as one that is not.
"""

from collections.abc import Sequence

import numpy as np
import optuna
from optuna.trial import FixedTrial, FrozenTrial
from scipy.stats import qmc

from omni.sweeps.definition import Sweep
from omni.sweeps.parameters import Values, label
from omni.sweeps.pruners import make_pruner


def propose(sweep: Sweep, before: Sequence[FrozenTrial]) -> tuple[Values, FrozenTrial]:
    """The values of the next trial.

    Args:
        sweep: The sweep.
        before: Its trials so far, in order.

    Returns:
        The values by key, and an Optuna trial that holds them.
    """
    index = len(before)
    if sweep.file.sampler in ("grid", "random", "qmc"):
        values = planned(sweep, index)
        fixed = FixedTrial({name: label(value) for name, value in values.items()}, index)
        sweep.parameters.suggest(fixed)  # records the distributions
        return values, optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, params=fixed.params, distributions=fixed.distributions
        )
    study = optuna.create_study(
        study_name=sweep.name, direction=sweep.direction, sampler=_sampler(sweep, index), pruner=make_pruner(sweep)
    )
    study.add_trials(before)
    trial = study.ask()
    values = sweep.parameters.suggest(trial)
    return values, study.trials[-1]


def planned(sweep: Sweep, index: int) -> Values:
    """The values of a trial by a sampler that looks at no result: grid, random or quasi-random (Sobol)."""
    if sweep.file.sampler == "grid":
        return sweep.grid[index]
    dimensions = len(list(sweep.parameters))
    if sweep.file.sampler == "random":
        return sweep.parameters.at(list(np.random.default_rng([sweep.file.seed, index]).random(dimensions)))
    sobol = qmc.Sobol(dimensions, rng=np.random.default_rng(sweep.file.seed))
    if index:
        sobol.fast_forward(index)
    return sweep.parameters.at(list(sobol.random(1)[0]))


def _sampler(sweep: Sweep, index: int) -> optuna.samplers.BaseSampler:
    seed = int(np.random.SeedSequence([sweep.file.seed, index]).generate_state(1)[0])
    if sweep.file.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    kind = optuna.samplers.CmaEsSampler if sweep.file.sampler == "cmaes" else optuna.samplers.GPSampler
    return kind(seed=seed, warn_independent_sampling=False)
