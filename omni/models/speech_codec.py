"""Interfaces of speech codecs."""

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class SpeechCodec(Protocol):
    """Log-mel spectrograms to a few codes per frame, and back; a `Part` with these members is a codec.

    Attributes:
        num_mels: Number of mel filters of its spectrograms.
        frame_rate: Frames of codes per second; a divisor of 100, the mel frames per second.
        num_codebooks: Codes per frame.
        codebook_size: Number of entries per codebook.
    """

    num_mels: int

    @property
    def frame_rate(self) -> float: ...

    @property
    def num_codebooks(self) -> int: ...

    @property
    def codebook_size(self) -> int: ...

    def encode(self, mels: Tensor, lengths: Tensor) -> Tensor:
        """Maps mels (batch, mel frames, num_mels) and their lengths to codes (batch, frames, num_codebooks), int64."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Maps codes (batch, frames, num_codebooks) to (batch, mel frames, num_mels).

        Codes after a row's end do not change frames before it.
        """
        ...


class DecoderStream(Protocol):
    """A codec's decoder with the state of a stream."""

    def decode(self, codes: Tensor) -> Tensor:
        """Maps the next codes (batch, frames, num_codebooks) to (batch, mel frames, num_mels)."""
        ...


@runtime_checkable
class CausalCodec(SpeechCodec, Protocol):
    """A codec that decodes a frame from earlier ones: streamed decoding equals decoding the whole."""

    def streaming(self) -> AbstractContextManager[DecoderStream]:
        """A new stream, without gradient."""
        ...
