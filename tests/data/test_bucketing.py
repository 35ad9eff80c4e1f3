"""Batches of similar length: every row once, bounded seconds, split over ranks."""

import numpy as np
import pytest

from omni.data.loading.bucketing import BucketedBatches, SortedBatches, padding_share
from omni.errors import UserError

DURATIONS = np.random.default_rng(0).lognormal(1.0, 0.6, 300).clip(0.3, 12)
LIMITS = {"capacity": 20.0, "max_rows": 16}


def batches_of(epoch: int = 0, **options: object) -> list[np.ndarray]:
    sampler = BucketedBatches(DURATIONS, **{**LIMITS, **options})  # pyright: ignore
    return [batch - epoch * sampler.num_rows for batch in sampler.epoch(epoch)]


def test_every_row_is_used_once_an_epoch():
    sampler = BucketedBatches(DURATIONS, **LIMITS)
    for epoch in (0, 1, 5):
        numbers = np.sort(np.concatenate(sampler.epoch(epoch)))
        assert (numbers == np.arange(300) + epoch * 300).all()


def test_batches_are_bounded():
    for batch in batches_of():
        assert len(batch) == 1 or len(batch) * DURATIONS[batch].max() <= 20.0
        assert len(batch) <= 16
    assert max(map(len, batches_of(max_rows=3))) == 3


def test_batches_are_full_and_have_little_padding():
    assert padding_share(DURATIONS, batches_of()) < 0.15
    assert padding_share(DURATIONS, [np.arange(300)]) > 0.5
    assert len(batches_of()) < 1.5 * DURATIONS.sum() / 20


def test_order_and_batches_depend_on_seed_and_epoch_only():
    def said(**options: object) -> list[list[int]]:
        return [batch.tolist() for batch in batches_of(**options)]  # pyright: ignore

    assert said() == said()
    assert said() != said(seed=1)
    assert said() != said(epoch=1)
    assert sorted(map(sorted, said())) != sorted(map(sorted, said(epoch=1)))  # other batches, not only another order


def test_an_epoch_is_split_over_ranks():
    for world_size in (2, 3):
        ranks = [batches_of(rank=rank, world_size=world_size) for rank in range(world_size)]
        assert len({len(rank) for rank in ranks}) == 1
        rows = np.concatenate([row for rank in ranks for row in rank])
        assert len(np.unique(rows)) == len(rows) >= 300 - 16 * world_size
    with pytest.raises(UserError, match="fewer batches than there are ranks"):
        BucketedBatches(np.ones(3), **LIMITS, world_size=4)


def test_validation_uses_every_row_once_with_equal_numbers_of_batches_on_ranks():
    for world_size in (1, 2, 3, 7):
        ranks = [[*SortedBatches(DURATIONS, **LIMITS, rank=rank, world_size=world_size)] for rank in range(world_size)]
        assert len({len(rank) for rank in ranks}) == 1
        assert sorted(row for rank in ranks for batch in rank for row in batch) == list(range(300))
    with pytest.raises(UserError, match="cannot be distributed"):
        SortedBatches(np.ones(2), **LIMITS, world_size=3)


def test_equal_lengths_and_tiny_data_give_batches():
    assert sorted(np.concatenate(BucketedBatches(np.ones(5), **LIMITS).epoch(0))) == list(range(5))
    assert [batch.tolist() for batch in BucketedBatches(np.array([30.0]), **LIMITS).epoch(0)] == [[0]]
