"""Silence is trimmed at both ends without a click, for blocks of any size."""

import pytest
import torch

from omni.media.trimming import QUIET, Trimmer, trimmed


def sound(before=0.25, after=0.4, level=0.5):
    """A tone that starts and ends at full amplitude, with silence in its middle and around it."""
    tone = level * torch.cos(torch.arange(3200) / 5)
    quiet = QUIET / 2 * torch.ones(16_000)
    pad = [quiet[: round(before * 16_000)], quiet[: round(after * 16_000)]]
    return torch.cat((pad[0], tone, quiet[:4800], tone, pad[1]))


@pytest.mark.parametrize("size", [37, 100, 160, 641, 100_000])
def test_blocks_of_any_length_equal_the_whole(size):
    trimmer = Trimmer()
    parts = [trimmer.push(part) for part in sound().split(size)] + [trimmer.finish()]
    assert torch.equal(torch.cat(parts), trimmed(sound()))
    middle = torch.cat(parts)[400:-400]
    assert torch.equal(middle, sound()[trimmer.skipped + 400 :][: len(middle)])


@pytest.mark.parametrize(("before", "after"), [(0.25, 0.4), (0.2537, 0.41), (0.01, 0.02), (0.0, 0.0)])
def test_silence_is_trimmed_at_the_ends_only(before, after):
    whole, cut = sound(before, after), trimmed(sound(before, after))
    left = len(cut) - (2 * 3200 + 4800)
    assert 0 <= left <= min(before, 0.04) * 16_000 + min(after, 0.04) * 16_000 + 160
    assert any(torch.equal(cut[400:-400], part) for part in whole.unfold(0, len(cut) - 800, 1))


@pytest.mark.parametrize("silence", [0.0, 0.2])
def test_ends_do_not_click(silence):
    cut = trimmed(sound(silence, silence))
    assert cut[0] == 0
    assert abs(cut[-1]) < 1e-6
    assert silence or cut[:80].abs().max() > 0.4
    for end in (cut[:80], cut[-80:]):
        assert end.diff().abs().max() < 0.12  # the tone's own slope is 0.1


def test_audio_is_yielded_as_soon_as_it_is_above_the_threshold():
    trimmer = Trimmer()
    heard = [len(trimmer.push(part)) for part in sound().split(160)]
    assert heard[:27] == [0] * 25 + [3 * 160, 160]  # a little silence, and each block one block later
    assert trimmer.started


def test_samples_outside_of_1_are_clipped():
    cut = trimmed(sound(level=3.0))
    assert cut.max() == 1
    assert cut.min() == -1


@pytest.mark.parametrize("samples", [0, 50, 160, 5000])
def test_silence_alone_gives_no_audio(samples):
    assert len(trimmed(torch.full((samples,), QUIET / 2))) == 0


def test_the_input_is_unchanged():
    whole = sound(0, 0)
    before = whole.clone()
    trimmed(whole)
    assert torch.equal(whole, before)
