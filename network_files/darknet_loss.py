"""The original loss of YOLOv3 (arXiv 1804.02767, section 2.1), as pjreddie's Darknet has it, of one head.

Sums over the batch; BCE of logits; x, y, w, h of a box in parts of the network input; t of a place:

 1. objectness: BCE(t_obj, 0) of each place whose box has with every truth of its image an IoU of at most ignore_thresh.
 2. Places whose box has with some truth an IoU above truth_thresh (1: none) learn, as in 4, the truth of highest IoU.
 3. Each truth is learned at its centre's cell by the anchor of highest wh-IoU, if that one, of all anchors of the cfg,
    is in this head's mask.
 4. A place that learns has, in place of 1, BCE(t_obj, 1), and with share = 2 - w * h

        xy  = share * [BCE(tx, offset x) + BCE(ty, offset y)]
        wh  = share / 2 * [(tw - ln(w / anchor w))^2 + (th - ln(h / anchor h))^2]
        cls = sum over classes of BCE(t_cls, 1 for the truth's class, else 0)

 5. Of several truths at one place the last is learned, and the classes of all (3 comes after 2).

So minus the gradient is Darknet's delta. Differences: Darknet takes at most 90 truths per image and decodes without
scale_x_y; here all truths count, and boxes and offsets go by the decoding that the detector uses (equal for scale_x_y 1).
A truth with a side below .001 of the input is none, as there. In 2 an offset may lie outside 0..1, as there: then the BCE
may be below 0, its gradient is sigmoid - offset all the same.

Shapes, words: as in yolo_targets.py; truth = ground-truth box
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from network_files.boxes import iou
from network_files.darknet import YoloHead
from network_files.yolo_targets import Pairs, Truths, constant, decode, positions_and_cells, wh_iou

MIN_PART = 0.001  # of the network input's side
NOBODY = -1


def darknet_sums(
    raw: Tensor,
    head: YoloHead,
    truths: Truths,
    input_size: tuple[int, int],
    class_losses: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """The sums xy, wh, obj, cls over the batch, 0-dim each, of raw [N, A, 5 + C, H, W]; input_size: (height, width).

    class_losses: from logits [R, C] and classes [R, C] of 0 and 1 to losses [R]. Reads nothing back from the device if
    truth_thresh is at least 1, else the number of pairs of rule 2.
    """
    parts = truths.sizes / constant((input_size[1], input_size[0]), raw)  # [T, 2]
    is_truth = (parts >= MIN_PART).all(dim=1)
    best_iou, best_truth = best_overlaps(raw, head, truths, is_truth, input_size)
    positions, row, column = positions_and_cells(truths, raw, input_size)
    pairs = _pairs_of_truths(head, truths, is_truth, row, column)
    if head.truth_thresh < 1:
        pairs = _joined(_pairs_of_overlaps(best_iou, best_truth, head.truth_thresh), pairs)  # rule 5: this order
    number = torch.arange(len(pairs.truth), device=raw.device)
    slots = pairs.slots(raw)
    owner = torch.full((best_iou.numel(),), NOBODY, device=raw.device)  # per place the last pair that learns there
    owner = owner.scatter_reduce(0, slots, torch.where(pairs.learns, number, NOBODY), "amax")
    is_owner = owner[slots] == number
    predictions = pairs.predictions(raw)  # [R, 5 + C]
    box = _box_losses(predictions, pairs, head, positions, truths.sizes, parts)
    hot = _classes(torch.where(pairs.learns, owner[slots], NOBODY), truths.classes[pairs.truth], head.num_classes)
    cls = class_losses(predictions[:, 5:], hot.to(raw.dtype))
    is_object = owner != NOBODY
    obj = F.binary_cross_entropy_with_logits(raw[:, :, 4].flatten(), is_object.to(raw.dtype), reduction="none")
    counts = is_object | (best_iou.flatten() <= head.ignore_thresh)
    return {
        "xy": torch.where(is_owner, box["xy"], 0.0).sum(),
        "wh": torch.where(is_owner, box["wh"], 0.0).sum(),
        "obj": torch.where(counts, obj, 0.0).sum(),
        "cls": torch.where(is_owner, cls, 0.0).sum(),
    }


def best_overlaps(
    raw: Tensor, head: YoloHead, truths: Truths, is_truth: Tensor, input_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Largest IoU of each place's box with a truth of its image, 0 if there is none, and that truth: [N, A, H, W] each."""
    boxes = decode(raw.detach(), head, input_size)  # [N, A * H * W, 4]
    best_iou = torch.zeros_like(boxes[:, :, 0])
    best_truth = torch.zeros_like(best_iou, dtype=torch.int64)
    first = 0
    for image, count in enumerate(truths.counts):  # image by image: the matrix of a batch would not fit into memory
        if count > 0:
            ious = iou(truths.boxes[first : first + count], boxes[image])
            ious = ious.masked_fill_(~is_truth[first : first + count, None], 0)
            best_iou[image], truth = ious.max(dim=0)
            best_truth[image] = truth + first
        first += count
    shape = (raw.shape[0], raw.shape[1], raw.shape[3], raw.shape[4])
    return best_iou.view(shape), best_truth.view(shape)


