"""Precision, recall and F1 against the confidence, and precision against recall, of every class.

    curves = score_curves(ground_truth, detections)
    curves.at(0.25)["f1"]
"""

from dataclasses import dataclass

import numpy as np

from train_utils.precision_recall import JudgedDetections, best_confidence, classes_at, judge, means_at, rates
from train_utils.voc_eval import check_detections

# Shapes: C classes, D detections of one class in descending order of score

CONFIDENCES = np.linspace(0, 1, 1001)
RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision


@dataclass
class ScoreCurves:
    """What `score_curves` gives.

    Attributes:
        class_names: [C], without background.
        iou_threshold: from which a detection is right.
        judged: the detections in order of score, right or wrong.
        precision, recall, f1: [C, 1001] when detections of at least each of `CONFIDENCES` are kept.
        pr: [C, 101] highest precision at each of `RECALLS` or more.
        ap: [C] mean of `pr`, which at IoU 0.5 is COCO's AP50 (as long as no image has more detections of a class than COCO
            counts, and no detection the same IoU with two different objects); -1 without objects.
        best_f1: [C] highest F1 of the class by itself, 0 where nothing is right.
        best_confidences: [C] lowest score to keep there; NaN where nothing is right.
        best: {"precision", "recall", "f1", "confidence"} of all classes, as `precision_recall` gives.
    """

    class_names: list[str]
    iou_threshold: float
    judged: JudgedDetections
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    pr: np.ndarray
    ap: np.ndarray
    best_f1: np.ndarray
    best_confidences: np.ndarray
    best: dict[str, float]

    def mean(self, values: np.ndarray) -> np.ndarray:
        """[C, ...] -> [...] mean over the classes that have an object to be found, 0 without such a class."""
        there = values[self.judged.objects > 0]
        return there.mean(axis=0) if len(there) else np.zeros(values.shape[1:])

    def at(self, confidence: float) -> dict:
        """{"precision", "recall", "f1"} when detections of at least `confidence` are kept, and the same by "per_class" name.

        The three are means over the classes that have an object; a class without has None in their place.
        """
        of_classes = classes_at(self.judged, confidence)
        per_class = {
            name: {key: float(values[k]) if self.judged.objects[k] else None for key, values in of_classes.items()}
            for k, name in enumerate(self.class_names)
        }
        means = means_at(self.judged, confidence)
        return {**{key: means[key] for key in of_classes}, "per_class": per_class}


def score_curves(ground_truth: dict, detections: dict, iou_threshold: float = 0.5) -> ScoreCurves:
    """The curves of every class, by the rules of `precision_recall`.

    Args:
        ground_truth: arrays of `dataset.ground_truth()`.
        detections: "image_index", "labels" (1..C), "scores" [K] and "boxes" [K, 4] xyxy pixels.

    Raises:
        InputError: see `voc_eval.check_detections`.
    """
    check_detections(ground_truth, detections)
    judged = judge(_in_cocos_order(ground_truth, detections), ground_truth, iou_threshold)
    num_classes = len(judged.objects)
    tables = {name: np.zeros((num_classes, len(CONFIDENCES))) for name in ("precision", "recall", "f1")}
    pr, ap = np.zeros((num_classes, len(RECALLS))), np.full(num_classes, -1.0)
    best_f1, confidences = np.zeros(num_classes), np.full(num_classes, np.nan)
    order = np.argsort(judged.classes, kind="stable")  # class by class, within each by score
    ends = np.searchsorted(judged.classes[order], np.arange(num_classes + 1))
    for k, objects in enumerate(judged.objects):
        own = order[ends[k] : ends[k + 1]]
        scores, right = judged.scores[own], np.append(0, np.cumsum(judged.hits[own]))  # [D], [D + 1]
        kept = np.searchsorted(-scores, -CONFIDENCES.astype(scores.dtype), side="right")  # of at least each confidence
        for name, values in rates(kept, right[kept], objects).items():
            tables[name][k] = values
        if objects:
            pr[k] = _precision_at_recalls(judged.hits[own], objects)
            ap[k] = pr[k].mean()
            if right[-1]:
                best_f1[k], confidences[k] = _best_f1(scores, right[1:], objects)
    return ScoreCurves(list(ground_truth["class_names"]), iou_threshold, judged, **tables, pr=pr, ap=ap, best_f1=best_f1,
                       best_confidences=confidences, best=means_at(judged, best_confidence(judged)))


def _in_cocos_order(ground_truth: dict, detections: dict) -> dict:
    """The detections image by image in the order of the images' ids: COCO takes equal scores in this order."""
    ids = np.asarray(ground_truth["source_image_ids"])
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[np.argsort(ids, kind="stable")] = np.arange(len(ids))
    order = np.argsort(ranks[np.asarray(detections["image_index"], np.int64)], kind="stable")
    return {name: np.asarray(detections[name])[order] for name in ("image_index", "labels", "scores", "boxes")}


def _precision_at_recalls(hits: np.ndarray, objects: int) -> np.ndarray:
    """[101] highest precision at each of `RECALLS` or more, 0 beyond the recall that the detections reach."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return np.append(envelope, 0.0)[np.searchsorted(right / objects, RECALLS)]


def _best_f1(scores: np.ndarray, right: np.ndarray, objects: int) -> tuple[float, float]:
    """(highest F1, lowest score to keep there, of several such the highest); `right` [D]: of the first 1, 2, ..., D."""
    f1 = 2 * right / (np.arange(1, len(scores) + 1) + objects)
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # equal scores are kept or dropped together
    best = ends[f1[ends].argmax()]
    return float(f1[best]), float(scores[best])
