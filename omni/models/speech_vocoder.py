"""Interfaces of vocoders."""

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from torch import Tensor

from omni.media.mel_scale import SAMPLE_RATE


@runtime_checkable
class SpeechVocoder(Protocol):
    """Log-mel spectrograms to waveforms; a module with these members is a vocoder.

    One whose waveforms are not at 16 kHz has an attribute `sample_rate`; see `sample_rate_of`.

    Attributes:
        num_mels: Number of mel filters of its spectrograms.
    """

    num_mels: int

    def __call__(self, mels: Tensor) -> Tensor:
        """Maps mels (batch, frames, num_mels) to (batch, samples), 10 ms per frame."""
        ...


class VocoderStream(Protocol):
    """A vocoder with the state of a stream."""

    def decode(self, mels: Tensor) -> Tensor:
        """Maps the next mels (batch, frames, num_mels) to the samples (batch, samples) that are complete."""
        ...

    def flush(self) -> Tensor:
        """The remaining samples, (batch, samples); with them the stream is as long as the whole."""
        ...


@runtime_checkable
class CausalVocoder(SpeechVocoder, Protocol):
    """A vocoder that reads past frames and at most a few later ones: a stream sounds like the whole."""

    def streaming(self) -> AbstractContextManager[VocoderStream]:
        """A new stream, without gradient."""
        ...


def streams(vocoder: SpeechVocoder) -> bool:
    """Whether a vocoder can stream. One with a choice has an attribute `causal`."""
    return isinstance(vocoder, CausalVocoder) and getattr(vocoder, "causal", True)


def sample_rate_of(vocoder: object) -> int:
    """Sample rate of a vocoder's waveforms in Hz, 16,000 unless it has an attribute `sample_rate`."""
    return getattr(vocoder, "sample_rate", SAMPLE_RATE)