def _pairs_of_truths(head: YoloHead, truths: Truths, is_truth: Tensor, row: Tensor, column: Tensor) -> Pairs:
    """Rule 3: a pair per truth."""
    best = wh_iou(truths.sizes, constant(head.anchors, truths.sizes)).argmax(dim=1, keepdim=True)  # [T, 1]
    own = best == constant(head.mask, best)  # [T, A]
    truth = torch.arange(len(best), device=best.device)
    return Pairs(truth, truths.images, own.long().argmax(dim=1), row, column, own.any(dim=1) & is_truth)


def _pairs_of_overlaps(best_iou: Tensor, best_truth: Tensor, truth_thresh: float) -> Pairs:
    """Rule 2: a pair per place that overlaps a truth enough."""
    image, anchor, row, column = (best_iou > truth_thresh).nonzero(as_tuple=True)
    truth = best_truth[image, anchor, row, column]
    return Pairs(truth, image, anchor, row, column, torch.ones_like(truth, dtype=torch.bool))


def _joined(first: Pairs, second: Pairs) -> Pairs:
    return Pairs(*(torch.cat(columns) for columns in zip(first, second)))


def _box_losses(
    predictions: Tensor, pairs: Pairs, head: YoloHead, positions: Tensor, sizes: Tensor, parts: Tensor
) -> dict[str, Tensor]:
    """xy and wh of rule 4, [R] each, of predictions [R, 5 + C]; positions, sizes, parts [T, 2] of the truths."""
    # The sigmoid that the centre is decoded from; the offset itself for scale_x_y 1.
    sigmoids = (pairs.offsets(positions) + (head.scale_x_y - 1) / 2) / head.scale_x_y
    logs = (sizes[pairs.truth] / constant(head.own_anchors, sizes)[pairs.anchor]).log()
    share = 2 - parts.prod(dim=1)[pairs.truth]
    xy = F.binary_cross_entropy_with_logits(predictions[:, :2], sigmoids, reduction="none").sum(dim=1)
    wh = (predictions[:, 2:4] - logs).square().sum(dim=1)
    return {"xy": share * xy, "wh": share / 2 * wh}


def _classes(owners: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Per pair the classes learned at its place by whichever pair, a mask [R, C]; of use for owners only.

    owners [R]: the owner of the pair's place, NOBODY for a pair that does not learn.
    """
    hot = torch.zeros(len(owners) + 1, num_classes, dtype=torch.bool, device=owners.device)
    hot[owners, classes] = True  # NOBODY, -1, is the last row
    return hot[:-1]
