"""The rows of each batch: shuffled in each epoch, distributed over ranks, and resumed exactly."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, final

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from omni.errors import UserError

Ints = NDArray[np.integer]


class EpochBatches(Sampler[list[int]], ABC):
    """Abstract: an endless sequence of batches, epoch after epoch, that can start at any batch.

    An iteration yields as many batches as an epoch has, from the batch `position` on.

    Args:
        seed: Of the shuffling.
        rank: Of this process.
        world_size: Number of ranks.
        position: Returns the number of batches of the sequence that are done; None for whole epochs, one an iteration.
    """

    def __init__(
        self, *, seed: int = 0, rank: int = 0, world_size: int = 1, position: Callable[[], int | None] | None = None
    ):
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.position = position or (lambda: None)
        self._iterations = 0

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches of an epoch, the same in every epoch and on every rank."""

    @abstractmethod
    def epoch(self, number: int) -> Sequence[Ints] | Ints:
        """The row numbers of each batch of an epoch."""

    def __iter__(self) -> Iterator[list[int]]:
        position = self.position()
        if position is None:
            position = self._iterations * len(self)
        self._iterations += 1  # not in `iter`, which a DataLoader calls twice when its workers start
        yield from islice(self._sequence(position), len(self))

    def _sequence(self, position: int) -> Iterator[list[int]]:
        number, done = divmod(position, len(self))
        while True:
            yield from (batch.tolist() for batch in self.epoch(number)[done:])
            number, done = number + 1, 0


