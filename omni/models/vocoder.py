"""The vocoder: from log-mel spectrograms to sound."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.layers.convnext import ConvCache, ConvNeXtStack
from omni.layers.mask import length_mask
from omni.layers.norm import RMSNorm
from omni.layers.readout import readout
from omni.media.audio import HOP_LENGTH, MEAN, N_FFT, SAMPLE_RATE, STD, LogMel
from omni.models.part import Part


class Vocos(Part):
    """Log-mel spectrograms to 16 kHz sound: ConvNeXt blocks at 100 Hz and an inverse STFT (Vocos, arXiv:2306.00814).

    The head says by how much the magnitude of each bin differs from what the mel filters tell of it, and its phase.
    Frame `t` is centred at sample `160 t + 80`, as in `omni.media.audio.LogMel`, and windows overlap so that their
    squares add up to a constant: the sound of a stream needs nothing but the past and `delay` samples.

    Args:
        num_mels: Mel filters.
        dim: Width.
        num_layers: Blocks.
        kernel_size: Frames that a block's convolution spans.
        expansion: How many times as wide a block's inner layer is.
        n_fft: Samples of a frame of sound, a multiple of 160, 480 or more.
        causal: Whether blocks see the past alone, so that spectrograms can be streamed.

    Raises:
        ValueError: If frames of `n_fft` samples do not add up.
    """

    def __init__(
        self,
        *,
        num_mels: int = 128,
        dim: int = 256,
        num_layers: int = 6,
        kernel_size: int = 7,
        expansion: int = 3,
        n_fft: int = 640,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if n_fft % HOP_LENGTH or n_fft < 3 * HOP_LENGTH:
            raise ValueError(f"n_fft must be a multiple of {HOP_LENGTH}, 480 or more, not {n_fft}")
        self.num_mels, self.n_fft, self.causal = num_mels, n_fft, causal
        self.input = nn.Linear(num_mels, dim)
        self.backbone = ConvNeXtStack(dim, num_layers, kernel_size=kernel_size, expansion=expansion, causal=causal)
        self.norm = RMSNorm(dim)
        self.head = readout(nn.Linear(dim, n_fft + 2))  # of magnitudes and phases
        self.window: Tensor
        self.shares: Tensor
        self.offsets: Tensor
        # Squared Hann windows of which r overlap add up to 3 r / 8.
        window = torch.hann_window(n_fft) * (HOP_LENGTH / n_fft * 8 / 3)
        self.register_buffer("window", window, persistent=False)
        for name, values in zip(("shares", "offsets"), _envelope(num_mels, n_fft), strict=True):
            self.register_buffer(name, values, persistent=False)

    @property
    def delay(self) -> int:
        """Samples that a stream holds back: frame `t` changes sound from sample `160 t - delay` on."""
        return (self.n_fft - HOP_LENGTH) // 2

    @property
    def flops_per_second(self) -> float:
        """Floating-point operations of training (forward and backward) on a second of audio, transforms left out."""
        return 6 * SAMPLE_RATE / HOP_LENGTH * sum(p.numel() for p in self.parameters() if p.ndim > 1)

    def forward(self, mels: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Makes sound.

        Args:
            mels: (batch, frames, num_mels), from `omni.media.audio.LogMel`.
            lengths: (batch,), int64: frames of each row; all if not given.

        Returns:
            (batch, frames × 160), fp32, at 16 kHz; zeros behind a row's end.

        Raises:
            ValueError: If there are no frames, or they have another number of filters.
        """
        self._check(mels)
        mask = None if lengths is None else length_mask(lengths, mels.shape[1])
        audio = overlap_add(self._frames(mels, mask=mask))[:, self.delay :][:, : mels.shape[1] * HOP_LENGTH]
        return audio if mask is None else audio * mask.repeat_interleave(HOP_LENGTH, dim=1)

    @contextmanager
    def streaming(self) -> Iterator["VocosStream"]:
        """A stream of its own, in which pieces of any length give what the whole would; without gradient.

        Raises:
            ValueError: If the vocoder is not causal.
        """
        if not self.causal:
            raise ValueError("this vocoder sees the future (causal is false): it cannot make sound of a stream")
        stream = VocosStream(self)
        with torch.no_grad():
            yield stream
        stream.close()

    def _frames(self, mels: Tensor, cache: ConvCache | None = None, mask: Tensor | None = None) -> Tensor:
        """Windowed frames of sound: (batch, frames, n_fft); zeros where `mask` is false."""
        x = self.head(self.norm(self.backbone(self.input(mels), cache, mask))).float()
        with torch.autocast(mels.device.type, enabled=False):
            level, phase = x.chunk(2, dim=-1)
            told = (mels.float() * STD + MEAN) @ self.shares + self.offsets
            loudest = math.log(self.n_fft / 2)  # of a sound within ±1 no bin is louder
            magnitude = (level + told).clamp(max=loudest).exp()
            frames = torch.fft.irfft(torch.polar(magnitude, phase), self.n_fft) * self.window
        return frames if mask is None else frames * mask[..., None]

    def _check(self, mels: Tensor) -> None:
        if mels.ndim != 3 or mels.shape[2] != self.num_mels or not mels.shape[1]:
            shape = " × ".join(map(str, mels.shape))
            raise ValueError(f"the vocoder takes mels (batch, 1 or more frames, {self.num_mels} filters), not {shape}")


