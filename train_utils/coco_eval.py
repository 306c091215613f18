"""The twelve COCO numbers, per-class numbers and COCO's JSON, from flat arrays.

    scorer = CocoScorer(dataset.ground_truth())   # once
    result = scorer.score(detections)             # each epoch
    print("\n".join(result.lines))

hotcoco, where it is installed, matches the boxes many times as fast as pycocotools, which is the authority on the numbers
and takes its place elsewhere. Both hand over the same precision and recall, of which everything else is made.
"""

import contextlib
import importlib.metadata
import io
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from train_utils.errors import InputError
from train_utils.voc_eval import best_matches, check_detections, ignored_objects

STAT_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

# What the curves are indexed by: IoU 0.50, 0.55, ..., 0.95; areas; detections per image and class (1, 10, and 100 or more)
_ALL_IOUS, _IOU_50, _IOU_75 = slice(None), 0, 5
_AREAS = ("all", "small", "medium", "large")
_FEWER_DETECTIONS = (1, 10)

# (AP or AR, IoUs, area, which limit of detections) of each of the twelve numbers
_STATS = [
    ("AP", _ALL_IOUS, 0, 2),
    ("AP", _IOU_50, 0, 2),
    ("AP", _IOU_75, 0, 2),
    ("AP", _ALL_IOUS, 1, 2),
    ("AP", _ALL_IOUS, 2, 2),
    ("AP", _ALL_IOUS, 3, 2),
    ("AR", _ALL_IOUS, 0, 0),
    ("AR", _ALL_IOUS, 0, 1),
    ("AR", _ALL_IOUS, 0, 2),
    ("AR", _ALL_IOUS, 1, 2),
    ("AR", _ALL_IOUS, 2, 2),
    ("AR", _ALL_IOUS, 3, 2),
]


def summary_lines(stats: list[float], max_detections: int = 100) -> list[str]:
    """The twelve numbers as pycocotools prints them, one line each."""
    titles = {"AP": "Average Precision", "AR": "Average Recall"}
    limits = (*_FEWER_DETECTIONS, max_detections)
    lines = []
    for (kind, ious, area, limit), value in zip(_STATS, stats):
        iou = "0.50:0.95" if ious == _ALL_IOUS else f"{0.5 + 0.05 * ious:.2f}"
        lines.append(f" {titles[kind]:<18} ({kind}) @[ IoU={iou:<9} | area={_AREAS[area]:>6s} | maxDets={limits[limit]:>3d} ]"
                     f" = {value:0.3f}")
    return lines


@dataclass
class CocoResult:
    """What one evaluation gives; -1 means "not defined", there being no object of that kind.

    Attributes:
        stats: the twelve numbers in 0..1 in the order of `STAT_NAMES`.
        per_class: {"name", "category_id", "AP", "AP50", "AR100", "num_gt", "APs", "APm", "APl"} in label order; `num_gt`
            counts the objects to be found, without crowd and difficult ones.
        max_detections: per image and class; "AR100" and everything without a number of its own goes by it.
        evaluator: what did the arithmetic, e.g. "hotcoco 1.3.0"; no part of the result, as the numbers do not depend on it.
    """

    stats: list[float]
    per_class: list[dict]
    max_detections: int = 100
    evaluator: str = field(default="", compare=False)

    @property
    def lines(self) -> list[str]:
        """The twelve summary lines in pycocotools' layout."""
        return summary_lines(self.stats, self.max_detections)


class _Rows(NamedTuple):
    """One row per box, for an engine: ids from 1 in the order of the original ids, boxes x, y, width, height."""

    image_ids: np.ndarray  # int64 [K]
    category_ids: np.ndarray  # int64 [K]
    xywh: np.ndarray  # float64 [K, 4]


