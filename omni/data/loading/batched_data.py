"""Bases of the data modules by their batches: of a fixed number of rows, or of rows of similar size."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from omni.data.loading.bucketing import BucketedBatches, SortedBatches, padding_share
from omni.data.loading.resumable import OrderedBatches, ShuffledBatches
from omni.data.loading.split_data import Plan, SplitData
from omni.data.loading.statistics import ROW_BYTES, DataStatistics, Unit


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
