"""YOLO's text labels, Darknet's own format: one file per image with a line `class centre_x centre_y width height` per box.

Only parsing happens here; what is done about faulty boxes is decided in annotations.py. Classes count from 0; the numbers are
fractions of the image's sides and become pixels by the size in the image's header. Where images and class names are found:
yolo_config.py. The labels of .../images/a/1.jpg are .../labels/a/1.txt, or else the 1.txt beside the image; an image whose file
is missing or empty is background.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from datasets.annotations import (
    DROP_IMAGE,
    DROP_OBJECT,
    FIX,
    STOP,
    WARN,
    AnnotationTable,
    Fault,
    FaultError,
    RawAnnotations,
    build_table,
    parse_integer,
    parse_number,
)
from datasets.boundary import Boundary
from datasets.class_names import COCO_IDS, COCO_NAMES, as_class_names, describe_unknown_class, translate_old_names
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError
from datasets.image_files import files_below
from datasets.image_io import UnreadableImage, image_size
from datasets.tally import Tally, shorten
from datasets.yolo_config import CLASS_LISTS, LABELS, LIST_FILE, YoloSplit, data_folders, find_yolo_split
from datasets.yolo_paths import read_text

IMAGE_FOLDERS = ("images", "JPEGImages")  # the last of these in an image's path becomes LABELS
COLUMNS = 5
POLYGON_COLUMNS = 7  # a class and three points; more have an odd number too
ROUNDING = 1e-4  # a corner that is so little outside 0..1 comes of writing four decimals or more: it is moved without a word
OUTSIDE = 1e-3  # a centre or a size farther outside 0..1 than this is no fraction
MAX_LABEL_BYTES = 16 * 2**20
MAX_NAMES = 4  # folders named in a message


class YoloTxtDataset(DetectionDataset):
    """One split of a data set with YOLO's text labels; see `DetectionDataset` for samples and ground truth.

    The ground truth's `source_image_ids` are COCO's if the file names end in them (the number after the last `_`, as in
    COCO_val2014_000000000042.jpg) and all differ, else 1..n; `category_ids` are COCO's if the classes are.

    Args:
        root: a .data file, a data.yaml, an image list (.txt, taken whole as the split), or a folder, see yolo_config.py.
        split: "train", "val" (or "valid") or "test".
        transforms: optional `(image, target) -> (image, target)`.
        class_names: names in label order, or path of a class file; the data set's classes are then mapped by name, or, where it
            names none, class index k is name k of this list. By default the data set's own names.
        drop_empty: leave out images without objects to train on.
        skip_unknown: drop objects of classes outside the class list instead of stopping.
        polygon_boxes: take the box around a polygon instead of stopping.
        allow_outside: follow paths and links that lead out of the folder given, or the folder of the file given.
        strict: raise on a fault that stops; else keep it in `faults`.

    Raises:
        FileNotFoundError: no such split, or no label file at all; the message says where it was looked for.
        InputError: a file that stops, by file and line.
    """

    def __init__(self, root: str | os.PathLike, split: str = "train", transforms: Callable | None = None, *,
                 class_names: Sequence[str] | str | os.PathLike | None = None, drop_empty: bool = False,
                 skip_unknown: bool = False, polygon_boxes: bool = False, allow_outside: bool = False, strict: bool = True):
        names = None if class_names is None else as_class_names(class_names)
        boundary = Boundary(*data_folders(Path(root)), allow_outside=allow_outside)
        table, faults = read_yolo(Path(root), split, names, skip_unknown, polygon_boxes, boundary)
        super().__init__(table, faults, transforms, drop_empty=drop_empty, strict=strict)


def read_yolo(root: Path, split: str, class_names: list[str] | None = None, skip_unknown: bool = False,
              polygon_boxes: bool = False, boundary: Boundary | None = None) -> tuple[AnnotationTable, list[Fault]]:
    """Annotations of one split and all their faults; a fault that stops is listed, or raised if nothing can follow."""
    boundary = boundary or Boundary(*data_folders(root))
    found = find_yolo_split(root, split, boundary)
    own = found.class_names or class_names
    if own is None:
        raise InputError(f"nothing says the class names of {root}; put a file obj.names or classes.txt there, one name per line, "
                         "or the line `names: [...]` into data.yaml, or give a class list (--classes)")
    class_names = class_names or own
    raw, faults = RawAnnotations(object_word="line"), list(found.faults)
    lines = _LineReader(own, class_names, DROP_OBJECT if skip_unknown else STOP, polygon_boxes, raw)
    labels = _LabelFiles(boundary)
    for image in found.images:
        try:
            height, width = image_size(image)
        except UnreadableImage as error:
            faults.append(Fault(image, "", "unreadable image", str(error), DROP_IMAGE))
            continue
        path, text = labels.read(image, faults)
        raw.add_image(image, height, width, len(raw.paths) + 1, path)
        if text is None:
            faults.append(Fault(image, "", "no label file, taken as background", f"there is no {path}", FIX))
        else:
            lines.add(text, path, height, width)
    _check_labels_found(labels, found)
    raw.source_image_ids = coco_image_ids(raw.paths) or raw.source_image_ids
    faults += lines.judge(found.source) + labels.without_image(found)
    table, box_faults = build_table(raw, class_names, coco_category_ids(class_names))
    return table, faults + box_faults


def label_path(image: str) -> str:
    """Path of the labels of an image: as .txt, with the last folder `images` (or `JPEGImages`) replaced by `labels`."""
    *folders, name = image.split(os.sep)
    places = [k for k, folder in enumerate(folders) if folder in IMAGE_FOLDERS]
    if places:
        folders[places[-1]] = LABELS
    return os.sep.join([*folders, os.path.splitext(name)[0] + ".txt"])


def coco_image_ids(images: Sequence[str]) -> list[int] | None:
    """The numbers after the last `_` of the file names, COCO's habit; None if one has none, or two have the same."""
    stems = [os.path.splitext(os.path.basename(image))[0] for image in images]
    tails = [stem.rpartition("_")[2] for stem in stems]
    if not all(re.fullmatch(r"[0-9]{1,18}", tail) for tail in tails):
        return None
    numbers = [int(tail) for tail in tails]
    return numbers if len(set(numbers)) == len(numbers) else None


