"""Augmentation by rooms: level and timing of speech are kept, responses are as configured, broken files left out."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_speech_data import make
from torch import Tensor

from omni.data.speech.audio_folder import AudioFolder
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.rooms import in_room, read_response, responses_of, simulated_response
from omni.errors import UserError

RATE = 16_000
SPEECH = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(1))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def reverberation_time(response: Tensor) -> float:
    """Seconds of a decay by 60 dB, from that between −5 and −25 dB of Schroeder's backward integration."""
    energy = np.cumsum(response[1:].double().numpy()[::-1] ** 2)[::-1]
    decay = 10 * np.log10(energy / energy[0])
    return 3 * (np.argmax(decay < -25) - np.argmax(decay < -5)) / RATE


def decibels(one: Tensor, other: Tensor) -> float:
    return 20 * math.log10(one.double().norm() / other.double().norm())


def write_response(path: Path, delay: int, channels: int = 1, rate: int = RATE) -> None:
    """A decaying response whose direct path has `delay` samples; that of a second channel comes earlier."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * rng(delay).standard_normal((2_000, channels)) * np.exp(-np.arange(2_000) / 300)[:, None]
    noise[:delay] = 0
    noise[delay, 0] = 1
    noise[delay // 2, 1:] = 3
    soundfile.write(path, noise, rate, subtype="FLOAT")


@pytest.fixture
def rooms(tmp_path) -> Path:
    for number, delay in enumerate((0, 40, 300)):
        write_response(tmp_path / f"rooms/{number}.wav", delay, channels=1 + number)
    return tmp_path / "rooms"


@pytest.mark.parametrize("rt60", [0.2, 0.4, 0.8])
@pytest.mark.parametrize("drr", [-3.0, 12.0])
def test_a_simulated_response_has_its_reverberation_time_and_direct_ratio(rt60, drr):
    measured = []
    for seed in range(20):
        response = simulated_response(rng(seed), rt60=rt60, drr=drr)
        assert response[0] == 1
        assert len(response) == 1 + round(RATE * rt60)
        assert decibels(response[:1], response[1:]) == pytest.approx(drr, abs=0.01)
        measured.append(reverberation_time(response) / rt60)
    assert np.mean(measured) == pytest.approx(1, abs=0.03)
    assert max(abs(each - 1) for each in measured) < 0.2


def test_early_reflections_are_single_and_late_ones_dense():
    responses = [simulated_response(rng(seed), rt60=0.5, drr=6) for seed in range(20)]
    early, late = (np.mean([float((each[part] != 0).float().mean()) for each in responses])
                   for part in (slice(1, 80), slice(-800, None)))  # fmt: skip
    assert early < 0.1
    assert late > 0.99


@pytest.mark.parametrize("recorded", [False, True])
def test_a_room_keeps_length_level_and_place(rooms, recorded):
    augmentation = SpeechAugmentation(rooms=1, rooms_folder=str(rooms) if recorded else None, drr=(3, 9))
    augmentation.check()
    impulse = torch.zeros(8_000)
    impulse[5_000] = 0.5
    results = set()
    for seed in range(20):
        wet = augmentation.of_waveform(impulse, rng(seed))
        assert wet.dtype == torch.float32
        assert len(wet) == len(impulse)
        assert decibels(wet, impulse) == pytest.approx(0, abs=1e-3)
        assert int(wet.abs().argmax()) == 5_000
        assert wet[:4_900].abs().max() < 1e-5
        assert wet[5_001:].abs().max() > 1e-3
        results.add(round(float(wet[5_000]), 5))
    assert len(results) == (3 if recorded else 20)
    assert decibels(augmentation.of_waveform(SPEECH, rng(3)), SPEECH) == pytest.approx(0, abs=1e-3)


def test_a_strong_reflection_of_a_simulated_room_moves_nothing():
    response = torch.tensor([1.0, 0.0, 0.0, 2.0])
    wet = in_room(torch.eye(10)[2], response)
    torch.testing.assert_close(wet / wet[2], torch.eye(10)[2] + 2 * torch.eye(10)[5])


def test_silence_stays_silent():
    assert not in_room(torch.zeros(100), torch.tensor([1.0, 0.5])).any()


def test_rooms_are_drawn_with_their_probability():
    augmentation = SpeechAugmentation(rooms=0.3)
    changed = [not torch.equal(augmentation.of_waveform(SPEECH, rng(seed)), SPEECH) for seed in range(200)]
    assert 40 < sum(changed) < 80


def test_noise_is_added_to_the_reverberant_speech_at_its_ratio():
    noisy, wet = SpeechAugmentation(rooms=1, noise="coloured", snr=(10, 10)), SpeechAugmentation(rooms=1)
    ratios = []
    for seed in range(20):
        clean = wet.of_waveform(SPEECH, rng(seed))
        noise = noisy.of_waveform(SPEECH, rng(seed)) - clean
        if noise.any():
            ratios.append(decibels(clean, noise))
    assert 4 < len(ratios) < 16
    assert ratios == pytest.approx([10] * len(ratios), abs=0.1)


def test_the_first_channel_is_read_at_any_rate(tmp_path):
    write_response(tmp_path / "response.wav", 300, channels=2, rate=48_000)
    response = read_response(tmp_path / "response.wav")
    assert int(response.abs().argmax()) == 100
    assert len(response) == pytest.approx(2_000 / 3, abs=1)


def test_noises_of_the_openslr_layout_are_no_responses(tmp_path):
    root = tmp_path / "RIRS_NOISES"
    listed = ["simulated_rirs/smallroom/Room001/Room001-00001.wav", "real_rirs_isotropic_noises/type1_rir_1.wav"]
    for name in listed:
        write_response(root / name, 0)
        above = (root / name).parent if name.startswith("real") else (root / name).parents[1]
        (above / "rir_list").write_text(f"--rir-id 00001 --room-id 001 RIRS_NOISES/{name}\n\n", encoding="utf-8")
    for name in ("real_rirs_isotropic_noises/type1_noise_1.wav", "pointsource_noises/noise-0001.wav"):
        write_response(root / name, 0)
        (root / name).with_name("noise_list").write_text(f"--noise-id 1 RIRS_NOISES/{name}\n", encoding="utf-8")
    write_response(root / "own/kitchen.wav", 0)
    files = sorted(root.rglob("*.wav"))
    assert len(files) == 5
    assert {str(file.relative_to(root)) for file in responses_of(files)} == {*listed, "own/kitchen.wav"}
    with pytest.raises(UserError, match=r"pointsource_noises holds no room impulse responses"):
        SpeechAugmentation(rooms=1, rooms_folder=str(root / "pointsource_noises")).check()


def test_files_that_cannot_be_read_are_left_out_and_counted_once(rooms):
    (rooms / "1.wav").write_bytes(b"RIFF")
    soundfile.write(rooms / "2.wav", np.zeros(100), RATE)
    folder = AudioFolder(str(rooms), "rooms_folder", read_response)
    folder.check()
    with pytest.warns(UserWarning, match="left out") as caught:
        drawn = [folder.draw(rng(seed)) for seed in range(20)]
    assert len(caught) == 2
    lines = [str(each.message) for each in caught]
    assert any("2.wav: holds only silence" in line for line in lines)
    assert lines[1].endswith("(2 of 3 files so far)")
    assert all(torch.equal(each, read_response(rooms / "0.wav")) for each in drawn)


def test_what_is_drawn_does_not_depend_on_what_was_read_before(rooms):
    (rooms / "1.wav").write_bytes(b"RIFF")
    one, other = (AudioFolder(str(rooms), "rooms_folder", read_response) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forwards = [one.draw(rng(seed)) for seed in range(10)]
        backwards = [other.draw(rng(seed)) for seed in reversed(range(10))]
    assert all(map(torch.equal, forwards, reversed(backwards)))


@pytest.mark.parametrize("option", ["noise", "rooms_folder"])
def test_a_folder_without_readable_files_is_refused_in_one_line(tmp_path, option):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "b.wav").write_bytes(b"")
    words = rf"augmentation\.{option}: none of the 2 files of .* can be read: .*a\.wav"
    options: dict[str, Any] = {option: str(tmp_path)}
    with pytest.raises(UserError, match=words) as error:
        SpeechAugmentation(rooms=1, **options).check()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rooms": 1.5}, "rooms is 1.5: a probability"),
        ({"rooms": -0.1}, "rooms is -0.1"),
        ({"rooms": math.nan}, "rooms is nan: a probability"),
        ({"rt60": (0.8, 0.1)}, "rt60 is .*the smaller one must come first"),
        ({"rt60": (0.0, 0.1)}, "between 0.05 and 5"),
        ({"drr": (3, 0)}, "drr is .*the smaller one must come first"),
        ({"rooms": 1, "rooms_folder": "nowhere"}, "rooms_folder: nowhere does not exist"),
    ],
)
def test_invalid_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        SpeechAugmentation(**options).check()


def test_results_do_not_depend_on_the_number_of_threads():
    speech, threads = SPEECH.repeat(10), torch.get_num_threads()
    augmentation = SpeechAugmentation(rooms=1, rt60=(0.5625, 0.5625))  # sizes at which PyTorch's FFT depends on them
    results = []
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            results.append(augmentation.of_waveform(speech, rng()))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("recorded", [False, True])
def test_batches_do_not_depend_on_the_number_of_workers(speech, rooms, recorded):
    def mels(workers: int) -> list[Tensor]:
        options = SpeechAugmentation(rooms=0.7, rooms_folder=str(rooms) if recorded else None, noise="coloured")
        return [batch.mels for batch in make(speech, augmentation=options, num_workers=workers).train_dataloader()]

    first, again, apart = mels(0), mels(0), mels(2)
    assert len(first) > 1
    assert all(map(torch.equal, first, again))
    assert all(map(torch.equal, first, apart))


def test_rooms_are_in_training_only_and_differ_each_epoch(speech):
    plain, wet = (make(speech, augmentation=SpeechAugmentation(silence=0, rooms=rooms)) for rooms in (0, 1))
    one, other = (data.datasets["train"] for data in (plain, wet))
    number = len(one)
    first, second = (other.__getitems__([3 + epoch * number]).mels for epoch in (0, 1))
    assert first.shape == second.shape == one.__getitems__([3]).mels.shape  # the length stays
    assert not torch.equal(first, second)
    assert not torch.equal(first, one.__getitems__([3]).mels)
    held_out = (data.datasets["val"].__getitems__([1]).mels for data in (plain, wet))
    assert torch.equal(*held_out)


def test_the_fingerprint_of_data_has_rooms_only_where_they_are_used(speech):
    def fingerprint(**options: Any) -> str:
        return make(speech, augmentation=SpeechAugmentation(**options)).fingerprint

    assert fingerprint() == fingerprint(rt60=(0.2, 0.3))
    changes = ({}, {"rooms": 0.5}, {"rooms": 0.5, "drr": (0, 6)}, {"telephone": 0.5}, {"rooms": 0.5, "telephone": 0.5})
    assert len({fingerprint(**change) for change in changes}) == len(changes)
    assert "rooms" not in repr(SpeechAugmentation())


def test_kept_spectrograms_and_rooms_are_refused_together(speech):
    with pytest.raises(UserError, match=r"changes waveforms \(speed, .*or telephone\): turn one of them off"):
        make(speech, cache_features=True, augmentation=SpeechAugmentation(rooms=0.5))


def test_a_missing_folder_ends_a_run_in_one_line(fit_audio, fails):
    options = {"data__init_args__augmentation__rooms": 0.5, "data__init_args__augmentation__rooms_folder": "nowhere"}
    assert "augmentation.rooms_folder: nowhere does not exist" in fails(fit_audio, "fit", **options)
