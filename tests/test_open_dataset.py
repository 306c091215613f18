import json

import numpy as np
import pytest
from jetson_data import make_jetson_voc, make_open_images, remove_objects
from PIL import Image
from yolo_data import make_yolo

from datasets import (
    SHAPE_CLASSES,
    CocoDetection,
    InputError,
    JoinedDataset,
    OpenImagesDataset,
    VOCDataSet,
    YoloTxtDataset,
    make_shapes,
)
from datasets.open_dataset import guess_kind, guess_sources, open_dataset


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


def guess(*paths, json_path=None):
    return guess_kind(paths, json_path=json_path)[0]


def test_guess_from_the_layout(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").touch()
    (tmp_path / "voc").mkdir()
    assert guess(tmp_path) == "coco" and guess(tmp_path / "voc") == "voc"
    assert guess() == guess_kind(None)[0] == "shapes" and guess(json_path="x.json") == "coco"
    assert guess(make_shapes(tmp_path / "s", num_train=1, num_val=1)) == "shapes"
    (tmp_path / "fruit").mkdir()
    (tmp_path / "fruit" / "sub-test-annotations-bbox.csv").touch()
    assert guess(tmp_path / "fruit") == guess(tmp_path / "fruit", tmp_path / "fruit") == "openimages"
    assert guess(tmp_path / "nothing") == "voc" and guess(tmp_path / "fruit", tmp_path / "voc") == "auto"
    assert guess_sources(tmp_path) == [(tmp_path, "coco", "it has annotations/instances_val2017.json")]
    assert guess_kind([tmp_path / "voc"], [tmp_path])[0] == guess_kind(None, [tmp_path, tmp_path / "fruit"])[0] == "auto"
    reason = f"{tmp_path}: taken as coco, since it has annotations/instances_val2017.json"
    assert guess_kind([tmp_path], None) == ("coco", [reason])
    assert guess_kind(None, None, "x.json") == ("coco", []) and guess_kind(None) == ("shapes", [])
    assert guess_sources(tmp_path / "nothing")[0].why == "" != guess_sources(tmp_path / "voc")[0].why
    assert guess_sources(make_jetson_voc(tmp_path / "j", 1, 1))[0].why == "it has annotations as XML"


def test_exports_with_a_json_file_in_every_split(tmp_path):
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        Image.fromarray(np.zeros((5, 6, 3), dtype=np.uint8)).save(tmp_path / split / "a.png")
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps({
            "images": [{"id": 0, "file_name": "a.png", "height": 5, "width": 6}], "categories": [{"id": 1, "name": "a"}],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0}]}))
    (tmp_path / "data.yaml").write_text("names: [a]\ntrain: train/images\n")
    assert guess_sources(tmp_path)[0].kind == "coco" and "train/_annotations.coco.json" in guess_sources(tmp_path)[0].why
    assert open_dataset("auto", tmp_path, "val").image_path(0) == str(tmp_path / "valid" / "a.png")


def test_wrong_words(tmp_path):
    with pytest.raises(InputError, match="known are voc, coco, openimages, yolo, shapes"):
        open_dataset("kitti", tmp_path, "train")
    with pytest.raises(InputError, match="a JSON file with its image folder is one data set, but there are 2 data paths"):
        open_dataset("coco", [tmp_path, tmp_path], "train", json_path="x.json", image_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="needs a data path"):
        open_dataset("coco", [], "train")
    with pytest.raises(InputError, match="needs a data path"):
        open_dataset("voc", None, "train")


@pytest.fixture
def roots(tmp_path):
    """Three VOC folders in jetson's layout, two training images in each."""
    return [make_jetson_voc(tmp_path / name, num_train=2, num_test=1) for name in "abc"]


def _write_labels(root, *names):
    (root / "labels.txt").write_text("\n".join(names))


def test_jetsons_folders_as_they_are(tmp_path):
    voc = open_dataset("voc", make_jetson_voc(tmp_path / "drone", num_train=6, num_test=2), "trainval")
    assert isinstance(voc, VOCDataSet) and voc.class_names == ["circle", "square", "triangle", "star"]  # in the file's order
    fruit = make_open_images(tmp_path / "fruit", num_train=3, num_test=2)
    dataset = open_dataset("openimages", [fruit], "val")
    assert isinstance(dataset, OpenImagesDataset) and len(dataset) == 2 and dataset.class_names[2] == "star"
    cvat = make_jetson_voc(tmp_path / "cvat", num_train=8, num_test=2, default_only=True)
    assert [len(open_dataset("voc", cvat, split)) for split in ("trainval", "test")] == [8, 2]