def coco_category_ids(class_names: Sequence[str]) -> list[int] | None:
    """COCO's 80 category ids if these are COCO's names, in either spelling; else None."""
    return list(COCO_IDS) if tuple(translate_old_names(class_names, COCO_NAMES)) == COCO_NAMES else None


class _LabelFiles:
    """Reads the label file of each image, and remembers which there were."""

    def __init__(self, boundary: Boundary):
        self.boundary = boundary
        self.read_files: set[str] = set()
        self.tried: dict[str, None] = {}  # folders looked in, in their order

    def read(self, image: str, faults: list[Fault]) -> tuple[str, str | None]:
        """(path of the labels, their text); None where there is no file, "" with a fault where it cannot be used."""
        first, beside = label_path(image), os.path.splitext(image)[0] + ".txt"
        for path in dict.fromkeys((first, beside)):
            self.tried[os.path.dirname(path)] = None
            if not os.path.exists(path):
                continue
            self.read_files.add(path)
            try:
                self.boundary.check(path, path)
                return path, read_text(path, MAX_LABEL_BYTES)
            except FaultError as error:
                faults.append(error.fault)
            except InputError as error:
                detail = str(error).removeprefix(path).lstrip(": ")
                faults.append(Fault(path, "", "label file that cannot be read", detail, STOP))
            return path, ""
        return first, None

    def without_image(self, found: YoloSplit) -> list[Fault]:
        """A fault for every label file of no image, in the trees of labels that belong to the split's whole folders."""
        faults: list[Fault] = []
        expected = {label_path(image) for image in found.images} | self.read_files
        paths = [path for tree in self._trees(found.folders) for path in files_below(tree, self.boundary, faults)]
        odd = [path for path in paths if path.endswith(LIST_FILE) and path not in expected
               and os.path.basename(path) not in CLASS_LISTS]
        read = {os.path.realpath(path) for path in self.read_files} if odd else set()  # through a link
        faults += [Fault(path, "", "label file without image", "add the image, or remove the file", WARN)
                   for path in sorted(odd) if os.path.realpath(path) not in read]
        return faults

    def _trees(self, image_folders: Sequence[str]) -> list[str]:
        """Folders of labels, none within another: those of whole folders of images, and those of the files read."""
        own = [(folder, os.path.dirname(label_path(os.path.join(folder, "")))) for folder in image_folders]
        folders = {labels for images, labels in own if labels != images} | {os.path.dirname(path) for path in self.read_files}
        trees: list[str] = []
        for tree in sorted(os.path.join(folder, "") for folder in folders) if image_folders else []:
            if not trees or not tree.startswith(trees[-1]):  # sorted, so a folder comes right before those in it
                trees.append(tree)
        return trees


