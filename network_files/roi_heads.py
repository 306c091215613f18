"""The second stage: classes and refined boxes of the proposals (Fast R-CNN, arXiv 1504.08083, section 2).

Shapes: N images, C classes with background, R proposals of the whole batch, M ground-truth boxes of one image, D
        detections
Words:  logits / scores = before / after softmax; labels 0 = background; deltas = (dx, dy, dw, dh) from proposal to
        box, per class
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from network_files.box_coder import BoxCoder
from network_files.boxes import batched_nms, clip, large_enough, upcast
from network_files.matcher import BELOW_LOW_THRESHOLD, BETWEEN_THRESHOLDS, Matcher
from network_files.sampler import subsample

MIN_DETECTION_SIDE = 1e-2  # pixels of the resized image
SMOOTH_L1_BETA = 1 / 9


class TwoMLPHead(nn.Module):
    """Two fully connected layers on the flattened block: [R, C, S, S] -> [R, representation_size]."""

    def __init__(self, in_channels: int, representation_size: int):
        super().__init__()
        self.fc6 = nn.Linear(in_channels, representation_size)
        self.fc7 = nn.Linear(representation_size, representation_size)

    def forward(self, pooled: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(pooled.flatten(start_dim=1)))))


class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions with norm, then fully connected layers: [R, C, S, S] -> [R, fc_layers[-1]].

    input_size: (C, S, S); conv_layers, fc_layers: output channels of each layer; norm_layer None gives convolutions
    with a bias.
    """

    def __init__(
        self,
        input_size: tuple[int, int, int],
        conv_layers: Sequence[int],
        fc_layers: Sequence[int],
        norm_layer: Callable[[int], nn.Module] | None = nn.BatchNorm2d,
    ):
        channels, height, width = input_size
        blocks = []
        for out_channels in conv_layers:
            conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=norm_layer is None)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            norm = [norm_layer(out_channels)] if norm_layer is not None else []
            blocks.append(nn.Sequential(conv, *norm, nn.ReLU(inplace=True)))
            channels = out_channels
        blocks.append(nn.Flatten())
        channels = channels * height * width
        for out_channels in fc_layers:
            blocks += [nn.Linear(channels, out_channels), nn.ReLU(inplace=True)]
            channels = out_channels
        super().__init__(*blocks)


