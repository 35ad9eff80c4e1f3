"""Bases of the data modules: splits that are found once by each process, loaders for all of them, streams."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Sampler

from omni.data.loading.bucketing import BucketedBatches, SortedBatches, padding_share
from omni.data.loading.resumable import OrderedBatches, ResumableData, ShuffledBatches
from omni.data.loading.statistics import ROW_BYTES, DataStatistics, Unit
from omni.data.loading.streaming import SourceStream, StreamLoader
from omni.distributed import all_agree
from omni.errors import UserError

Plan = TypeVar("Plan")


class SplitData(ResumableData, ABC, Generic[Plan]):
    """Abstract: a data module with the splits `train`, `val` and `test`, of which `train` may be a stream.

    Args:
        entries: Names of the sources of each split, as its configuration has them; None for a split that is not given.
        streaming: Read `train` while training, for data too large to prepare. Resuming reads up to its place again.
        num_workers: Processes that load batches; 0: the training process does.
        seed: Of shuffling and augmentation.
        cache_dir: Folder of downloads and of whatever is computed once.

    Attributes:
        entries: The same, as lists.
        datasets: The data set of each split; after `setup`.
    """

    only_of_streams: ClassVar[frozenset[str]] = frozenset({"num_workers", "shuffle_buffer"})
    """Constructor arguments that change the order of a stream and nothing else."""

    row_name: ClassVar[str] = "rows"
    """What error messages call the rows."""

    val_fraction: float = 0.1
    shuffle_buffer: int = 1

    def __init__(
        self,
        entries: Mapping[str, str | Sequence[str] | Mapping[str, float] | None],
        *,
        streaming: bool = False,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = "data/cache",
    ):
        super().__init__(num_workers=num_workers, seed=seed)
        self.entries = {
            split: [given] if isinstance(given, str) else list(given)
            for split, given in entries.items()
            if given is not None
        }
        self.cache_dir = Path(cache_dir).expanduser()
        self.streaming = streaming
        self.datasets: dict[str, Any] = {}
        self._plan: Plan | None = None
        self._starts = [0]  # of the passes over the stream, in batches

    # ------------------------------------------------------------------ splits

    @abstractmethod
    def make_plan(self, *, may_write: bool) -> Plan:
        """Finds what each split reads.

        Args:
            may_write: Whether this process may write to `cache_dir`.
        """

    @abstractmethod
    def open_splits(self, plan: Plan) -> None:
        """Fills `datasets`."""

    def plan(self, *, may_write: bool = False) -> Plan:
        """What each split reads, found once by each process."""
        if self._plan is None:
            self._plan = self.make_plan(may_write=may_write)
        return self._plan

    def setup(self, stage: str | None = None) -> None:
        if self.datasets:
            return
        if self.trainer is None:
            self.prepare_data()
        self.open_splits(self.plan())

    @abstractmethod
    def statistics(self) -> DataStatistics:
        """Counts the training and validation data, prepared as for training, without reading media.

        Needs no trainer. Of a stage that sets up its data, `configure_data` must be called before.
        """

    def dataset(self, split: str) -> Any:
        """The data set of a split.

        Raises:
            UserError: If the split is not given.
        """
        if split not in self.datasets:
            raise UserError(f"there are no {self.row_name} to {split} on: give data.init_args.{split}")
        return self.datasets[split]

    # ------------------------------------------------------------------ loaders

    @abstractmethod
    def eval_batches(self, split: str) -> Sampler[list[int]]:
        """The batches of `val` or `test`: every row once, the same number on every rank."""

    def stream(self) -> SourceStream[Any, Any]:
        """The stream of training batches."""
        raise NotImplementedError(f"{type(self).__name__} has no stream")

    def train_dataloader(self) -> DataLoader[Any]:
        if self.streaming:
            return self.stream_loader(self.stream())
        return self.loader(self.dataset("train"), self.train_batches())

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.dataset("val"), self.eval_batches("val"))

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.dataset("test"), self.eval_batches("test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        # Lightning wraps the sampler to know which rows a prediction is of; it cannot wrap a custom batch sampler.
        loader, share = self.test_dataloader(), self.rank()
        rows = range(share["rank"], len(self.dataset("test")), share["world_size"])
        batch_size = getattr(self, "val_batch_size", None) or getattr(self, "batch_size", 8)
        return DataLoader(loader.dataset, batch_size=batch_size, sampler=rows, collate_fn=loader.collate_fn)

    def stream_loader(self, stream: SourceStream[Any, Any]) -> StreamLoader:
        """A loader of all passes over a stream.

        Raises:
            UserError: If `overfit_batches` asks for rows again.
        """
        trainer: Any = self.trainer
        if trainer is not None and trainer.overfit_batches:
            raise UserError("trainer.overfit_batches needs rows that can be read again: set data.streaming to false")
        options = self.loader_options() | {"persistent_workers": False}  # only new workers see the next pass's number
        return StreamLoader(stream, position=self.position, starts=self._starts, agree=all_agree, **options)

    @property
    def stream_options(self) -> dict[str, Any]:
        """Arguments of every `SourceStream`."""
        return {"buffer": self.shuffle_buffer, "seed": self.seed, **self.rank()}

    # ------------------------------------------------------------------ resuming a stream

    @property
    def stream_identity(self) -> str:
        """What the order of the stream depends on, apart from the number of its readers."""
        return f"{self.fingerprint} {self.shuffle_buffer}"

    def state_dict(self) -> dict[str, Any]:
        if not self.streaming or self.trainer is None:
            return super().state_dict()
        return {"finished": self._finished(), "starts": list(self._starts), "stream": self._stream_hash()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.streaming or self.trainer is None or not self.trainer.training:
            super().load_state_dict(state_dict)
            return
        self._starts[:] = state_dict["starts"]
        if state_dict["stream"] != self._stream_hash():
            self._starts.append(state_dict["finished"])
            rank_zero_warn(
                "The stream has changed since the checkpoint (data, devices, workers or batches): starting a new pass"
            )

    def _stream_hash(self) -> str:
        shares = self.rank()["world_size"] * max(1, self.num_workers)
        return hashlib.sha256(f"{self.stream_identity} {shares} {self.seed}".encode()).hexdigest()

    # ------------------------------------------------------------------ arguments

    def check_arguments(self, **limits: float) -> None:
        """Checks what all data modules have in common.

        Args:
            **limits: Smallest value of each argument.

        Raises:
            UserError: If an argument is out of range, or a split is an empty list.
        """
        for name, limit in {**limits, "shuffle_buffer": 1, "num_workers": 0, "seed": 0, **limits}.items():
            value = getattr(self, name)
            if value is not None and value < limit:
                raise UserError(f"data.{name} is {value}: it must be {limit} or more")
        if not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction is {self.val_fraction}: it must lie between 0 and 1")
        for split, names in self.entries.items():
            if not names:
                raise UserError(f"data.{split} is an empty list: name a file, a folder or hub:OWNER/NAME")


class FixedSizeData(SplitData[Plan], ABC):
    """Abstract: a data module whose batches have a fixed number of rows.

    Attributes:
        batch_size: Rows of a training batch on each device.
        val_batch_size: Rows of a validation batch; None: as many.
    """

    batch_size: int
    val_batch_size: int | None

    def train_batches(self) -> ShuffledBatches:
        rows = len(self.dataset("train"))
        return ShuffledBatches(rows, self.batch_size, seed=self.seed, position=self.position, **self.rank())

    def eval_batches(self, split: str) -> OrderedBatches:
        return OrderedBatches(len(self.dataset(split)), self.val_batch_size or self.batch_size, **self.rank())

    def statistics_of(
        self,
        unit: Unit,
        counts: Mapping[str, Mapping[str, float]],
        rows: Mapping[str, int],
        *,
        classes: int | None = None,
        memory: int = 0,
    ) -> DataStatistics:
        """Statistics from the number of rows of each split.

        Args:
            unit: See `DataStatistics`.
            counts: See `DataStatistics`.
            rows: Number of rows of a split; without `train` for a stream.
            classes: See `DataStatistics`.
            memory: See `DataStatistics`.
        """
        return DataStatistics(
            unit=unit,
            counts=counts,
            batch_argument="batch_size",
            batch_size=self.batch_size,
            smallest_batch=1,
            train_sizes=np.ones(rows["train"]) if "train" in rows else None,
            max_rows=None,
            val_batches=-(-rows["val"] // (self.val_batch_size or self.batch_size)),
            classes=classes,
            memory=memory,
        )


class BucketedData(SplitData[Plan], ABC):
    """Abstract: a data module with batches of rows of similar size.

    Attributes:
        max_batch_rows: Largest number of rows of a batch.
    """

    max_batch_rows: int

    @property
    @abstractmethod
    def batch_capacity(self) -> float:
        """Largest total size of a batch on each device, padding counted."""

    @abstractmethod
    def sizes(self, split: str) -> np.ndarray:
        """(rows,) the size of each row."""

    def train_batches(self) -> BucketedBatches:
        return BucketedBatches(
            self.sizes("train"), seed=self.seed, position=self.position, **self.batch_limits, **self.rank()
        )

    def eval_batches(self, split: str) -> SortedBatches:
        return SortedBatches(self.sizes(split), **self.batch_limits, **self.rank())

    @property
    def batch_limits(self) -> dict[str, Any]:
        """`capacity` and `max_rows` of a batch."""
        return {"capacity": self.batch_capacity, "max_rows": self.max_batch_rows}

    def statistics_of(
        self,
        unit: Unit,
        counts: Mapping[str, Mapping[str, float]],
        sizes: Mapping[str, np.ndarray],
        *,
        batch_argument: str,
        smallest_batch: float,
    ) -> DataStatistics:
        """Statistics from the size of each row.

        Args:
            unit: See `DataStatistics`.
            counts: See `DataStatistics`.
            sizes: (rows,) sizes of the rows of a split; without `train` for a stream.
            batch_argument: See `DataStatistics`.
            smallest_batch: See `DataStatistics`.
        """
        return DataStatistics(
            unit=unit,
            counts=counts,
            batch_argument=batch_argument,
            batch_size=self.batch_capacity,
            smallest_batch=smallest_batch,
            train_sizes=sizes.get("train"),
            max_rows=self.max_batch_rows,
            val_batches=len(SortedBatches(sizes["val"], **self.batch_limits)),
            memory=ROW_BYTES * sum(map(len, sizes.values())),
        )

    def report_batches(self) -> None:
        """Prints the number of training batches and their share of padding."""
        batches = self.train_batches()
        share = padding_share(self.sizes("train"), [batch % batches.num_rows for batch in batches.epoch(0)])
        rank_zero_info(f"train: {len(batches)} batches an epoch, {share:.1%} padding")
