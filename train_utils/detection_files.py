"""Detections in the files that other evaluators read and write: COCO's results JSON, and VOC's text file per class.

    detections, notes = read_coco_results("detections.json", ground_truth)
    detections, notes = read_voc_results("results", ground_truth, image_names)   # det_test_<class>.txt, comp4_det_val_<class>.txt

Both give "image_index", "labels" (1..C) int64 [K], "scores" float64 [K], "boxes" float64 [K, 4] xyxy pixels, in the order of the
file, VOC's class by class: of equal scores the first one counts. Coordinates are taken as they stand, and written so. VOC's begin
with pixel 1, like those of its annotations, of which the data set subtracts nothing either.

What belongs to no image or class of the ground truth is left out, and `notes` says so in sentences. COCO's files are written by
`coco_eval.to_coco_json`.
"""

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from train_utils.errors import InputError
from train_utils.voc_eval import check_detections

COCO_KEYS = ("image_id", "category_id", "bbox", "score")
VOC_FILE = re.compile(r"(?:comp\d+_(?:[^_]+_)?)?det_[^_]+_(?P<name>.+)\.txt")  # competition, some tools' salt, split, class
NUM_EXAMPLES = 3


def read_coco_results(path: str | Path, ground_truth: dict) -> tuple[dict, list[str]]:
    """Detections of a JSON list of {"image_id", "category_id", "bbox" x, y, width, height, "score"}, or of a dict that has such a
    list under "annotations".

    Ids may be numbers or text, as long as they are whole.

    Raises:
        FileNotFoundError: no such file.
        InputError: not such a file, an entry that is malformed or not finite, or no entry of a known image and class.
    """
    rows = _load_list(path)
    image_column, category_column, boxes, scores = _coco_columns(path, rows)
    image_index = _look_up(image_column, _index_of(ground_truth["source_image_ids"].tolist(), "images"))
    labels = _look_up(category_column, _index_of(ground_truth["category_ids"].tolist(), "classes")) + 1
    boxes[:, 2:] += boxes[:, :2]
    sides = (
        ("image ids", image_column, image_index >= 0, ground_truth["source_image_ids"]),
        ("category ids", category_column, labels >= 1, ground_truth["category_ids"]),
    )
    notes = [note for note in (_describe_unknown(path, *side) for side in sides) if note]
    keep = (image_index >= 0) & (labels >= 1)
    if len(rows) and not keep.any():
        raise InputError(f"{path}: no detection has both an image and a category of the data set")
    columns = {"image_index": image_index, "labels": labels, "scores": scores, "boxes": boxes}
    return {name: column[keep] for name, column in columns.items()}, notes


def read_voc_results(folder: str | Path, ground_truth: dict, image_names: Sequence[str]) -> tuple[dict, list[str]]:
    """Detections of the files `det_test_<class>.txt` or `comp?_det_<split>_<class>.txt` in a folder.

    A line has image, score, x1, y1, x2, y2, separated by blanks or tabs. Of classes without a file nothing was detected.

    Args:
        image_names: file name without suffix of every image of the ground truth.

    Raises:
        FileNotFoundError: no such folder.
        InputError: no such file in it, two files of one class, a line that is malformed or not finite, or no line of a known
            image and class.
    """
    files, notes = _voc_files(Path(folder), ground_truth["class_names"])
    index_of = _index_of(image_names, "images")
    parts = {"image_index": [], "labels": [], "scores": [], "boxes": []}
    names: list[str] = []
    for label, path in sorted(files.items()):
        own_names, numbers = _read_voc_file(path)
        names += own_names
        parts["image_index"].append(_look_up(own_names, index_of))
        parts["labels"].append(np.full(len(own_names), label, dtype=np.int64))
        parts["scores"].append(numbers[:, 0])
        parts["boxes"].append(numbers[:, 1:])
    columns = {name: np.concatenate(part) for name, part in parts.items()}
    keep = columns["image_index"] >= 0
    unknown = _describe_unknown(folder, "images", names, keep, image_names)
    return {name: column[keep] for name, column in columns.items()}, notes + ([unknown] if unknown else [])


