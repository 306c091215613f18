"""What every reader shares: faults, parsing of numbers, the cleaning policy for boxes, and the flat table.

A reader (voc.py, coco.py, open_images.py) only parses: it fills `RawAnnotations` and a list of `Fault`s. `build_table`
applies the policy, which is written here and nowhere else:

    coordinate that is not a finite number     drop the object
    corners swapped, width or height zero      drop the object
    partly outside the image                   fix: clip to the image
    wholly outside the image                   drop the object
    same box and class twice in an image       fix: keep one

Boxes are absolute xyxy pixels, used as they stand in the file. Images without objects are ordinary images.
"""

import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from datasets.errors import InputError

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # `float` would also take 1_0 and ４２
WARN, FIX, DROP_OBJECT, DROP_IMAGE, STOP = "warn", "fix", "drop object", "drop image", "stop"


@dataclass(frozen=True)
class Fault:
    """One defect of a data set.

    file: the file at fault; where: "line 12", "object 3", "annotation 17" or ""; kind: words that are equal for equal
    defects; detail: one sentence with the value and the remedy; action: what training does, "warn" (it uses the data as they
    are), "fix", "drop object", "drop image" or "stop"; count: records that it stands for, of which it shows the first.
    """

    file: str
    where: str
    kind: str
    detail: str
    action: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.file}{', ' if self.where else ''}{self.where}: {self.detail}"


class FaultError(Exception):
    """Carries a fault out of the depths of a parser to the reader, which collects it."""

    def __init__(self, fault: Fault):
        super().__init__(str(fault))
        self.fault = fault


