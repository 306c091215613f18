"""Batches: the origin's grouping oracles, sharding, restarts, and evaluation batches of equal padded size."""

import pytest
import torch

from train_utils.errors import InputError
from train_utils.group_by_aspect_ratio import GroupedBatchSampler, aspect_ratio_bins, create_aspect_ratio_groups
from train_utils.samplers import TrainBatchSampler, _Order, collate_fn, evaluation_batches


@pytest.mark.parametrize(
    ("groups", "batch_size", "expected"),
    [
        ("000001112", 4, [[0, 1, 2, 3], [5, 6, 7, 5]]),
        ("000111222", 4, [[0, 1, 2, 0], [3, 4, 5, 3]]),
        ("001022", 2, [[0, 1], [4, 5], [3, 0]]),
        ("000", 4, []),
        ("", 4, []),
    ],
)
def test_grouped_batches_of_the_origin(groups, batch_size, expected):
    sampler = GroupedBatchSampler(_Order(list(range(len(groups)))), [int(g) for g in groups], batch_size)
    assert list(sampler) == expected
    assert len(sampler) == len(expected)


def test_grouped_batches_need_a_sampler():
    with pytest.raises(ValueError, match="Sampler"):
        GroupedBatchSampler([0, 1, 2], [0, 0, 0], 2)


class Sizes:
    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def get_height_and_width(self, index):
        return self.sizes[index]


def test_aspect_ratio_groups():
    borders = [0.5, 0.6299605249474366, 0.7937005259840997, 1.0, 1.2599210498948732, 1.5874010519681994, 2.0]
    assert aspect_ratio_bins(3) == pytest.approx(borders, abs=0, rel=1e-15)
    sizes = Sizes([(200, 100), (100, 100), (100, 200), (300, 400), (200, 300), (90, 160), (400, 300), (100, 30)])
    assert create_aspect_ratio_groups(sizes, 3) == [1, 4, 7, 5, 5, 6, 2, 0]
    assert create_aspect_ratio_groups(sizes, 0) == [0, 1, 1, 1, 1, 1, 0, 0]


def test_every_image_once_without_groups():
    sampler = TrainBatchSampler(10, 4, seed=3)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [4, 4, 2] and len(sampler) == 3
    assert sorted(index for batch in batches for _, index in batch) == list(range(10))
    assert {epoch for batch in batches for epoch, _ in batch} == {0}


def test_order_depends_on_seed_and_epoch_only():
    one, other = TrainBatchSampler(50, 4, seed=1), TrainBatchSampler(50, 4, seed=1)
    torch.manual_seed(99)
    assert one.batches(2) == other.batches(2)
    assert one.batches(2) != one.batches(3)
    assert one.batches(2) != TrainBatchSampler(50, 4, seed=2).batches(2)


def test_a_restart_skips_what_was_seen():
    sampler = TrainBatchSampler(20, 4)
    sampler.set_epoch(5)
    whole = list(sampler)
    sampler.set_epoch(5, first_batch=3)
    assert list(sampler) == whole[3:]


@pytest.mark.parametrize("groups", [None, [0, 1] * 25])
def test_processes_share_the_batches_of_one(groups):
    shares = [TrainBatchSampler(50, 4, groups, rank=rank, world_size=3) for rank in range(3)]
    batches = [share.batches(0) for share in shares]
    assert [len(b) for b in batches] == [4, 4, 4] == [len(share) for share in shares]
    dealt = [batch for turn in zip(*batches) for batch in turn]
    assert dealt == TrainBatchSampler(50, 4, groups).batches(0)[:12]


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="--batch-size"):
        TrainBatchSampler(7, 4, world_size=2)


def test_evaluation_batches_are_of_one_size_and_complete():
    sizes = [(32, 64), (64, 32), (32, 64), (32, 64), (64, 32)]
    assert evaluation_batches(sizes, 2) == [[0, 2], [3], [1, 4]]
    shares = [evaluation_batches(sizes, 2, rank, 2) for rank in range(2)]
    assert shares == [[[0, 2], [1, 4]], [[3]]]
    assert evaluation_batches([], 2) == []


def test_collate_keeps_sizes():
    images, targets = collate_fn([(torch.zeros(3, 4, 5), {"image_id": 0}), (torch.zeros(3, 2, 2), {"image_id": 1})])
    assert [tuple(image.shape) for image in images] == [(3, 4, 5), (3, 2, 2)] and len(targets) == 2


def test_a_last_batch_too_small_is_left_out():
    """BatchNorm over maps of one cell cannot learn from one image: 7 images in threes leave a single one over."""
    assert [len(batch) for batch in TrainBatchSampler(7, 3)] == [3, 3, 1]
    for size, lengths in ((7, [3, 3]), (8, [3, 3, 2]), (9, [3, 3, 3]), (2, [2])):
        sampler = TrainBatchSampler(size, 3, smallest_batch=2)
        assert [len(batch) for batch in sampler] == lengths and len(sampler) == len(lengths)
    with pytest.raises(InputError, match="need 2 training images at least, the data set has 1"):
        TrainBatchSampler(1, 3, smallest_batch=2)