def write_voc_results(folder: str | Path, ground_truth: dict, detections: dict, image_names: Sequence[str]) -> None:
    """Writes `det_test_<class>.txt` of every class, with tabs, unrounded, in the order of the arrays; makes the folder.

    Raises:
        InputError: two images of one name, a class whose name cannot be part of a file name, or see
            `voc_eval.check_detections`.
    """
    check_detections(ground_truth, detections)
    check_voc_names(ground_truth["class_names"], image_names)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.asarray(detections["labels"])
    for label, name in enumerate(ground_truth["class_names"], start=1):
        rows = labels == label
        images = (image_names[index] for index in np.asarray(detections["image_index"])[rows].tolist())
        scores = np.asarray(detections["scores"])[rows].tolist()
        boxes = np.asarray(detections["boxes"]).reshape(-1, 4)[rows].tolist()
        lines = [f"{image}\t{score!r}\t{x1!r}\t{y1!r}\t{x2!r}\t{y2!r}\n"
                 for image, score, (x1, y1, x2, y2) in zip(images, scores, boxes)]
        (folder / f"det_test_{name}.txt").write_text("".join(lines), encoding="utf-8")


def check_voc_names(class_names: Sequence[str], image_names: Sequence[str]) -> None:
    """Refuse data that cannot be written as VOC's files.

    Raises:
        InputError: two images of one name, or a class whose name cannot be part of a file name.
    """
    _index_of(image_names, "images")
    for name in class_names:
        if "/" in name or "\\" in name or "\0" in name:
            raise InputError(f"class {name!r} cannot be part of the name of its file det_test_<class>.txt: rename it in the data")


def _load_list(path: str | Path) -> list[dict]:
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested too deeply
        raise InputError(f"{path}: this is not a JSON text file ({error})") from error
    rows = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise InputError(f"{path}: COCO results are a list of objects with {', '.join(COCO_KEYS)}, or have it as \"annotations\"")
    return rows


def _coco_columns(path: str | Path, rows: list[dict]) -> tuple[list, list, np.ndarray, np.ndarray]:
    """(image ids, category ids, boxes float64 [K, 4] x, y, width, height, scores float64 [K])."""
    try:
        images, categories, bboxes, scores = ([row[key] for row in rows] for key in COCO_KEYS)
        boxes, score_column = np.array(bboxes), np.array(scores)
    except (KeyError, TypeError, ValueError):  # ValueError: boxes of different lengths
        _refuse_entry(path, rows)
        raise
    if not rows:
        return [], [], np.zeros((0, 4)), np.zeros(0)
    are_numbers = boxes.shape == (len(rows), 4) and {boxes.dtype.kind, score_column.dtype.kind} <= set("fiu")
    are_ids = set(map(type, images)) | set(map(type, categories)) <= {int, float, str}
    if not (are_ids and are_numbers and np.isfinite(np.column_stack([boxes, score_column])).all() and (boxes[:, 2:] >= 0).all()):
        _refuse_entry(path, rows)
    return images, categories, boxes.astype(np.float64), score_column.astype(np.float64)


def _refuse_entry(path: str | Path, rows: list) -> None:
    """Name the first entry that is wrong, counted from 1."""
    for number, row in enumerate(rows, start=1):
        where = f"{path}, entry {number}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected is an object with {', '.join(COCO_KEYS)}")
        missing = [key for key in COCO_KEYS if key not in row]
        if missing:
            hint = "; this looks like ground truth" if missing == ["score"] else ""
            raise InputError(f"{where}: it has no {' and no '.join(missing)}{hint}; expected are COCO results of boxes")
        for key in COCO_KEYS[:2]:
            if type(row[key]) not in (int, float, str):
                raise InputError(f"{where}: {key} {row[key]!r} is not a number; correct it")
        if not (isinstance(row["bbox"], list) and len(row["bbox"]) == 4 and all(map(_is_finite, row["bbox"]))):
            raise InputError(f"{where}: bbox {row['bbox']} is not four finite numbers x, y, width, height; correct it")
        if min(row["bbox"][2:]) < 0:
            raise InputError(f"{where}: bbox {row['bbox']} has a negative width or height: it is x, y, width, height; correct it")
        if not _is_finite(row["score"]):
            raise InputError(f"{where}: score {row['score']!r} is not a finite number; correct it")


