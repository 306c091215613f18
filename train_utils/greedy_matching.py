"""Which detection has which object: greedily by score, by COCO's rules at one IoU threshold, all images at once.

Shapes: K detections of all images, M ground-truth boxes of all images, P pairs of both that overlap enough.
"""

import numpy as np

from train_utils.voc_eval import box_ious, ignored_objects, intersections, rows_per_image


def match_by_score(
    ground_truth: dict, detections: dict, iou_threshold: float, same_class: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """(row of the object that each detection takes, or -1, int64 [K]; whether it counts neither way, bool [K]).

    In descending order of score (stable) each detection takes the free object of highest IoU in its image, if that is at least
    `iou_threshold`. A detection that takes none counts neither way if at least that share of its area lies in a crowd or
    difficult object of its class; such an object is never taken.

    Args:
        ground_truth: arrays of `dataset.ground_truth()`.
        detections: "image_index", "labels" (1..C), "scores" [K] and "boxes" [K, 4] xyxy pixels.
        same_class: only objects of its own class are open to a detection. Otherwise all are, one of its own class before
            another of equal IoU; but a detection in a crowd or difficult object of its class takes none of another.
    """
    on_ignored = _in_ignored_objects(ground_truth, detections, iou_threshold)
    dets, objects, ious = _overlapping_pairs(ground_truth, detections, iou_threshold)
    other_class = np.asarray(detections["labels"])[dets] != np.asarray(ground_truth["labels"])[objects]
    rank = np.empty(len(on_ignored), dtype=np.int64)
    rank[np.argsort(-np.asarray(detections["scores"]), kind="stable")] = np.arange(len(rank))
    order = np.lexsort((objects, other_class, -ious, rank[dets]))
    forbidden = other_class if same_class else other_class & on_ignored[dets]
    order = order[~forbidden[order]]
    taken = _take_in_turn(dets[order], objects[order], len(rank))
    return taken, on_ignored & (taken < 0)


def _take_in_turn(dets: np.ndarray, objects: np.ndarray, num_dets: int) -> np.ndarray:
    """The object of each detection [K], or -1, when one after the other takes the first of its pairs that is still free.

    `dets` and `objects` [P] are the pairs, those of the first detection first, each detection's in the order of its liking.
    All go at once as far as they can: a pair is sure if its detection likes none better and nobody before it wants the object.
    """
    taken = np.full(num_dets, -1, dtype=np.int64)
    while len(dets):
        likes_best = np.append(True, dets[1:] != dets[:-1])
        first_in_turn = np.zeros(len(dets), dtype=bool)
        first_in_turn[np.unique(objects, return_index=True)[1]] = True
        sure = likes_best & first_in_turn
        taken[dets[sure]] = objects[sure]
        left = (taken[dets] < 0) & ~np.isin(objects, objects[sure])
        dets, objects = dets[left], objects[left]
    return taken


def _overlapping_pairs(
    ground_truth: dict, detections: dict, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row of the detection, row of the object, IoU) [P] of all pairs that overlap enough, without ignored objects."""
    rows = np.flatnonzero(~ignored_objects(ground_truth))
    gt_boxes = np.asarray(ground_truth["boxes"], dtype=np.float64).reshape(-1, 4)[rows]
    det_boxes = np.asarray(detections["boxes"], dtype=np.float64).reshape(-1, 4)
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for dets, gts in rows_per_image(detections["image_index"], np.asarray(ground_truth["image_index"])[rows]):
        ious = box_ious(det_boxes[dets], gt_boxes[gts])  # [detections, objects of the image]
        det, gt = np.nonzero(ious >= min(iou_threshold, 1 - 1e-10))  # COCO's 1e-10: equal boxes reach an IoU of 1
        parts.append((dets[det], rows[gts[gt]], ious[det, gt]))
    return tuple(np.concatenate(column) for column in zip(*parts))


def _in_ignored_objects(ground_truth: dict, detections: dict, share: float) -> np.ndarray:
    """bool [K]: at least `share` of the detection's area lies in one crowd or difficult object of its class."""
    rows = np.flatnonzero(ignored_objects(ground_truth))
    gt_boxes = np.asarray(ground_truth["boxes"], dtype=np.float64).reshape(-1, 4)[rows]
    gt_labels = np.asarray(ground_truth["labels"])[rows]
    det_boxes = np.asarray(detections["boxes"], dtype=np.float64).reshape(-1, 4)
    inside = np.zeros(len(det_boxes), dtype=bool)
    for dets, gts in rows_per_image(detections["image_index"], np.asarray(ground_truth["image_index"])[rows]):
        boxes = det_boxes[dets]
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None]  # [detections, 1]
        enough = (intersections(boxes, gt_boxes[gts]) >= share * area) & (area > 0)  # [detections, objects of the image]
        same = np.asarray(detections["labels"])[dets][:, None] == gt_labels[gts][None]
        inside[dets] = (enough & same).any(axis=1)
    return inside
