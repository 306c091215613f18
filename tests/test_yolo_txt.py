import os
import pickle
import time

import numpy as np
import pytest
import torch
from PIL import Image
from yolo_data import make_yolo

from datasets import InputError, YoloTxtDataset, summarise_faults
from datasets.class_names import COCO_IDS, COCO_NAMES, COCO_OLD_NAMES
from datasets.yolo_txt import coco_image_ids, label_path


def _image(path, shape=(40, 80)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*shape, 3), 90, dtype=np.uint8)).save(path)


def _text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def pets(tmp_path):
    """images/train: a, b of 80 x 40; images/val: c; classes cat, dog."""
    for name in ("train/a.jpg", "train/b.PNG", "val/c.jpg"):
        _image(tmp_path / "images" / name)
    _text(tmp_path / "labels" / "train" / "a.txt", "1 0.5 0.5 0.25 0.5", "0 0.125 0.25 0.25 0.5")
    _text(tmp_path / "labels" / "train" / "b.txt")
    _text(tmp_path / "labels" / "val" / "c.txt", "0 .5 .5 1 1")
    _text(tmp_path / "classes.txt", "cat", "dog")
    return tmp_path


def _labels(pets, *lines):
    return _text(pets / "labels" / "train" / "a.txt", *lines)


def _kinds(dataset):
    return {(fault.where, fault.kind, fault.action) for fault in dataset.faults}


def test_samples(pets):
    dataset = YoloTxtDataset(pets)
    assert len(dataset) == 2 and dataset.class_names == ["cat", "dog"] and dataset.faults == []
    image, target = dataset[0]
    assert image.shape == (3, 40, 80) and image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[30, 10, 50, 30], [0, 0, 20, 20]] and target["labels"].tolist() == [2, 1]
    assert target["area"].tolist() == [400, 400] and target["image_id"] == 0 and "difficult" not in target
    assert dataset[1][1]["boxes"].shape == (0, 4) and dataset.get_height_and_width(1) == (40, 80)
    truth = dataset.ground_truth()
    assert truth["source_image_ids"].tolist() == [1, 2] and truth["category_ids"].tolist() == [1, 2]
    assert [YoloTxtDataset(pets, split)[0][1]["boxes"].tolist() for split in ("val", "valid")] == [[[0, 0, 80, 40]]] * 2
    assert len(YoloTxtDataset(pets, drop_empty=True)) == 1
    assert pickle.loads(pickle.dumps(dataset))[0][1]["labels"].tolist() == [2, 1]


@pytest.mark.parametrize(("image", "expected"), [
    ("/d/images/train/a.b.jpg", "/d/labels/train/a.b.txt"), ("images/images/a.JPG", "images/labels/a.txt"),
    ("/my_images/images2/JPEGImages/x/a.png", "/my_images/images2/labels/x/a.txt"), ("a.jpg", "a.txt"),
    ("/images/images.jpg", "/labels/images.txt"), ("/d/obj_train_data/a.jpg", "/d/obj_train_data/a.txt")])
def test_label_path(image, expected):
    assert label_path(image) == expected


def test_labels_beside_the_images(pets, tmp_path_factory):
    root = tmp_path_factory.mktemp("images")  # a folder of this name above the set is no matter
    (pets / "images" / "train" / "a.jpg").rename(root / "a.jpg")
    (pets / "labels" / "train" / "a.txt").rename(root / "a.txt")
    dataset = YoloTxtDataset(_text(root / "list.txt", "./a.jpg"), class_names=["cat", "dog"])
    assert dataset[0][1]["labels"].tolist() == [2, 1]


def test_missing_labels_are_background_unless_all_are_missing(pets):
    (pets / "labels" / "train" / "b.txt").unlink()
    assert summarise_faults(YoloTxtDataset(pets).faults) == ["fixed: 1 x no label file, taken as background (b.PNG)"]
    (pets / "labels" / "train" / "a.txt").rename(pets / "labels" / "train" / "z.txt")
    with pytest.raises(FileNotFoundError, match=r"none of the 2 images of .*images/train has a label file; looked in "
                                                r"\S*/labels/train, \S*/images/train$"):
        YoloTxtDataset(pets)
    _labels(pets)
    assert _kinds(YoloTxtDataset(pets)) == {("", "no label file, taken as background", "fix"),
                                            ("", "label file without image", "warn")}


