"""The rule that ends a run whose metric has stopped to improve."""

import json
from pathlib import Path

import pytest

from omni.errors import UserError
from omni.training.callbacks import Converged
from omni.training.callbacks.converged import late_gain


def test_the_gain_of_the_last_third():
    falling = {step: 1 - step / 1000 for step in range(100, 1000, 100)}
    assert late_gain(falling, "min") == pytest.approx(0.3)
    assert late_gain({step: -value for step, value in falling.items()}, "max") == pytest.approx(0.3)
    assert late_gain({200: 0.5, 400: 0.2, 600: 0.4}, "min") == 0  # the best counts, not the latest
    assert late_gain({100: 0.5}, "min") is None
    assert late_gain({}, "min") is None


def test_values_out_of_range_are_refused():
    with pytest.raises(UserError, match="0 or more"):
        Converged(-1.0)


def converged(**arguments):
    callback = {"class_path": "omni.training.callbacks.Converged", "init_args": arguments}
    return {"trainer.callbacks+": json.dumps([callback]), "trainer__max_steps": 12, "trainer__val_check_interval": 2}


def steps_of(cli):
    return cli.trainer.global_step


def test_a_run_ends_when_it_has_converged(fit):
    assert steps_of(fit(**converged(gain=1e9))) == 4
    assert steps_of(fit(**converged(gain=1e9, min_steps=7))) == 8
    assert steps_of(fit(**converged(gain=0.0))) == 12
    progress = json.loads(Path("lightning_logs/thinker/progress.json").read_text(encoding="utf-8"))
    assert progress["finished"]


def test_a_resumed_run_remembers_the_earlier_values(fit):
    fit(**{**converged(gain=1e9, min_steps=5), "trainer__max_steps": 4})
    cli = fit("fit", "--ckpt_path", "lightning_logs/thinker/last.ckpt", **converged(gain=1e9, min_steps=5))
    assert steps_of(cli) == 6
