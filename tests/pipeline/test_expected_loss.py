"""Stages whose training loss is far off the expected one."""

from math import nan

import pytest
import yaml
from toy_chain import stage, written
from toy_commands import CONFIGS

from omni.cli import main
from omni.pipeline.definition import read_pipeline
from omni.pipeline.expected_loss import LossWatch, format_share, loss_at, parse_expected

EXPECTED = {0.01: 10.0, 0.1: 4.0, 0.5: 2.0}


def warnings(curve: dict[int, float], steps: int = 1000, first_step: int = 0) -> list[str]:
    """The warnings as a run's losses come."""
    watch = LossWatch({"thinker": EXPECTED})
    found = (watch.add("thinker", step, steps, loss, first_step=first_step) for step, loss in curve.items())
    return [each for each in found if each is not None]


def good(step: int) -> float:
    """A curve through the expected losses."""
    return 10.0 if step < 50 else 4.0 if step < 300 else 2.0


class TestWatch:
    def test_a_good_run_and_a_noisy_value_are_not_reported(self):
        curve = {step: good(step) for step in range(10, 1001, 10)}
        assert warnings(curve) == []
        assert warnings({**curve, 100: 40.0}) == []  # one of three values at 10 %
        assert warnings({step: 1.25 * loss for step, loss in curve.items()}) == []

    def test_a_run_far_off_is_reported_at_each_share(self):
        found = warnings(dict.fromkeys(range(10, 1001, 10), 10.0))
        assert [each.split(":")[1] for each in found] == [
            " train/loss is 10 at 10% of the steps, 4 was expected",
            " train/loss is 10 at 50% of the steps, 2 was expected",
        ]

    def test_a_loss_that_is_not_a_number_is_reported(self):
        assert len(warnings(dict.fromkeys(range(10, 1001, 10), nan))) == 3

    def test_a_resumed_run_is_compared_at_the_shares_to_come(self):
        curve = dict.fromkeys(range(410, 1001, 10), 10.0)
        assert [" at 50% " in each for each in warnings(curve, first_step=400)] == [True]

    def test_a_short_run_logs_after_its_first_shares(self):
        found = warnings({10: 20.0, 20: 20.0, 60: 20.0}, steps=60)
        assert [" at 10% " in found[0], " at 50% " in found[1], len(found)] == [True, True, 2]
        assert LossWatch({}).add("vision", 10, 100, 9.0) is None


def test_shares_of_less_than_a_percent_stay_apart():
    losses = {"0.4%": 9.0, "0.5%": 8.0, "7%": 3.0}
    assert [format_share(share) for share in parse_expected(losses)] == list(losses)


def test_the_loss_at_a_step():
    assert loss_at({90: 1.0, 100: 5.0, 110: 2.0, 120: 9.0}, 100) == 2.0
    assert loss_at({10: 3.0, 20: 9.0}, 1) == 3.0
    assert loss_at({}, 10) is None


@pytest.mark.parametrize(
    ("losses", "complaint"),
    [
        ({"0.1": 3.0}, "stage a: expected_loss has the key '0.1': give a percentage of the steps, such as 10%"),
        ({"120%": 3.0}, "expected_loss has the key '120%'"),
        ({"1e1%": 3.0}, "expected_loss has the key '1e1%'"),
        ({"10%": 0}, "expected_loss at 10% is 0"),
        ({"10%": "low"}, "stage a: expected_loss"),
    ],
)
def test_wrong_expectations_are_refused(losses, complaint, workplace, fails):
    assert complaint in fails(main, ["train", str(written({"a": stage(expected_loss=losses)}))])


def test_the_world_states_its_losses(workplace):
    stages = read_pipeline(CONFIGS / "world/chain.yaml").stages
    assert all(list(each.expected_loss) == [0.01, 0.1, 0.5] for each in stages.values())
    content = yaml.safe_load((CONFIGS / "world/chain.yaml").read_text())
    assert stages["thinker"].expected_loss == parse_expected(content["stages"]["thinker"]["expected_loss"])
