"""Samplers and evaluation on data sets of all kinds."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from datasets import CocoDetection, TrainingSamples, VOCDataSet
from train_utils.any_dataset import class_names_of, ground_truth_of, height_and_width, indices_of
from train_utils.coco_eval import CocoScorer
from train_utils.group_by_aspect_ratio import create_aspect_ratio_groups
from train_utils.loaders import evaluation_loader
from train_utils.samplers import collate_fn
from train_utils.train_eval_utils import evaluate, evaluate_fully


class Oracle(torch.nn.Module):
    """Finds what it is told for images of each size; a picture's first pixel is the key."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, images):
        return [self.answers[int(image[0, 0, 0])] for image in images]


def sample(key, height, width, boxes, image_id, **more):
    target = {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
              "labels": torch.ones(len(boxes), dtype=torch.int64), "image_id": image_id, **more}
    return torch.full((3, height, width), key, dtype=torch.uint8), target


@pytest.fixture
def samples():
    """Three images in a list, numbered as somebody else numbers; the second has no object."""
    two = [[2, 2, 8, 8], [10, 1, 19, 9]]
    return [sample(0, 10, 20, [[1, 1, 9, 9]], 900), sample(1, 20, 10, [], 17), sample(2, 10, 20, two, 42)]


def found(*boxes):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.ones(len(boxes), dtype=torch.int64),
            "scores": torch.full((len(boxes),), 0.9)}


PERFECT = Oracle({0: found([1, 1, 9, 9]), 1: found(), 2: found([2, 2, 8, 8], [10, 1, 19, 9])})


def test_ground_truth_of_a_list_by_hand(samples):
    truth = ground_truth_of(samples)
    assert truth["num_images"] == 3 and truth["heights"].tolist() == [10, 20, 10] and truth["widths"].tolist() == [20, 10, 20]
    assert truth["image_index"].tolist() == [0, 2, 2] and truth["labels"].tolist() == [1, 1, 1]
    assert truth["area"].tolist() == [64, 36, 72] and not truth["iscrowd"].any() and not truth["difficult"].any()
    assert truth["source_image_ids"].tolist() == [900, 17, 42] and truth["class_names"] == ["1"]
    assert indices_of(samples, np.array([42, 900, 42]), truth).tolist() == [2, 0, 2]
    with pytest.raises(ValueError, match="same target"):
        indices_of(samples, np.array([17]), truth | {"source_image_ids": np.array([17, 17, 42])})


def test_fields_of_targets_count_where_they_are():
    first = sample(0, 5, 5, [[0, 0, 2, 2], [1, 1, 4, 4]], 0, area=torch.tensor([3.0, 8.0]), iscrowd=torch.tensor([0, 1]))
    second = sample(0, 5, 5, [[0, 0, 2, 2]], 1, area=torch.tensor([3.5]))
    truth = ground_truth_of([first, second])
    assert truth["area"].tolist() == [3, 8, 3.5] and truth["iscrowd"].tolist() == [False, True, False]
    empty = ground_truth_of([])
    assert empty["boxes"].shape == (0, 4) and empty["num_images"] == 0 and empty["labels"].shape == (0,)


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: Subset(data, [0, 1, 2]), TrainingSamples,
                                  lambda data: TrainingSamples(Subset(data, [2, 0, 1]))])
def test_evaluator_takes_any_data_set(samples, wrap):
    loader = DataLoader(wrap(samples), batch_size=2, collate_fn=collate_fn)
    assert evaluate(PERFECT, loader, torch.device("cpu"))[:3] == [1, 1, 1]
    half = Oracle(PERFECT.answers | {2: found([2, 2, 8, 8])})
    result, detections = evaluate_fully(half, loader, torch.device("cpu"))
    assert 0.6 < result.stats[1] < 0.7 and sorted(detections["image_index"].tolist()) in ([0, 2], [0, 1])


