"""Marks of pauses in a text to speak: `[pause 0.5]`."""

import re
from typing import NamedTuple, final

from omni.errors import UserError

LONGEST = 10.0  # seconds
_NAME = "[pause"
_WIDTH = 32  # most characters of a mark: a stream waits for no more
_SECONDS = re.compile(r"\s+(\d{1,3}(?:\.\d*)?|\.\d+)\s*s?\s*", re.ASCII)


class PauseMark(NamedTuple):
    """A mark of a pause, valid or not.

    Attributes:
        text: As in the text.
    """

    text: str

    @property
    def seconds(self) -> float:
        """Seconds of silence.

        Raises:
            UserError: If the mark is not valid.
        """
        found = _SECONDS.fullmatch(self.text[len(_NAME) : -1]) if self.text.endswith("]") else None
        if found is None or float(found[1]) > LONGEST:
            raise UserError(f"{self.text!r} is not a pause: write [pause 0.5], 0 to {LONGEST:g} seconds")
        return float(found[1])


@final
class PauseSplitter:
    """Splits a text that arrives in pieces at its marks of pauses.

    Whatever starts with `[pause`, in upper or lower case, is a mark, unless a letter, digit or underscore follows. One
    without a closing bracket on the same line, within 32 characters, is not valid; it ends where the next word would.
    Joined, the result does not depend on the pieces.
    """

    def __init__(self) -> None:
        self._rest = ""

    def push(self, text: str) -> list[str | PauseMark]:
        """Adds text; returns the text and marks that are complete. The start of a possible mark waits."""
        self._rest += text
        return self._split(last=False)

    def finish(self) -> list[str | PauseMark]:
        """The rest."""
        return self._split(last=True)

    def _split(self, *, last: bool) -> list[str | PauseMark]:
        found: list[str | PauseMark] = []
        start = 0
        while (at := self._rest.find("[", start)) >= 0:
            length = _mark_length(self._rest[at : at + _WIDTH + 1], last=last)
            if length is None:
                break
            if length:
                found += [self._rest[:at], PauseMark(self._rest[at : at + length])]
                self._rest, start = self._rest[at + length :], 0
            else:
                start = at + 1
        end = len(self._rest) if at < 0 else at
        text, self._rest = self._rest[:end], self._rest[end:]
        return [piece for piece in (*found, text) if piece]


def split_pauses(text: str) -> list[str | PauseMark]:
    """The text between marks of pauses, and the marks, in order; see `PauseSplitter`."""
    splitter = PauseSplitter()
    return [*splitter.push(text), *splitter.finish()]


def _mark_length(text: str, *, last: bool) -> int | None:
    """Number of characters of the mark at the start of the text: 0 if there is none, None if more text decides.

    Args:
        text: From a bracket on, at most a character more than a mark has.
        last: Whether no more text follows.
    """
    size = len(_NAME)
    if text[:size].lower() != _NAME[: len(text)]:
        return 0
    if len(text) <= size and not last:
        return None
    if len(text) < size or (len(text) > size and (text[size].isalnum() or text[size] == "_")):
        return 0
    inside = re.match(r"[^\[\]\n]*", text[size:_WIDTH])
    assert inside is not None
    end = size + inside.end()
    if text[end : end + 1] == "]" and end < _WIDTH:
        return end + 1
    if end == len(text) and end < _WIDTH and not last:
        return None
    return size
