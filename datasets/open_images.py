"""Open Images: one CSV file of boxes per split, as published or as cut down by jetson's downloader (`sub-...csv`).

Only parsing happens here; what is done about faulty boxes is decided in annotations.py. Coordinates are fractions of the
image's sides and become pixels by the size in the image's header. The images of a split are those that its CSV names.
"""

import csv
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.annotations import (
    DROP_IMAGE,
    DROP_OBJECT,
    FIX,
    STOP,
    AnnotationTable,
    Fault,
    RawAnnotations,
    build_table,
    parse_integer,
    parse_number,
    stop_on_faults,
)
from datasets.class_names import as_class_names, describe_unknown_class
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError
from datasets.image_files import IMAGE_SUFFIXES, ImageFolder
from datasets.image_io import UnreadableImage, image_size

CSV_SUFFIX = "-annotations-bbox.csv"
CSV_NAME = re.compile(f"(sub-|oidv6-|)(.+){re.escape(CSV_SUFFIX)}")
CSV_PREFIXES = ("oidv6-", "", "sub-")  # of two files of a split the one whose prefix is last here counts
OTHER_NAME = {"val": "validation", "validation": "val"}
DESCRIPTIONS = "*class-descriptions*.csv"
COORDINATES = ("XMin", "YMin", "XMax", "YMax")
NEEDED = ("ImageID", *COORDINATES)
FAR = 1.0  # a corner farther outside 0..1 than the image's side is no fraction at all
EXPECTED_TREE = """\
    {0}/
        sub-train-annotations-bbox.csv, sub-validation-..., sub-test-... (or the same without "sub-")
        class-descriptions-boxable.csv (where the boxes have no column ClassName)
        train/*.jpg, validation/*.jpg, test/*.jpg"""


class OpenImagesDataset(DetectionDataset):
    """One split in Open Images layout; see `DetectionDataset` for samples and ground truth.

    Args:
        root: folder with `sub-train-annotations-bbox.csv` or `train-annotations-bbox.csv`, and `train/`.
        split: "train", "validation" (or "val") or "test".
        transforms: optional `(image, target) -> (image, target)`.
        class_names: list of names, or path of a class file; by default all names in the files of all splits, sorted, so
            that a class which one split lacks shifts nothing.
        group_boxes: take boxes around groups (IsGroupOf) as objects; by default they are crowd regions: not trained on,
            and ignored in evaluation.
        drop_empty: leave out images without objects to train on.
        skip_unknown: drop objects of classes outside the class list instead of stopping.

    Raises:
        FileNotFoundError: no such split or image folder; the message shows what was expected.
        InputError: a file that stops, by file and line.
    """

    def __init__(self, root: str | os.PathLike, split: str = "train", transforms: Callable | None = None, *,
                 class_names: Sequence[str] | str | os.PathLike | None = None, group_boxes: bool = False,
                 drop_empty: bool = False, skip_unknown: bool = False):
        names = None if class_names is None else as_class_names(class_names)
        table, faults = read_open_images(Path(root), split, names, group_boxes, skip_unknown)
        super().__init__(table, faults, transforms, drop_empty=drop_empty)


def is_open_images_folder(root: str | os.PathLike) -> bool:
    """Whether `root` holds the boxes of any split."""
    return bool(_csv_files(Path(root)))


def find_open_images_split(root: Path, split: str) -> tuple[Path, Path]:
    """(CSV file of the boxes, folder of the images) of a split; the cut down `sub-` file before the published one."""
    split = split.removesuffix(".txt")
    names = [split, OTHER_NAME.get(split, split)]
    files = _csv_files(root)
    if not files:
        problem = "holds no boxes of Open Images" if root.is_dir() else "does not exist"
        raise FileNotFoundError(f"the data path {root} {problem}; expected is\n{EXPECTED_TREE.format(root)}")
    path = next((files[name] for name in names if name in files), None)
    if path is None:
        raise FileNotFoundError(f"the box file {root / f'sub-{split}{CSV_SUFFIX}'} does not exist; splits found: "
                                f"{', '.join(files)}")
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"{path} is there, but not the folder of its images {root / split}; expected is\n"
                                f"{EXPECTED_TREE.format(root)}")
    return path, folder


