"""Texts of any length in pieces that are said at once: sentences, and the parts of long ones."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

# Seconds of silence behind a piece, by what ends it: what careful readers leave.
PARAGRAPH, SENTENCE, CLAUSE, WORD = 0.7, 0.35, 0.15, 0.05

_PARAGRAPHS = re.compile(r"\n\s*\n")
_CLOSING = "\"'”’»)\\]"  # what may stand between a sentence's mark and the space behind it
_ENDS = re.compile(rf"[.!?…]+[{_CLOSING}]*(?=\s)|[。！？]+[」』”]*")
_TITLES = {"mr", "mrs", "ms", "dr", "prof", "st", "rev", "gen", "sen", "col", "capt", "lt", "sgt", "mt"}
_ABBREVIATIONS = {*_TITLES, "vs", "cf", "fig", "approx", "e.g", "i.e"}
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_CLAUSES = re.compile(rf"[,;:][{_CLOSING}]*\s|[—–，、；：]|\)\s")
_SPACES = re.compile(r"\s")


class Piece(NamedTuple):
    """A part of a text.

    Attributes:
        text: As it was written, without white space at its ends.
        pause: Seconds of silence behind it, where another one follows.
    """

    text: str
    pause: float


def pieces(text: str, *, most: int = 160, length: Callable[[str], int] = len) -> list[Piece]:
    """Parts a text at paragraphs (blank lines) and sentences, and long sentences near their middle.

    A full stop behind a title or an initial ("Dr. J. Smith") ends no sentence. A sentence that is too long is cut at a
    comma, semicolon, colon or dash of its middle half; if there is none, at a space; a word that is too long, anywhere.

    Args:
        text: Any text.
        most: Greatest length of a piece, over 0.
        length: How long a piece is.

    Returns:
        All of the text but white space, in order.
    """
    found: list[Piece] = []
    for paragraph in _PARAGRAPHS.split(text):
        sentences = [sentence for sentence in _sentences(paragraph) if sentence]
        for sentence in sentences:
            found += _shortened(sentence, SENTENCE, most, length)
        if sentences:
            found[-1] = found[-1]._replace(pause=PARAGRAPH)
    return found


def _sentences(paragraph: str) -> Iterator[str]:
    start = 0
    for mark in _ENDS.finditer(paragraph):
        if not _abbreviates(paragraph[start : mark.start()], mark[0]):
            yield paragraph[start : mark.end()].strip()
            start = mark.end()
    yield paragraph[start:].strip()


def _abbreviates(before: str, mark: str) -> bool:
    """Whether a full stop belongs to the word before it: a title, or a single letter that is an initial."""
    if mark != ".":
        return False
    word = before.rsplit(maxsplit=1)[-1].lstrip("\"'“‘«([").lower() if before.strip() else ""
    return word in _ABBREVIATIONS or (bool(_INITIALS.fullmatch(word)) and word != "i")


def _shortened(text: str, pause: float, most: int, length: Callable[[str], int]) -> list[Piece]:
    if len(text) < 2 or length(text) <= most:
        return [Piece(text, pause)]
    cut, between = _cut(text)
    first, second = text[:cut].strip(), text[cut:].strip()
    return [*_shortened(first, between, most, length), *_shortened(second, pause, most, length)]


def _cut(text: str) -> tuple[int, float]:
    """Where a sentence is best parted, and how long to pause there."""
    outside = len(text) // 4
    for marks, pause in ((_CLAUSES, CLAUSE), (_SPACES, WORD)):
        found = list(marks.finditer(text, outside, len(text) - outside))
        if found:
            return min(found, key=lambda mark: abs(mark.start() + mark.end() - len(text))).end(), pause
    return len(text) // 2, 0.0