def test_labels_file_gives_the_classes(roots):
    _write_labels(roots[0], "BACKGROUND", "star", "circle", "triangle", "square", "")
    assert open_dataset("voc", roots[0], "trainval").class_names == ["star", "circle", "triangle", "square"]
    given = ["circle", "square", "triangle", "star"]
    assert open_dataset("voc", roots[0], "trainval", class_names=given).class_names == given
    _write_labels(roots[0], "circle")
    with pytest.raises(InputError, match="unknown class"):
        open_dataset("voc", roots[0], "trainval")
    assert open_dataset("voc", roots[0], "trainval", skip_unknown=True).class_names == ["circle"]
    _write_labels(roots[0], "circle", "", "star")
    with pytest.raises(InputError, match=r"labels\.txt, line 2 is blank"):
        open_dataset("voc", roots[0], "trainval")


def test_labels_file_beside_the_devkit_and_of_open_images(roots, tmp_path):
    (tmp_path / "devkit" / "VOCdevkit").mkdir(parents=True)
    roots[0].rename(tmp_path / "devkit" / "VOCdevkit" / "VOC2012")
    labels = tmp_path / "devkit" / "VOCdevkit" / "VOC2012" / "labels.txt"
    assert open_dataset("voc", tmp_path / "devkit", "trainval").class_names[1] == "square"
    labels.write_text("star,circle,triangle,square")
    assert open_dataset("voc", tmp_path / "devkit", "trainval").class_names[1] == "circle"
    fruit = make_open_images(tmp_path / "fruit", num_train=3, num_test=1)
    labels.rename(fruit / "labels.txt")
    assert open_dataset("openimages", fruit, "train").class_names == ["star", "circle", "triangle", "square"]


def test_several_folders(roots):
    joined = open_dataset("voc", roots, "trainval")
    assert isinstance(joined, JoinedDataset) and len(joined) == 6 and joined[5][1]["image_id"] == 5
    assert isinstance(open_dataset("voc", roots[:1], "trainval"), VOCDataSet)
    _write_labels(roots[1], "star", "circle", "triangle", "square")  # another order: the first's counts
    again = open_dataset("voc", roots, "trainval")
    assert again.class_names == joined.class_names
    assert all(again.coco_index(i)[1]["labels"].tolist() == joined.coco_index(i)[1]["labels"].tolist() for i in range(6))
    (roots[2] / "labels.txt").unlink()  # no list of its own: read by the others'
    assert open_dataset("voc", roots, "trainval").class_names == joined.class_names
    _write_labels(roots[1], "star", "circle", "triangle", "cube")
    with pytest.raises(InputError, match=r"b/labels\.txt and .*a/labels\.txt list different classes \(cube, square in one"):
        open_dataset("voc", roots, "trainval")
    assert len(open_dataset("voc", roots, "trainval", class_names=joined.class_names)) == 6


def test_classes_found_in_several_folders_must_agree(tmp_path):
    kinds = [["star", "circle"], ["triangle", "circle"]]
    roots = [make_open_images(tmp_path / f"fruit{k}", 4, 4, classes=classes) for k, classes in enumerate(kinds)]
    with pytest.raises(InputError, match=r"fruit1 lacks star and also has triangle; give one class list for all \(--classes\)"):
        open_dataset("openimages", roots, "train")
    joined = open_dataset("openimages", roots, "train", class_names=["circle", "star", "triangle"])
    first = open_dataset("openimages", roots[0], "train").table.labels  # circle and star are 1 and 2 there too
    labels = joined.ground_truth()["labels"]
    assert labels[: len(first)].tolist() == first.tolist() and set(labels[len(first) :].tolist()) == {1, 3}


def test_coco_folders_must_agree(tmp_path):
    for name, categories in (("a", ["x", "y"]), ("b", ["y", "x"]), ("c", ["x", "z"])):
        (tmp_path / name / "train").mkdir(parents=True)
        Image.fromarray(np.zeros((5, 6, 3), dtype=np.uint8)).save(tmp_path / name / "train" / "1.png")
        (tmp_path / name / "train.json").write_text(json.dumps({
            "images": [{"id": 1, "file_name": "1.png"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 3, 3]}],
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(categories)]}))
    joined = open_dataset("coco", [tmp_path / "a", tmp_path / "b"], "train")
    assert [joined[i][1]["labels"].tolist() for i in range(2)] == [[1], [2]]
    with pytest.raises(InputError, match="c lacks y and also has z; give one class list"):
        open_dataset("coco", [tmp_path / "a", tmp_path / "c"], "train")


