import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import CocoDetection, InputError, summarise_faults


def _content():
    """Three images of 40 x 30; ids unsorted and with gaps."""
    return {
        "images": [{"id": 20, "file_name": "b.png", "width": 40, "height": 30},
                   {"id": 10, "file_name": "a.png", "width": 40, "height": 30},
                   {"id": 30, "file_name": "c.png", "width": 40, "height": 30}],
        "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 20, "category_id": 90, "bbox": [1, 2, 10, 20], "area": 55.5, "iscrowd": 0},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [5, 5, 2.5, 4]},
            {"id": 3, "image_id": 20, "category_id": 3, "bbox": [0, 0, 40, 30], "area": 9, "iscrowd": 1}],
    }


def _write(root, content, split="train"):
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"{split}2017").mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "annotations" / f"instances_{split}2017.json").write_text(text, encoding="utf-8")
    for name in "abc":
        Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(root / f"{split}2017" / f"{name}.png")
    return root


def test_samples(tmp_path):
    dataset = CocoDetection(_write(tmp_path, _content()))
    assert dataset.ids == [10, 20, 30] and dataset.class_names == ["cat", "dog"] and dataset.faults == []
    assert dataset.coco_classes == {3: "cat", 90: "dog"}
    image, target = dataset[1]
    assert image.shape == (3, 30, 40) and image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[1, 2, 11, 22]] and target["labels"].tolist() == [2]  # the crowd is left out
    assert target["area"].tolist() == [55.5] and target["iscrowd"].tolist() == [0] and target["image_id"] == 1
    assert "difficult" not in target
    assert dataset[0][1]["boxes"].tolist() == [[5, 5, 7.5, 9]] and dataset[0][1]["area"].tolist() == [10]  # w * h
    assert dataset[2][1]["boxes"].shape == (0, 4)
    assert len(CocoDetection(tmp_path, drop_empty=True)) == 2
    assert pickle.loads(pickle.dumps(dataset)).coco_index(1)[1]["labels"].tolist() == [2]


def test_ground_truth_keeps_crowd_and_ids(tmp_path):
    content = _content()
    content["annotations"][1]["bbox"] = [30, 5, 12, 4]  # 2 pixels too wide
    dataset = CocoDetection(_write(tmp_path, content))
    truth = dataset.ground_truth()
    assert truth["image_index"].tolist() == [0, 1, 1] and truth["iscrowd"].tolist() == [False, False, True]
    assert truth["area"].tolist() == [40, 55.5, 9] and truth["labels"].tolist() == [1, 2, 1]
    assert truth["source_image_ids"].tolist() == [10, 20, 30] and truth["category_ids"].tolist() == [3, 90]
    assert truth["boxes"][0].tolist() == [30, 5, 42, 9]  # as in the file ...
    assert dataset.coco_index(0)[1]["boxes"].tolist() == [[30, 5, 40, 9]]  # ... but clipped for training
    assert [fault.kind for fault in dataset.faults] == ["box clipped to the image"]


def test_val_is_mapped_by_name(tmp_path):
    content = _content()
    content["categories"] = [{"id": 1, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 8, "name": "unused"}]
    for annotation, category in zip(content["annotations"], (1, 7, 7)):
        annotation["category_id"] = category
    val = CocoDetection(_write(tmp_path, content, "val"), "val", class_names=["bird", "cat", "dog"])
    assert val.class_names == ["bird", "cat", "dog"]
    assert val.ground_truth()["labels"].tolist() == [2, 3, 2]
    ids = val.ground_truth()["category_ids"].tolist()
    assert ids[1:] == [7, 1] and ids[0] not in (1, 7, 8)  # an id for writing detections of the class the file lacks
    content["annotations"][0]["category_id"] = 8
    with pytest.raises(InputError, match='annotation 1: unknown class "unused"; known are bird, cat'):
        CocoDetection(_write(tmp_path, content, "val"), "val", class_names=["bird", "cat", "dog"])


def test_sparse_class_table_keeps_the_official_ids(tmp_path):
    names = ["N/A"] * 90
    names[2], names[89] = "cat", "dog"
    dataset = CocoDetection(_write(tmp_path, _content()), class_names=names)
    assert dataset.table.category_ids.tolist() == list(range(1, 91)) and dataset[1][1]["labels"].tolist() == [90]


def test_fixable_files(tmp_path):
    content = _content()
    content["images"][0].update(id="20", file_name="elsewhere\\b.png")
    del content["images"][1]["width"]
    content["annotations"][0].update(image_id=20.0, category_id="90", bbox=["1", 2, 10.0, "20"])
    dataset = CocoDetection(_write(tmp_path, "\ufeff" + json.dumps(content)))
    assert dataset.ids == [10, 20, 30] and dataset[1][1]["boxes"].tolist() == [[1, 2, 11, 22]]
    assert dataset.get_height_and_width(0) == (30, 40)
    assert summarise_faults(dataset.faults) == [
        "fixed: 1 x no image size, taken from the image (instances_train2017.json image 10)",
        "fixed: 1 x image found under another path (instances_train2017.json image 20)"]


