"""Average precision as the PASCAL VOC development kits compute it, in NumPy.

Everything works on the flat arrays that data sets (`ground_truth()`) and `evaluate` hand over: all images together,
one row per box. `coco_eval.py` has the other metric: IoU, matching and the reading of the curve all differ.
"""

from collections.abc import Iterator

import numpy as np

from train_utils.errors import InputError

# Shapes: K detections of all images, M ground-truth boxes of all images, C classes

MAX_PAIRS = 2**18  # of boxes measured at once: 2 MB per array, whatever the number of objects in an image


def check_detections(ground_truth: dict, detections: dict) -> None:
    """Refuse detections that an evaluator would quietly misread.

    Args:
        ground_truth: arrays of `dataset.ground_truth()`.
        detections: "image_index", "labels", "scores" [K] and "boxes" [K, 4] xyxy pixels.

    Raises:
        InputError: arrays of unequal length, an image or a label the ground truth does not have, a score or a
            coordinate that is not finite.
    """
    count = len(detections["scores"])
    lengths = {name: len(detections[name]) for name in ("image_index", "labels", "scores", "boxes")}
    if set(lengths.values()) != {count}:
        raise InputError(f"detections: the arrays have different lengths {lengths}; give one row per box in each")
    if count == 0:
        return
    images, labels = np.asarray(detections["image_index"]), np.asarray(detections["labels"])
    num_images, num_classes = ground_truth["num_images"], len(ground_truth["class_names"])
    if images.min() < 0 or images.max() >= num_images:
        wrong = images[(images < 0) | (images >= num_images)][0]
        raise InputError(f"detections: image index {wrong} is not in the ground truth, which has 0..{num_images - 1}")
    if labels.min() < 1 or labels.max() > num_classes:
        wrong = labels[(labels < 1) | (labels > num_classes)][0]
        raise InputError(f"detections: label {wrong} is not in the ground truth, which has classes 1..{num_classes}")
    if not np.isfinite(detections["scores"]).all():
        raise InputError("detections: a score is not finite; the network's output is broken, look at its training loss")
    if not np.isfinite(detections["boxes"]).all():
        raise InputError("detections: a box is not finite; the network's output is broken, look at its training loss")


def ignored_objects(ground_truth: dict) -> np.ndarray:
    """bool [M]: objects that are neither to be found nor a mistake when found (COCO's crowd, VOC's difficult)."""
    return np.asarray(ground_truth["iscrowd"], dtype=bool) | np.asarray(ground_truth["difficult"], dtype=bool)


def box_ious(boxes_a: np.ndarray, boxes_b: np.ndarray, plus_one: bool = False) -> np.ndarray:
    """IoU of every pair of xyxy boxes: [A, 4], [B, 4] -> [A, B]; `plus_one` counts pixels, width = x2 - x1 + 1."""
    one = 1.0 if plus_one else 0.0
    intersection = intersections(boxes_a, boxes_b, one)
    area_a = (boxes_a[:, 2:] - boxes_a[:, :2] + one).prod(axis=1)
    area_b = (boxes_b[:, 2:] - boxes_b[:, :2] + one).prod(axis=1)
    union = area_a[:, None] + area_b[None, :]
    union -= intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def intersections(boxes_a: np.ndarray, boxes_b: np.ndarray, one: float = 0.0) -> np.ndarray:
    """Area that every pair of xyxy boxes shares: [A, 4], [B, 4] -> [A, B]; `one` is added to every side."""
    sides = []
    for axis in (0, 1):  # x and y apart and in place, as this is most of the work of an evaluation
        side = np.minimum(boxes_a[:, None, axis + 2], boxes_b[None, :, axis + 2])
        side -= np.maximum(boxes_a[:, None, axis], boxes_b[None, :, axis])
        side += one
        sides.append(np.maximum(side, 0, out=side))
    return np.multiply(*sides, out=sides[0])


