"""Batches of rows of similar size, bounded by their seconds or tokens."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from torch.utils.data import Sampler

from omni.data.loading.resumable import EpochBatches, Ints
from omni.errors import UserError

_SPREAD = 1.2  # largest to smallest size of a bucket that fills a batch: less padding against more mixing


def padding_share(sizes: np.ndarray, batches: Sequence[Sequence[int] | Ints]) -> float:
    """Share of all frames that are padding."""
    padded = sum(len(batch) * sizes[batch].max() for batch in batches)
    return float(1 - sum(sizes[batch].sum() for batch in batches) / padded)


@final
class BucketedBatches(EpochBatches):
    """Every row once an epoch, in batches of similar sizes, shuffled within and among buckets.

    The batches depend on seed and epoch only. They are distributed over the ranks one by one; where they cannot be
    distributed evenly, the last ones of an epoch are left out, which differ from epoch to epoch.

    Args:
        sizes: (rows,) size of each row, in any unit: seconds of audio, tokens.
        capacity: Largest total size of a batch on a rank, padding counted, in the same unit.
        max_rows: Most rows of a batch.
        **options: Of `EpochBatches`.

    Raises:
        UserError: If there are fewer batches than ranks.
    """

    def __init__(self, sizes: np.ndarray, *, capacity: float, max_rows: int, **options: Any):
        super().__init__(**options)
        self.num_rows = len(sizes)
        self.buckets = _buckets(sizes, capacity, max_rows)
        self.num_batches = sum(parts for _, parts in self.buckets) // self.world_size
        if not self.num_batches:
            raise UserError(
                f"{self.num_rows} rows make fewer batches than there are ranks ({self.world_size}): "
                "use fewer devices, or set data.batch_seconds (or data.batch_tokens) lower"
            )

    def __len__(self) -> int:
        return self.num_batches

    def epoch(self, number: int) -> list[Ints]:
        """Row numbers of each batch, plus `number * num_rows`, which identifies the epoch."""
        rng = np.random.default_rng([self.seed, number])
        batches = [part for rows, parts in self.buckets for part in np.array_split(rng.permutation(rows), parts)]
        order = rng.permutation(len(batches))[: self.num_batches * self.world_size]
        return [batches[i] + number * self.num_rows for i in order[self.rank :: self.world_size]]


@final
class SortedBatches(Sampler[list[int]]):
    """Every row once, sorted by size, for validation; every rank has the same number of batches.

    Args:
        sizes: As of `BucketedBatches`.
        capacity: Largest total size of a batch, padding counted.
        max_rows: Most rows of a batch.
        rank: Of this process.
        world_size: Number of ranks.

    Raises:
        UserError: If there are fewer rows than ranks.
    """

    def __init__(self, sizes: np.ndarray, *, capacity: float, max_rows: int, rank: int = 0, world_size: int = 1):
        if len(sizes) < world_size:
            raise UserError(f"{len(sizes)} rows cannot be distributed over {world_size} ranks")
        batches = [part for rows, parts in _buckets(sizes, capacity, max_rows, spread=1.0)
                   for part in np.array_split(rows, parts)]  # fmt: skip
        while len(batches) % world_size:  # there are enough rows: some batch has two or more
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            batches[largest : largest + 1] = np.array_split(batches[largest], 2)
        self.batches = [batch.tolist() for batch in batches[rank::world_size]]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def _buckets(sizes: np.ndarray, capacity: float, max_rows: int, *, spread: float = _SPREAD) -> list[tuple[Ints, int]]:
    """Rows of similar size, and the number of batches they make."""
    order = np.argsort(sizes, kind="stable")
    buckets, first = [], 0

    def size(last: int) -> int:
        """Rows of a batch whose largest is the `last` in order."""
        return max(1, min(max_rows, int(capacity / max(sizes[order[last]], 1e-3))))

    while first < len(order):
        last = first
        while last + 1 < len(order):
            similar = sizes[order[last + 1]] <= spread * sizes[order[first]]
            if not similar and last + 1 - first >= size(last):
                break
            if not similar and last + 1 - first >= size(last + 1):
                break  # one larger row would only reduce the number of rows
            last += 1
        rows = order[first : last + 1]
        buckets.append((rows, -(-len(rows) // size(last))))
        first = last + 1
    return buckets
