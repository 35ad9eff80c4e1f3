"""Synthesises text while it is generated, from its first clause on."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from omni.decoding.sampling_options import SpeechSampling
from omni.decoding.speech_options import check_speed
from omni.inference.speech import Speech, SpeechChunk, shifted
from omni.inference.synthesizer import Synthesizer
from omni.text.segment_queue import Queued, SegmentQueue
from omni.text.spelling import SpeechSegment


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
        sample_rate: Of the audio in Hz.
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
        self.voice, self.sample_rate, self._chunk = voice, voice.sample_rate, chunk
        self._options: dict[str, Any] = {"speaker": speaker, "sampling": sampling, "speed": speed}
        self._queue = SegmentQueue(voice.units)
        self.unspoken = self._queue.unspoken
        self._chunks: Iterator[SpeechChunk] = iter(())
        self._samples = 0

    def push(self, text: str) -> None:
        """Adds text."""
        self._queue.push(text)

    def finish(self) -> None:
        """Marks the text as complete."""
        self._queue.finish()

    def next_audio(self) -> Tensor | None:
        """The samples of `next_chunk`."""
        chunk = self.next_chunk()
        return None if chunk is None else chunk.samples

    def next_chunk(self) -> SpeechChunk | None:
        """The next audio, with the words that end in it; None until more text is complete."""
        while (chunk := next(self._chunks, None)) is None:
            if (queued := self._queue.take()) is None:
                return None
            self._chunks = self._speak(queued)
        self._samples += len(chunk.samples)
        return chunk

    def read(self, text: str) -> list[SpeechSegment]:
        """The segments of a whole text; may be empty."""
        return self._queue.read(text)

    def synthesize(self, text: str) -> Speech:
        """Synthesises a whole text."""
        found = self.read(text)
        if not found:
            codes = torch.zeros(0, self.voice.talker.num_codebooks, dtype=torch.long)
            return Speech(audio=torch.zeros(0), codes=codes, sample_rate=self.sample_rate)
        (speech,) = self.voice.speak([found], **self._options)
        return speech

    def _speak(self, queued: Queued) -> Iterator[SpeechChunk]:
        if queued.pause:
            yield SpeechChunk(torch.zeros(round(queued.pause / self._options["speed"] * self.sample_rate)))
        before = self._samples / self.sample_rate
        options = {"first": queued.number, "chunk": self._chunk, **self._options}
        for chunk in self.voice.stream_chunks([queued.segment], **options):
            yield chunk._replace(words=shifted(chunk.words, before))
