"""Open Images: one CSV file of boxes per split, as published or as cut down by jetson's downloader (`sub-...csv`).

Only parsing happens here; what is done about faulty boxes is decided in annotations.py. Coordinates are fractions of the
image's sides and become pixels by the size in the image's header. The images of a split are those that its CSV names.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

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
    stop_on_faults,
)
from datasets.boundary import Boundary
from datasets.class_names import (
    MAX_SHOWN,
    NO_TEXT,
    as_class_names,
    check_class_names,
    describe_unknown_class,
    without_case_variants,
)
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError
from datasets.image_files import IMAGE_SUFFIXES, ImageFolder, is_file_name, require_inside
from datasets.image_io import UnreadableImage, image_size
from datasets.open_images_csv import Row, names_in, read_csv, read_rows
from datasets.tally import Tally, shorten

CSV_SUFFIX = "-annotations-bbox.csv"
CSV_NAME = re.compile(f"(sub-|oidv6-|)(.+){re.escape(CSV_SUFFIX)}")
CSV_PREFIXES = ("oidv6-", "", "sub-")  # of two files of a split the one whose prefix is last here counts
SPLIT_NAMES = (("validation", "val", "valid"),)  # of one split; the first is the publisher's own
DESCRIPTIONS = "*class-descriptions*.csv"
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
        allow_outside: follow paths and links that lead out of `root`.
        strict: raise on a fault that stops; else keep it in `faults`.

    Raises:
        FileNotFoundError: no such split or image folder; the message shows what was expected.
        InputError: a file that stops, by file and line.
    """

    def __init__(self, root: str | os.PathLike, split: str = "train", transforms: Callable | None = None, *,
                 class_names: Sequence[str] | str | os.PathLike | None = None, group_boxes: bool = False,
                 drop_empty: bool = False, skip_unknown: bool = False, allow_outside: bool = False, strict: bool = True):
        names = None if class_names is None else as_class_names(class_names)
        boundary = Boundary(root, allow_outside=allow_outside)
        table, faults = read_open_images(Path(root), split, names, group_boxes, skip_unknown, boundary)
        super().__init__(table, faults, transforms, drop_empty=drop_empty, strict=strict)


def is_open_images_folder(root: str | os.PathLike) -> bool:
    """Whether `root` holds the boxes of any split."""
    return bool(_csv_files(Path(root)))


def find_open_images_split(root: Path, split: str) -> tuple[Path, Path]:
    """(CSV file of the boxes, folder of the images) of a split; the cut down `sub-` file before the published one."""
    split = split.removesuffix(".txt")
    names = [split, *next((names for names in SPLIT_NAMES if split in names), ())]
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
                     skip_unknown: bool = False, boundary: Boundary | None = None) -> tuple[AnnotationTable, list[Fault]]:
    """Annotations of one split and all their faults; a fault that stops is listed, or raised if nothing can follow."""
    path, folder = find_open_images_split(root, split)
    boundary = boundary or Boundary(root)
    for place in (path, folder):
        require_inside(boundary, place)
    descriptions_file = min((file for file in root.glob(DESCRIPTIONS) if not file.name.startswith(".")), default=None)
    descriptions, hint = _read_descriptions(descriptions_file, boundary), ""
    if class_names is None:
        class_names = _find_class_names(root, path, descriptions, descriptions_file, boundary)
        hint = "; if both are classes, give the class list (--classes)"  # only a variant of a name can be unknown then
    faults: list[Fault] = []
    tally, raw, images = Tally(), RawAnnotations(object_word="line"), _Images(path, folder, boundary, faults)
    labels, unknown_action = {name: k + 1 for k, name in enumerate(class_names)}, DROP_OBJECT if skip_unknown else STOP
    far: list[Fault] = []
    num_rows = 0
    for row in read_rows(path, descriptions, faults, tally):
        num_rows += 1
        index = images.index_of(row, raw)
        if index is None:
            continue  # reported with its image
        if row.class_name not in labels:
            detail = _describe_class(row, class_names, descriptions_file, hint)
            faults.append(Fault(str(path), f"line {row.line}", "unknown class", detail, unknown_action))
        elif any(abs(value - 0.5) > 0.5 + FAR for value in row.corners):
            detail = f"the corners {list(row.corners)} are no fractions of the image; write values in 0..1, not pixels"
            far.append(Fault(str(path), f"line {row.line}", "corner far outside 0..1", detail, DROP_OBJECT))
        else:
            width, height = raw.widths[index], raw.heights[index]
            box = (row.corners[0] * width, row.corners[1] * height, row.corners[2] * width, row.corners[3] * height)
            raw.add_object(index, box, labels[row.class_name], row.line, iscrowd=row.is_group and not group_boxes)
    faults += _judge(far, len(raw.boxes), path)
    if num_rows == 0 and not faults:  # else the rows are at fault, and the faults say how
        faults.append(_header_only(path, split, images, raw))
    _check_not_empty(raw, path, folder, faults)
    table, box_faults = build_table(raw, class_names)
    return table, faults + tally.faults() + box_faults


def _describe_class(row: Row, class_names: list[str], descriptions_file: Path | None, hint: str) -> str:
    if row.class_name:
        return describe_unknown_class(row.class_name, class_names) + hint
    if row.label_name:
        return f'the LabelName "{row.label_name[:MAX_SHOWN]}" is not in the class descriptions {descriptions_file}; add it there'
    return "the row names no class"