@pytest.mark.parametrize(("line", "kind", "action"), [
    ("0 0.5 0.5 0.25", "line with too few columns", "drop object"), ("0", "line with too few columns", "drop object"),
    ("0 nan 0.5 0.2 0.2", "coordinate that is not a number", "drop object"),
    ("0 x 0.5 0.2 0.2", "coordinate that is not a number", "drop object"),
    ("0 0.5 0.5 0 0.2", "box of zero size", "drop object"), ("0 0.5 0.5 0.2 -0.0005", "box with swapped corners", "drop object"),
    ("0 0.5 0.5 0.2 -0.2", "value outside 0..1", "drop object"), ("0 1.01 0.5 0.2 0.2", "value outside 0..1", "drop object"),
    ("0 0.5 0.5 1.01 0.2", "value outside 0..1", "drop object"), ("0 0.9 0.5 0.4 0.2", "box clipped to the image", "fix"),
    ("1 0.5 0.5 0.25 0.5", "same box and class twice, one kept", "fix"),
    ("1 0,25 0,5 0,25 0,5", "decimal comma, read as a point", "fix"),
    ("1,0.25, 0.5 ,0.25,0.5", "comma between numbers, read as a blank", "fix"),
])
def test_faults_by_file_and_line(pets, line, kind, action):
    path = _labels(pets, "1 0.5 0.5 0.25 0.5", "", line, "0 0.75 0.5 0.25 0.5")
    dataset = YoloTxtDataset(pets)
    assert [(f.file, f.where, f.kind, f.action) for f in dataset.faults] == [(str(path), "line 3", kind, action)]
    assert len(dataset[0][1]["boxes"]) == 2 + ("clipped" in kind or "comma" in kind)


@pytest.mark.parametrize(("line", "message"), [
    ("2 0.5 0.5 0.2 0.2", r"a\.txt, line 2: the class 2 is none of the 2 classes 0\.\.1; correct it"),
    ("-1 0.5 0.5 0.2 0.2", "line 2: the class -1 is none"), ("0.5 0.5 0.5 0.2 0.2", "line 2: the class 0.5 is none"),
    ("cat 0.5 0.5 0.2 0.2", "line 2: the class cat is none"),
    ("0 0.5 0.5 0.2 0.2 0.9", "line 2: 6 columns instead of 5 .*; remove the confidence"),
    ("0 0 0 0 1 1 1 1 0", "line 2: 9 columns instead of 5 .*a polygon is no box: add --polygon-boxes"),
    ("0 0 0 0 1 1 1 1", "line 2: 8 columns instead of 5 .*; correct the line"),
])
def test_what_stops(pets, line, message):
    _labels(pets, "0 0.5 0.5 0.25 0.5", line)
    with pytest.raises(InputError, match=message):
        YoloTxtDataset(pets)


def test_polygons(pets):
    """A triangle 0.25..0.75 x 0.5..1 and a plain box; a nan makes no box, a far point no fraction."""
    path = _labels(pets, "0 0.25 1 0.75 1.0 0.5 0.5", "1 0.5 0.5 0.25 0.5", "1 0 0 1 0 1 1 0 1", "0 0 0 nan 1 1 1",
                   "1 0 0 9 0 1 1", "0 0 0 1 0 1 1 .5")
    with pytest.raises(InputError, match=r"line 6: 8 columns instead of 5"):
        YoloTxtDataset(pets, polygon_boxes=True)
    _labels(pets, *path.read_text().splitlines()[:5])
    dataset = YoloTxtDataset(pets, polygon_boxes=True)
    assert dataset[0][1]["boxes"].tolist() == [[20, 20, 60, 40], [30, 10, 50, 30], [0, 0, 80, 40]]
    assert _kinds(dataset) == {
        ("line 1", "polygon, the box around it taken", "fix"), ("line 5", "value outside 0..1", "drop object"),
        ("line 4", "coordinate that is not a number", "drop object")}
    assert any("3 points (3 such cases, this is the first)" in fault.detail for fault in dataset.faults)
    assert {(fault.where, fault.kind) for fault in YoloTxtDataset(pets, strict=False).faults} == {
        (f"line {k}", "polygon instead of a box") for k in (1, 3, 4, 5)}


