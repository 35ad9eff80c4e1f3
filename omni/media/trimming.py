"""Trims silence from both ends of audio, streamed or whole."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from omni.media.mel_scale import HOP_LENGTH, SAMPLE_RATE, samples_of

QUIET = 0.002  # −54 dB: a block is silent if all its samples are below
_MARGIN = 3  # silent blocks of 10 ms kept at each end

Samples = NDArray[np.float32]


@final
class Trimmer:
    """Trims silence from both ends of streamed audio, fades the ends, and clips samples at ±1.

    The output does not depend on how the audio is split. Silence inside is delayed until a loud block follows, and so
    are the last 10 ms of a loud part, which may be the end.

    Args:
        sample_rate: Of the audio in Hz, a multiple of 200.

    Attributes:
        started: Whether there was a loud block.
        skipped: Number of samples removed before the output.
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE) -> None:
        self._block = samples_of(HOP_LENGTH, sample_rate)
        # Of the fade at each end, against clicks: a quarter of a sine, from 0 to 1.
        self._ramp = np.sin(np.linspace(0, np.pi / 2, self._block // 2, dtype=np.float32))
        self.started, self.skipped = False, 0
        self._buffer = np.zeros(0, dtype=np.float32)

    def push(self, samples: Samples) -> Samples:
        """Adds audio (samples,); returns the samples that are ready."""
        buffer, block = np.concatenate((self._buffer, samples)), self._block
        loud = np.abs(buffer[: len(buffer) // block * block]).reshape(-1, block).max(1) >= QUIET
        places = loud.nonzero()[0].tolist()
        if not places:
            if not self.started:
                silent = max(0, len(loud) - _MARGIN) * block
                buffer, self.skipped = buffer[silent:], self.skipped + silent
            self._buffer = buffer
            return buffer[:0]
        first, last = 0, places[-1]
        if not self.started:
            first, self.started = max(0, places[0] - _MARGIN), True
            start = first * block
            self.skipped += start
            buffer[start : start + len(self._ramp)] *= self._ramp
        self._buffer = buffer[last * block :]
        return buffer[first * block : last * block].clip(-1, 1)

    def finish(self) -> Samples:
        """The rest (samples,); empty if no block was loud."""
        ready = self.push(np.zeros(-len(self._buffer) % self._block, dtype=np.float32))
        buffer, self._buffer = self._buffer[: (1 + _MARGIN) * self._block], self._buffer[:0]
        if not self.started:
            return buffer[:0]
        fade = len(self._ramp)
        return np.concatenate((ready, buffer[:-fade], buffer[-fade:] * self._ramp[::-1])).clip(-1, 1)


def trimmed(samples: Samples, sample_rate: int = SAMPLE_RATE) -> Samples:
    """Trims whole audio (samples,) at a rate in Hz; see `Trimmer`."""
    trimmer = Trimmer(sample_rate)
    return np.concatenate((trimmer.push(samples), trimmer.finish()))
