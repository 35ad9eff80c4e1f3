"""What is checked before the first trial of a sweep: every key, the type of every value, and all extremes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jsonargparse import ArgumentError

from omni.errors import UserError, one_line
from omni.sweeps.definition import Sweep
from omni.sweeps.parameters import Values
from omni.sweeps.stages import stage_with
from omni.training.configuration import muted_logs

MOST_GRID = 64  # larger grids are checked by their corners


def combinations(sweep: Sweep) -> list[Values]:
    """The combinations of values that are checked: all of a small grid, otherwise the corners."""
    if sweep.file.sampler == "grid" and len(sweep.grid) <= MOST_GRID and sweep.trials == len(sweep.grid):
        return sweep.grid
    return sweep.parameters.corners()


def check_values(sweep: Sweep) -> None:
    """Parses the configurations of all `combinations`, and builds their stages without memory for weights.

    Raises:
        UserError: If a key is unknown or a value is refused, in one line that names both.
    """
    checked: set[tuple[str, str]] = set()
    for values in combinations(sweep):
        for name in sweep.stages:
            own = {key: value for key, value in values.items() if not sweep.is_chain or key.startswith(f"{name}.")}
            if not own or (name, repr(own)) in checked:
                continue
            checked.add((name, repr(own)))
            with _errors_of(sweep, own):
                stage = stage_with(sweep, name, values)
                stage.configuration.make("data")
                with torch.device("meta"), muted_logs():
                    stage.configuration.make("model")


@contextmanager
def _errors_of(sweep: Sweep, values: Values) -> Iterator[None]:
    try:
        yield
    except (UserError, ArgumentError, ValueError) as error:
        tried = ", ".join(f"{key}={value}" for key, value in values.items())
        raise UserError(f"sweep {sweep.path}: with {tried}: {one_line(error)}") from error
