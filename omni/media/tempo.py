"""Tempo of speech, changed on its log-mel spectrogram: the pitch stays, because a vocoder makes the phases after it.

WER in % of the world's recogniser (greedy, 4.0 % on the recordings as they are) on 64 recordings of its narrator, by
`omni bench tempo --data data/world/speech/narrator_val.jsonl`:

| speed | 0.5 | 0.75 | 1 | 1.25 | 1.5 | 2 |
|---|---|---|---|---|---|---|
| spectrogram and Griffin–Lim | 70 | 8.9 | 3.4 | 7.9 | 31 | 84 |
| torchaudio's phase vocoder | 71 | 13 | 4.2 | 12 | 44 | 87 |

The recogniser was trained on 110 to 170 words a minute, speeds of 0.8 to 1.2 here.
"""

import math
from typing import final

import numpy as np
import torch
from torch import Tensor


@final
class TempoChanger:
    """Changes the tempo of a spectrogram that arrives in pieces, by linear interpolation between frames.

    Joined, the output does not depend on the pieces.

    Args:
        speed: Input frames per output frame, over 0; 2 is twice as fast.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._held: Tensor | None = None  # input frames from number `_first` on
        self._first, self._next = 0, 0  # number of the first held frame, and of the next output frame

    def push(self, mels: Tensor) -> Tensor:
        """Adds frames (batch, frames, num_mels); returns those that are ready, which may be none."""
        self._held = mels if self._held is None else torch.cat((self._held, mels), dim=1)
        last = self._first + self._held.shape[1] - 1
        # Output frame n is at input frame (n + 0.5) speed - 0.5: the centres of both are at the same time.
        return self._take(math.floor((last + 0.5) / self.speed - 0.5) + 1)

    def finish(self) -> Tensor:
        """The remaining frames: in all round(frames / speed), at least one if there was any."""
        assert self._held is not None
        frames = self._first + self._held.shape[1]
        return self._take(max(1, round(frames / self.speed)))

    def _take(self, end: int) -> Tensor:
        """Output frames from number `_next` to `end`."""
        assert self._held is not None
        last = self._first + self._held.shape[1] - 1
        places = np.clip((np.arange(self._next, end) + 0.5) * self.speed - 0.5, 0, last)  # in float64, on the CPU
        before = np.floor(places)
        share = torch.from_numpy((places - before).astype(np.float32)).to(self._held)[:, None]
        index = torch.from_numpy(before.astype(np.int64) - self._first).to(self._held.device)
        found = torch.lerp(self._held[:, index], self._held[:, (index + 1).clamp(max=last - self._first)], share)
        self._next = end
        self._held, self._first = self._held[:, -1:], last  # the next output frame is after the last input frame
        return found


def change_tempo(mels: Tensor, speed: float) -> Tensor:
    """Changes the tempo of whole spectrograms (batch, frames, num_mels); see `TempoChanger`."""
    changer = TempoChanger(speed)
    return torch.cat((changer.push(mels), changer.finish()), dim=1)
