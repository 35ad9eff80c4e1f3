"""What `omni predict` writes: the predictions of all ranks in one file, in the order of the data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omni.errors import UserError


class Predictions(NamedTuple):
    """What one rank predicted.

    Attributes:
        rows: For each batch, the numbers of its rows in the data set.
        batches: For each batch what `predict_step` returned: a tensor (batch, ...), a list with an entry a row, or a
            dict of such.
    """

    rows: list[list[int]]
    batches: list[Any]


def save_share(share: Predictions, path: Path, rank: int) -> None:
    """Writes a rank's share beside `path`, for `merge_shares` to find."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tuple(share), _share_path(path, rank))


def merge_shares(path: Path, world_size: int) -> list[Any]:
    """Reads the shares of all ranks, and deletes them.

    Args:
        path: As of `save_share`.
        world_size: Number of ranks.

    Returns:
        The batches that one rank alone would have predicted.

    Raises:
        UserError: If the share of a rank is not there.
    """
    paths = [_share_path(path, rank) for rank in range(world_size)]
    for rank, each in enumerate(paths):
        if not each.is_file():
            raise UserError(f"{each}, the predictions of rank {rank}, is missing: all ranks must write to one folder")
    shares = [Predictions(*torch.load(each, weights_only=True)) for each in paths]
    for each in paths:
        each.unlink()
    return merge(shares)


def merge(shares: Sequence[Predictions]) -> list[Any]:
    """Puts the rows of all ranks in order, each once, in batches of the largest size that a rank had."""
    found: dict[int, tuple[Any, int]] = {}
    for share in shares:
        for numbers, batch in zip(share.rows, share.batches, strict=True):
            found |= {number: (batch, place) for place, number in enumerate(numbers)}
    size = max((len(numbers) for share in shares for numbers in share.rows), default=1)
    rows = [found[number] for number in sorted(found)]
    return [_batch(rows[start : start + size]) for start in range(0, len(rows), size)]


def _batch(rows: Sequence[tuple[Any, int]]) -> Any:
    """A batch of rows, each given as a batch and its place there."""
    kind = rows[0][0]
    if isinstance(kind, Mapping):
        return {key: _batch([(batch[key], place) for batch, place in rows]) for key in kind}
    chosen = [batch[place] for batch, place in rows]
    return torch.stack(chosen) if isinstance(kind, Tensor) else chosen


def _share_path(path: Path, rank: int) -> Path:
    return path.with_name(f".{path.name}.rank{rank}")
