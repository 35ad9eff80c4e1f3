"""Silence is trimmed at both ends without a click, for blocks of any size."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from omni.media.trimming import QUIET, Trimmer, trimmed


def sound(before=0.25, after=0.4, level=0.5):
    """A tone that starts and ends at full amplitude, with silence in its middle and around it."""
    tone = level * np.cos(np.arange(3200, dtype=np.float32) / 5)
    quiet = np.full(16_000, QUIET / 2, dtype=np.float32)
    pad = [quiet[: round(before * 16_000)], quiet[: round(after * 16_000)]]
    return np.concatenate((pad[0], tone, quiet[:4800], tone, pad[1]))


def split(samples, size):
    return [samples[start : start + size] for start in range(0, len(samples), size)]


@pytest.mark.parametrize("size", [37, 100, 160, 641, 100_000])
def test_blocks_of_any_length_equal_the_whole(size):
    trimmer = Trimmer()
    parts = [trimmer.push(part) for part in split(sound(), size)] + [trimmer.finish()]
    assert np.array_equal(np.concatenate(parts), trimmed(sound()))
    middle = np.concatenate(parts)[400:-400]
    assert np.array_equal(middle, sound()[trimmer.skipped + 400 :][: len(middle)])


@pytest.mark.parametrize(("before", "after"), [(0.25, 0.4), (0.2537, 0.41), (0.01, 0.02), (0.0, 0.0)])
def test_silence_is_trimmed_at_the_ends_only(before, after):
    whole, cut = sound(before, after), trimmed(sound(before, after))
    left = len(cut) - (2 * 3200 + 4800)
    assert 0 <= left <= min(before, 0.04) * 16_000 + min(after, 0.04) * 16_000 + 160
    assert (sliding_window_view(whole, len(cut) - 800) == cut[400:-400]).all(1).any()


@pytest.mark.parametrize("silence", [0.0, 0.2])
def test_ends_do_not_click(silence):
    cut = trimmed(sound(silence, silence))
    assert cut[0] == 0
    assert abs(cut[-1]) < 1e-6
    assert silence or np.abs(cut[:80]).max() > 0.4
    for end in (cut[:80], cut[-80:]):
        assert np.abs(np.diff(end)).max() < 0.12  # the tone's own slope is 0.1


def test_audio_is_yielded_as_soon_as_it_is_above_the_threshold():
    trimmer = Trimmer()
    heard = [len(trimmer.push(part)) for part in split(sound(), 160)]
    assert heard[:27] == [0] * 25 + [3 * 160, 160]  # a little silence, and each block one block later
    assert trimmer.started


def test_samples_outside_of_1_are_clipped():
    cut = trimmed(sound(level=3.0))
    assert cut.max() == 1
    assert cut.min() == -1


@pytest.mark.parametrize("samples", [0, 50, 160, 5000])
def test_silence_alone_gives_no_audio(samples):
    assert len(trimmed(np.full(samples, QUIET / 2, dtype=np.float32))) == 0


def test_the_input_is_unchanged():
    whole = sound(0, 0)
    before = whole.copy()
    trimmed(whole)
    assert np.array_equal(whole, before)


def test_blocks_last_as_long_at_any_rate():
    """Every sample of 16 kHz three times is 48 kHz."""
    cut, longer = trimmed(sound()), trimmed(sound().repeat(3), sample_rate=48_000)
    assert len(longer) == 3 * len(cut)
    assert np.array_equal(longer[300:-300:3], cut[100:-100])
