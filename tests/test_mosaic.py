import pickle

import pytest
import torch
from torch.utils.data import Subset

from datasets.errors import InputError
from datasets.image_io import UnreadableImage
from datasets.mosaic import Mosaic
from datasets.samples import TrainingSamples
from datasets.yolo_augmentation import GREY, yolo_recipe
from network_files.boxes import area

HYP = {"degrees": 10, "translate": 0.1, "scale": 0.3, "shear": 4, "hsv_h": 0.01, "hsv_s": 0.5, "hsv_v": 0.3}
SIZES = [(40, 64), (64, 64), (64, 30), (20, 32)]  # (height, width) of the pictures, which hold one colour each


class Pictures(list):
    """Samples of one colour, 10, 40, 70, ... with one box around all; a number stands for a broken file."""

    class_names = ["a", "b"]

    def __init__(self, sizes=SIZES, broken=()):
        boxes = [torch.tensor([[0.0, 0.0, width, height]]) for height, width in sizes]
        super().__init__(
            (torch.full((3, *size), 10 + 30 * k, dtype=torch.uint8), {
                "boxes": box, "labels": torch.tensor([k + 1]), "area": area(box), "iscrowd": torch.zeros(1, dtype=torch.int64)})
            for k, (size, box) in enumerate(zip(sizes, boxes)))
        self.broken = broken

    def __getitem__(self, index):
        if index in self.broken:
            raise UnreadableImage(f"{index}.jpg is broken")
        return super().__getitem__(index)

    def image_path(self, index):
        return f"{index}.jpg"

    def get_height_and_width(self, index):
        return SIZES[index]


def _same(one, other):
    return torch.equal(one[0], other[0]) and torch.equal(one[1]["boxes"], other[1]["boxes"])


def test_four_pictures_meet_at_a_point():
    """Without any change, the colours on both sides of the meeting point tell where each picture went."""
    samples = Mosaic(Pictures([(64, 64)] * 4), 64, {}, hflip=0.0)
    points = set()
    for epoch in range(60):
        image, target = samples[(epoch, 1)]
        assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
        # The canvas's middle starts at 32, so the point is at 0..64 of the output.
        colours = image[0].unique_consecutive(dim=0).unique_consecutive(dim=1)
        assert (image[0] != GREY).all() and colours.numel() <= 4 and target["image_id"] == 1
        rows, columns = (image[0, 1:] != image[0, :-1]).any(1).nonzero(), (image[0, :, 1:] != image[0, :, :-1]).any(0).nonzero()
        assert len(rows) <= 1 and len(columns) <= 1
        if len(rows) and len(columns):
            x, y = columns.item() + 1, rows.item() + 1
            points.add((x, y))
            assert image[0, 0, 0] == 40  # this sample is top left
            quadrants = [(0, 0, x, y), (x, 0, 64, y), (0, y, x, 64), (x, y, 64, 64)]
            left = [q for q in quadrants if min(q[2] - q[0], q[3] - q[1]) > 4
                    and (q[2] - q[0]) * (q[3] - q[1]) > 0.2 * 64 * 64 and 0.1 < (q[2] - q[0]) / (q[3] - q[1]) < 10]
            assert target["boxes"].tolist() == [list(map(float, q)) for q in left]
            seen = [image[0, int(q[1]), int(q[0])].item() for q in left]
            assert [10 + 30 * (label - 1) for label in target["labels"].tolist()] == seen
            assert torch.equal(target["area"], area(target["boxes"])) and len(target["iscrowd"]) == len(left)
    xs, ys = zip(*points)
    assert len(points) > 25 and min(xs) < 12 and max(xs) > 52 and min(ys) < 12 and max(ys) > 52


def test_pictures_of_other_shapes_leave_grey():
    """20 x 32 at size 64 is 40 x 64: below and above the pictures is grey, never beside."""
    samples = Mosaic(Pictures([(20, 32)]), 64, {}, hflip=0.0)
    for epoch in range(20):
        image, _ = samples[(epoch, 0)]
        rows = (image[0] == GREY).any(dim=1)
        assert torch.equal(rows, (image[0] == GREY).all(dim=1)) and (~rows).any()
        assert (~rows).int().diff().abs().sum() <= 2  # one band of pictures


