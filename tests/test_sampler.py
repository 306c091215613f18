"""python -m pytest tests/test_sampler.py"""

import torch

from network_files.sampler import subsample

LABELS = torch.tensor([0, 1, -1, 0, 2, 0, 1, -1, 0, 0, 0])  # 6 background, 3 objects, 2 ignored


def test_counts():
    positive, negative = subsample(LABELS, num_samples=4, positive_fraction=0.25)
    assert (len(positive), len(negative)) == (1, 3)
    assert (LABELS[positive] > 0).all() and (LABELS[negative] == 0).all()


def test_few_objects_are_made_up_for_by_background():
    positive, negative = subsample(LABELS, num_samples=8, positive_fraction=0.5)
    assert (positive.tolist(), len(negative)) == ([1, 4, 6], 5)


def test_few_background_anchors_are_not_made_up_for():
    positive, negative = subsample(torch.tensor([1, 1, 1, 0]), num_samples=4, positive_fraction=0.25)
    assert (len(positive), negative.tolist()) == (1, [3])


def test_no_objects_or_nothing_at_all():
    positive, negative = subsample(torch.tensor([0, 0, -1]), 4, 0.5)
    assert (positive.tolist(), negative.tolist()) == ([], [0, 1])
    assert [len(idxs) for idxs in subsample(torch.zeros(0), 4, 0.5)] == [0, 0]


def test_random_numbers_are_drawn_for_objects_then_for_background():
    torch.manual_seed(5)
    objects, background = LABELS.gt(0).nonzero().flatten(), LABELS.eq(0).nonzero().flatten()
    expected = objects[torch.randperm(3)[:2]].sort().values, background[torch.randperm(6)[:2]].sort().values
    torch.manual_seed(5)
    assert [idxs.tolist() for idxs in subsample(LABELS, 4, 0.5)] == [idxs.tolist() for idxs in expected]


def test_every_anchor_can_be_drawn():
    drawn = {idx for _ in range(100) for idxs in subsample(LABELS, 4, 0.5) for idx in idxs.tolist()}
    assert drawn == set(range(len(LABELS))) - {2, 7}
