"""The guard against deadlocked ranks, tested with the faults that it detects."""

import os
import re
import shutil
import time

import collectives
import pytest
import torch
import torch.distributed as dist
from forks import Ranks
from lightning import Callback
from toy_runs import RUN, callback


def connected(rank):
    dist.init_process_group("gloo", rank=rank, world_size=2)


def one_alone(rank):
    connected(rank)
    dist.barrier()
    if rank == 0:
        dist.broadcast_object_list(["a folder"], src=0)


def one_sleeps(rank):
    one_alone(rank)
    time.sleep(60)


def another_order(rank):
    connected(rank)
    one, other = torch.zeros(2), torch.zeros(3)
    for tensor in (one, other) if rank else (other, one):
        dist.all_reduce(tensor, async_op=True)


def one_more(rank):
    connected(rank)
    if rank:
        dist.all_reduce(torch.zeros(1), async_op=True)
    os._exit(0)  # without waiting, as a run whose last exchange nobody reads


def alike(rank):
    connected(rank)
    found = [None, None]
    dist.all_gather_object(found, {"rank": rank, "longer": "x" * 50 * rank})
    dist.all_reduce(numbers := torch.full((3,), float(rank)))
    into = [torch.zeros(2), torch.zeros(2)] if rank == 0 else None
    dist.gather(torch.full((2,), float(rank)), into)
    dist.barrier()
    return [one["rank"] for one in found], numbers


class FolderOfRank0(Callback):
    """Reads Lightning's folder of the run on rank 0 only: a broadcast that no other rank joins."""

    def on_train_start(self, trainer, stage):
        if trainer.is_global_zero:
            _ = trainer.log_dir


@pytest.mark.usefixtures("workplace")
class TestGuard:
    def test_ranks_alike(self):
        with Ranks(alike, results=True) as ranks:
            results = ranks.results(20)
        assert [found for found, _ in results] == [[0, 1], [0, 1]]
        assert all(torch.equal(numbers, torch.ones(3)) for _, numbers in results)

    def test_one_alone(self):
        with Ranks(one_alone) as ranks, pytest.raises(AssertionError, match="rank 1: none") as error:
            ranks.wait(20)
        assert "rank 0: broadcast" in str(error.value)
        assert "one_alone" in str(error.value)

    def test_one_alone_while_the_other_does_something_else(self):
        with Ranks(one_sleeps) as ranks, pytest.raises(TimeoutError, match="rank 1 has made 1 coll") as error:
            ranks.wait(2)
        assert "rank 0 has made 2 collectives, last broadcast" in str(error.value)
        assert "in one_alone" in str(error.value)  # rank 0's stack
        assert "in one_sleeps" in str(error.value)  # that of rank 1

    def test_another_order(self):
        with Ranks(another_order) as ranks, pytest.raises(AssertionError, match="collective 0 differs") as error:
            ranks.wait(20)
        assert "rank 0: allreduce float32[3]" in str(error.value)
        assert "rank 1: allreduce float32[2]" in str(error.value)
        assert str(error.value).count("another_order") == 2

    def test_one_more_at_the_end(self):
        with Ranks(one_more) as ranks, pytest.raises(AssertionError, match="rank 0: none"):
            ranks.wait(20)


def test_a_callback_that_asks_rank_0_alone(fit):
    """A fault that once deadlocked every run on several ranks."""
    fit(trainer__max_steps=1)  # imports what the forks need
    shutil.rmtree(RUN)
    two = {"trainer__devices": 2, "trainer__strategy": "ddp"}
    asks = callback("test_collectives.FolderOfRank0")
    with Ranks(lambda rank: fit("fit", asks, **two)) as ranks:
        end = time.monotonic() + 60
        while "on_train_start" not in collectives.last(2) and time.monotonic() < end:
            time.sleep(0.05)
        # The other rank waits in the backward pass, whose exchange is not recorded.
        with pytest.raises(TimeoutError) as error:
            ranks.wait(1)
    assert re.search(
        r"rank 0 has made \d+ collectives, last broadcast .*test_collectives.py:\d+ on_train_start", str(error.value)
    )
    assert "backward" in str(error.value)  # the stack of rank 1