def test_objects_and_images_that_are_dropped(tmp_path):
    content = _content()
    content["images"].append({"id": 40, "file_name": "none.png", "width": 40, "height": 30})
    add = content["annotations"].append
    add({"id": 4, "image_id": 99, "category_id": 3, "bbox": [1, 1, 2, 2]})
    add({"id": 5, "image_id": 10, "category_id": 4, "bbox": [1, 1, 2, 2]})
    add({"id": 6, "image_id": 10, "category_id": 3, "bbox": [1, 1, 0, 2]})
    add({"id": 7, "image_id": 10, "category_id": 3, "bbox": []})
    add({"id": 8, "image_id": 10, "category_id": 3, "bbox": [1, 1, -3, 2]})
    add({"id": 9, "image_id": 40, "category_id": 3, "bbox": [1, 1, 3, 2]})  # goes with its image
    add({"id": 10, "image_id": 10, "category_id": 3, "bbox": [1, True, 3, 2]})
    dataset = CocoDetection(_write(tmp_path, content))
    assert len(dataset) == 3 and len(dataset.table.labels) == 3
    assert [(f.where, f.kind, f.action) for f in dataset.faults] == [
        ("image 40", "image missing", "drop image"),
        ("annotation 4", "annotation of an unknown image", "drop object"),
        ("annotation 5", "annotation of an unknown category", "drop object"),
        ("annotation 7", "annotation without box", "drop object"),
        ("annotation 10", "coordinate that is not a number", "drop object"),
        ("annotation 8", "box with swapped corners", "drop object"),
        ("annotation 6", "box of zero size", "drop object")]


def _stops(tmp_path, content, match):
    with pytest.raises(InputError, match=match) as caught:
        CocoDetection(_write(tmp_path, content))
    assert "instances_train2017.json" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_stop(tmp_path):
    _stops(tmp_path, '{"images": [],\n oops}', "line 2: the JSON does not parse")
    _stops(tmp_path, '{"images": NaN}', "holds NaN")
    _stops(tmp_path, '{"images": []}', 'no list "annotations"')
    _stops(tmp_path, "[]", 'no list "images"')
    _stops(tmp_path, {**_content(), "categories": []}, '"categories" is empty')
    twice = [{"id": 1, "name": "a"}, {"id": 2, "name": "a "}]
    _stops(tmp_path, {**_content(), "categories": twice}, "category 2: .*twice")
    _stops(tmp_path, {**_content(), "categories": [{"id": "x", "name": "a"}]}, "category 1: needs an integer id")
    content = _content()
    content["images"][1]["id"] = 20
    _stops(tmp_path, content, "image 20: two images have this id")
    content["images"][1].update(id=10, file_name="../secret.png")
    _stops(tmp_path, content, "image 10: .*leads out of")
    content["images"][1].update(id="ten", file_name="a.png")
    _stops(tmp_path, content, "image 2: the id 'ten' is no integer")


def test_other_box_conventions(tmp_path):
    content = _content()
    corners = [[20 + k, 10, 30 + k, 25] for k in range(9)]
    content["annotations"] = [{"id": k, "image_id": 10, "category_id": 3, "bbox": b} for k, b in enumerate(corners)]
    _stops(tmp_path, content, "not two corners")
    for annotation in content["annotations"]:
        annotation["bbox"] = [v / 100 for v in annotation["bbox"]]
    _stops(tmp_path, content, "fractions")


def test_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)does not exist; expected is.*instances_val2017"):
        CocoDetection(tmp_path)
    _write(tmp_path, _content())
    json_file = tmp_path / "annotations" / "instances_train2017.json"
    assert len(CocoDetection(None, json_path=json_file, image_dir=tmp_path / "train2017")) == 3
    with pytest.raises(FileNotFoundError, match="image folder .*none does not exist"):
        CocoDetection(None, json_path=json_file, image_dir=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="needs a data path"):
        CocoDetection(None, json_path=json_file)
    with pytest.raises(FileNotFoundError, match="none of the 3 images"):
        CocoDetection(None, json_path=json_file, image_dir=tmp_path / "annotations")
    json_file.rename(tmp_path / "train.json")
    (tmp_path / "train2017").rename(tmp_path / "train")
    assert len(CocoDetection(tmp_path, "train")) == 3


def test_tiny_coco(shared_data):
    counts = {"train": (470, 5, 1), "val": (382, 5, 2)}
    for split, (annotations, crowds, without) in counts.items():
        dataset = CocoDetection(shared_data / "tiny_coco", split)
        truth = dataset.ground_truth()
        assert len(dataset) == 50 and len(truth["labels"]) == annotations and truth["iscrowd"].sum() == crowds
        assert len(dataset.class_names) == 80 and truth["category_ids"].max() == 90
        assert 50 - len(np.unique(truth["image_index"])) == without
        assert sum(len(dataset.coco_index(i)[1]["labels"]) for i in range(50)) == annotations - crowds
