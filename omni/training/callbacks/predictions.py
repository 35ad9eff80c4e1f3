"""The output of `omni predict`: predictions of all ranks in one file, in the order of the data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from omni.errors import UserError
from omni.training.trainer import leaves_files, run_folder


class WritePredictions(BasePredictionWriter):
    """Writes the output of `omni predict`, a list with one entry per batch, to `predictions.pt` in the run's folder.

    Rows are in the order of the data, each once, whatever the number of ranks.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")
        self._rows: list[list[int]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discards the rows of an earlier prediction."""
        self._rows = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Records the batch's row numbers."""
        self._rows.append(batch.rows.tolist())

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Any, batch_indices: Any
    ) -> None:
        """Writes the file on rank 0, from the shares of all ranks."""
        if not leaves_files(trainer):
            return
        path = Path(run_folder(trainer)) / "predictions.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if trainer.world_size > 1:
            save_share(Predictions(self._rows, predictions), path, trainer.global_rank)
            trainer.strategy.barrier("predictions")
        if trainer.is_global_zero:
            merged = predictions if trainer.world_size == 1 else merge_shares(path, trainer.world_size)
            torch.save(merged, path)
        rank_zero_info(f"predictions: {path}")


class Predictions(NamedTuple):
    """The predictions of one rank.

    Attributes:
        rows: For each batch, the numbers of its rows in the data set.
        batches: For each batch, the result of `predict_step`: a tensor (batch, ...), a list with one entry per row, or
            a dict of these.
    """

    rows: list[list[int]]
    batches: list[Any]


def save_share(share: Predictions, path: Path, rank: int) -> None:
    """Writes the predictions of one rank beside `path`, for `merge_shares`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tuple(share), _share_path(path, rank))


def merge_shares(path: Path, world_size: int) -> list[Any]:
    """Reads the shares of all ranks, and deletes them.

    Args:
        path: As given to `save_share`.
        world_size: Number of ranks.

    Returns:
        The batches of a prediction on one rank.

    Raises:
        UserError: If the share of a rank is missing.
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
    """The rows of all ranks in order, each once, in batches as large as the largest of any rank."""
    found: dict[int, tuple[Any, int]] = {}
    for share in shares:
        for numbers, batch in zip(share.rows, share.batches, strict=True):
            found |= {number: (batch, index) for index, number in enumerate(numbers)}
    size = max((len(numbers) for share in shares for numbers in share.rows), default=1)
    rows = [found[number] for number in sorted(found)]
    return [_batch(rows[start : start + size]) for start in range(0, len(rows), size)]


def _batch(rows: Sequence[tuple[Any, int]]) -> Any:
    """A batch made of rows, each given as a batch and its index in it."""
    kind = rows[0][0]
    if isinstance(kind, Mapping):
        return {key: _batch([(batch[key], index) for batch, index in rows]) for key in kind}
    chosen = [batch[index] for batch, index in rows]
    return torch.stack(chosen) if isinstance(kind, Tensor) else chosen


def _share_path(path: Path, rank: int) -> Path:
    return path.with_name(f".{path.name}.rank{rank}")
