"""Streams: sources that are read while training, for corpora too large to be prepared."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Generic, Protocol, TypeVar, final

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from omni.data.loading.bucketing import BucketedBatches
from omni.errors import UserError

Row = TypeVar("Row")
RowOut = TypeVar("RowOut", covariant=True)
Item = TypeVar("Item")
Batch = TypeVar("Batch")


class Streamable(Protocol[RowOut]):
    """A source that can be read in shares."""

    def stream(self, share: int, shares: int, seed: int) -> Iterator[RowOut]:
        """The rows of one of `shares` disjoint shares; if the source consists of parts, `seed` shuffles those."""
        ...


class SourceStream(IterableDataset[Batch], ABC, Generic[Row, Batch]):
    """Abstract: one pass over sources; every rank and worker reads its own share of the rows.

    The batches depend on nothing but the arguments and `epoch`.

    Args:
        sources: What is read.
        buffer: Number of rows that are shuffled together.
        seed: Of the shuffling.
        rank: Of this process.
        world_size: Number of ranks.

    Attributes:
        epoch: Number of the pass.
    """

    def __init__(
        self,
        sources: Sequence[Streamable[Row]],
        *,
        buffer: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.sources, self.buffer, self.seed = sources, buffer, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        return self.batches(self.rank * workers + number, self.world_size * workers)

    @abstractmethod
    def batches(self, share: int, shares: int) -> Iterator[Batch]:
        """The batches of one of `shares` disjoint shares."""

    @property
    def pass_seed(self) -> int:
        """A seed of this pass, 0 or more."""
        return int(np.uint32(self.seed + self.epoch))

    def rows(self, share: int, shares: int) -> Iterator[Row]:
        """The rows of a share, source after source in random order."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.sources))
        # The share rotates with the sources: of many sources with a single row each, every share reads some.
        return chain.from_iterable(
            self.sources[source].stream((share + turn) % shares, shares, self.pass_seed)
            for turn, source in enumerate(order)
        )


class BucketedStream(SourceStream[Row, Batch], Generic[Row, Item, Batch]):
    """Abstract: a stream in batches of similar size. Rows that cannot be used are left out and counted.

    `buffer` rows at a time are kept in memory, sorted into batches and shuffled.

    Args:
        sources: What is read.
        capacity: Largest total size of a batch, padding counted.
        max_rows: Largest number of rows of a batch.
        **options: Of `SourceStream`.
    """

    def __init__(self, sources: Sequence[Streamable[Row]], *, capacity: float, max_rows: int, **options: Any):
        super().__init__(sources, **options)
        self.capacity, self.max_rows = capacity, max_rows

    @abstractmethod
    def load(self, number: int, row: Row, skipped: Counter[str]) -> Item | None:
        """Reads a row.

        Args:
            number: Of the row in all shares of the pass.
            row: As its source has it.
            skipped: Counts the rows that cannot be used, by reason.

        Returns:
            What batches are made of; None if the row cannot be used.
        """

    @abstractmethod
    def size(self, item: Item) -> float:
        """The size of a row, in the unit of `capacity`."""

    @abstractmethod
    def collate(self, items: list[Item]) -> Batch:
        """Makes a batch."""

    def batches(self, share: int, shares: int) -> Iterator[Batch]:
        skipped: Counter[str] = Counter()
        rows = enumerate(self.rows(share, shares))
        loaded = (self.load(share + number * shares, row, skipped) for number, row in rows)
        usable = (item for item in loaded if item is not None)
        limits: Any = {"capacity": self.capacity, "max_rows": self.max_rows}
        block = 0
        while items := list(islice(usable, self.buffer)):
            sizes = np.array([self.size(item) for item in items])
            for batch in BucketedBatches(sizes, seed=self.seed + self.epoch, **limits).epoch(block):
                yield self.collate([items[number] for number in batch - block * len(items)])
            block += 1
        if skipped:
            counts = ", ".join(f"{number} {reason}" for reason, number in skipped.most_common())
            rank_zero_warn(f"train: rows left out of pass {self.epoch}: {counts}")


@final
class StreamLoader(DataLoader[Any]):
    """Passes over a stream, one after the other, that can start at any batch by reading up to it again.

    An iteration continues where the last one stopped, since a trainer may cut its epochs short, and ends with the pass.

    Args:
        stream: The data.
        position: Returns the number of batches of all passes that are done; None: all that were drawn.
        starts: The batch at which each pass starts, as far as known; this list is kept up to date.
        agree: Whether all ranks have another batch: no rank may continue alone.
        **options: Of the DataLoader.
    """

    def __init__(
        self,
        stream: SourceStream[Any, Any],
        *,
        position: Callable[[], int | None],
        starts: list[int],
        agree: Callable[[bool], bool] = bool,
        **options: Any,
    ):
        super().__init__(stream, batch_size=None, **options)
        self._stream = stream
        self._position = position
        self._starts = starts
        self._agree = agree
        self._iterator = None  # of the current pass; Lightning looks here for workers to stop
        self._drawn = starts[-1]  # batches of all passes so far

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        position = self._position()
        if position is None:
            position = self._drawn
        if self._iterator is None or position != self._drawn:
            self._seek(position)
        while (batch := self._draw()) is not None:
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Empty: Lightning takes a loader as resumable if it has this method and the next."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass

    def _seek(self, position: int) -> None:
        number = bisect_right(self._starts, position) - 1
        del self._starts[number + 1 :]
        self._stream.epoch = number
        self._iterator = super().__iter__()
        self._drawn = self._starts[number]
        skipped = position - self._drawn
        if skipped:
            rank_zero_info(f"Reading pass {number} of the stream again up to batch {skipped}, where training resumes")
        for _ in tqdm(range(skipped), desc="reading again", disable=None if skipped else True):
            if next(self._iterator, None) is None:
                raise UserError(f"the stream ends before batch {skipped}, where training resumes: it has changed")
            self._drawn += 1

    def _draw(self) -> Any:
        assert self._iterator is not None
        batch = next(self._iterator, None)
        if self._agree(batch is not None):
            self._drawn += 1
            return batch
        if self._drawn == self._starts[-1]:
            raise UserError("the stream holds no batch for some rank: use fewer devices or more data")
        self._starts.append(self._drawn)
        self._iterator = None
        return None
