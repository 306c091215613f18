"""Drawing: pixels where they belong, any image size, empty cases."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_coco_eval import make_detections, make_truth, nothing

from train_utils import draw
from train_utils.draw import (
    KIND_COLOURS,
    class_colour,
    draw_boxes,
    draw_training_batch,
    draw_validation,
    draw_worst,
    prediction_grid,
    to_picture,
)
from train_utils.error_analysis import KINDS, classify_errors


def pixels(picture):
    return np.asarray(picture).astype(int)


def test_a_box_is_drawn_at_its_place_in_the_colour_of_its_class():
    image = torch.zeros(3, 200, 300, dtype=torch.uint8)
    drawn = draw_boxes(image, torch.tensor([[50.0, 80, 150, 180]]), torch.tensor([2]), class_names=["cat", "dog"])
    found = pixels(drawn)
    assert drawn.size == (300, 200) and image.sum() == 0  # the image itself is unchanged
    for x, y in ((50, 130), (150, 130), (100, 180), (100, 80)):
        assert tuple(found[y, x]) == class_colour(2)
    assert tuple(found[130, 100]) == (0, 0, 0) and found[:50].sum() == 0 and found[:, 200:].sum() == 0
    assert found[60:79, 50:70].sum() > 0  # the name stands above the box


def test_scores_order_and_threshold():
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    boxes = torch.tensor([[20.0, 40, 80, 90], [20.0, 40, 80, 90]])
    drawn = draw_boxes(image, boxes, torch.tensor([1, 2]), torch.tensor([0.9, 0.4]))
    assert tuple(pixels(drawn)[60, 20]) == class_colour(1)  # the better one is on top
    drawn = draw_boxes(image, boxes, torch.tensor([1, 2]), torch.tensor([0.3, 0.4]), score_threshold=0.35)
    assert tuple(pixels(drawn)[60, 20]) == class_colour(2)
    assert pixels(draw_boxes(image, boxes, torch.tensor([1, 2]), torch.zeros(2), score_threshold=0.5)).sum() == 0


@pytest.mark.parametrize("height, width", [(1, 1), (8, 300), (3000, 20), (1200, 1600)])
def test_any_size_and_boxes_outside(height, width):
    image = torch.full((3, height, width), 128, dtype=torch.uint8)
    boxes = torch.tensor([[-50.0, -50, 5000, 5000], [5000.0, 5000, 6000, 6000], [3.0, 3, 1, 1]])
    labels, names = torch.tensor([1, 7, 200]), ["a very long name of a class", "Größe"]
    drawn = draw_boxes(image, boxes, labels, torch.tensor([0.5, 0.25, 1.0]), names)
    assert drawn.size == (width, height)


def test_a_small_image_can_be_enlarged():
    image = torch.zeros(3, 12, 16, dtype=torch.uint8)
    one = torch.tensor([1])
    assert draw_boxes(image, torch.tensor([[2.0, 6, 10, 11]]), one).size == (16, 12)
    drawn = draw_boxes(image, torch.tensor([[2.0, 6, 10, 11]]), one, class_names=["cat"], min_side=200)
    assert drawn.size == (13 * 16, 13 * 12)  # thirteen times: the first whole number that reaches 200
    for x, y in ((26, 110), (130, 110), (78, 143), (78, 78)):
        assert tuple(pixels(drawn)[y, x]) == class_colour(1)
    assert draw_boxes(image, torch.zeros(0, 4), one[:0], min_side=16).size == (16, 12)


def test_images_of_other_kinds():
    grey = to_picture(torch.full((3, 4, 5), 0.5))
    assert grey.size == (5, 4) and grey.getpixel((0, 0)) == (128, 128, 128)
    source = Image.new("L", (5, 4), 7)
    assert to_picture(source).getpixel((0, 0)) == (7, 7, 7)
    empty = draw_boxes(source, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert pixels(empty).sum() == 4 * 5 * 21


def test_colours_differ():
    colours = np.array([class_colour(label) for label in range(1, 21)])
    distance = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 1000 * np.eye(20)
    assert distance.min() > 20 and class_colour(5) == class_colour(5)


def test_prediction_grid(tmp_path):
    def sample(height, width, count):
        boxes = torch.tensor([[2.0, 2, width / 2, height / 2]]).repeat(count, 1)
        found = {"boxes": boxes, "labels": torch.ones(count, dtype=torch.int64), "scores": torch.full((count,), 0.9)}
        return {
            "image": torch.zeros(3, height, width, dtype=torch.uint8),
            "target": {"boxes": boxes, "labels": found["labels"]},
            "detections": found,
        }

    prediction_grid([], ["a"], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    prediction_grid([sample(300, 40, 0)], ["a"], tmp_path / "one.png")
    assert Image.open(tmp_path / "one.png").width > 150
    prediction_grid([sample(60, 80, 1), sample(400, 300, 2), sample(90, 90, 0)] * 2, ["a"], tmp_path / "six.png")
    six = Image.open(tmp_path / "six.png")
    assert 900 <= six.width <= 1300 and six.height > 4 * 225
    assert (pixels(six) == class_colour(1)).all(axis=2).sum() > 1000


def test_draw_validation_takes_what_belongs_to_each_image(tmp_path, monkeypatch):
    grids = []
    monkeypatch.setattr(draw, "prediction_grid", lambda *a: grids.append(a))
    dataset = [(torch.full((3, 20, 20), k, dtype=torch.uint8), {"image_id": k}) for k in range(20)]
    dataset[5] = (dataset[6][0], {"image_id": 5, "unreadable": "five.jpg"})
    boxes = np.arange(12.0).reshape(3, 4)
    truth = {"image_index": np.array([10, 0, 10]), "boxes": boxes, "labels": np.array([1, 2, 3]), "class_names": ["a"]}
    found = {"image_index": np.array([15]), "boxes": boxes[:1], "labels": np.array([2]), "scores": np.array([0.75])}
    draw_validation(dataset, truth, found, tmp_path / "p.png", count=4)
    ((samples, names, path, threshold),) = grids
    assert [int(sample["image"][0, 0, 0]) for sample in samples] == [0, 10, 15]
    assert [sample["target"]["labels"].tolist() for sample in samples] == [[2], [1, 3], []]
    assert [sample["detections"]["scores"].tolist() for sample in samples] == [[], [], [0.75]]
    assert (names, path, threshold) == (["a"], tmp_path / "p.png", 0.5)
    draw_validation(dataset[:2], truth, found, tmp_path / "p.png")
    assert len(grids[1][0]) == 2
    draw_validation([], truth, found, tmp_path / "p.png")
    assert grids[2][0] == []


def test_draw_training_batch():
    images = torch.zeros(18, 3, 100, 100)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    box = {"boxes": torch.tensor([[20.0, 30, 80, 90]]), "labels": torch.tensor([2])}
    sheet = draw_training_batch(images, [none, box] + [none] * 15 + [box], ["cat", "dog"])
    assert sheet.size == (4 * 308 + 8, 4 * 308 + 8)  # sixteen tiles of 300 pixels, 8 between them
    found = pixels(sheet)
    left, top = 8 + 308, 8  # the second tile, three times the size of the image
    for x, y in ((60, 200), (240, 200), (150, 90), (150, 270)):
        assert tuple(found[top + y, left + x]) == class_colour(2)
    assert found[8:308, 8:308].sum() == 0  # an image without objects
    assert found[:, 624:][8:308, :300].sum() == 0
    wide = draw_training_batch([torch.zeros(3, 50, 100, dtype=torch.uint8)], [none], [])
    assert wide.size == (316, 316) and pixels(wide)[158, 158].sum() == 0 and pixels(wide)[20, 158].sum() == 765
    assert draw_training_batch([], [], []).size == (316, 316)


class Pictures(list):
    def image_path(self, index):
        return f"/data/{index} of it.jpg"


def worst_case():
    """Image 0: all right. 1: an object missed. 2: wrong class, badly placed, background, so two missed. 3: duplicate. 4: as 2."""
    near, far = [10.0, 30, 40, 60], [60.0, 30, 90, 60]
    truth = make_truth([0, 1, 2, 2, 3, 4, 4], [near, near, near, far, near, near, far], [1, 1, 1, 2, 1, 1, 2], 5, [1, 2])
    truth["class_names"] = ["cat", "dog"]
    bad = [near, [75.0, 30, 105, 60], [10.0, 70, 40, 99]]
    found = make_detections([0, 2, 2, 2, 3, 3, 4, 4, 4], [near, *bad, near, [11.0, 30, 41, 60], *bad],
                            [1, 2, 2, 1, 1, 1, 2, 2, 1], [0.9, 0.8, 0.7, 0.6, 0.9, 0.5, 0.8, 0.7, 0.6])
    data = Pictures((torch.zeros(3, 100, 110, dtype=torch.uint8), {"image_id": k}) for k in range(5))
    return data, truth, found


def test_worst_images(tmp_path, monkeypatch):
    data, truth, found = worst_case()
    data[4] = (data[4][0], {"image_id": 4, "unreadable": "4.jpg"})
    report = classify_errors(truth, found)
    seen = []
    page = draw._error_page
    monkeypatch.setattr(draw, "_error_page", lambda tiles, report: seen.extend(tiles) or page(tiles, report))
    draw_worst(data, truth, found, report, tmp_path / "worst.png", count=2)
    assert [caption for caption, _ in seen] == [
        "2 of it.jpg: 2 missed, 1 wrong class, 1 badly placed, 1 background", "1 of it.jpg: 1 missed"]
    tile = pixels(seen[0][1])  # four times as large as the image
    assert tile.shape == (400, 440, 3)
    for kind, x, y in (("wrong class", 40, 200), ("missed", 240, 200), ("badly placed", 420, 200), ("background", 160, 350)):
        assert tuple(tile[y, x]) == KIND_COLOURS[kind], kind
    sheet = pixels(Image.open(tmp_path / "worst.png"))
    assert sheet.shape[1] == 2 * 448 + 8 and set(KIND_COLOURS) == set(KINDS)
    for colour in KIND_COLOURS.values():  # all of them are explained above the pictures
        assert (sheet[:60] == colour).all(axis=2).sum() > 200


def test_what_is_written_on_the_worst_images(monkeypatch, tmp_path):
    data, truth, found = worst_case()
    written = []
    monkeypatch.setattr(draw, "paint_boxes", lambda picture, boxes, names, tails, colours: written.append(
        [(name + tail, colour) for name, tail, colour in zip(names, tails, colours)]))
    draw_worst(list(data), truth, found, classify_errors(truth, found), tmp_path / "worst.png", count=9)
    colours = KIND_COLOURS
    bad = [("cat missed", colours["missed"]), ("dog missed", colours["missed"]), ("cat 0.60 background", colours["background"]),
           ("dog 0.70 badly placed", colours["badly placed"]), ("dog 0.80 is cat", colours["wrong class"])]
    assert written == [bad, bad, [("cat missed", colours["missed"])],
                       [("", colours["correct"]), ("cat 0.50 duplicate", colours["duplicate"])]]
    draw_worst(list(data), truth, found, classify_errors(truth, found, 0.75), tmp_path / "worst.png", count=1)
    assert [text for text, _ in written[-1]] == ["cat missed", "dog missed", "dog 0.80 is cat"]
    monkeypatch.setattr(draw, "MAX_FULL_LABELS", 4)  # two images have five errors
    draw_worst(list(data), truth, found, classify_errors(truth, found), tmp_path / "worst.png", count=3)
    assert [[text for text, _ in marks] for marks in written[-3:]] == [["cat", "dog", "cat", "dog", "dog"]] * 2 + [["cat missed"]]


def test_no_page_without_errors(tmp_path):
    data, truth, found = worst_case()
    right = {name: values[:1] for name, values in found.items()}
    alone = make_truth([0], truth["boxes"][:1], [1], 5, [1, 2])
    draw_worst(data, alone, right, classify_errors(alone, right), tmp_path / "none.png")
    empty = make_truth([], [], [], 0, [1, 2])
    draw_worst([], empty, nothing(), classify_errors(empty, nothing()), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
