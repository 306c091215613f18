"""Precision, recall and F1 of a detector at one confidence: a chosen one, or the one that serves all classes best.

AP sums up all confidences; whoever uses a detector sets one. The best is the lowest score to keep that makes the mean of the
classes' F1 highest, and the three numbers are those that such a user sees.
"""

from typing import NamedTuple

import numpy as np

from train_utils.greedy_matching import match_by_score
from train_utils.voc_eval import check_detections, ignored_objects

# Shapes: D detections that count, of all images, in descending order of score; C classes


class JudgedDetections(NamedTuple):
    """The detections that count, right or wrong, in descending order of score.

    Attributes:
        classes: int64 [D], label - 1.
        scores: [D].
        hits: bool [D], whether it is right.
        objects: int64 [C], objects to be found.
    """

    classes: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    objects: np.ndarray


def precision_recall(
    detections: dict, ground_truth: dict, iou_threshold: float = 0.5, confidence: float | None = None
) -> dict[str, float]:
    """Precision, recall and F1 at one confidence, as means over the classes that have an object to be found.

    In descending order of score each detection takes the free object of its class of highest IoU in its image. With
    IoU >= `iou_threshold` it is right, without it is wrong; but it counts neither way in a crowd or difficult object, see
    `match_by_score`. Per class, with n detections kept, t of them right, and g objects:

        precision = t / n (0 without detections)    recall = t / g    F1 = 2 t / (n + g)

    Args:
        detections: "image_index", "labels" (1..C), "scores" [K] and "boxes" [K, 4] xyxy pixels.
        ground_truth: arrays of `dataset.ground_truth()`.
        confidence: the lowest score to keep; default: where the mean F1 is highest, of several such the highest.

    Returns:
        {"precision", "recall", "f1", "confidence"}: all 0 where nothing is right, or nothing is to be found.

    Raises:
        InputError: see `voc_eval.check_detections`.
    """
    judged = judge(detections, ground_truth, iou_threshold)
    return means_at(judged, best_confidence(judged) if confidence is None else confidence)


def format_line(result: dict[str, float], iou_threshold: float = 0.5, chosen: bool = False) -> str:
    """The numbers of `precision_recall` in one line, with what they mean; `chosen`: at a confidence that the caller gave."""
    why = "" if chosen else ", where the mean F1 is highest"
    return (f"P {result['precision']:.3f}  R {result['recall']:.3f}  F1 {result['f1']:.3f}  "
            f"at confidence {result['confidence']:.3f}{why} (IoU {iou_threshold:g})")


def judge(detections: dict, ground_truth: dict, iou_threshold: float = 0.5) -> JudgedDetections:
    """Which detections are right, by the rules of `precision_recall`.

    Raises:
        InputError: see `voc_eval.check_detections`.
    """
    check_detections(ground_truth, detections)
    taken, neither = match_by_score(ground_truth, detections, iou_threshold)
    scores = np.asarray(detections["scores"])
    order = np.argsort(-scores, kind="stable")
    order = order[~neither[order]]
    labels = np.asarray(ground_truth["labels"], np.int64)[~ignored_objects(ground_truth)]
    objects = np.bincount(labels, minlength=len(ground_truth["class_names"]) + 1)[1:]
    return JudgedDetections(np.asarray(detections["labels"], np.int64)[order] - 1, scores[order], taken[order] >= 0, objects)


def best_confidence(judged: JudgedDetections) -> float:
    """The lowest score to keep where the mean F1 is highest; of several such the highest, 0 where nothing is right."""
    if not judged.hits.any():
        return 0.0
    sum_of_f1 = _sum_of_f1(judged.classes, judged.hits, judged.objects)  # [D]; a class without objects adds 0
    ends = np.flatnonzero(np.append(judged.scores[1:] != judged.scores[:-1], True))  # equal scores are kept together
    best = ends[sum_of_f1[ends].round(10).argmax()]  # rounded: the running sum must not decide between equals
    return float(judged.scores[best])


def classes_at(judged: JudgedDetections, confidence: float) -> dict[str, np.ndarray]:
    """{"precision", "recall", "f1"} of every class [C] when detections of at least `confidence` are kept."""
    count = int((judged.scores >= float(confidence)).sum())  # a float is compared in the precision of the scores
    kept = np.bincount(judged.classes[:count], minlength=len(judged.objects))
    right = np.bincount(judged.classes[:count][judged.hits[:count]], minlength=len(judged.objects))
    return rates(kept, right, judged.objects)


def rates(kept: np.ndarray, right: np.ndarray, objects: np.ndarray) -> dict[str, np.ndarray]:
    """{"precision", "recall", "f1"} from detections kept, right ones among them, objects to be found (0 / 0 is 0)."""
    return {
        "precision": right / np.maximum(kept, 1),
        "recall": right / np.maximum(objects, 1),
        "f1": 2 * right / np.maximum(kept + objects, 1),
    }


def means_at(judged: JudgedDetections, confidence: float) -> dict[str, float]:
    """The means of `classes_at` over the classes that have an object to be found, and the confidence."""
    there = judged.objects > 0
    means = {name: float(values[there].mean()) if there.any() else 0.0
             for name, values in classes_at(judged, confidence).items()}
    return {**means, "confidence": float(confidence)}


def _sum_of_f1(classes: np.ndarray, hits: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """[D] sum of the classes' F1 once the first 1, 2, ..., D detections are kept.

    One more detection changes the F1 of its own class only, so that the sum is a running one: no [D, C] table.
    """
    order = np.argsort(classes, kind="stable")  # class by class, within each by score
    first = np.searchsorted(classes[order], np.arange(len(objects)))[classes[order]]  # [D] where the class begins
    kept = np.arange(len(order)) - first + 1
    right = np.cumsum(hits[order])
    right = right - (right[first] - hits[order][first])
    f1 = 2 * right / (kept + objects[classes[order]])
    before = np.where(kept == 1, 0.0, np.append(0.0, f1[:-1]))
    change = np.empty(len(order))
    change[order] = f1 - before
    return np.cumsum(change)
