"""Preprocessing of audio for encoders, in training and inference: log-mel spectrograms or framed waveforms."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from omni.media.audio import HOP_LENGTH, LogMel
from omni.media.mel_scale import SILENCE


class SpeechPreprocessing(NamedTuple):
    """Preprocessing of audio for an encoder.

    Attributes:
        extract: Maps samples (samples,) at 16 kHz to frames of 10 ms, (frames, width).
        silence: Value of silence in a frame.
    """

    extract: Callable[[Tensor], Tensor]
    silence: float


def speech_preprocessing(num_mels: int) -> SpeechPreprocessing:
    """Preprocessing for an encoder with `num_mels` mel filters, or 0 for one of waveforms."""
    return SpeechPreprocessing(LogMel(num_mels) if num_mels else frame_waveform, silence_value(num_mels))


def silence_value(num_mels: int) -> float:
    """Value of silence in a frame with `num_mels` mel filters, or 0 for waveforms."""
    return SILENCE if num_mels else 0.0


def frame_waveform(audio: Tensor) -> Tensor:
    """Frames (frames, 160) of 10 ms of a waveform (samples,); the last one is padded with zeros."""
    return F.pad(audio, (0, -len(audio) % HOP_LENGTH)).view(-1, HOP_LENGTH)
