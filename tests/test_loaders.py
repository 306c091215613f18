"""Loaders of the scripts: batches as asked, evaluation batches of one padded size."""

import torch

from train_utils.loaders import evaluation_loader, make_loader

SIZES = [(30, 40), (40, 30), (30, 41), (31, 40), (64, 64)]


class Data:
    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        return torch.zeros(3, *SIZES[index]), {"image_id": index}

    def get_height_and_width(self, index):
        return SIZES[index]


def ids(loader):
    return [[target["image_id"] for target in targets] for _, targets in loader]


def test_batches_are_those_given():
    loader = make_loader(Data(), [[4, 0], [1]], torch.device("cpu"), 0)
    assert ids(loader) == [[4, 0], [1]] and not loader.pin_memory
    assert [image.shape for image in next(iter(loader))[0]] == [(3, 64, 64), (3, 30, 40)]
    assert make_loader(Data(), [[0]], torch.device("cuda"), 0).pin_memory
    assert ids(make_loader(Data(), [], torch.device("cpu"), 0)) == []


def test_workers_stay():
    loader = make_loader(Data(), [[0], [1]], torch.device("cpu"), 1)
    assert loader.persistent_workers and ids(loader) == ids(loader) == [[0], [1]]


def test_evaluation_batches_have_one_padded_size():
    def padded(height, width):
        return (height + 31) // 32 * 32, (width + 31) // 32 * 32

    assert ids(evaluation_loader(Data(), padded, 2, torch.device("cpu"), 0)) == [[0, 2], [3], [1], [4]]
