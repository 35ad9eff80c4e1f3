"""Resampling of audio, streamed or whole (band-limited sinc)."""

import math
from typing import final

import torch
import torchaudio
from torch import Tensor


def resample(audio: Tensor, rate: int, new_rate: int) -> Tensor:
    """Resamples whole audio (..., samples) from `rate` to `new_rate` in Hz."""
    return audio if rate == new_rate else torchaudio.functional.resample(audio, rate, new_rate)


def common_ticks(rate: int, new_rate: int) -> tuple[int, int, int]:
    """Samples at each rate of their common period, and the reach of the filter in periods."""
    common = math.gcd(rate, new_rate)
    step = rate // common
    width = math.ceil(6 * rate / (0.99 * min(rate, new_rate)))  # samples: torchaudio's 6 zero crossings, roll-off 0.99
    return step, new_rate // common, math.ceil(width / step) if rate != new_rate else 0


@final
class Resampler:
    """Resamples audio that arrives in blocks; joined, the output is that of `resample` on the whole.

    Args:
        rate: Sample rate of the input in Hz.
        new_rate: Sample rate of the output in Hz.
    """

    def __init__(self, rate: int, new_rate: int) -> None:
        self.rate, self.new_rate = rate, new_rate
        self._step, self._grid, self._reach = common_ticks(rate, new_rate)
        self._held, self._context = torch.zeros(0), 0  # input samples, and periods of them that are context only

    def push(self, samples: Tensor) -> Tensor:
        """Adds audio (samples,); returns the output that later input does not change."""
        self._held = torch.cat((self._held, samples))
        ready = len(self._held) // self._step - self._reach  # periods whose context is complete
        if ready <= self._context:
            return samples[:0]
        audio = resample(self._held, self.rate, self.new_rate)[self._context * self._grid : ready * self._grid]
        kept = min(ready, self._reach)
        self._held, self._context = self._held[(ready - kept) * self._step :], kept
        return audio

    def finish(self) -> Tensor:
        """The rest (samples,)."""
        if not len(self._held):
            return self._held
        audio = resample(self._held, self.rate, self.new_rate)[self._context * self._grid :]
        self._held, self._context = self._held[:0], 0
        return audio