def test_evaluator_on_a_part_of_a_data_set(shapes):
    whole = VOCDataSet(shapes, txt_name="val")
    part = Subset(whole, [5, 2])
    truth = ground_truth_of(part)
    own = whole.ground_truth()
    assert truth["class_names"] == whole.class_names
    assert truth["source_image_ids"].tolist() == own["source_image_ids"][[5, 2]].tolist()
    for index, image in enumerate((5, 2)):
        for key in ("boxes", "labels", "iscrowd", "difficult", "area"):
            np.testing.assert_array_equal(truth[key][truth["image_index"] == index], own[key][own["image_index"] == image])
    negative = ground_truth_of(Subset(whole, [-1, 2]))
    assert negative["heights"][0] == own["heights"][-1] and negative["num_images"] == 2
    assert TrainingSamples(Subset(whole, [-1, 2])).ground_truth()["image_index"].tolist() == negative["image_index"].tolist()
    known = {whole[i][0].numpy().tobytes(): i for i in (5, 2)}

    def answer(batch):
        rows = [known[image.numpy().tobytes()] for image in batch]
        return [{key: whole[i][1][key] for key in ("boxes", "labels")} | {"scores": torch.ones(len(whole[i][1]["labels"]))}
                for i in rows]

    model = torch.nn.Module()
    model.forward = answer
    for data in (part, TrainingSamples(part)):
        loader = evaluation_loader(data, lambda height, width: (height, width), 2, torch.device("cpu"), 0)
        assert evaluate(model, loader, torch.device("cpu"))[0] == 1
        with_scorer, _ = evaluate_fully(model, loader, torch.device("cpu"), scorer=CocoScorer(ground_truth_of(data)))
        assert with_scorer.stats[0] == 1


def test_samplers_take_any_data_set(samples, shapes):
    for data in (samples, Subset(samples, [0, 1, 2]), TrainingSamples(samples)):
        assert create_aspect_ratio_groups(data) == [1, 0, 1]
        assert [height_and_width(data, i) for i in range(3)] == [(10, 20), (20, 10), (10, 20)]
        loader = evaluation_loader(data, lambda height, width: (height, width), 2, torch.device("cpu"), 0)
        assert sorted(len(images) for images, _ in loader) == [1, 2]
    assert create_aspect_ratio_groups(Subset(Subset(samples, [1, 2, 0]), [0, 2])) == [0, 1]
    whole = VOCDataSet(shapes)
    assert create_aspect_ratio_groups(Subset(whole, [3, 1]), 3) == [create_aspect_ratio_groups(whole, 3)[i] for i in (3, 1)]
    assert class_names_of(Subset(whole, [0]), 9) == whole.class_names and class_names_of(samples, 2) == ["1", "2"]


def test_no_image_is_read_for_the_shapes_of_a_data_set_that_knows_them(shapes, monkeypatch):
    whole = VOCDataSet(shapes)
    monkeypatch.setattr(VOCDataSet, "__getitem__", partial(pytest.fail, "read"))
    assert len(create_aspect_ratio_groups(Subset(whole, [0, 1]), 3)) == 2 and ground_truth_of(whole)["num_images"] == 12 + 4


def test_a_part_of_coco_keeps_crowd_regions_and_ids(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "b.png")
    annotations = [{"id": k, "image_id": image, "category_id": 7, "bbox": [k, 2, 9, 9], "area": 50, "iscrowd": crowd}
                   for k, (image, crowd) in enumerate([(3, 0), (9, 1), (9, 0)], start=1)]
    (tmp_path / "x.json").write_text(json.dumps({
        "images": [{"id": 3, "file_name": "a.png", "width": 40, "height": 30},
                   {"id": 9, "file_name": "b.png", "width": 40, "height": 30}],
        "annotations": annotations, "categories": [{"id": 7, "name": "cat"}]}))
    whole = CocoDetection(None, json_path=tmp_path / "x.json", image_dir=tmp_path)
    for truth in (ground_truth_of(Subset(whole, [1])), ground_truth_of(TrainingSamples(Subset(whole, [1])))):
        assert truth["iscrowd"].tolist() == [True, False] and truth["category_ids"].tolist() == [7]
        assert truth["source_image_ids"].tolist() == [9] and truth["image_index"].tolist() == [0, 0]


def test_class_names_of_samples_without_any(samples):
    assert TrainingSamples(samples).class_names == ["1"] and TrainingSamples([samples[1]]).class_names == ["1"]
