"""The speech codec: log-mel spectrograms to codes and back."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from omni.layers.convnext import ConvCache, ConvNeXtStack
from omni.layers.mask import length_mask
from omni.layers.quantizer import ResidualQuantizer
from omni.models.part import Part


class Reconstruction(NamedTuple):
    """Spectrograms that the codec encoded and decoded.

    Attributes:
        mels: (batch, mel frames, num_mels), fp32; undefined at padding.
        codes: (batch, frames, num_codebooks), int64; 0 at padding.
        commitment: (batch, frames), fp32: mean squared quantisation error; 0 at padding.
        energies: (num_codebooks + 1,), fp32: see `Quantized`.
    """

    mels: Tensor
    codes: Tensor
    commitment: Tensor
    energies: Tensor


class Codec(Part):
    """Log-mel spectrograms to codes and back, by causal ConvNeXt blocks around a residual vector quantizer.

    It reads past frames only, apart from the mel frames of the same frame of codes, so that streams can be encoded and
    decoded. An incomplete last frame is padded with the last mel frame.

    Args:
        num_mels: Mel filters.
        dim: Width.
        mel_layers: Blocks at 100 Hz, in the encoder and in the decoder.
        downsampling: Mel frames per frame of codes: 2 (50 Hz), 4 (25 Hz) or 8 (12.5 Hz).
        num_layers: Blocks at the rate of the codes, in the encoder and in the decoder.
        kernel_size: Span of a block's convolution in frames.
        expansion: Hidden width of a block relative to `dim`.
        quantizer_dropout: Share of the training rows that use only some of the codebooks.
        quantizer: Further options of `ResidualQuantizer`.
    """

    def __init__(
        self,
        *,
        num_mels: int = 128,
        dim: int = 192,
        mel_layers: int = 1,
        downsampling: Literal[2, 4, 8] = 4,
        num_layers: int = 2,
        kernel_size: int = 7,
        expansion: int = 3,
        quantizer_dropout: float = 0.2,
        **quantizer: Any,
    ) -> None:
        super().__init__()
        if downsampling not in (2, 4, 8):
            raise ValueError(f"downsampling must be 2, 4 or 8, not {downsampling}")
        self.num_mels, self.downsampling = num_mels, downsampling
        blocks: dict[str, Any] = {"kernel_size": kernel_size, "expansion": expansion}
        self.mel_input = nn.Linear(num_mels, dim)
        self.mel_encoder = ConvNeXtStack(dim, mel_layers, **blocks)
        self.down = nn.Linear(downsampling * dim, dim)
        self.encoder = ConvNeXtStack(dim, num_layers, **blocks)
        self.quantizer = ResidualQuantizer(dim, dropout=quantizer_dropout, **quantizer)
        self.decoder = ConvNeXtStack(dim, num_layers, **blocks)
        self.up = nn.Linear(dim, downsampling * dim)
        self.mel_decoder = ConvNeXtStack(dim, mel_layers, **blocks)
        self.mel_output = nn.Linear(dim, num_mels)

    def fix_codes(self) -> None:
        """Freezes what encodes, for good: training then changes how codes are decoded, and no longer the codes."""
        self.quantizer.fixed = True
        for part in (self.mel_input, self.mel_encoder, self.down, self.encoder, self.quantizer.project_in):
            part.requires_grad_(False)

    @property
    def num_codebooks(self) -> int:
        """Codes per frame."""
        return self.quantizer.num_codebooks

    @property
    def codebook_size(self) -> int:
        """Number of entries per codebook."""
        return self.quantizer.codebook_size

    @property
    def frame_rate(self) -> float:
        """Frames of codes per second, for mel frames of 10 ms."""
        return 100 / self.downsampling

    @property
    def bit_rate(self) -> float:
        """Bits per second."""
        return self.frame_rate * self.num_codebooks * math.log2(self.codebook_size)

    @property
    def fingerprint(self) -> str:
        """The sha256, in hex, of the codebooks: codes belong to the codec that wrote them."""
        return hashlib.sha256(self.quantizer.codebooks.cpu().contiguous().numpy().tobytes()).hexdigest()

    def num_frames(self, mel_frames: Any) -> Any:
        """Number of frames of codes for a number of mel frames: ints or tensors."""
        return -(-mel_frames // self.downsampling)

    def encode(self, mels: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encodes spectrograms.

        Args:
            mels: (batch, mel frames, num_mels), from `omni.media.audio.LogMel`.
            lengths: (batch,), int64: mel frames of each row, 1 or more; all if not given.

        Returns:
            (batch, frames, num_codebooks), int64; 0 after the `num_frames(lengths)` frames of a row.
        """
        hidden, mask = self._hidden(mels, lengths)
        return self.quantizer.encode(hidden, mask)

    def decode(self, codes: Tensor) -> Tensor:
        """Maps codes (batch, frames, codebooks), of all codebooks or the first few, to (batch, mel frames, num_mels).

        Codes after a row's end do not change frames before it.
        """
        return self._rebuilt(self.quantizer.decode(codes))

    def forward(self, mels: Tensor, lengths: Tensor | None = None) -> Reconstruction:
        """Encodes and decodes spectrograms; arguments are those of `encode`."""
        hidden, mask = self._hidden(mels, lengths)
        quantized = self.quantizer(hidden, mask)
        rebuilt = self._rebuilt(quantized.output)[:, : mels.shape[1]]
        return Reconstruction(rebuilt, quantized.codes, quantized.commitment, quantized.energies)

    def encode_frames(self, mels: Tensor, cache: ConvCache) -> Tensor:
        """The codes of complete frames: mels (batch, frames × downsampling, num_mels) that continue those before."""
        return self.quantizer.encode(self._encoded(mels, cache))

    def decode_frames(self, codes: Tensor, cache: ConvCache) -> Tensor:
        """As `decode`, of codes that continue those before."""
        return self._rebuilt(self.quantizer.decode(codes), cache)

    @contextmanager
    def streaming(self) -> Iterator["CodecStream"]:
        """A new stream, in which pieces of any length give the result of the whole; without gradient."""
        stream = CodecStream(self)
        with torch.no_grad():
            yield stream
        stream.close()

    def _hidden(self, mels: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The encoder's output before quantisation, (batch, frames, dim), and the mask of padding."""
        time = self.num_frames(mels.shape[1]) * self.downsampling
        if lengths is None:
            last = torch.full((len(mels), 1), mels.shape[1] - 1, device=mels.device)
            mask = None
        else:
            last = lengths[:, None] - 1
            mask = length_mask(self.num_frames(lengths), time // self.downsampling)
        source = torch.arange(time, device=mels.device).expand(len(mels), -1).minimum(last)
        return self._encoded(mels.gather(1, source[..., None].expand(-1, -1, self.num_mels))), mask

    def _encoded(self, mels: Tensor, cache: ConvCache | None = None) -> Tensor:
        x = self.mel_encoder(self.mel_input(mels), cache)
        return self.encoder(self.down(rearrange(x, "b (t s) d -> b t (s d)", s=self.downsampling)), cache)

    def _rebuilt(self, hidden: Tensor, cache: ConvCache | None = None) -> Tensor:
        x = self.up(self.decoder(hidden, cache))
        x = self.mel_decoder(rearrange(x, "b t (s d) -> b (t s) d", s=self.downsampling), cache)
        return self.mel_output(x).float()

    @property
    def flops_per_second(self) -> float:
        """FLOPs of training (forward and backward) on a second of audio, without the nearest-entry search."""

        def weights(*modules: nn.Module) -> int:
            return sum(p.numel() for module in modules for p in module.parameters() if p.ndim > 1)

        mel = weights(self.mel_input, self.mel_encoder, self.mel_decoder, self.mel_output)
        return 6 * (
            100 * mel + self.frame_rate * weights(self.down, self.encoder, self.quantizer, self.decoder, self.up)
        )


@final
class CodecStream:
    """The state of a codec in a stream; see `Codec.streaming`.

    Encoding and decoding are independent: either may be used alone, or both in turn.

    Args:
        codec: The codec, in eval mode.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._encoding, self._decoding = ConvCache(), ConvCache()
        self._pending: Tensor | None = None  # mel frames of an incomplete frame of codes

    def encode(self, mels: Tensor) -> Tensor:
        """Maps the next (batch, mel frames, num_mels) to the codes (batch, frames, num_codebooks) of complete frames.

        Up to `downsampling - 1` mel frames are kept for the next call or for `flush`.
        """
        mels = mels if self._pending is None else torch.cat((self._pending, mels), dim=1)
        complete = mels.shape[1] // self.codec.downsampling * self.codec.downsampling
        self._pending = mels[:, complete:]
        if not complete:
            return torch.zeros(len(mels), 0, self.codec.num_codebooks, dtype=torch.long, device=mels.device)
        return self.codec.encode_frames(mels[:, :complete], self._encoding)

    def flush(self) -> Tensor:
        """The codes of an incomplete last frame: (batch, 0 or 1, num_codebooks)."""
        pending = self._pending
        if pending is None:
            raise ValueError("nothing was encoded in this stream")
        if pending.shape[1]:
            pending = F.pad(pending.mT, (0, -pending.shape[1] % self.codec.downsampling), mode="replicate").mT
        self._pending = None
        return self.encode(pending)

    def decode(self, codes: Tensor) -> Tensor:
        """Maps the next codes (batch, frames, codebooks) to (batch, mel frames, num_mels)."""
        if not codes.shape[1]:
            return torch.zeros(len(codes), 0, self.codec.num_mels, device=codes.device)
        return self.codec.decode_frames(codes, self._decoding)

    def close(self) -> None:
        """Resets the state."""
        self._encoding, self._decoding, self._pending = ConvCache(), ConvCache(), None