def _read_descriptions(path: Path | None, boundary: Boundary) -> dict[str, str]:
    """LabelName -> ClassName; empty where there is no such file, so that a LabelName stands for itself."""
    if path is None:
        return {}
    require_inside(boundary, path)
    names = {cells[0].strip(): cells[1].strip() for _, cells in read_csv(path) if len(cells) > 1}
    unusable = next((name for name in names.values() if NO_TEXT.search(name)), None)
    if unusable is not None:
        raise InputError(f"{path}: the class name {shorten(unusable)} holds a line end or a control character; correct it")
    return names


def _find_class_names(root: Path, path: Path, descriptions: dict[str, str], descriptions_file: Path | None,
                      boundary: Boundary) -> list[str]:
    """Names in all splits, of `sub-` files only if there are any. Other splits' broken files are told when opened."""
    files = set(_csv_files(root).values())
    cut_down = {file for file in files if file.name.startswith("sub-")}
    counts: Counter[str] = Counter()
    for other in {path, *(cut_down or files)}:
        try:
            counts += names_in(other, descriptions) if boundary.contains(other) else Counter()
        except InputError:
            if other == path:
                raise
    if not counts:
        named = f" whose class {descriptions_file} names" if descriptions_file else ""
        raise InputError(f"neither {path} nor another box file there holds a box{named}, so there are no classes to learn; give "
                         "a class list if that is intended")
    return check_class_names(sorted(without_case_variants(counts)), f"{path} with the other box files")


class _Images:
    """Gives the images of a file their index, when they are first named; every image is looked for once."""

    def __init__(self, path: Path, folder: Path, boundary: Boundary, faults: list[Fault]):
        self.path, self.folder, self.boundary, self.faults = path, ImageFolder(folder), boundary, faults
        self.by_id: dict[str, int | None] = {}  # None: not usable
        self.by_file: dict[str, int] = {}

    def index_of(self, row: Row, raw: RawAnnotations) -> int | None:
        """Index of the image of a row, added to `raw` if it is new; None, with a fault, if it cannot be used."""
        if row.image_id not in self.by_id:
            self.by_id[row.image_id] = self.add(row.image_id, f"line {row.line}", raw)
        return self.by_id[row.image_id]

    def add(self, image_id: str, where: str, raw: RawAnnotations) -> int | None:
        """Adds one image, if it can be used and is not there under another id."""
        try:
            file = self._find(image_id, where)
            if file not in self.by_file:
                height, width = image_size(file)
                self.by_file[file] = len(raw.paths)
                raw.add_image(file, height, width, len(raw.paths) + 1, str(self.path))
            return self.by_file[file]
        except FaultError as error:
            self.faults.append(error.fault)
        except UnreadableImage as error:
            self.faults.append(Fault(file, "", "unreadable image", str(error), DROP_IMAGE))
        return None

    def _find(self, image_id: str, where: str) -> str:
        """An id may carry a suffix, or folders before it that count only if they exist within the data folder."""
        *parents, name = image_id.replace("\\", "/").removeprefix("./").split("/")
        stem, suffix = os.path.splitext(name)
        name = stem if suffix.lower() in IMAGE_SUFFIXES else name
        found, below = None, "/".join([*parents, name])
        if is_file_name(image_id):
            path = os.path.join(str(self.folder.folder), below)
            found = self.folder.find(below) if self.boundary.contains(path) else None
            found = found or self.folder.find(name)
            self.boundary.check(found or path, self.path, where)
        if found is None:
            detail = f"there is no image {shorten(image_id)} in {self.folder.folder}; download it, or remove its rows"
            raise FaultError(Fault(str(self.path), where, "image missing", detail, DROP_IMAGE))
        return found


def _header_only(path: Path, split: str, images: _Images, raw: RawAnnotations) -> Fault:
    """A split without boxes is legal, but for training; its images are those in its folder."""
    if split.removesuffix(".txt") == "train":
        raise InputError(f"{path} holds a header only, so there is nothing to train on; add its boxes, or take another split")
    for stem in images.folder.stems():
        images.add(stem, "", raw)
    detail = f"there are no boxes; the {len(raw.paths)} images in {images.folder.folder} are taken as background"
    return Fault(str(path), "", "header only", detail, WARN)


def _judge(far: list[Fault], num_near: int, path: Path) -> list[Fault]:
    """Some corners far outside are errors of their rows; if most are, the file means something else by its numbers."""
    if len(far) <= num_near:
        return far
    detail = f"most boxes lie far outside 0..1, the first in {far[0].where}; write fractions of the image's sides, not pixels"
    return [Fault(str(path), "", "boxes of another convention", detail, STOP)]


def _check_not_empty(raw: RawAnnotations, path: Path, folder: Path, faults: list[Fault]) -> None:
    lost = [fault for fault in faults if fault.action == DROP_IMAGE]
    if lost and not raw.paths:
        stop_on_faults(faults)
        raise FileNotFoundError(f"none of the {len(lost)} images of {path} can be read from {folder}; {lost[0].detail}")
    if faults and not raw.paths:
        raise InputError(f"{path} leads to no image that can be used; {faults[0]}")


def _csv_files(root: Path) -> dict[str, Path]:
    """Name of a split -> its box file."""
    matches = [CSV_NAME.fullmatch(file.name) for file in root.glob(f"*{CSV_SUFFIX}") if not file.name.startswith(".")]
    ranked = sorted((CSV_PREFIXES.index(match[1]), match[2], match[0]) for match in matches if match)
    return {split: root / name for _, split, name in ranked}
