"""Which class is taken for which: objects against the detections that overlap them."""

import numpy as np

from train_utils.greedy_matching import match_by_score
from train_utils.voc_eval import check_detections, ignored_objects


def confusion_matrix(
    ground_truth: dict, detections: dict, score_threshold: float = 0.25, iou_threshold: float = 0.5
) -> np.ndarray:
    """int64 [C + 1, C + 1]: rows the true class, columns the detected one; the last row and column are the background.

    In descending order of score each detection of at least `score_threshold` takes the free object of highest IoU in its image,
    whatever the class of either, if the IoU is at least `iou_threshold`. An object that nobody takes is in the last column
    (missed), a detection without an object in the last row (false alarm). So the row of a class adds up to its objects, its
    column to its detections. Crowd and difficult objects are left out, with the detections of their class in them.

    An object taken by a detection of the wrong class is not free for a lower one of the right class: the diagonal can be less
    than the correct detections of `classify_errors`, which goes class by class.

    Args:
        ground_truth: arrays of `dataset.ground_truth()`.
        detections: "image_index", "labels" (1..C), "scores" [K] and "boxes" [K, 4] xyxy pixels.

    Raises:
        InputError: see `voc_eval.check_detections`.
    """
    check_detections(ground_truth, detections)
    kept = np.asarray(detections["scores"]) >= float(score_threshold)
    detections = {name: np.asarray(detections[name])[kept] for name in ("image_index", "labels", "scores", "boxes")}
    taken, neither = match_by_score(ground_truth, detections, iou_threshold, same_class=False)
    gt_labels, det_labels = np.asarray(ground_truth["labels"], np.int64), np.asarray(detections["labels"], np.int64)
    background = len(ground_truth["class_names"])
    missed = ~ignored_objects(ground_truth)
    missed[taken[taken >= 0]] = False
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    truth = np.where(taken >= 0, np.append(gt_labels, 0)[taken] - 1, background)  # the appended one is what -1 points at
    np.add.at(matrix, (truth[~neither], det_labels[~neither] - 1), 1)
    np.add.at(matrix, (gt_labels[missed] - 1, background), 1)
    return matrix
