"""Runs that die at any moment of training: resumed, they equal a run that did not; and one on a machine that sleeps.

`--kills N` kills the run of each stage at N moments.
"""

import shutil
import sys
from pathlib import Path
from random import Random

import pytest
from killed_runs import STAGES, Calls, differences, fit, run

FEW = 3


def whole_run(stage: str, folder: Path) -> tuple[Path, Calls]:
    """A run that is not killed, in a copy of a folder, and the calls that it makes."""
    whole = folder / "whole"
    shutil.copytree(folder, whole, ignore=shutil.ignore_patterns("whole"))
    code, calls = run(fit(stage), whole)
    assert code == 0, (whole / "log.txt").read_text(encoding="utf-8")
    return whole, calls


def die_and_compare(stage: str, folder: Path, moments: int) -> list[str]:
    """What differs after kills; half of the runs are killed a second time after they have resumed."""
    found = []
    whole, calls = whole_run(stage, folder)
    for number in range(moments):
        rng = Random(f"{stage} {number}")
        killed = folder / f"killed{number}"
        shutil.copytree(folder, killed, ignore=shutil.ignore_patterns("whole", "killed*"))
        kills = [calls.draw(rng) for _ in range(rng.choice([1, 2]))]
        codes = [run(fit(stage), killed, kill=kill)[0] for kill in kills]
        codes.append(run(fit(stage), killed)[0])
        log = (killed / "log.txt").read_text(encoding="utf-8", errors="replace")
        different = (
            [log[-3000:]] if codes[-1] else differences(*(each / f"lightning_logs/{stage}" for each in (whole, killed)))
        )
        found += [f"{stage}, moment {number}, killed at {kills}, exit codes {codes}: {each}" for each in different]
        shutil.rmtree(killed)
    return found


def test_a_thinker_dies(workplace):
    assert not die_and_compare("thinker", workplace, 1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the state of a process is read from /proc")
def test_a_machine_sleeps(workplace):
    whole, calls = whole_run("thinker", workplace)
    for share in (0.2, 0.8):
        shutil.rmtree(workplace / "lightning_logs", ignore_errors=True)
        code, _ = run(fit("thinker"), workplace, kill=Calls(int(share * calls.python), 0), sleep=2.0)
        assert code == 0
        assert not differences(*(each / "lightning_logs/thinker" for each in (whole, workplace)))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_dies(stage, request, workplace):
    request.getfixturevalue(STAGES[stage][1])
    assert not die_and_compare(stage, workplace, request.config.getoption("--kills") or FEW)
