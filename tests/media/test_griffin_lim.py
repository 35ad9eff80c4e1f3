"""Audio of Griffin–Lim has the spectrogram that was given."""

import numpy as np
import pytest
import torch

from omni.media.audio import SAMPLE_RATE, LogMel
from omni.media.griffin_lim import GriffinLim
from omni.media.mel_scale import SILENCE


def speech_like(seconds: float = 1.0) -> torch.Tensor:
    """A synthetic voice: harmonics of a gliding pitch with moving formants, in syllables."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 120 + 30 * np.sin(2 * np.pi * 1.5 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    audio = np.zeros_like(time)
    for harmonic in range(1, 40):
        frequency = harmonic * pitch
        formants = sum(
            np.exp(-(((frequency - centre - 200 * np.sin(2 * np.pi * 2 * time)) / 150) ** 2))
            for centre in (600, 1500, 2600)
        )
        audio += formants * np.sin(harmonic * phase)
    audio *= np.clip(np.sin(2 * np.pi * 4 * time), 0, None)
    return torch.from_numpy((0.2 * audio / np.abs(audio).max()).astype(np.float32))


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("frames", [1, 2, 7, 50])
def test_every_frame_becomes_160_samples(num_mels, frames):
    assert GriffinLim(num_mels, iterations=1)(torch.randn(3, frames, num_mels)).shape == (3, frames * 160)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_magnitudes_have_the_mel_spectrogram_that_was_given(num_mels):
    log_mel, vocoder = LogMel(num_mels), GriffinLim(num_mels)
    mels = log_mel(speech_like())
    spectrum = vocoder.magnitudes(mels)
    assert (spectrum >= 0).all()
    wanted = mels.mul(2).sub(3).exp()
    assert (spectrum @ log_mel.filters - wanted).abs().mean() < 0.02 * wanted.mean()


@pytest.mark.parametrize("num_mels", [80, 128])
def test_a_voice_is_reconstructed(num_mels):
    log_mel = LogMel(num_mels)
    audio = speech_like()
    mels = log_mel(audio)
    rebuilt = log_mel(GriffinLim(num_mels)(mels[None])[0])
    assert rebuilt.shape == mels.shape
    assert (rebuilt - mels).abs().mean() < 0.2 * (mels - mels.mean(0)).abs().mean()


def test_it_is_aligned_in_time():
    """A click is reconstructed at its position."""
    audio = torch.zeros(8000)
    audio[4000] = 1.0
    rebuilt = GriffinLim(128)(LogMel(128)(audio)[None])[0]
    assert abs(int(rebuilt.abs().argmax()) - 4000) <= 80


def test_it_is_deterministic_and_keeps_the_random_state():
    mels = LogMel(80)(speech_like(0.3))[None]
    state = torch.get_rng_state()
    vocoder = GriffinLim(80, iterations=4)
    assert torch.equal(vocoder(mels), vocoder(mels))
    assert torch.equal(torch.get_rng_state(), state)


def test_silence_stays_silent():
    assert GriffinLim(80)(torch.full((1, 30, 80), SILENCE)).abs().max() < 1e-3


def test_it_computes_in_fp32_in_bf16_training():
    mels = LogMel(80)(torch.randn(2, 3200, generator=torch.Generator().manual_seed(0)))
    expected = GriffinLim(80)(mels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made_inside = GriffinLim(80)
        assert made_inside.inverse.dtype == torch.float32
        torch.testing.assert_close(made_inside(mels), expected)
