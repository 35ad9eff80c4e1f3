"""The trials of a sweep before it is run."""

from optuna.trial import FrozenTrial

from omni.sweeps.definition import Sweep
from omni.sweeps.parameters import Values
from omni.sweeps.proposals import propose

SAMPLE = 10


def preview(sweep: Sweep) -> list[Values]:
    """The values of all trials of a grid, or of the first trials of another sampler while it knows no result."""
    if sweep.file.sampler == "grid":
        return sweep.grid[: sweep.trials]
    pending: list[FrozenTrial] = []
    found = []
    for _ in range(min(SAMPLE, sweep.trials or SAMPLE)):
        values, frozen = propose(sweep, pending)
        pending.append(frozen)
        found.append(values)
    return found
