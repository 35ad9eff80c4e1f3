"""The pitch of a voice, and whether there is a second one at the same time, by autocorrelation."""

import torch
from torch import Tensor

from omni.media.audio import SAMPLE_RATE

_FRAME, _STEP = 640, 160  # samples: 40 ms, four periods at the lowest pitch that most voices reach, every 10 ms
_LOWEST, _HIGHEST = 60.0, 400.0  # Hz
_VOICED = 0.6  # least normalised autocorrelation
_QUIET = 0.05  # of the loudest frame's RMS: quieter frames are not counted
_OCTAVE = 0.9  # a shorter period is preferred if its autocorrelation is at least this share of the largest
_FOREGROUND = 0.2  # of the loudest frame's RMS: quieter frames are not searched for a second voice
_REMAINS = 0.1  # least energy without the first voice, as a share of all: less is what cancelling leaves of one voice
_RELATED = torch.tensor([1 / 3, 1 / 2, 2 / 3, 1.0, 3 / 2, 2.0, 3.0])  # ratios of periods within one voice
_APART = 0.08  # least distance from these ratios


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
    normalised = _autocorrelation(frames)
    shortest, longest = _periods()
    inside = normalised[:, shortest : longest + 1]
    peaks = (inside >= normalised[:, shortest - 1 : longest]) & (inside >= normalised[:, shortest + 1 : longest + 2])
    inside = inside * peaks
    best = inside.amax(1, keepdim=True)
    first = (inside >= _OCTAVE * best).to(torch.int).argmax(1)
    return SAMPLE_RATE / (shortest + first[best[:, 0] >= _VOICED]).float()


def second_voice(audio: Tensor) -> float:
    """Share of the loud frames in which two voices of different pitch sound at once.

    The period with the largest autocorrelation is cancelled by a comb filter (after de Cheveigné, JASA 93, 1993); a
    second voice is what remains, if it is loud, periodic, and not of a multiple of the first period.

    Of 25 readers of LibriSpeech and LJSpeech, 4 % of the utterances are above 0.025, most of them of one reader; so are
    76 % if each is mixed with another reader's of the same level, 49 % if that is 10 dB lower
    (tests/media/test_real_voices.py).

    Args:
        audio: (samples,), 16 kHz.
    """
    if len(audio) < _FRAME:
        return 0.0
    frames = audio.float().unfold(0, _FRAME, 2 * _STEP)
    level = frames.square().mean(1).sqrt()
    frames = frames[level > _FOREGROUND * level.max()]
    if not len(frames):
        return 0.0
    shortest, longest = _periods()
    clarity, period = _autocorrelation(frames - frames.mean(1, keepdim=True))[:, shortest : longest + 1].max(1)
    period = period[:, None] + shortest
    places, left = torch.arange(_FRAME)[None], _FRAME - period  # samples that the filter leaves
    rest = torch.where(places < left, frames.gather(1, (places + period).clamp(max=_FRAME - 1)) - frames, 0.0)
    remains = rest.square().sum(1) / left[:, 0] / (2 * frames.square().mean(1))
    normalised = _autocorrelation(rest)[:, shortest : longest + 1]
    lags = torch.arange(shortest, longest + 1)[None]
    found, other = normalised.where(lags < left // 2, -1.0).max(1)
    ratio = (other[:, None] + shortest) / period
    apart = ((ratio - _RELATED).abs() > _APART).all(1)
    both = (found > _VOICED) & (clarity > _VOICED - 0.1) & (remains > _REMAINS) & apart
    return float(both.float().mean())


def _periods() -> tuple[int, int]:
    """The shortest and the longest period of a voice, in samples."""
    return int(SAMPLE_RATE / _HIGHEST), int(SAMPLE_RATE / _LOWEST)


def _autocorrelation(frames: Tensor) -> Tensor:
    """The normalised autocorrelation of frames (frames, samples) at the lags up to half of a frame, (frames, lags)."""
    spectrum = torch.fft.rfft(frames, 2 * _FRAME)
    correlation = torch.fft.irfft(spectrum.abs().square())[:, : _FRAME // 2]
    # A lag of n samples sums n products less: each is divided by the energy of what it overlaps.
    energy = frames.square().cumsum(1)
    lags = torch.arange(_FRAME // 2)
    overlap = (
        energy[:, _FRAME - 1 - lags] * (energy[:, -1:] - torch.cat((energy[:, :1] * 0, energy), 1)[:, lags])
    ).sqrt()
    return correlation / overlap.clamp(min=1e-9)
