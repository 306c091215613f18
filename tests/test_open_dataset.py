import json

import numpy as np
import pytest
from PIL import Image

from datasets import CocoDetection, InputError, VOCDataSet, make_shapes
from datasets.open_dataset import guess_kind, open_dataset


def test_shapes_are_made_when_first_asked_for(tmp_path, monkeypatch):
    def make_few(root):
        return make_shapes(root, num_train=2, num_val=1)

    monkeypatch.setattr("datasets.open_dataset.make_shapes", make_few)
    dataset = open_dataset("shapes", tmp_path / "s", "train")
    assert len(dataset) == 2 and dataset.class_names == ["circle", "square", "triangle", "star"]
    monkeypatch.setattr("datasets.open_dataset.make_shapes", lambda root: pytest.fail("made twice"))
    assert len(open_dataset("shapes", tmp_path / "s", "val.txt")) == 1


def test_voc(tmp_path):
    make_shapes(tmp_path / "s", num_train=12, num_val=1)
    dataset = open_dataset("voc", tmp_path / "s", "train", class_names=["star", "circle", "triangle", "square"])
    assert isinstance(dataset, VOCDataSet) and dataset.class_names[0] == "star"
    assert len(open_dataset("voc", tmp_path / "s", "train", drop_empty=True)) == 11


def test_coco_from_explicit_files(tmp_path):
    Image.fromarray(np.zeros((5, 6, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "x.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    dataset = open_dataset("coco", None, "train", json_path=tmp_path / "x.json", image_dir=tmp_path)
    assert isinstance(dataset, CocoDetection) and len(dataset) == 1 and dataset[0][1]["boxes"].shape == (0, 4)


def test_guess_from_the_layout(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").touch()
    (tmp_path / "voc").mkdir()
    assert guess_kind(tmp_path) == "coco" and guess_kind(tmp_path / "voc") == "voc"
    assert guess_kind(None) == "shapes" and guess_kind(None, "x.json") == "coco"
    assert guess_kind(make_shapes(tmp_path / "s", num_train=1, num_val=1)) == "shapes"


def test_wrong_words(tmp_path):
    with pytest.raises(InputError, match="known are voc, coco, shapes"):
        open_dataset("yolo", tmp_path, "train")
    with pytest.raises(InputError, match="needs a data path"):
        open_dataset("voc", None, "train")
