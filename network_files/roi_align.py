"""RoIAlign over a feature pyramid (Mask R-CNN, arXiv 1703.06870, section 3; levels: FPN, arXiv 1612.03144, equation 1).

Shapes: N images, R proposals of the whole batch, L levels, S side of the pooled block
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from network_files.boxes import area, upcast
from network_files.errors import InputError

MAX_MATMUL_CELLS = 6_000  # of a feature map: above, torchvision's single-threaded kernel is faster
MAX_MATMUL_ELEMENTS = 2**24  # 64 MiB of float32 for gradients spread along one axis


class MultiScaleRoIAlign(nn.Module):
    """Cuts a block of fixed size out of the pyramid level that fits the size of each proposal.

    featmap_names: levels to pool from, finest first (absent ones are passed over, one must be there); output_size:
    side of the block; sampling_ratio: samples per bin and axis. strides: pixels per cell of each named level; by
    default the power of two nearest to batch side / level side, found anew for every batch.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        strides: Sequence[int] | None = None,
        canonical_scale: int = 224,
        canonical_level: int = 4,
    ):
        super().__init__()
        if strides is not None and len(strides) != len(featmap_names):
            raise InputError(f"RoIAlign: {len(featmap_names)} levels are named but {len(strides)} strides given")
        self.featmap_names = tuple(featmap_names)
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        self.sampling_ratio = sampling_ratio
        self.strides = tuple(strides) if strides is not None else None
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        """Pooled blocks [R, C, S, S], the proposals of all images one after the other; at least float32.

        features: name -> [N, C, H, W]; boxes: per image [., 4] in pixels of the batch; image_sizes: per image the
        size of the *padded* batch, as sizes without padding would give wrong strides for small images.
        """
        names = [name for name in self.featmap_names if name in features]
        if not names:
            raise InputError(f"RoIAlign pools from levels {self.featmap_names} but the backbone has {tuple(features)}")
        levels = [upcast(features[name]) for name in names]
        strides = self.level_strides(names, levels, max(size[0] for size in image_sizes))
        rois = boxes_to_rois(boxes, levels[0].dtype)
        if len(levels) == 1:
            return self._pool(levels[0], rois, strides[0])
        level_of_roi = fpn_levels(rois[:, 1:], strides, self.canonical_scale, self.canonical_level)
        sorted_levels, order = level_of_roi.sort(stable=True)
        counts = torch.bincount(sorted_levels, minlength=len(levels)).tolist()  # one wait for the device for all levels
        pooled = [self._pool(*args) for args in zip(levels, rois[order].split(counts), strides)]
        pooled = torch.cat(pooled)
        return torch.empty_like(pooled).index_copy_(0, order, pooled)  # back into the order of the proposals

    def level_strides(self, names: list[str], levels: list[Tensor], height: int) -> list[int]:
        """Pixels per cell of the named levels [N, C, H, W] of a batch with that height."""
        if self.strides is not None:
            return [self.strides[self.featmap_names.index(name)] for name in names]
        return [2 ** round(math.log2(height / level.shape[-2])) for level in levels]

    def _pool(self, level: Tensor, rois: Tensor, stride: int) -> Tensor:
        small = level.shape[-2] * level.shape[-1] <= MAX_MATMUL_CELLS
        if level.device.type == "cpu" and small and level.requires_grad and self.sampling_ratio > 0:
            return RoIAlignMatmulBackward.apply(level, rois, self.output_size, 1 / stride, self.sampling_ratio)
        return roi_align(level, rois, self.output_size, 1 / stride, self.sampling_ratio)


