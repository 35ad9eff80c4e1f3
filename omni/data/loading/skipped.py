"""Rows that are left out, and why."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from omni.errors import UserError


class SkippedRow(NamedTuple):
    """A row that is left out.

    Attributes:
        where: File and row.
        reason: Why, the same text for all rows of that kind.
    """

    where: str
    reason: str


def report_skipped(split: str, skipped: Sequence[SkippedRow], used: int) -> None:
    """Warns of the rows of a split that are left out, by reason.

    Raises:
        UserError: If no row is used.
    """
    if not used:
        if not skipped:
            raise UserError(f"data.{split} has no rows: name a file or a folder that has some")
        first = f"the first, {skipped[0].where}: {skipped[0].reason}"
        raise UserError(f"data.{split} has no row that can be used ({len(skipped)} rows left out); {first}")
    for reason, number in Counter(row.reason for row in skipped).most_common():
        example = next(row.where for row in skipped if row.reason == reason)
        rank_zero_warn(f"{split}: {number} of {used + len(skipped)} rows left out: {reason} ({example})")