class _Pycocotools:
    """The authority on the numbers. It takes Python objects, and its memory grows by half a megabyte per image."""

    def __init__(self, num_images: int, num_classes: int, rows: _Rows, area: np.ndarray, is_crowd: np.ndarray):
        self.name = f"pycocotools {importlib.metadata.version('pycocotools')}"
        self._images = [{"id": image_id} for image_id in range(1, num_images + 1)]
        self._categories = [{"id": category_id} for category_id in range(1, num_classes + 1)]
        self._truth = self._index(rows, area=area, iscrowd=is_crowd.astype(int))

    def curves(self, rows: _Rows, scores: np.ndarray, limits: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """(precision [IoU, recall, class, area, limit], recall [IoU, class, area, limit]), -1 where not defined."""
        area = rows.xywh[:, 2:].prod(axis=1)
        evaluation = COCOeval(self._truth, self._index(rows, area=area, iscrowd=np.zeros(len(area), int), score=scores), "bbox")
        evaluation.params.maxDets = limits
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"], evaluation.eval["recall"]

    def _index(self, rows: _Rows, **fields: np.ndarray) -> COCO:
        """A data set of fresh dictionaries (it writes into them); annotation ids begin at 1, as 0 is its word for
        "unmatched"."""
        columns = {"image_id": rows.image_ids, "category_id": rows.category_ids, "bbox": rows.xywh, **fields}
        boxes = zip(*(column.tolist() for column in columns.values()))
        coco = COCO()
        coco.dataset = {
            "images": self._images,
            "categories": self._categories,
            "annotations": [{"id": number, **dict(zip(columns, box))} for number, box in enumerate(boxes, start=1)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco


class _Hotcoco:
    """The same arithmetic on whole arrays, in Rust. It numbers the annotations from 1, and prints nothing."""

    def __init__(self, num_images: int, num_classes: int, rows: _Rows, area: np.ndarray, is_crowd: np.ndarray):
        import hotcoco  # optional

        self.name = f"hotcoco {hotcoco.__version__}"
        self._evaluate = hotcoco.COCOeval
        self._truth = hotcoco.COCO.from_arrays(
            [{"id": image_id} for image_id in range(1, num_images + 1)],
            [{"id": category_id, "name": str(category_id)} for category_id in range(1, num_classes + 1)],
            rows.image_ids, rows.category_ids, rows.xywh, area=area, iscrowd=is_crowd,
        )  # fmt: skip

    def curves(self, rows: _Rows, scores: np.ndarray, limits: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """As of `_Pycocotools`."""
        table = np.column_stack([rows.image_ids, rows.xywh, scores, rows.category_ids])  # [K, 7], its order
        evaluation = self._evaluate(self._truth, self._truth.loadRes(table), "bbox")
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation.eval["precision"], evaluation.eval["recall"]


_ENGINES = {"hotcoco": _Hotcoco, "pycocotools": _Pycocotools}


class CocoScorer:
    """Scores sets of detections against one ground truth, which is prepared once.

    COCO has no difficult objects; VOC's are treated as crowd: they need not be found, and detections on them count
    neither way, with the overlap measured as intersection / detection area. Sizes go by the `area` of the ground
    truth (COCO: of the mask).

    Args:
        ground_truth: arrays of `dataset.ground_truth()`; they are not changed.
        engine: "hotcoco" or "pycocotools"; None: hotcoco if it is installed.
        max_detections: at most so many detections per image and class take part, those of highest score. COCO's 100 is
            too few where an image has more objects of a class.

    Raises:
        InputError: two classes share a category id, an object has no class or no image, fewer than 10 detections, or an
            engine that is unknown or not installed.
    """

    def __init__(self, ground_truth: dict, engine: str | None = None, max_detections: int = 100):
        _check_ground_truth(ground_truth)
        if max_detections < max(_FEWER_DETECTIONS):
            raise InputError(f"{max_detections} detections per image and class: COCO's numbers need at least "
                             f"{max(_FEWER_DETECTIONS)}")
        self.ground_truth = ground_truth
        self.max_detections = max_detections
        # ids in the order of the original ones: equal scores then meet in the order of plain pycocotools
        self._image_ids = _ranks(ground_truth["source_image_ids"])
        self._category_ids = _ranks(ground_truth["category_ids"])
        self._engine = self._start(engine)

    @property
    def evaluator(self) -> str:
        """Name and version of what does the arithmetic, e.g. "hotcoco 1.3.0"."""
        return self._engine.name

    def score(self, detections: dict) -> CocoResult:
        """The COCO numbers of one set of detections, which may be empty (0 where there are objects to find).

        Args:
            detections: "image_index", "labels" (1..C), "scores" [K] and "boxes" [K, 4] xyxy pixels.

        Raises:
            InputError: see `voc_eval.check_detections`.
        """
        check_detections(self.ground_truth, detections)
        scores = np.asarray(detections["scores"], dtype=np.float64)
        limits = [*_FEWER_DETECTIONS, self.max_detections]
        precision, recall = self._engine.curves(self._rows(detections), scores, limits)
        stats = [_mean_defined(precision[ious, ..., area, limit] if kind == "AP" else recall[ious, ..., area, limit])
                 for kind, ious, area, limit in _STATS]
        return CocoResult(stats, self._per_class(precision[..., -1], recall[..., 0, -1]), self.max_detections, self.evaluator)

    def _start(self, engine: str | None) -> _Hotcoco | _Pycocotools:
        """The engine of that name with the ground truth in it."""
        if engine not in (None, *_ENGINES):
            raise InputError(f"unknown COCO evaluator {engine!r}; choose from {', '.join(_ENGINES)}")
        area = np.asarray(self.ground_truth["area"], dtype=np.float64)
        arguments = (len(self._image_ids), len(self._category_ids), self._rows(self.ground_truth), area,
                     ignored_objects(self.ground_truth))
        try:
            return _ENGINES[engine or "hotcoco"](*arguments)
        except ImportError as error:
            if engine is not None:
                raise InputError(f"the COCO evaluator {engine} is not installed: pip install {engine}") from error
            return _Pycocotools(*arguments)

    def _rows(self, boxes: dict) -> _Rows:
        image_index, labels = np.asarray(boxes["image_index"], np.int64), np.asarray(boxes["labels"], np.int64)
        return _Rows(self._image_ids[image_index], self._category_ids[labels - 1], _xywh(boxes))

    def _per_class(self, precision: np.ndarray, recall: np.ndarray) -> list[dict]:
        """Entries of `CocoResult.per_class` from precision [IoU, recall, class, area] and recall [IoU, class]."""
        labels = np.asarray(self.ground_truth["labels"])[~ignored_objects(self.ground_truth)]
        entries = []
        for label, name in enumerate(self.ground_truth["class_names"], start=1):
            k = self._category_ids[label - 1] - 1  # the curves are in the order of the category ids
            sizes = {f"AP{area[0]}": _mean_defined(precision[:, :, k, i]) for i, area in enumerate(_AREAS) if i}
            entries.append(
                {
                    "name": name,
                    "category_id": int(self.ground_truth["category_ids"][label - 1]),
                    "AP": _mean_defined(precision[:, :, k, 0]),
                    "AP50": _mean_defined(precision[_IOU_50, :, k, 0]),
                    "AR100": _mean_defined(recall[:, k]),
                    "num_gt": int((labels == label).sum()),
                    **sizes,
                }
            )
        return entries


def score_coco(ground_truth: dict, detections: dict) -> CocoResult:
    """`CocoScorer(ground_truth).score(detections)`, for a single evaluation."""
    return CocoScorer(ground_truth).score(detections)


def to_coco_json(ground_truth: dict, detections: dict) -> list[dict]:
    """Detections in COCO's results format: original image and category ids, unrounded x, y, width, height.

    Raises:
        InputError: see `voc_eval.check_detections`.
    """
    check_detections(ground_truth, detections)
    image_ids = np.asarray(ground_truth["source_image_ids"])[np.asarray(detections["image_index"], np.int64)]
    category_ids = np.asarray(ground_truth["category_ids"])[np.asarray(detections["labels"], np.int64) - 1]
    columns = (image_ids, category_ids, _xywh(detections), np.asarray(detections["scores"]))
    names = ("image_id", "category_id", "bbox", "score")
    return [dict(zip(names, row)) for row in zip(*(column.tolist() for column in columns))]


def explain_zero(ground_truth: dict, detections: dict, score_threshold: float | None = None) -> str | None:
    """The likely cause of an AP of 0 or -1 in one sentence, or None if some detection is right (IoU >= 0.5).

    score_threshold: where detections of lower score were left out, or are to be.
    """
    truth_rows = ~ignored_objects(ground_truth)
    if not len(truth_rows):
        return "the ground truth has no object at all: look at the annotation folder and the split file"
    if not truth_rows.any():
        return "every object of the ground truth is crowd or difficult, so there is nothing to be found"
    if not len(detections["scores"]):
        threshold = "the score threshold" if score_threshold is None else f"the score threshold of {score_threshold:g}"
        return f"there is no detection: the network has learnt too little, or {threshold} is above every score"
    if score_threshold is not None:
        high = np.asarray(detections["scores"]) >= score_threshold
        if not high.any():
            best = np.max(detections["scores"])
            return f"no score reaches the threshold of {score_threshold:g} (best {best:.2g}): lower it, 0.001 to 0.05 is usual"
        detections = {name: np.asarray(detections[name])[high] for name in ("image_index", "labels", "scores", "boxes")}
    truth = {name: np.asarray(ground_truth[name])[truth_rows] for name in ("image_index", "boxes", "labels")}
    if not len(np.intersect1d(truth["image_index"], detections["image_index"])):
        return "no image has both an object and a detection: the image indices of the two sides do not belong together"
    iou, row = best_matches(truth, detections, same_class=False)
    hit = iou >= 0.5
    if hit.any():
        shift = np.asarray(detections["labels"])[hit] - truth["labels"][row[hit]]
        return None if (shift == 0).any() else _explain_labels(shift)
    for cause, boxes in _misread_boxes(ground_truth, truth, detections):
        iou_then, row_then = best_matches(truth, {**detections, "boxes": boxes}, same_class=False)
        if len(np.unique(row_then[iou_then >= 0.5])) >= 0.3 * len(truth["labels"]):
            return f"the detected boxes fit the objects once {cause}: correct them where they are made"
    if not np.isin(detections["labels"], truth["labels"]).any():
        return "no class has both an object and a detection: the class lists of the two sides differ"
    return f"no detection reaches IoU 0.5 with an object (best {iou.max():.2f}): the network has learnt too little yet"


def _explain_labels(shift: np.ndarray) -> str:
    for offset, words in ((1, "one too high"), (-1, "one too low")):
        if (shift == offset).mean() > 0.5:
            return f"the boxes fit but most labels are {words}: check whether background counts as class 0"
    return "the boxes fit but no label does: the class lists of the network and of the data differ"


def _misread_boxes(ground_truth: dict, truth: dict, detections: dict):
    """Yields (what was done to the detected boxes, boxes [K, 4]) for the usual mistakes."""
    boxes = np.asarray(detections["boxes"], dtype=np.float64).reshape(-1, 4)
    first, second = boxes[:, :2], boxes[:, 2:]
    images = np.asarray(detections["image_index"])
    sizes = np.stack([ground_truth["widths"], ground_truth["heights"]], axis=1)[images]  # [K, 2]
    if np.abs(boxes).max() <= 2:
        yield "multiplied by the image size (they are relative)", boxes * np.tile(sizes, 2)
    yield "x and y are swapped", boxes[:, [1, 0, 3, 2]]
    yield "read as x, y, width, height", np.concatenate([first, first + second], axis=1)
    yield "read as centre, width, height", np.concatenate([first - second / 2, first + second / 2], axis=1)
    shared = np.isin(images, truth["image_index"])
    factor = np.median(truth["boxes"][:, 2:]) / max(np.median(second[shared]), 1e-6)
    yield f"multiplied by about {factor:.2g} (another image size)", boxes * factor


def _xywh(boxes: dict) -> np.ndarray:
    """float64 [K, 4] x, y, width, height of the xyxy boxes, unrounded, always a copy."""
    xyxy = np.asarray(boxes["boxes"], dtype=np.float64).reshape(-1, 4)
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def _ranks(ids: np.ndarray) -> np.ndarray:
    """int64 [n]: 1 for the smallest id, n for the largest; of equal ids the first is smaller."""
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[np.argsort(ids, kind="stable")] = np.arange(1, len(ids) + 1)
    return ranks


def _mean_defined(values: np.ndarray) -> float:
    """Mean of the entries that are defined (not -1), -1 if none is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def _check_ground_truth(ground_truth: dict) -> None:
    category_ids = np.asarray(ground_truth["category_ids"])
    num_classes, num_images = len(ground_truth["class_names"]), ground_truth["num_images"]
    if len(np.unique(category_ids)) != num_classes:
        raise InputError(f"ground truth: {num_classes} classes need as many different category ids, not {category_ids}")
    labels, images = np.asarray(ground_truth["labels"]), np.asarray(ground_truth["image_index"])
    if ((labels < 1) | (labels > num_classes)).any():
        raise InputError(f"ground truth: a label is outside 1..{num_classes}; correct the class list or the labels")
    if ((images < 0) | (images >= num_images)).any():
        raise InputError(f"ground truth: an object belongs to an image outside 0..{num_images - 1}")
