"""The losses of YOLOv3 (arXiv 1804.02767): of the 2019 trainer with generalised IoU or squared errors, and Darknet's own.

"giou" and "xywh", per head, then summed over the heads; BCE of logits, its positive part times the positive weight:

    loss_box = giou * mean over pairs of (1 - GIoU)                    loss_obj = obj * mean over all places of BCE(obj_pw)
    loss_xy  = xy   * mean over pairs and x, y of (centre - offset)^2  loss_cls = cls * mean over pairs and classes
    loss_wh  = wh   * mean over pairs and w, h of (t - ln(size / anchor))^2             of BCE(cls_pw)

"giou" has loss_box, "xywh" has loss_xy and loss_wh instead. The pairs of a box: each anchor of a wh-IoU above iou_t, in
its centre's cell; a box without one in any head has its best (`yolo_targets.fitting_anchors`). The objectness target of
their places is 1, of all others 0. "darknet": see `darknet_loss`.

Shapes, words: as in yolo_targets.py; L heads
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from network_files.boxes import upcast
from network_files.darknet import YoloHead
from network_files.darknet_loss import darknet_sums
from network_files.errors import InputError
from network_files.yolo_targets import (
    Pairs,
    Truths,
    cell_size,
    constant,
    fitting_anchors,
    gather_truths,
    positions_and_cells,
    relative_centres,
    relative_sizes,
    split_head,
)

KINDS = ("giou", "xywh", "darknet")
SMALLEST_AREA = 1e-30  # divisor in place of 0: boxes without area have an IoU of 0
HeadTerms = dict[str, tuple[Tensor, Tensor]]  # name of a loss -> its sum over the head, and the number to divide by


class YoloLoss(nn.Module):
    """The losses of a batch from the raw heads.

    kind: "giou", "xywh" (both of the 2019 trainer, with its values as defaults) or "darknet" (the original; it takes
    label_smoothing and class_weights only, and ignore_thresh and truth_thresh from the heads).

    giou, xy, wh, cls, obj: factors of the losses. cls_pw, obj_pw: weights of the positive part of the BCE. iou_t: 0..1,
    wh-IoU above which an anchor learns a box. label_smoothing: e in 0..1 makes class targets 1 - e / 2 and e / 2.
    class_weights: one more positive weight per class, [C]; None for 1. Raises InputError for impossible settings.

    The losses are means ("darknet": sums over the heads / N), none is scaled by the batch: where a recipe scales by
    batch / 64 (the 2019 trainer; Darknet's rate stands for sum / batch, as here), the script scales its learning rate.

    Boxes narrower than yolo_targets.MIN_SIDE count as that wide ("darknet" drops them); a centre outside the network input
    is moved to its border. Losses and gradients are finite for every finite float16.

    reduce_normalizer: applied in train mode to the numbers that the sums are divided by. Set it to the mean over the
    processes where several train together: then the gradients do not depend on how the images are dealt out.

    Reads nothing back from the device, but for truth_thresh below 1 (see `darknet_sums`).
    """

    def __init__(
        self,
        kind: str = "giou",
        *,
        giou: float = 0.8541,
        xy: float = 4.062,
        wh: float = 0.1845,
        cls: float = 21.61,
        cls_pw: float = 1.957,
        obj: float = 22.9,
        obj_pw: float = 2.894,
        iou_t: float = 0.3689,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__()
        settings = {"giou": giou, "xy": xy, "wh": wh, "cls": cls, "cls_pw": cls_pw, "obj": obj, "obj_pw": obj_pw}
        _check_settings(kind, settings, {"iou_t": iou_t, "label_smoothing": label_smoothing}, class_weights)
        self.kind = kind
        self.gains = {
            "giou": {"loss_box": giou, "loss_obj": obj, "loss_cls": cls},
            "xywh": {"loss_xy": xy, "loss_wh": wh, "loss_obj": obj, "loss_cls": cls},
            "darknet": {"loss_xy": 1.0, "loss_wh": 1.0, "loss_obj": 1.0, "loss_cls": 1.0},
        }[kind]
        self.cls_pw = 1.0 if kind == "darknet" else cls_pw
        self.obj_pw = obj_pw
        self.iou_t = iou_t
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)  # of the training, so in no model's state
        self.reduce_normalizer: Callable[[Tensor], Tensor] = _unchanged

    def forward(
        self,
        outputs: Sequence[Tensor],
        heads: Sequence[YoloHead],
        targets: Sequence[dict[str, Tensor]],
        input_size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """The losses (formula at the head of this file), and detached "num_targets", the number of boxes.

        outputs: per head [N, A * (5 + C), H, W], float32 or float64. targets: per image "boxes" [M, 4] in pixels of the
        network input and "labels" int64 [M] in 1..C; M may be 0. input_size: (height, width) of the network input.
        """
        with torch.autocast(outputs[0].device.type, enabled=False):
            raws = [split_head(upcast(output), head) for output, head in zip(outputs, heads)]
            truths = gather_truths(targets, input_size, raws[0])
            if self.kind == "darknet":
                terms = [self._darknet_terms(raw, head, truths, input_size) for raw, head in zip(raws, heads)]
            else:
                fits = fitting_anchors(truths, heads, self.iou_t)
                terms = [self._terms(raw, *of_head, truths, input_size) for raw, *of_head in zip(raws, heads, fits)]
            losses = self._divide(terms)
        return {**losses, "num_targets": raws[0].new_full((), float(sum(truths.counts)))}

    def _divide(self, terms: Sequence[HeadTerms]) -> dict[str, Tensor]:
        """Each loss from the L heads' sums and numbers; a number of 0 counts as 1."""
        sums = torch.stack([torch.stack([head[name][0] for name in self.gains]) for head in terms])  # [L, losses]
        numbers = torch.stack([torch.stack([head[name][1] for name in self.gains]) for head in terms])
        if self.training:
            numbers = self.reduce_normalizer(numbers)
        # A mean over the processes may lie between 0 and 1, so only 0 is replaced.
        losses = (sums / torch.where(numbers > 0, numbers, 1.0)).sum(dim=0)
        return {name: gain * loss for (name, gain), loss in zip(self.gains.items(), losses.unbind())}

    def _terms(
        self, raw: Tensor, head: YoloHead, fits: Tensor, truths: Truths, input_size: tuple[int, int]
    ) -> HeadTerms:
        """Of "giou" and "xywh"; raw [N, A, 5 + C, H, W], fits: mask [T, A] of the anchors that learn a box."""
        positions, row, column = positions_and_cells(truths, raw, input_size)
        pairs = _all_pairs(fits, truths, row, column)
        predictions = pairs.predictions(raw)  # [R, 5 + C]
        number = pairs.learns.sum().to(raw)
        offsets, sizes = pairs.offsets(positions), truths.sizes[pairs.truth]
        anchors = constant(head.own_anchors, raw)[pairs.anchor]
        centres = relative_centres(predictions[:, :2], head.scale_x_y)
        if self.kind == "giou":
            cell = cell_size(raw, input_size)  # boxes in pixels from the corner of the pair's cell
            pred_boxes = _boxes(centres * cell, relative_sizes(predictions[:, 2:4]) * anchors)
            box = {"loss_box": (1 - paired_giou(pred_boxes, _boxes(offsets * cell, sizes)), number)}
        else:
            wh = (predictions[:, 2:4] - (sizes / anchors).log()).square()
            box = {"loss_xy": ((centres - offsets).square().sum(dim=1), 2 * number), "loss_wh": (wh.sum(dim=1), 2 * number)}
        hot = truths.classes[pairs.truth][:, None] == torch.arange(head.num_classes, device=raw.device)
        cls = self._class_losses(predictions[:, 5:], hot.to(raw.dtype))
        per_pair = {**box, "loss_cls": (cls, number * head.num_classes)}
        terms = {name: (torch.where(pairs.learns, losses, 0.0).sum(), n) for name, (losses, n) in per_pair.items()}
        obj, number_of_places = self._objectness(raw, pairs)
        return {**terms, "loss_obj": (obj, number_of_places)}

    def _objectness(self, raw: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Sum over all places, and their number."""
        logits = raw[:, :, 4].flatten()
        is_object = torch.zeros_like(logits).scatter_reduce(0, pairs.slots(raw), pairs.learns.to(raw.dtype), "amax")
        pos_weight = raw.new_full((), self.obj_pw)
        loss = F.binary_cross_entropy_with_logits(logits, is_object, pos_weight=pos_weight, reduction="sum")
        return loss, raw.new_full((), float(logits.numel()))

    def _class_losses(self, logits: Tensor, hot: Tensor) -> Tensor:
        """Sums over the classes [R] of the BCE of logits [R, C] with classes [R, C] of 0 and 1."""
        pos_weight = logits.new_full((logits.shape[1],), self.cls_pw)
        if self.class_weights is not None:
            if len(self.class_weights) != logits.shape[1]:
                raise InputError(f"{len(self.class_weights)} class_weights for {logits.shape[1]} classes: give one per class")
            pos_weight = pos_weight * self.class_weights
        smooth = hot * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=pos_weight, reduction="none").sum(dim=1)

    def _darknet_terms(self, raw: Tensor, head: YoloHead, truths: Truths, input_size: tuple[int, int]) -> HeadTerms:
        number = raw.new_full((), float(len(raw)))
        sums = darknet_sums(raw, head, truths, input_size, self._class_losses)
        return {f"loss_{name}": (value, number) for name, value in sums.items()}


def paired_giou(boxes: Tensor, other_boxes: Tensor) -> Tensor:
    """Generalised IoU [R], -1..1, of each box of boxes [R, 4] with its counterpart in other_boxes [R, 4].

    GIoU = IoU - (hull - union) / hull (arXiv 1902.09630); two boxes without area have an IoU of 0.
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    other_x1, other_y1, other_x2, other_y2 = other_boxes.unbind(1)
    width = (torch.minimum(x2, other_x2) - torch.maximum(x1, other_x1)).clamp(min=0)  # 0 when apart
    height = (torch.minimum(y2, other_y2) - torch.maximum(y1, other_y1)).clamp(min=0)
    intersection = width * height
    union = (x2 - x1) * (y2 - y1) + (other_x2 - other_x1) * (other_y2 - other_y1) - intersection
    hull = (torch.maximum(x2, other_x2) - torch.minimum(x1, other_x1)) * (
        torch.maximum(y2, other_y2) - torch.minimum(y1, other_y1)
    )
    return intersection / union.clamp(min=SMALLEST_AREA) - (hull - union) / hull.clamp(min=SMALLEST_AREA)


def _boxes(centres: Tensor, sizes: Tensor) -> Tensor:
    return torch.cat((centres - sizes / 2, centres + sizes / 2), dim=1)


def _all_pairs(fits: Tensor, truths: Truths, row: Tensor, column: Tensor) -> Pairs:
    """Each box with each anchor of the head in the box's cell; fits [T, A]: the pairs that learn."""
    num_truths, num_anchors = fits.shape
    truth = torch.arange(num_truths, device=fits.device).repeat_interleave(num_anchors)
    anchor = torch.arange(num_anchors, device=fits.device).repeat(num_truths)
    return Pairs(truth, truths.images[truth], anchor, row[truth], column[truth], fits.flatten())


def _unchanged(numbers: Tensor) -> Tensor:
    return numbers


def _check_settings(
    kind: str, factors: dict[str, float], parts: dict[str, float], class_weights: Sequence[float] | None
) -> None:
    if kind not in KINDS:
        raise InputError(f"the loss must be one of {', '.join(KINDS)}, not {kind!r}")
    for name, value in factors.items():
        if not 0 <= value < math.inf:
            raise InputError(f"the loss setting {name} must be at least 0 and finite, not {value}")
    for name, value in parts.items():
        if not 0 <= value < 1:
            raise InputError(f"the loss setting {name} must be at least 0 and below 1, not {value}")
    if class_weights is not None and not all(0 < weight < math.inf for weight in class_weights):
        raise InputError(f"class_weights must be finite and above 0, not {list(class_weights)}")
