"""Texts of any length in pieces that are said at once: sentences, and the parts of long ones."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

# Seconds of silence behind a piece, by what ends it: what careful readers leave.
PARAGRAPH, SENTENCE, CLAUSE, WORD = 0.7, 0.35, 0.15, 0.05

_PARAGRAPHS = re.compile(r"\n\s*\n")
_CLOSING = "\"'”’»)\\]"  # what may stand between a sentence's mark and the space behind it
# Linear in a run of marks: it is tried from its beginning only, and never from a part of it.
_ENDS = re.compile(rf"(?<![.!?…])[.!?…]++[{_CLOSING}]*+(?=\s)|[。！？]+[」』”]*")
_TITLES = {"mr", "mrs", "ms", "dr", "prof", "st", "rev", "gen", "sen", "col", "capt", "lt", "sgt", "mt"}
_ABBREVIATIONS = {*_TITLES, "vs", "cf", "fig", "approx", "e.g", "i.e"}
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_CLAUSES = re.compile(rf"[,;:][{_CLOSING}]*\s|[—–，、；：]|\)\s")
_SPACES = re.compile(r"\s")
_FIRST_CLAUSE = 8  # characters that the first clause has at least: "No," is no beginning


class TextSegment(NamedTuple):
    """A part of a text.

    Attributes:
        text: As it was written, without white space at its ends.
        pause: Seconds of silence behind it, where another one follows.
    """

    text: str
    pause: float


def split_text(text: str, *, most: int = 160, length: Callable[[str], int] = len) -> list[TextSegment]:
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
    found: list[TextSegment] = []
    for paragraph in _PARAGRAPHS.split(text):
        sentences = [sentence for sentence in _sentences(paragraph) if sentence]
        for sentence in sentences:
            found += _shortened(sentence, SENTENCE, most, length)
        if sentences:
            found[-1] = found[-1]._replace(pause=PARAGRAPH)
    return found


class ClauseSplitter:
    """Parts a text while it is being written: its first clause, then sentence by sentence, as `split_text` does.

    What comes out depends on the text alone, and not on the parts in which it is pushed.

    Args:
        most: As in `split_text`.
        length: As in `split_text`.
    """

    def __init__(self, *, most: int = 160, length: Callable[[str], int] = len) -> None:
        self._most, self._length = most, length
        self._rest, self._begun = "", False

    def push(self, text: str) -> list[TextSegment]:
        """The pieces that this text completes: what follows them has begun, so that nothing can change them."""
        self._rest += text
        return self._settled(last=False)

    def finish(self) -> list[TextSegment]:
        """The pieces that are left."""
        return self._settled(last=True)

    def _settled(self, *, last: bool) -> list[TextSegment]:
        found: list[TextSegment] = []
        while self._rest.strip():
            end, pause = _first_sentence(self._rest)
            whole = last or bool(self._rest[end:].strip())
            if not self._begun and (cut := self._first_clause(self._rest[:end])):
                found += _shortened(self._rest[:cut].strip(), CLAUSE, self._most, self._length)
                end = cut
            elif whole:
                found += _shortened(self._rest[:end].strip(), pause, self._most, self._length)
            else:
                break
            self._begun, self._rest = True, self._rest[end:]
        return found

    def _first_clause(self, sentence: str) -> int | None:
        """Where the first clause ends, if something of the sentence follows."""
        ends = (mark.end() for mark in _CLAUSES.finditer(sentence))
        return next((end for end in ends if end >= _FIRST_CLAUSE and sentence[end:].strip()), None)


def _first_sentence(text: str) -> tuple[int, float]:
    """Where the first sentence of a text ends that is not blank, and how long to pause behind it."""
    begin = len(text) - len(text.lstrip())
    paragraph = _PARAGRAPHS.search(text, begin)
    end = paragraph.start() if paragraph else len(text)
    for mark in _ENDS.finditer(text, begin, end):
        if not _abbreviates(text[begin : mark.start()], mark[0]) and text[mark.end() : end].strip():
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
    """Whether a full stop belongs to the word before it: a title, or a single letter that is an initial."""
    if mark != ".":
        return False
    word = before.rsplit(maxsplit=1)[-1].lstrip("\"'“‘«([").lower() if before.strip() else ""
    return word in _ABBREVIATIONS or (bool(_INITIALS.fullmatch(word)) and word != "i")


def _shortened(text: str, pause: float, most: int, length: Callable[[str], int]) -> list[TextSegment]:
    if len(text) < 2 or length(text) <= most:
        return [TextSegment(text, pause)]
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
