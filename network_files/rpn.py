"""Region proposal network (Faster R-CNN, arXiv 1506.01497, section 3.1).

Shapes: N images, A anchors per cell, L levels, M ground-truth boxes of one image,
        P anchors of one image = sum of H * W * A over the levels, K proposals left before NMS
Words:  objectness = logit of object / no object; deltas = (dx, dy, dw, dh) from anchor to box
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from network_files.anchor_generator import AnchorsGenerator
from network_files.box_coder import BoxCoder
from network_files.boxes import batched_nms, clip, large_enough, upcast
from network_files.matcher import BETWEEN_THRESHOLDS, Matcher
from network_files.sampler import subsample

MIN_PROPOSAL_SIDE = 1e-3  # pixels of the resized image
SMOOTH_L1_BETA = 1 / 9


class RPNHead(nn.Module):
    """3x3 convolutions, then 1x1 ones for objectness and deltas of every anchor; the same weights on all levels."""

    def __init__(self, in_channels: int, num_anchors: int, conv_depth: int = 1):
        super().__init__()
        convs = [
            nn.Sequential(nn.Conv2d(in_channels, in_channels, 3, padding=1), nn.ReLU(inplace=True))
            for _ in range(conv_depth)
        ]
        self.conv = nn.Sequential(*convs)
        self.cls_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness [N, A, H, W] and deltas [N, A * 4, H, W] per level, from feature maps [N, C, H, W]."""
        hidden = [self.conv(feature) for feature in features]
        return [self.cls_logits(h) for h in hidden], [self.bbox_pred(h) for h in hidden]


class RPNLossSums(NamedTuple):
    """Losses summed over the batch, still to be divided by num_samples."""

    objectness: Tensor
    box_reg: Tensor
    num_samples: int


