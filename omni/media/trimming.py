"""Silence around a sound: cut off while the sound comes."""

from typing import final

import torch
from torch import Tensor

from omni.media.audio import HOP_LENGTH

QUIET = 0.002  # −54 dB: a block whose samples all stay below it is silent
_MARGIN = 3  # silent blocks of 10 ms that are left at each end
_FADE = HOP_LENGTH // 2  # samples over which the ends rise from 0 and fall to 0, so that no join clicks


@final
class Trimmer:
    """Cuts silence off both ends of a sound, which comes in parts, and fades the ends. Loud samples are clipped at ±1.

    What comes out does not depend on the parts. Silence inside the sound is held back until it goes on, and the last
    10 ms of what is loud until it is known whether they are its end.
    """

    def __init__(self) -> None:
        self.begun = False  # whether anything was loud yet
        self._held = torch.zeros(0)

    def push(self, samples: Tensor) -> Tensor:
        """Takes the next (samples,) and returns those that can be heard now."""
        held = torch.cat((self._held.to(samples.device), samples.float()))
        loud = held[: len(held) // HOP_LENGTH * HOP_LENGTH].view(-1, HOP_LENGTH).abs().amax(1) >= QUIET
        places = loud.nonzero()[:, 0].tolist()
        if not places:
            if not self.begun:
                held = held[max(0, len(loud) - _MARGIN) * HOP_LENGTH :]
            self._held = held
            return held[:0]
        first, last = 0, places[-1]
        if not self.begun:
            first, self.begun = max(0, places[0] - _MARGIN), True
            start = first * HOP_LENGTH
            held[start : start + _FADE] *= _ramp(held)
        self._held = held[last * HOP_LENGTH :]
        return held[first * HOP_LENGTH : last * HOP_LENGTH].clamp(-1, 1)

    def finish(self) -> Tensor:
        """The end of the sound: (samples,). A sound that was nowhere loud has none."""
        ready = self.push(self._held.new_zeros(-len(self._held) % HOP_LENGTH))
        held, self._held = self._held[: (1 + _MARGIN) * HOP_LENGTH], torch.zeros(0)
        if not self.begun:
            return held[:0]
        faded = held[-_FADE:] * _ramp(held).flip(0)
        return torch.cat((ready, held[:-_FADE], faded)).clamp(-1, 1)


def trimmed(samples: Tensor) -> Tensor:
    """A whole sound (samples,) without the silence around it; see `Trimmer`."""
    trimmer = Trimmer()
    return torch.cat((trimmer.push(samples), trimmer.finish()))


def _ramp(like: Tensor) -> Tensor:
    """From 0 to 1, as a quarter of a sine."""
    return torch.linspace(0, torch.pi / 2, _FADE, device=like.device).sin()
