"""Matching, hard negative mining and the loss of SSD (arXiv 1512.02325, section 2.2).

The paper's L = (L_conf + alpha L_loc) / n, alpha = 1, as two losses over the whole batch:

    loss_box_reg    = sum over positives of smooth-L1(deltas - encode(gt_box, default_box)) / max(positives, 1)
    loss_classifier = sum over positives and mined negatives of cross-entropy / max(positives, mined / r, 1)

r = negatives_per_positive. Of each image the r * (its positives) negatives of highest cross-entropy are mined. By the
paper's rule an image without objects would teach nothing, so from such an image min_negatives are mined. Where every
image has objects, mined <= r * positives: then both losses are divided by the positives, as in the paper. A batch
without objects keeps an ordinary scale: r negatives weigh as much as a positive and its negatives would.

Shapes: N images, C classes with background, P default boxes of one image, M ground-truth boxes of one image,
        T ground-truth boxes of the whole batch, R positives of the whole batch, U objects without a slot
Words:  positive / negative = default box matched with an object / with background; mined = negatives that take part in
        the loss; matched_idxs = per default box its ground truth's index, or BACKGROUND; slot = one default box of one
        image, as number image * P + box; logits before softmax; deltas = (dx, dy, dw, dh) from default box to box
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from network_files.box_coder import BoxCoder
from network_files.boxes import iou
from network_files.errors import InputError

BACKGROUND = -1
FREE = -1.0  # IoU that any box beats: of a slot that no ground truth holds, of a default box that is no choice


class LossSums(NamedTuple):
    """Losses summed over the batch, still to be divided, and the numbers to divide them by; all 0-dim."""

    classifier: Tensor
    box_reg: Tensor
    positives: Tensor
    mined: Tensor


class MultiBoxLoss:
    """The loss of a batch from the outputs of the heads (formula at the head of this file).

    fg_iou_thresh: default boxes of at least this IoU with an object are positives. negatives_per_positive: the r of the
    formula. min_negatives: mined from an image without objects.

    Reads back from the device, per batch: the number of shared best boxes (once, and once more for each round in which
    there are some), the number of positives and the largest number of negatives to mine.
    """

    def __init__(self, fg_iou_thresh: float = 0.5, negatives_per_positive: float = 3, min_negatives: int = 30):
        if not 0 < fg_iou_thresh <= 1 or negatives_per_positive <= 0 or min_negatives < 0:
            raise InputError(
                f"fg_iou_thresh {fg_iou_thresh} must be above 0 and at most 1, negatives_per_positive "
                f"{negatives_per_positive} above 0, min_negatives {min_negatives} at least 0"
            )
        self.fg_iou_thresh = fg_iou_thresh
        self.negatives_per_positive = negatives_per_positive
        self.min_negatives = min_negatives
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))

    def sums(
        self, logits: Tensor, deltas: Tensor, default_boxes: Tensor, targets: Sequence[dict[str, Tensor]]
    ) -> LossSums:
        """logits [N, P, C], deltas [N, P, 4], default_boxes [P, 4]; targets in pixels of the network's input."""
        gt_boxes = [target["boxes"].to(default_boxes.dtype) for target in targets]
        matched_idxs = match_batch(gt_boxes, default_boxes, self.fg_iou_thresh)  # [N, P]
        is_positive = matched_idxs != BACKGROUND
        positives = is_positive.flatten().nonzero().flatten()  # slots [R]
        gt = matched_idxs.flatten()[positives]
        gt_deltas = self.box_coder.encode(torch.cat(gt_boxes)[gt], default_boxes[positives % len(default_boxes)])
        box_reg = F.smooth_l1_loss(deltas.flatten(0, 1)[positives], gt_deltas, beta=1.0, reduction="sum")

        negatives, is_mined = self.mine(logits.detach(), is_positive)
        labels = torch.cat([target["labels"] for target in targets])[gt]
        labels = torch.cat((labels, torch.zeros_like(negatives)))
        counts = torch.cat((torch.ones_like(positives, dtype=torch.bool), is_mined))
        # Only the rows that count carry a gradient: a cross-entropy over all default boxes costs eight times as much.
        rows = logits.flatten(0, 1).index_select(0, torch.cat((positives, negatives)))
        classifier = torch.where(counts, F.cross_entropy(rows, labels, reduction="none"), 0.0).sum()
        return LossSums(classifier, box_reg, is_positive.sum().to(logits), is_mined.sum().to(logits))

    def mine(self, logits: Tensor, is_positive: Tensor) -> tuple[Tensor, Tensor]:
        """The negatives of highest loss: their slots int64 [N * K], and a mask [N * K] of those that count.

        logits [N, P, C], is_positive [N, P]. K is the largest number mined from one image; the images with less fill up
        with slots that do not count.
        """
        num_images, num_boxes = is_positive.shape
        positives = is_positive.sum(dim=1)
        wanted = torch.where(positives > 0, self.negatives_per_positive * positives, self.min_negatives).long()
        wanted = torch.minimum(wanted, num_boxes - positives)
        losses = -logits.log_softmax(dim=-1)[:, :, 0]  # cross-entropy with background
        hardest = losses.masked_fill(is_positive, -torch.inf).topk(int(wanted.max()), dim=1).indices  # [N, K]
        rank = torch.arange(hardest.shape[1], device=logits.device)
        first_slot = torch.arange(num_images, device=logits.device)[:, None] * num_boxes
        return (first_slot + hardest).flatten(), (rank < wanted[:, None]).flatten()

    def divide(self, sums: LossSums, numbers: Tensor) -> dict[str, Tensor]:
        """The two losses; numbers: (positives, mined) [2] as in sums, or their mean over several processes.

        A mean may lie between 0 and 1, so the 1 of the formula stands for 0 only.
        """
        positives, mined = numbers.unbind()
        samples = torch.maximum(positives, mined / self.negatives_per_positive)
        return {
            "loss_classifier": sums.classifier / torch.where(samples > 0, samples, 1.0),
            "loss_box_reg": sums.box_reg / torch.where(positives > 0, positives, 1.0),
        }