class FastRCNNPredictor(nn.Module):
    """Logits [R, C] and deltas [R, 4 * C] (class after class) from [R, in_channels]; num_classes counts background."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, num_classes * 4)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = hidden.flatten(start_dim=1)
        return self.cls_score(hidden), self.bbox_pred(hidden)


class RoILossSums(NamedTuple):
    """Losses summed over the batch, still to be divided by num_samples."""

    classifier: Tensor
    box_reg: Tensor
    num_samples: int


class RoIHeads(nn.Module):
    """Pools the proposals, classifies them and refines their boxes; then detections, or losses when there are targets.

    box_roi_pool is called as pool(features, boxes, sizes), sizes being the padded batch's, so torchvision's pooling
    fits too.
    """

    def __init__(
        self,
        box_roi_pool: nn.Module,
        box_head: nn.Module,
        box_predictor: nn.Module,
        fg_iou_thresh: float,
        bg_iou_thresh: float,
        batch_size_per_image: int,
        positive_fraction: float,
        bbox_reg_weights: tuple[float, float, float, float] | None,
        score_thresh: float,
        nms_thresh: float,
        detections_per_img: int,
    ):
        super().__init__()
        self.box_roi_pool = box_roi_pool
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.box_coder = BoxCoder(bbox_reg_weights or (10.0, 10.0, 5.0, 5.0))
        self.matcher = Matcher(fg_iou_thresh, bg_iou_thresh, allow_low_quality_matches=False)
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_img = detections_per_img

    def predict(
        self, features: dict[str, Tensor], proposals: list[Tensor], padded_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The dense part: logits [R, C] and deltas [R, C, 4], at least float32, for the proposals of all images."""
        device_type = proposals[0].device.type
        with torch.autocast(device_type, enabled=False):  # sample positions need more than half precision
            float_features = {name: upcast(feature) for name, feature in features.items()}
            pooled = self.box_roi_pool(float_features, proposals, [padded_size] * len(proposals))
        weight = next(self.box_predictor.parameters())
        logits, deltas = self.box_predictor(self.box_head(pooled.to(weight.dtype)))
        return upcast(logits), upcast(deltas).unflatten(1, (-1, 4))

    def loss_sums(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        padded_size: tuple[int, int],
        targets: list[dict[str, Tensor]],
    ) -> RoILossSums:
        """Fast R-CNN's equation 1 before division.

        Sum of cross-entropy over the sampled proposals; sum of smooth-L1 with beta 1/9 (delta of the true class -
        encoded ground truth) over those that are objects.

        Sampling draws from the global random numbers, image after image.
        """
        with torch.no_grad(), torch.autocast(proposals[0].device.type, enabled=False):
            proposals, labels, gt_deltas = self.sample(proposals, targets)
        logits, deltas = self.predict(features, proposals, padded_size)
        with torch.autocast(logits.device.type, enabled=False):
            classifier = F.cross_entropy(logits, labels, reduction="sum")
            positives = (labels > 0).nonzero().flatten()
            box_reg = F.smooth_l1_loss(
                deltas[positives, labels[positives]], gt_deltas, beta=SMOOTH_L1_BETA, reduction="sum"
            )
        return RoILossSums(classifier, box_reg, len(labels))

    def sample(self, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Sampled proposals per image, labels int64 [R] of all of them, encoded ground truth of those with a label > 0.

        Ground truth takes part as proposals: at the start of the training the RPN finds hardly any object.
        """
        sampled_proposals, labels, gt_deltas = [], [], []
        for proposals_per_image, target in zip(proposals, targets):
            gt_boxes = target["boxes"].to(proposals_per_image.dtype)
            candidates = torch.cat((proposals_per_image, gt_boxes))
            matched_idxs = self.matcher.match(gt_boxes, candidates)
            labels_per_image = proposal_labels(matched_idxs, target["labels"])
            sampled = torch.cat(subsample(labels_per_image, self.batch_size_per_image, self.positive_fraction))
            sampled = sampled.sort().values
            labels_per_image = labels_per_image[sampled]
            positives = sampled[labels_per_image > 0]
            sampled_proposals.append(candidates[sampled])
            labels.append(labels_per_image)
            gt_deltas.append(self.box_coder.encode(gt_boxes[matched_idxs[positives]], candidates[positives]))
        return sampled_proposals, torch.cat(labels), torch.cat(gt_deltas)

    def detect(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        padded_size: tuple[int, int],
        image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Per image "boxes" [D, 4] in pixels of the resized image, "labels" int64 [D] >= 1, "scores" [D] falling."""
        logits, deltas = self.predict(features, proposals, padded_size)
        with torch.autocast(logits.device.type, enabled=False):
            counts = [len(proposals_per_image) for proposals_per_image in proposals]
            per_image = zip(logits.softmax(dim=-1).split(counts), deltas.split(counts), proposals, image_sizes)
            return [self._detect_in_image(*args) for args in per_image]

    def _detect_in_image(
        self, scores: Tensor, deltas: Tensor, proposals: Tensor, image_size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """scores [P, C], deltas [P, C, 4], proposals [P, 4]; only boxes above the score threshold are decoded."""
        proposal, label = (scores[:, 1:] > self.score_thresh).nonzero().unbind(1)
        label = label + 1  # the background column was left out
        boxes = clip(self.box_coder.decode(deltas[proposal, label], proposals[proposal]), *image_size)
        scores = scores[proposal, label]
        valid = large_enough(boxes, MIN_DETECTION_SIDE).nonzero().flatten()
        boxes, scores, label = boxes[valid], scores[valid], label[valid]
        keep = batched_nms(boxes, scores, label, self.nms_thresh, self.detections_per_img)
        return {"boxes": boxes[keep], "labels": label[keep], "scores": scores[keep]}


def proposal_labels(matched_idxs: Tensor, gt_labels: Tensor) -> Tensor:
    """Class of each proposal, int64 [P]: that of its ground truth, 0 background, -1 ignore."""
    if len(gt_labels) == 0:
        return torch.zeros_like(matched_idxs)
    labels = gt_labels[matched_idxs.clamp(min=0)]
    labels[matched_idxs == BELOW_LOW_THRESHOLD] = 0
    labels[matched_idxs == BETWEEN_THRESHOLDS] = -1
    return labels
