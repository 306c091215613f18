"""Precision, recall and F1 of a detector at one confidence, the one that serves all classes best.

AP sums up all confidences; whoever uses a detector sets one. Here it is the lowest score to keep that makes the mean of the
classes' F1 highest, and the three numbers are those that such a user sees.
"""

import numpy as np

from train_utils.voc_eval import best_matches, check_detections, ignored_objects

# Shapes: K detections of all images, D of them that count, C classes


def precision_recall(detections: dict, ground_truth: dict, iou_threshold: float = 0.5) -> dict[str, float]:
    """Precision, recall and F1 where the mean F1 is highest, as means over the classes that have an object to be found.

    In descending order of score each detection looks for the object of its class of highest IoU in its image. With
    IoU >= `iou_threshold` a free object makes it right, one already taken wrong, a crowd or difficult one makes it count
    neither way. Per class, with n detections kept, t of them right, and g objects:

        precision = t / n (0 without detections)    recall = t / g    F1 = 2 t / (n + g)

    Args:
        detections: "image_index", "labels" (1..C), "scores" [K] and "boxes" [K, 4] xyxy pixels.
        ground_truth: arrays of `dataset.ground_truth()`.

    Returns:
        {"precision", "recall", "f1", "confidence"}: all 0 where nothing is right, or nothing is to be found. Detections
        of at least `confidence` are those kept; of several such confidences it is the highest.

    Raises:
        InputError: see `voc_eval.check_detections`.
    """
    check_detections(ground_truth, detections)
    ignored = ignored_objects(ground_truth)
    num_classes = len(ground_truth["class_names"])
    objects = np.bincount(np.asarray(ground_truth["labels"], np.int64)[~ignored], minlength=num_classes + 1)[1:]  # [C]
    classes, scores, hits = _judged(detections, ground_truth, ignored, iou_threshold)
    if not hits.any():
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0, "confidence": 0.0}
    sum_of_f1 = _sum_of_f1(classes, hits, objects)  # [D]; a class without objects adds 0
    last_of_score = np.append(scores[1:] != scores[:-1], True)  # equal scores are kept or dropped together
    ends = np.flatnonzero(last_of_score)
    best = ends[sum_of_f1[ends].round(10).argmax()]  # rounded: the running sum must not decide between equals
    kept = np.bincount(classes[: best + 1], minlength=num_classes)[objects > 0]
    right = np.bincount(classes[: best + 1][hits[: best + 1]], minlength=num_classes)[objects > 0]
    there = objects[objects > 0]
    return {
        "precision": float((right / kept.clip(min=1)).mean()),
        "recall": float((right / there).mean()),
        "f1": float((2 * right / (kept + there)).mean()),
        "confidence": float(scores[best]),
    }


def format_line(result: dict[str, float], iou_threshold: float = 0.5) -> str:
    """The numbers of `precision_recall` in one line, with what they mean."""
    return (f"P {result['precision']:.3f}  R {result['recall']:.3f}  F1 {result['f1']:.3f}  "
            f"at confidence {result['confidence']:.3f}, where the mean F1 is highest (IoU {iou_threshold:g})")


def _judged(
    detections: dict, ground_truth: dict, ignored: np.ndarray, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(class index 0..C-1, score, bool right) [D] in descending order of score, without detections on ignored objects."""
    iou, row = best_matches(ground_truth, detections, same_class=True)
    row[iou < iou_threshold] = -1
    order = np.argsort(-np.asarray(detections["scores"]), kind="stable")
    row = row[order]
    on_ignored = np.zeros(len(row), dtype=bool)
    on_ignored[row >= 0] = ignored[row[row >= 0]]
    order, row = order[~on_ignored], row[~on_ignored]
    hits = np.zeros(len(row), dtype=bool)
    hits[np.unique(row, return_index=True)[1]] = True  # the first, hence highest-scored, detection of each object
    hits[row < 0] = False
    return np.asarray(detections["labels"], np.int64)[order] - 1, np.asarray(detections["scores"])[order], hits


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
