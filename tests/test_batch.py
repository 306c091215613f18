import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch.utils.data import DataLoader

from train_utils.batch import Batch
from train_utils.samplers import collate_fn


def _sample(height, width, boxes, dtype=torch.uint8):
    image = torch.arange(3 * height * width).reshape(3, height, width).to(dtype)
    return image, {"boxes": torch.arange(4.0 * boxes).reshape(-1, 4), "labels": torch.arange(boxes), "image_id": 7, "name": "a"}


def _equal(batch, samples):
    images, targets = batch
    for image, target, (wanted, other) in zip(images, targets, samples, strict=True):
        assert torch.equal(image, wanted) and image.dtype == wanted.dtype and image.is_contiguous()
        assert target.keys() == other.keys() and target["image_id"] == 7 and target["name"] == "a"
        assert all(torch.equal(target[key], other[key]) and target[key].dtype == other[key].dtype for key in ("boxes", "labels"))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_what_arrives_is_what_was_sent(workers, dtype):
    samples = [_sample(4, 5, 2, dtype), _sample(3, 7, 0, dtype), _sample(1, 1, 1, dtype)]
    for batch in DataLoader(samples, batch_size=3, collate_fn=collate_fn, num_workers=workers):
        _equal(batch, samples)
        batch[0][0].zero_()  # the images share memory, but not pixels
        assert torch.equal(batch[0][1], samples[1][0]) and batch[1][0]["boxes"].add_(1)[0, 0] == 1


def test_one_piece_of_shared_memory_for_a_batch(monkeypatch):
    sent = []
    real = torch.multiprocessing.reductions.reduce_tensor
    monkeypatch.setitem(ForkingPickler._extra_reducers, torch.Tensor, lambda tensor: sent.append(tensor.shape) or real(tensor))
    ForkingPickler.dumps(collate_fn([_sample(4, 5, 2), _sample(3, 7, 0)]))
    assert sent == [(3 * (4 * 5 + 3 * 7),)]


@pytest.mark.parametrize("images", [["a", "b"], [torch.zeros(3, 1, 1), torch.zeros(3, 1, 1, dtype=torch.uint8)]])
def test_images_of_other_kinds_go_as_they_are(images):
    batch = pickle.loads(pickle.dumps(Batch((tuple(images), ({}, {})))))
    assert batch[1] == ({}, {}) and [type(image) for image in batch[0]] == [type(image) for image in images]
    assert all(a is not b and (a == b if isinstance(a, str) else torch.equal(a, b) and a.dtype == b.dtype)
               for a, b in zip(batch[0], images) if not isinstance(a, str))