def summarise_faults(faults: Iterable[Fault], max_names: int = 3) -> list[str]:
    """One line for each kind of fault: what was done, how often, and the first few places."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.action, fault.kind), []).append(fault)
    verbs = {WARN: "warnings", FIX: "fixed", DROP_OBJECT: "objects dropped", DROP_IMAGE: "images dropped", STOP: "errors"}
    lines = []
    for (action, kind), group in groups.items():
        places = [f"{os.path.basename(fault.file)} {fault.where}".rstrip() for fault in group[:max_names]]
        count = sum(fault.count for fault in group)
        more = ", ..." if count > len(places) else ""
        lines.append(f"{verbs[action]}: {count} x {kind} ({', '.join(places)}{more})")
    return lines


def stop_on_faults(faults: Iterable[Fault]) -> None:
    """Raises InputError with one sentence for the first fault that stops, naming file and place."""
    stops = [fault for fault in faults if fault.action == STOP]
    if stops:
        others = f" (and {len(stops) - 1} more faults that stop)" if len(stops) > 1 else ""
        raise InputError(f"{stops[0]}{others}")


def stop_on_lost_images(faults: Iterable[Fault], limit: int) -> None:
    """Raises InputError if more than `limit` images were dropped: a set of which most is missing is hardly what was meant."""
    lost = [fault for fault in faults if fault.action == DROP_IMAGE]
    count = sum(fault.count for fault in lost)
    if count > limit:
        raise InputError(f"{count} images cannot be used, more than --max-bad-samples {limit}; the first: {lost[0]}; repair or "
                         "remove them, or allow more")


def parse_number(value: object) -> float:
    """A finite float from a JSON number or a plain decimal text; NaN for everything else."""
    if isinstance(value, str):
        value = value.strip()
        if not NUMBER.fullmatch(value):
            return math.nan
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.nan
    return number if math.isfinite(number) else math.nan


def parse_integer(value: object) -> int | None:
    """An int64 from an integral number or text ("7", 7, 7.0); None for everything else."""
    number = parse_number(value)
    if not number.is_integer() or abs(number) >= 2**63:
        return None
    try:
        return int(number) if isinstance(value, float) else int(value)  # float would round above 2 ** 53
    except ValueError:  # a text like "7.0"
        return int(number)


class PackedStrings:
    """An immutable list of strings in two arrays, so that forked workers share its memory instead of copying it."""

    def __init__(self, strings: Iterable[str]):
        encoded = [os.fsencode(string) for string in strings]
        self.ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)
        self.data = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index > 0 else 0
        return os.fsdecode(self.data[start : self.ends[index]].tobytes())


@dataclass
class RawAnnotations:
    """What a reader found, before any cleaning: parallel lists, the first five per image, the others per object.

    A box may hold NaN where the file has no number; an area of NaN stands for "the area of the box"; `sources` names
    the annotation file of an image and `numbers` an object inside it, for messages ("object 3", "annotation 17").
    """

    object_word: str = "object"
    paths: list[str] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    source_image_ids: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    image_index: list[int] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    iscrowd: list[bool] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def add_image(self, path: str, height: int, width: int, source_id: int, source: str) -> None:
        for values, value in zip((self.paths, self.heights, self.widths, self.source_image_ids, self.sources),
                                 (path, height, width, source_id, source)):
            values.append(value)

    def add_object(self, image_index: int, box: tuple, label: int, number: int, area: float = math.nan,
                   iscrowd: bool = False, difficult: bool = False) -> None:
        self.image_index.append(image_index)
        self.boxes.append(box)
        self.labels.append(label)
        self.numbers.append(number)
        self.areas.append(area)
        self.iscrowd.append(iscrowd)
        self.difficult.append(difficult)


@dataclass
class AnnotationTable:
    """All annotations of a data set in flat arrays; objects of image i are rows `offsets[i]:offsets[i + 1]`.

    heights, widths int32 [n]; source_image_ids int64 [n]; category_ids int64 [C] (the file's id of label k + 1);
    boxes float64 [K, 4] as annotated, not clipped; labels int64 [K] in 1..C; area float64 [K] pixels;
    iscrowd, difficult bool [K].
    """

    class_names: list[str]
    category_ids: np.ndarray
    paths: PackedStrings
    heights: np.ndarray
    widths: np.ndarray
    source_image_ids: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    area: np.ndarray
    iscrowd: np.ndarray
    difficult: np.ndarray

    def __len__(self) -> int:
        return len(self.heights)

    @property
    def image_index(self) -> np.ndarray:
        """The image of every object, int64 [K]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))

    def select_images(self, images: np.ndarray) -> "AnnotationTable":
        """The table of some images only (ascending indices), renumbered from 0."""
        counts = np.diff(self.offsets)[images]
        rows = np.isin(self.image_index, images)
        return AnnotationTable(
            self.class_names, self.category_ids, PackedStrings(self.paths[i] for i in images), self.heights[images],
            self.widths[images], self.source_image_ids[images], _offsets(counts), self.boxes[rows], self.labels[rows],
            self.area[rows], self.iscrowd[rows], self.difficult[rows])