def test_skipping_unknown_classes_and_group_boxes(roots, tmp_path):
    remove_objects(roots[0], "star", "trainval")
    (roots[0] / "labels.txt").unlink()
    full = open_dataset("voc", roots[0], "trainval")
    some = open_dataset("voc", roots[0], "trainval", class_names=full.class_names[:1], skip_unknown=True)
    assert "star" not in full.class_names or len(some.table.labels) < len(full.table.labels)
    fruit = make_open_images(tmp_path / "fruit", num_train=2, num_test=1)
    path = fruit / "sub-train-annotations-bbox.csv"
    header, first, *rest = path.read_text().splitlines()
    cells = first.split(",")
    cells[header.split(",").index("IsGroupOf")] = "1"
    path.write_text("\n".join([header, ",".join(cells), *rest]))
    assert open_dataset("openimages", fruit, "train").ground_truth()["iscrowd"].sum() == 1
    assert open_dataset("openimages", fruit, "train", group_boxes=True).ground_truth()["iscrowd"].sum() == 0


@pytest.mark.parametrize("style", ["data", "yaml", "folder"])
def test_yolo(tmp_path, style):
    source = make_yolo(tmp_path / "set", images=4, style=style)
    assert guess(source) == guess(tmp_path / "set") == guess(source, source) == "yolo"
    dataset = open_dataset("yolo", source, "train")
    assert isinstance(dataset, YoloTxtDataset) and len(dataset) == 4 and dataset.class_names == ["circle", "square"]
    assert len(open_dataset("yolo", tmp_path / "set", "val")) == 2
    assert len(open_dataset("yolo", source, "train", drop_empty=True)) == 3
    with pytest.raises(InputError, match='unknown class "square"'):
        open_dataset("yolo", source, "train", class_names=["circle"])
    assert open_dataset("yolo", source, "train", class_names=["circle"], skip_unknown=True).class_names == ["circle"]


def test_yolo_from_several_places(tmp_path):
    a = make_yolo(tmp_path / "a", images=4)
    b = make_yolo(tmp_path / "b", images=4, style="yaml", classes=("square", "circle"))
    joined = open_dataset("yolo", [a, b], "train")
    assert isinstance(joined, JoinedDataset) and len(joined) == 8 and joined.class_names == ["circle", "square"]
    first = open_dataset("yolo", a, "train").table.labels.tolist()  # b draws the same places, its classes the other way round
    assert joined.ground_truth()["labels"].tolist() == first + [3 - label for label in first]
    images = open_dataset("yolo", [tmp_path / "a" / "train.txt", tmp_path / "a" / "valid.txt"], "train")
    assert len(images) == 6 and images.class_names == ["circle", "square"]


def test_other_formats_are_not_taken_for_yolo(tmp_path, roots):
    for folder in (roots[0], make_open_images(tmp_path / "fruit", num_train=1, num_test=1), make_shapes(tmp_path / "s", 0, 1, 1)):
        kind = guess(folder)
        (folder / "data.yaml").touch()  # as conversions leave them there
        for name in ("images/train", "labels/train"):
            (folder / name).mkdir(parents=True)
        assert guess(folder) == kind != "yolo"
    (roots[1] / "Annotations").rename(roots[1] / "annotations")
    (roots[1] / "labels").mkdir()
    (roots[1] / "JPEGImages").rename(roots[1] / "images")
    assert guess(roots[1]) == "voc"
    coco = tmp_path / "coco"
    for name in ("annotations", "images/train2017", "labels/train2017"):
        (coco / name).mkdir(parents=True)
    assert guess(coco) == "yolo"
    (coco / "annotations" / "instances_train2017.json").touch()
    assert guess(coco) == "coco"


def test_single_class(tmp_path, roots):
    source = make_yolo(tmp_path / "set", images=4)
    single = open_dataset("yolo", source, "train", single_class=True)
    assert single.class_names == ["object"] and set(single.ground_truth()["labels"].tolist()) == {1}
    assert len(single.table.labels) == len(open_dataset("yolo", source, "train").table.labels)
    _write_labels(roots[0], "circle", "square", "triangle", "star", "cube")  # classes that differ do not matter any more
    (roots[1] / "labels.txt").unlink()
    joined = open_dataset("voc", roots[:1], "trainval", single_class=True, class_names=["circle", "square", "triangle", "star"])
    assert joined.class_names == ["object"] and joined[0][1]["labels"].unique().tolist() == [1]
    other = make_yolo(tmp_path / "other", images=4, classes=("triangle",))
    assert len(open_dataset("yolo", [source, other], "train", single_class=True)) == 8