def test_commas_are_counted(pets):
    _labels(pets, "1 0,25 0,5 0,25 0,5", "0 0,5 0,5 0,25 0,5")
    (fault,) = YoloTxtDataset(pets).faults
    assert fault.where == "line 1" and fault.detail.endswith("(2 such cases, this is the first)")


def test_label_files_outside_and_unreadable(pets, tmp_path_factory):
    path, outside = pets / "labels" / "train" / "a.txt", tmp_path_factory.mktemp("outside") / "a.txt"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(InputError, match=r"a\.txt.* leads out of .*--allow-outside if that is meant$"):
        YoloTxtDataset(pets)
    assert len(YoloTxtDataset(pets, allow_outside=True)[0][1]["boxes"]) == 2
    path.unlink()
    path.write_bytes(b"0 0.5 0.5 0.2 0.2 \xff")
    _text(pets / "labels" / "train" / "b.txt", "0 0.5 0.5 0.2 0.2", "9 .5 .5 .5 .5")
    dataset = YoloTxtDataset(pets, strict=False)  # all faults, not only the first
    assert _kinds(dataset) == {("", "label file that cannot be read", "stop"), ("line 2", "unknown class", "stop")}
    assert len(dataset) == 2 and len(dataset.table.labels) == 1


def test_damaged_labels(pets):
    _labels(pets, "9" * 500 + " .5 .5 .5 .5", "0 1e400 .5 .5 .5", "0 .5 \0 .5 .5", "0 " * 5000, "\ud7ff" * 300 + " 1 1 1 1",
            "1 0.5 0.5 0.5 0.5")
    dataset = YoloTxtDataset(pets, strict=False)
    assert len(dataset[0][1]["boxes"]) == 1 and len(dataset.faults) == 5
    assert all(len(fault.detail) < 300 for fault in dataset.faults)


def test_harmless_habits(pets):
    (pets / "labels" / "train" / "a.txt").write_bytes(b"\xef\xbb\xbf1.0\t0.5 0.5  0.25 5e-1 \r\n\r\n")
    dataset = YoloTxtDataset(pets)
    assert dataset.faults == [] and dataset[0][1]["boxes"].tolist() == [[30, 10, 50, 30]] and dataset[0][1]["labels"] == 2
    _labels(pets, "0 0.123456 0.5 0.246913 1.000000", "1 0.876544 0.50005 0.246913 1")  # rounded: 5e-7 and 5e-5 outside
    dataset = YoloTxtDataset(pets)
    assert dataset.faults == [] and dataset.table.boxes[0].tolist() == pytest.approx([0, 0, 19.753, 40], abs=1e-3)
    assert (dataset.table.boxes[:, :2] >= 0).all() and (dataset.table.boxes[:, 2:] <= [80, 40]).all()
    (pets / "labels" / "train" / "a.txt").write_bytes("0 0.5 0.5 1 1".encode("utf-16"))
    with pytest.raises(InputError, match=r"a\.txt: is not UTF-8 text"):
        YoloTxtDataset(pets)


def test_conventions_that_would_shift_or_scale_everything(pets):
    _labels(pets, "1 0.5 0.5 0.2 0.2", "2 0.5 0.5 0.3 0.2")
    with pytest.raises(InputError, match=r"images/train: the classes run from 1 to 2, as if counted from 1; subtract 1"):
        YoloTxtDataset(pets, skip_unknown=True)
    _labels(pets, "0 40 20 10 10", "1 30 20 10 10", "1 .5 .5 .5 .5")
    with pytest.raises(InputError, match=r"most boxes have values outside 0\.\.1, the first in .*a\.txt, line 1; write"):
        YoloTxtDataset(pets)


