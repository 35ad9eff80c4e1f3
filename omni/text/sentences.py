"""Splits text into segments for speech: sentences, and parts of long ones."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

# Seconds of silence after a segment, by what ends it: typical of careful readers.
PARAGRAPH, SENTENCE, CLAUSE, WORD = 0.7, 0.35, 0.15, 0.05

_PARAGRAPHS = re.compile(r"\n\s*\n")
_CLOSING = "\"'”’»)\\]"  # may stand between the mark of a sentence and the space after it
# Linear in a run of marks: matching starts at the first mark of a run only.
_ENDS = re.compile(rf"(?<![.!?…])[.!?…]++[{_CLOSING}]*+(?=\s)|[。！？]+[」』”]*")
_TITLES = {"mr", "mrs", "ms", "dr", "prof", "st", "rev", "gen", "sen", "col", "capt", "lt", "sgt", "mt"}
_ABBREVIATIONS = {*_TITLES, "vs", "cf", "fig", "approx", "e.g", "i.e"}
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_CLAUSES = re.compile(rf"[,;:][{_CLOSING}]*\s|[—–，、；：]|\)\s")
_SPACES = re.compile(r"\s")
_FIRST_CLAUSE = 8  # least characters of the first clause: "No," is too short


class TextSegment(NamedTuple):
    """A segment of a text.

    Attributes:
        text: As in the text, stripped.
        pause: Seconds of silence after it, if another segment follows.
    """

    text: str
    pause: float


def split_text(text: str, *, max_length: int = 160, length: Callable[[str], int] = len) -> list[TextSegment]:
    """Splits a text at paragraphs (blank lines) and sentences, and long sentences near their middle.

    A full stop after a title or an initial ("Dr. J. Smith") does not end a sentence. A sentence that is too long is
    split at a comma, semicolon, colon or dash of its middle half; if there is none, at a space; a word, anywhere.

    Args:
        text: Any text.
        max_length: Greatest length of a segment, over 0.
        length: Function that measures a segment.

    Returns:
        The segments in order: all of the text but white space.
    """
    found: list[TextSegment] = []
    for paragraph in _PARAGRAPHS.split(text):
        sentences = [sentence for sentence in _sentences(paragraph) if sentence]
        for sentence in sentences:
            found += _split_long(sentence, SENTENCE, max_length, length)
        if sentences:
            found[-1] = found[-1]._replace(pause=PARAGRAPH)
    return found


class ClauseSplitter:
    """Splits a text while it is generated: the first clause, then sentence by sentence as `split_text`.

    The segments depend on the text only, not on the parts in which it is pushed.

    Args:
        max_length: As in `split_text`.
        length: As in `split_text`.
    """

    def __init__(self, *, max_length: int = 160, length: Callable[[str], int] = len) -> None:
        self._max_length, self._length = max_length, length
        self._rest, self._started = "", False

    def push(self, text: str) -> list[TextSegment]:
        """Adds text; returns the segments that are complete: text follows them, so that they cannot change."""
        self._rest += text
        return self._complete(last=False)

    def finish(self) -> list[TextSegment]:
        """The remaining segments."""
        return self._complete(last=True)

    def _complete(self, *, last: bool) -> list[TextSegment]:
        found: list[TextSegment] = []
        while self._rest.strip():
            end, pause = _first_sentence(self._rest)
            whole = last or bool(self._rest[end:].strip())
            if not self._started and (cut := self._first_clause(self._rest[:end])):
                found += _split_long(self._rest[:cut].strip(), CLAUSE, self._max_length, self._length)
                end = cut
            elif whole:
                found += _split_long(self._rest[:end].strip(), pause, self._max_length, self._length)
            else:
                break
            self._started, self._rest = True, self._rest[end:]
        return found

    def _first_clause(self, sentence: str) -> int | None:
        """End of the first clause, if more of the sentence follows."""
        ends = (mark.end() for mark in _CLAUSES.finditer(sentence))
        return next((end for end in ends if end >= _FIRST_CLAUSE and sentence[end:].strip()), None)


def _first_sentence(text: str) -> tuple[int, float]:
    """End of the first sentence that is not blank, and the pause after it."""
    start = len(text) - len(text.lstrip())
    paragraph = _PARAGRAPHS.search(text, start)
    end = paragraph.start() if paragraph else len(text)
    for mark in _ENDS.finditer(text, start, end):
        if not _abbreviates(text[start : mark.start()], mark[0]) and text[mark.end() : end].strip():
            return mark.end(), SENTENCE
    return end, PARAGRAPH


def _sentences(paragraph: str) -> Iterator[str]:
    start = 0
    for mark in _ENDS.finditer(paragraph):
        if not _abbreviates(paragraph[start : mark.start()], mark[0]):
            yield paragraph[start : mark.end()].strip()
            start = mark.end()
    yield paragraph[start:].strip()


def _abbreviates(before: str, mark: str) -> bool:
    """Whether a full stop belongs to the word before it: a title, an abbreviation or an initial."""
    if mark != ".":
        return False
    word = before.rsplit(maxsplit=1)[-1].lstrip("\"'“‘«([").lower() if before.strip() else ""
    return word in _ABBREVIATIONS or (bool(_INITIALS.fullmatch(word)) and word != "i")


def _split_long(text: str, pause: float, max_length: int, length: Callable[[str], int]) -> list[TextSegment]:
    if len(text) < 2 or length(text) <= max_length:
        return [TextSegment(text, pause)]
    cut, between = _split_point(text)
    first, second = text[:cut].strip(), text[cut:].strip()
    return [*_split_long(first, between, max_length, length), *_split_long(second, pause, max_length, length)]


def _split_point(text: str) -> tuple[int, float]:
    """Best place to split a sentence, and the pause there."""
    margin = len(text) // 4
    for marks, pause in ((_CLAUSES, CLAUSE), (_SPACES, WORD)):
        found = list(marks.finditer(text, margin, len(text) - margin))
        if found:
            return min(found, key=lambda mark: abs(mark.start() + mark.end() - len(text))).end(), pause
    return len(text) // 2, 0.0