class RoIAlignMatmulBackward(torch.autograd.Function):
    """`torchvision.ops.roi_align` with a backward pass of matrix products, which use all CPU cores.

    Bilinear interpolation, the mean over a bin and the rule that samples outside the map are 0 factor by axis: a block
    is (weights of its rows) x (feature map) x (weights of its columns), so the gradient of the map is a sum of
    (rows)^T x (gradient of the block) x (columns). torchvision's kernel adds up single samples in one thread.
    The boxes get no gradient, as in torchvision.
    """

    @staticmethod
    def forward(ctx, level: Tensor, rois: Tensor, output_size: tuple[int, int], scale: float, samples: int) -> Tensor:
        """level [N, C, H, W], rois [R, 5] (image, x1, y1, x2, y2) in pixels of the batch -> [R, C, *output_size]."""
        ctx.save_for_backward(rois)
        ctx.level_shape, ctx.output_size, ctx.scale, ctx.samples = level.shape, output_size, scale, samples
        return roi_align(level, rois, output_size, scale, samples)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """gradient [R, C, *output_size] -> gradient of the level [N, C, H, W]."""
        (rois,) = ctx.saved_tensors
        num_images, channels, height, width = ctx.level_shape
        x, y, x2, y2 = (rois[:, 1:] * ctx.scale).unbind(1)
        rows = axis_weights(y, (y2 - y).clamp(min=1), height, ctx.output_size[0], ctx.samples)  # [R, S, H]
        columns = axis_weights(x, (x2 - x).clamp(min=1), width, ctx.output_size[1], ctx.samples)  # [R, S, W]
        level = gradient.new_zeros(num_images, height, channels * width)
        piece = max(1, MAX_MATMUL_ELEMENTS // (ctx.output_size[0] * channels * width))  # RoIs at once
        for image in range(num_images):
            for r in (rois[:, 0] == image).nonzero().flatten().split(piece):
                half = gradient[r].transpose(1, 2).flatten(1, 2) @ columns[r]  # [r, S * C, W]
                level[image].addmm_(rows[r].flatten(0, 1).t(), half.view(-1, channels * width))  # [H, r * S] x [r * S, C * W]
        return level.view(num_images, height, channels, width).transpose(1, 2), None, None, None, None


def axis_weights(start: Tensor, size: Tensor, length: int, bins: int, samples: int) -> Tensor:
    """How much each of `length` cells of an axis counts in each bin of each RoI: [R, bins, length].

    start, size: [R] in cells. A bin is the mean of `samples` points; a point is interpolated between its two
    neighbours, 0 further than one cell outside the map, and moved to the border cell between.
    """
    offsets = (torch.arange(bins * samples, dtype=start.dtype, device=start.device) + 0.5) / samples
    points = start[:, None] + (size / bins)[:, None] * offsets  # [R, bins * samples]
    inside = (points >= -1) & (points <= length)
    cells = torch.arange(length, dtype=start.dtype, device=start.device)
    distance = (points.clamp(0, length - 1)[:, :, None] - cells).abs()
    weights = (1 - distance).clamp(min=0) * inside[:, :, None]
    return weights.unflatten(1, (bins, samples)).mean(dim=2)


def boxes_to_rois(boxes: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Rows [R, 5] = (number of the image, x1, y1, x2, y2) from one [., 4] tensor per image."""
    image = [torch.full_like(boxes_per_image[:, :1], number) for number, boxes_per_image in enumerate(boxes)]
    return torch.cat((torch.cat(image), torch.cat(boxes)), dim=1).to(dtype)


def fpn_levels(boxes: Tensor, strides: Sequence[int], canonical_scale: int = 224, canonical_level: int = 4) -> Tensor:
    """Index [R] into strides of the level that each box [R, 4] pools from.

    k = floor(canonical_level + log2(sqrt(area) / canonical_scale)), limited to log2 of the first and the last stride.
    """
    lowest, highest = round(math.log2(strides[0])), round(math.log2(strides[-1]))
    # 1e-6 keeps areas that are a canonical one but for rounding from falling a level short
    k = torch.floor(canonical_level + torch.log2(area(boxes).sqrt() / canonical_scale) + 1e-6)
    return k.clamp(lowest, highest).to(torch.int64) - lowest
