"""Weights of the sources of a split: how often an epoch reads their rows."""

from collections.abc import Mapping, Sequence

import numpy as np

from omni.errors import UserError


def weighted(entries: str | Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """Entries with their weights, which are 1 by default."""
    if isinstance(entries, str):
        return {entries: 1.0}
    return dict(entries) if isinstance(entries, Mapping) else dict.fromkeys(entries, 1.0)


def check_weights(split: str, weights: Mapping[str, float]) -> None:
    """Checks the weights of a split.

    Raises:
        UserError: If one is not over 0.
    """
    if wrong := next((entry for entry, weight in weights.items() if not weight > 0), None):
        raise UserError(f"data.{split}: the weight of {wrong} is {weights[wrong]}: it must be over 0")


def groups(lengths: Sequence[float], weight: float) -> list[np.ndarray]:
    """Groups of a source's rows, of which an epoch reads one row each.

    A weight of 1 reads every row once, of 2 twice; of 0.25 one of every four rows, which are of similar length, so that
    the size of a batch does not depend on the row that is drawn.

    Args:
        lengths: Size of each row, in any unit.
        weight: Number of rows that an epoch reads, as a share of all rows; over 0.
    """
    whole, part = divmod(weight, 1)
    alone = [np.array([row]) for row in range(len(lengths))]
    number = round(part * len(lengths))
    if not whole:
        number = max(1, number)
    some = np.array_split(np.argsort(lengths, kind="stable"), number) if number else []
    return alone * int(whole) + some
