"""The vocoder: from log-mel spectrograms to waveforms."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.layers.convnext import ConvCache, ConvNeXtStack
from omni.layers.mask import length_mask
from omni.layers.norm import RMSNorm
from omni.layers.readout import readout
from omni.media.audio import HOP_LENGTH, MEAN, N_FFT, SAMPLE_RATE, STD, LogMel
from omni.media.mel_scale import VOCODER_RATES, samples_of
from omni.models.part import Part


class Vocos(Part):
    """Log-mel spectrograms to waveforms: ConvNeXt blocks and an inverse STFT (Vocos, arXiv:2306.00814).

    The head predicts the phase of each bin, and its magnitude relative to an estimate from the mel filters, above 8 kHz
    from the last one. Frame `t` is centred at sample `(t + 1/2) hop_length`, as in `omni.media.audio.LogMel`, and
    squared windows add up to a constant: a stream has a latency of `delay` samples.

    Args:
        num_mels: Mel filters.
        dim: Width.
        causal: Whether blocks read past frames only, so that spectrograms can be streamed.
        num_layers: Number of blocks.
        n_fft: Frame length in samples, a multiple of 160 at 16 kHz and of 240 at 24 kHz, three times that or more; by
            default four times, 40 ms.
        sample_rate: Of the waveforms in Hz: 16000, or 24000. Spectrograms are those of audio at 16 kHz at both rates.
        blocks: Further options of `ConvNeXtStack`.

    Attributes:
        hop_length: Samples per frame of a spectrogram, 10 ms.

    Raises:
        ValueError: If `n_fft` or `sample_rate` is out of range.
    """

    def __init__(
        self,
        *,
        num_mels: int = 128,
        dim: int = 256,
        causal: bool = True,
        num_layers: int = 6,
        n_fft: int | None = None,
        sample_rate: int = SAMPLE_RATE,
        **blocks: Any,
    ) -> None:
        super().__init__()
        if sample_rate not in VOCODER_RATES:
            raise ValueError(f"sample_rate must be {' or '.join(map(str, VOCODER_RATES))} Hz, not {sample_rate}")
        self.sample_rate, self.hop_length = sample_rate, samples_of(HOP_LENGTH, sample_rate)
        n_fft = 4 * self.hop_length if n_fft is None else n_fft
        if n_fft % self.hop_length or n_fft < 3 * self.hop_length:
            least = f"{self.hop_length}, {3 * self.hop_length} or more at {sample_rate} Hz"
            raise ValueError(f"n_fft must be a multiple of {least}, not {n_fft}")
        self.num_mels, self.n_fft, self.causal = num_mels, n_fft, causal
        self.input = nn.Linear(num_mels, dim)
        self.backbone = ConvNeXtStack(dim, num_layers, causal=causal, **blocks)
        self.norm = RMSNorm(dim)
        self.head = readout(nn.Linear(dim, n_fft + 2))  # of magnitudes and phases
        self.window: Tensor
        self.shares: Tensor
        self.offsets: Tensor
        # Squared Hann windows of which r overlap add up to 3 r / 8.
        window = torch.hann_window(n_fft) * (self.hop_length / n_fft * 8 / 3)
        self.register_buffer("window", window, persistent=False)
        for name, values in zip(("shares", "offsets"), _envelope(num_mels, n_fft, sample_rate), strict=True):
            self.register_buffer(name, values, persistent=False)

    @property
    def delay(self) -> int:
        """Latency of a stream in samples: frame `t` changes the waveform from sample `hop_length t - delay` on."""
        return (self.n_fft - self.hop_length) // 2

    def converted(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of a vocoder of 16 kHz for one of a higher rate and the same frame length in seconds.

        The waveform up to 8 kHz stays. Each bin above has the magnitude of the last one below, and new phases.
        """
        bins = self.n_fft * SAMPLE_RATE // self.sample_rate // 2 + 1
        rows = {name: weights.get(f"head.{name}") for name in ("weight", "bias")}
        if self.sample_rate == SAMPLE_RATE or any(given is None or len(given) != 2 * bins for given in rows.values()):
            return weights
        found = dict(weights)
        for name, own in self.head.state_dict().items():
            levels, phases = found[f"head.{name}"].chunk(2)
            new = own.to(phases).chunk(2)[1][bins:]
            above = levels[-2:-1].expand_as(new)  # not of the last bin, 8 kHz, which has no phase
            found[f"head.{name}"] = torch.cat((levels, above, phases, new))
        return found

    @property
    def flops_per_second(self) -> float:
        """FLOPs of training (forward and backward) on a second of audio, without Fourier transforms."""
        return 6 * SAMPLE_RATE / HOP_LENGTH * sum(p.numel() for p in self.parameters() if p.ndim > 1)

    def forward(self, mels: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Synthesises waveforms.

        Args:
            mels: (batch, frames, num_mels), from `omni.media.audio.LogMel`.
            lengths: (batch,), int64: frames of each row; all if not given.

        Returns:
            (batch, frames × hop_length), fp32, at `sample_rate`; zeros after a row's end.

        Raises:
            ValueError: If there are no frames, or the number of filters differs.
        """
        self._check(mels)
        mask = None if lengths is None else length_mask(lengths, mels.shape[1])
        hop = self.hop_length
        audio = overlap_add(self._frames(mels, mask=mask), hop)[:, self.delay :][:, : mels.shape[1] * hop]
        return audio if mask is None else audio * mask.repeat_interleave(hop, dim=1)

    @contextmanager
    def streaming(self) -> Iterator["VocosStream"]:
        """A new stream, in which pieces of any length give the result of the whole; without gradient.

        Raises:
            ValueError: If the vocoder is not causal.
        """
        if not self.causal:
            raise ValueError("this vocoder reads future frames (causal is false): it cannot stream")
        stream = VocosStream(self)
        with torch.no_grad():
            yield stream
        stream.close()

    def spectrum(
        self, mels: Tensor, cache: ConvCache | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Magnitudes and phases in radians of each frame, (batch, frames, n_fft / 2 + 1) in fp32.

        Args:
            mels: (batch, frames, num_mels).
            cache: The state of a stream that `mels` continue.
            mask: (batch, frames), bool: frames where it is false count as zeros.
        """
        x = self.head(self.norm(self.backbone(self.input(mels), cache, mask))).float()
        with torch.autocast(mels.device.type, enabled=False):
            level, phase = x.chunk(2, dim=-1)
            expected = (mels.float() * STD + MEAN) @ self.shares + self.offsets
            largest = math.log(self.n_fft / 2)  # of any bin, for a waveform within ±1
            return (level + expected).clamp(max=largest).exp(), phase

    def _frames(self, mels: Tensor, cache: ConvCache | None = None, mask: Tensor | None = None) -> Tensor:
        """Windowed frames of the waveform: (batch, frames, n_fft); zeros where `mask` is false."""
        magnitude, phase = self.spectrum(mels, cache, mask)
        with torch.autocast(mels.device.type, enabled=False):
            frames = torch.fft.irfft(torch.polar(magnitude, phase), self.n_fft) * self.window
        return frames if mask is None else frames * mask[..., None]

    def _check(self, mels: Tensor) -> None:
        if mels.ndim != 3 or mels.shape[2] != self.num_mels or not mels.shape[1]:
            shape = " × ".join(map(str, mels.shape))
            raise ValueError(f"the vocoder takes mels (batch, 1 or more frames, {self.num_mels} filters), not {shape}")


@final
class VocosStream:
    """The state of a vocoder in a stream; see `Vocos.streaming`.

    Args:
        vocoder: The vocoder, causal and in eval mode.
    """

    def __init__(self, vocoder: Vocos) -> None:
        self.vocoder = vocoder
        self._cache = ConvCache()
        self._tail: Tensor | None = None  # samples to which later frames are added
        self._before = vocoder.delay  # samples before the first one that are still to be dropped

    def decode(self, mels: Tensor) -> Tensor:
        """Maps the next (batch, frames, num_mels) to the samples (batch, samples) that they complete.

        The output is `delay` samples late.
        """
        self.vocoder._check(mels)
        audio = overlap_add(self.vocoder._frames(mels, self._cache), self.vocoder.hop_length)
        if self._tail is not None:
            audio = audio + F.pad(self._tail, (0, audio.shape[1] - self._tail.shape[1]))
        complete = mels.shape[1] * self.vocoder.hop_length
        self._tail = audio[:, complete:]
        return self._trimmed(audio[:, :complete])

    def flush(self) -> Tensor:
        """The last `delay` samples, (batch, samples); the state is then reset.

        Raises:
            ValueError: If the stream is empty.
        """
        if self._tail is None:
            raise ValueError("the stream is empty: decode a spectrogram first")
        last = self._trimmed(self._tail[:, : self.vocoder.delay])
        self.close()
        return last

    def close(self) -> None:
        """Resets the state."""
        self._cache, self._tail, self._before = ConvCache(), None, self.vocoder.delay

    def _trimmed(self, audio: Tensor) -> Tensor:
        """Drops what lies before the first sample of the waveform."""
        dropped = min(self._before, audio.shape[1])
        self._before -= dropped
        return audio[:, dropped:]


def overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """Adds frames (batch, frames, size), one each hop: (batch, (frames - 1) × hop + size), size a multiple of hop."""
    batch, count, size = frames.shape
    hops = frames.view(batch, count, size // hop_length, hop_length)
    overlap = hops.shape[2]
    shifted = [F.pad(hops[:, :, i], (0, 0, i, overlap - 1 - i)) for i in range(overlap)]
    return torch.stack(shifted).sum(0).flatten(1)


def _envelope(num_mels: int, n_fft: int, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Coefficients of a smooth spectrum from log mel magnitudes: `log_mels @ shares + offsets` are log magnitudes.

    A filter's magnitude is spread evenly over its bins; bins between the centres of two filters are interpolated.

    Returns:
        shares (num_mels, bins) and offsets (bins,), for frames of `n_fft` samples.
    """
    filters = LogMel(num_mels).filters
    widths, size = filters.sum(0), samples_of(N_FFT, sample_rate)
    middles = torch.arange(len(filters), dtype=filters.dtype) @ filters / widths * (n_fft / size)  # in bins of n_fft
    bins = torch.arange(n_fft // 2 + 1, dtype=filters.dtype).clamp(middles[0], middles[-1])
    above = torch.searchsorted(middles, bins).clamp(1, num_mels - 1)
    share = (bins - middles[above - 1]) / (middles[above] - middles[above - 1])
    one_hot = torch.eye(num_mels)
    shares = one_hot[above - 1] * (1 - share[:, None]) + one_hot[above] * share[:, None]
    return shares.T.contiguous(), math.log(n_fft / N_FFT) - shares @ widths.log()
