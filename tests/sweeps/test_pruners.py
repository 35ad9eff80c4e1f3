"""Pruners: which trials pass a rung, and that the same decision is made again after a kill."""

import optuna
import pytest
from optuna.trial import TrialState
from toy_sweep import write_sweep

from omni.errors import UserError
from omni.sweeps.definition import read_sweep
from omni.sweeps.pruners import SuccessiveHalving, make_pruner


@pytest.fixture
def study():
    return optuna.create_study(direction="minimize")


def with_curve(study, curve):
    study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values=curve))
    return study.trials[-1]


def test_the_best_third_pass_a_rung(study):
    pruner = SuccessiveHalving(10, 3)
    assert not pruner.prune(study, with_curve(study, {10: 5.0}))  # the only one so far
    assert not pruner.prune(study, with_curve(study, {10: 4.0}))
    assert pruner.prune(study, with_curve(study, {10: 4.5}))
    for value in (1.0, 2.0, 3.0):
        with_curve(study, {10: value})
    assert not pruner.prune(study, study.trials[4])  # 2.0 is the second best of six
    assert pruner.prune(study, study.trials[5])


def test_decisions_are_made_at_rungs_only(study):
    pruner = SuccessiveHalving(10, 2)
    for value in (1.0, 1.1):
        with_curve(study, {10: value, 20: value, 40: value})
    assert not pruner.prune(study, with_curve(study, {5: 9.0}))
    assert pruner.prune(study, with_curve(study, {5: 9.0, 12: 9.0}))  # the first value after the rung
    assert not pruner.prune(study, with_curve(study, {10: 0.5, 15: 9.0}))
    assert pruner.prune(study, with_curve(study, {10: 0.5, 15: 0.5, 20: 9.0}))


def test_the_same_decision_is_made_again(study):
    pruner = SuccessiveHalving(None, 2)
    for value in (1.0, 3.0, 2.0, 2.5):
        trial = with_curve(study, {10: value})
        assert [pruner.prune(study, trial) for _ in range(3)] == [value != 1.0] * 3


def test_a_loss_that_is_not_a_number_is_pruned(study):
    assert SuccessiveHalving(10, 3).prune(study, with_curve(study, {10: float("nan")}))


def test_a_metric_that_is_maximized():
    study = optuna.create_study(direction="maximize")
    pruner = SuccessiveHalving(10, 2)
    with_curve(study, {10: 0.5})
    assert pruner.prune(study, with_curve(study, {10: 0.4}))
    assert not pruner.prune(study, with_curve(study, {10: 0.6}))


def test_the_brackets_of_hyperband_have_their_first_decisions_at_other_steps(workplace):
    sweep = read_sweep(
        write_sweep(pruner={"kind": "hyperband", "min_steps": 1, "factor": 3}, overrides={"trainer.max_steps": 9})
    )
    pruner = make_pruner(sweep)
    study = optuna.create_study(study_name="toy", direction="minimize", pruner=pruner)
    for number in range(40):
        with_curve(study, {1: float(number), 3: float(number), 9: float(number)})
    pruner.prune(study, study.trials[-1])  # prepares the brackets
    assert {pruner._get_bracket_id(study, trial) for trial in study.trials} == {0, 1, 2}
    for _ in range(20):
        trial = with_curve(study, {1: 99.0})
        assert pruner.prune(study, trial) == (pruner._get_bracket_id(study, trial) == 0)


def test_hyperband_needs_steps(workplace):
    with pytest.raises(UserError, match="hyperband needs the steps"):
        make_pruner(read_sweep(write_sweep(pruner="hyperband")))


def test_the_median(workplace):
    pruner = make_pruner(read_sweep(write_sweep(pruner={"kind": "median", "min_steps": 10})))
    study = optuna.create_study(direction="minimize", pruner=pruner)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        curve = {5: value, 10: value}
        study.add_trial(optuna.trial.create_trial(state=TrialState.COMPLETE, value=value, intermediate_values=curve))
    assert not pruner.prune(study, with_curve(study, {5: 9.0}))
    assert pruner.prune(study, with_curve(study, {5: 9.0, 10: 3.5}))
    assert not pruner.prune(study, with_curve(study, {5: 9.0, 10: 2.5}))
