"""Synthesises text while it is generated, from its first clause on."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from omni.decoding.sampling_options import SpeechSampling
from omni.errors import UserError
from omni.inference.speech import Speech, SpeechChunk, shifted
from omni.inference.speech_renderer import check_speed
from omni.inference.synthesizer import Synthesizer
from omni.media.audio import SAMPLE_RATE
from omni.text.pauses import PauseMark, PauseSplitter, split_pauses
from omni.text.sentences import ClauseSplitter, TextSegment
from omni.text.spelling import SpeechSegment, spell, without_pauses_at_marks


class SpeechStreamer:
    """Synthesises a text that arrives in pieces; the audio is the same as for the whole text.

    Clauses with characters that the Talker was not trained on are skipped, and so are invalid marks of pauses.

    Args:
        voice: Synthesises the segments.
        speaker: As in `Synthesizer.sentences`.
        sampling: As in `Synthesizer.sentences`.
        speed: As in `Synthesizer.sentences`.
        chunk: As in `Synthesizer.stream_chunks`.

    Attributes:
        unspoken: Why clauses and marks were skipped, one line each.

    Raises:
        UserError: If there is no such speaker or speed.
    """

    def __init__(
        self,
        voice: Synthesizer,
        *,
        speaker: int | str | None = None,
        sampling: SpeechSampling | None = None,
        speed: float = 1.0,
        chunk: float = 0.64,
    ) -> None:
        voice.speaker_id(speaker)  # raises for an unknown speaker
        check_speed(speed)
        self.voice, self._chunk = voice, chunk
        self._options: dict[str, Any] = {"speaker": speaker, "sampling": sampling, "speed": speed}
        self.unspoken: list[str] = []
        self._pauses, self._clauses = PauseSplitter(), self._new_clauses()
        self._queue: deque[SpeechSegment] = deque()
        self._chunks: Iterator[SpeechChunk] = iter(())
        self._count, self._pause, self._samples = 0, 0.0, 0

    def push(self, text: str) -> None:
        """Adds text."""
        self._queue += self._segments(self._pauses.push(text), self._clauses)

    def finish(self) -> None:
        """Marks the text as complete."""
        self._queue += self._segments(self._pauses.finish(), self._clauses)
        self._queue += self._encode(self._clauses.finish())

    def next_audio(self) -> Tensor | None:
        """The samples of `next_chunk`."""
        chunk = self.next_chunk()
        return None if chunk is None else chunk.samples

    def next_chunk(self) -> SpeechChunk | None:
        """The next audio, with the words that end in it; None until more text is complete."""
        while (chunk := next(self._chunks, None)) is None:
            if not self._queue:
                return None
            segment = self._queue.popleft()
            self._chunks = self._speak(segment, self._count, self._pause if segment.units else 0.0)
            if segment.units:
                self._count += 1
            self._pause = segment.pause if segment.units else 0.0
        self._samples += len(chunk.samples)
        return chunk

    def read(self, text: str) -> list[SpeechSegment]:
        """The segments of a whole text; may be empty."""
        clauses = self._new_clauses()
        found = self._segments(split_pauses(text), clauses)
        return without_pauses_at_marks([*found, *self._encode(clauses.finish())])

    def synthesize(self, text: str) -> Speech:
        """Synthesises a whole text."""
        found = self.read(text)
        if not found:
            return Speech(audio=torch.zeros(0), codes=torch.zeros(0, self.voice.talker.num_codebooks, dtype=torch.long))
        (speech,) = self.voice.speak([found], **self._options)
        return speech

    def _speak(self, segment: SpeechSegment, number: int, pause: float) -> Iterator[SpeechChunk]:
        if pause:
            yield SpeechChunk(torch.zeros(round(pause / self._options["speed"] * SAMPLE_RATE)))
        before = self._samples
        alone = segment._replace(pause=0.0) if segment.units else segment
        for chunk in self.voice.stream_chunks([alone], first=number, chunk=self._chunk, **self._options):
            yield chunk._replace(words=shifted(chunk.words, before))

    def _new_clauses(self) -> ClauseSplitter:
        return ClauseSplitter(length=self._length)

    def _length(self, part: str) -> int:
        try:
            return len(self.voice.units.normalize(part))
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
        units, found = self.voice.units, []
        for segment in segments:
            try:
                if units.normalize(segment.text):  # nothing to say: an emoji, for example
                    found.append(SpeechSegment(spell(segment.text, units), segment.pause))
            except UserError as error:
                self.unspoken.append(str(error))
        return found
