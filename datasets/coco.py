"""COCO: one JSON file per split. Only parsing; what is done about faulty boxes is decided in annotations.py.

Category ids may start anywhere and have gaps: sorted, they become labels 1..C, and `category_ids` leads back.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.annotations import (
    DROP_IMAGE,
    DROP_OBJECT,
    STOP,
    WARN,
    AnnotationTable,
    Fault,
    FaultError,
    RawAnnotations,
    build_table,
    parse_integer,
    parse_number,
    stop_on_faults,
)
from datasets.boundary import Boundary
from datasets.class_names import as_class_names, describe_unknown_class
from datasets.coco_json import ImageFinder, broken, column, integers, load_json, no_garbage_collection, read_categories
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError
from datasets.image_files import annotated_side, require_inside
from datasets.image_io import UnreadableImage, image_size
from datasets.tally import Tally, shorten

EXPORT_JSON = "_annotations.coco.json"  # of exports with a folder per split, which holds its images too
JSON_PLACES = ("annotations/instances_{0}2017.json", "annotations/instances_{0}.json", "annotations/{0}.json",
               "{0}.json", "{0}/" + EXPORT_JSON)
IMAGE_PLACES = ("{0}2017", "{0}", "images/{0}2017", "images/{0}", "images")
SPLIT_NAMES = (("val", "valid", "validation"),)  # of one split; the first is COCO's own
EXPECTED_TREE = """\
    {0}/
        annotations/instances_train2017.json, instances_val2017.json
        train2017/*.jpg
        val2017/*.jpg
    or train/*.jpg with train/_annotations.coco.json, valid/*.jpg with valid/_annotations.coco.json;
    or give the JSON file and the image folder themselves"""
MAX_AREA = float(np.finfo(np.float32).max)  # targets hold float32
MIN_BOXES_TO_JUDGE = 8  # fewer are no evidence of how a file means its numbers


class CocoDetection(DetectionDataset):
    """One split in COCO format; see `DetectionDataset` for samples and ground truth.

    Crowd regions are part of the ground truth but not of the targets; area is the file's. Ground truth boxes are not
    clipped, so that scores equal those of pycocotools on the file itself.

    Args:
        root: folder with `annotations/instances_train2017.json`, `train2017/`, or the like without the year.
        dataset: split, "train" or "val" (or "valid", "validation") or another that the tree has.
        transforms: optional `(image, target) -> (image, target)`.
        json_path, image_dir: the annotation file and the folder of its images, instead of the tree under `root`.
        class_names: names in label order, or path of a class file; categories are then mapped by name, as validation
            needs it to agree with training. By default the file's categories in the order of their ids.
        drop_empty: leave out images without objects to train on.
        skip_unknown: drop objects of classes outside the class list instead of stopping.
        allow_outside: follow paths and links that lead out of `root` and `image_dir`.
        strict: raise on a fault that stops; else keep it in `faults`.

    Raises:
        FileNotFoundError: file or folder missing; the message shows what was expected.
        InputError: an annotation file that stops, in one sentence.
    """

    clip_ground_truth = False

    def __init__(self, root: str | os.PathLike | None, dataset: str = "train", transforms: Callable | None = None, *,
                 json_path: str | os.PathLike | None = None, image_dir: str | os.PathLike | None = None,
                 class_names: Sequence[str] | str | os.PathLike | None = None, drop_empty: bool = False,
                 skip_unknown: bool = False, allow_outside: bool = False, strict: bool = True):
        json_file, image_folder = find_coco_files(root, dataset, json_path, image_dir)
        boundary = Boundary(*[path for path in (root, image_dir) if path is not None], allow_outside=allow_outside)
        if json_path is None:
            require_inside(boundary, json_file)
        require_inside(boundary, image_folder)
        names = None if class_names is None else as_class_names(class_names)
        table, faults = read_coco(json_file, image_folder, names, boundary, skip_unknown)
        super().__init__(table, faults, transforms, drop_empty=drop_empty, strict=strict)

    @property
    def ids(self) -> list[int]:
        """The file's image id of every index."""
        return self.table.source_image_ids.tolist()

    @property
    def coco_classes(self) -> dict[int, str]:
        """The file's category id -> name."""
        return dict(zip(self.table.category_ids.tolist(), self.table.class_names))


def find_coco_files(root: str | os.PathLike | None, split: str, json_path: str | os.PathLike | None = None,
                    image_dir: str | os.PathLike | None = None) -> tuple[Path, Path]:
    """(annotation file, image folder): the ones given, else those found under `root`."""
    if root is None and (json_path is None or image_dir is None):
        raise FileNotFoundError("a COCO data set needs a data path, or both its JSON file and its image folder")
    split = split.removesuffix(".txt").removesuffix("2017")
    names = next((names for names in SPLIT_NAMES if split in names), (split,))
    json_places = [Path(json_path)] if json_path else _places(root, JSON_PLACES, names)
    json_file = next((path for path in json_places if os.path.isfile(path)), None)
    beside = [json_file.parent] if json_file and not json_path and json_file.name == EXPORT_JSON else []
    image_places = [Path(image_dir)] if image_dir else beside + _places(root, IMAGE_PLACES, names)
    folder = next((path for path in image_places if os.path.isdir(path)), None)
    whole = next((path for path in _places(root, JSON_PLACES, ["default"]) if os.path.isfile(path)), None) if root else None
    if json_file is None and whole:
        raise FileNotFoundError(f"{root} has one annotation file for all images, {whole}, and none for the split {split}; divide "
                                f"it: python tools/split_dataset.py {root} --parts train=0.8 val=0.2")
    for found, places, what in ((json_file, json_places, "annotation file"), (folder, image_places, "image folder")):
        if found is None:
            tree = "" if len(places) == 1 else f"; expected is\n{EXPECTED_TREE.format(root)}"
            raise FileNotFoundError(f"COCO {what} {places[0]} does not exist{tree}")
    return json_file, folder


def _places(root: str | os.PathLike, patterns: Iterable[str], names: Iterable[str]) -> list[Path]:
    return [Path(root, pattern.format(name)) for name in names for pattern in patterns]


def read_coco(json_file: Path, image_folder: Path, class_names: list[str] | None = None,
              boundary: Boundary | None = None, skip_unknown: bool = False) -> tuple[AnnotationTable, list[Fault]]:
    """Annotations of one file and all their faults; a fault that stops is listed, or raised if nothing can follow."""
    finder = ImageFinder(image_folder, json_file, boundary or Boundary(image_folder))
    faults, tally, raw = [], Tally(), RawAnnotations(object_word="annotation")
    with no_garbage_collection():
        names, ids = _read_file(json_file, class_names, skip_unknown, finder, raw, faults, tally)
    _check_box_convention(raw, json_file, faults)
    table, box_faults = build_table(raw, names, ids)
    return table, faults + tally.faults() + box_faults


def _read_file(json_file: Path, class_names: list[str] | None, skip_unknown: bool, finder: ImageFinder, raw: RawAnnotations,
               faults: list[Fault], tally: Tally) -> tuple[list[str], list[int]]:
    """Fills `raw`; returns the class names and the file's category id of each."""
    try:
        content = load_json(json_file, tally)
        annotations = content["annotations"]
        category_ids = integers(annotations, "category_id", "annotation", json_file, tally)
        found = read_categories(content["categories"], set(category_ids), json_file, tally)
    except FaultError as error:
        raise InputError(str(error)) from error
    names, ids, label_of = _map_categories(found, class_names)
    unlisted = {number: describe_unknown_class(name, names) for number, name in found.items() if number not in label_of}
    index_of, unusable = _read_images(content["images"], json_file, finder, raw, faults, tally)
    known = _Known(index_of, unusable, label_of, unlisted, skip_unknown)
    _read_annotations(annotations, category_ids, known, raw, json_file, faults, tally)
    return names, ids


class _Known(NamedTuple):
    """What an annotation may refer to."""

    index_of: dict[int, int]  # image id -> index
    unusable: set[int]  # ids of images left out
    label_of: dict[int, int]  # category id -> label
    unlisted: dict[int, str]  # category id whose class the given list lacks -> complaint
    skip_unknown: bool  # annotations of such classes are left out instead of stopping


def _map_categories(found: dict[int, str],
                    class_names: list[str] | None) -> tuple[list[str], list[int], dict[int, int]]:
    """(class names, the file's category id of each, label of each category id whose class is listed)."""
    if class_names is None:
        return list(found.values()), list(found), {number: k + 1 for k, number in enumerate(found)}
    label_by_name = {name: k + 1 for k, name in enumerate(class_names)}
    label_of = {number: label_by_name[name] for number, name in found.items() if name in label_by_name}
    id_by_label = {label: number for number, label in label_of.items()}
    # Classes that the file lacks get an id that it does not use, so that detections of them can still be written:
    # the label itself where possible, which restores the sparse table of published COCO weights.
    spare = (number for number in count(len(class_names) + 1) if number not in found)
    ids = [id_by_label[label] if label in id_by_label else label if label not in found else next(spare)
           for label in range(1, len(class_names) + 1)]
    return class_names, ids, label_of


def _read_images(images: list[dict], path: Path, finder: ImageFinder, raw: RawAnnotations, faults: list[Fault],
                 tally: Tally) -> tuple[dict[int, int], set[int]]:
    """Adds all usable images to `raw`; returns index by image id, and the ids of those left out."""
    index_of: dict[int, int] = {}
    unusable: set[int] = set()
    users: dict[str, int] = {}  # image path -> image id
    numbered = []
    for position, number in enumerate(integers(images, "id", "image", path, tally)):
        if number is None:
            detail = f"the id {shorten(images[position].get('id'))} is no integer; number the images"
            faults.append(Fault(str(path), f"image {position + 1}", "image id", detail, STOP))
        else:
            numbered.append((number, images[position]))
    for number, image in sorted(numbered, key=lambda pair: pair[0]):
        where = f"image {number}"
        if number in index_of or number in unusable:
            faults.append(Fault(str(path), where, "image id twice", "two images have this id; renumber them", STOP))
            continue
        try:
            file_path = finder.find(image.get("file_name"), where, faults)
            height, width = _image_size(image, file_path, path, where, tally)
        except FaultError as error:
            faults.append(error.fault)
            unusable.add(number)
            continue
        if file_path in users:
            faults.append(Fault(str(path), where, "image file under two ids", f"image {users[file_path]} is the same "
                                f"file {file_path}; remove one of them", WARN))
        users[file_path] = number
        index_of[number] = len(raw.paths)
        raw.add_image(file_path, height, width, number, str(path))
    if images and not index_of:
        stop_on_faults(faults)
        raise FileNotFoundError(f"none of the {len(images)} images of {path} can be used from {finder.folder}; give their folder "
                                f"({faults[0]})")
    return index_of, unusable


def _image_size(image: dict, file_path: str, path: Path, where: str, tally: Tally) -> tuple[int, int]:
    height, width = annotated_side(image.get("height")), annotated_side(image.get("width"))
    if height and width:
        return height, width
    try:
        height, width = image_size(file_path)
    except UnreadableImage as error:
        raise broken(Path(file_path), "unreadable image", str(error), action=DROP_IMAGE) from error
    tally.add(str(path), where, "no image size, taken from the image", f"it is {width}x{height}")
    return height, width


def _read_annotations(annotations: list[dict], category_ids: list[int | None], known: _Known, raw: RawAnnotations, path: Path,
                      faults: list[Fault], tally: Tally) -> None:
    """Adds all usable annotations to `raw`: column by column, since there may be a million."""
    image_ids = integers(annotations, "image_id", "annotation", path, tally)
    numbers = _annotation_numbers(annotations, path, tally)
    index = [known.index_of.get(number, -1) for number in image_ids]
    labels = [known.label_of.get(number, 0) for number in category_ids]
    boxes = column(annotations, "bbox")
    rows, skipped = [], []
    for k, box in enumerate(boxes):
        if index[k] >= 0 and labels[k] and isinstance(box, list) and len(box) == 4:
            rows.append(k)
        elif known.skip_unknown and category_ids[k] in known.unlisted:
            skipped.append(k)
        elif image_ids[k] not in known.unusable:  # else reported with its image
            faults.append(_unusable(annotations[k], numbers[k], index[k], category_ids[k], known, path))
    if skipped:  # most of COCO where two classes are wanted: too many to be listed one by one
        detail = known.unlisted[category_ids[skipped[0]]]
        tally.add(str(path), f"annotation {numbers[skipped[0]]}", "unknown class", detail, len(skipped), DROP_OBJECT)
    xywh = _numbers(chain.from_iterable(boxes[k] for k in rows)).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite corners are dropped later
        raw.boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).tolist()
    all_areas = column(annotations, "area")
    areas = _numbers(all_areas[k] for k in rows)
    raw.areas = np.where((areas >= 0) & (areas <= MAX_AREA), areas, np.nan).tolist()
    raw.image_index, raw.labels = [index[k] for k in rows], [labels[k] for k in rows]
    raw.numbers = [numbers[k] for k in rows]
    crowds = column(annotations, "iscrowd")
    raw.iscrowd = [crowds[k] == 1 or parse_integer(crowds[k]) == 1 if crowds[k] else False for k in rows]
    raw.difficult = [False] * len(rows)
    _count_missing(annotations, numbers, path, tally)


def _annotation_numbers(annotations: list[dict], path: Path, tally: Tally) -> list[int]:
    """The ids, for messages; an annotation without one is named by its place in the list, from 1."""
    ids = integers(annotations, "id", "annotation", path, tally)
    poor = len(ids) - len(set(ids) - {None, 0})
    if poor:
        seen: set[int | None] = {None, 0}
        first = next(k for k, number in enumerate(ids) if number in seen or seen.add(number))
        tally.add(str(path), f"annotation {first + 1} of the list", "annotation id missing, 0 or twice, not used",
                  f"the id is {shorten(annotations[first].get('id'))}", poor)
    return [k + 1 if number is None else number for k, number in enumerate(ids)]


def _count_missing(annotations: list[dict], numbers: list[int], path: Path, tally: Tally) -> None:
    for key, instead in (("area", "that of the box taken"), ("iscrowd", "0 taken"), ("segmentation", "not needed")):
        values = column(annotations, key)
        if None in values:
            lacking = [k for k, value in enumerate(values) if value is None]
            tally.add(str(path), f"annotation {numbers[lacking[0]]}", f"no {key}, {instead}", f"there is no {key}", len(lacking))


def _numbers(values: Iterable[object]) -> np.ndarray:
    """float64; NaN for what is no number."""
    values = list(values)
    if set(map(type, values)) <= {int, float}:
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:  # an integer of more than 308 digits
            pass
    return np.array([parse_number(value) for value in values], dtype=np.float64)


def _unusable(annotation: dict, number: int, index: int, category_id: int | None, known: _Known, path: Path) -> Fault:
    """Why an annotation cannot be used."""
    if index < 0:
        kind, detail = "annotation of an unknown image", f"there is no image {shorten(annotation.get('image_id'))}"
    elif category_id in known.unlisted:
        return Fault(str(path), f"annotation {number}", "unknown class", known.unlisted[category_id], STOP)
    elif category_id not in known.label_of:
        kind, detail = "annotation of an unknown category", f"there is no category {shorten(annotation.get('category_id'))}"
    else:
        kind = "annotation without box"
        detail = f"bbox is {shorten(annotation.get('bbox'))}, expected are [x, y, width, height]"
    return Fault(str(path), f"annotation {number}", kind, detail, DROP_OBJECT)


def _check_box_convention(raw: RawAnnotations, path: Path, faults: list[Fault]) -> None:
    """Boxes of another convention are told by statistics: each alone may look plausible."""
    boxes = np.array(raw.boxes, dtype=np.float64).reshape(-1, 4)
    boxes, index = boxes[np.isfinite(boxes).all(axis=1)], np.array(raw.image_index, dtype=np.int64)
    if len(boxes) < MIN_BOXES_TO_JUDGE or len(boxes) != len(index):
        return
    limits = np.stack([raw.widths, raw.heights], axis=1)[index]
    if (boxes <= 1).all():
        problem = "all boxes lie within 0..1, as fractions of the image would; write pixels"
    elif ((boxes[:, 2:] > limits + 1).any(axis=1)).mean() > 0.5:
        problem = "most boxes reach outside their images; bbox must be [x, y, width, height], not two corners"
    else:
        return
    faults.append(Fault(str(path), "", "boxes of another convention", problem, STOP))