def test_given_classes(pets):
    assert YoloTxtDataset(pets, class_names=["dog", "bird", "cat"])[0][1]["labels"].tolist() == [1, 3]
    with pytest.raises(InputError, match=r'a\.txt, line 1: unknown class "dog"; known are cat'):
        YoloTxtDataset(pets, class_names=["cat"])
    dataset = YoloTxtDataset(pets, class_names=["cat"], skip_unknown=True)
    assert dataset[0][1]["labels"].tolist() == [1] and _kinds(dataset) == {("line 1", "unknown class", "drop object")}
    (pets / "classes.txt").unlink()
    assert YoloTxtDataset(pets, class_names=["bird", "cat"])[0][1]["labels"].tolist() == [2, 1]
    with pytest.raises(InputError, match=r"nothing says the class names of .*; put a file obj\.names or classes\.txt there"):
        YoloTxtDataset(pets)


def test_unreadable_images_are_left_out(pets):
    (pets / "images" / "train" / "a.jpg").write_bytes(b"<html>")
    dataset = YoloTxtDataset(pets)
    assert len(dataset) == 1 and summarise_faults(dataset.faults) == ["images dropped: 1 x unreadable image (a.jpg)"]


def test_faults_of_the_list_are_reported(pets):
    dataset = YoloTxtDataset(_text(pets / "l.txt", "./images/train/a.jpg", "./images/train/none.jpg"))
    assert len(dataset) == 1 and _kinds(dataset) == {("line 2", "image missing", "drop image")}


def test_coco_ids(pets):
    assert coco_image_ids(["x/COCO_val2014_000000000042.jpg", "000000000007.jpg"]) == [42, 7]
    assert coco_image_ids(["a_1.jpg", "b_1.jpg"]) is None and coco_image_ids(["a_1.jpg", "b.jpg"]) is None
    assert coco_image_ids(["a_１.jpg"]) is None and coco_image_ids([]) == []
    for name, number in (("a", 42), ("b", 7)):
        (image,) = (pets / "images" / "train").glob(f"{name}.*")
        image.rename(image.with_name(f"COCO_{number:012d}.jpg"))
    _text(pets / "labels" / "train" / "COCO_000000000042.txt", "0 0.5 0.5 0.5 0.5")
    assert YoloTxtDataset(pets).ground_truth()["source_image_ids"].tolist() == [7, 42]
    old = {new: old for old, new in COCO_OLD_NAMES.items()}
    for names in (COCO_NAMES, [old.get(name, name) for name in COCO_NAMES]):
        _text(pets / "classes.txt", *names)
        truth = YoloTxtDataset(pets).ground_truth()
        assert truth["category_ids"].tolist() == list(COCO_IDS) and truth["class_names"][57] == names[57]
    assert len(COCO_NAMES) == 80 and dict(zip(COCO_NAMES, COCO_IDS))["toothbrush"] == 90


