"""The guard against deadlocked ranks, tested with the faults that it detects."""

import os
import re
import time
from functools import partial
from pathlib import Path

import collectives
import pytest
import torch
import torch.distributed as dist
from lightning import Callback
from processes import Ranks
from toy_runs import callback


def connect() -> int:
    """Connects this process to the other rank, and returns its rank.

    The barrier is there because a rank that ends before the other one has connected makes that one fail:
    `init_process_group` returns on a rank once its own connections are open.
    """
    dist.init_process_group("gloo")
    dist.barrier()
    return dist.get_rank()


def one_alone():
    if connect() == 0:
        dist.broadcast_object_list(["a folder"], src=0)


def one_sleeps():
    one_alone()
    time.sleep(60)


def other_order():
    one, other = torch.zeros(2), torch.zeros(3)
    for tensor in (one, other) if connect() else (other, one):
        dist.all_reduce(tensor, async_op=True)


def one_more():
    if connect():
        dist.all_reduce(torch.zeros(1), async_op=True)
    os._exit(0)  # without waiting, as a run that does not read its last exchange


def alike():
    rank = connect()
    found = [None, None]
    dist.all_gather_object(found, {"rank": rank, "longer": "x" * 50 * rank})
    dist.all_reduce(numbers := torch.full((3,), float(rank)))
    into = [torch.zeros(2), torch.zeros(2)] if rank == 0 else None
    dist.gather(torch.full((2,), float(rank)), into)
    dist.barrier()
    return [one["rank"] for one in found], numbers


class FolderOfRank0(Callback):
    """Reads Lightning's folder of the run on rank 0 only: a broadcast that no other rank joins.

    The other rank then waits in the backward pass, whose exchange is not recorded; it leaves a file there.
    """

    def on_train_start(self, trainer, stage):
        if trainer.is_global_zero:
            _ = trainer.log_dir

    def on_before_backward(self, *args):
        Path("in-backward").touch()


def wait_until(reached, seconds=60):
    """Waits for what the ranks do."""
    end = time.monotonic() + seconds
    while not reached() and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.usefixtures("workplace")
class TestGuard:
    def test_ranks_alike(self):
        with Ranks(alike, results=True) as ranks:
            results = ranks.results()
        assert [found for found, _ in results] == [[0, 1], [0, 1]]
        assert all(torch.equal(numbers, torch.ones(3)) for _, numbers in results)

    def test_one_alone(self):
        with Ranks(one_alone) as ranks, pytest.raises(AssertionError, match="rank 1: none") as error:
            ranks.wait()
        assert "rank 0: broadcast" in str(error.value)
        assert "one_alone" in str(error.value)

    def test_one_alone_while_the_other_does_something_else(self):
        with Ranks(one_sleeps) as ranks:
            wait_until(
                lambda: "rank 0 has made 2" in collectives.last(2) and "rank 1 has made 1" in collectives.last(2)
            )
            with pytest.raises(TimeoutError, match="rank 1 has made 1 coll") as error:
                ranks.wait(1)
        assert "rank 0 has made 2 collectives, last broadcast" in str(error.value)
        assert "in one_alone" in str(error.value)  # stack of rank 0
        assert "in one_sleeps" in str(error.value)  # stack of rank 1

    def test_another_order(self):
        with Ranks(other_order) as ranks, pytest.raises(AssertionError, match="collective 1 differs") as error:
            ranks.wait()
        assert "rank 0: allreduce float32[3]" in str(error.value)
        assert "rank 1: allreduce float32[2]" in str(error.value)
        assert str(error.value).count("other_order") == 2

    def test_one_more_at_the_end(self):
        with Ranks(one_more) as ranks, pytest.raises(AssertionError, match="rank 0: none"):
            ranks.wait()


def test_a_callback_that_reads_the_folder_on_rank_0_only(fit):
    """A fault that once deadlocked every run on several ranks."""
    reads = callback("test_collectives.FolderOfRank0")
    with Ranks(partial(fit, "fit", reads, trainer__devices=2, trainer__strategy="ddp")) as ranks:
        wait_until(lambda: "on_train_start" in collectives.last(2) and Path("in-backward").exists())
        with pytest.raises(TimeoutError) as error:
            ranks.wait(1)
    assert re.search(
        r"rank 0 has made \d+ collectives, last broadcast .*test_collectives.py:\d+ on_train_start", str(error.value)
    )
    assert "backward" in str(error.value).partition("rank 1:")[2]  # the stack of rank 1
