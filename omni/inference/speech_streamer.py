"""Reading aloud what is still being written: from its first clause on, and the same sound as when it is there."""

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from omni.decoding.talker import SpeechSampling
from omni.errors import UserError
from omni.inference.synthesizer import Speech, Synthesizer
from omni.media.audio import SAMPLE_RATE
from omni.text.sentences import ClauseSplitter, TextSegment
from omni.text.spelling import SpeechSegment, spell


class SpeechStreamer:
    """Says a text while it comes. A clause that the Talker cannot say is left out, and told.

    Args:
        voice: Speaks.
        speaker: As in `Synthesizer.parts`.
        sampling: As in `Synthesizer.parts`.

    Attributes:
        unspoken: Why parts of the text were left out.

    Raises:
        UserError: If there is no such speaker.
    """

    def __init__(
        self, voice: Synthesizer, *, speaker: int | str | None = None, sampling: SpeechSampling | None = None
    ) -> None:
        voice.voice(speaker)
        self.voice, self.speaker, self.sampling = voice, speaker, sampling
        self.unspoken: list[str] = []
        self._clauses = self._new_clauses()
        self._waiting: deque[SpeechSegment] = deque()
        self._sounds: Iterator[Tensor] = iter(())
        self._said, self._pause = 0, 0.0

    def push(self, text: str) -> None:
        """Goes on with the text."""
        self._waiting += self._read(self._clauses.push(text))

    def finish(self) -> None:
        """Tells that the text is complete."""
        self._waiting += self._read(self._clauses.finish())

    def next(self) -> Tensor | None:
        """The next sound, (samples,); None where all is said that can be by now."""
        while (sound := next(self._sounds, None)) is None:
            if not self._waiting:
                return None
            breath = self._waiting.popleft()
            self._sounds = self._speak(breath, self._said, self._pause)
            self._said, self._pause = self._said + 1, breath.pause
        return sound

    def read(self, text: str) -> list[SpeechSegment]:
        """What is said of a text at once; nothing, perhaps."""
        clauses = self._new_clauses()
        found = self._read([*clauses.push(text), *clauses.finish()])
        return [*found[:-1], found[-1]._replace(pause=0.0)] if found else []

    def whole(self, text: str) -> Speech:
        """All of a text at once; the same sound as piece by piece."""
        found = self.read(text)
        if not found:
            return Speech(audio=torch.zeros(0), codes=torch.zeros(0, self.voice.talker.num_codebooks, dtype=torch.long))
        (speech,) = self.voice.speak([found], speaker=self.speaker, sampling=self.sampling)
        return speech

    def _speak(self, breath: SpeechSegment, number: int, pause: float) -> Iterator[Tensor]:
        if pause:
            yield torch.zeros(round(pause * SAMPLE_RATE))
        alone = breath._replace(pause=0.0)
        yield from self.voice.stream([alone], speaker=self.speaker, sampling=self.sampling, first=number)

    def _new_clauses(self) -> ClauseSplitter:
        return ClauseSplitter(length=self._length)

    def _length(self, part: str) -> int:
        try:
            return len(self.voice.units.normalize(part))
        except UserError:  # it will not be said
            return len(part)

    def _read(self, pieces: Sequence[TextSegment]) -> list[SpeechSegment]:
        units, found = self.voice.units, []
        for piece in pieces:
            try:
                if units.normalize(piece.text):  # else a smile, say
                    found.append(SpeechSegment(spell(piece.text, units), piece.pause))
            except UserError as error:
                self.unspoken.append(str(error))
        return found
