"""Interrupted runs on several ranks: the random numbers of each rank are saved and restored."""

import json
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from processes import Ranks
from toy_runs import RUN, callback, same, step_of, weights

from omni.checkpoints.checkpoint import Checkpoint
from omni.distributed import resume_random_numbers
from omni.training.callbacks.predictions import Predictions, merge

STEPS = {"trainer__val_check_interval": 5, "model__init_args__thinker__init_args__dropout": 0.2}
TWO = {**STEPS, "trainer__devices": 2, "trainer__strategy": "ddp"}
EACH_STEP = callback("omni.training.callbacks.StageCheckpoint", filename="last", every_n_train_steps=1)


class TestTwoRanks:
    def test_killed_and_resumed_equals_never_stopped(self, fit, caplog):
        with Ranks(partial(fit, "fit", EACH_STEP, trainer__max_steps=40, **TWO)) as ranks:
            assert ranks.wait() == [0, 0], ranks.output(0)
        whole = Checkpoint(RUN / "last.ckpt").content
        RUN.rename("whole")
        with Ranks(partial(fit, "fit", EACH_STEP, trainer__max_steps=40, **TWO)) as ranks:
            while step_of(RUN / "last.ckpt") < 4:
                time.sleep(0.002)
            ranks.kill()
        step = Checkpoint(RUN / "last.ckpt").lineage["step"]
        assert 4 <= step < 40
        with Ranks(partial(fit, "fit", EACH_STEP, "--ckpt_path=last", trainer__max_steps=40, **TWO)) as ranks:
            assert ranks.wait() == [0, 0], ranks.output(0)
        assert same(whole["state_dict"], weights(RUN / "last.ckpt"))
        first, second = (state["cpu"] for state in whole["rng"]["ranks"])
        assert not torch.equal(first, second)
        found = Checkpoint(RUN / "last.ckpt").content["rng"]["ranks"]
        assert torch.equal(first, found[0]["cpu"])
        assert torch.equal(second, found[1]["cpu"])
        # Resuming on another number of ranks works and is reported.
        with pytest.warns(UserWarning, match="its batches or its seed have changed"):
            fit("fit", EACH_STEP, "--ckpt_path=last", trainer__max_steps=42, **STEPS)
        assert caplog.text.count("the checkpoint is of 2 ranks of the CPU, this run is on 1 rank of the CPU") == 1

    def test_steps_between_logs_exchange_once_and_use_no_barrier(self, fit):
        """A barrier would block the host."""
        seen = []
        for steps in (5, 15):
            options = {**TWO, "trainer__val_check_interval": 60, "trainer__log_every_n_steps": 50}
            with Ranks(partial(fit, "fit", trainer__max_steps=steps, **options)) as ranks:
                assert ranks.wait() == [0, 0], ranks.output(0)
            lines = Path("collectives-0.txt").read_text(encoding="utf-8").splitlines()
            seen.append(Counter(json.loads(line)[0] for line in lines))
        assert seen[1] - seen[0] == Counter({"allreduce float32[2]": 10})

    def test_predict_writes_each_row_once_in_order(self, fit):
        fit()
        options = {"data__init_args__test": "corpus.txt", "data__init_args__context": 48}
        fit("predict", "--ckpt_path=best", **options)
        alone = torch.load(RUN / "predictions.pt")
        assert sum(map(len, alone)) % 2 == 1  # one rank has one row more
        (RUN / "predictions.pt").unlink()
        with Ranks(partial(fit, "predict", "--ckpt_path=best", **options, **TWO)) as ranks:
            assert ranks.wait() == [0, 0], ranks.output(0)
        together = torch.load(RUN / "predictions.pt")
        assert [batch.shape for batch in together] == [batch.shape for batch in alone]
        torch.testing.assert_close(together, alone)
        assert not list(RUN.glob(".predictions*"))


def test_merging_predictions_keeps_their_type():
    """Lists with one entry per row, and dicts of tensors; rows of two ranks count once."""
    first = Predictions([[0, 2], [4]], [["a", "c"], ["e"]])
    assert merge([first, Predictions([[3, 1], [0]], [["d", "b"], ["a"]])]) == [["a", "b"], ["c", "d"], ["e"]]
    tensors = [torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]])]
    (found,) = merge([Predictions([[0, 2]], [{"p": tensors[0]}]), Predictions([[1]], [{"p": tensors[1]}])])[:1]
    assert found["p"].tolist() == [[0.0], [1.0]]


def test_random_states_of_checkpoints_from_before_ranks_are_restored():
    state = torch.get_rng_state()
    expected = torch.rand(3)
    torch.rand(5)
    assert resume_random_numbers({"cpu": state, "cuda": [state]}, torch.device("cpu"), step=7) is None
    assert torch.equal(torch.rand(3), expected)
