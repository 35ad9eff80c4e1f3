"""What the figures of a sweep show."""

import math

import pytest
from matplotlib.figure import Figure

from omni.sweeps.figures import leave_out_the_worst, value_heights


def test_numbers_are_placed_by_their_size():
    heights, labels = value_heights([10, 40, None, 20], log=False)
    assert heights[:2] == [0.0, 1.0]
    assert math.isnan(heights[2])
    assert heights[3] == pytest.approx(1 / 3)
    assert labels == {"10": 0.0, "20": pytest.approx(1 / 3), "40": 1.0}
    heights, _ = value_heights([1e-4, 1e-3, 1e-2], log=True)
    assert heights == pytest.approx([0, 0.5, 1])


def test_many_numbers_are_labelled_at_the_ends():
    _, labels = value_heights(range(1, 30), log=False)
    assert labels == {"1": 0.0, "29": 1.0}


def test_other_values_are_placed_in_order():
    heights, labels = value_heights(["a/muon.yaml", "adamw.yaml", None, "a/muon.yaml", True], log=False)
    assert heights[:2] == [0.0, 0.5]
    assert math.isnan(heights[2])
    assert heights[3:] == [0.0, 1.0]
    assert list(labels) == ["muon.yaml", "adamw.yaml", "True"]
    assert value_heights([3, 3], log=False) == ([0.0, 0.0], {"3": 0.0})


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_a_trial_that_has_diverged_is_outside(direction, sign):
    axes = Figure().subplots()
    values = [sign * value for value in (1.0, 1.1, 1.2, 1.3, 1.4, 50.0)]
    axes.plot(values, "o")
    leave_out_the_worst(axes, values, direction)
    low, high = axes.get_ylim()
    assert all(low < value < high for value in values[:-1])
    assert not low < values[-1] < high
    assert high - low < 3
    assert axes.get_title(loc="right") == "1 worse values are outside"


def test_without_one_the_axis_is_as_it_was():
    axes = Figure().subplots()
    axes.plot([1.0, 2.0, 3.0])
    before = axes.get_ylim()
    leave_out_the_worst(axes, [1.0, 2.0, 3.0], "minimize")
    assert axes.get_ylim() == before
    assert axes.get_title(loc="right") == ""