def _is_finite(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # of hundreds of digits
        return False


def _index_of(values: Sequence[Hashable], what: str) -> dict[Hashable, int]:
    """Raises InputError if two values are the same."""
    index_of = {value: index for index, value in enumerate(values)}
    if len(index_of) != len(values):
        twice = next(value for value, count in Counter(values).items() if count > 1)
        raise InputError(f"two {what} of the data set are called {twice}: detections in files cannot tell them apart; rename one")
    return index_of


def _look_up(column: Sequence[Hashable], index_of: dict) -> np.ndarray:
    """int64 [K]: the index of each value, -1 if it is unknown; text counts as the number it stands for."""
    known = {value: index_of.get(value, index_of.get(_number_of(value), -1)) for value in set(column)}
    return np.fromiter((known[value] for value in column), np.int64, len(column))


def _number_of(text: Hashable) -> float | None:
    """The number that a text stands for ("000139", "139.0"), None if there is none."""
    for kind in (int, float):  # a float has no room for ids above 2**53
        with contextlib.suppress(ValueError):
            return kind(text) if isinstance(text, str) else None
    return None


def _describe_unknown(
    path: str | Path, what: str, column: Sequence[Hashable], is_known: np.ndarray, known: Iterable[Hashable]
) -> str | None:
    """A note on what was left out for its image or class, None if nothing was.

    Raises:
        InputError: nothing is left.
    """
    if is_known.all():
        return None
    values = dict.fromkeys(value for value, here in zip(column, is_known.tolist()) if not here)
    theirs, ours = _examples(list(values)), _examples(known)
    if not is_known.any():
        raise InputError(f"{path}: none of its {what} ({theirs}) is in the data set, which has {ours}: give the data that these "
                         "detections were made on")
    return (f"{path}: {(~is_known).sum()} of {len(column)} detections left out, as the data set does not have their {what} "
            f"({theirs}); it has {ours}")


def _examples(values: Iterable[Hashable]) -> str:
    values = list(values)
    shown = ", ".join(str(value) for value in values[:NUM_EXAMPLES])
    return f"{shown}, ... ({len(values)})" if len(values) > NUM_EXAMPLES else shown or "none"


def _voc_files(folder: Path, class_names: Sequence[str]) -> tuple[dict[int, Path], list[str]]:
    """({label: file}, notes) of the classes that have one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of VOC result files")
    label_of = {name.lower(): label for label, name in enumerate(class_names, start=1)}
    label_of |= {name: label for label, name in enumerate(class_names, start=1)}  # an exact name goes first
    found = {path: match["name"] for path in sorted(folder.iterdir()) if (match := VOC_FILE.fullmatch(path.name))}
    if not found:
        raise InputError(f"{folder}: no det_test_<class>.txt or comp4_det_test_<class>.txt here; give the folder that has them")
    files: dict[int, Path] = {}
    for path, name in found.items():
        label = label_of.get(name, label_of.get(name.lower()))
        if label in files:
            raise InputError(f"{folder}: {files[label].name} and {path.name} are both of the class {class_names[label - 1]}; "
                             "keep one of them")
        if label:
            files[label] = path
    unknown = [name for name in found.values() if name not in label_of and name.lower() not in label_of]
    if not files:
        raise InputError(f"{folder}: none of its classes ({_examples(unknown)}) is in the data set, which has "
                         f"{_examples(class_names)}")
    missing = [name for label, name in enumerate(class_names, start=1) if label not in files]
    notes = [f"{folder}: no file of {_examples(missing)}: nothing detected of them"] if missing else []
    if unknown:
        notes.append(f"{folder}: left out the files of classes that the data set does not have ({_examples(unknown)})")
    return files, notes


def _read_voc_file(path: Path) -> tuple[list[str], np.ndarray]:
    """(image names, float64 [K, 5] score, x1, y1, x2, y2)."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines(), which cuts at more than newlines
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this is not a text file ({error})") from error
    # names may have blanks in them, so that the line is taken apart from its end
    rows = [row for row in (line.rsplit(None, 5) for line in lines) if row]
    if not rows:
        return [], np.zeros((0, 5))
    try:
        names, *columns = zip(*rows, strict=True)
        numbers = np.array([list(map(float, column)) for column in columns]).T
    except ValueError:
        numbers = np.full((1, 5), np.nan)
    if numbers.shape != (len(rows), 5) or not np.isfinite(numbers).all():
        _refuse_line(path, lines)
    return [name.strip() for name in names], numbers


def _refuse_line(path: Path, lines: list[str]) -> None:
    """Name the first line that is wrong."""
    for number, line in enumerate(lines, start=1):
        fields = line.rsplit(None, 5)
        try:
            is_sound = not fields or len(fields) == 6 and np.isfinite(list(map(float, fields[1:]))).all()
        except ValueError:
            is_sound = False
        if not is_sound:
            raise InputError(f"{path}:{number}: {line.strip()[:80]!r} is not image, score, x1, y1, x2, y2; "
                             "correct or remove it")
