"""The check that losses are finite, on one rank or several."""

from typing import Any, final

import torch
from torch import Tensor

from omni.distributed import gather_objects, sum_over_ranks
from omni.errors import UserError, see


@final
class FiniteLossCheck:
    """Ends training, on every rank, at the first step with a loss that is not finite on one of them.

    On a CPU the error is raised before that optimizer step. On other devices it is raised when a step is logged or a
    checkpoint is saved, because reading the loss earlier would make the host wait for the device.
    """

    def __init__(self) -> None:
        self._bad: Tensor | None = None  # whether a loss of this rank since the last optimizer step is not finite
        self._bad_step: Tensor | None = None  # the first such step on any rank, or -1: the same on all ranks
        self._message: str | None = None  # names the first such batch of this rank, on a CPU

    def add(self, loss: Tensor, batch: Any, *, step: int, batch_idx: int, world_size: int) -> None:
        """Checks the loss of a micro-batch.

        Raises:
            UserError: If it is not finite, on a CPU with a single process.
        """
        bad = ~loss.detach().isfinite()
        self._bad = bad if self._bad is None else self._bad | bad
        if loss.device.type == "cpu" and bad and self._message is None:
            self._message = _message(step, batch_idx, batch)
            if world_size == 1:
                raise UserError(self._message)

    def sum_over_ranks(self, count: Tensor, *, step: int, batches_per_step: int) -> Tensor:
        """Sums a scalar over ranks, and exchanges the result of the check in the same collective.

        Args:
            count: fp32.
            step: The optimizer step.
            batches_per_step: Micro-batches per optimizer step.

        Raises:
            UserError: On a CPU, if a loss of this step is not finite.
        """
        assert self._bad is not None
        # Not the strategy's `reduce`, which calls a barrier first: that makes the host wait for the device.
        count, bad = sum_over_ranks(torch.stack((count, self._bad.float())))
        now = torch.full_like(bad, step, dtype=torch.long)
        first = torch.full_like(now, -1) if self._bad_step is None else self._bad_step
        self._bad_step, self._bad = torch.where((first < 0) & (bad > 0), now, first), None
        if bad.device.type == "cpu":
            self.raise_if_not_finite(batches_per_step=batches_per_step)
        return count

    def raise_if_not_finite(self, *, batches_per_step: int) -> None:
        """Reads the result from the device. Every rank must call it: it is a collective if a loss was not finite.

        Raises:
            UserError: If a loss was not finite; the message names step, batch and, where they are known, rows.
        """
        if self._bad_step is None or (step := int(self._bad_step)) < 0:
            return
        messages = [message for message in gather_objects(self._message) if message is not None]
        raise UserError(messages[0] if messages else _message(step, step * batches_per_step, None))


def _message(step: int, batch_idx: int, batch: Any) -> str:
    rows = getattr(batch, "rows", None)
    where = f", rows {rows.tolist()}" if rows is not None else ""
    return (
        f"the training loss is not finite at step {step} (batch {batch_idx}{where}): lower model.init_args.lr, "
        "raise the precision, or look at these rows; checkpoints written before this step are good"
        + see("faq.md#it-does-not-learn")
    )
