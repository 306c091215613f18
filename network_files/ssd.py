"""Single Shot MultiBox Detector (SSD, arXiv 1512.02325) over any base network.

The way of a batch: prepare (resize.py) -> forward_heads (base, extras, heads) -> multibox_loss.py, or postprocess.

Shapes: N images, C classes with background, P default boxes of one image, M ground-truth boxes of one image,
        D detections, K candidates of the whole batch (pairs of a default box and a class), R rows that may hold some
Words:  boxes = [., 4] absolute xyxy pixels; labels 0 = background; logits / scores = before / after softmax;
        deltas = (dx, dy, dw, dh) from default box to box; source = a feature map that a pair of heads looks at
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from network_files.boxes import batched_nms, clip, upcast
from network_files.default_boxes import DefaultBoxes, DefaultBoxSpec
from network_files.errors import InputError
from network_files.multibox_loss import MultiBoxLoss
from network_files.resize import Batch, SquashResize
from network_files.targets import check_targets

ROUNDING = 1e-5  # a row of scores sums to 1 but for less than this


class Tap(NamedTuple):
    """Where a source leaves the base: behind base_net[index], or inside it.

    inner = ("conv", 3): behind the first three layers of base_net[index].conv, a Sequential that must be all that the
    block does (no shortcut around it).
    """

    index: int
    inner: tuple[str, int] | None = None


class SSDLayers(NamedTuple):
    """The layers of a net, under the names that their keys have in a checkpoint."""

    base_net: nn.Sequential
    taps: tuple[Tap, ...]  # the first sources, in the order of the base
    extras: nn.ModuleList  # run one after the other behind the base; each output is a source
    classification_headers: nn.ModuleList  # per source [N, ., H, W] -> [N, boxes per cell * C, H, W], box-major
    regression_headers: nn.ModuleList  # per source [N, ., H, W] -> [N, boxes per cell * 4, H, W], box-major
    source_layer_add_ons: nn.ModuleList  # number k is applied to source k, beside the base; may be shorter than the sources


class HeadOutputs(NamedTuple):
    """What the dense part of the network gives, at least float32; default boxes in the order of DefaultBoxes."""

    logits: Tensor  # [N, P, C]
    deltas: Tensor  # [N, P, 4]
    grid_sizes: list[tuple[int, int]]  # (height, width) of each source


class SSD(nn.Module):
    """losses = model(images, targets), in train and in eval mode; detections = model(images).

    images: list of [3, H, W] of any sizes, uint8 0..255 or float 0..1, or a 4-D batch; each is stretched to the square
    network input. targets: per image "boxes" float [M, 4] pixels of that image and "labels" int64 [M] in
    1..num_classes - 1; M may be 0. losses: loss_classifier, loss_box_reg, each a 0-dim tensor on the graph. detections:
    per image "boxes" [D, 4] in pixels of the image as given, "labels" int64 [D], "scores" [D] falling, 0..1.

    layers: see SSDLayers. default_boxes: its resolution is the side of the network input, its levels are the sources.
    num_classes: with background. image_mean, image_std (for values in 0..1), antialias: see SquashResize. fg_iou_thresh,
    negatives_per_positive, min_negatives: see MultiBoxLoss. score_thresh, candidates_per_class: what goes into NMS;
    nms_thresh: IoU above which the lower score is dropped; detections_per_img: the most that come out. With targets a
    train mode model and an eval mode model differ in the layers (BatchNorm) and reduce_normalizer only.

    reduce_normalizer: applied in train mode to the numbers [2] of positives and of mined negatives, from which the
    losses' divisors are made. Set it to the mean over the processes where several train together: then the gradients do
    not depend on how the images are dealt out.
    """

    def __init__(
        self,
        layers: SSDLayers,
        default_boxes: DefaultBoxSpec,
        num_classes: int,
        *,
        # images
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        antialias: bool = False,
        # loss
        fg_iou_thresh: float = 0.5,
        negatives_per_positive: float = 3,
        min_negatives: int = 30,
        # detections
        score_thresh: float = 0.01,
        nms_thresh: float = 0.45,
        candidates_per_class: int = 400,
        detections_per_img: int = 200,
    ):
        super().__init__()
        if num_classes < 2:
            raise InputError(f"num_classes counts the background, so it must be at least 2, not {num_classes}")
        _check_levels(layers, len(default_boxes.sizes))
        self.base_net = layers.base_net
        self.extras = layers.extras
        self.classification_headers = layers.classification_headers
        self.regression_headers = layers.regression_headers
        self.source_layer_add_ons = layers.source_layer_add_ons
        self.taps = {tap.index: tap.inner for tap in layers.taps}
        self.transform = SquashResize(default_boxes.resolution, image_mean, image_std, antialias)
        self.default_boxes = DefaultBoxes(default_boxes)
        self.multibox_loss = MultiBoxLoss(fg_iou_thresh, negatives_per_positive, min_negatives)
        self.box_coder = self.multibox_loss.box_coder
        self.num_classes = num_classes
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.candidates_per_class = candidates_per_class
        self.detections_per_img = detections_per_img
        self.reduce_normalizer: Callable[[Tensor], Tensor] = _unchanged

    @property
    def resolution(self) -> int:
        """Side of the square network input in pixels."""
        return self.default_boxes.spec.resolution

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """The two losses if targets are given, else one dict of detections per image (see the class)."""
        batch = self.prepare(images, targets)
        heads = self.forward_heads(batch.images)
        if targets is None:
            return self.postprocess(batch, heads)
        return self.losses(batch, heads)

    def prepare(self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict] | None = None) -> Batch:
        """The images as one normalised batch on the model's device, the targets' boxes in pixels of that batch.

        Raises InputError, naming image and box, for images or targets of the wrong form, boxes that are empty, not
        finite or outside their image, and labels that the model does not have.
        """
        if targets is not None:
            check_targets(list(targets), [tuple(image.shape[-2:]) for image in images], self.num_classes)
        weight = next(self.parameters())
        return self.transform(images, targets, weight.device, weight.dtype)

    def forward_heads(self, images: Tensor) -> HeadOutputs:
        """Base, extras and heads on a batch [N, 3, S, S]: shapes depend on nothing else, so it can be compiled."""
        sources = self.sources(images)
        logits = [head(source) for head, source in zip(self.classification_headers, sources)]
        deltas = [head(source) for head, source in zip(self.regression_headers, sources)]
        grid_sizes = [(source.shape[2], source.shape[3]) for source in sources]
        return HeadOutputs(_rows(logits, self.num_classes), _rows(deltas, 4), grid_sizes)

    def sources(self, images: Tensor) -> list[Tensor]:
        """The maps that the heads look at, [N, ., H, W] each, from fine to coarse."""
        maps, x = [], images
        for index, block in enumerate(self.base_net):
            if index not in self.taps:
                x = block(x)
                continue
            before, behind = _split(block, self.taps[index])
            for layer in before:
                x = layer(x)
            maps.append(x)
            for layer in behind:
                x = layer(x)
        for extra in self.extras:
            x = extra(x)
            maps.append(x)
        add_ons = self.source_layer_add_ons
        return [add_on(source) for add_on, source in zip(add_ons, maps)] + maps[len(add_ons) :]

    def losses(self, batch: Batch, heads: HeadOutputs) -> dict[str, Tensor]:
        """loss_classifier and loss_box_reg, as at the head of multibox_loss.py."""
        assert batch.targets is not None
        with torch.autocast(heads.logits.device.type, enabled=False):
            sums = self.multibox_loss.sums(heads.logits, heads.deltas, self._default_boxes(heads), batch.targets)
        numbers = torch.stack((sums.positives, sums.mined))
        if self.training:
            numbers = self.reduce_normalizer(numbers)
        return self.multibox_loss.divide(sums, numbers)

    def postprocess(self, batch: Batch, heads: HeadOutputs) -> list[dict[str, Tensor]]:
        """Detections per image, boxes in pixels of the image as given."""
        default_boxes = self._default_boxes(heads)
        with torch.autocast(heads.logits.device.type, enabled=False):
            scores = heads.logits.softmax(dim=-1)
            image, box, label = self._candidates(scores)
            boxes = self.box_coder.decode(heads.deltas[image, box], default_boxes[box])
            boxes = clip(boxes, self.resolution, self.resolution)
            scores = scores[image, box, label]
        counts = image.bincount(minlength=len(batch.image_sizes)).tolist()
        per_image = zip(boxes.split(counts), label.split(counts), scores.split(counts))
        detections = [self._suppress(*candidates) for candidates in per_image]
        for detection, image_size, original_size in zip(detections, batch.image_sizes, batch.original_sizes):
            detection["boxes"] = self.transform.boxes_to_original(detection["boxes"], image_size, original_size)
        return detections

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image, default box and label [K] each, image after image, of the scores [N, P, C] that take part in NMS.

        They are above the threshold and among the candidates_per_class highest of their image and class.
        """
        # Where the background leaves too little for any class, the rest of the row need not be looked at: most boxes of
        # a trained model, of which only the few others cost time from here on.
        image, box = (scores[:, :, 0] < 1 - self.score_thresh + ROUNDING).nonzero().unbind(1)
        is_candidate = scores[image, box] > self.score_thresh  # [R, C]
        is_candidate[:, 0] = False
        counts = torch.zeros_like(scores[:, 0], dtype=torch.int32).index_add_(0, image, is_candidate.int())
        is_crowded = counts > self.candidates_per_class  # [N, C]
        crowded_image, crowded_label = is_crowded.nonzero().unbind(1)
        if len(crowded_image) > 0:
            best = scores[crowded_image, :, crowded_label].topk(self.candidates_per_class, dim=1).indices
            row = torch.zeros_like(scores[:, :, 0], dtype=torch.int64)  # of each default box above
            row[image, box] = torch.arange(len(box), device=box.device)
            is_candidate &= ~is_crowded[image]
            is_candidate[row[crowded_image[:, None], best], crowded_label[:, None]] = True
        row, label = is_candidate.nonzero().unbind(1)
        return image[row], box[row], label

    def _suppress(self, boxes: Tensor, labels: Tensor, scores: Tensor) -> dict[str, Tensor]:
        keep = batched_nms(boxes, scores, labels, self.nms_thresh, self.detections_per_img)
        return {"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]}

    def _default_boxes(self, heads: HeadOutputs) -> Tensor:
        """Default boxes [P, 4] in the dtype of the outputs."""
        default_boxes = self.default_boxes(heads.grid_sizes, heads.deltas.device)
        if not len(default_boxes) == heads.logits.shape[1] == heads.deltas.shape[1]:
            raise InputError(
                f"the heads give {heads.logits.shape[1]} rows of logits and {heads.deltas.shape[1]} of deltas for "
                f"{len(default_boxes)} default boxes: their channels must be boxes per cell times num_classes, and times 4"
            )
        return default_boxes.to(heads.deltas.dtype)


def _unchanged(numbers: Tensor) -> Tensor:
    return numbers


def _check_levels(layers: SSDLayers, num_levels: int) -> None:
    num_sources = len(layers.taps) + len(layers.extras)
    numbers = {num_sources, num_levels, len(layers.classification_headers), len(layers.regression_headers)}
    if len(numbers) > 1 or len(layers.source_layer_add_ons) > num_sources:
        raise InputError(
            f"{len(layers.taps)} taps and {len(layers.extras)} extras make {num_sources} sources: each needs one of the "
            f"{len(layers.classification_headers)} classification headers, the {len(layers.regression_headers)} regression "
            f"headers and the {num_levels} levels of default boxes, and at most one of the "
            f"{len(layers.source_layer_add_ons)} add-ons"
        )


def _split(block: nn.Module, inner: tuple[str, int] | None) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
    """The layers of a block before and behind its tap."""
    if inner is None:
        return [block], []
    name, num_layers = inner
    layers = list(getattr(block, name))
    return layers[:num_layers], layers[num_layers:]


def _rows(outputs: list[Tensor], num_columns: int) -> Tensor:
    """[N, P, num_columns] from the heads' maps [N, B * num_columns, H, W]: by level, row, column, box of the cell."""
    rows = [output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, num_columns) for output in outputs]
    return upcast(torch.cat(rows, dim=1))
