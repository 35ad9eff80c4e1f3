"""What a data module reads, counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from omni.data.loading.bucketing import BucketedBatches

ROW_BYTES = 12_000  # of a row with its texts and labels; measured: 8 kB an utterance, 12 an image, 13 a conversation

Unit = Literal["tokens", "hours", "images", "conversations"]


@final
@dataclass(frozen=True, kw_only=True)
class DataStatistics:
    """The amount of data and the sizes of batches, from which the length of a run is derived.

    Attributes:
        unit: What the amount of data is measured in.
        counts: Numbers to show, by split and name: `{"train": {"utterances": 948, "hours": 0.72}}`. A stream has no
            `train`.
        batch_argument: Argument of the data module that sets the size of a training batch on each device.
        batch_size: Its value.
        smallest_batch: Least value that it may have.
        train_sizes: (items,) size of each item of an epoch in the unit of `batch_argument`; None for a stream.
        max_rows: Most rows of a batch; None if `batch_argument` counts rows.
        val_batches: Batches of a validation.
        classes: Number of classes of the labels; None without labels.
        memory: Bytes of the rows, and of the images, that are kept in memory while training.
    """

    unit: Unit
    counts: Mapping[str, Mapping[str, float]]
    batch_argument: str
    batch_size: float
    smallest_batch: float
    train_sizes: np.ndarray | None
    max_rows: int | None
    val_batches: int
    classes: int | None = None
    memory: int = 0

    @property
    def amount(self) -> float | None:
        """Training data in `unit`; None for a stream."""
        return self.counts["train"][self.unit] if "train" in self.counts else None

    def described(self) -> dict[str, str]:
        """The counts of each split in a line."""
        return {
            split: ", ".join(
                f"{value:,.2f} {name}" if isinstance(value, float) else f"{value:,} {name}"
                for name, value in numbers.items()
                if value
            )
            for split, numbers in self.counts.items()
        }

    def train_batches(self, batch_size: float) -> int | None:
        """Batches of an epoch on one device with another size of batch; None for a stream."""
        if self.train_sizes is None:
            return None
        if self.max_rows is None:
            return max(1, len(self.train_sizes) // int(batch_size))
        return len(BucketedBatches(self.train_sizes, capacity=batch_size, max_rows=self.max_rows))
