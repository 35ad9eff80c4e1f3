"""What tells made sound from real sound while a vocoder is trained."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from omni.models.part import Part

_SLOPE = 0.1  # of the leaky ReLUs
_QUIET = 1e-5  # power below which a bin of a spectrogram is nothing


class DiscriminatorOutput(NamedTuple):
    """What discriminators say of a batch of sounds.

    Attributes:
        scores: Of each discriminator (batch, places): over 0 for real, under 0 for made.
        features: Of each discriminator, what its layers hold: (batch, channels, height, width) each.
    """

    scores: list[Tensor]
    features: list[list[Tensor]]

    def rows(self, rows: slice) -> "DiscriminatorOutput":
        """What is said of some of the sounds."""
        features = [[layer[rows] for layer in layers] for layers in self.features]
        return DiscriminatorOutput([score[rows] for score in self.scores], features)


class Discriminators(Part):
    """Discriminators of sound: of samples at several periods, and of spectrograms at several resolutions.

    The former are those of HiFi-GAN (arXiv:2010.05646), the latter those of UnivNet (arXiv:2106.07889), which hear
    square roots of magnitudes here, so that what is quiet counts.

    Args:
        periods: A sound is folded into columns of so many samples.
        period_channels: Channels of each layer behind the folding; all but the last layer look at every third place.
        resolutions: Samples of a frame of each spectrogram; frames are a quarter of that apart.
        resolution_channels: Channels of the layers that look at spectrograms.
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
            raise ValueError("periods and resolutions are empty: nothing would judge the sound")

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """Judges sounds (batch, samples)."""
        judged = [member(audio) for member in self.members]
        return DiscriminatorOutput([score for score, _ in judged], [features for _, features in judged])


class _Layers(nn.Module):
    """Convolutions with leaky ReLUs between them; the last one scores."""

    def __init__(self, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(weight_norm(conv) for conv in convs)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Maps (batch, 1, height, width) to scores (batch, places) and what each layer but the last holds."""
        features = []
        for conv in self.convs[:-1]:
            x = F.leaky_relu(conv(x), _SLOPE)
            features.append(x)
        return self.convs[-1](x).flatten(1), features


class _PeriodDiscriminator(nn.Module):
    """Looks at every `period`-th sample, at each offset alike."""

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
    """Looks at a spectrogram; every layer but the first and the last halves the frequencies."""

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
            loudness = (spectrum.real.square() + spectrum.imag.square() + _QUIET).pow(0.25)
        return self.layers(loudness[:, None])
