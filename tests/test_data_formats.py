"""One set of 100 pictures, annotated alike in several formats, must give the same boxes through every reader."""

import shutil

import numpy as np
import pytest

from datasets import CocoDetection, OpenImagesDataset, VOCDataSet, YoloTxtDataset, read_labels


@pytest.fixture(scope="module")
def formats(shared_data, tmp_path_factory):
    """Data sets by format, all with the class list of voc.names; "as found" is the CSV with decimal commas."""
    source, root = shared_data / "voc100_multiformat", tmp_path_factory.mktemp("formats")
    gts, names = source / "gts", read_labels(source / "voc.names")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    stems = sorted(path.stem for path in (source / "images").iterdir())
    (root / "ImageSets" / "Main" / "all.txt").write_text("\n".join(stems))
    (root / "Annotations").symlink_to(gts / "pascalvoc_format")
    (root / "JPEGImages").symlink_to(source / "images")
    for split, name in (("train", "DERIVED_standard_openimages.csv"), ("test", "all_bounding_boxes.csv")):
        shutil.copy(gts / "openimages_format" / name, root / f"{split}-annotations-bbox.csv")
        (root / split).symlink_to(source / "images")
    _lay_out_yolo(gts / "yolo_format", source / "images", root / "yolo")
    shutil.copy(gts / "openimages_format" / "DERIVED_class-descriptions-boxable.csv", root / "class-descriptions-boxable.csv")
    return {
        "voc": VOCDataSet(root, txt_name="all", class_names=names, allow_outside=True),
        "coco": CocoDetection(None, json_path=gts / "coco_format_v1" / "instances_default.json", image_dir=source / "images",
                              class_names=names),
        "open_images": OpenImagesDataset(root, "train", class_names=names, allow_outside=True),
        "as found": OpenImagesDataset(root, "test", class_names=names, allow_outside=True),
        "yolo": YoloTxtDataset(root / "yolo", class_names=names, allow_outside=True),
    }


def _lay_out_yolo(labels, images, root):
    """The files as they are, with the images where their list expects them: beside the labels."""
    (root / "obj_train_data").mkdir(parents=True)
    for name in ("obj.data", "obj.names", "train.txt"):
        shutil.copy(labels / name, root / name)
    for path in [*images.iterdir(), *(labels / "obj_train_data").iterdir()]:
        (root / "obj_train_data" / path.name).symlink_to(path)


def _table(dataset):
    """(image name, class name) of every object, and its box; sorted by all three."""
    truth = dataset.ground_truth()
    images = [dataset.image_path(i).rsplit("/", 1)[-1] for i in truth["image_index"]]
    classes = [dataset.class_names[label - 1] for label in truth["labels"]]
    order = sorted(range(len(images)), key=lambda k: (images[k], classes[k], *truth["boxes"][k].round(1)))
    return [(images[k], classes[k]) for k in order], truth["boxes"][order]


@pytest.mark.parametrize("kind", ["coco", "open_images", "as found", "yolo"])
def test_the_same_273_boxes(formats, kind):
    (names, boxes), (voc_names, voc_boxes) = _table(formats[kind]), _table(formats["voc"])
    assert len(boxes) == 273 and len(formats[kind]) == len(formats["voc"]) == 100
    assert names == voc_names and np.abs(boxes - voc_boxes).max() < 0.01


def test_classes_and_flags(formats):
    found = VOCDataSet(formats["voc"].image_path(0).rsplit("/", 2)[0], txt_name="all", allow_outside=True).class_names
    assert all(dataset.class_names == found for dataset in formats.values()) and found[14] == "person"
    assert formats["voc"].ground_truth()["difficult"].sum() == 38


def test_what_is_reported(formats):
    assert all(formats[kind].faults == [] for kind in ("voc", "coco", "open_images", "yolo"))
    (fault,) = formats["as found"].faults
    with_comma = sum('"' in line for line in open(fault.file))
    assert (fault.where, fault.kind) == ("line 2", "decimal comma, read as a point")
    assert fault.detail.endswith(f"({with_comma} such cases, this is the first)")


def test_the_class_list_may_be_found(formats):
    root = formats["open_images"].image_path(0).rsplit("/", 2)[0]
    assert OpenImagesDataset(root, "train", allow_outside=True).class_names == formats["voc"].class_names
    in_order_of_the_file = YoloTxtDataset(root + "/yolo", allow_outside=True)
    assert in_order_of_the_file.class_names[:4] == ["person", "cat", "boat", "car"]
    assert _table(in_order_of_the_file)[0] == _table(formats["yolo"])[0]
