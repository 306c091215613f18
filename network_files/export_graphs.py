"""The detectors as graphs for export: images in, decoded boxes and scores out; here the two dense ones, SSD and YOLOv3.

A graph takes images of the network input's own size, float RGB 0..1, and normalises them itself; its boxes are in pixels of that
input. Resizing before and scaling back behind it are the caller's. `raw` is what a detector has before its last NMS, `nms` what
is left by it. Everything is written such that a trace holds for any number of images and, where a network is fully
convolutional, for any size. See export_faster_rcnn.py for the third detector.

Shapes: N images, C classes without background, P boxes of one image, G groups, K boxes of a group, S boxes that are kept
Words:  boxes = [., 4] xyxy pixels of the network input; labels 1..C; column k of scores is label k + 1
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from network_files.boxes import clip
from network_files.darknet import YoloHead
from network_files.ssd import SSD
from network_files.yolov3 import MAX_SIDE, YOLOv3, decode

ADMIT_ALL = -0.5  # below every score, above the -1 of a box that takes no part
DETECTNET_MEAN = DETECTNET_STD = 0.5  # jetson-inference feeds (pixel - 127.5) / 127.5


class Suppress(torch.autograd.Function):
    """Non-maximum suppression in every group of every image at once: ONNX's NonMaxSuppression, and the same in torch.

    boxes [N, K, 4], scores [N, G, K] -> rows (image, group, box), int64 [S, 3], by image and group, scores falling. Takes part
    what is above score_thresh; a box is dropped if its IoU with a kept one of its group is above nms_thresh; at most
    `most` of a group are kept. Groups share their boxes, so nothing has to be moved apart, which would cost digits.
    """

    @staticmethod
    def forward(ctx, boxes: Tensor, scores: Tensor, nms_thresh: float, score_thresh: float, most: int) -> Tensor:
        """In torch, for the trace and for comparing."""
        rows = [torch.empty((0, 3), dtype=torch.int64)]
        for image, (image_boxes, image_scores) in enumerate(zip(boxes, scores)):
            for group, group_scores in enumerate(image_scores):
                taking_part = (group_scores > score_thresh).nonzero().flatten()
                kept = taking_part[nms(image_boxes[taking_part], group_scores[taking_part], nms_thresh)[:most]]
                place = kept.new_tensor([image, group]).expand(len(kept), 2)
                rows.append(torch.cat((place, kept[:, None]), dim=1))
        return torch.cat(rows)

    @staticmethod
    def symbolic(g, boxes, scores, nms_thresh: float, score_thresh: float, most: int):
        """In ONNX."""
        limits = torch.tensor([most]), torch.tensor([nms_thresh]), torch.tensor([score_thresh])
        return g.op("NonMaxSuppression", boxes, scores, *(g.op("Constant", value_t=limit) for limit in limits))


class Normalise(nn.Module):
    """(images - mean) / std per channel; nothing where that changes nothing."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.changes = any(mean) or any(value != 1 for value in std)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std if self.changes else images


class RawSSD(nn.Module):
    """Images [N, 3, S, S] -> boxes [N, P, 4], clipped to the input, and scores [N, P, C], behind softmax, of an SSD."""

    def __init__(self, model: SSD):
        super().__init__()
        self.model = model
        self.normalise = Normalise(model.transform.image_mean, model.transform.image_std)
        self.register_buffer("default_boxes", _default_boxes(model))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        heads = self.model.forward_heads(self.normalise(images))
        boxes = self.model.box_coder.decode(heads.deltas, self.default_boxes)
        return clip(boxes, self.model.resolution, self.model.resolution), heads.logits.softmax(dim=-1)[:, :, 1:]

    def admitted(self, scores: Tensor) -> Tensor:
        """Scores [N, P, C] with -1 for what is not among the best of its class that go into NMS."""
        most = min(self.model.candidates_per_class, len(self.default_boxes))
        least = scores.topk(most, dim=1).values[:, -1:]
        return torch.where(scores >= least, scores, -1.0)


