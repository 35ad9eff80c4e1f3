"""What is spoken of a text that arrives in pieces: clause by clause, with the pauses between them."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, final

from omni.errors import UserError
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.pauses import PauseMark, PauseSplitter, split_pauses
from omni.text.sentences import ClauseSplitter, TextSegment
from omni.text.spelling import SpeechSegment, spell, without_pauses_at_marks


class Queued(NamedTuple):
    """A segment that is next.

    Attributes:
        segment: The segment, without the pause after it.
        number: Of its random stream: marks of pauses do not count.
        pause: Seconds of silence before it at tempo 1.
    """

    segment: SpeechSegment
    number: int
    pause: float


@final
class SegmentQueue:
    """Splits a text that arrives in pieces into segments; they are those of the whole text.

    Clauses with characters that are not in the vocabulary are skipped, and so are invalid marks of pauses.

    Args:
        units: The Talker's vocabulary.

    Attributes:
        unspoken: Why clauses and marks were skipped, one line each.
    """

    def __init__(self, units: CTCVocabulary) -> None:
        self.units = units
        self.unspoken: list[str] = []
        self._pauses, self._clauses = PauseSplitter(), self._new_clauses()
        self._queue: deque[SpeechSegment] = deque()
        self._count, self._pause = 0, 0.0

    def push(self, text: str) -> None:
        """Adds text."""
        self._queue += self._segments(self._pauses.push(text), self._clauses)

    def finish(self) -> None:
        """Marks the text as complete."""
        self._queue += self._segments(self._pauses.finish(), self._clauses)
        self._queue += self._encode(self._clauses.finish())

    def take(self) -> Queued | None:
        """The next segment; None until more text is complete."""
        if not self._queue:
            return None
        segment = self._queue.popleft()
        if not segment.units:
            self._pause = 0.0
            return Queued(segment, self._count, 0.0)
        found = Queued(segment._replace(pause=0.0), self._count, self._pause)
        self._count, self._pause = self._count + 1, segment.pause
        return found

    def read(self, text: str) -> list[SpeechSegment]:
        """The segments of a whole text; may be empty."""
        clauses = self._new_clauses()
        found = self._segments(split_pauses(text), clauses)
        return without_pauses_at_marks([*found, *self._encode(clauses.finish())])

    def _new_clauses(self) -> ClauseSplitter:
        return ClauseSplitter(length=self._length)

    def _length(self, part: str) -> int:
        try:
            return len(self.units.normalize(part))
        except UserError:  # it will be skipped
            return len(part)

    def _segments(self, pieces: Sequence[str | PauseMark], clauses: ClauseSplitter) -> list[SpeechSegment]:
        found: list[SpeechSegment] = []
        for piece in pieces:
            if isinstance(piece, str):
                found += self._encode(clauses.push(piece))
                continue
            found += self._encode(clauses.finish())
            try:
                found.append(SpeechSegment([], piece.seconds))
            except UserError as error:
                self.unspoken.append(str(error))
        return found

    def _encode(self, segments: Sequence[TextSegment]) -> list[SpeechSegment]:
        found = []
        for segment in segments:
            try:
                if self.units.normalize(segment.text):  # nothing to say: an emoji, for example
                    found.append(SpeechSegment(spell(segment.text, self.units), segment.pause))
            except UserError as error:
                self.unspoken.append(str(error))
        return found
