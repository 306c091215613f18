"""One place where the scripts open a data set by the name of its format, from one folder (or file, for YOLO) or several."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datasets.boundary import Boundary
from datasets.class_names import read_labels
from datasets.coco import JSON_PLACES, CocoDetection
from datasets.concat import JoinedDataset
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError
from datasets.image_files import require_inside
from datasets.open_images import OpenImagesDataset, is_open_images_folder
from datasets.shapes import SHAPE_CLASSES, is_shapes_folder, make_shapes
from datasets.single_class import as_single_class
from datasets.voc import VOCDataSet, find_voc_folder
from datasets.yolo_config import is_yolo_source
from datasets.yolo_txt import YoloTxtDataset

KINDS = ("voc", "coco", "openimages", "yolo", "shapes")
AUTO = "auto"
SPLITS = ("train", "val", "test")
LABELS = "labels.txt"  # jetson's class list, at the root of a data set
# Keywords of `open_dataset` that are flags of the same name in every script, and the same for all splits.
OPTIONS = ("year", "skip_difficult", "skip_unknown", "skip_missing", "group_boxes", "polygon_boxes", "merge_classes",
           "allow_outside")

NO_OTHER = ("it has the layout of neither COCO (annotations/instances_train.json, train/_annotations.coco.json) nor Open Images "
            "(train-annotations-bbox.csv) nor YOLO (data.yaml, a .data file, images and labels)")

OnePath = str | os.PathLike
Paths = OnePath | Sequence[OnePath]


class Source(NamedTuple):
    """What a data path is taken for: one of KINDS, and the file or layout that says so; nothing if there is no such path."""

    root: OnePath | None
    kind: str
    why: str


def guess_sources(data_path: Paths | None, json_path: OnePath | None = None) -> list[Source]:
    """What each data path holds, by its layout; the drawn shapes where nothing is given.

    A file in place of a folder (.data, .yaml, a .txt list of images) is YOLO's. Data in no known layout count as VOC, whose
    reader explains what is missing.
    """
    if json_path is not None:
        return [Source(root, "coco", root and f"{json_path} is given") for root in _as_list(data_path)]
    return [Source(root, *_guess(root)) for root in _as_list(data_path)]


def guess_kind(data_path: Paths | None, val_data_path: Paths | None = None,
               json_path: OnePath | None = None) -> tuple[str, list[str]]:
    """(the kind of all data of a command, "auto" if there are several: `open_dataset` then looks at each; why, a line each)."""
    paths = [path for some in (data_path, val_data_path) for path in _as_list(some) if path is not None]
    sources = guess_sources(paths, json_path)
    kinds = {source.kind for source in sources}
    reasons = [f"{source.root}: taken as {source.kind}, since {source.why}" for source in sources if source.why]
    return (kinds.pop() if len(kinds) == 1 else AUTO), reasons


def open_dataset(kind: str, data_path: Paths | None, split: str, *, year: str = "2012",
                 class_names: Sequence[str] | OnePath | None = None, json_path: OnePath | None = None,
                 image_dir: OnePath | None = None, drop_empty: bool = False, skip_difficult: bool = False,
                 skip_unknown: bool = False, skip_missing: bool = False, group_boxes: bool = False, polygon_boxes: bool = False,
                 single_class: bool = False, merge_classes: bool = False, allow_outside: bool = False,
                 strict: bool = True) -> DetectionDataset | JoinedDataset:
    """One split of a data set.

    Args:
        kind: "voc", "coco", "openimages", "yolo", "shapes" (drawn pictures, made in `data_path` when first asked for), or "auto":
            each data path by its own layout.
        data_path: folder of the data set, or several folders, which are joined; may be None for COCO if `json_path` and
            `image_dir` are given. For YOLO also a .data file, a data.yaml, or an image list, which is taken whole as the split.
        split: "train", "val", ...; for VOC the name of any split file, with or without ".txt".
        year: VOC only, where there are several.
        class_names: names in label order, or path of a class file. By default VOC and Open Images take the data set's
            labels.txt, else the classes found; COCO takes its categories, YOLO its .names. Those of several folders must agree.
        json_path, image_dir: COCO only, instead of the tree under `data_path`.
        drop_empty: leave out images without objects to train on.
        skip_difficult: leave objects marked difficult out of the targets.
        skip_unknown: drop objects of classes outside the class list instead of stopping.
        skip_missing: VOC: leave out listed images whose picture or annotation is missing instead of stopping.
        group_boxes: Open Images: take boxes around groups as objects, not as crowd regions.
        polygon_boxes: YOLO: take the box around a polygon instead of stopping.
        single_class: give every object the label 1, and ["object"] for class names, see `as_single_class`; `class_names` are
            those of the data before that.
        merge_classes: several folders: the classes of all together, instead of the same in each.
        allow_outside: let the data set's files name paths outside its folder, see boundary.py.
        strict: raise on a fault that stops; else it stands among `dataset.faults`.

    Raises:
        InputError, FileNotFoundError: one sentence with the place and the remedy.
    """
    if kind not in (*KINDS, AUTO):
        raise InputError(f"unknown kind of data set {kind!r}; known are {', '.join(KINDS)}")
    roots = _as_list(data_path)
    sources = guess_sources(data_path, json_path) if kind == AUTO else [Source(root, kind, "as given") for root in roots]
    if None in roots and any(source.kind != "coco" for source in sources):
        raise InputError(f"a data set of kind {kind} needs a data path: give its folder (--data-path)")
    if len(roots) > 1 and (json_path is not None or image_dir is not None):
        raise InputError(f"a JSON file with its image folder is one data set, but there are {len(roots)} data paths; leave "
                         "out the one or the others")
    if class_names is None and not merge_classes:
        class_names = _common_labels(sources, year, allow_outside)
    shared = {"drop_empty": drop_empty, "allow_outside": allow_outside, "strict": strict}
    voc = partial(VOCDataSet, year=year, txt_name=split, skip_difficult=skip_difficult, skip_unknown=skip_unknown,
                  skip_missing=skip_missing)
    open_kind = {
        "voc": voc,
        "shapes": voc,
        "coco": partial(CocoDetection, dataset=split, json_path=json_path, image_dir=image_dir, skip_unknown=skip_unknown),
        "openimages": partial(OpenImagesDataset, split=split, group_boxes=group_boxes, skip_unknown=skip_unknown),
        "yolo": partial(YoloTxtDataset, split=split, skip_unknown=skip_unknown, polygon_boxes=polygon_boxes),
    }
    parts = []
    for source in sources:
        names = class_names
        if source.kind == "shapes":
            names = SHAPE_CLASSES if names is None else names
            if not is_shapes_folder(source.root):
                make_shapes(source.root)
        elif names is None:  # merged: each by its own list
            names = _common_labels([source], year, allow_outside)
        part = open_kind[source.kind](source.root, class_names=names, **shared)
        parts.append(as_single_class(part) if single_class else part)
    return parts[0] if len(parts) == 1 else JoinedDataset(parts, [str(root) for root in roots], merge_classes)


def _as_list(data_path: Paths | None) -> list[OnePath | None]:
    """The paths; an empty list is nothing given."""
    return [data_path] if data_path is None or isinstance(data_path, (str, os.PathLike)) else [*data_path] or [None]


def _guess(root: OnePath | None) -> tuple[str, str]:
    """(kind, why)."""
    if root is None or is_shapes_folder(root):
        return "shapes", "" if root is None else "it was drawn here"
    places = [place.format(split) for split in (*SPLITS, "valid", "default") for place in JSON_PLACES]
    json_file = next((place for place in places if Path(root, place).is_file()), None)
    if json_file is not None:
        return "coco", f"it has {json_file}"
    if is_open_images_folder(root):
        return "openimages", "it has boxes in ...-annotations-bbox.csv"
    # Conversions write YOLO's labels into VOC folders, beside the Annotations that they were made from.
    if is_yolo_source(root) and not _has_annotations(Path(root)):
        return "yolo", "it is no folder" if Path(root).is_file() else "it has folders of labels, or a file that describes them"
    return "voc", "it has annotations as XML" if _is_voc(root) else NO_OTHER if Path(root).exists() else ""


def _has_annotations(root: Path) -> bool:
    """Whether there is VOC's folder of that name, in any case, with XML in it if it is COCO's spelling."""
    folders = [folder for folder in root.iterdir() if folder.name.lower() == "annotations"] if root.is_dir() else []
    return any(folder.name == "Annotations" or any(folder.glob("*.xml")) for folder in folders if folder.is_dir())


def _is_voc(root: OnePath) -> bool:
    try:
        return bool(find_voc_folder(root))
    except FileNotFoundError:
        return False


def _common_labels(sources: Sequence[Source], year: str, allow_outside: bool) -> list[str] | None:
    """The class list of the folders' labels.txt (VOC and Open Images only); None where none of them has one.

    The first one's order counts: folders that list the same classes in another order are read by it.
    """
    lists: dict[Path, list[str]] = {}
    for root, kind, _ in sources:
        if kind not in ("voc", "openimages"):
            continue
        places = [Path(root, LABELS)] + ([find_voc_folder(root, year) / LABELS] if kind == "voc" else [])
        path = next((place for place in places if place.is_file()), None)
        if path is not None:
            require_inside(Boundary(root, allow_outside=allow_outside), path)
            lists[path] = read_labels(path)
    for path, names in lists.items():
        first = next(iter(lists))
        differing = sorted(set(names) ^ set(lists[first]))
        if differing:
            raise InputError(f"{path} and {first} list different classes ({', '.join(differing)} in one of them only); make them "
                             "agree, give one class list for all (--classes), or join them (--merge-classes)")
    return next(iter(lists.values()), None)
