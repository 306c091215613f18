"""One place where the scripts open a data set by the name of its format, from one folder (or file, for YOLO) or several."""

import os
from collections.abc import Sequence
from pathlib import Path

from datasets.class_names import read_labels
from datasets.coco import JSON_PLACES, CocoDetection
from datasets.concat import JoinedDataset
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError
from datasets.open_images import OpenImagesDataset, is_open_images_folder
from datasets.shapes import SHAPE_CLASSES, is_shapes_folder, make_shapes
from datasets.single_class import as_single_class
from datasets.voc import VOCDataSet, find_voc_folder
from datasets.yolo_config import is_yolo_source
from datasets.yolo_txt import YoloTxtDataset

KINDS = ("voc", "coco", "open_images", "yolo", "shapes")
SPLITS = ("train", "val", "test")
LABELS = "labels.txt"  # jetson's class list, at the root of a data set

OnePath = str | os.PathLike
Paths = OnePath | Sequence[OnePath]


def guess_kind(data_path: Paths | None, json_path: OnePath | None = None) -> str:
    """The kind of the data in a folder, or in all of several, by its layout; "shapes" where nothing is given.

    A file that is given in place of a folder (.data, .yaml, a .txt list of images) is YOLO's. Data in no known layout counts as
    VOC, whose reader explains what is missing.

    Raises:
        InputError: paths of different kinds.
    """
    if json_path is not None:
        return "coco"
    kinds = {str(root): _guess(root) for root in _as_list(data_path)}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{root} ({kind})" for root, kind in kinds.items())
        raise InputError(f"the data paths are of different kinds: {found}; give paths of one kind")
    return next(iter(kinds.values()))


def open_dataset(kind: str, data_path: Paths | None, split: str, *, year: str = "2012",
                 class_names: Sequence[str] | OnePath | None = None, json_path: OnePath | None = None,
                 image_dir: OnePath | None = None, drop_empty: bool = False, skip_difficult: bool = False,
                 skip_unknown: bool = False, group_boxes: bool = False,
                 single_class: bool = False) -> DetectionDataset | JoinedDataset:
    """One split of a data set.

    Args:
        kind: "voc", "coco", "open_images", "yolo", or "shapes" (drawn pictures, made in `data_path` when first asked for).
        data_path: folder of the data set, or several folders, which are joined; may be None for COCO if `json_path` and
            `image_dir` are given. For YOLO also a .data file, a data.yaml, or an image list, which is taken whole as the split.
        split: "train", "val", ...; for VOC the name of any split file, with or without ".txt".
        year: VOC only, where there are several.
        class_names: names in label order, or path of a class file. By default VOC and Open Images take the data set's
            labels.txt, else the classes found; COCO takes its categories, YOLO its .names. Those of several folders must agree.
        json_path, image_dir: COCO only, instead of the tree under `data_path`.
        drop_empty: leave out images without objects to train on.
        skip_difficult: leave objects marked difficult out of the targets.
        skip_unknown: VOC, Open Images and YOLO: drop objects of classes outside the class list instead of stopping.
        group_boxes: Open Images: take boxes around groups as objects, not as crowd regions.
        single_class: give every object the label 1, and ["object"] for class names, see `as_single_class`; `class_names` are
            those of the data before that.

    Raises:
        InputError, FileNotFoundError: one sentence with the place and the remedy.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind of data set {kind!r}; known are {', '.join(KINDS)}")
    roots = _as_list(data_path)
    if None in roots and kind != "coco":
        raise InputError(f"a data set of kind {kind} needs a data path: give its folder (--data-path)")
    if len(roots) > 1 and (json_path is not None or image_dir is not None):
        raise InputError(f"a JSON file with its image folder is one data set, but there are {len(roots)} data paths; leave "
                         "out the one or the others")
    if kind == "shapes" and class_names is None:
        class_names = SHAPE_CLASSES
    if kind in ("voc", "open_images") and class_names is None:
        class_names = _common_labels(kind, roots, year)

    def open_one(root: OnePath | None) -> DetectionDataset:
        if kind == "coco":
            return CocoDetection(root, split, json_path=json_path, image_dir=image_dir, class_names=class_names,
                                 drop_empty=drop_empty)
        if kind == "open_images":
            return OpenImagesDataset(root, split, class_names=class_names, group_boxes=group_boxes, drop_empty=drop_empty,
                                     skip_unknown=skip_unknown)
        if kind == "yolo":
            return YoloTxtDataset(root, split, class_names=class_names, drop_empty=drop_empty, skip_unknown=skip_unknown)
        if kind == "shapes" and not is_shapes_folder(root):
            make_shapes(root)
        return VOCDataSet(root, year, txt_name=split, class_names=class_names, drop_empty=drop_empty,
                          skip_difficult=skip_difficult, skip_unknown=skip_unknown)

    parts = [as_single_class(open_one(root)) if single_class else open_one(root) for root in roots]
    if len(parts) == 1:
        return parts[0]
    return JoinedDataset(parts, [str(root) for root in roots])


def _as_list(data_path: Paths | None) -> list[OnePath | None]:
    """The paths; an empty list is nothing given."""
    return [data_path] if data_path is None or isinstance(data_path, (str, os.PathLike)) else [*data_path] or [None]


def _guess(root: OnePath | None) -> str:
    if root is None or is_shapes_folder(root):
        return "shapes"
    if any(Path(root, place.format(split)).is_file() for place in JSON_PLACES for split in SPLITS):
        return "coco"
    if is_open_images_folder(root):
        return "open_images"
    # Conversions write YOLO's labels into VOC folders, beside the Annotations that they were made from.
    return "yolo" if is_yolo_source(root) and not Path(root, "Annotations").is_dir() else "voc"


def _common_labels(kind: str, roots: list[OnePath], year: str) -> list[str] | None:
    """The class list of the folders' labels.txt; None where none of them has one.

    The first one's order counts: folders that list the same classes in another order are read by it.
    """
    lists: dict[Path, list[str]] = {}
    for root in roots:
        places = [Path(root, LABELS)] + ([find_voc_folder(root, year) / LABELS] if kind == "voc" else [])
        path = next((place for place in places if place.is_file()), None)
        if path is not None:
            lists[path] = read_labels(path)
    for path, names in lists.items():
        first = next(iter(lists))
        differing = sorted(set(names) ^ set(lists[first]))
        if differing:
            raise InputError(f"{path} and {first} list different classes ({', '.join(differing)} in one of them only); make them "
                             "agree, or give one class list for all")
    return next(iter(lists.values()), None)
