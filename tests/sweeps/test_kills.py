"""Sweeps whose commands and runs are killed (SIGKILL) at random moments: no trial is lost, and none differs."""

import os
import random
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import forked_fit
import pytest
from processes import start
from toy_sweep import LR, WIDTH, write_sweep

from omni.cli import main
from omni.pipeline.launcher import Launcher
from omni.sweeps.definition import read_sweep
from omni.sweeps.study import SweepStudy

KILLS = 20
# Long enough for a kill to come before, while and after a checkpoint is written.
LONG = {"trainer.max_steps": 60, "trainer.val_check_interval": 15}
OFTEN = {"class_path": "omni.training.callbacks.StageCheckpoint",
         "init_args": {"filename": "last", "every_n_train_steps": 4}}  # fmt: skip


def run_sweep(path):
    """`omni sweep` as the leader of a process group, with runs that are forks of it."""
    os.setsid()
    Launcher.__call__ = forked_fit.launch
    main(["sweep", path])


class Worker:
    """A command that is started again each time it is killed."""

    def __init__(self, path, name):
        self.start = partial(start, partial(run_sweep, str(path)), output=Path(f"{name}.log"))
        self.process = self.start()

    def kill(self, rng):
        """Kills the command with its runs, the command alone, or one of its runs."""
        what = rng.choice(["all", "command", "run"])
        with suppress(ProcessLookupError, FileNotFoundError):  # it has just ended
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            if what == "run" and children:
                os.kill(int(rng.choice(children)), signal.SIGKILL)
                return
            if what == "all":
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.process = self.start()

    def ends(self):
        self.process.join(600)
        return self.process.exitcode


def trials(path):
    return SweepStudy(read_sweep(path)).trials()


def runs_that_started_twice(name):
    """Checkpoints of runs that started again from nothing; one that is killed before its first checkpoint has to."""
    return list(Path(f"lightning_logs/sweeps/{name}").rglob("earlier/*/*.ckpt"))


def facts(path):
    """What a kill must not change of the trials."""
    return [(each.state, each.values, each.value, each.curve) for each in trials(path)]


@pytest.mark.slow
def test_twenty_kills_of_two_workers_lose_nothing(workplace):
    content = {"parameters": {LR: {"log": [1e-4, 1e-2], "points": 6}, WIDTH: {"values": [48, 64]}}, "sampler": "grid",
               "budget": None, "overrides": {**LONG, "trainer.callbacks+": [OFTEN]}}  # fmt: skip
    whole = write_sweep(file="whole", **content)
    assert Worker(whole, "whole").ends() == 0
    rng = random.Random(0)
    kills = rounds = 0
    while kills < KILLS:  # a fast machine may end a sweep before that: then another one
        killed = write_sweep(file=f"killed{rounds}", **content)
        workers = [Worker(killed, f"worker{number}") for number in range(2)]
        while kills < KILLS and all(worker.process.exitcode is None for worker in workers):
            time.sleep(rng.uniform(0.1, 1.5))
            rng.choice(workers).kill(rng)
            kills += 1
        assert [worker.ends() for worker in workers] == [0, 0], Path("worker0.log").read_text()
        assert facts(killed) == facts(whole)
        assert len(trials(killed)) == 12
        assert not runs_that_started_twice(f"killed{rounds}")
        rounds += 1


@pytest.mark.slow
def test_a_killed_sweep_finds_the_same_best(workplace):
    content = {"budget": {"trials": 12}, "pruner": {"kind": "asha", "min_steps": 15, "factor": 2},
               "overrides": {**LONG, "trainer.callbacks+": [OFTEN]}}  # fmt: skip
    whole = write_sweep(file="whole", **content)
    assert Worker(whole, "whole").ends() == 0
    killed = write_sweep(file="killed", **content)
    rng = random.Random(1)
    worker = Worker(killed, "worker")
    for _ in range(KILLS):
        time.sleep(rng.uniform(0.2, 1.5))
        if worker.process.exitcode is not None:
            break
        worker.kill(rng)
    assert worker.ends() == 0
    states = [each.state for each in trials(whole)]
    assert {"complete", "pruned"} == set(states)
    assert [each.value for each in trials(killed)] == [each.value for each in trials(whole)]
    assert [each.values for each in trials(killed)] == [each.values for each in trials(whole)]
    assert [each.state for each in trials(killed)] == states
