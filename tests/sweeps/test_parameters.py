"""The parameters of a sweep: kinds, conditions, grids, corners, and errors."""

import pytest

from omni.errors import UserError
from omni.sweeps.parameters import Parameters

LR = {"log": [1e-4, 1e-2]}


def test_a_grid_is_the_product_in_the_order_of_the_file():
    parameters = Parameters({"lr": {"log": [1e-4, 1e-2], "points": 3}, "kind": {"values": ["a", "b"]}})
    grid = parameters.grid()
    assert [values["kind"] for values in grid] == ["a", "b"] * 3
    assert [values["lr"] for values in grid[::2]] == pytest.approx([1e-4, 1e-3, 1e-2])
    assert (grid[0]["lr"], grid[-1]["lr"]) == (1e-4, 1e-2)


def test_integers_need_no_number_of_points():
    assert [values["n"] for values in Parameters({"n": {"int": [2, 4]}}).grid()] == [2, 3, 4]


def test_a_condition_leaves_a_parameter_out():
    parameters = Parameters(
        {"beta": {"values": [1, 2], "when": {"kind": "b"}}, "kind": {"values": ["a", "b"]}, "copy": {"same_as": "beta"}}
    )
    assert parameters.grid() == [
        {"kind": "a"},
        {"kind": "b", "beta": 1, "copy": 1},
        {"kind": "b", "beta": 2, "copy": 2},
    ]


def test_a_map_gives_another_value_for_each():
    parameters = Parameters({"rate": {"same_as": "n", "map": {4: 25.0, 8: 12.5}}, "n": {"values": [4, 8]}})
    assert parameters.grid() == [{"n": 4, "rate": 25.0}, {"n": 8, "rate": 12.5}]


def test_corners_hold_every_value_and_both_ends():
    parameters = Parameters(
        {
            "lr": LR,
            "kind": {"values": ["a", "b", "c"]},
            "deep": {"values": [1, 2], "when": {"kind": ["b"]}},
            "n": {"int": [1, 9]},
        }
    )
    corners = parameters.corners()
    seen = {name: {values[name] for values in corners if name in values} for name in ("lr", "kind", "deep", "n")}
    assert seen == {"lr": {1e-4, 1e-2}, "kind": {"a", "b", "c"}, "deep": {1, 2}, "n": {1, 9}}
    assert all(("deep" in values) == (values["kind"] == "b") for values in corners)


def test_positions_cover_each_kind():
    parameters = Parameters({"lr": LR, "x": {"range": [0, 1]}, "n": {"int": [1, 4]}, "kind": {"values": ["a", "b"]}})
    values = parameters.at([0.5, 0.25, 0.99, 0.6])
    assert values.pop("kind") == "b"
    assert values == pytest.approx({"lr": 1e-3, "n": 4, "x": 0.25})


def test_numbers_with_an_exponent_are_numbers():
    assert Parameters({"lr": {"values": ["1e-3", 1e-4]}}).grid() == [{"lr": 1e-3}, {"lr": 1e-4}]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"a": 3}, "parameters.a: is 3: give one of log"),
        ({"a": {"log": [1, 2], "range": [1, 2]}}, "parameters.a: has log, range"),
        ({"a": {"log": [0, 1]}}, "the first must be smaller, and positive"),
        ({"a": {"range": [2, 1]}}, "the first must be smaller"),
        ({"a": {"range": [1]}}, "not two numbers"),
        ({"a": {"range": ["x", "y"]}}, "not two numbers"),
        ({"a": {"int": [1.5, 3]}}, "not two integers"),
        ({"a": {"values": []}}, "empty, or holds a value twice"),
        ({"a": {"values": [1, 1.0]}}, "empty, or holds a value twice"),
        ({"a": {"values": [1], "points": 3}}, "points is for log and range"),
        ({"a": {"range": [0, 1], "points": 1}}, "points is for log and range, and is 2 or more"),
        ({"a": {"int": [1, 2], "step": 3}}, "unknown key step"),
        ({"a": {"same_as": "b"}}, "parameters.a: same_as is b: give one of none"),
        ({"a": {"same_as": "b", "map": {1: 2}}, "b": {"int": [1, 2]}}, "map must give a value for every value of b"),
        ({"a": {"same_as": "b", "map": {1: 2}}, "b": {"range": [1, 2]}}, "a list or integers"),
        ({"a": {"int": [1, 2], "when": {"b": 1}}}, "when names b"),
        ({"a": {"int": [1, 2], "when": {"b": 1}}, "b": {"int": [1, 2], "when": {"a": 1}}}, "in a cycle"),
    ],
)
def test_what_is_wrong_is_named(fields, message):
    with pytest.raises(UserError) as error:
        Parameters(fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_grid_over_a_continuous_range_needs_points():
    with pytest.raises(UserError, match=r"parameters.lr: a grid needs a number of points .* add `points: 5`"):
        Parameters({"lr": LR}).grid()
