"""Where there is speech in a recording, where it is cut, and the pitch of a voice."""

from itertools import pairwise

import pytest
import torch
from conftest import tones

from omni.media.pitch import pitch, second_voice
from omni.media.speech_spans import speech_spans, utterance_spans


def recording(*parts):
    """Texts as tones, and numbers as seconds of silence, over a little noise."""
    pieces = [torch.from_numpy(tones(part)) if isinstance(part, str) else torch.zeros(part * 160) for part in parts]
    audio = torch.cat(pieces)
    return audio + 1e-4 * torch.randn(len(audio), generator=torch.Generator().manual_seed(0))


def test_pauses_separate_spans():
    found = speech_spans(recording(50, "abcabc", 40, "cab", 100))
    assert [round(each, 1) for span in found for each in span] == pytest.approx([0.5, 1.5, 1.9, 2.3], abs=0.11)


@pytest.mark.parametrize("lead", [0, 3, 300])
def test_speech_that_starts_at_once_is_found_whole(lead):
    span, *rest = speech_spans(recording(lead, "abcabcabc"))
    assert not rest
    assert span.start == pytest.approx(lead / 100, abs=0.05)


def test_steady_sound_and_silence_have_no_speech():
    time = torch.arange(80_000) / 16_000
    assert not utterance_spans(0.2 * torch.sin(2000 * time) + 0.1 * torch.sin(3000 * time), 12)
    assert not utterance_spans(torch.zeros(80_000), 12)


def test_long_recordings_are_cut_in_pauses_and_nothing_is_lost():
    audio = recording(100, *(part for text in ("abc", "ccc", "bab", "aabb", "cc", "abcabc") for part in (text, 60)))
    parts = utterance_spans(audio, 2.5)
    assert len(parts) > 2
    assert all(part.end - part.start <= 2.5 for part in parts)
    assert all(one.end <= other.start for one, other in pairwise(parts))
    heard = sum(float(part.cut(audio).square().sum()) for part in parts)
    assert heard == pytest.approx(float(audio.square().sum()), rel=1e-3)
    assert parts[0].start == pytest.approx(0.8, abs=0.05)  # 0.2 s are kept


@pytest.mark.parametrize("hertz", [82.0, 120.0, 251.0])
def test_pitch_of_a_harmonic_sound(hertz):
    time = torch.arange(16_000) / 16_000
    audio = sum(torch.sin(2 * torch.pi * hertz * number * time) / number for number in range(1, 9))
    found = pitch(0.1 * audio)
    assert len(found) > 80
    assert float(found.median()) == pytest.approx(hertz, rel=0.02)


def test_two_pitches_at_once_are_found_and_one_after_the_other_are_not():
    time = torch.arange(16_000) / 16_000
    low, high, octave = (
        sum(torch.sin(2 * torch.pi * hertz * number * time) / number for number in range(1, 9))
        for hertz in (110.0, 146.0, 220.0)
    )
    assert second_voice(low + high) > 0.05
    assert second_voice(high + 0.5 * low) > 0.05
    for audio in (low, high, low + octave, torch.cat((low, high)), 0 * low, low[:100]):
        assert second_voice(audio) < 0.025


def test_noise_has_no_pitch():
    noise = torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    assert len(pitch(noise)) < 5
    assert second_voice(noise) < 0.025
    assert not len(pitch(noise[:100]))
    assert not len(pitch(torch.zeros(16_000)))
