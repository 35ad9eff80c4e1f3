"""Finds turns of speech in live audio, by its level above the noise."""

import math
from collections import deque
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE

_FRAME = 320  # samples: 20 ms
_WINDOW = 100  # frames, 2 s: the noise is the least level in them, as speech pauses more often
_BAND = slice(4, 61)  # bins of a frame's spectrum, 50 Hz apart: 200 to 3,000 Hz, where speech is and most noise is not
_QUIETEST = 1e-4  # least floor: -80 dB of full scale


class TurnEvent(NamedTuple):
    """The start or the end of a turn.

    Attributes:
        kind: Which of them.
        seconds: Where it is in the audio, since the first sample. It is noticed later: a start after `shortest`, an end
            after `silence` seconds.
    """

    kind: Literal["start", "end"]
    seconds: float


@final
class TurnDetector:
    """Decides by a rule where somebody starts and stops to speak.

    A frame of 20 ms is speech if its level from 200 to 3,000 Hz is `margin` dB over the noise: the least such level of
    the last two seconds (after the minimum statistics of R. Martin, 2001). A turn starts after `shortest` seconds of
    speech in short succession, and ends after `silence` seconds without.

    Args:
        silence: Seconds without speech that end a turn.
        shortest: Seconds of speech that start one: clicks are shorter.
        margin: Least level of speech over the noise, in dB. The default is the best for the training voices of the
            world in noise of 10 dB, by `omni bench turns`.

    Raises:
        UserError: If a value is out of range.
    """

    def __init__(self, *, silence: float = 0.7, shortest: float = 0.1, margin: float = 8.0) -> None:
        for name, value, unit in (
            ("silence", silence, "seconds"),
            ("shortest", shortest, "seconds"),
            ("margin", margin, "dB"),
        ):
            if not 0 < value < float("inf"):
                raise UserError(f"{name} is {value} {unit}: it must be over 0")
        self._frames_of_silence = math.ceil(silence * SAMPLE_RATE / _FRAME)
        self._frames_of_speech = math.ceil(shortest * SAMPLE_RATE / _FRAME)
        self._factor = 10 ** (margin / 20)
        self._window = torch.hann_window(_FRAME)
        self._held, self._frame = torch.zeros(0), 0
        self._latest: deque[float] = deque(maxlen=_WINDOW)
        self._heard = self._silent = 0  # frames
        self.speaking = False

    def push(self, samples: Tensor) -> list[TurnEvent]:
        """Adds audio, (samples,) at 16 kHz; returns the starts and ends that are noticed."""
        audio = torch.cat((self._held, samples.float()))
        if not (count := len(audio) // _FRAME):
            self._held = audio
            return []
        self._held = audio[count * _FRAME :]
        spectrum = torch.fft.rfft(audio[: count * _FRAME].reshape(count, _FRAME) * self._window)
        powers = 2 * spectrum[:, _BAND].abs().square().sum(1) / (_FRAME * self._window.square().sum())
        return [event for level in powers.sqrt().tolist() if (event := self._next(level)) is not None]

    def _next(self, level: float) -> TurnEvent | None:
        self._frame += 1
        self._latest.append(max(level, _QUIETEST))
        loud = level > self._factor * min(self._latest)
        if self.speaking:
            self._silent = 0 if loud else self._silent + 1
            if self._silent < self._frames_of_silence:
                return None
            self.speaking, self._heard = False, 0
            return TurnEvent("end", (self._frame - self._silent) * _FRAME / SAMPLE_RATE)
        self._heard = self._heard + 1 if loud else max(0, self._heard - 1)
        if self._heard < self._frames_of_speech:
            return None
        self.speaking, self._silent = True, 0
        return TurnEvent("start", (self._frame - self._heard) * _FRAME / SAMPLE_RATE)