def read_open_images(root: Path, split: str, class_names: list[str] | None = None, group_boxes: bool = False,
                     skip_unknown: bool = False) -> tuple[AnnotationTable, list[Fault]]:
    """Annotations of one split and all their faults; a fault that stops is listed, or raised if nothing can follow."""
    path, folder = find_open_images_split(root, split)
    descriptions = _read_descriptions(root)
    class_names = _find_class_names(root, path, descriptions) if class_names is None else class_names
    faults: list[Fault] = []
    raw, images = RawAnnotations(object_word="line"), _Images(path, folder, faults)
    labels, unknown_action = {name: k + 1 for k, name in enumerate(class_names)}, DROP_OBJECT if skip_unknown else STOP
    far: list[Fault] = []
    num_rows = 0
    for row in _rows(path, descriptions, faults):
        num_rows += 1
        index = images.index_of(row, raw)
        if index is None:
            continue  # reported with its image
        if row.class_name not in labels:
            detail = _describe_class(row, class_names)
            faults.append(Fault(str(path), f"line {row.line}", "unknown class", detail, unknown_action))
        elif any(abs(value - 0.5) > 0.5 + FAR for value in row.corners):
            detail = f"the corners {list(row.corners)} are no fractions of the image; write values in 0..1, not pixels"
            far.append(Fault(str(path), f"line {row.line}", "corner far outside 0..1", detail, DROP_OBJECT))
        else:
            width, height = raw.widths[index], raw.heights[index]
            box = (row.corners[0] * width, row.corners[1] * height, row.corners[2] * width, row.corners[3] * height)
            raw.add_object(index, box, labels[row.class_name], row.line, iscrowd=row.is_group and not group_boxes)
    faults += _judge(far, len(raw.boxes), path)
    _check_not_empty(num_rows, raw, path, folder, faults)
    table, box_faults = build_table(raw, class_names)
    return table, faults + box_faults


def _describe_class(row: "Row", class_names: list[str]) -> str:
    if row.class_name:
        return describe_unknown_class(row.class_name, class_names)
    return f'the LabelName "{row.label_name}" is not in the class descriptions; add it there' if row.label_name else (
        "the row names no class")


class Row(NamedTuple):
    """One box as it stands in the file: corners xmin, ymin, xmax, ymax, NaN where there is no number."""

    line: int
    image_id: str
    class_name: str  # blank where the file and the class descriptions give none
    label_name: str
    corners: tuple[float, float, float, float]
    is_group: bool


class _Columns(NamedTuple):
    """Where a file has what: numbers of cells, None for a column that it lacks."""

    count: int
    image: int
    corners: list[int]
    class_name: int | None
    label_name: int | None
    group: int | None

    def class_of(self, cells: list[str], descriptions: dict[str, str]) -> tuple[str, str]:
        """(class name, LabelName) of a row; blank where there is none."""
        name = cells[self.class_name].strip() if self.class_name is not None else ""
        label = cells[self.label_name].strip() if self.label_name is not None else ""
        return name or (descriptions.get(label, "") if descriptions else label), label


def _read_header(path: Path, header: list[str]) -> _Columns:
    column = {name.strip().lower(): k for k, name in reversed(list(enumerate(header)))}  # of equal names the first counts
    missing = [name for name in NEEDED if name.lower() not in column]
    if "classname" not in column and "labelname" not in column:
        missing.append("ClassName (or LabelName)")
    if missing:
        found = ", ".join(name.strip() or "(blank)" for name in header) or "nothing: the file is empty"
        raise InputError(f"{path}, line 1: no column {', '.join(missing)}; found: {found}")
    image, *corners = (column[name.lower()] for name in NEEDED)
    return _Columns(len(header), image, corners, *map(column.get, ("classname", "labelname", "isgroupof")))


def _rows(path: Path, descriptions: dict[str, str], faults: list[Fault]) -> Iterator[Row]:
    """The boxes of a file, whatever the order of its columns.

    Raises:
        InputError: no text file, no header, or columns missing.
    """
    lines = _csv_rows(path)
    columns = _read_header(path, next(lines, (1, []))[1])
    for line, cells in lines:
        if len(cells) < columns.count or any(cells[columns.count :]):
            faults.append(_misshapen(path, line, len(cells), columns.count))
            continue
        values = tuple([parse_number(cells[k]) for k in columns.corners])
        if any(map(math.isnan, values)):
            values = _read_decimal_commas([cells[k] for k in columns.corners], values, path, line, faults)
        is_group = columns.group is not None and parse_integer(cells[columns.group]) == 1
        yield Row(line, cells[columns.image].strip(), *columns.class_of(cells, descriptions), values, is_group)


def _misshapen(path: Path, line: int, found: int, expected: int) -> Fault:
    counts = f"{found} cells for {expected} columns"
    if found < expected:
        return Fault(str(path), f"line {line}", "row with too few cells", f"{counts}; complete the row or remove it", DROP_OBJECT)
    # An unquoted decimal comma moves all cells behind it: what they mean would be a guess.
    detail = f"{counts}; put decimal commas in quotes, or write points"
    return Fault(str(path), f"line {line}", "row with too many cells", detail, STOP)


