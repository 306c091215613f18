import pickle
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from yolo_data import make_yolo

from datasets import CachedImages, InputError, JoinedDataset, TrainingSamples, UnreadableImage, YoloTxtDataset
from datasets.transforms import RandomHorizontalFlip


@pytest.fixture
def dataset(tmp_path):
    return YoloTxtDataset(make_yolo(tmp_path / "set"))


def _delete_images(tmp_path):
    for path in (tmp_path / "set" / "images").rglob("*.*"):
        path.unlink()


def test_a_file_is_read_once(dataset, tmp_path):
    cached, expected = CachedImages(dataset), [dataset[i] for i in range(len(dataset))]
    for _ in range(2):
        for i, (image, target) in enumerate(expected):
            found, found_target = cached[i]
            assert torch.equal(found, image) and found.dtype == torch.uint8 and found.is_contiguous()
            assert found_target.keys() == target.keys() and all(
                torch.equal(torch.as_tensor(found_target[key]), torch.as_tensor(target[key])) for key in target)
        _delete_images(tmp_path)
    assert torch.equal(cached[-1][0], expected[-1][0])
    with pytest.raises(IndexError):
        cached[len(dataset)]
    assert cached.num_bytes == 8 * 96 * 64 * 3


def test_twenty_augmented_readings_leave_the_cache_as_it_was(dataset):
    def spoil(image, target, generator):
        image[:] = 255 - image  # written into, as an augmentation should not do
        target["boxes"] += 1
        return RandomHorizontalFlip()(image, target, generator)

    expected = [dataset[i] for i in range(len(dataset))]
    cached = CachedImages(dataset)
    samples = TrainingSamples(cached, spoil)
    for epoch in range(20):
        for i in range(len(samples)):
            samples[(epoch, i)]
    for i, (image, target) in enumerate(expected):
        assert torch.equal(cached[i][0], image) and torch.equal(cached[i][1]["boxes"], target["boxes"])


def test_everything_else_is_passed_through(dataset):
    cached = CachedImages(dataset)
    assert len(cached) == 8 and cached.class_names == ["circle", "square"] and cached.faults is dataset.faults
    assert cached.has_difficult is False and cached.image_path(1) == dataset.image_path(1)
    assert cached.get_height_and_width(1) == dataset.get_height_and_width(1) == (96, 64)
    assert cached.coco_index(0)[1]["labels"].tolist() == dataset.coco_index(0)[1]["labels"].tolist()
    assert np.array_equal(cached.ground_truth()["boxes"], dataset.ground_truth()["boxes"])
    joined = CachedImages(JoinedDataset([dataset, dataset]))
    assert len(joined) == 16 and joined[15][1]["image_id"] == joined[15][1]["image_id"] == 15


def test_forked_workers_fill_one_memory(dataset, tmp_path):
    cached = CachedImages(dataset)
    expected = [dataset[i][0] for i in range(len(dataset))]
    loader = DataLoader(cached, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert len(list(loader)) == 8
    _delete_images(tmp_path)
    for images in ([cached[i][0] for i in range(8)], [image for image, _ in loader]):  # here, and in new workers
        assert all(torch.equal(image, other) for image, other in zip(images, expected))


def test_another_process_begins_anew(dataset, tmp_path):
    cached = CachedImages(dataset)
    image = cached[0][0]
    data = pickle.dumps(cached)
    assert len(data) < cached.num_bytes / 4
    again = pickle.loads(data)
    assert torch.equal(again[0][0], image)
    _delete_images(tmp_path)
    with pytest.raises(UnreadableImage):
        again[1]


def test_unreadable_images_are_not_kept(dataset):
    path = dataset.image_path(0)
    good = open(path, "rb").read()
    open(path, "wb").write(b"broken")
    cached = CachedImages(dataset)
    with pytest.raises(UnreadableImage):
        cached[0]
    open(path, "wb").write(good)
    assert torch.equal(cached[0][0], dataset[0][0])


def test_a_picture_of_another_size_is_read_each_time(dataset):
    cached = CachedImages(dataset)
    Image.new("RGB", (200, 200), (1, 2, 3)).save(dataset.image_path(0), "PNG")
    with pytest.warns(UserWarning, match="the image has 200x200 pixels"):
        assert cached[0][0].shape == (3, 200, 200)
    Image.new("RGB", (210, 210), (1, 2, 3)).save(dataset.image_path(0), "PNG")
    assert cached[0][0].shape == (3, 210, 210) and torch.equal(cached[1][0], dataset[1][0])


def test_refusals(dataset, monkeypatch):
    transformed = YoloTxtDataset(dataset.image_path(0).rsplit("/images/", 1)[0], transforms=lambda image, target: (image, target))
    with pytest.raises(ValueError, match="transforms cannot be cached"):
        CachedImages(JoinedDataset([dataset, transformed]))

    def refuse(*args):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("datasets.image_cache.mmap.mmap", refuse)
    with pytest.raises(InputError, match=r"the pictures need 0\.0 GiB of memory, which cannot be had \(Cannot allocate memory\)"):
        CachedImages(dataset)


def test_a_copy_costs_a_fraction_of_decoding(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    (tmp_path / "images" / "train").mkdir(parents=True)
    Image.fromarray(noise).save(tmp_path / "images" / "train" / "a.jpg")
    (tmp_path / "images" / "train" / "a.txt").write_text("0 .5 .5 1 1")
    dataset = YoloTxtDataset(tmp_path, class_names=["x"])
    cached = CachedImages(dataset)
    cached[0]
    decoding, copying = (min(_seconds_to_read(data) for _ in range(10)) for data in (dataset, cached))
    assert copying < decoding / 2


def _seconds_to_read(dataset):
    start = time.perf_counter()
    dataset[0]
    return time.perf_counter() - start
