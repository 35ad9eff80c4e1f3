"""Augmentation of utterances: bounded, seeded, and only as configured."""

import math

import numpy as np
import pytest
import soundfile
import torch

from omni.data.speech.augmentation import SpeechAugmentation
from omni.errors import UserError
from omni.media.audio import STD, LogMel

AUDIO = 0.1 * torch.sin(torch.arange(16_000) * 0.2)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def folder(tmp_path):
    noise = np.random.default_rng(1).standard_normal(8_000) * 0.01
    soundfile.write(tmp_path / "noise.wav", noise, 16_000, subtype="FLOAT")
    return str(tmp_path)


def test_the_defaults_change_nothing():
    plain = SpeechAugmentation(silence=0)
    assert not plain.changes_waveform
    assert torch.equal(plain.of_waveform(AUDIO, rng()), AUDIO)
    mel = torch.randn(50, 16)
    assert torch.equal(plain.of_mel(mel, rng()), mel)
    assert torch.equal(plain.masked(mel, rng()), mel)
    assert plain.silences(rng()) == (0, 0)


def test_silence_is_added_on_both_sides_in_half_of_the_cases_up_to_its_limit():
    drawn = np.array([SpeechAugmentation(silence=0.2).silences(rng(seed)) for seed in range(400)])
    assert drawn.max() == 20
    assert ((drawn > 0).mean(0) > 0.4).all()
    assert ((drawn > 0).mean(0) < 0.6).all()


def test_masks_are_bounded_and_leave_the_input_unchanged():
    mel = torch.ones(100, 40)
    augmentation = SpeechAugmentation(time_masks=1, time_mask=0.3, freq_masks=1, freq_mask=0.25)
    shares = []
    for seed in range(50):
        masked = augmentation.masked(mel, rng(seed))
        frames, bins = (masked == 0).all(1).sum(), (masked == 0).all(0).sum()
        assert frames <= 20  # a fifth of the utterance
        assert bins <= 10
        shares.append(int(frames + bins))
    assert max(shares) > 20
    assert mel.min() == 1


def test_tempo_changes_length_and_not_pitch():
    mel = LogMel(80)(AUDIO)
    lengths = []
    for seed in range(40):
        changed = SpeechAugmentation(tempo=0.25).of_mel(mel, rng(seed))
        assert changed.shape[1] == 80
        assert (changed.argmax(1) == mel[50].argmax()).float().mean() > 0.9
        lengths.append(len(changed))
    assert 80 <= min(lengths) < 88
    assert 115 < max(lengths) <= 125


def test_vocal_tract_perturbation_moves_tones_only():
    mel = LogMel(80)(AUDIO)
    assert torch.equal(
        SpeechAugmentation(vocal_tract=0.2).of_mel(mel, rng()), SpeechAugmentation(vocal_tract=0.2).of_mel(mel, rng())
    )
    peaks = {int(SpeechAugmentation(vocal_tract=0.2).of_mel(mel, rng(seed))[50].argmax()) for seed in range(40)}
    low, high = (int(LogMel(80)(0.1 * torch.sin(torch.arange(16_000) * 0.2 * f))[50].argmax()) for f in (1 / 1.2, 1.2))
    assert low < int(mel[50].argmax()) < high
    assert peaks <= set(range(low, high + 1))
    assert len(peaks) >= high - low - 1


def test_the_equalizer_changes_sound_within_its_bounds_and_keeps_silence():
    mel = LogMel(80)(torch.cat([AUDIO, torch.zeros(8_000)]))
    for seed in range(20):
        changed = SpeechAugmentation(equalizer=6).of_mel(mel, rng(seed)) - mel
        assert changed.abs().max() <= 6 * math.log(10) / 20 / STD + 1e-5
        assert changed[30].abs().max() > 0.01
        assert changed[120].abs().max() == 0


