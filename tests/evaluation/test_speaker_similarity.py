"""Speaker similarity: cosines to a mean embedding, with an encoder of known voices."""

import math

import pytest
import torch

from omni.evaluation.speaker_similarity import cosines_to_mean, embed, speaker_similarity


def voice(angle, seconds=1.0):
    """A sound of constant samples, from which `encode` reads its angle in degrees."""
    return torch.full((round(16_000 * seconds),), float(angle))


def encode(sound):
    """(2,): the direction of a voice; its length differs by that of the sound, as of real embeddings."""
    angle = math.radians(sound[0].item())
    return len(sound) / 16_000 * torch.tensor([math.cos(angle), math.sin(angle)])


def test_cosines_are_those_of_the_angles_to_the_mean():
    references = torch.tensor([[1.0, 0.0], [0.0, 5.0]])  # each counts alike: the mean is at 45 degrees
    embeddings = torch.tensor([[2.0, 2.0], [3.0, 0.0], [-1.0, -1.0], [1.0, -1.0]])
    found = cosines_to_mean(embeddings, references)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5**0.5, -1.0, 0.0]).double(), atol=1e-7, rtol=0)


def test_cosines_do_not_depend_on_lengths():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(5, 8, generator=generator), torch.randn(3, 8, generator=generator)
    scaled = cosines_to_mean(one * torch.rand(5, 1, generator=generator), 7 * other)
    torch.testing.assert_close(scaled, cosines_to_mean(one, other), atol=1e-6, rtol=0)


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="1 recording or more"):
        cosines_to_mean(torch.ones(2, 3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        cosines_to_mean(torch.ones(2, 3), torch.ones(2, 4))


def test_the_same_speaker_is_nearer_than_another():
    references = embed([voice(-10), voice(10, 3.0)], encode)
    near = speaker_similarity([voice(5), voice(-5)], references, encode)
    far = speaker_similarity([voice(60), voice(90)], references, encode)
    assert near.mean == pytest.approx(math.cos(math.radians(5)))
    assert near.deviation == pytest.approx(0, abs=1e-6)
    assert far.mean == pytest.approx((0.5 + 0) / 2)
    assert far.deviation == pytest.approx(0.25)


def test_sounds_that_are_too_short_are_not_judged():
    references = embed([voice(0), voice(90, 0.4)], encode)
    assert len(references) == 1
    found = speaker_similarity([voice(0), voice(180, 0.4), torch.zeros(0)], references, encode)
    assert found.sounds == 1
    assert found.mean == pytest.approx(1)
    assert math.isnan(speaker_similarity([torch.zeros(0)], references, encode).mean)
