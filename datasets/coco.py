"""COCO: one JSON file per split. Only parsing; what is done about faulty boxes is decided in annotations.py.

Category ids may start anywhere and have gaps: sorted, they become labels 1..C, and `category_ids` leads back.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from datasets.annotations import (
    DROP_IMAGE,
    DROP_OBJECT,
    FIX,
    STOP,
    AnnotationTable,
    Fault,
    FaultError,
    RawAnnotations,
    build_table,
    parse_integer,
    parse_number,
    stop_on_faults,
)
from datasets.class_names import as_class_names, describe_unknown_class
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError
from datasets.image_io import UnreadableImage, image_size

JSON_PLACES = ("annotations/instances_{0}2017.json", "annotations/instances_{0}.json", "annotations/{0}.json",
               "{0}.json")
IMAGE_PLACES = ("{0}2017", "{0}", "images/{0}2017", "images/{0}", "images")
EXPECTED_TREE = """\
    {0}/
        annotations/instances_train2017.json, instances_val2017.json
        train2017/*.jpg
        val2017/*.jpg
    or give the JSON file and the image folder themselves"""
MIN_BOXES_TO_JUDGE = 8  # fewer are no evidence of how a file means its numbers


class CocoDetection(DetectionDataset):
    """One split in COCO format; see `DetectionDataset` for samples and ground truth.

    Crowd regions are part of the ground truth but not of the targets; area is the file's. Ground truth boxes are not
    clipped, so that scores equal those of pycocotools on the file itself.

    Args:
        root: folder with `annotations/instances_train2017.json`, `train2017/`, or the like without the year.
        dataset: split, "train" or "val" or another that the tree has.
        transforms: optional `(image, target) -> (image, target)`.
        json_path, image_dir: the annotation file and the folder of its images, instead of the tree under `root`.
        class_names: names in label order, or path of a class file; categories are then mapped by name, as validation
            needs it to agree with training. By default the file's categories in the order of their ids.
        drop_empty: leave out images without objects to train on.

    Raises:
        FileNotFoundError: file or folder missing; the message shows what was expected.
        InputError: an annotation file that stops, in one sentence.
    """

    clip_ground_truth = False

    def __init__(self, root: str | os.PathLike | None, dataset: str = "train", transforms: Callable | None = None, *,
                 json_path: str | os.PathLike | None = None, image_dir: str | os.PathLike | None = None,
                 class_names: Sequence[str] | str | os.PathLike | None = None, drop_empty: bool = False):
        json_file, image_folder = find_coco_files(root, dataset, json_path, image_dir)
        names = None if class_names is None else as_class_names(class_names)
        table, faults = read_coco(json_file, image_folder, names)
        super().__init__(table, faults, transforms, drop_empty=drop_empty)

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
    json_places = [Path(json_path)] if json_path else [Path(root, place.format(split)) for place in JSON_PLACES]
    image_places = [Path(image_dir)] if image_dir else [Path(root, place.format(split)) for place in IMAGE_PLACES]
    json_file = next((path for path in json_places if path.is_file()), None)
    folder = next((path for path in image_places if path.is_dir()), None)
    for found, places, what in ((json_file, json_places, "annotation file"), (folder, image_places, "image folder")):
        if found is None:
            tree = "" if len(places) == 1 else f"; expected is\n{EXPECTED_TREE.format(root)}"
            raise FileNotFoundError(f"COCO {what} {places[0]} does not exist{tree}")
    return json_file, folder


def read_coco(json_file: Path, image_folder: Path,
              class_names: list[str] | None = None) -> tuple[AnnotationTable, list[Fault]]:
    """Annotations of one file and all their faults; a fault that stops is listed, or raised if nothing can follow."""
    faults: list[Fault] = []
    try:
        content = _load(json_file)
        found = _read_categories(content["categories"], json_file)
    except FaultError as error:
        raise InputError(str(error)) from error
    names, category_ids, label_of = _map_categories(found, class_names)
    unlisted = {number: describe_unknown_class(name, names) for number, name in found.items() if number not in label_of}
    raw = RawAnnotations(object_word="annotation")
    index_of, unusable = _read_images(content["images"], json_file, image_folder, raw, faults)
    known = _Known(index_of, unusable, label_of, unlisted)
    for position, annotation in enumerate(content["annotations"]):
        try:
            _add_annotation(annotation, position, raw, known, json_file)
        except FaultError as error:
            faults.append(error.fault)
    _check_box_convention(raw, json_file, faults)
    table, box_faults = build_table(raw, names, category_ids)
    return table, faults + box_faults


class _Known(NamedTuple):
    """What an annotation may refer to."""

    index_of: dict[int, int]  # image id -> index
    unusable: set[int]  # ids of images left out
    label_of: dict[int, int]  # category id -> label
    unlisted: dict[int, str]  # category id whose class the given list lacks -> complaint


def _broken(file: Path, kind: str, detail: str, where: str = "", action: str = STOP) -> FaultError:
    return FaultError(Fault(str(file), where, kind, detail, action))


def _load(path: Path) -> dict:
    def refuse(constant: str):
        raise _broken(path, "NaN in JSON", f"the file holds {constant}, which is not a number; correct it")

    try:
        # utf-8-sig: some tools write a byte order mark, which json.load refuses.
        content = json.loads(path.read_bytes().decode("utf-8-sig"), parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise _broken(path, "JSON that does not parse", f"the JSON does not parse ({error.msg})",
                      f"line {error.lineno}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise _broken(path, "JSON that does not parse", f"this is not a JSON text file ({error})") from error
    for key in ("images", "annotations", "categories"):
        records = content.get(key) if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise _broken(path, "not COCO instances", f'there is no list "{key}" of objects; expected is a COCO '
                          "instances file with images, annotations and categories")
    return content


def _read_categories(categories: list[dict], path: Path) -> dict[int, str]:
    """Category id -> name, sorted by id."""
    names: dict[int, str] = {}
    for position, category in enumerate(categories):
        where, number, name = f"category {position + 1}", parse_integer(category.get("id")), category.get("name")
        if number is None or not isinstance(name, str) or not name.strip():
            raise _broken(path, "category", f"needs an integer id and a name, not {str(category)[:80]}", where)
        if number in names or name.strip() in names.values():
            raise _broken(path, "category twice", f'id {number} or name "{name}" stands there twice', where)
        names[number] = name.strip()
    if not names:
        raise _broken(path, "no category", 'the list "categories" is empty; add the classes')
    return dict(sorted(names.items()))


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
    spare = max([*found, len(class_names)]) + 1
    ids = [id_by_label.get(label, label if label not in found else spare + label)
           for label in range(1, len(class_names) + 1)]
    return class_names, ids, label_of


def _read_images(images: list[dict], path: Path, folder: Path, raw: RawAnnotations,
                 faults: list[Fault]) -> tuple[dict[int, int], set[int]]:
    """Adds all usable images to `raw`; returns index by image id, and the ids of those left out."""
    finder = _ImageFinder(folder, path)
    index_of: dict[int, int] = {}
    unusable: set[int] = set()
    users: dict[str, int] = {}  # image path -> image id
    numbered = []
    for position, image in enumerate(images):
        number = parse_integer(image.get("id"))
        if number is None:
            faults.append(Fault(str(path), f"image {position + 1}", "image id", f"the id {image.get('id')!r} is no "
                                "integer; number the images", STOP))
        else:
            numbered.append((number, image))
    for number, image in sorted(numbered, key=lambda pair: pair[0]):
        where = f"image {number}"
        if number in index_of or number in unusable:
            faults.append(Fault(str(path), where, "image id twice", "two images have this id; renumber them", STOP))
            continue
        try:
            file_path = finder.find(image.get("file_name"), where, faults)
            height, width = _image_size(image, file_path, path, where, faults)
        except FaultError as error:
            faults.append(error.fault)
            unusable.add(number)
            continue
        if file_path in users:
            faults.append(Fault(str(path), where, "image file under two ids", f"image {users[file_path]} is the same "
                                f"file {file_path}", FIX))
        users[file_path] = number
        index_of[number] = len(raw.paths)
        raw.add_image(file_path, height, width, number, str(path))
    if images and not index_of:
        stop_on_faults(faults)
        raise FileNotFoundError(f"none of the {len(images)} images of {path} is in {folder}; give their folder")
    return index_of, unusable


def _image_size(image: dict, file_path: str, path: Path, where: str, faults: list[Fault]) -> tuple[int, int]:
    sizes = [parse_number(image.get(key)) for key in ("height", "width")]
    if all(size >= 1 for size in sizes):
        return int(sizes[0]), int(sizes[1])
    try:
        height, width = image_size(file_path)
    except UnreadableImage as error:
        raise _broken(Path(file_path), "unreadable image", str(error), action=DROP_IMAGE) from error
    faults.append(Fault(str(path), where, "no image size, taken from the image", f"it is {width}x{height}", FIX))
    return height, width


def _add_annotation(annotation: dict, position: int, raw: RawAnnotations, known: _Known, path: Path) -> None:
    number = annotation.get("id", position + 1)
    image_id, category_id = parse_integer(annotation.get("image_id")), parse_integer(annotation.get("category_id"))
    if image_id in known.unusable:
        return  # reported with its image
    where = f"annotation {number}"
    if image_id not in known.index_of:
        raise _broken(path, "annotation of an unknown image", f"there is no image {annotation.get('image_id')!r}",
                      where, DROP_OBJECT)
    if category_id in known.unlisted:
        raise _broken(path, "unknown class", known.unlisted[category_id], where)
    if category_id not in known.label_of:
        raise _broken(path, "annotation of an unknown category", f"there is no category "
                      f"{annotation.get('category_id')!r}", where, DROP_OBJECT)
    box = annotation.get("bbox")
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise _broken(path, "annotation without box", f"bbox is {box!r}, expected are [x, y, width, height]", where,
                      DROP_OBJECT)
    x, y, width, height = map(parse_number, box)
    area = parse_number(annotation.get("area"))  # NaN where missing: then the box's
    raw.add_object(known.index_of[image_id], (x, y, x + width, y + height), known.label_of[category_id], number,
                   area if area >= 0 else math.nan, iscrowd=parse_integer(annotation.get("iscrowd")) == 1)


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


class _ImageFinder:
    """Finds the files of a COCO list inside one folder, and nothing outside it."""

    def __init__(self, folder: Path, json_file: Path):
        self.folder, self.json_file = folder, json_file
        self.names = set(os.listdir(folder))
        self.by_name: dict[str, list[str]] | None = None  # file name -> paths anywhere below; filled when first needed

    def find(self, file_name: object, where: str, faults: list[Fault]) -> str:
        if not isinstance(file_name, str) or not file_name.strip():
            raise _broken(self.json_file, "image without file name", "file_name is missing", where, DROP_IMAGE)
        if file_name in self.names:
            return str(self.folder / file_name)
        relative = PurePosixPath(file_name.strip().replace("\\", "/"))
        leads_out = relative.is_absolute() or ".." in relative.parts
        if not leads_out and (self.folder / relative).is_file():
            return str(self.folder / relative)
        candidates = self._below().get(relative.name, [])
        if len(candidates) == 1:
            faults.append(Fault(str(self.json_file), where, "image found under another path", f"{file_name} is taken "
                                f"to be {candidates[0]}", FIX))
            return candidates[0]
        if leads_out:
            raise _broken(self.json_file, "file name leads out", f"{file_name!r} leads out of {self.folder}; write "
                          "file names relative to it", where)
        problem = "is not" if not candidates else f"is {len(candidates)} times"
        raise _broken(self.json_file, "image missing", f"{file_name} {problem} in {self.folder}", where, DROP_IMAGE)

    def _below(self) -> dict[str, list[str]]:
        if self.by_name is None:
            self.by_name = {}
            for parent, _, names in os.walk(self.folder):
                for name in names:
                    self.by_name.setdefault(name, []).append(os.path.join(parent, name))
        return self.by_name