class DetectNetSSD(nn.Module):
    """The graph that jetson-inference's detectNet runs: images [1, 3, S, S] -> scores [1, P, 1 + C], boxes [1, P, 4].

    Scores are behind softmax, background first; boxes are corners in units of the input's side, not clipped, as pytorch-ssd
    exports them. detectNet normalises with mean and std of one half; the difference to what the network was trained
    with stands in front as a product and a sum per channel. Put into the first convolution it would be wrong at the border,
    where that pads with zeros.
    """

    def __init__(self, model: SSD):
        super().__init__()
        self.model = model
        mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None]
                     for values in (model.transform.image_mean, model.transform.image_std))
        self.register_buffer("factor", (DETECTNET_STD / std).float())
        self.register_buffer("shift", ((DETECTNET_MEAN - mean) / std).float())
        self.changes = bool((self.factor != 1).any() or (self.shift != 0).any())
        self.register_buffer("default_boxes", _default_boxes(model))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.changes:
            images = images * self.factor + self.shift
        heads = self.model.forward_heads(images)
        boxes = self.model.box_coder.decode(heads.deltas, self.default_boxes)
        return heads.logits.softmax(dim=-1), boxes / self.model.resolution


class RawYOLOv3(nn.Module):
    """Images [N, channels, H, W] -> boxes [N, P, 4], not clipped, and scores [N, P, C], objectness times class, of a YOLOv3.

    P counts head by head, then by row, column and anchor. H and W are multiples of the largest stride.
    """

    def __init__(self, model: YOLOv3):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        max_side = MAX_SIDE * torch.maximum(*sides_of(images))
        outputs = self.model.forward_heads(images)
        parts = [self._decode(output, head, max_side) for output, head in zip(outputs, self.model.heads)]
        boxes, scores = (torch.cat(part, dim=1) for part in zip(*parts))
        return boxes, scores

    def _decode(self, output: Tensor, head: YoloHead, max_side: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [N, H * W * A, 4] and scores [N, H * W * A, C] of a head's output [N, A * (5 + C), H, W]."""
        n, _, h, w = output.shape
        anchors = output.new_tensor(head.own_anchors)  # [A, 2]
        values = output.view(n, len(anchors), 5 + head.num_classes, h, w).permute(0, 3, 4, 1, 2)  # [N, H, W, A, 5 + C]
        row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        cells = torch.stack((column, row), dim=-1).to(output)[:, :, None]  # [H, W, 1, 2]
        pairs = (pair.expand(n, h, w, len(anchors), 2).reshape(-1, 2) for pair in (cells, anchors))
        boxes = decode(values[..., :4].reshape(-1, 4), *pairs, head, max_side).reshape(n, -1, 4)
        scores = values[..., 4:5].sigmoid() * values[..., 5:].sigmoid()
        return boxes, scores.reshape(n, -1, head.num_classes)

    def admitted(self, scores: Tensor) -> Tensor:
        """Scores [N, P, C] with -1 for what does not go into NMS: all but the best class of a box, where only that counts."""
        if self.model.multi_label:
            return scores
        return torch.where(scores >= scores.amax(dim=2, keepdim=True), scores, -1.0)


class DenseNMS(nn.Module):
    """One image [1, 3, H, W] -> boxes [S, 4], clipped to the input, labels int64 [S], scores [S], falling.

    Thresholds and limits are those of the model at the time of export.
    """

    def __init__(self, raw: RawSSD | RawYOLOv3):
        super().__init__()
        self.raw = raw
        self.model = raw.model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores = self.raw(images)
        scores = self.raw.admitted(scores).transpose(1, 2)  # [1, C, P]
        limits = self.model.nms_thresh, self.model.score_thresh, self.model.detections_per_img
        _, group, box = Suppress.apply(boxes, scores, *limits).unbind(1)
        best = best_first(scores[0, group, box], self.model.detections_per_img)
        group, box = group[best], box[best]
        return clip_to(boxes[0, box], images), group + 1, scores[0, group, box]


def sides_of(images: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of images [N, 3, H, W] as tensors without dimensions, which a trace follows."""
    height, width = (torch.as_tensor(side) for side in images.shape[2:])
    return height, width


def clip_to(boxes: Tensor, images: Tensor) -> Tensor:
    """Boxes [..., 4] cut at the border of images [N, 3, H, W]; like `clip`, for sizes that a trace follows."""
    height, width = sides_of(images)
    return torch.minimum(boxes.clamp(min=0), torch.stack((width, height, width, height)).to(boxes))


def best_first(scores: Tensor, most: int) -> Tensor:
    """Indices of the highest of the scores [S], falling, at most `most`."""
    return scores.sort(descending=True).indices[:most]


def _default_boxes(model: SSD) -> Tensor:
    """Default boxes [P, 4] of an SSD; its grids follow from a run."""
    weight = next(model.parameters())
    with torch.no_grad():
        sources = model.sources(weight.new_zeros(1, 3, model.resolution, model.resolution))
    return model.default_boxes([(source.shape[2], source.shape[3]) for source in sources], weight.device)
