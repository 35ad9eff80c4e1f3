"""Refined waveforms are nearer to their spectrograms, and a recording stays what it is."""

import pytest
import torch

from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE, LogMel
from omni.media.griffin_lim import GriffinLim
from omni.media.resampling import resample
from omni.models.speech_vocoder import SpeechVocoder, streams
from omni.models.vocoder import Vocos
from omni.models.waveform_refiner import RefinedVocoder, WaveformRefiner


def voice(sample_rate: int = SAMPLE_RATE) -> torch.Tensor:
    """(1, samples): a second of a gliding voice in syllables, with noise up to half the sample rate."""
    time = torch.arange(sample_rate) / sample_rate
    phase = 2 * torch.pi * (120 * time - 5 * torch.cos(6 * time))
    harmonics = sum(torch.sin(k * phase) / k for k in range(1, 40))
    noise = torch.randn(sample_rate, generator=torch.Generator().manual_seed(0)) / 10
    return 0.1 * (torch.sin(2 * torch.pi * 4 * time).clamp(min=0) * (harmonics + noise))[None]


def distance(audio: torch.Tensor, mels: torch.Tensor) -> float:
    return (LogMel(mels.shape[2])(audio) - mels).abs().mean().item()


@pytest.mark.parametrize("sample_rate", [16_000, 24_000])
@pytest.mark.parametrize("frames", [1, 2, 7, 50])
def test_waveforms_keep_their_length(frames, sample_rate):
    vocoder = Vocos(num_mels=80, dim=16, num_layers=1, sample_rate=sample_rate)
    refined = RefinedVocoder(vocoder, 2)
    assert refined(torch.randn(3, frames, 80)).shape == (3, frames * sample_rate // 100)
    assert isinstance(refined, SpeechVocoder)
    assert refined.sample_rate == sample_rate
    assert not streams(refined)  # though Vocos does


@pytest.mark.parametrize("num_mels", [80, 128])
def test_they_are_nearer_to_the_spectrogram(num_mels):
    mels = LogMel(num_mels)(voice())
    griffin_lim = GriffinLim(num_mels, iterations=8)
    plain = griffin_lim(mels)
    assert distance(RefinedVocoder(griffin_lim, 8)(mels), mels) < 0.8 * distance(plain, mels)
    noise = 0.1 * torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
    assert distance(WaveformRefiner(num_mels, 8)(noise, mels), mels) < 0.3 * distance(noise, mels)


@pytest.mark.parametrize("sample_rate", [16_000, 24_000])
def test_a_recording_stays(sample_rate):
    """Also in time and in level, and above the band of the spectrogram."""
    audio = voice(sample_rate)
    mels = LogMel(80)(resample(audio, sample_rate, SAMPLE_RATE))
    refined = WaveformRefiner(80, 16, sample_rate=sample_rate)(audio, mels)
    assert (refined - audio).square().mean() < 0.01 * audio.square().mean()


def test_it_computes_in_fp32_in_bf16_training():
    audio = voice()
    mels, refiner = LogMel(80)(audio), WaveformRefiner(80, 2)
    expected = refiner(audio, mels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(refiner(audio, mels), expected)
    assert not refiner.state_dict()  # checkpoints do not change with it


@pytest.mark.parametrize("iterations", [0, -1])
def test_no_iterations_are_refused(iterations):
    with pytest.raises(UserError, match=f"refine is {iterations}: it must be 0, for none, or more"):
        WaveformRefiner(80, iterations)
