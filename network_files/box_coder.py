"""Boxes as deltas from reference boxes (Faster R-CNN, arXiv 1506.01497, equation 2; R-CNN, appendix C).

Shapes: P pairs of one box and one reference box (anchor or proposal)
Words:  deltas = (dx, dy, dw, dh): centre shift in units of the anchor's sides, log ratios of the sides, each times
        its weight
"""

import math

import torch
from torch import Tensor

MAX_LOG_RATIO = math.log(1000.0 / 16)  # decoded boxes are at most 62.5 times their anchor: exp must not overflow


class BoxCoder:
    """Translates between boxes and deltas; weights (wx, wy, ww, wh) bring the deltas to about unit variance."""

    def __init__(self, weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)):
        self.weights = weights

    def encode(self, gt_boxes: Tensor, anchors: Tensor) -> Tensor:
        """Deltas [P, 4] with decode(encode(gt_boxes, anchors), anchors) == gt_boxes, up to the clamp of dw, dh.

        gt_boxes, anchors [P, 4] with positive sides; gt_boxes take the dtype of the anchors.
        dx = wx (gx - ax) / aw, dw = ww log(gw / aw), where gx, ax are centres and gw, aw widths; y and h likewise.
        """
        wx, wy, ww, wh = self.weights
        gx, gy, gw, gh = _centre_and_sides(gt_boxes.to(anchors.dtype))
        ax, ay, aw, ah = _centre_and_sides(anchors)
        dx, dy = wx * (gx - ax) / aw, wy * (gy - ay) / ah
        dw, dh = ww * torch.log(gw / aw), wh * torch.log(gh / ah)
        return torch.stack((dx, dy, dw, dh), dim=-1)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes [P, 4] that lie deltas [P, 4] away from anchors [P, 4]; not clipped; in the dtype of the deltas.

        dw / ww and dh / wh are limited to log(1000 / 16) from above.
        """
        ax, ay, aw, ah = _centre_and_sides(anchors.to(deltas.dtype))
        dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(-1), self.weights))
        x, y = dx * aw + ax, dy * ah + ay
        half_w = 0.5 * (dw.clamp(max=MAX_LOG_RATIO).exp() * aw)
        half_h = 0.5 * (dh.clamp(max=MAX_LOG_RATIO).exp() * ah)
        return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), dim=-1)


def _centre_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x, centre y, width, height, each [P]."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height
