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


@pytest.mark.parametrize(("name", "value"), [("silence", 0.0), ("shortest", -1.0), ("margin", float("inf"))])
def test_bad_values(name, value):
    with pytest.raises(UserError, match=f"{name} is {value} .*: it must be over 0"):
        TurnDetector(**{name: value})
