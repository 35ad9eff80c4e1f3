"""The study of a sweep: shared by several commands, safe against kills and full disks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState
from toy_sweep import LR, WIDTH, write_sweep

import omni
from omni.errors import UserError
from omni.sweeps.definition import read_sweep
from omni.sweeps.study import SweepStudy, storage_errors


def opened(**content):
    return SweepStudy(read_sweep(write_sweep(**content)))


def test_two_commands_share_the_trials(workplace):
    first, second = opened(), opened()
    trials = [first.propose(), second.propose(), first.propose()]
    assert [trial.index for trial in trials] == [0, 1, 2]
    assert [trial.values for trial in second.trials()] == [trial.values for trial in trials]
    second.report(trials[0], 3, 0.5)
    second.finish(trials[0], TrialState.COMPLETE, 0.25, steps=6)
    done = first.trials()[0]
    assert (done.state, done.value, done.curve, done.facts["steps"]) == ("complete", 0.25, {3: 0.5}, 6)


def test_of_two_equal_proposals_at_once_the_first_counts(workplace, monkeypatch):
    first, second = opened(), opened()
    stale = [second.trials()]
    mine = first.propose()
    with monkeypatch.context() as patch:
        late = second.trials
        patch.setattr(second, "trials", lambda: stale.pop() if stale else late())
        assert second.propose() is None
    assert [trial.frozen.number for trial in second.trials()] == [mine.frozen.number]
    assert second.propose().index == 1


def test_a_record_that_a_kill_has_cut_is_removed(workplace):
    study = opened()
    study.propose()
    journal = study.sweep.folder / "journal.log"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (1, len(lines[-1]) // 2, len(lines[-1]) - 1):
        journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
        again = opened()
        assert again.trials() == []
        assert again.propose().index == 0
        assert all(json.loads(line) for line in journal.read_text().splitlines())


def report_safely(study, trial):
    with storage_errors(study.sweep, None):
        study.report(trial, 3, 0.5)


def test_a_full_disk_leaves_the_journal_readable(workplace, monkeypatch):
    study = opened()
    trial = study.propose()
    before = (study.sweep.folder / "journal.log").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"journal.log: No space left on device; nothing is lost"):
            report_safely(study, trial)
    assert (study.sweep.folder / "journal.log").read_bytes() == before
    assert opened().trials()[0].curve == {}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"parameters": {LR: {"log": [1e-4, 1e-1]}}}, "parameters"),
        ({"overrides": {"trainer.max_steps": 9}}, "config"),
        ({"metric": "val/perplexity", "direction": "minimize"}, "metric"),
        ({"sampler": "random"}, "sampler"),
        ({"seeds": 2}, "seeds"),
    ],
)
def test_a_study_of_another_sweep_is_refused(workplace, changes, named):
    study = opened()
    trial = study.propose()
    study.finish(trial, TrialState.COMPLETE, 0.5)
    with pytest.raises(UserError, match=rf"was started with other .*{named}.*: give this sweep another `name`"):
        opened(**changes)
    assert [each.value for each in opened(budget={"trials": 99}, jobs=3).trials()] == [0.5]


def test_a_wrong_metric_may_be_mended_before_the_first_result(workplace):
    opened(metric="val/lost", direction="minimize").propose()
    assert opened().trials()[0].state == "running"


def test_a_trial_that_breaks_a_constraint_is_not_run(workplace):
    parameters = {WIDTH: {"values": [48, 4096]}}
    study = opened(parameters=parameters, sampler="grid", budget=None, constraints={"parameters": "100k"})
    assert [study.propose().state for _ in range(2)] == ["running", "infeasible"]
    assert study.trials()[1].facts["infeasible"].endswith("parameters, more than 100k")
    assert study.trials()[1].frozen.constraints["parameters"] > 0
    tight = opened(file="tight", parameters=parameters, sampler="grid", budget=None, constraints={"memory": "100kB"})
    assert tight.propose().facts["infeasible"].endswith(", more than 100kB")


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("sqlite:///study.db", "give postgresql://"),
        ("postgresql://me:secret@127.0.0.1:1/omni", r"postgresql://me:\*\*\*@127.0.0.1:1/omni cannot be reached"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line(workplace, storage, message):
    with pytest.raises(UserError, match=message) as error:
        SweepStudy(read_sweep(write_sweep()), storage)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_for_notebooks(workplace):
    study = opened()
    trial = study.propose()
    study.report(trial, 3, 0.5)
    study.finish(trial, TrialState.COMPLETE, 0.25, steps=6, seconds=2.0)
    study.propose()
    table = omni.sweeps.load("toy")
    assert list(table["state"]) == ["complete", "running"]
    assert table.loc[0, "value"] == 0.25
    assert table.loc[0, LR] == trial.values[LR]
    assert table.attrs["curves"] == {0: {3: 0.5}, 1: {}}
    with pytest.raises(UserError, match="holds no sweep: the sweeps here are: toy"):
        omni.sweeps.load("other")
    assert Path("lightning_logs/sweeps/toy/journal.log").is_file()


def test_without_optuna_one_line_says_what_to_install(workplace):
    program = "import sys; sys.modules['optuna'] = None; from omni.cli import main; main(['sweep', 'toy.yaml'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("omni: sweeps need Optuna, which is not installed: run `pip install -e '.[sweep]'`")
    assert done.stderr.count("\n") == 1