@final
class ShuffledBatches(EpochBatches):
    """Batches of equal size from a permutation that depends on seed and epoch only.

    Batch `b` of all ranks together is the same set of rows for any number of ranks. The remaining rows of an epoch are
    dropped; they differ from epoch to epoch.

    Args:
        num_rows: Rows of the data set.
        batch_size: Rows of a batch on each rank; if a rank's share holds fewer, its only batch is that small.
        **options: Of `EpochBatches`.

    Raises:
        UserError: If there are fewer rows than ranks.
    """

    def __init__(self, num_rows: int, batch_size: int, **options: Any):
        super().__init__(**options)
        _check_share(num_rows, self.world_size)
        self.num_rows = num_rows
        self.batch_size = min(batch_size, num_rows // self.world_size)
        if self.batch_size < batch_size:
            rank_zero_info(f"The training data has {num_rows} rows: one batch of {self.batch_size} a rank and epoch")

    def __len__(self) -> int:
        return self.num_rows // self.world_size // self.batch_size

    def epoch(self, number: int) -> Ints:
        order = np.random.default_rng([self.seed, number]).permutation(self.num_rows)
        share = order[self.rank :: self.world_size][: len(self) * self.batch_size]
        return share.reshape(len(self), self.batch_size)


@final
class OrderedBatches(Sampler[list[int]]):
    """Every row once, in order, for validation; every rank has the same number of batches, of about the same size.

    Args:
        num_rows: Rows of the data set.
        batch_size: Largest number of rows of a batch.
        rank: Of this process.
        world_size: Number of ranks.

    Raises:
        UserError: If there are fewer rows than ranks.
    """

    def __init__(self, num_rows: int, batch_size: int, *, rank: int = 0, world_size: int = 1):
        _check_share(num_rows, world_size)
        largest, smallest = -(-num_rows // world_size), num_rows // world_size
        num_batches = -(-largest // batch_size)
        if smallest < num_batches:  # a row a batch, and not the same number of rows on every rank
            rank_zero_info(
                f"Validation leaves out {num_rows % world_size} rows, so that every rank has the same number of batches"
            )
            num_batches, num_rows = smallest, smallest * world_size
        self.batches = [part.tolist() for part in np.array_split(np.arange(rank, num_rows, world_size), num_batches)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


@final
class ResumableLoader(DataLoader[Any]):
    """A DataLoader that resumes within an epoch. Lightning takes a loader as resumable if it has these two methods.

    It has no state: the position comes from `ResumableData`.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class ResumableData(L.LightningDataModule, ABC):
    """Abstract: a data module that resumes at the exact next batch, whenever the checkpoint was saved.

    Lightning saves the number of training batches that are done, which determines the next one: a trainer's epochs may
    be cut short (`max_steps`, `limit_train_batches`), and those of the data continue.

    Args:
        num_workers: Processes that load batches; 0: the training process does.
        seed: Of the shuffling.
    """

    no_effect: ClassVar[frozenset[str]] = frozenset({"test", "num_workers", "cache_dir"})
    """Constructor arguments that change neither training nor validation. Subclasses add theirs."""

    def __init__(self, *, num_workers: int, seed: int):
        super().__init__()
        self.num_workers = num_workers
        self.seed = seed
        self._fingerprint: str | None = None
        self._num_batches: int | None = None  # of an epoch, as the training loader has them
        self._shift = 0  # position in the data minus Lightning's count: not 0 after the batches have changed

    def __str__(self) -> str:
        return type(self).__name__  # Lightning's would call `train_dataloader`, and so read the data

    @property
    def fingerprint(self) -> str:
        """Identifies, in hex, the content of the data and how it is read; known after `setup`.

        It is computed once: a run keeps the data that it started with, even if the files change, and saving a
        checkpoint does not access each of them.
        """
        if self._fingerprint is None:
            self._fingerprint = self.find_fingerprint()
        return self._fingerprint

    @abstractmethod
    def find_fingerprint(self) -> str:
        """Computes the `fingerprint` from the rows as `setup` read them."""

    @abstractmethod
    def train_batches(self) -> EpochBatches:
        """The sequence of training batches; its position is `self.position`."""

    def position(self) -> int | None:
        """Number of batches of the sequence that are done; None without a trainer."""
        trainer: Any = self.trainer
        if trainer is None:
            return None
        position = self._finished() + self._shift
        if overfit := trainer.overfit_batches:
            position %= overfit if isinstance(overfit, int) else max(1, int(overfit * len(self.train_batches())))
        return position

    def state_dict(self) -> dict[str, Any]:
        if self.trainer is None:
            return {}
        return {
            "finished": self._finished(),
            "shift": self._shift,
            "batches_per_epoch": len(self.train_batches()) if self._num_batches is None else self._num_batches,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.trainer is None or not self.trainer.training:
            return  # the checkpoint is only evaluated
        before, now = state_dict["batches_per_epoch"], len(self.train_batches())
        self._shift = state_dict["shift"]
        if (before, state_dict["fingerprint"], state_dict["seed"]) != (now, self.fingerprint, self.seed):
            position = (state_dict["finished"] + self._shift) * now // before
            self._shift = position - state_dict["finished"]
            rank_zero_warn(
                f"The data, its batches or its seed have changed since the checkpoint ({before} batches an epoch, "
                f"now {now}): resuming at batch {position % now} of epoch {position // now}"
            )

    def loader(self, dataset: Dataset[Any], batches: Sampler[list[int]]) -> ResumableLoader:
        """A loader for a data set whose `__getitems__` returns a whole batch."""
        if isinstance(batches, EpochBatches) and self.trainer is not None:
            self._num_batches = len(batches)
            self._fingerprint = self.fingerprint  # before the first step
        return ResumableLoader(dataset, batch_sampler=batches, collate_fn=_same, **self.loader_options())

    def loader_options(self) -> dict[str, Any]:
        """Arguments of all loaders."""
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "generator": torch.Generator().manual_seed(self.seed),  # so that no loader uses the global one
        }

    def rank(self) -> dict[str, int]:
        """`rank` and `world_size`.

        Raises:
            UserError: If Lightning would distribute the batches a second time.
        """
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        world_size = self.trainer.world_size
        if world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            raise UserError("trainer.use_distributed_sampler is true: set it to false, the data is distributed already")
        return {"rank": self.trainer.global_rank, "world_size": world_size}

    def _finished(self) -> int:
        """Number of training batches that are done.

        `processed` counts a batch before the hooks that save checkpoints, and the total, unlike the current count, is
        never reset.
        """
        trainer: Any = self.trainer
        return trainer.fit_loop.epoch_loop.batch_progress.total.processed


def _check_share(num_rows: int, world_size: int) -> None:
    if num_rows < world_size:
        raise UserError(
            f"{num_rows} rows cannot be distributed over {world_size} ranks: use fewer devices or more data"
        )


def _same(batch: Any) -> Any:
    return batch
