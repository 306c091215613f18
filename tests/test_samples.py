import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from datasets import TrainingSamples, UnreadableImage, VOCDataSet, make_shapes
from datasets.samples import sample_generator
from datasets.transforms import Compose, PhotometricDistort, RandomHorizontalFlip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=12, num_val=1)


def _augmented(dataset, seed=0):
    return TrainingSamples(dataset, Compose([RandomHorizontalFlip(), PhotometricDistort()]), seed)


def _same(one, other):
    return one[0].shape == other[0].shape and torch.equal(one[0], other[0]) and torch.equal(one[1]["boxes"],
                                                                                           other[1]["boxes"])


def test_a_sample_depends_on_seed_epoch_and_index_only(shapes):
    samples, other = _augmented(VOCDataSet(shapes)), _augmented(VOCDataSet(shapes))
    first = [samples[(4, i)] for i in range(12)]
    torch.manual_seed(99)
    again = [other[(4, i)] for i in reversed(range(12))][::-1]
    assert all(_same(a, b) for a, b in zip(first, again))
    assert sum(_same(a, samples[(5, i)]) for i, a in enumerate(first)) < 4
    assert sum(_same(a, _augmented(VOCDataSet(shapes), seed=1)[(4, i)]) for i, a in enumerate(first)) < 4
    assert _same(samples[2], samples[(0, 2)])
    assert [target["image_id"] for _, target in first] == list(range(12))


def test_neighbouring_samples_have_unrelated_draws():
    flips = [torch.stack([RandomHorizontalFlip()(torch.zeros(3, 1, 2, dtype=torch.uint8).index_fill_(
        2, torch.tensor([1]), 1), {"boxes": torch.zeros(0, 4)}, generator)[0][0, 0, 0] for generator in _generators(e)])
        for e in range(2)]
    assert 0.4 < torch.stack(flips).float().mean() < 0.6
    assert 0.4 < (flips[0] == flips[1]).float().mean() < 0.6


def test_seed_epoch_and_index_are_not_interchangeable():
    draws = [torch.rand(1, generator=sample_generator(*key)).item() for key in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len(set(draws)) == 3


def _generators(epoch):
    return [sample_generator(0, epoch, index) for index in range(500)]


class _Batches:
    """Yields (epoch, index) pairs as the scripts' batch sampler does."""

    def __iter__(self):
        return iter([[(7, 0), (7, 5)], [(7, 3), (7, 1)]])

    def __len__(self):
        return 2


def _as_list(batch):
    return batch


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_change_nothing(shapes, context):
    samples = _augmented(VOCDataSet(shapes))
    loader = DataLoader(samples, batch_sampler=_Batches(), num_workers=1, multiprocessing_context=context,
                        collate_fn=_as_list)
    for batch, keys in zip(loader, _Batches()):
        assert all(_same(sample, samples[key]) for sample, key in zip(batch, keys))


@pytest.fixture
def damaged(shapes, tmp_path):
    dataset = VOCDataSet(shapes)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    dataset.table.paths = [str(tmp_path / "bad.jpg") if i in (2, 7) else dataset.image_path(i) for i in range(12)]
    return dataset


def test_unreadable_image_has_a_fixed_substitute(damaged, tmp_path):
    samples = TrainingSamples(damaged)
    image, target = samples[(0, 2)]
    assert target["unreadable"] == str(tmp_path / "bad.jpg") and target["image_id"] not in (2, 7)
    assert torch.equal(image, samples[target["image_id"]][0])
    assert [samples[(epoch, 2)][1]["image_id"] for epoch in range(5)] == [target["image_id"]] * 5
    assert "unreadable" not in samples[3][1]
    assert samples[7][1]["image_id"] != target["image_id"]  # not all holes are filled with one image


def test_nothing_readable(damaged, tmp_path):
    with pytest.raises(UnreadableImage, match="2 images in a row"):
        TrainingSamples(Subset(damaged, [2, 7]))[0]


def test_subset(shapes):
    dataset = VOCDataSet(shapes)
    samples = TrainingSamples(Subset(Subset(dataset, [9, 4, 1, 0]), [2, 0]))  # images 1, 9
    assert len(samples) == 2 and samples.class_names == dataset.class_names
    assert samples.image_path(1) == dataset.image_path(9)
    assert samples.get_height_and_width(1) == dataset.get_height_and_width(9)
    assert samples[1][1]["image_id"] == 1
    truth = samples.ground_truth()
    assert truth["num_images"] == 2 and truth["heights"][1] == dataset.get_height_and_width(9)[0]
    for i in range(2):
        assert truth["boxes"][truth["image_index"] == i].tolist() == samples[i][1]["boxes"].tolist()
    assert TrainingSamples(Subset(dataset, [])).ground_truth()["boxes"].shape == (0, 4)


class _OnlyTruth(list):
    """Three images: two objects in the first, one in the second, none in the last."""

    def ground_truth(self):
        per_object = {key: np.arange(3) for key in ("boxes", "labels", "area", "iscrowd", "difficult")}
        per_image = {key: np.array([5, 6, 7]) for key in ("heights", "widths", "source_image_ids")}
        return {**per_object, **per_image, "num_images": 3, "image_index": np.array([1, 0, 0])}


def test_ground_truth_of_a_subset_by_hand():
    truth = TrainingSamples(Subset(_OnlyTruth("abc"), [2, 0, 1])).ground_truth()
    assert truth["image_index"].tolist() == [1, 1, 2] and truth["labels"].tolist() == [1, 2, 0]
    assert truth["widths"].tolist() == [7, 5, 6] and truth["num_images"] == 3


def test_plain_list_is_not_changed():
    image, target = torch.zeros(3, 4, 6, dtype=torch.uint8), {"boxes": torch.zeros(0, 4), "image_id": 55}
    samples = TrainingSamples([(image, target)])
    assert samples[0][1]["image_id"] == 0 and target["image_id"] == 55
    assert samples.get_height_and_width(0) == (4, 6) and samples.image_path(0) == "sample 0"
    with pytest.raises(IndexError):
        samples[1]


def test_pickle(shapes):
    samples = _augmented(VOCDataSet(shapes))
    assert _same(pickle.loads(pickle.dumps(samples))[(1, 2)], samples[(1, 2)])