def test_a_sample_depends_on_seed_epoch_and_index_only():
    samples, other = Mosaic(Pictures(), 64, HYP), pickle.loads(pickle.dumps(Mosaic(Pictures(), 64, HYP)))
    first = [samples[(4, i)] for i in range(4)]
    torch.manual_seed(99)
    again = [other[(4, i)] for i in reversed(range(4))][::-1]
    assert all(_same(a, b) for a, b in zip(first, again))
    assert not any(torch.equal(a[0], samples[(5, i)][0]) for i, a in enumerate(first))
    assert not any(torch.equal(a[0], Mosaic(Pictures(), 64, HYP, seed=1)[(4, i)][0]) for i, a in enumerate(first))
    assert _same(samples[-1], samples[(0, 3)]) and [target["image_id"] for _, target in first] == [0, 1, 2, 3]
    with pytest.raises(IndexError):
        samples[4]


def test_the_data_are_not_changed():
    pictures = Pictures()
    kept = [(image.clone(), target["boxes"].clone()) for image, target in pictures]
    samples = Mosaic(pictures, 48, HYP)
    for epoch in range(10):
        for index in range(4):
            image, target = samples[(epoch, index)]
            boxes = target["boxes"]
            assert (boxes >= 0).all() and (boxes <= 48).all() and (boxes[:, 2:] - boxes[:, :2] > 4).all()
            assert len(boxes) == len(target["labels"]) == len(target["area"]) == len(target["iscrowd"])
    assert all(torch.equal(image, old[0]) and torch.equal(target["boxes"], old[1])
               for (image, target), old in zip(pictures, kept))


def test_probability():
    ordinary = TrainingSamples(Pictures([(64, 64)] * 4), yolo_recipe(64, {}, 0.0))[0][0]

    def mosaics(probability):
        samples = Mosaic(Pictures([(64, 64)] * 4), 64, {}, probability, hflip=0.0)
        return sum(not torch.equal(samples[(epoch, 0)][0], ordinary) for epoch in range(100))

    assert mosaics(0.0) == 0 and mosaics(1.0) > 85  # some have four times the same, or the first alone in view
    assert 0.2 < mosaics(0.3) / mosaics(1.0) < 0.42


def test_mirror_comes_last():
    pictures = Pictures([(64, 64)] * 4)
    for epoch in range(5):
        (image, target), (mirrored, other) = (Mosaic(pictures, 64, {}, hflip=p)[(epoch, 0)] for p in (0.0, 1.0))
        assert torch.equal(mirrored, image.flip(2)) and torch.equal(64 - other["boxes"][:, [2, 0]], target["boxes"][:, [0, 2]])


def test_images_without_objects():
    pictures = Pictures()
    empty = torch.zeros(0, 4)
    nothing = [(image, {"boxes": empty, "labels": empty[:, 0].long(), "area": empty[:, 0], "iscrowd": empty[:, 0].long()})
               for image, _ in pictures]
    image, target = Mosaic(nothing, 64, HYP)[0]
    assert image.shape == (3, 64, 64) and target["boxes"].shape == (0, 4) and target["labels"].dtype == torch.int64
    image, target = Mosaic([nothing[0], pictures[1]], 64, {}, hflip=0.0)[0]
    assert all(len(target[key]) == len(target["boxes"]) for key in ("labels", "area", "iscrowd"))


def test_unreadable_pictures_are_named_one_by_one():
    samples = Mosaic(Pictures([(64, 64)] * 4, broken=(2, 3)), 64, {})
    named = {}
    for epoch in range(30):
        _, target = samples[(epoch, 0)]
        assert target["image_id"] == 0
        named.setdefault(target.get("unreadable"), epoch)
    assert named.keys() == {None, "2.jpg", "3.jpg"}  # never both in one text: paths are counted
    _, target = samples[(0, 2)]
    assert target["unreadable"] == "2.jpg" and target["image_id"] in (0, 1)
    with pytest.raises(UnreadableImage, match="4 images in a row"):
        Mosaic(Pictures([(64, 64)] * 4, broken=range(4)), 64, {})[0]


def test_the_contract_of_the_data_set_passes_through():
    samples = Mosaic(Subset(Pictures(), [3, 1]), 64, {})
    assert len(samples) == 2 and samples.class_names == ["a", "b"] and samples.image_path(0) == "3.jpg"
    assert samples.get_height_and_width(0) == (20, 32)
    seen = {label for epoch in range(20) for label in samples[(epoch, 0)][1]["labels"].tolist()}
    assert seen == {2, 4}


@pytest.mark.parametrize(("arguments", "message"), [
    ({"size": 0}, "size must be positive"), ({"probability": 1.5}, "probability of a mosaic is 1.5"),
    ({"probability": float("nan")}, "probability"), ({"hyp": {"scale": 2.0}}, "scale is 2")])
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        Mosaic(Pictures(), **{"size": 64, "hyp": {}, **arguments})
