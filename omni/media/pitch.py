"""The pitch of a voice, by autocorrelation."""

import torch
from torch import Tensor

from omni.media.audio import SAMPLE_RATE

_FRAME, _STEP = 640, 160  # samples: 40 ms, four periods at the lowest pitch that most voices reach, every 10 ms
_LOWEST, _HIGHEST = 60.0, 400.0  # Hz
_VOICED = 0.6  # least normalised autocorrelation
_QUIET = 0.05  # of the loudest frame's RMS: quieter frames are not counted
_OCTAVE = 0.9  # a shorter period is preferred if its autocorrelation is at least this share of the largest


def pitch(audio: Tensor) -> Tensor:
    """The fundamental frequency of the voiced frames of 40 ms (after Rabiner, IEEE Trans. ASSP 25, 1977).

    Args:
        audio: (samples,), 16 kHz.

    Returns:
        (voiced frames,), in Hz, 60 to 400.
    """
    if len(audio) < _FRAME:
        return torch.zeros(0)
    frames = audio.float().unfold(0, _FRAME, _STEP)
    frames = frames - frames.mean(1, keepdim=True)
    level = frames.square().mean(1).sqrt()
    frames = frames[level > _QUIET * level.max()]
    if not len(frames):  # digital silence
        return torch.zeros(0)
    spectrum = torch.fft.rfft(frames, 2 * _FRAME)
    correlation = torch.fft.irfft(spectrum.abs().square())[:, : _FRAME // 2]
    # A lag of n samples sums n products less: each is divided by the energy of what it overlaps.
    energy = frames.square().cumsum(1)
    lags = torch.arange(_FRAME // 2)
    overlap = (
        energy[:, _FRAME - 1 - lags] * (energy[:, -1:] - torch.cat((energy[:, :1] * 0, energy), 1)[:, lags])
    ).sqrt()
    normalised = correlation / overlap.clamp(min=1e-9)
    shortest, longest = int(SAMPLE_RATE / _HIGHEST), int(SAMPLE_RATE / _LOWEST)
    inside = normalised[:, shortest : longest + 1]
    peaks = (inside >= normalised[:, shortest - 1 : longest]) & (inside >= normalised[:, shortest + 1 : longest + 2])
    inside = inside * peaks
    best = inside.amax(1, keepdim=True)
    first = (inside >= _OCTAVE * best).to(torch.int).argmax(1)
    return SAMPLE_RATE / (shortest + first[best[:, 0] >= _VOICED]).float()