class RegionProposalNetwork(nn.Module):
    """Turns the head's outputs into proposals, and into losses when there are targets.

    pre_nms_top_n (per level), post_nms_top_n (per image): {"training": n, "testing": n}; score_thresh drops proposals
    below that sigmoid of the objectness, in training too.
    """

    def __init__(
        self,
        anchor_generator: AnchorsGenerator,
        head: nn.Module,
        fg_iou_thresh: float,
        bg_iou_thresh: float,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_top_n: dict[str, int],
        post_nms_top_n: dict[str, int],
        nms_thresh: float,
        score_thresh: float = 0.0,
    ):
        super().__init__()
        self.anchor_generator = anchor_generator
        self.head = head
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(fg_iou_thresh, bg_iou_thresh, allow_low_quality_matches=True)
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_top_n = pre_nms_top_n
        self.post_nms_top_n = post_nms_top_n
        self.nms_thresh = nms_thresh
        self.score_thresh = score_thresh

    def forward(
        self,
        objectness: list[Tensor],
        deltas: list[Tensor],
        padded_size: tuple[int, int],
        image_sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], RPNLossSums | None]:
        """Proposals, per image [., 4] by falling score and without gradient, and the losses if targets are given.

        objectness, deltas: the head's outputs per level; padded_size: of the batch; image_sizes: of the images
        without padding.
        """
        with torch.autocast(objectness[0].device.type, enabled=False):
            anchors = self.anchor_generator(padded_size, objectness)
            logits = [flatten_level(level, 1).squeeze(-1) for level in objectness]  # L of [N, H * W * A]
            deltas = [flatten_level(level, 4) for level in deltas]  # L of [N, H * W * A, 4]
            phase = "testing" if targets is None else "training"
            with torch.no_grad():
                proposals = self.propose(logits, deltas, anchors, image_sizes, phase)
            if targets is None:
                return proposals, None
            sums = self.loss_sums(torch.cat(logits, dim=1), torch.cat(deltas, dim=1), torch.cat(anchors), targets)
            return proposals, sums

    def propose(
        self,
        logits: list[Tensor],
        deltas: list[Tensor],
        anchors: list[Tensor],
        image_sizes: list[tuple[int, int]],
        phase: str,
    ) -> list[Tensor]:
        """Per image the best boxes [., 4]; only the top logits of each level are decoded, clipped and suppressed."""
        boxes, top_logits, levels = [], [], []
        for level, (logits_level, deltas_level, anchors_level) in enumerate(zip(logits, deltas, anchors)):
            number = min(self.pre_nms_top_n[phase], logits_level.shape[1])
            values, idxs = logits_level.topk(number, dim=1)  # [N, number]
            chosen = deltas_level.gather(1, idxs[:, :, None].expand(-1, -1, 4))
            boxes.append(self.box_coder.decode(chosen, anchors_level[idxs]))
            top_logits.append(values)
            levels.append(torch.full((number,), level, dtype=torch.int64, device=idxs.device))
        boxes, levels = torch.cat(boxes, dim=1), torch.cat(levels)  # [N, K, 4], [K]
        scores = torch.cat(top_logits, dim=1).sigmoid()  # [N, K]
        proposals = []
        for boxes_per_image, scores_per_image, image_size in zip(boxes, scores, image_sizes):
            boxes_per_image = clip(boxes_per_image, *image_size)
            valid = large_enough(boxes_per_image, MIN_PROPOSAL_SIDE) & (scores_per_image >= self.score_thresh)
            valid = valid.nonzero().flatten()
            boxes_per_image = boxes_per_image[valid]
            keep = batched_nms(
                boxes_per_image, scores_per_image[valid], levels[valid], self.nms_thresh, self.post_nms_top_n[phase]
            )
            proposals.append(boxes_per_image[keep])
        return proposals

    def loss_sums(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, targets: list[dict[str, Tensor]]
    ) -> RPNLossSums:
        """Equation 1 before division.

        Sum of BCE(logit, is object) over the sampled anchors; sum of smooth-L1 with beta 1/9 (delta - encoded ground
        truth) over the sampled objects.

        logits [N, P], deltas [N, P, 4], anchors [P, 4]; sampling draws from the global random numbers, image after
        image.
        """
        positives, negatives, gt_deltas = [], [], []
        for number, target in enumerate(targets):
            matched_idxs = self.matcher.match(target["boxes"], anchors)
            labels = anchor_labels(matched_idxs)
            positive, negative = subsample(labels, self.batch_size_per_image, self.positive_fraction)
            gt_deltas.append(self.box_coder.encode(target["boxes"][matched_idxs[positive]], anchors[positive]))
            positives.append(positive + number * len(anchors))
            negatives.append(negative + number * len(anchors))
        positives = torch.cat(positives)
        sampled = torch.cat((positives, *negatives))  # into the [N * P] anchors of the batch
        is_object = torch.zeros(len(sampled), dtype=logits.dtype, device=logits.device)
        is_object[: len(positives)] = 1
        objectness = F.binary_cross_entropy_with_logits(logits.flatten()[sampled], is_object, reduction="sum")
        box_reg = F.smooth_l1_loss(
            deltas.flatten(0, 1)[positives], torch.cat(gt_deltas), beta=SMOOTH_L1_BETA, reduction="sum"
        )
        return RPNLossSums(objectness, box_reg, len(sampled))


def flatten_level(output: Tensor, values_per_anchor: int) -> Tensor:
    """[N, A * values, H, W] of the head -> [N, H * W * A, values] in the order of the anchors, at least float32."""
    n, _, h, w = output.shape
    output = output.reshape(n, -1, values_per_anchor, h, w).permute(0, 3, 4, 1, 2)
    return upcast(output.reshape(n, -1, values_per_anchor))


def anchor_labels(matched_idxs: Tensor) -> Tensor:
    """Labels [P] for the sampler: 1 object, 0 background, -1 ignore."""
    return (matched_idxs >= 0).to(torch.int8) - (matched_idxs == BETWEEN_THRESHOLDS).to(torch.int8)