@pytest.mark.parametrize("style", ["data", "yaml", "folder"])
def test_drawn_set(tmp_path, style):
    source = make_yolo(tmp_path / "set", images=6, style=style)
    train, val = YoloTxtDataset(source), YoloTxtDataset(source, "val")
    assert [len(train), len(val)] == [6, 3] and train.class_names == val.class_names == ["circle", "square"]
    assert len(train[5][1]["boxes"]) == 0 and {5} == {i for i in range(6) if not len(train.coco_index(i)[1]["boxes"])}
    for i in range(3):
        image, target = val[i]
        for (x1, y1, x2, y2), label in zip(target["boxes"].round().int().tolist(), target["labels"].tolist()):
            centre = image[:, (y1 + y2) // 2, (x1 + x2) // 2].int()
            assert (centre - torch.tensor([(230, 200, 40), (60, 200, 230)][label - 1])).abs().max() < 40
            corner = image[:, y1 + 1, x1 + 1].int()  # covered by a square, not by a circle
            assert ((centre - corner).abs().max() < 60) == (label == 2)


def test_speed(tmp_path):
    """5,000 label files take a couple of seconds; here a tenth of them, with a wide margin for a busy machine."""
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    _image(tmp_path / "0.jpg", (375, 500))
    for k in range(500):
        (tmp_path / "images" / "train" / f"{k}.jpg").symlink_to(tmp_path / "0.jpg")
        _text(tmp_path / "labels" / "train" / f"{k}.txt", *(f"0 0.5 0.5 0.{j}1 0.5" for j in range(7)))
    _text(tmp_path / "classes.txt", "cat")
    start = time.perf_counter()
    dataset = YoloTxtDataset(tmp_path)
    assert len(dataset.table.labels) == 3500 and time.perf_counter() - start < 3


def test_labels_without_image_anywhere_in_their_tree(pets):
    _text(pets / "labels/train/x/y/b1.txt", "0 0.5 0.5 1 1")
    _text(pets / "labels/train/x/.b2.txt")
    _text(pets / "labels/train/classes.txt", "cat", "dog")
    _text(pets / "README.txt", "no labels")
    (pets / "labels/train/notes.md").touch()
    fault, = YoloTxtDataset(pets).faults
    assert (fault.file, fault.kind) == (f"{pets}/labels/train/x/y/b1.txt", "label file without image")
    assert YoloTxtDataset(pets, "val").faults == []
    _image(pets / "images/train/x/y/b1.jpg")
    assert YoloTxtDataset(pets).faults == []
    _text(pets / "labels/train/x/y/b3.txt")
    assert [fault.file[-6:] for fault in YoloTxtDataset(pets).faults] == ["b3.txt"]
    (pets / "labels/train/x/y/b3.txt").unlink()
    _image(pets / "images/val/x/d.jpg")
    (pets / "images/val/c.jpg").unlink()
    _text(pets / "labels/val/x/d.txt", "0 0.5 0.5 1 1")
    assert [fault.file[-5:] for fault in YoloTxtDataset(pets, "val").faults] == ["c.txt"]
    _image(pets / "images/val/c.jpg")
    _text(pets / "data.yaml", "train: .", "names: [cat, dog]")  # the tree of these labels would be the whole data set
    assert YoloTxtDataset(pets).faults == [] and len(YoloTxtDataset(pets)) == 5
    _text(pets / "labels/val/z.txt")
    assert [fault.file for fault in YoloTxtDataset(pets).faults] == [f"{pets}/labels/val/z.txt"]


def test_linked_folders_of_images_and_labels(pets):
    """Both are read through their links; a label that an image has through a link is not without image elsewhere."""
    _image(pets / "store/images/c.jpg")
    _text(pets / "labels/train/real/c.txt", "0 0.5 0.5 1 1")
    (pets / "images/train/sub").symlink_to(pets / "store/images")
    (pets / "labels/train/sub").symlink_to(pets / "labels/train/real")
    dataset = YoloTxtDataset(pets)
    assert len(dataset) == 3 and dataset.faults == []
    assert dataset[[dataset.image_path(k)[-9:] for k in range(3)].index("sub/c.jpg")][1]["boxes"].tolist() == [[0, 0, 80, 40]]


def test_label_files_that_cannot_be_read(pets, monkeypatch):
    os.mkfifo(pets / "labels/val/d.txt")
    _image(pets / "images/val/d.jpg")
    with pytest.raises(InputError, match=r"d\.txt: cannot open this file \(it is a pipe or a device, not an ordinary file\)"):
        YoloTxtDataset(pets, "val")
    monkeypatch.setattr("datasets.yolo_txt.MAX_LABEL_BYTES", 20)
    with pytest.raises(InputError, match=r"a\.txt: cannot open this file \(41 bytes are too many, 20 are allowed\)"):
        YoloTxtDataset(pets)