def clip_to_images(boxes: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Boxes [K, 4] moved inside their images [0, width] x [0, height]; heights, widths [K] or scalars."""
    limits = np.stack(np.broadcast_arrays(widths, heights, widths, heights), axis=-1)  # [K, 4]
    return np.clip(boxes, 0, limits)


def find_box_faults(boxes: np.ndarray, labels: np.ndarray, iscrowd: np.ndarray, image_index: np.ndarray,
                    heights: np.ndarray, widths: np.ndarray,
                    place: Callable[[int], tuple[str, str]]) -> tuple[np.ndarray, list[Fault]]:
    """The cleaning policy: which objects stay, and a fault for everything that is not in order.

    Args:
        boxes: float64 [K, 4], NaN where the file has no number; labels, iscrowd, image_index: [K].
        heights, widths: of the image of each object, [K].
        place: (file, where) of object k, for messages.

    Returns:
        keep: bool [K]; faults: in the order of the policy.
    """
    finite = np.isfinite(boxes).all(axis=1)
    left, top, right, bottom = boxes.T
    swapped = finite & ((right < left) | (bottom < top))
    clipped = clip_to_images(boxes, heights, widths)
    # Width and height as training sees them: a sliver far from the origin can vanish in float32 only.
    with np.errstate(over="ignore"):  # 1e300 becomes infinite, which lies outside any image
        empty = finite & ~swapped & ~_has_size(boxes.astype(np.float32))
    outside = finite & ~swapped & ~empty & ~_has_size(clipped.astype(np.float32))
    keep = finite & ~swapped & ~empty & ~outside
    # Rows sorted so that equal objects are neighbours, the earliest first; the others of each run are repetitions.
    rows = np.flatnonzero(keep)
    keys = np.column_stack([image_index[rows], labels[rows], iscrowd[rows], boxes[rows]])
    order = np.lexsort([rows, *keys.T[::-1]])
    repeated = np.zeros(len(boxes), dtype=bool)
    repeated[rows[order[1:]]] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    keep &= ~repeated
    overhanging = keep & (clipped != boxes).any(axis=1)

    policy = [
        (~finite, "coordinate that is not a number", "is not four finite numbers", DROP_OBJECT),
        (swapped, "box with swapped corners", "has max below min", DROP_OBJECT),
        (empty, "box of zero size", "has no width or no height", DROP_OBJECT),
        (outside, "box outside the image", "lies outside the image", DROP_OBJECT),
        (repeated, "same box and class twice, one kept", "repeats another object", FIX),
        (overhanging, "box clipped to the image", "reaches outside the image", FIX),
    ]
    faults = []
    for mask, kind, complaint, action in policy:
        for k in np.flatnonzero(mask):
            size = f"{widths[k]}x{heights[k]}"
            detail = f"the box {[float(f'{v:.6g}') for v in boxes[k]]} {complaint} ({size}); correct it"
            faults.append(Fault(*place(k), kind, detail, action))
    return keep, faults


def build_table(raw: RawAnnotations, class_names: list[str],
                category_ids: list[int] | None = None) -> tuple[AnnotationTable, list[Fault]]:
    """Cleans what a reader found and packs it; `category_ids` are 1..C where the format has none."""
    heights, widths = np.array(raw.heights, dtype=np.int32), np.array(raw.widths, dtype=np.int32)
    order = np.argsort(np.array(raw.image_index, dtype=np.int64), kind="stable")  # objects of an image side by side
    image_index = np.array(raw.image_index, dtype=np.int64)[order]
    boxes = np.array(raw.boxes, dtype=np.float64).reshape(-1, 4)[order]
    labels = np.array(raw.labels, dtype=np.int64)[order]
    assert len(labels) == 0 or (1 <= labels.min() and labels.max() <= len(class_names))

    def place(k: int) -> tuple[str, str]:
        return raw.sources[image_index[k]], f"{raw.object_word} {raw.numbers[order[k]]}"

    iscrowd = np.array(raw.iscrowd, dtype=bool)[order]
    box_heights, box_widths = heights[image_index], widths[image_index]
    keep, faults = find_box_faults(boxes, labels, iscrowd, image_index, box_heights, box_widths, place)
    area = np.array(raw.areas, dtype=np.float64)[order]
    clipped = clip_to_images(boxes, box_heights, box_widths)
    box_area = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    area = np.where(np.isfinite(area), area, box_area)
    counts = np.bincount(image_index[keep], minlength=len(heights))
    category_ids = range(1, len(class_names) + 1) if category_ids is None else category_ids
    table = AnnotationTable(
        list(class_names), np.array(category_ids, dtype=np.int64), PackedStrings(raw.paths), heights, widths,
        np.array(raw.source_image_ids, dtype=np.int64), _offsets(counts), boxes[keep], labels[keep], area[keep],
        iscrowd[keep], np.array(raw.difficult, dtype=bool)[order][keep])
    return table, faults


def _has_size(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
