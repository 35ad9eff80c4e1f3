"""Packing: all tokens are kept, none is predicted across documents, and rows are filled by best fit."""

import numpy as np
import pytest

from omni.batch import IGNORE
from omni.data.text.packing import best_fit, pack
from omni.text.tokenizer import PAD


def slow_best_fit(lengths, capacity):
    """Best-fit decreasing in its plain form: the space left in each row."""
    spaces = []
    for length in sorted(lengths, reverse=True):
        fitting = [space for space in spaces if space >= length]
        if fitting:
            spaces.remove(min(fitting))
        spaces.append((min(fitting) if fitting else capacity) - length)
    return spaces


@pytest.mark.parametrize("seed", range(40))
def test_best_fit_equals_the_plain_algorithm(seed):
    random = np.random.default_rng(seed)
    capacity = int(random.integers(2, 30))
    lengths = random.integers(1, capacity + 1, int(random.integers(1, 80)))
    rows = best_fit(lengths, capacity)
    loads = np.bincount(rows, weights=lengths)
    assert sorted(capacity - loads) == sorted(slow_best_fit(lengths.tolist(), capacity))


@pytest.mark.parametrize("capacity", [2, 3, 7, 16])
def test_every_token_is_predicted_once_from_its_own_document(capacity):
    random = np.random.default_rng(capacity)
    lengths = random.integers(2, 40, 50)
    stream = np.arange(1000, 1000 + lengths.sum())  # all tokens are unique, so a target identifies its position
    packing = pack(lengths, capacity)
    inputs, targets = packing.gather(stream, random.permutation(len(packing)))
    assert inputs.shape == targets.shape == (len(packing), capacity - 1)
    scored = targets != IGNORE
    assert (targets[scored] == inputs[scored] + 1).all()
    firsts = stream[np.cumsum(lengths) - lengths]
    assert sorted(targets[scored]) == sorted(set(stream) - set(firsts))


def test_the_report_counts_what_the_rows_hold():
    lengths = np.array([3, 9, 2, 5, 2])
    packing = pack(lengths, 4)
    inputs, targets = packing.gather(np.arange(1, 22), np.arange(len(packing)))
    assert packing.report.documents == 5
    assert packing.report.tokens == 21
    assert packing.report.rows == len(packing) == len(inputs)
    places = sum(packing.lengths)
    assert packing.report.padding == pytest.approx(1 - places / (4 * len(packing)))
    assert packing.report.cropped == pytest.approx(1 - (targets != IGNORE).sum() / (lengths - 1).sum()) == 0
    assert ((inputs == PAD) <= (targets == IGNORE)).all()


def test_a_row_does_not_depend_on_its_batch():
    lengths = np.random.default_rng(0).integers(2, 30, 40)
    stream = np.arange(lengths.sum())
    packing = pack(lengths, 10)
    inputs, targets = packing.gather(stream, np.arange(len(packing)))
    for row in range(len(packing)):
        one_input, one_target = packing.gather(stream, np.array([row]))
        assert (one_input == inputs[row]).all()
        assert (one_target == targets[row]).all()
