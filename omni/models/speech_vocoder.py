"""What every vocoder offers to those who want to hear spectrograms."""

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class SpeechVocoder(Protocol):
    """Log-mel spectrograms to sound; a module that has these is a vocoder.

    Attributes:
        num_mels: Mel filters of what it reads.
    """

    num_mels: int

    def __call__(self, mels: Tensor) -> Tensor:
        """Maps mels (batch, frames, num_mels) to (batch, frames × 160) samples at 16 kHz."""
        ...


class VocoderStream(Protocol):
    """A vocoder that goes on where it stopped."""

    def decode(self, mels: Tensor) -> Tensor:
        """Maps the next mels (batch, frames, num_mels) to those samples (batch, samples) that are complete."""
        ...

    def flush(self) -> Tensor:
        """The samples that are left, (batch, samples): with them the stream is as long as the whole."""
        ...


@runtime_checkable
class CausalVocoder(SpeechVocoder, Protocol):
    """A vocoder that sees the past alone, save for a few frames: a stream sounds as the whole does."""

    def streaming(self) -> AbstractContextManager[VocoderStream]:
        """A stream of its own, without gradient."""
        ...


def streams(vocoder: SpeechVocoder) -> bool:
    """Whether a vocoder is causal. One that may be either says which by an attribute `causal`."""
    return isinstance(vocoder, CausalVocoder) and getattr(vocoder, "causal", True)
