"""Memory does not grow with the number of steps: of training, of transcriptions, of answers, of speech.

`--steps N` takes N steps of each; `-rP` shows the figures.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from flat_memory import answer, growth, sampled, speak, train, transcribe
from killed_runs import STAGES
from toy_runs import callback

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
FEW = 200
FLAT = 0.02
MIB = 1 << 20


def check(function: Callable[[], None], folder: Path) -> None:
    samples = sampled(function, folder)
    found = f"{growth(samples):+.2%}; MiB: {[round(each / MIB, 1) for each in samples]}"
    print(found)  # shown by pytest -rP
    assert growth(samples) < FLAT, found


@pytest.fixture
def steps(request) -> int:
    return request.config.getoption("--steps") or FEW


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_training(stage, steps, request, workplace):
    request.getfixturevalue(STAGES[stage][1])
    check(partial(train, stage, steps), workplace)


@pytest.mark.slow
@pytest.mark.parametrize(("work", "data"), [(transcribe, "words"), (answer, "conversations"), (speak, "workplace")])
def test_inference(work, data, steps, request, workplace):
    request.getfixturevalue(data)
    check(partial(work, steps), workplace)


@pytest.mark.slow
def test_a_callback_that_keeps_tensors_is_found(steps, workplace):
    samples = sampled(partial(train, "thinker", steps, callback("flat_memory.Leak")), workplace)
    assert growth(samples) > FLAT


@pytest.mark.parametrize(
    ("samples", "flat"),
    [
        ([500 * MIB] * 100, True),
        ([400 * MIB] * 9 + [500 * MIB] * 91, True),  # what is first used in the first steps
        ([(500 + 40 * (step % 7 == 0)) * MIB for step in range(100)], True),  # single peaks
        ([(500 - step // 10) * MIB for step in range(100)], True),  # memory that is given back
        ([(500 + 0.15 * step) * MIB for step in range(100)], False),  # a leak of each step
        ([(500 + 20 * (step > 60)) * MIB for step in range(100)], False),  # memory that is not given back
    ],
)  # fmt: skip
def test_growth_is_told_from_noise(samples, flat):
    assert (growth(samples) < FLAT) == flat
