"""Arithmetic on boxes: area, IoU, clipping, scaling, formats and non-maximum suppression.

Shapes: M ground-truth boxes, P anchors or predictions, K any number of boxes
Words:  boxes = [., 4] absolute xyxy pixels, x2 >= x1 and y2 >= y1, no +1 in widths; keep = indices or mask left over
"""

import torch
from torch import Tensor
from torchvision.ops import nms

# Above these numbers of coordinates one NMS over shifted boxes costs more than one NMS per group.
MAX_SHIFTED_COORDINATES_CPU = 4_000
MAX_SHIFTED_COORDINATES_GPU = 100_000


def upcast(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is half precision or integer, unchanged if it is float32 or float64."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def area(boxes: Tensor) -> Tensor:
    """Areas [K] in square pixels of boxes [K, 4]; half precision is computed in float32."""
    boxes = upcast(boxes)
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def iou(gt_boxes: Tensor, anchors: Tensor) -> Tensor:
    """Intersection over union [M, P], 0..1, of every ground-truth box [M, 4] with every anchor [P, 4].

    Half precision is computed in float32. Two boxes without area give NaN.
    """
    gt_boxes, anchors = upcast(gt_boxes), upcast(anchors)
    gt_x1, gt_y1, gt_x2, gt_y2 = gt_boxes[:, :, None].unbind(1)  # each [M, 1]
    x1, y1, x2, y2 = anchors.t().contiguous()  # each [P]: long contiguous rows are read fastest
    width = (torch.minimum(gt_x2, x2) - torch.maximum(gt_x1, x1)).clamp(min=0)  # [M, P], 0 when apart
    height = (torch.minimum(gt_y2, y2) - torch.maximum(gt_y1, y1)).clamp(min=0)
    intersection = width * height
    return intersection / (area(gt_boxes)[:, None] + area(anchors) - intersection)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes [..., 4] cut at the border of an image of height x width pixels."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), dim=-1)


def large_enough(boxes: Tensor, min_side: float) -> Tensor:
    """Mask [K], true where both sides of boxes [K, 4] have at least min_side pixels."""
    return (boxes[:, 2] - boxes[:, 0] >= min_side) & (boxes[:, 3] - boxes[:, 1] >= min_side)


def scale(boxes: Tensor, old_size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Boxes [K, 4] of an image of old_size (height, width) after the image was resized to new_size."""
    scaled = boxes.clone()
    scaled[:, 0::2] *= new_size[1] / old_size[1]
    scaled[:, 1::2] *= new_size[0] / old_size[0]
    return scaled


def xywh_to_xyxy(boxes_xywh: Tensor) -> Tensor:
    """Boxes [..., 4] from (left, top, width, height) to (x1, y1, x2, y2)."""
    return torch.cat((boxes_xywh[..., :2], boxes_xywh[..., :2] + boxes_xywh[..., 2:]), dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Boxes [..., 4] from (x1, y1, x2, y2) to (left, top, width, height)."""
    return torch.cat((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), dim=-1)


def batched_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, max_keep: int | None = None
) -> Tensor:
    """Non-maximum suppression inside each group (class or pyramid level), never across groups.

    boxes [K, 4], scores [K], groups int64 [K] >= 0. Going down the scores, a box is dropped if its IoU with a kept
    box of its group is above iou_threshold. Returns the kept indices, highest score first, at most max_keep of them.
    """
    assert boxes.ndim == 2 and boxes.shape[1] == 4, f"boxes must be [K, 4], not {tuple(boxes.shape)}"
    assert scores.shape == groups.shape == boxes.shape[:1], "boxes, scores and groups differ in length"
    boxes, scores = upcast(boxes), upcast(scores)
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    limit = MAX_SHIFTED_COORDINATES_CPU if boxes.device.type == "cpu" else MAX_SHIFTED_COORDINATES_GPU
    if boxes.numel() > limit:
        keep = _nms_per_group(boxes, scores, groups, iou_threshold)
    else:
        keep = _nms_shifted(boxes, scores, groups, iou_threshold)
    return keep[:max_keep]


def _nms_shifted(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """One NMS for all groups: each group is moved so far that it cannot overlap another one."""
    # Boxes that were not clipped may begin left of the image: they need the room on that side too.
    shift = groups.to(boxes) * (boxes.max() - boxes.min().clamp(max=0) + 1)
    return nms(boxes + shift[:, None], scores, iou_threshold)


def _nms_per_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """One NMS per group: quadratic only in the size of a group."""
    kept = torch.zeros_like(groups, dtype=torch.bool)
    for group in groups.unique():
        members = (groups == group).nonzero().flatten()
        kept[members[nms(boxes[members], scores[members], iou_threshold)]] = True
    keep = kept.nonzero().flatten()
    return keep[scores[keep].sort(descending=True).indices]
