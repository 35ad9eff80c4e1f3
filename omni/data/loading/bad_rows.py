"""Rows that cannot be read: they end a run, or are left out, named and counted."""

import warnings
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Literal, NamedTuple, TypeVar, final

import torch
from lightning.pytorch.utilities import rank_zero_warn

from omni.errors import UserError

BadRows = Literal["error", "skip"]
Item = TypeVar("Item")

_NAMED = 3  # rows that a summary names
_ANNOUNCED = 10  # rows that are named one by one while training; after these, every hundredth is


class BadRowPolicy(NamedTuple):
    """What is done about rows that cannot be read.

    Attributes:
        skip: Whether they are left out; otherwise the first ends the run.
        limit: Largest number of rows that are left out.
    """

    skip: bool = False
    limit: int = 1000


class RowErrors:
    """Errors of the rows of a split: the first is raised, or the rows are left out and counted, each once.

    Args:
        split: Name of the split.
        policy: What is done about them.
        at_once: Whether the rows are named when they are found (the first ten, then every hundredth), instead of all
            together by `report`.
    """

    def __init__(self, split: str, policy: BadRowPolicy, *, at_once: bool = False) -> None:
        self.split, self.policy, self.at_once = split, policy, at_once
        self._messages: dict[str, None] = {}  # in the order of their rows

    def __len__(self) -> int:
        """Number of rows that are left out."""
        return len(self._messages)

    def add(self, error: UserError, *, count: int | None = None) -> None:
        """Counts a row that cannot be read, once for each message.

        Args:
            error: What is wrong with it; the message names the row.
            count: Number of rows that are left out, if the caller counts them.

        Raises:
            UserError: The error, unless rows are left out; or if there are more of them than the limit.
        """
        if not self.policy.skip:
            raise UserError(f"{error} (data.init_args.bad_rows: skip leaves such rows out)") from error
        if count is None and str(error) in self._messages:
            return
        self._messages[str(error)] = None
        count = count or len(self)
        if self.at_once and (count <= _ANNOUNCED or count % 100 == 0):
            number = "" if count == 1 else f" ({count} rows so far)"
            warnings.warn(f"{self.split}: left out: {error}{number}", stacklevel=2)  # on any rank
        if count > self.policy.limit:
            raise UserError(
                f"data.{self.split}: more than {self.policy.limit} rows cannot be used (data.init_args.max_bad_rows); "
                f"the first: {self._first()}",
                page="faq.md#rows-are-missing",
            )

    def while_training(self) -> "RowErrors":
        """The same errors, to which those are added that are found while training; these are reported at once."""
        errors = RowErrors(self.split, self.policy, at_once=True)
        errors._messages = dict(self._messages)
        return errors

    def _first(self) -> str:
        return "; ".join(islice(self._messages, _NAMED))

    def summary(self) -> str:
        """The number of the rows that are left out, and the first; empty if there are none."""
        return f"{self.split}: {len(self)} rows are left out, the first: {self._first()}" if self._messages else ""

    def report(self) -> None:
        """Warns of the rows that are left out."""
        if self._messages:
            rank_zero_warn(self.summary())


@final
class BatchReader:
    """Reads the rows of batches. Those that turn out to be unreadable are left out, and counted once a row.

    All workers of a data loader count together.

    Args:
        errors: Of the rows of the split before training.
        num_items: Items of an epoch.
        num_rows: Rows of the data set, if an item is one of several rows.
        row_of: The row that an item is; by default its own number, in any epoch.
    """

    def __init__(
        self,
        errors: RowErrors,
        num_items: int,
        *,
        num_rows: int | None = None,
        row_of: Callable[[int], int] | None = None,
    ) -> None:
        self.errors, self.num_items, self.row_of = errors.while_training(), num_items, row_of
        self._before = len(errors)
        self._unreadable = torch.zeros(num_rows or num_items, dtype=torch.bool).share_memory_()

    def read(self, numbers: Sequence[int], read: Callable[[int], Item]) -> list[Item]:
        """The items of a batch that can be read.

        If there are none, the next item of the epoch that can be read takes their place. So a batch depends on nothing
        but its numbers and the files, and a resumed run reads the same.

        Args:
            numbers: Of the items; those beyond the last are the same items in later epochs.
            read: Reads an item.

        Raises:
            UserError: The first error, unless rows are left out; or if there are more of them than the limit.
        """
        items = [item for number in numbers if (item := self._attempt(number, read)) is not None]
        if items:
            return items
        epoch, index = divmod(numbers[0], self.num_items)
        for later in range(index + 1, index + self.num_items):
            item = self._attempt(epoch * self.num_items + later % self.num_items, read)
            if item is not None:
                return [item]
        raise UserError(f"no row of data.{self.errors.split} can be read: look at the data with `omni data check`")

    def _attempt(self, number: int, read: Callable[[int], Item]) -> Item | None:
        try:
            return read(number)
        except UserError as error:
            row = number % self.num_items if self.row_of is None else self.row_of(number)
            if not self._unreadable[row]:
                self._unreadable[row] = self.errors.policy.skip
                self.errors.add(error, count=self._before + int(self._unreadable.sum()))
            return None
