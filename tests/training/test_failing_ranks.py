"""A failing rank ends the others within seconds, with one message and one exit code."""

import os
import signal
import time
from functools import partial
from typing import Any

import pytest
import torch
from lightning import Callback
from processes import Ranks
from toy_runs import RUN, callback

from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError

TWO = {"trainer__devices": 2, "trainer__strategy": "ddp", "trainer__val_check_interval": 500}


class FailAt(Callback):
    """Makes rank 1 fail in the middle of a training step.

    Args:
    step: The step at which it fails.
        how: `mistake`, `fault`, `not finite`, `term` or `kill`.
        other_sleeps: Whether rank 0 sleeps meanwhile.
    """

    def __init__(self, step: int, how: str, other_sleeps: bool = False) -> None:
        self.step, self.how, self.other_sleeps = step, how, other_sleeps

    def on_train_batch_start(self, trainer: Any, stage: Any, *args: Any) -> None:
        if trainer.global_step != self.step:
            return
        if trainer.global_rank != 1:
            time.sleep(100 if self.other_sleeps else 0)
            return
        if self.how == "mistake":
            raise UserError("row 7 of corpus.txt cannot be read")
        if self.how == "fault":
            raise ZeroDivisionError("a fault of ours")
        if self.how in ("term", "kill"):
            os.kill(os.getpid(), {"term": signal.SIGTERM, "kill": signal.SIGKILL}[self.how])
        if self.how == "not finite":
            loss = stage.loss
            stage.loss = lambda batch: loss(batch)._replace(total=loss(batch).total * torch.inf)


class TestTwoRanks:
    @pytest.mark.parametrize(
        ("how", "code", "message"),
        [
            ("fault", 1, "ZeroDivisionError: a fault of ours"),
            ("not finite", 2, "omni: the training loss is not finite at step 3 (batch 3, rows ["),
            ("term", 143, "omni: stopped at step "),
        ],
    )
    def test_end_together(self, fit, how, code, message):
        fails = callback("test_failing_ranks.FailAt", step=3, how=how)
        with Ranks(partial(fit, "fit", fails, trainer__max_steps=100_000, **TWO)) as ranks:
            assert ranks.wait(60) == [code, code], ranks.output(0) + ranks.output(1)
        written = ranks.output(0) + ranks.output(1)
        lines = [line for line in written.splitlines() if line.startswith(message)]
        assert len(lines) == 1, written
        assert written.count("omni: ") + written.count("Traceback") == 1, written
        if how == "term":
            assert Checkpoint(RUN / "last.ckpt").lineage["step"] >= 4

    def test_a_rank_that_gloo_does_not_wake_also_ends(self, fit):
        """Rank 0 sleeps, as it would in a kernel that waits for rank 1."""
        fails = callback("test_failing_ranks.FailAt", step=3, how="mistake", other_sleeps=True)
        with Ranks(partial(fit, "fit", fails, **TWO)) as ranks:
            assert ranks.wait(60) == [2, 2], ranks.output(0) + ranks.output(1)
        assert (ranks.output(0) + ranks.output(1)).count("omni: row 7") == 1
