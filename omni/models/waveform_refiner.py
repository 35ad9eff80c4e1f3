"""Waveforms that get closer to their spectrograms by iterations of Griffin–Lim."""

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.errors import UserError
from omni.media.audio import LogMel
from omni.media.mel_scale import HOP_LENGTH, MEAN, N_FFT, SAMPLE_RATE, STD, samples_of
from omni.models.speech_vocoder import SpeechVocoder, sample_rate_of

_MOMENTUM = 0.99  # of the fast algorithm, as its authors recommend
_UPDATES = 4  # of the magnitudes in an iteration; with 1 the mel distance of the world's recordings is a tenth higher
_FLOOR = 1e-6  # least magnitude, so that updates can raise it


@final
class WaveformRefiner(nn.Module):
    """Brings waveforms closer to the log-mel spectrograms that a vocoder made them of.

    The fast Griffin–Lim algorithm (Perraudin et al. 2013), from the vocoder's waveform. Where the algorithm sets fixed
    magnitudes, those of the waveform are scaled by multiplicative updates (Lee and Seung 2001) towards the values of
    the mel filters: what these leave open, fine structure and phases, remains the vocoder's. Magnitudes above 8 kHz
    remain, too. Iterations depend on all frames, so a stream cannot be refined.

    Args:
        num_mels: Mel filters.
        iterations: Iterations for each waveform, 1 or more.
        sample_rate: Of the waveforms in Hz; spectrograms are those of audio at 16 kHz.

    Raises:
        UserError: If there are no iterations.
    """

    def __init__(self, num_mels: int, iterations: int, *, sample_rate: int = SAMPLE_RATE) -> None:
        super().__init__()
        if iterations < 1:
            raise UserError(f"refine is {iterations}: it must be 0, for none, or more")
        self.iterations = iterations
        self.n_fft, self.hop_length = (samples_of(n, sample_rate) for n in (N_FFT, HOP_LENGTH))
        self.window: Tensor
        self.filters: Tensor
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        self.register_buffer("filters", LogMel(num_mels).filters, persistent=False)

    @torch.no_grad()
    def forward(self, audio: Tensor, mels: Tensor) -> Tensor:
        """Refines waveforms.

        Args:
            audio: (batch, frames × hop_length), within ±1.
            mels: (batch, frames, num_mels), from `omni.media.audio.LogMel`.

        Returns:
            (batch, frames × hop_length), fp32.
        """
        with torch.autocast(audio.device.type, enabled=False):
            # Frame t is centred half a hop after the start of its samples: with a silent frame before and after, the
            # frames of `stft`, the first of which is centred at sample 0, are half a hop away.
            half, samples = self.hop_length // 2, audio.shape[1]
            audio = F.pad(audio.float(), (half, half))
            wanted = F.pad(mels.float().mul(STD).add(MEAN).exp() * (self.n_fft / N_FFT), (0, 0, 1, 1))
            before = None
            for _ in range(self.iterations):
                spectrum = self._spectrum(audio)
                ahead = spectrum if before is None else spectrum + _MOMENTUM * (spectrum - before)
                before = spectrum
                audio = self._audio(torch.polar(self._with_mels(ahead.abs(), wanted.mT), ahead.angle()), audio.shape[1])
        return audio[:, half : half + samples]

    def _spectrum(self, audio: Tensor) -> Tensor:
        return torch.stft(
            audio, self.n_fft, self.hop_length, window=self.window, pad_mode="constant", return_complex=True
        )

    def _audio(self, spectrum: Tensor, samples: int) -> Tensor:
        return torch.istft(spectrum, self.n_fft, self.hop_length, window=self.window, length=samples)

    def _with_mels(self, magnitudes: Tensor, wanted: Tensor) -> Tensor:
        """Magnitudes (batch, bins, frames) near the given ones, whose mel filters have nearly the `wanted` values."""
        filters = self.filters
        low, high = magnitudes[:, : len(filters)].clamp(min=_FLOOR), magnitudes[:, len(filters) :]
        numerator = filters @ wanted
        for _ in range(_UPDATES):
            low = low * numerator / (filters @ (filters.T @ low)).clamp(min=1e-8)
        return torch.cat((low, high), dim=1)


@final
class RefinedVocoder(nn.Module):
    """A vocoder and a `WaveformRefiner`; it cannot stream.

    Args:
        vocoder: The vocoder, a `SpeechVocoder`.
        iterations: Iterations of the refiner, 1 or more.

    Raises:
        UserError: If there are no iterations.
    """

    def __init__(self, vocoder: Any, iterations: int) -> None:
        super().__init__()
        self.num_mels, self.sample_rate = vocoder.num_mels, sample_rate_of(vocoder)
        self.vocoder: SpeechVocoder = vocoder
        self.refiner = WaveformRefiner(self.num_mels, iterations, sample_rate=self.sample_rate)

    @torch.no_grad()
    def forward(self, mels: Tensor) -> Tensor:
        """Maps (batch, frames, num_mels) to (batch, samples), 10 ms for each frame."""
        return self.refiner(self.vocoder(mels), mels)
