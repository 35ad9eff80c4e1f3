"""How rows are split over ranks, without any data."""

import pytest

from omni.data.loading.resumable import OrderedBatches, ShuffledBatches
from omni.data.text.data import TextData
from omni.errors import UserError


def test_each_epoch_is_split_over_ranks():
    for world_size, rows in [(1, 23), (2, 23), (3, 40), (4, 4)]:
        ranks = [ShuffledBatches(rows, 3, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]
        for _ in range(2):
            epoch = [[row for batch in sampler for row in batch] for sampler in ranks]
            seen = [row for share in epoch for row in share]
            assert len(set(seen)) == len(seen)
            assert len({len(share) for share in epoch}) == 1
            assert len(seen) > rows - 3 * world_size


def test_a_global_batch_is_the_same_rows_on_any_number_of_ranks():
    one = ShuffledBatches(64, 8, seed=3)
    two = [ShuffledBatches(64, 4, seed=3, rank=rank, world_size=2) for rank in range(2)]
    for whole, *shares in zip(one, *two, strict=True):
        assert sorted(whole) == sorted([*shares[0], *shares[1]])


def test_validation_uses_every_row_once_with_equal_numbers_of_batches_on_ranks():
    for rows in range(1, 30):
        for world_size in range(1, min(rows, 4) + 1):
            for batch_size in (1, 2, 4):
                ranks = [
                    list(OrderedBatches(rows, batch_size, rank=r, world_size=world_size)) for r in range(world_size)
                ]
                seen = sorted(row for batches in ranks for batch in batches for row in batch)
                assert len({len(batches) for batches in ranks}) == 1
                assert all(1 <= len(batch) <= batch_size for batches in ranks for batch in batches)
                left_out = rows % world_size if batch_size == 1 else 0
                assert seen == list(range(rows - left_out))
    with pytest.raises(UserError, match="2 rows cannot be distributed over 3 ranks"):
        OrderedBatches(2, 1, world_size=3)


def test_the_name_of_a_data_module_needs_no_data(tmp_path):
    data = TextData(str(tmp_path / "missing.txt"), streaming=True)
    assert str(data) == "TextData"
