"""Trims silence from both ends of audio, streamed or whole."""

from typing import final

import torch
from torch import Tensor

from omni.media.audio import HOP_LENGTH

QUIET = 0.002  # −54 dB: a block is silent if all its samples are below
_MARGIN = 3  # silent blocks of 10 ms kept at each end
_FADE = HOP_LENGTH // 2  # samples of the fade at each end, against clicks


@final
class Trimmer:
    """Trims silence from both ends of streamed audio, fades the ends, and clips samples at ±1.

    The output does not depend on how the audio is split. Silence inside is delayed until a loud block follows, and so
    are the last 10 ms of a loud part, which may be the end.

    Attributes:
        started: Whether there was a loud block.
        skipped: Number of samples removed before the output.
    """

    def __init__(self) -> None:
        self.started, self.skipped = False, 0
        self._buffer = torch.zeros(0)

    def push(self, samples: Tensor) -> Tensor:
        """Adds audio (samples,); returns the samples that are ready."""
        buffer = torch.cat((self._buffer.to(samples.device), samples.float()))
        loud = buffer[: len(buffer) // HOP_LENGTH * HOP_LENGTH].view(-1, HOP_LENGTH).abs().amax(1) >= QUIET
        places = loud.nonzero()[:, 0].tolist()
        if not places:
            if not self.started:
                silent = max(0, len(loud) - _MARGIN) * HOP_LENGTH
                buffer, self.skipped = buffer[silent:], self.skipped + silent
            self._buffer = buffer
            return buffer[:0]
        first, last = 0, places[-1]
        if not self.started:
            first, self.started = max(0, places[0] - _MARGIN), True
            start = first * HOP_LENGTH
            self.skipped += start
            buffer[start : start + _FADE] *= _ramp(buffer)
        self._buffer = buffer[last * HOP_LENGTH :]
        return buffer[first * HOP_LENGTH : last * HOP_LENGTH].clamp(-1, 1)

    def finish(self) -> Tensor:
        """The rest (samples,); empty if no block was loud."""
        ready = self.push(self._buffer.new_zeros(-len(self._buffer) % HOP_LENGTH))
        buffer, self._buffer = self._buffer[: (1 + _MARGIN) * HOP_LENGTH], torch.zeros(0)
        if not self.started:
            return buffer[:0]
        faded = buffer[-_FADE:] * _ramp(buffer).flip(0)
        return torch.cat((ready, buffer[:-_FADE], faded)).clamp(-1, 1)


def trimmed(samples: Tensor) -> Tensor:
    """Trims whole audio (samples,); see `Trimmer`."""
    trimmer = Trimmer()
    return torch.cat((trimmer.push(samples), trimmer.finish()))


def _ramp(like: Tensor) -> Tensor:
    """A quarter of a sine, from 0 to 1."""
    return torch.linspace(0, torch.pi / 2, _FADE, device=like.device).sin()
