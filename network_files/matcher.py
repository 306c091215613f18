"""Which ground truth each anchor is trained on (Faster R-CNN, arXiv 1506.01497, section 3.1.2).

Shapes: M ground-truth boxes, P anchors or proposals of one image
Words:  matched_idxs [P] = index of the anchor's ground truth, BELOW_LOW_THRESHOLD or BETWEEN_THRESHOLDS
"""

import torch
from torch import Tensor

from network_files.boxes import iou
from network_files.errors import InputError

BELOW_LOW_THRESHOLD = -1  # background
BETWEEN_THRESHOLDS = -2  # neither object nor background: not trained on

MAX_IOU_ELEMENTS = 2**22  # 16 MiB of float32: one piece of the IoU matrix, whatever the number of anchors and objects


class Matcher:
    """Gives each anchor the ground truth of its highest IoU, if that IoU is high enough.

    IoU >= high_threshold: matched; < low_threshold: BELOW_LOW_THRESHOLD; else BETWEEN_THRESHOLDS. With
    allow_low_quality_matches an anchor that has the highest IoU of all anchors (ties included) with some ground truth
    is matched at any IoU - to *its own* best ground truth, which need not be that one.
    """

    def __init__(self, high_threshold: float, low_threshold: float, allow_low_quality_matches: bool = False):
        if not 0 <= low_threshold <= high_threshold <= 1:
            raise InputError(f"matching thresholds must rise within 0..1, not {low_threshold} and {high_threshold}")
        self.high_threshold = high_threshold
        self.low_threshold = low_threshold
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, iou_matrix: Tensor) -> Tensor:
        """matched_idxs int64 [P] from the IoU matrix [M, P]; without ground truth (M = 0) all are background."""
        if iou_matrix.numel() == 0:
            return self._all_background(iou_matrix.shape[1], iou_matrix.device)
        best_iou, best_gt = iou_matrix.max(dim=0)
        if not self.allow_low_quality_matches:
            return self._threshold(best_iou, best_gt)
        return self._threshold(best_iou, best_gt, _is_best_anchor(iou_matrix, iou_matrix.amax(dim=1)))

    def match(self, gt_boxes: Tensor, anchors: Tensor) -> Tensor:
        """The same as self(iou(gt_boxes, anchors)) for gt_boxes [M, 4], anchors [P, 4], in bounded memory.

        Anchors are taken in pieces; a second pass finds the best anchors of each ground truth, known only after the
        first.
        """
        if len(gt_boxes) == 0:
            return self._all_background(len(anchors), anchors.device)
        pieces = anchors.split(max(1, MAX_IOU_ELEMENTS // len(gt_boxes)))
        if len(pieces) <= 1:
            return self(iou(gt_boxes, anchors))
        best_iou, best_gt, best_of_gt = [], [], []
        for piece in pieces:
            iou_matrix = iou(gt_boxes, piece)
            iou_of_anchor, gt_of_anchor = iou_matrix.max(dim=0)
            best_iou.append(iou_of_anchor)
            best_gt.append(gt_of_anchor)
            best_of_gt.append(iou_matrix.amax(dim=1))
        best_iou, best_gt = torch.cat(best_iou), torch.cat(best_gt)
        if not self.allow_low_quality_matches:
            return self._threshold(best_iou, best_gt)
        best_of_gt = torch.stack(best_of_gt).amax(dim=0)  # [M]
        is_best = torch.cat([_is_best_anchor(iou(gt_boxes, piece), best_of_gt) for piece in pieces])
        return self._threshold(best_iou, best_gt, is_best)

    def _threshold(self, best_iou: Tensor, best_gt: Tensor, keep_anyway: Tensor | None = None) -> Tensor:
        matched_idxs = best_gt.clone()
        matched_idxs[best_iou < self.high_threshold] = BETWEEN_THRESHOLDS
        matched_idxs[best_iou < self.low_threshold] = BELOW_LOW_THRESHOLD
        if keep_anyway is not None:  # last on purpose: every ground truth keeps its best anchors
            matched_idxs = torch.where(keep_anyway, best_gt, matched_idxs)
        return matched_idxs

    @staticmethod
    def _all_background(num_anchors: int, device: torch.device) -> Tensor:
        return torch.full((num_anchors,), BELOW_LOW_THRESHOLD, dtype=torch.int64, device=device)


def _is_best_anchor(iou_matrix: Tensor, best_of_gt: Tensor) -> Tensor:
    """Mask [P]: the anchor reaches the highest IoU best_of_gt [M] of some ground truth."""
    return (iou_matrix == best_of_gt[:, None]).any(dim=0)
