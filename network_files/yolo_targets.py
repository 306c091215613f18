"""Which places of YOLO's heads learn which ground-truth boxes, and the boxes that the heads stand for.

Paper: arXiv 1804.02767, section 2.1. With tx, ty, tw, th the first four of the 5 + C numbers of a place, s = scale_x_y:

    centre = (cell's corner + s * sigmoid(txy) - (s - 1) / 2) * size of a cell       size = exp(twh) * anchor

Shapes: N images, C classes (no background), A anchors of one head, K anchors of several heads, H, W cells of one head,
        T ground-truth boxes of the whole batch, R pairs
Words:  place = one anchor in one cell of one image; pair = a ground-truth box and a place that may learn it; raw = a head
        as the network gives it, [N, A, 5 + C, H, W]; position = (x, y) in cells; class = label - 1; wh-IoU = IoU of two
        boxes moved onto one centre
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from network_files.darknet import YoloHead

MIN_SIDE = 1e-3  # pixels: a narrower box counts as this wide, so that no logarithm and no IoU of it is infinite
MAX_TWH = 6.9  # a box of 1,000 anchors is wide enough; areas made of exp(88) would overflow


class Truths(NamedTuple):
    """The ground truth of a batch, one image behind the other; boxes, centres, sizes in pixels of the network input."""

    boxes: Tensor  # [T, 4]
    centres: Tensor  # [T, 2], moved into the input where they lie outside
    sizes: Tensor  # [T, 2] width, height, at least MIN_SIDE
    classes: Tensor  # int64 [T], 0..C-1
    images: Tensor  # int64 [T]
    counts: list[int]  # of each image


class Pairs(NamedTuple):
    """Pairs [R] of a ground-truth box and a place, all int64. Pairs that do not learn keep the number R known."""

    truth: Tensor
    image: Tensor
    anchor: Tensor  # number among the head's own
    row: Tensor
    column: Tensor
    learns: Tensor  # bool

    def predictions(self, raw: Tensor) -> Tensor:
        """The numbers [R, 5 + C] of the places of raw [N, A, 5 + C, H, W]."""
        return raw[self.image, self.anchor, :, self.row, self.column]

    def slots(self, raw: Tensor) -> Tensor:
        """The places' numbers [R] among the N * A * H * W of raw."""
        _, num_anchors, _, height, width = raw.shape
        return ((self.image * num_anchors + self.anchor) * height + self.row) * width + self.column

    def offsets(self, positions: Tensor) -> Tensor:
        """From the place's cell (left upper corner) to the box's centre, in cells: [R, 2], of positions [T, 2]."""
        return positions[self.truth] - torch.stack((self.column, self.row), dim=1)


def gather_truths(targets: Sequence[dict[str, Tensor]], input_size: tuple[int, int], like: Tensor) -> Truths:
    """The targets ("boxes" [M, 4] pixels, "labels" [M] in 1..C) as one, with the device and the dtype of `like`."""
    counts = [len(target["boxes"]) for target in targets]
    boxes = torch.cat([target["boxes"] for target in targets]).to(like)
    labels = torch.cat([target["labels"] for target in targets]).to(like.device)
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).unbind(1)
    return Truths(
        boxes=boxes,
        centres=torch.stack((x.clamp(0, input_size[1]), y.clamp(0, input_size[0])), dim=1),
        sizes=(boxes[:, 2:] - boxes[:, :2]).clamp(min=MIN_SIDE),
        classes=labels.long() - 1,
        images=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(like.device, non_blocking=True),
        counts=counts,
    )


def split_head(output: Tensor, head: YoloHead) -> Tensor:
    """raw [N, A, 5 + C, H, W], a view of the output [N, A * (5 + C), H, W] of a head."""
    num_anchors, depth = len(head.mask), 5 + head.num_classes
    assert output.shape[1] == num_anchors * depth, f"{output.shape[1]} channels, not {num_anchors} * {depth}"
    return output.unflatten(1, (num_anchors, depth))


def constant(values: Sequence[float] | Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """Numbers with the dtype and on the device of `like`, without making the host wait."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


def cell_size(raw: Tensor, input_size: tuple[int, int]) -> Tensor:
    """Width and height [2] of a cell in pixels of the network input."""
    return constant((input_size[1] / raw.shape[4], input_size[0] / raw.shape[3]), raw)


def wh_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """wh-IoU [T, K] of sizes [T, 2] and anchors [K, 2], both width and height above 0."""
    intersection = torch.minimum(sizes[:, None], anchors).prod(dim=2)  # [T, 1, 2], [K, 2] -> [T, K]
    return intersection / (sizes.prod(dim=1)[:, None] + anchors.prod(dim=1) - intersection)


def fitting_anchors(truths: Truths, heads: Sequence[YoloHead], iou_t: float) -> list[Tensor]:
    """Per head a mask [T, A] of the anchors that learn a box: all with a wh-IoU above iou_t.

    A box that has none in any head gets its best one of all heads.
    """
    anchors = [anchor for head in heads for anchor in head.own_anchors]
    overlaps = wh_iou(truths.sizes, constant(anchors, truths.sizes))  # [T, K]
    best = overlaps.argmax(dim=1, keepdim=True)
    fits = (overlaps > iou_t).scatter(1, best, True)  # changes nothing where one is above iou_t, as the best is then
    return list(fits.split([len(head.mask) for head in heads], dim=1))


def positions_and_cells(truths: Truths, raw: Tensor, input_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The centres' positions [T, 2], and the rows and columns int64 [T] of the cells that they lie in."""
    positions = truths.centres / cell_size(raw, input_size)
    column, row = positions.long().unbind(1)
    # A centre on the right or lower border, or one that the division rounded there, is of the last cell.
    return positions, row.clamp(max=raw.shape[3] - 1), column.clamp(max=raw.shape[4] - 1)


def relative_centres(txy: Tensor, scale_x_y: float) -> Tensor:
    """Of numbers tx or ty [...]: the centre in cells from the cell's corner."""
    return scale_x_y * txy.sigmoid() - (scale_x_y - 1) / 2


def relative_sizes(twh: Tensor) -> Tensor:
    """Of numbers tw or th [...]: the size in anchors."""
    return twh.clamp(max=MAX_TWH).exp()


def decode(raw: Tensor, head: YoloHead, input_size: tuple[int, int]) -> Tensor:
    """The boxes [N, A * H * W, 4], xyxy pixels of the network input, that raw [N, A, 5 + C, H, W] stands for."""
    tx, ty, tw, th = raw[:, :, :4].unbind(2)  # each [N, A, H, W]
    height, width = raw.shape[3:]
    anchor_w, anchor_h = constant(head.own_anchors, raw).t()[:, :, None, None]  # each [A, 1, 1]
    columns = torch.arange(width, device=raw.device)
    rows = torch.arange(height, device=raw.device)[:, None]
    x = (relative_centres(tx, head.scale_x_y) + columns) * (input_size[1] / width)
    y = (relative_centres(ty, head.scale_x_y) + rows) * (input_size[0] / height)
    half_w, half_h = relative_sizes(tw) * anchor_w / 2, relative_sizes(th) * anchor_h / 2
    return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), dim=-1).flatten(1, 3)