def match(gt_boxes: Tensor, default_boxes: Tensor, fg_iou_thresh: float = 0.5) -> Tensor:
    """matched_idxs int64 [P] of one image: index of the default box's object, or BACKGROUND.

    gt_boxes [M, 4], default_boxes [P, 4]. A default box gets the object of its highest IoU, if that is at least
    fg_iou_thresh. Then every object gets, at any IoU, a default box of its own (see `own_boxes`), which overrides.
    """
    return match_batch([gt_boxes], default_boxes, fg_iou_thresh)[0]


def match_batch(gt_boxes: Sequence[Tensor], default_boxes: Tensor, fg_iou_thresh: float = 0.5) -> Tensor:
    """`match` for every image: int64 [N, P], indices into the boxes of all images one behind the other.

    gt_boxes: [M, 4] per image.
    """
    counts = [len(boxes) for boxes in gt_boxes]
    matched_idxs = torch.full((len(counts), len(default_boxes)), BACKGROUND, device=default_boxes.device)
    best_iou, best_slot = [], []  # of each object
    for image, boxes in enumerate(gt_boxes):
        if counts[image] == 0:
            continue
        iou_matrix = iou(boxes, default_boxes)  # [M, P]; image by image, as the matrix of a batch would leave the caches
        iou_of_box, gt_of_box = iou_matrix.max(dim=0)
        matched_idxs[image] = torch.where(iou_of_box >= fg_iou_thresh, gt_of_box + sum(counts[:image]), BACKGROUND)
        iou_of_gt, box_of_gt = iou_matrix.max(dim=1)
        best_iou.append(iou_of_gt)
        best_slot.append(box_of_gt + image * len(default_boxes))
    if not best_iou:
        return matched_idxs
    owner = own_boxes(torch.cat(list(gt_boxes)), default_boxes, torch.cat(best_iou), torch.cat(best_slot), len(counts))
    return torch.where(owner != BACKGROUND, owner, matched_idxs)


def own_boxes(gt_boxes: Tensor, default_boxes: Tensor, best_iou: Tensor, best_slot: Tensor, num_images: int) -> Tensor:
    """For each slot the object that has it for its own, or BACKGROUND: int64 [N, P].

    gt_boxes [T, 4] of all images, default_boxes [P, 4], best_iou and best_slot [T] of each object by itself. The result
    is that of the greedy choice: of all pairs of an object and a default box of its image, the pair of highest IoU is
    joined and leaves, and so on; at equal IoU the object that comes first wins. An object goes without only if its image
    has more objects than default boxes.

    Found in rounds: every object proposes to its best slot; the highest IoU of a slot stays; who lost proposes to the best
    slot that it could win, which may turn out the holder of before. As both sides go by one IoU, this ends in the greedy
    choice, and mostly in the first round.
    """
    num_boxes, num_objects = len(default_boxes), len(gt_boxes)
    objects = torch.arange(num_objects, device=gt_boxes.device)
    iou_of_gt, slot = best_iou.clone(), best_slot.clone()
    while True:
        held_iou = iou_of_gt.new_full((num_images * num_boxes,), FREE).scatter_reduce(0, slot, iou_of_gt, "amax")
        contenders = torch.where(iou_of_gt == held_iou[slot], objects, num_objects)
        owner = torch.full_like(held_iou, num_objects, dtype=torch.int64).scatter_reduce(0, slot, contenders, "amin")
        losers = ((owner[slot] != objects) & (iou_of_gt > FREE)).nonzero().flatten()
        if len(losers) == 0:
            return torch.where(owner < num_objects, owner, BACKGROUND).view(num_images, num_boxes)
        image = slot[losers].div(num_boxes, rounding_mode="floor")
        choices = iou(gt_boxes[losers], default_boxes)  # [U, P]
        choices = torch.where(choices > held_iou.view(num_images, num_boxes)[image], choices, FREE)
        iou_of_gt[losers], box = choices.max(dim=1)
        slot[losers] = image * num_boxes + box
