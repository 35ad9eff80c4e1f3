"""Batches of rows of about the same length, bounded by their seconds or tokens."""

from collections.abc import Callable, Sequence
from typing import final

import numpy as np
from torch.utils.data import Sampler

from omni.data.loading.resumable import EpochBatches, Ints
from omni.errors import UserError

_SPREAD = 1.2  # longest to shortest of a bucket, where it fills a batch: less padding against more mixing


def padding_share(durations: np.ndarray, batches: Sequence[Sequence[int] | Ints]) -> float:
    """Share of all frames that are padding."""
    padded = sum(len(batch) * durations[batch].max() for batch in batches)
    return float(1 - sum(durations[batch].sum() for batch in batches) / padded)


@final
class BucketedBatches(EpochBatches):
    """Every row once an epoch, in batches of similar lengths, shuffled within and among buckets.

    What comes depends on seed and epoch only. Batches are shared out over ranks one by one; where they cannot be
    shared evenly, the last of an epoch are left out: other ones each time.

    Args:
        durations: Seconds of each row, or how long it is otherwise, in tokens say.
        batch_seconds: Most of these of a batch on a rank, padding counted.
        max_rows: Most rows of a batch.
        seed: Of the shuffling.
        rank: Of this process.
        world_size: Number of ranks.
        position: See `EpochBatches`.

    Raises:
        UserError: If there are fewer batches than ranks.
    """

    def __init__(
        self,
        durations: np.ndarray,
        *,
        batch_seconds: float,
        max_rows: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], int | None] | None = None,
    ):
        super().__init__(position)
        self.num_rows = len(durations)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.buckets = _buckets(durations, batch_seconds, max_rows)
        self.num_batches = sum(parts for _, parts in self.buckets) // world_size
        if not self.num_batches:
            raise UserError(
                f"{self.num_rows} rows make fewer batches than there are ranks ({world_size}): "
                "use fewer devices, or set data.batch_seconds, or data.batch_tokens of conversations, lower"
            )

    def __len__(self) -> int:
        return self.num_batches

    def epoch(self, number: int) -> list[Ints]:
        """Row numbers of each batch, to which `number * num_rows` is added so that they tell the epoch."""
        rng = np.random.default_rng([self.seed, number])
        batches = [part for rows, parts in self.buckets for part in np.array_split(rng.permutation(rows), parts)]
        order = rng.permutation(len(batches))[: self.num_batches * self.world_size]
        return [batches[i] + number * self.num_rows for i in order[self.rank :: self.world_size]]


@final
class SortedBatches(Sampler[list[int]]):
    """Every row once, by length, for validation; as many batches on every rank.

    Args:
        durations: As of `BucketedBatches`.
        batch_seconds: Most of these of a batch, padding counted.
        max_rows: Most rows of a batch.
        rank: Of this process.
        world_size: Number of ranks.

    Raises:
        UserError: If there are fewer rows than ranks.
    """

    def __init__(
        self, durations: np.ndarray, *, batch_seconds: float, max_rows: int, rank: int = 0, world_size: int = 1
    ):
        if len(durations) < world_size:
            raise UserError(f"{len(durations)} rows cannot be shared out over {world_size} ranks")
        batches = [part for rows, parts in _buckets(durations, batch_seconds, max_rows, spread=1.0)
                   for part in np.array_split(rows, parts)]  # fmt: skip
        while len(batches) % world_size:  # enough rows are there: some batch has two or more
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            batches[largest : largest + 1] = np.array_split(batches[largest], 2)
        self.batches = [batch.tolist() for batch in batches[rank::world_size]]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def _buckets(
    durations: np.ndarray, batch_seconds: float, max_rows: int, *, spread: float = _SPREAD
) -> list[tuple[Ints, int]]:
    """Rows of similar length, and into how many batches they go."""
    order = np.argsort(durations, kind="stable")
    buckets, first = [], 0

    def size(last: int) -> int:
        """Rows of a batch whose longest is the `last` in order."""
        return max(1, min(max_rows, int(batch_seconds / max(durations[order[last]], 1e-3))))

    while first < len(order):
        last = first
        while last + 1 < len(order):
            similar = durations[order[last + 1]] <= spread * durations[order[first]]
            if not similar and last + 1 - first >= size(last):
                break
            if not similar and last + 1 - first >= size(last + 1):
                break  # one longer utterance more would only make room for fewer
            last += 1
        rows = order[first : last + 1]
        buckets.append((rows, -(-len(rows) // size(last))))
        first = last + 1
    return buckets
