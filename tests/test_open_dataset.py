import json

import numpy as np
import pytest
from jetson_data import make_jetson_voc, make_open_images, remove_objects
from PIL import Image
from yolo_data import make_yolo

from datasets import CocoDetection, InputError, JoinedDataset, OpenImagesDataset, VOCDataSet, YoloTxtDataset, make_shapes
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
    (tmp_path / "fruit").mkdir()
    (tmp_path / "fruit" / "sub-test-annotations-bbox.csv").touch()
    assert guess_kind(tmp_path / "fruit") == guess_kind([tmp_path / "fruit"] * 2) == "open_images"
    assert guess_kind([]) == "shapes" and guess_kind([tmp_path]) == "coco" and guess_kind([tmp_path / "nothing"]) == "voc"
    with pytest.raises(InputError, match=r"different kinds: .*fruit \(open_images\), .*voc \(voc\)"):
        guess_kind([tmp_path / "fruit", tmp_path / "voc"])


def test_wrong_words(tmp_path):
    with pytest.raises(InputError, match="known are voc, coco, open_images, yolo, shapes"):
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
    dataset = open_dataset("open_images", [fruit], "val")
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
    assert open_dataset("open_images", fruit, "train").class_names == ["star", "circle", "triangle", "square"]


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
        open_dataset("open_images", roots, "train")
    joined = open_dataset("open_images", roots, "train", class_names=["circle", "star", "triangle"])
    first = open_dataset("open_images", roots[0], "train").table.labels  # circle and star are 1 and 2 there too
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
    assert open_dataset("open_images", fruit, "train").ground_truth()["iscrowd"].sum() == 1
    assert open_dataset("open_images", fruit, "train", group_boxes=True).ground_truth()["iscrowd"].sum() == 0


@pytest.mark.parametrize("style", ["data", "yaml", "folder"])
def test_yolo(tmp_path, style):
    source = make_yolo(tmp_path / "set", images=4, style=style)
    assert guess_kind(source) == guess_kind(tmp_path / "set") == guess_kind([source, source]) == "yolo"
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
    with pytest.raises(InputError, match=r"different kinds: .*obj\.data \(yolo\), .*nothing \(voc\)"):
        guess_kind([a, tmp_path / "nothing"])


def test_other_formats_are_not_taken_for_yolo(tmp_path, roots):
    for folder in (roots[0], make_open_images(tmp_path / "fruit", num_train=1, num_test=1), make_shapes(tmp_path / "s", 0, 1, 1)):
        kind = guess_kind(folder)
        (folder / "data.yaml").touch()  # as conversions leave them there
        for name in ("images/train", "labels/train"):
            (folder / name).mkdir(parents=True)
        assert guess_kind(folder) == kind != "yolo"
    coco = tmp_path / "coco"
    for name in ("annotations", "images/train2017", "labels/train2017"):
        (coco / name).mkdir(parents=True)
    assert guess_kind(coco) == "yolo"
    (coco / "annotations" / "instances_train2017.json").touch()
    assert guess_kind(coco) == "coco"


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
