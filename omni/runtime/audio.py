"""Audio as arrays: files of any rate read at 16 kHz, and log-mel spectrograms."""

import math
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from omni.media.container import AudioSource, opened, read_mono, resampled_from
from omni.media.mel_scale import FLOOR, HOP_LENGTH, MEAN, N_FFT, SAMPLE_RATE, STD, mel_filters

Samples = NDArray[np.float32]

_ZEROS, _ROLLOFF = 6, 0.99  # zero crossings of the resampling filter, and its cut-off: those of torchaudio
_BLOCK = 1024  # frames, or periods of resampling, that are computed together


def read_audio(source: AudioSource) -> Samples:
    """Reads any format of libsndfile, as `omni.media.audio.read_audio`.

    Args:
        source: A path, or a file's content as bytes.

    Returns:
        (samples,), 16 kHz, the mean of the channels.

    Raises:
        AudioError: If it cannot be read, is truncated or empty, or has samples that are not finite.
    """
    with opened(source) as file:
        return resample(read_mono(file, file.frames, source), resampled_from(file))


def resample(audio: Samples, rate: int) -> Samples:
    """Resamples audio (samples,) to 16 kHz with the band-limited sinc of torchaudio, windowed by Hann.

    Args:
        audio: The samples.
        rate: Their rate in Hz.
    """
    if rate == SAMPLE_RATE:
        return audio
    step, kernels = _kernels(rate)
    width = (kernels.shape[1] - step) // 2
    periods = len(audio) // step + 1
    windows = sliding_window_view(np.pad(audio, (width, width + step)), kernels.shape[1])[::step][:periods]
    pieces = [windows[start : start + _BLOCK] @ kernels.T for start in range(0, len(windows), _BLOCK)]
    return np.concatenate(pieces).reshape(-1)[: math.ceil(len(audio) * SAMPLE_RATE / rate)]


@lru_cache(8)
def _kernels(rate: int) -> tuple[int, Samples]:
    """Input samples of a period, and the filter of each output sample of it: (samples, taps)."""
    common = math.gcd(rate, SAMPLE_RATE)
    step, new = rate // common, SAMPLE_RATE // common
    base = min(step, new) * _ROLLOFF
    width = math.ceil(_ZEROS * step / base)
    time = np.arange(-width, width + step)[None] / step - np.arange(new)[:, None] / new
    time = (time * base).clip(-_ZEROS, _ZEROS)
    window = np.cos(time * math.pi / _ZEROS / 2) ** 2
    return step, (np.sinc(time) * window * base / step).astype(np.float32)


def log_mel(audio: Samples, num_mels: int) -> Samples:
    """The log-mel spectrogram (frames, num_mels) of audio (samples,), as `omni.media.audio.LogMel`."""
    frames = num_frames(len(audio))
    margin = (N_FFT - HOP_LENGTH) // 2
    padded = np.pad(audio, (margin, frames * HOP_LENGTH - len(audio) + margin))
    windows = sliding_window_view(padded, N_FFT)[::HOP_LENGTH]
    hann = (0.5 - 0.5 * np.cos(2 * math.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)
    filters = mel_filters(num_mels)
    mels = np.empty((frames, num_mels), dtype=np.float32)
    for start in range(0, frames, _BLOCK):
        magnitudes = np.abs(np.fft.rfft(windows[start : start + _BLOCK] * hann)).astype(np.float32)
        mels[start : start + _BLOCK] = magnitudes @ filters
    return (np.log(mels.clip(min=FLOOR)) - np.float32(MEAN)) / np.float32(STD)


def num_frames(num_samples: int) -> int:
    """Number of mel frames; the last one may be padded."""
    return -(-num_samples // HOP_LENGTH)
