"""Faster R-CNN (arXiv 1506.01497) over any backbone, with or without a feature pyramid (arXiv 1612.03144).

The way of a batch: prepare (resize.py) -> forward_heads (backbone, RPN head) -> rpn.py -> roi_heads.py.

Shapes: N images, C classes with background, M ground-truth boxes of one image, D detections
Words:  boxes = [., 4] absolute xyxy pixels; labels 0 = background
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from network_files.anchor_generator import AnchorsGenerator
from network_files.errors import InputError
from network_files.resize import IMAGENET_MEAN, IMAGENET_STD, Batch, ShortSideResize
from network_files.roi_align import MultiScaleRoIAlign
from network_files.roi_heads import FastRCNNPredictor, RoIHeads, TwoMLPHead
from network_files.rpn import RegionProposalNetwork, RPNHead
from network_files.targets import check_targets


class DenseOutputs(NamedTuple):
    """What the part of the network with static shapes gives, L levels."""

    features: dict[str, Tensor]  # name -> [N, C, H, W]
    objectness: list[Tensor]  # L of [N, A, H, W]
    deltas: list[Tensor]  # L of [N, A * 4, H, W]


class FasterRCNN(nn.Module):
    """losses = model(images, targets), in train and in eval mode; detections = model(images).

    images: list of [3, H, W] of any sizes, uint8 0..255 or float 0..1, or a 4-D batch.
    targets: per image "boxes" float [M, 4] pixels of that image and "labels" int64 [M] in 1..num_classes - 1; M may
    be 0. losses: loss_classifier, loss_box_reg, loss_objectness, loss_rpn_box_reg, each a 0-dim tensor on the graph.
    detections: per image "boxes" [D, 4] in pixels of the image as given, "labels" int64 [D], "scores" [D] falling,
    0..1.

    backbone: a module with `out_channels` whose output is one feature map (called level "0") or an ordered dict of
    them. num_classes: with background; left out where box_predictor is given. min_size, max_size, keep_in_range,
    size_divisible: see ShortSideResize. rpn_*: first stage, box_*: second stage; *_top_n: boxes per level before and
    per image after NMS. With targets a train mode model and an eval mode model differ in the image size, the backbone
    and reduce_normalizer only.

    reduce_normalizer: applied in train mode to the numbers of samples [2] that the losses are divided by. Set it to
    the mean over the processes where several train together: then the gradients do not depend on how the images are
    dealt out.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None = None,
        # images
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        # region proposal network
        rpn_anchor_generator: AnchorsGenerator | None = None,
        rpn_head: nn.Module | None = None,
        rpn_pre_nms_top_n_train: int = 2000,
        rpn_pre_nms_top_n_test: int = 1000,
        rpn_post_nms_top_n_train: int = 2000,
        rpn_post_nms_top_n_test: int = 1000,
        rpn_nms_thresh: float = 0.7,
        rpn_fg_iou_thresh: float = 0.7,
        rpn_bg_iou_thresh: float = 0.3,
        rpn_batch_size_per_image: int = 256,
        rpn_positive_fraction: float = 0.5,
        rpn_score_thresh: float = 0.0,
        # second stage
        box_roi_pool: nn.Module | None = None,
        box_head: nn.Module | None = None,
        box_predictor: nn.Module | None = None,
        box_score_thresh: float = 0.05,
        box_nms_thresh: float = 0.5,
        box_detections_per_img: int = 100,
        box_fg_iou_thresh: float = 0.5,
        box_bg_iou_thresh: float = 0.5,
        box_batch_size_per_image: int = 512,
        box_positive_fraction: float = 0.25,
        bbox_reg_weights: tuple[float, float, float, float] | None = None,
        size_divisible: int = 32,
        keep_in_range: bool = False,
    ):
        super().__init__()
        if not hasattr(backbone, "out_channels"):
            raise InputError("the backbone needs an attribute out_channels, the channels of its feature maps")
        if (num_classes is None) == (box_predictor is None):
            raise InputError("give either num_classes (with background) or box_predictor")
        channels = backbone.out_channels
        if rpn_anchor_generator is None:
            rpn_anchor_generator = AnchorsGenerator((32, 64, 128, 256, 512), (0.5, 1.0, 2.0))
        if rpn_head is None:
            rpn_head = RPNHead(channels, _anchors_per_cell(rpn_anchor_generator))
        if box_roi_pool is None:
            box_roi_pool = MultiScaleRoIAlign(featmap_names=["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
        if box_head is None:
            height, width = box_roi_pool.output_size
            box_head = TwoMLPHead(channels * height * width, representation_size=1024)
        if box_predictor is None:
            box_predictor = FastRCNNPredictor(_representation_size(box_head), num_classes)

        self.transform = ShortSideResize(
            min_size, max_size, image_mean or IMAGENET_MEAN, image_std or IMAGENET_STD, size_divisible, keep_in_range
        )
        self.backbone = backbone
        self.rpn = RegionProposalNetwork(
            rpn_anchor_generator,
            rpn_head,
            rpn_fg_iou_thresh,
            rpn_bg_iou_thresh,
            rpn_batch_size_per_image,
            rpn_positive_fraction,
            {"training": rpn_pre_nms_top_n_train, "testing": rpn_pre_nms_top_n_test},
            {"training": rpn_post_nms_top_n_train, "testing": rpn_post_nms_top_n_test},
            rpn_nms_thresh,
            rpn_score_thresh,
        )
        self.roi_heads = RoIHeads(
            box_roi_pool,
            box_head,
            box_predictor,
            box_fg_iou_thresh,
            box_bg_iou_thresh,
            box_batch_size_per_image,
            box_positive_fraction,
            bbox_reg_weights,
            box_score_thresh,
            box_nms_thresh,
            box_detections_per_img,
        )
        self.reduce_normalizer: Callable[[Tensor], Tensor] = _unchanged

    @property
    def num_classes(self) -> int | None:
        """Classes with background, as the predictor in place has them; None for a predictor of a foreign kind."""
        cls_score = getattr(self.roi_heads.box_predictor, "cls_score", None)
        return getattr(cls_score, "out_features", None)

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """The four losses if targets are given, else one dict of detections per image (see the class)."""
        batch = self.prepare(images, targets)
        dense = self.forward_heads(batch.images)
        if targets is None:
            return self.postprocess(batch, dense)
        return self.losses(batch, dense)

    def prepare(self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict] | None = None) -> Batch:
        """The images as one normalised batch on the model's device, the targets' boxes in pixels of that batch.

        Raises InputError, naming image and box, for images or targets of the wrong form, boxes that are empty, not
        finite or outside their image, and labels that the model does not have.
        """
        if targets is not None:
            check_targets(list(targets), [tuple(image.shape[-2:]) for image in images], self.num_classes)
        weight = next(self.parameters())
        return self.transform(images, targets, weight.device, weight.dtype)

    def forward_heads(self, images: Tensor) -> DenseOutputs:
        """Backbone and RPN head on a batch [N, 3, H, W]: shapes depend on nothing else, so it can be compiled."""
        features = self.backbone(images)
        if isinstance(features, Tensor):
            features = {"0": features}
        objectness, deltas = self.rpn.head(list(features.values()))
        return DenseOutputs(dict(features), objectness, deltas)

    def losses(self, batch: Batch, dense: DenseOutputs) -> dict[str, Tensor]:
        """The four losses, each the sum over the sampled anchors or proposals / their number in the whole batch.

        0 where nothing could be sampled; the box losses of images without objects are 0.
        """
        assert batch.targets is not None
        padded_size = (batch.images.shape[-2], batch.images.shape[-1])
        proposals, rpn = self.rpn(dense.objectness, dense.deltas, padded_size, batch.image_sizes, batch.targets)
        roi = self.roi_heads.loss_sums(dense.features, proposals, padded_size, batch.targets)
        numbers = torch.stack([rpn.objectness.new_full((), float(n)) for n in (rpn.num_samples, roi.num_samples)])
        if self.training:
            numbers = self.reduce_normalizer(numbers)
        num_anchors, num_proposals = torch.where(numbers > 0, numbers, 1.0)
        return {
            "loss_classifier": roi.classifier / num_proposals,
            "loss_box_reg": roi.box_reg / num_proposals,
            "loss_objectness": rpn.objectness / num_anchors,
            "loss_rpn_box_reg": rpn.box_reg / num_anchors,
        }

    def postprocess(self, batch: Batch, dense: DenseOutputs) -> list[dict[str, Tensor]]:
        """Detections per image, boxes in pixels of the image as given."""
        padded_size = (batch.images.shape[-2], batch.images.shape[-1])
        proposals, _ = self.rpn(dense.objectness, dense.deltas, padded_size, batch.image_sizes)
        detections = self.roi_heads.detect(dense.features, proposals, padded_size, batch.image_sizes)
        for detection, image_size, original_size in zip(detections, batch.image_sizes, batch.original_sizes):
            detection["boxes"] = self.transform.boxes_to_original(detection["boxes"], image_size, original_size)
        return detections


def _unchanged(numbers: Tensor) -> Tensor:
    return numbers


def _anchors_per_cell(anchor_generator: AnchorsGenerator) -> int:
    numbers = anchor_generator.num_anchors_per_location()
    if len(set(numbers)) != 1:
        raise InputError(f"the levels share one RPN head, so each needs the same number of anchors, not {numbers}")
    return numbers[0]


def _representation_size(box_head: nn.Module) -> int:
    """Output channels of the box head: those of its last fully connected layer."""
    layers = [layer for layer in box_head.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise InputError("the box head has no fully connected layer to take the size from: give box_predictor as well")
    return layers[-1].out_features
