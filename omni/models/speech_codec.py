"""What every codec of speech offers to those who read, write or predict its codes."""

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class SpeechCodec(Protocol):
    """Log-mel spectrograms as a few small integers a frame, and back; a `Part` that has these is a codec.

    Attributes:
        num_mels: Mel filters of what it reads and writes.
        frame_rate: Frames of codes a second; a divisor of 100, the mel frames a second.
        num_codebooks: Codes of a frame.
        codebook_size: What each code is less than.
    """

    num_mels: int

    @property
    def frame_rate(self) -> float: ...

    @property
    def num_codebooks(self) -> int: ...

    @property
    def codebook_size(self) -> int: ...

    def encode(self, mels: Tensor, lengths: Tensor) -> Tensor:
        """Maps mels (batch, mel frames, num_mels) of rows so long to codes (batch, frames, num_codebooks), int64."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Maps codes (batch, frames, num_codebooks) to (batch, mel frames, num_mels).

        What stands behind a row's end changes nothing before it.
        """
        ...


class DecoderStream(Protocol):
    """A codec's decoder that goes on where it stopped."""

    def decode(self, codes: Tensor) -> Tensor:
        """Maps the next codes (batch, frames, num_codebooks) to (batch, mel frames, num_mels)."""
        ...


@runtime_checkable
class CausalCodec(SpeechCodec, Protocol):
    """A codec that decodes a frame from those before it: a stream gives what the whole does."""

    def streaming(self) -> AbstractContextManager[DecoderStream]:
        """A stream of its own, without gradient."""
        ...