def test_roots_of_different_formats_are_one_data_set(tmp_path):
    voc = make_shapes(tmp_path / "voc", num_train=3, num_val=1)
    fruit = make_open_images(tmp_path / "fruit", num_train=2, num_test=1)
    yolo = make_yolo(tmp_path / "yolo", images=4, classes=("circle", "square", "triangle"))
    (tmp_path / "yolo" / "obj.names").write_text("circle\nsquare\ntriangle\nstar\n")
    yolo.write_text(yolo.read_text().replace("classes = 3", "classes = 4"))
    joined = open_dataset("auto", [voc, fruit, yolo], "train")
    parts = [open_dataset(kind, root, "train") for kind, root in (("voc", voc), ("openimages", fruit), ("yolo", yolo))]
    names = [[dataset.class_names[k - 1] for k in dataset[i][1]["labels"]] for dataset in parts for i in range(len(dataset))]
    assert sorted(joined.class_names) == sorted(SHAPE_CLASSES) and len(joined) == len(names) == 9
    assert names == [[joined.class_names[k - 1] for k in joined[i][1]["labels"]] for i in range(9)]


def test_merged_classes_are_those_of_all_roots_the_first_ones_first(tmp_path):
    first = make_shapes(tmp_path / "a", num_train=2, num_val=1)
    second = make_yolo(tmp_path / "b", images=3)
    (tmp_path / "b" / "obj.names").write_text("moon\nsquare\n")
    with pytest.raises(InputError, match="moon.*--merge-classes"):
        open_dataset("auto", [first, second], "train")
    joined = open_dataset("auto", [first, second], "train", merge_classes=True)
    assert joined.class_names == [*SHAPE_CLASSES, "moon"]
    part = open_dataset("yolo", second, "train")
    own = [int(k) for i in range(3) for k in part[i][1]["labels"]]
    found = [int(k) for i in range(2, 5) for k in joined[i][1]["labels"]]
    assert found == [{1: 5, 2: 2}[k] for k in own] and {1, 2} <= set(own)
    truth = joined.ground_truth()
    assert truth["category_ids"].tolist() == [1, 2, 3, 4, 5] and truth["class_names"] == joined.class_names
    again = open_dataset("auto", [second], "train", class_names=joined.class_names, merge_classes=True)
    assert again.class_names == joined.class_names


def test_names_that_differ_in_case_are_not_two_classes(tmp_path):
    roots = [make_yolo(tmp_path / "a", images=2), make_yolo(tmp_path / "b", images=2)]
    (tmp_path / "b" / "obj.names").write_text("Circle\nsquare\n")
    for merge in (False, True):
        with pytest.raises(InputError, match='b/obj.data calls a class "Circle" that .*a/obj.data calls "circle"'):
            open_dataset("yolo", roots, "train", merge_classes=merge)


def test_labels_file_behind_a_link(tmp_path):
    root = make_jetson_voc(tmp_path / "a", num_train=2, num_test=1)
    (tmp_path / "names.txt").write_text("circle\nsquare\ntriangle\nstar\nsecret\n")
    (root / "labels.txt").unlink(missing_ok=True)
    (root / "labels.txt").symlink_to(tmp_path / "names.txt")
    with pytest.raises(InputError, match="labels.txt' leads out of"):
        open_dataset("voc", root, "test")
    assert open_dataset("voc", root, "test", allow_outside=True).class_names[-1] == "secret"


def test_classes_of_coco_that_are_not_wanted(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "x.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"id": k, "image_id": 1, "category_id": k, "bbox": [k, 2, 9, 9], "area": 81, "iscrowd": 0,
                         "segmentation": []} for k in (1, 2, 3)],
        "categories": [{"id": k, "name": name} for k, name in ((1, "cat"), (2, "dog"), (3, "cow"))]}))
    where = {"json_path": tmp_path / "x.json", "image_dir": tmp_path, "class_names": ["dog"]}
    with pytest.raises(InputError, match='unknown class "cat"'):
        open_dataset("coco", None, "train", **where)
    dataset = open_dataset("coco", None, "train", skip_unknown=True, **where)
    assert dataset[0][1]["boxes"].tolist() == [[2, 2, 11, 11]] and dataset.class_names == ["dog"]
    assert [(fault.kind, fault.action, fault.count) for fault in dataset.faults] == [("unknown class", "drop object", 2)]
