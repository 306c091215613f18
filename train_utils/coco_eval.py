"""The twelve COCO numbers, per-class numbers and COCO's JSON, from flat arrays. pycocotools does the arithmetic.

    scorer = CocoScorer(dataset.ground_truth())   # once
    result = scorer.score(detections)             # each epoch
    print("\\n".join(result.lines))

Whatever does not need pycocotools stays out of its reach: another evaluator can take its place in `CocoScorer`.
"""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from train_utils.errors import InputError
from train_utils.voc_eval import best_matches, check_detections, ignored_objects

STAT_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

# (title, short name, IoU, area, detections per image and class) of each of the twelve numbers
_LINES = [
    ("Average Precision", "(AP)", "0.50:0.95", "all", 100),
    ("Average Precision", "(AP)", "0.50", "all", 100),
    ("Average Precision", "(AP)", "0.75", "all", 100),
    ("Average Precision", "(AP)", "0.50:0.95", "small", 100),
    ("Average Precision", "(AP)", "0.50:0.95", "medium", 100),
    ("Average Precision", "(AP)", "0.50:0.95", "large", 100),
    ("Average Recall", "(AR)", "0.50:0.95", "all", 1),
    ("Average Recall", "(AR)", "0.50:0.95", "all", 10),
    ("Average Recall", "(AR)", "0.50:0.95", "all", 100),
    ("Average Recall", "(AR)", "0.50:0.95", "small", 100),
    ("Average Recall", "(AR)", "0.50:0.95", "medium", 100),
    ("Average Recall", "(AR)", "0.50:0.95", "large", 100),
]


def summary_lines(stats: list[float]) -> list[str]:
    """The twelve numbers as pycocotools prints them, one line each."""
    return [
        f" {title:<18} {short} @[ IoU={iou:<9} | area={area:>6s} | maxDets={max_dets:>3d} ] = {value:0.3f}"
        for (title, short, iou, area, max_dets), value in zip(_LINES, stats)
    ]


@dataclass
class CocoResult:
    """What one evaluation gives; -1 means "not defined", there being no object of that kind.

    Attributes:
        stats: the twelve numbers in 0..1 in the order of `STAT_NAMES`.
        per_class: {"name", "category_id", "AP", "AP50", "AR100", "num_gt"} in label order; `num_gt` counts the
            objects to be found, without crowd and difficult ones.
    """

    stats: list[float]
    per_class: list[dict]

    @property
    def lines(self) -> list[str]:
        """The twelve summary lines in pycocotools' layout."""
        return summary_lines(self.stats)


class CocoScorer:
    """Scores sets of detections against one ground truth, which is prepared once.

    COCO has no difficult objects; VOC's are treated as crowd: they need not be found, and detections on them count
    neither way, with the overlap measured as intersection / detection area. Sizes go by the `area` of the ground
    truth (COCO: of the mask). At most 100 detections per image and class take part.

    Args:
        ground_truth: arrays of `dataset.ground_truth()`; they are not changed.

    Raises:
        InputError: two classes share a category id, or an object has no class or no image.
    """

    def __init__(self, ground_truth: dict):
        _check_ground_truth(ground_truth)
        self.ground_truth = ground_truth
        source_ids = np.asarray(ground_truth["source_image_ids"])
        # ids in the order of the original ones: equal scores then meet in the order of plain pycocotools
        self._image_ids = np.empty(len(source_ids), dtype=np.int64)
        self._image_ids[np.argsort(source_ids, kind="stable")] = np.arange(1, len(source_ids) + 1)
        self._truth = self._index(
            ground_truth, {"area": ground_truth["area"], "iscrowd": ignored_objects(ground_truth).astype(int)}
        )

    def score(self, detections: dict) -> CocoResult:
        """The COCO numbers of one set of detections, which may be empty (0 where there are objects to find).

        Args:
            detections: "image_index", "labels" (1..C), "scores" [K] and "boxes" [K, 4] xyxy pixels.

        Raises:
            InputError: see `voc_eval.check_detections`.
        """
        check_detections(self.ground_truth, detections)
        sizes = _xywh(detections)[:, 2:]
        found = self._index(
            detections,
            {"area": sizes.prod(axis=1), "iscrowd": np.zeros(len(sizes), int), "score": detections["scores"]},
        )
        evaluation = COCOeval(self._truth, found, "bbox")
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return CocoResult(evaluation.stats.tolist(), self._per_class(evaluation))

    def _index(self, boxes: dict, fields: dict) -> COCO:
        """A pycocotools data set of fresh dictionaries (it writes into them); annotation ids begin at 1, as 0 is its
        word for "unmatched"."""
        columns = {
            "image_id": self._image_ids[np.asarray(boxes["image_index"], dtype=np.int64)],
            "category_id": np.asarray(self.ground_truth["category_ids"])[np.asarray(boxes["labels"], np.int64) - 1],
            "bbox": _xywh(boxes),
            **fields,
        }
        rows = zip(*(np.asarray(column).tolist() for column in columns.values()))
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image_id} for image_id in self._image_ids.tolist()],
            "categories": [{"id": int(category_id)} for category_id in self.ground_truth["category_ids"]],
            "annotations": [{"id": number, **dict(zip(columns, row))} for number, row in enumerate(rows, start=1)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    def _per_class(self, evaluation: COCOeval) -> list[dict]:
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU threshold, recall, category] for all areas
        recall = evaluation.eval["recall"][:, :, 0, -1]  # [IoU threshold, category]
        column = {category_id: k for k, category_id in enumerate(evaluation.params.catIds)}  # sorted by id
        labels = np.asarray(self.ground_truth["labels"])[~ignored_objects(self.ground_truth)]
        entries = []
        for label, name in enumerate(self.ground_truth["class_names"], start=1):
            category_id = int(self.ground_truth["category_ids"][label - 1])
            k = column[category_id]
            entries.append(
                {
                    "name": name,
                    "category_id": category_id,
                    "AP": _mean_defined(precision[:, :, k]),
                    "AP50": _mean_defined(precision[0, :, k]),
                    "AR100": _mean_defined(recall[:, k]),
                    "num_gt": int((labels == label).sum()),
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


def explain_zero(ground_truth: dict, detections: dict) -> str | None:
    """The likely cause of an AP of 0 or -1 in one sentence, or None if some detection is right (IoU >= 0.5)."""
    truth_rows = ~ignored_objects(ground_truth)
    if not len(truth_rows):
        return "the ground truth has no object at all: look at the annotation folder and the split file"
    if not truth_rows.any():
        return "every object of the ground truth is crowd or difficult, so there is nothing to be found"
    if not len(detections["scores"]):
        return "there is no detection: the network has learnt too little, or the score threshold is above every score"
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
