"""YOLOv3 (arXiv 1804.02767) over the network of a Darknet cfg.

The way of a batch: prepare (resize.py) -> forward_heads (darknet.py) -> yolo_loss.py, or postprocess. Of a head's raw
values t, in a cell of the grid and for one of the head's anchors:

    x = (s * sigmoid(tx) - (s - 1) / 2 + column) * stride      width  = anchor_width  * exp(tw)
    y = (s * sigmoid(ty) - (s - 1) / 2 + row)    * stride      height = anchor_height * exp(th)
    score of a class = sigmoid(objectness) * sigmoid(class)

s is the scale_x_y of the head; (x, y) is the centre of the box. All in pixels of the network input, the anchors too, so
that they keep their size when the input changes its own.

Shapes: N images, C classes (no background), A anchors of one head, H, W cells, M ground-truth boxes of one image,
        R boxes of one head in the whole batch, K candidates = pairs of a box and a class, D detections
Words:  boxes = [., 4] absolute xyxy pixels; labels 1..C in targets and detections = index of the class in a head + 1;
        sizes = (height, width); network input = the batch with its borders
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from network_files.boxes import batched_nms, clip, upcast
from network_files.darknet import Convolutional, Darknet, YoloHead
from network_files.errors import InputError
from network_files.resize import Batch, LetterboxResize, SquashResize
from network_files.targets import check_targets
from network_files.yolo_loss import YoloLoss

MAX_CANDIDATES = 30_000  # of one image that go into NMS, the best: more take seconds, and a trained model has hundreds
MAX_SIDE = 4  # of a box, in long sides of the network input
OBJECT_LOGIT = -4.5  # of a new head: one box of 90 has an object
CLASS_ODDS = 0.6  # of a new head, for a class against the C - 1 others


class Candidates(NamedTuple):
    """Pairs of a box and a class that take part in NMS, in any order."""

    image: Tensor  # int64 [K], number in the batch
    boxes: Tensor  # [K, 4], pixels of the network input, not clipped
    labels: Tensor  # int64 [K]
    scores: Tensor  # [K]


class YOLOv3(nn.Module):
    """losses = model(images, targets), in train and in eval mode; detections = model(images).

    images: list of [3, H, W] of any sizes, uint8 0..255 or float 0..1, or a 4-D batch. targets: per image "boxes" float
    [M, 4] pixels of that image and "labels" int64 [M] in 1..num_classes; M may be 0. losses: see YoloLoss. detections: per
    image "boxes" [D, 4] in pixels of the image as given, "labels" int64 [D], "scores" [D] falling, 0..1.

    cfg: text of a Darknet cfg. img_size: longer side of the network input in pixels, a multiple of the largest stride; the
    other follows the cfg's shape, rounded to such a multiple; None: the cfg's width and height. resize: "letterbox" keeps
    the shape of an image, "stretch" does not; see LetterboxResize, there rect too, and SquashResize. multi_scale: (least,
    largest) img_size; a train mode model draws one for each batch with targets. loss: keywords of YoloLoss. norm_eps,
    norm_momentum: see Darknet.

    score_thresh: what goes into NMS. multi_label: every class of a box above it does, else only the best. nms_thresh: IoU
    above which the lower score of a class is dropped. detections_per_img: the most that come out. Of one image at most
    MAX_CANDIDATES go into NMS.

    heads: the YoloHead of each output of forward_heads. reduce_normalizer: see YoloLoss.
    """

    def __init__(
        self,
        cfg: str,
        *,
        # images
        img_size: int | None = None,
        resize: str = "letterbox",
        rect: bool = False,
        multi_scale: tuple[int, int] | None = None,
        # loss
        loss: dict | None = None,
        # detections
        score_thresh: float = 0.005,
        nms_thresh: float = 0.45,
        multi_label: bool = True,
        detections_per_img: int = 100,
        # network
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
    ):
        super().__init__()
        self.darknet = Darknet(cfg, norm_eps=norm_eps, norm_momentum=norm_momentum)
        self.heads: tuple[YoloHead, ...] = self.darknet.heads
        self.num_classes = _num_classes(self.heads)
        self.stride = max(head.stride for head in self.heads)
        self.multi_scale = multi_scale
        self._drawn_sizes()  # refuses what leaves no size
        size = self._input_size(img_size)
        self.transform = _transform(resize, size, rect, self.stride, self.darknet.channels)
        self.loss = YoloLoss(**(loss or {}))
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.multi_label = multi_label
        self.detections_per_img = detections_per_img
        init_head_biases(self)

    @property
    def reduce_normalizer(self) -> Callable[[Tensor], Tensor]:
        """What the loss applies, in train mode, to the numbers that it divides by."""
        return self.loss.reduce_normalizer

    @reduce_normalizer.setter
    def reduce_normalizer(self, reduce: Callable[[Tensor], Tensor]) -> None:
        self.loss.reduce_normalizer = reduce

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """The losses if targets are given, else one dict of detections per image (see the class)."""
        batch = self.prepare(images, targets)
        outputs = self.forward_heads(batch.images)
        if targets is None:
            return self.postprocess(batch, outputs)
        return self.losses(batch, outputs)

    def prepare(self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict] | None = None) -> Batch:
        """The images as one batch on the model's device, the targets' boxes in pixels of that batch.

        Raises InputError, naming image and box, for images or targets of the wrong form, boxes that are empty, not
        finite or outside their image, and labels that the model does not have.
        """
        size = None
        if targets is not None:
            # This check counts the background, the model does not.
            check_targets(list(targets), [tuple(image.shape[-2:]) for image in images], self.num_classes + 1)
            size = self._draw_size() if self.training else None
        weight = next(self.parameters())
        return self.transform(images, targets, weight.device, weight.dtype, size)

    def forward_heads(self, images: Tensor) -> list[Tensor]:
        """The raw outputs of the heads on a batch [N, 3, height, width]: [N, A * (5 + C), H, W] each, at least float32."""
        return [upcast(output) for output in self.darknet(images)]

    def losses(self, batch: Batch, outputs: list[Tensor]) -> dict[str, Tensor]:
        """What YoloLoss gives for a batch: losses `loss_*`, and numbers to log."""
        assert batch.targets is not None
        return self.loss(outputs, self.heads, batch.targets, (batch.images.shape[2], batch.images.shape[3]))

    def postprocess(self, batch: Batch, outputs: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detections per image, boxes in pixels of the image as given."""
        with torch.autocast(outputs[0].device.type, enabled=False):
            candidates = self._candidates(outputs, max(batch.images.shape[2:]))
        order = candidates.image.argsort(stable=True)
        counts = candidates.image.bincount(minlength=len(batch.images)).tolist()
        columns = (column[order].split(counts) for column in candidates[1:])
        places = zip(batch.image_sizes, batch.original_sizes, batch.offsets, strict=True)
        detections = []
        for boxes, labels, scores, (image_size, original_size, offset) in zip(*columns, places):
            if len(scores) > MAX_CANDIDATES:
                best = scores.topk(MAX_CANDIDATES).indices
                boxes, labels, scores = boxes[best], labels[best], scores[best]
            boxes = self.transform.boxes_to_original(boxes, image_size, original_size, offset)
            keep = batched_nms(boxes, scores, labels, self.nms_thresh, self.detections_per_img)
            detections.append({"boxes": clip(boxes[keep], *original_size), "labels": labels[keep], "scores": scores[keep]})
        return detections

    def _candidates(self, outputs: list[Tensor], long_side: int) -> Candidates:
        """What takes part in NMS of the heads' outputs on an input of this long side."""
        parts = []
        for output, head in zip(outputs, self.heads):
            maps = output.unflatten(1, (len(head.mask), 5 + self.num_classes))  # [N, A, 5 + C, H, W]
            # No score can be above the objectness: most boxes of a trained model need not be looked at any further.
            image, anchor, row, column = (maps[:, :, 4].sigmoid() > self.score_thresh).nonzero().unbind(1)
            values = maps[image, anchor, :, row, column]  # [R, 5 + C]
            scores = values[:, 4:5].sigmoid() * values[:, 5:].sigmoid()  # [R, C]
            box, index = self._above_threshold(scores)
            cells = torch.stack((column, row), dim=1)[box]
            anchors = values.new_tensor(head.own_anchors)[anchor[box]]
            boxes = decode(values[box, :4], cells, anchors, head, MAX_SIDE * long_side)
            parts.append(Candidates(image[box], boxes, index + 1, scores[box, index]))
        return Candidates(*(torch.cat(column) for column in zip(*parts)))

    def _above_threshold(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Box and index of the class, int64 [K] each, of the scores [R, C] that take part."""
        if self.multi_label:
            return (scores > self.score_thresh).nonzero().unbind(1)
        best, index = scores.max(dim=1)
        box = (best > self.score_thresh).nonzero().flatten()
        return box, index[box]

    def _drawn_sizes(self) -> range:
        """The longer sides of the network input that multi_scale allows."""
        if self.multi_scale is None:
            return range(0)
        least, largest = self.multi_scale
        sizes = range(self.stride * max(1, math.ceil(least / self.stride)), largest + 1, self.stride)
        if not sizes:
            raise InputError(f"multi_scale {least} to {largest} pixels holds no multiple of the largest stride, {self.stride}")
        return sizes

    def _draw_size(self) -> tuple[int, int] | None:
        sizes = self._drawn_sizes()
        # One number is drawn even when there is nothing to choose: the draws that follow must not depend on the choice.
        number = int(torch.empty(1).uniform_(0, max(1, len(sizes))))
        return self._input_size(sizes[number]) if sizes else None

    def _input_size(self, longer: int | None) -> tuple[int, int]:
        """(height, width) of the network input for its longer side; None: as in the cfg."""
        size = (self.darknet.height, self.darknet.width)
        if longer is not None:
            scaled = (side * longer / max(size) / self.stride for side in size)
            size = tuple(self.stride * max(1, round(cells)) for cells in scaled)
        if any(side % self.stride for side in size) or longer not in (None, max(size)):
            given = longer or f"{size[1]} x {size[0]}"
            raise InputError(f"the network input of {given} pixels must be a multiple of the largest stride, {self.stride}")
        return size


def decode(values: Tensor, cells: Tensor, anchors: Tensor, head: YoloHead, max_side: float) -> Tensor:
    """Boxes [K, 4] in pixels of the network input (formula at the head of this file).

    values: raw (tx, ty, tw, th) [K, 4]; cells: (column, row) [K, 2]; anchors: (width, height) [K, 2]. max_side: in pixels.
    Longer sides, up to the infinite ones that exp gives, are cut to it: such a box covers the image anyway, and it would
    take the digits from the others when NMS moves the classes apart.
    """
    scale = head.scale_x_y
    centres = (scale * values[:, :2].sigmoid() - (scale - 1) / 2 + cells) * head.stride
    halves = (anchors * values[:, 2:].exp()).clamp(max=max_side) / 2
    return torch.cat((centres - halves, centres + halves), dim=1)


def init_head_biases(model: YOLOv3) -> None:
    """Adds to the biases of the heads what an untrained model should say: few objects, all classes alike.

    OBJECT_LOGIT to the objectness, ln(CLASS_ODDS / (C - .99)) to the classes, which for one class is 60 to 1. Without it
    the first steps do little but push all boxes down. A head that no convolution makes is left alone.
    """
    class_logit = math.log(CLASS_ODDS / (model.num_classes - 0.99))
    for head in model.heads:
        layer = model.darknet.module_list[head.layer - 1]
        if isinstance(layer, Convolutional):
            bias = layer.conv.bias if layer.norm is None else layer.norm.bias
            with torch.no_grad():
                per_anchor = bias.view(len(head.mask), 5 + head.num_classes)
                per_anchor[:, 4] += OBJECT_LOGIT
                per_anchor[:, 5:] += class_logit


def _num_classes(heads: Sequence[YoloHead]) -> int:
    numbers = sorted({head.num_classes for head in heads})
    if len(numbers) > 1:
        raise InputError(f"the [yolo] sections of a cfg must have equal classes, not {' and '.join(map(str, numbers))}")
    return numbers[0]


def _transform(
    resize: str, size: tuple[int, int], rect: bool, divisible: int, channels: int
) -> LetterboxResize | SquashResize:
    if resize not in ("letterbox", "stretch"):
        raise InputError(f"resize must be 'letterbox' or 'stretch', not {resize!r}")
    if resize == "letterbox":
        return LetterboxResize(size, rect, divisible, channels=channels)
    if rect:
        raise InputError("rect needs resize='letterbox': stretched images fill the network input and leave nothing to cut")
    return SquashResize(size, (0.0,) * channels, (1.0,) * channels)
