"""Turns of speech are found by their level, in noise too."""

import pytest
import torch

from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE
from omni.media.turn_detector import TurnDetector


def scene(*parts, noise=0.0):
    """Silence (negative seconds) and speech-like bursts of 0.2 s with gaps of 0.05 s, in white noise."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for seconds in parts:
        time = torch.arange(round(abs(seconds) * SAMPLE_RATE)) / SAMPLE_RATE
        tone = 0.3 * torch.sin(2 * torch.pi * 300 * time) * ((time % 0.25) < 0.2)
        made.append(tone if seconds > 0 else torch.zeros_like(time))
    audio = torch.cat(made)
    return audio + noise * torch.randn(len(audio), generator=generator)


def events(audio, piece=480, **options):
    detector = TurnDetector(**options)
    return [event for part in audio.split(piece) for event in detector.push(part)]


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01, 0.03])
@pytest.mark.parametrize("first", [-0.5, -3.0])
def test_two_turns(noise, first):
    found = events(scene(first, 1.45, -1.5, 2.2, -1.5, noise=noise))
    assert [event.kind for event in found] == ["start", "end", "start", "end"]
    places = [-first, -first + 1.45, -first + 2.95, -first + 5.15]
    assert [event.seconds for event in found] == pytest.approx(places, abs=0.08)


def test_the_size_of_the_pieces_does_not_matter():
    audio = scene(-1, 1.45, -1.5, noise=0.01)
    assert events(audio, 1) == events(audio, 777) == events(audio, len(audio))


def test_noise_alone_is_no_turn():
    assert events(scene(-20, noise=0.05)) == []


def test_noise_that_grows_ends_being_speech():
    found = events(torch.cat((scene(-2, noise=0.001), scene(-6, noise=0.05))))
    assert [event.kind for event in found] in ([], ["start", "end"])


def test_a_click_is_no_turn():
    audio = scene(-2, noise=0.001)
    audio[20_000:20_300] = 0.9
    assert events(audio) == []


def test_a_pause_within_a_turn_does_not_end_it():
    audio = scene(-1, 1, -0.5, 1, -1)
    assert [event.kind for event in events(audio)] == ["start", "end"]
    assert [event.kind for event in events(audio, silence=0.3)] == ["start", "end"] * 2


def test_speech_without_a_pause_stays_speech():
    """The noise is followed over 2 s: a vowel is shorter."""
    audio = scene(-2, 0.2, -1.6, noise=0.001)
    time = torch.arange(round(1.5 * SAMPLE_RATE)) / SAMPLE_RATE
    vowel = 0.3 * torch.sin(2 * torch.pi * 300 * time)
    found = events(torch.cat((audio[:32_000], vowel, audio[-24_000:])))
    assert [event.kind for event in found] == ["start", "end"]
    assert [event.seconds for event in found] == pytest.approx([2.0, 3.5], abs=0.05)


def test_speech_in_short_succession_starts_a_turn():
    """Bursts of 60 ms with gaps of 40 ms."""
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    bursts = 0.3 * torch.sin(2 * torch.pi * 300 * time) * ((time % 0.1) < 0.06)
    found = events(torch.cat((torch.zeros(16_000), bursts, torch.zeros(16_000))))
    assert [event.kind for event in found] == ["start", "end"]


def test_what_is_far_below_hearing_is_no_speech():
    generator = torch.Generator().manual_seed(0)
    faint = 1e-4 * torch.randn(32_000, generator=generator)  # -80 dB of full scale, after digital silence
    assert events(torch.cat((torch.zeros(32_000), faint, torch.zeros(16_000)))) == []


def test_a_click_right_after_a_turn_is_no_turn():
    click = torch.cat((0.5 * torch.ones(320), torch.zeros(16_000)))
    found = events(torch.cat((scene(-1, 1, -0.32), click)), piece=320, silence=0.3)
    assert [event.kind for event in found] == ["start", "end"]


@pytest.mark.parametrize(("name", "value"), [("silence", 0.0), ("shortest", -1.0), ("margin", float("inf"))])
def test_bad_values(name, value):
    with pytest.raises(UserError, match=f"{name} is {value} .*: it must be over 0"):
        TurnDetector(**{name: value})