def best_matches(
    truth: dict, detections: dict, same_class: bool, plus_one: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The object of highest IoU in the image of each detection: (IoU float64 [K], row in `truth` int64 [K]).

    The row is -1 and the IoU 0 where the image has no object (of the detection's class, if `same_class`). Of equal
    IoUs the first object counts. One object may be the best of many detections.
    """
    num_dets = len(detections["scores"])
    best_iou, best_row = np.zeros(num_dets), np.full(num_dets, -1, dtype=np.int64)
    det_boxes = np.asarray(detections["boxes"], dtype=np.float64).reshape(-1, 4)
    gt_boxes = np.asarray(truth["boxes"], dtype=np.float64).reshape(-1, 4)
    for dets, gts in rows_per_image(detections["image_index"], truth["image_index"]):
        ious = box_ious(det_boxes[dets], gt_boxes[gts], plus_one)
        if same_class:
            other = detections["labels"][dets][:, None] != truth["labels"][gts][None, :]
            np.copyto(ious, -1.0, where=other)
        best = ious.argmax(axis=1)
        iou = ious[np.arange(len(dets)), best]
        best_row[dets] = np.where(iou >= 0, gts[best], -1)
        best_iou[dets] = iou.clip(min=0)
    return best_iou, best_row


def rows_per_image(det_images: np.ndarray, gt_images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows of detections, rows of objects) for every image that has both, each in the order of the arrays.

    An image of more than `MAX_PAIRS` pairs comes in parts, its detections in turn, each with all objects of the image.
    """
    det_order, gt_order = np.argsort(det_images, kind="stable"), np.argsort(gt_images, kind="stable")
    shared = np.intersect1d(det_images, gt_images)
    det_ends, gt_ends = (
        [np.searchsorted(images[order], shared, side) for side in ("left", "right")]
        for images, order in ((det_images, det_order), (gt_images, gt_order))
    )
    for d0, d1, g0, g1 in zip(*det_ends, *gt_ends):
        step = max(1, MAX_PAIRS // (g1 - g0))
        for begin in range(d0, d1, step):
            yield det_order[begin : min(begin + step, d1)], gt_order[g0:g1]


def average_precision(true_positives: np.ndarray, num_gt: int, use_07_metric: bool) -> float:
    """Area under the precision-recall curve of detections in descending order of score.

    Args:
        true_positives: bool [D], False = false positive; detections on ignored objects are left out beforehand.
        num_gt: objects to be found, at least 1.
        use_07_metric: VOC2007, the mean over recall 0, .1, ..., 1 of the highest precision at that recall or more;
            otherwise VOC2010+, the area under the monotone envelope.
    """
    hits = np.cumsum(true_positives)
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # highest precision at this recall or more
    if use_07_metric:
        # linspace has .3, .6 and .7 a hair too high, so that 3 of 10 objects miss recall .3; the published evaluators
        # share this, and their figures are the ones to compare with
        first = [np.searchsorted(hits / num_gt, recall) for recall in np.linspace(0, 1, 11)]
        return float(sum(envelope[i] for i in first if i < len(hits)) / 11)
    return float(envelope[np.asarray(true_positives, dtype=bool)].sum() / num_gt)  # recall rises at hits only


def score_voc(
    ground_truth: dict,
    detections: dict,
    iou_threshold: float = 0.5,
    use_07_metric: bool = False,
    plus_one: bool = True,
) -> dict:
    """Average precision per class and its mean, by the rules of the VOC development kits.

    Per class, detections of all images in descending order of score (stable: equal scores keep their order in the
    arrays) look for the object of highest IoU of that class in their image, difficult ones included. With
    IoU >= `iou_threshold` a difficult or crowd object makes the detection count neither way, a free object makes it
    right, an object already taken makes it wrong. Any other detection is wrong.

    Args:
        ground_truth: arrays of `dataset.ground_truth()`.
        detections: "image_index", "labels", "scores" [K] and "boxes" [K, 4] xyxy pixels.
        use_07_metric: 11-point AP of VOC2007 instead of the all-point AP of VOC2010 and later.
        plus_one: measure boxes in whole pixels, x2 - x1 + 1, as the development kits do.

    Returns:
        "mAP": mean over the classes that have an object to be found, -1 if there is none; "per_class": list of
        {"name", "AP" (-1 without such an object), "num_gt"} in label order; "protocol": the rules in words.

    Raises:
        InputError: see `check_detections`.
    """
    hits = _judge(ground_truth, detections, iou_threshold, plus_one)
    return _summary(ground_truth, hits, iou_threshold, use_07_metric, plus_one)


def score_voc_both(ground_truth: dict, detections: dict, iou_threshold: float = 0.5, plus_one: bool = True) -> dict[str, dict]:
    """{"voc07", "voc12"}: `score_voc` by the metric of VOC2007 and of VOC2010+, which share the matching, most of the work.

    Raises:
        InputError: see `check_detections`.
    """
    hits = _judge(ground_truth, detections, iou_threshold, plus_one)
    return {name: _summary(ground_truth, hits, iou_threshold, use_07_metric, plus_one)
            for name, use_07_metric in (("voc07", True), ("voc12", False))}


def _judge(ground_truth: dict, detections: dict, iou_threshold: float, plus_one: bool) -> list[np.ndarray]:
    """Of each class: bool [D], right or wrong, for its detections in order of score, without those on ignored objects."""
    check_detections(ground_truth, detections)
    iou, row = best_matches(ground_truth, detections, same_class=True, plus_one=plus_one)
    row[iou < iou_threshold] = -1
    order = np.argsort(-np.asarray(detections["scores"]), kind="stable")
    labels = np.asarray(detections["labels"])[order]
    order = order[np.argsort(labels, kind="stable")]  # class by class, within each by score
    ends = np.searchsorted(np.sort(labels), np.arange(1, len(ground_truth["class_names"]) + 2))
    ignored = ignored_objects(ground_truth)
    return [_true_positives(row[order[begin:end]], ignored) for begin, end in zip(ends, ends[1:])]


def _summary(ground_truth: dict, hits: list[np.ndarray], iou_threshold: float, use_07_metric: bool, plus_one: bool) -> dict:
    """What `score_voc` returns, from what `_judge` returns."""
    labels = np.asarray(ground_truth["labels"], np.int64)[~ignored_objects(ground_truth)]
    counts = np.bincount(labels, minlength=len(hits) + 1)[1:].tolist()
    per_class = [
        {"name": name, "AP": average_precision(own, num_gt, use_07_metric) if num_gt else -1.0, "num_gt": num_gt}
        for name, own, num_gt in zip(ground_truth["class_names"], hits, counts)
    ]
    defined = [entry["AP"] for entry in per_class if entry["num_gt"]]
    points = "11-point (VOC2007)" if use_07_metric else "all-point (VOC2010+)"
    width = "x2 - x1 + 1" if plus_one else "x2 - x1"
    return {
        "mAP": float(np.mean(defined)) if defined else -1.0,
        "per_class": per_class,
        "protocol": f"{points} AP at IoU {iou_threshold:g}, widths {width}, difficult and crowd objects ignored",
    }


def _true_positives(matched_rows: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """bool [D]: right or wrong, for detections of one class in order of score, without those on ignored objects.

    `matched_rows` int64 [D] is the object each detection overlaps enough, or -1.
    """
    on_ignored = np.zeros(len(matched_rows), dtype=bool)
    on_object = matched_rows >= 0
    on_ignored[on_object] = ignored[matched_rows[on_object]]
    rows = matched_rows[~on_ignored]
    hits = np.zeros(len(rows), dtype=bool)
    taken_by = np.unique(rows, return_index=True)[1]  # the first, hence highest-scored, detection of each object
    hits[taken_by] = True
    hits[rows < 0] = False
    return hits
