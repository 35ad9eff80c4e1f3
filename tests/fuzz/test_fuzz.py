"""Files of every format that omni reads, mutated: each is read, or refused in one line.

`--fuzz N` runs N inputs of each kind, `--fuzz_seed S` others.
"""

from pathlib import Path

import pytest
from fuzz_kinds import KINDS
from guarded_cases import run_cases

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
FEW, MANY = 4, 70  # inputs of each kind


def fuzz(name: str, count: int, request, place: Path) -> None:
    seed = request.config.getoption("--fuzz_seed")
    found = run_cases(name, KINDS[name], count, seed=seed, place=place)
    shown = [f"input {each.number} of seed {seed}: {each.what}" for each in found[:5]]
    if found:
        pytest.fail("\n\n".join([f"{name}: {len(found)} of {count} inputs", *shown]), pytrace=False)


@pytest.mark.parametrize("name", ["images", "runs"])
def test_a_few_inputs(name, request, tmp_path):
    fuzz(name, FEW, request, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_inputs(name, request, tmp_path):
    fuzz(name, request.config.getoption("--fuzz") or MANY, request, tmp_path)