def _read_decimal_commas(cells: list[str], values: tuple, path: Path, line: int, faults: list[Fault]) -> tuple:
    reread = tuple(parse_number(cell.replace(",", ".", 1)) for cell in cells)
    if sum(map(math.isnan, reread)) == sum(map(math.isnan, values)):
        return values
    faults.append(Fault(str(path), f"line {line}", "decimal comma, read as a point", f"the numbers are {cells}", FIX))
    return reread


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, cells) of all rows that are not blank; the separator is that of the first line."""
    line = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            for cells in reader:
                line = reader.line_num
                if cells:
                    yield line, cells
    except csv.Error as error:
        raise InputError(f"{path}, line {line + 1}: cannot be read as CSV ({error}); correct it") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot open this file ({error.strerror})") from error


def _read_descriptions(root: Path) -> dict[str, str]:
    """LabelName -> ClassName; empty where there is no such file, so that a LabelName stands for itself."""
    path = min((file for file in root.glob(DESCRIPTIONS) if not file.name.startswith(".")), default=None)
    if path is None:
        return {}
    return {cells[0].strip(): cells[1].strip() for _, cells in _csv_rows(path) if len(cells) > 1}


def _find_class_names(root: Path, path: Path, descriptions: dict[str, str]) -> list[str]:
    """Names in all splits, of `sub-` files only if there are any. Other splits' broken files are told when opened."""
    files = set(_csv_files(root).values())
    cut_down = {file for file in files if file.name.startswith("sub-")}
    names: set[str] = set()
    for other in {path, *(cut_down or files)}:
        try:
            names |= _names_in(other, descriptions)
        except InputError:
            if other == path:
                raise
    if not names:
        raise InputError(f"no box file in {root} holds a box, so there are no classes to learn; give a class list if that is "
                         "intended")
    return sorted(names)


def _names_in(path: Path, descriptions: dict[str, str]) -> set[str]:
    lines = _csv_rows(path)
    columns = _read_header(path, next(lines, (1, []))[1])
    return {columns.class_of(cells, descriptions)[0] for _, cells in lines if len(cells) >= columns.count} - {""}


class _Images:
    """Gives the images of a file their index, when they are first named; every image is looked for once."""

    def __init__(self, path: Path, folder: Path, faults: list[Fault]):
        self.path, self.folder, self.faults = path, ImageFolder(folder), faults
        self.by_id: dict[str, int | None] = {}  # None: not usable
        self.by_file: dict[str, int] = {}

    def index_of(self, row: Row, raw: RawAnnotations) -> int | None:
        """Index of the image of a row, added to `raw` if it is new; None, with a fault, if it cannot be used."""
        if row.image_id not in self.by_id:
            self.by_id[row.image_id] = self._add(row, raw)
        return self.by_id[row.image_id]

    def _add(self, row: Row, raw: RawAnnotations) -> int | None:
        file = self._find(row.image_id)
        if file is None:
            detail = f"there is no image {row.image_id!r} in {self.folder.folder}; download it, or remove its rows"
            self.faults.append(Fault(str(self.path), f"line {row.line}", "image missing", detail, DROP_IMAGE))
            return None
        if file in self.by_file:
            return self.by_file[file]
        try:
            height, width = image_size(file)
        except UnreadableImage as error:
            self.faults.append(Fault(file, "", "unreadable image", str(error), DROP_IMAGE))
            return None
        self.by_file[file] = len(raw.paths)
        raw.add_image(file, height, width, len(raw.paths) + 1, str(self.path))
        return self.by_file[file]

    def _find(self, image_id: str) -> str | None:
        """An id may carry a suffix, or folders before it that count only if they exist within the image folder."""
        *parents, name = image_id.replace("\\", "/").removeprefix("./").split("/")
        stem, suffix = os.path.splitext(name)
        name = stem if suffix.lower() in IMAGE_SUFFIXES else name
        below = None if {"", ".."} & {*parents} or ":" in image_id else self.folder.find("/".join([*parents, name]))
        return below or self.folder.find(name)


def _judge(far: list[Fault], num_near: int, path: Path) -> list[Fault]:
    """Some corners far outside are errors of their rows; if most are, the file means something else by its numbers."""
    if len(far) <= num_near:
        return far
    detail = f"most boxes lie far outside 0..1, the first in {far[0].where}; write fractions of the image's sides, not pixels"
    return [Fault(str(path), "", "boxes of another convention", detail, STOP)]


def _check_not_empty(num_rows: int, raw: RawAnnotations, path: Path, folder: Path, faults: list[Fault]) -> None:
    if num_rows == 0 and not faults:  # else the rows are at fault, and the faults say how
        raise InputError(f"{path} holds a header only, so this split has no image; add its boxes, or take another split")
    lost = [fault for fault in faults if fault.action == DROP_IMAGE]
    if lost and not raw.paths:
        stop_on_faults(faults)
        raise FileNotFoundError(f"none of the {len(lost)} images of {path} can be read from {folder}; {lost[0].detail}")


def _csv_files(root: Path) -> dict[str, Path]:
    """Name of a split -> its box file."""
    matches = [CSV_NAME.fullmatch(file.name) for file in root.glob(f"*{CSV_SUFFIX}") if not file.name.startswith(".")]
    ranked = sorted((CSV_PREFIXES.index(match[1]), match[2], match[0]) for match in matches if match)
    return {split: root / name for _, split, name in ranked}
