"""Rows that are left out, and why."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from omni.errors import UserError

_NAMED = 3  # rows that are named for each reason
_REASONS = 10  # that are reported in a line each
_ROW = re.compile(r"(.*?: row \d+): (.*)", re.DOTALL)


class SkippedRow(NamedTuple):
    """A row that is left out.

    Attributes:
        where: File and row.
        reason: Why, the same text for all rows of that kind.
    """

    where: str
    reason: str

    @staticmethod
    def of(error: UserError, source: str) -> "SkippedRow":
        """A row that is left out for an error, whose message starts with the row's name, or else the source's."""
        if match := _ROW.fullmatch(str(error)):
            return SkippedRow(*match.groups())
        return SkippedRow(source, str(error).removeprefix(f"{source}: "))


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
    reasons = Counter(row.reason for row in skipped).most_common()
    total = used + len(skipped)
    for reason, number in reasons[:_REASONS]:
        named = ", ".join(islice((row.where for row in skipped if row.reason == reason), _NAMED))
        more = f" and {number - _NAMED} more" if number > _NAMED else ""
        rank_zero_warn(f"{split}: {number} of {total} rows left out: {reason} ({named}{more})")
    if others := sum(number for _, number in reasons[_REASONS:]):
        rank_zero_warn(f"{split}: {others} of {total} rows left out for {len(reasons) - _REASONS} other reasons")