@final
class VocosStream:
    """A vocoder that goes on where it stopped; see `Vocos.streaming`.

    Args:
        vocoder: The vocoder, causal and in eval mode.
    """

    def __init__(self, vocoder: Vocos) -> None:
        self.vocoder = vocoder
        self._cache = ConvCache()
        self._tail: Tensor | None = None  # sound that frames to come will add to
        self._before = vocoder.delay  # samples before the first one, still to be left out

    def decode(self, mels: Tensor) -> Tensor:
        """Maps the next (batch, frames, num_mels) to the sound (batch, samples) that they complete.

        It is `delay` samples behind the frames.
        """
        self.vocoder._check(mels)
        audio = overlap_add(self.vocoder._frames(mels, self._cache))
        if self._tail is not None:
            audio = audio + F.pad(self._tail, (0, audio.shape[1] - self._tail.shape[1]))
        complete = mels.shape[1] * HOP_LENGTH
        self._tail = audio[:, complete:]
        return self._begun(audio[:, :complete])

    def flush(self) -> Tensor:
        """The last `delay` samples, (batch, samples); the stream then begins anew.

        Raises:
            ValueError: If nothing came before.
        """
        if self._tail is None:
            raise ValueError("no spectrogram came in this stream")
        last = self._begun(self._tail[:, : self.vocoder.delay])
        self.close()
        return last

    def close(self) -> None:
        """Forgets what came before."""
        self._cache, self._tail, self._before = ConvCache(), None, self.vocoder.delay

    def _begun(self, audio: Tensor) -> Tensor:
        """Without what lies before the first sample."""
        left_out = min(self._before, audio.shape[1])
        self._before -= left_out
        return audio[:, left_out:]


def overlap_add(frames: Tensor) -> Tensor:
    """Adds frames (batch, frames, size) 160 samples apart: (batch, (frames - 1) × 160 + size), size a multiple."""
    batch, count, size = frames.shape
    hops = frames.view(batch, count, size // HOP_LENGTH, HOP_LENGTH)
    overlap = hops.shape[2]
    shifted = [F.pad(hops[:, :, i], (0, 0, i, overlap - 1 - i)) for i in range(overlap)]
    return torch.stack(shifted).sum(0).flatten(1)


def _envelope(num_mels: int, n_fft: int) -> tuple[Tensor, Tensor]:
    """How logarithms of mel magnitudes become those of a smooth spectrum: `log_mels @ shares + offsets`.

    A filter's magnitude is spread evenly over its bins; bins between the middles of two filters are interpolated.

    Returns:
        shares (num_mels, bins) and offsets (bins,), for frames of `n_fft` samples.
    """
    filters = LogMel(num_mels).filters
    widths = filters.sum(0)
    middles = torch.arange(len(filters), dtype=filters.dtype) @ filters / widths * (n_fft / N_FFT)  # in bins of n_fft
    bins = torch.arange(n_fft // 2 + 1, dtype=filters.dtype).clamp(middles[0], middles[-1])
    above = torch.searchsorted(middles, bins).clamp(1, num_mels - 1)
    share = (bins - middles[above - 1]) / (middles[above] - middles[above - 1])
    one_hot = torch.eye(num_mels)
    shares = one_hot[above - 1] * (1 - share[:, None]) + one_hot[above] * share[:, None]
    return shares.T.contiguous(), math.log(n_fft / N_FFT) - shares @ widths.log()
