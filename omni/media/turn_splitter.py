"""Cuts live audio into turns of speech."""

from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from omni.media.audio import SAMPLE_RATE
from omni.media.turn_detector import TurnDetector

_PIECE = 320  # samples, 20 ms: a frame of the detector, so that each piece has one event at most


class TurnPart(NamedTuple):
    """The start of a turn, some of its audio, or its end.

    Attributes:
        kind: Which of them. The audio of a turn is between its start and its end.
        seconds: Place in the recording: of the first sample of the turn, or after the last one so far.
        samples: (samples,) at 16 kHz; empty unless `kind` is audio.
    """

    kind: Literal["start", "audio", "end"]
    seconds: float
    samples: Tensor = torch.zeros(0)


@final
class TurnSplitter:
    """Cuts live audio into turns of speech; audio outside of turns is dropped.

    Args:
        detector: Finds the turns.
        before: Seconds of audio before a turn is noticed that belong to it.
    """

    def __init__(self, detector: TurnDetector, *, before: float = 0.4) -> None:
        self.detector = detector
        self._kept = round(before * SAMPLE_RATE)
        self._before, self._count = torch.zeros(0), 0

    @property
    def speaking(self) -> bool:
        """Whether a turn is open."""
        return self.detector.speaking

    def push(self, samples: Tensor) -> list[TurnPart]:
        """Adds audio, (samples,) at 16 kHz; returns the parts of turns that are noticed."""
        return [part for piece in samples.split(_PIECE) for part in self._next(piece)]

    def _next(self, samples: Tensor) -> list[TurnPart]:
        self._count += len(samples)
        was_speaking = self.speaking
        events = self.detector.push(samples)
        now = self._count / SAMPLE_RATE
        if not (was_speaking or self.speaking):
            held = torch.cat((self._before, samples))
            self._before = held[max(0, len(held) - self._kept) :]
            return []
        parts: list[TurnPart] = []
        if not was_speaking:
            samples = torch.cat((self._before, samples))
            self._before = samples[:0]
            parts.append(TurnPart("start", now - len(samples) / SAMPLE_RATE))
        parts.append(TurnPart("audio", now, samples))
        if any(event.kind == "end" for event in events):
            parts.append(TurnPart("end", now))
        return parts
