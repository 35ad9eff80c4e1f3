"""The Griffin–Lim vocoder: spectrograms to audio without training."""

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from omni.media.audio import HOP_LENGTH, MEAN, N_FFT, STD, LogMel

_REFINEMENTS = 20  # of the spectrum: lowers the mel distance from 0.020 to 0.004 at 80 filters
_MOMENTUM = 0.99  # of the fast algorithm, as its authors recommend


class GriffinLim(nn.Module):
    """The inverse of `omni.media.audio.LogMel`: (batch, frames, num_mels) to (batch, samples) at 16 kHz.

    Magnitudes by the filterbank's pseudo-inverse, made non-negative and refined (multiplicative updates, Lee and Seung
    2001); phases by the fast Griffin–Lim algorithm (Perraudin et al. 2013), from phase zero: deterministic. Phases
    depend on all frames, so it cannot stream.

    Args:
        num_mels: Mel filters.
        iterations: Iterations of the phase estimation.
    """

    def __init__(self, num_mels: int = 128, *, iterations: int = 32) -> None:
        super().__init__()
        self.num_mels, self.iterations = num_mels, iterations
        self.window: Tensor
        self.filters: Tensor
        self.inverse: Tensor
        log_mel = LogMel(num_mels)
        with torch.autocast("cpu", enabled=False):  # under autocast of a validation the inverse would be bf16
            inverse = torch.linalg.pinv(log_mel.filters)
        for name, values in {"window": log_mel.window, "filters": log_mel.filters, "inverse": inverse}.items():
            self.register_buffer(name, values, persistent=False)

    def magnitudes(self, mels: Tensor) -> Tensor:
        """Magnitudes (..., frames, bins), 0 or more, of a log-mel spectrogram (..., frames, num_mels)."""
        wanted = mels.float().mul(STD).add(MEAN).exp()
        spectrum = (wanted @ self.inverse).clamp(min=1e-6)
        numerator = wanted @ self.filters.T
        gram = self.filters @ self.filters.T
        for _ in range(_REFINEMENTS):
            spectrum = spectrum * numerator / (spectrum @ gram).clamp(min=1e-8)
        return spectrum

    @torch.no_grad()
    def forward(self, mels: Tensor) -> Tensor:
        """Maps (batch, frames, num_mels) to (batch, frames × 160) samples."""
        with torch.autocast(mels.device.type, enabled=False):
            # Frame t is centred at sample 160 t + 80. With a silent frame before and after, the frames of torchaudio,
            # which start at sample 0, are 80 samples away.
            spectrum = F.pad(self.magnitudes(mels).mT, (1, 1))
            audio = torchaudio.functional.griffinlim(
                spectrum,
                self.window,
                n_fft=N_FFT,
                hop_length=HOP_LENGTH,
                win_length=N_FFT,
                power=1.0,
                n_iter=self.iterations,
                momentum=_MOMENTUM,
                length=None,
                rand_init=False,
            )
        return audio[..., HOP_LENGTH // 2 : HOP_LENGTH // 2 + mels.shape[1] * HOP_LENGTH]