class _LineReader:
    """Parses label files into `raw`; `judge` tells afterwards what was wrong with them."""

    def __init__(self, own: Sequence[str], class_names: Sequence[str], unknown_action: str, polygon_boxes: bool,
                 raw: RawAnnotations):
        labels = {name: k + 1 for k, name in enumerate(class_names)}
        self.own, self.class_names, self.raw = own, class_names, raw
        self.label_of = {k: labels[name] for k, name in enumerate(own) if name in labels}  # class index -> label
        self.unknown_action, self.polygon_boxes = unknown_action, polygon_boxes
        self.seen: set[int] = set()  # class indices
        self.tally = Tally()
        self.faults: list[Fault] = []
        self.far: list[Fault] = []

    def add(self, text: str, path: str, height: int, width: int) -> None:
        """All boxes of the image that was added last; height, width: its size."""
        for number, line in enumerate(text.splitlines(), start=1):
            cells = line.split() if "," not in line else self._without_commas(line, path, number)
            if not cells:
                continue
            is_polygon = self.polygon_boxes and len(cells) >= POLYGON_COLUMNS and len(cells) % 2 == 1
            if len(cells) != COLUMNS and not is_polygon:
                self.faults.append(_misshapen(path, number, len(cells)))
                continue
            label = self._label(cells[0], path, number)
            values = [parse_number(cell) for cell in cells[1:]]
            if any(abs(value - 0.5) > 0.5 + OUTSIDE for value in values):  # false for NaN, which the policy deals with
                detail = f"{shorten(cells[1:])} are no fractions of the image; write values in 0..1, not pixels"
                self.far.append(Fault(path, f"line {number}", "value outside 0..1", detail, DROP_OBJECT))
                continue
            if is_polygon:
                self.tally.add(path, f"line {number}", "polygon, the box around it taken", f"it has {len(values) // 2} points")
                values = _box_around(values)
            if label is not None:
                self.raw.add_object(len(self.raw.paths) - 1, _to_pixels(values, height, width), label, number)

    def judge(self, source: str) -> list[Fault]:
        """All faults; first those of the whole set, which explain the others."""
        first, far = [], self.far
        if self.seen and 0 not in self.seen and max(self.seen) == len(self.own):
            detail = (f"the classes run from {min(self.seen)} to {len(self.own)}, as if counted from 1; subtract 1: label files "
                      "count from 0")
            first.append(Fault(source, "", "classes counted from 1", detail, STOP))
        if len(far) > len(self.raw.boxes):
            place = f"{far[0].file}, {far[0].where}"
            detail = f"most boxes have values outside 0..1, the first in {place}; write fractions of the image, not pixels"
            first, far = [*first, Fault(source, "", "boxes of another convention", detail, STOP)], []
        return first + self.faults + self.tally.faults() + far

    def _label(self, cell: str, path: str, number: int) -> int | None:
        index = parse_integer(cell)
        if index is not None:
            self.seen.add(index)
        if index in self.label_of:
            return self.label_of[index]
        if index is not None and 0 <= index < len(self.own):
            detail = describe_unknown_class(self.own[index], self.class_names)
        else:
            count = len(self.own)
            detail = f"the class {cell[:80]} is none of the {count} classes 0..{count - 1}; correct it, or the class list"
        self.faults.append(Fault(path, f"line {number}", "unknown class", detail, self.unknown_action))
        return None

    def _without_commas(self, line: str, path: str, number: int) -> list[str]:
        """The cells of a line with commas, which stand between the numbers if that makes as many as there should be."""
        cells, kind = re.split(r"[,\s]+", line.strip()), "comma between numbers, read as a blank"
        if len(cells) != COLUMNS:
            cells, kind = line.replace(",", ".").split(), "decimal comma, read as a point"
        if len(cells) == COLUMNS:
            self.tally.add(path, f"line {number}", kind, f"the line is {shorten(line.strip())}")
        return cells


def _misshapen(path: str, number: int, count: int) -> Fault:
    where, counts = f"line {number}", f"{count} columns instead of {COLUMNS} (class, centre x, centre y, width, height)"
    if count < COLUMNS:
        return Fault(path, where, "line with too few columns", f"{counts}; complete the line or remove it", DROP_OBJECT)
    if count >= POLYGON_COLUMNS and count % 2 == 1:
        detail = f"{counts}; a polygon is no box: add --polygon-boxes to take the box around it"
        return Fault(path, where, "polygon instead of a box", detail, STOP)
    seems = "remove the confidence at the end" if count == COLUMNS + 1 else "correct the line"
    return Fault(path, where, "line with too many columns", f"{counts}; {seems}", STOP)


def _box_around(points: Sequence[float]) -> tuple[float, float, float, float]:
    """(centre x, centre y, width, height) of the points x, y, x, y, ...; NaN where one of them is NaN."""
    points = np.array(points).reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)  # NaN spreads
    return *((low + high) / 2).tolist(), *(high - low).tolist()


def _to_pixels(box_cxcywh: Sequence[float], height: int, width: int) -> tuple[float, float, float, float]:
    """xyxy pixels of fractions; NaN stays NaN."""
    x, y, w, h = box_cxcywh
    return (_snap(x - w / 2) * width, _snap(y - h / 2) * height, _snap(x + w / 2) * width, _snap(y + h / 2) * height)


def _snap(corner: float) -> float:
    if -ROUNDING <= corner < 0:
        return 0.0
    return 1.0 if 1 < corner <= 1 + ROUNDING else corner


def _check_labels_found(labels: _LabelFiles, found: YoloSplit) -> None:
    """A split without any label file is taken for a wrong path: training on background alone ends in nothing."""
    if labels.tried and not labels.read_files:
        folders = ", ".join(folder or os.curdir for folder in [*labels.tried][:MAX_NAMES])
        more = ", ..." if len(labels.tried) > MAX_NAMES else ""
        raise FileNotFoundError(f"none of the {len(found.images)} images of {found.source} has a label file; looked in {folders}"
                                f"{more}")