def test_speed_changes_length_and_pitch_by_its_factor():
    faster = SpeechAugmentation(speed=(1.1,)).of_waveform(AUDIO, rng())
    assert len(faster) == pytest.approx(16_000 / 1.1, abs=2)
    peak = torch.fft.rfft(faster * torch.hann_window(len(faster))).abs().argmax() / len(faster)
    before = torch.fft.rfft(AUDIO * torch.hann_window(16_000)).abs().argmax() / 16_000
    assert peak / before == pytest.approx(1.1, rel=0.01)


def test_gain_stays_within_its_bounds():
    gains = [
        20 * float((SpeechAugmentation(gain=6).of_waveform(AUDIO, rng(seed)).norm() / AUDIO.norm()).log10())
        for seed in range(100)
    ]
    assert -6 <= min(gains) < -4
    assert 4 < max(gains) <= 6


@pytest.mark.parametrize("made", [True, False])
def test_noise_is_added_at_the_configured_ratio_in_half_of_the_cases(folder, made):
    augmentation = SpeechAugmentation(noise="coloured" if made else folder, snr=(10, 10))
    augmentation.check()
    changed = 0
    for seed in range(60):
        noise = augmentation.of_waveform(AUDIO, rng(seed)) - AUDIO
        if noise.any():
            changed += 1
            assert 20 * float((AUDIO.norm() / noise.norm()).log10()) == pytest.approx(10, abs=0.1)
    assert 18 < changed < 42


def test_a_telephone_has_no_frequencies_above_4_khz_and_keeps_the_others_and_the_length():
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(16_001)).float()
    telephone = SpeechAugmentation(telephone=1.0)
    assert telephone.changes_waveform
    narrow = telephone.of_waveform(noise, rng())
    assert len(narrow) == len(noise)
    before, after = (torch.fft.rfft(audio).abs().square() for audio in (noise, narrow))
    assert after[4_100:].sum() < 0.01 * before[4_100:].sum()
    assert after[:3_000].sum() == pytest.approx(float(before[:3_000].sum()), rel=0.01)
    sometimes = SpeechAugmentation(telephone=0.3)
    assert 8 < sum(not torch.equal(sometimes.of_waveform(noise, rng(seed)), noise) for seed in range(60)) < 30


def test_recorded_noise_passes_the_telephone_too(folder):
    noisy = SpeechAugmentation(noise=folder, snr=(0, 0), telephone=1.0)
    for seed in range(10):
        power = torch.fft.rfft(noisy.of_waveform(AUDIO, rng(seed))).abs().square()
        assert power[4_200:].sum() < 1e-3 * power.sum()


def test_generated_noise_has_many_colours():
    tilts = []
    for seed in range(60):
        noise = SpeechAugmentation(noise="coloured", snr=(0, 0)).of_waveform(AUDIO, rng(seed)) - AUDIO
        if noise.any():
            power = torch.fft.rfft(noise).abs().square()
            tilts.append(float((power[4_000:].mean() / power[1:4_000].mean()).log10()))
    assert min(tilts) < -1
    assert max(tilts) > 0.3


def test_results_depend_on_the_seed(folder):
    augmentation = SpeechAugmentation(noise=folder, speed=(0.9, 1.0, 1.1), gain=3)
    assert torch.equal(augmentation.of_waveform(AUDIO, rng(3)), augmentation.of_waveform(AUDIO, rng(3)))
    lengths = {len(augmentation.of_waveform(AUDIO, rng(seed))) for seed in range(20)}
    assert len(lengths) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"silence": -1}, "silence is -1"),
        ({"speed": (0.1,)}, "between 0.5 and 2"),
        ({"snr": (9, 3)}, "the smaller one must come first"),
        ({"noise": "nowhere"}, "nowhere does not exist"),
        ({"telephone": 1.5}, "telephone is 1.5: a probability"),
    ],
)
def test_invalid_arguments_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        SpeechAugmentation(**options).check()


def test_a_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no audio"):
        SpeechAugmentation(noise=str(tmp_path)).check()
