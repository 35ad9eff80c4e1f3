"""CTC against the sum over all alignments, and alignments that follow the text."""

import math
from itertools import groupby, pairwise, product

import pytest
import torch

from omni.decoding.ctc import align, beam_search, ctc_nll, decode, greedy, is_feasible, least_subframes
from omni.errors import UserError
from omni.text.ctc_vocabulary import BLANK


def emissions(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def collapse(path: tuple[int, ...]) -> list[int]:
    return [unit for i, unit in enumerate(path) if unit != BLANK and (i == 0 or unit != path[i - 1])]


@pytest.mark.parametrize("text", [[1], [1, 2], [1, 1], [2, 1, 2], []])
def test_the_loss_sums_over_all_alignments(text):
    log_probs = emissions(1, 4, 3)
    paths = [path for path in product(range(3), repeat=4) if collapse(path) == text]
    expected = -torch.stack([sum(log_probs[0, t, unit] for t, unit in enumerate(path)) for path in paths]).logsumexp(0)  # pyright: ignore
    targets = torch.tensor([text or [0]])
    nll, feasible = ctc_nll(log_probs, torch.tensor([4]), targets, torch.tensor([len(text)]))
    assert feasible.all()
    assert nll.item() == pytest.approx(expected.item(), rel=1e-5)


def test_infeasible_rows_are_marked_and_have_no_loss_and_no_gradient():
    log_probs = emissions(3, 3, 3).requires_grad_()
    targets, lengths = torch.tensor([[1, 1, 2], [1, 2, 1], [1, 1, 0]]), torch.tensor([3, 3, 2])
    nll, feasible = ctc_nll(log_probs, torch.tensor([3, 3, 3]), targets, lengths)
    assert feasible.tolist() == [False, True, True]
    assert nll[0] == 0
    nll.sum().backward()
    assert log_probs.grad is not None
    assert not log_probs.grad[0].any()
    assert log_probs.grad[1].any()
    assert torch.isfinite(log_probs.grad).all()


def test_feasible_means_that_a_path_exists():
    for text in product((1, 2), repeat=3):
        for frames in range(1, 7):
            possible = any(collapse(path) == [*text] for path in product(range(3), repeat=frames))
            told = is_feasible(torch.tensor([text]), torch.tensor([3]), torch.tensor([frames]))
            assert bool(told) == possible == (least_subframes([*text]) <= frames)


def test_padding_of_targets_does_not_count_as_repeats():
    targets = torch.tensor([[1, 0, 0, 0], [2, 2, 2, 2]])
    assert is_feasible(targets, torch.tensor([1, 1]), torch.tensor([1, 1])).all()


def test_greedy_merges_repeats_and_drops_blanks_and_padding():
    best = torch.tensor([[1, 1, 0, 1, 2, 2], [0, 3, 3, 0, 1, 1]])
    log_probs = torch.nn.functional.one_hot(best, 4).float()
    assert greedy(log_probs, torch.tensor([6, 4])) == [[1, 1, 2], [3]]


def test_an_alignment_is_the_likeliest_path_monotonic_and_covers_the_text():
    log_probs = emissions(6, 4, seed=3)
    text = [1, 1, 3]
    spans = align(log_probs, text)
    assert [span.unit for span in spans] == text
    assert all(0 <= span.start < span.end <= 6 for span in spans)
    assert all(one.end <= other.start for one, other in pairwise(spans))
    assert all(0 <= span.score <= 1 for span in spans)
    path = torch.zeros(6, dtype=torch.long)
    for span in spans:
        path[span.start : span.end] = span.unit
    score = log_probs.gather(1, path[:, None]).sum()
    paths = [path for path in product(range(4), repeat=6) if collapse(path) == text]
    best = max(sum(log_probs[t, unit].item() for t, unit in enumerate(path)) for path in paths)
    assert score.item() == pytest.approx(best, rel=1e-5)


def test_what_cannot_be_aligned_is_refused():
    with pytest.raises(UserError, match="needs 5 sub-frames, and its audio has 4"):
        align(emissions(4, 3), [1, 1, 1])
    assert align(emissions(4, 3), []) == []


def likelihoods(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """The probability of every text that sub-frames can give, summed path by path."""
    time, vocab = log_probs.shape
    found: dict[tuple[int, ...], float] = {}
    for path in product(range(vocab), repeat=time):
        units = tuple(unit for unit, _ in groupby(path) if unit)
        chance = math.exp(sum(float(log_probs[t, unit]) for t, unit in enumerate(path)))
        found[units] = found.get(units, 0.0) + chance
    return found


@pytest.mark.parametrize("seed", range(8))
def test_a_wide_beam_finds_the_likeliest_text(seed):
    log_probs = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    found = likelihoods(log_probs)
    assert beam_search(log_probs, 400) == list(max(found, key=found.__getitem__))


def test_a_unit_over_two_frames_is_output_once():
    blank_or_one = torch.tensor([[0.55, 0.45, 0.0], [0.55, 0.45, 0.0], [0.01, 0.0, 0.99]]).clamp(min=1e-9).log()
    lengths = torch.tensor([3])
    assert decode(blank_or_one[None], lengths, beam=1) == [[2]]
    assert decode(blank_or_one[None], lengths, beam=4) == [[1, 2]]


def test_beam_search_stays_within_each_rows_length():
    log_probs = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    lengths = torch.tensor([9, 4, 1])
    rows = decode(log_probs, lengths, beam=6)
    assert rows == [beam_search(row[:length], 6) for row, length in zip(log_probs, lengths.tolist(), strict=True)]
    assert decode(log_probs, lengths, beam=1) == greedy(log_probs, lengths)
