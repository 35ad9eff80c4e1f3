"""What models hear of audio: log-mel spectrograms, or waveforms; alike in training and in serving."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from omni.media.audio import HOP_LENGTH, SILENCE, LogMel


class SpeechPreprocessing(NamedTuple):
    """How audio is prepared for an encoder.

    Attributes:
        prepare: From samples (samples,) at 16 kHz to frames of 10 ms, (frames, width).
        silence: What stands for it in a frame.
    """

    prepare: Callable[[Tensor], Tensor]
    silence: float


def speech_preprocessing(num_mels: int) -> SpeechPreprocessing:
    """How audio is prepared for an encoder of so many mel filters; of 0: for one that hears waveforms."""
    return SpeechPreprocessing(LogMel(num_mels) if num_mels else in_frames, silence_of(num_mels))


def silence_of(num_mels: int) -> float:
    """What stands for silence in a frame of so many mel filters; of 0: of a waveform."""
    return SILENCE if num_mels else 0.0


def in_frames(audio: Tensor) -> Tensor:
    """A waveform (samples,) cut into frames of 10 ms: (frames, 160), the last one filled up with silence."""
    return F.pad(audio, (0, -len(audio) % HOP_LENGTH)).view(-1, HOP_LENGTH)
