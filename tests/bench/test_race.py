"""The harness of the benchmarks: ratios between models, and the table that shows them."""

from dataclasses import dataclass

import pytest

from omni.bench import race
from omni.bench.race import Comparison, Race, Report
from omni.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ToyRace(Race):
    positive = ("repeats", "steps")

    steps: int = 1

    def run(self) -> Report:
        return Report(self.conditions(), [])


def test_ratios_are_per_round_and_values_are_medians(monkeypatch):
    times = iter([9.0, 9.0, 1.0, 2.0, 2.0, 2.0, 4.0, 2.0])  # the first round does not count
    monkeypatch.setattr(race, "seconds", lambda block: next(times))
    result = ToyRace(repeats=3).compare("work", "items/s", {"omni": int, "peer": int}, work=8)
    assert result == Comparison("work", "items/s", {"omni": 4.0, "peer": 4.0}, {"peer": [2.0, 1.0, 0.5]})


def test_the_table_shows_values_by_unit_and_ratios_by_peer():
    results = [
        Comparison("speed", "× real time", {"omni": 1234.5, "a": 12.34}, {"a": [2.0, 3.0, 4.0]}),
        Comparison("memory", "bytes", {"omni": 2048, "b": 4096}, {"b": [2.0]}),
        Comparison("learning", "steps", {"omni": 40, "a": None}, {"a": []}),
    ]
    table = Report({"device": "CPU"}, results).table()
    assert [line.split() for line in table.splitlines()] == [
        ["device", "CPU"],
        [],
        ["omni", "a", "b", "omni", "is", "better", "by"],
        ["speed,", "×", "real", "time", "1,234", "12.3", "a", "3.00", "×", "(2.00–4.00)"],
        ["memory,", "bytes", "2.0", "KiB", "4.0", "KiB", "b", "2.00", "×"],
        ["learning,", "steps", "40.0", "never", "–"],
    ]


def test_invalid_sizes_and_numbers_are_named():
    with pytest.raises(UserError, match="size 'huge' is neither a folder"):
        race.read_size("huge", "thinker")
    with pytest.raises(UserError, match="steps is 0: give 1 or more"):
        ToyRace(repeats=1, steps=0)
