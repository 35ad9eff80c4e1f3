"""Discriminators for the adversarial training of a vocoder."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from omni.models.part import Part

_SLOPE = 0.1  # of the leaky ReLUs
_QUIET = 1e-5  # power floor of a spectrogram's bins


class DiscriminatorOutput(NamedTuple):
    """Output of the discriminators for a batch of waveforms.

    Attributes:
        scores: (batch, positions) of each discriminator: over 0 for real, under 0 for generated audio.
        features: Activations of each discriminator's layers, (batch, channels, height, width) each.
    """

    scores: list[Tensor]
    features: list[list[Tensor]]

    def rows(self, rows: slice) -> "DiscriminatorOutput":
        """The output for some of the waveforms."""
        features = [[layer[rows] for layer in layers] for layers in self.features]
        return DiscriminatorOutput([score[rows] for score in self.scores], features)


class Discriminators(Part):
    """Multi-period and multi-resolution discriminators.

    The former are those of HiFi-GAN (arXiv:2010.05646), the latter those of UnivNet (arXiv:2106.07889), on square roots
    of magnitudes here, which gives more weight to quiet parts.

    Args:
        periods: Periods in samples at which waveforms are folded.
        period_channels: Channels of each layer of a period discriminator; all layers but the last have stride 3.
        resolutions: Frame lengths of the spectrograms in samples; the hop is a quarter of it.
        resolution_channels: Channels of the layers of a resolution discriminator.
    """

    def __init__(
        self,
        *,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        period_channels: Sequence[int] = (32, 128, 512, 1024, 1024),
        resolutions: Sequence[int] = (512, 1024, 2048),
        resolution_channels: int = 32,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            [_PeriodDiscriminator(period, period_channels) for period in periods]
            + [_ResolutionDiscriminator(n_fft, resolution_channels) for n_fft in resolutions]
        )
        if not self.members:
            raise ValueError("periods and resolutions are empty: give at least one of them")

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """Scores waveforms (batch, samples)."""
        outputs = [member(audio) for member in self.members]
        return DiscriminatorOutput([score for score, _ in outputs], [features for _, features in outputs])


class _Layers(nn.Module):
    """Convolutions with leaky ReLUs between; the last one gives scores."""

    def __init__(self, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(weight_norm(conv) for conv in convs)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Maps (batch, 1, height, width) to scores (batch, positions) and the activations of the other layers."""
        features = []
        for conv in self.convs[:-1]:
            x = F.leaky_relu(conv(x), _SLOPE)
            features.append(x)
        return self.convs[-1](x).flatten(1), features


class _PeriodDiscriminator(nn.Module):
    """A discriminator of waveforms folded at a period, in samples."""

    def __init__(self, period: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.period = period
        strides = [3] * (len(channels) - 1) + [1]
        convs = [
            nn.Conv2d(inner, outer, (5, 1), (stride, 1), (2, 0))
            for inner, outer, stride in zip((1, *channels), channels, strides, strict=False)
        ]
        self.layers = _Layers([*convs, nn.Conv2d(channels[-1], 1, (3, 1), 1, (1, 0))])

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        audio = F.pad(audio, (0, -audio.shape[1] % self.period))
        return self.layers(audio.view(len(audio), 1, -1, self.period))


class _ResolutionDiscriminator(nn.Module):
    """A discriminator of spectrograms; all layers but the first and last ones halve the frequencies."""

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        convs = [nn.Conv2d(1, channels, (9, 3), 1, (4, 1))]
        convs += [nn.Conv2d(channels, channels, (9, 3), (2, 1), (4, 1)) for _ in range(3)]
        convs += [nn.Conv2d(channels, channels, 3, 1, 1), nn.Conv2d(channels, 1, 3, 1, 1)]
        self.layers = _Layers(convs)

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.autocast(audio.device.type, enabled=False):
            audio = F.pad(audio.float(), (self.n_fft // 2, self.n_fft // 2))
            spectrum = torch.stft(
                audio, self.n_fft, self.n_fft // 4, window=self.window, center=False, return_complex=True
            )
            magnitude = (spectrum.real.square() + spectrum.imag.square() + _QUIET).pow(0.25)
        return self.layers(magnitude[:, None])
