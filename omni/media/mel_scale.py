"""Constants of audio and of log-mel spectrograms, and the mel filters."""

import math

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # of all audio inside omni, but for what a vocoder may output
VOCODER_RATES = (SAMPLE_RATE, 24_000)  # of the output of a vocoder
HOP_LENGTH = 160  # samples: 100 frames per second
N_FFT = 512  # window and transform, 32 ms: 31 Hz apart, so that none of 128 mel filters is empty
FLOOR = 1e-4  # least magnitude: about that of 16-bit rounding noise
MEAN, STD = -3.0, 2.0  # of log-mel speech, about: AN4 −3.4 and 1.9, LibriSpeech −3.0 and 1.6, LJSpeech −2.3 and 2.0
SILENCE = (math.log(FLOOR) - MEAN) / STD  # value of digital silence


def samples_of(samples: int, sample_rate: int) -> int:
    """The number of samples at another rate that last as long as this number at 16 kHz, such as `HOP_LENGTH`."""
    return samples * sample_rate // SAMPLE_RATE


def mel_filters(num_mels: int, sample_rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Triangles of height 1, evenly spaced on Slaney's mel scale from 0 to half the sample rate: (bins, num_mels).

    The scale is linear up to 1,000 Hz (15 mel), and logarithmic above (Slaney 1998, Auditory Toolbox). Equal to those
    of torchaudio, which cannot be computed under fake tensors, as in `omni plan`.
    """
    step = math.log(6.4) / 27
    mels = np.linspace(0, 15 + math.log(sample_rate / 2 / 1000) / step, num_mels + 2)
    corners = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    bins = np.linspace(0, sample_rate / 2, samples_of(N_FFT, sample_rate) // 2 + 1)[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return np.minimum(rising, falling).clip(min=0).astype(np.float32)


def mel_constants() -> dict[str, float]:
    """Constants of the spectrogram; checkpoints store them and are checked against them."""
    return {
        "sample_rate": SAMPLE_RATE,
        "hop_length": HOP_LENGTH,
        "n_fft": N_FFT,
        "floor": FLOOR,
        "mean": MEAN,
        "std": STD,
    }
