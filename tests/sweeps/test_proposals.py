"""Proposals: what a trial tries depends on the seed, its number and the results before it, and on nothing else."""

import optuna
import pytest
from optuna.trial import TrialState
from toy_sweep import LR, WIDTH, write_sweep

from omni.sweeps.definition import read_sweep
from omni.sweeps.proposals import propose

PARAMETERS = {LR: {"log": [1e-4, 1e-2], "points": 4}, WIDTH: {"int": [48, 51]}, "trainer.max_steps": {"int": [4, 9]}}


def ended(trial, value):
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE,
        params=trial.params,
        distributions=trial.distributions,
        system_attrs=trial.system_attrs,
        value=value,
    )


def proposals(sweep, count):
    """Values of trials, and the trials, whose result is their learning rate."""
    found, before = [], []
    for _ in range(count):
        values, trial = propose(sweep, before)
        found.append(values)
        before.append(ended(trial, values[LR]))
    return found, before


@pytest.mark.parametrize("sampler", ["grid", "random", "qmc", "tpe", "cmaes", "gp"])
def test_a_trial_is_proposed_again_as_it_was(workplace, sampler):
    sweep = read_sweep(write_sweep(sampler=sampler, parameters=PARAMETERS, seed=3))
    found, before = proposals(sweep, 14)
    assert all(1e-4 <= values[LR] <= 1e-2 and 48 <= values[WIDTH] <= 51 for values in found)
    assert len({tuple(values.values()) for values in found}) == 14
    for number in (0, 1, 7, 12, 13):
        assert propose(sweep, before[:number])[0] == found[number]


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_another_seed_proposes_others(workplace, sampler):
    sweeps = [read_sweep(write_sweep(sampler=sampler, parameters=PARAMETERS, seed=seed)) for seed in (0, 1)]
    first, second = (proposals(sweep, 3)[0] for sweep in sweeps)
    assert first != second


def test_a_grid_comes_in_order(workplace):
    sweep = read_sweep(write_sweep(sampler="grid", parameters=PARAMETERS, budget=None))
    assert proposals(sweep, 10)[0] == sweep.grid[:10]
    assert sweep.trials == 4 * 4 * 6


def test_tpe_learns_from_the_results(workplace):
    sweep = read_sweep(write_sweep(sampler="tpe", parameters=PARAMETERS))
    found, _ = proposals(sweep, 40)
    early, late = (sum(values[LR] for values in part) / 10 for part in (found[:10], found[-10:]))
    assert late < 0.5 * early


def test_quasi_random_values_fill_the_range(workplace):
    sweep = read_sweep(write_sweep(sampler="qmc", parameters={LR: {"range": [0, 1]}}))
    found = sorted(propose(sweep, [None] * number)[0][LR] for number in range(16))
    assert all(number / 16 <= value <= (number + 1) / 16 for number, value in enumerate(found))
