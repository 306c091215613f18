"""Anchors: fixed reference boxes at every cell of every feature map (Faster R-CNN, arXiv 1506.01497, section 3.1.1).

Shapes: L levels, H, W sides of a level's grid, A anchors per cell
Words:  ratio = height / width; stride = pixels of the padded batch per cell, separately down and across
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from network_files.errors import InputError

MAX_CACHED_SHAPES = 16  # batches of varied sizes come in few padded shapes; each takes up to a few MB


class AnchorsGenerator(nn.Module):
    """Makes the anchors of every level, and keeps those of the last few batch shapes.

    sizes: side of the square anchors in pixels, one tuple per level; aspect_ratios: height / width, one tuple per
    level (one tuple alone serves all levels). Each level has len(sizes) * len(aspect_ratios) anchors per cell, of
    equal area per size.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]] = ((128, 256, 512),),
        aspect_ratios: Sequence[Sequence[float]] = ((0.5, 1.0, 2.0),),
    ):
        super().__init__()
        if not isinstance(sizes[0], Sequence):
            sizes = tuple((size,) for size in sizes)
        if not isinstance(aspect_ratios[0], Sequence):
            aspect_ratios = (aspect_ratios,) * len(sizes)
        if len(sizes) != len(aspect_ratios):
            raise InputError(
                f"anchors: sizes name {len(sizes)} levels but aspect_ratios {len(aspect_ratios)}; give one tuple each"
            )
        self.sizes = tuple(tuple(level) for level in sizes)
        self.aspect_ratios = tuple(tuple(level) for level in aspect_ratios)
        self.cell_anchors = [cell_anchors(s, r) for s, r in zip(self.sizes, self.aspect_ratios)]  # L of [A, 4]
        self._cache: OrderedDict[tuple, list[Tensor]] = OrderedDict()

    def num_anchors_per_location(self) -> list[int]:
        """A of every level."""
        return [len(anchors) for anchors in self.cell_anchors]

    def forward(self, padded_size: tuple[int, int], feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Anchors per level, each [H * W * A, 4] ordered by row, column, anchor; the same for all images of the batch.

        padded_size: (height, width) of the batch in pixels; feature_maps: [N, C, H, W] per level. Not to be changed
        in place.
        """
        if len(feature_maps) != len(self.cell_anchors):
            raise InputError(
                f"the backbone returns {len(feature_maps)} feature maps but the anchors are given for "
                f"{len(self.cell_anchors)} levels: give AnchorsGenerator one tuple of sizes per feature map"
            )
        dtype = torch.float64 if feature_maps[0].dtype == torch.float64 else torch.float32
        grids = tuple((feature.shape[-2], feature.shape[-1]) for feature in feature_maps)
        device = feature_maps[0].device
        key = (padded_size, grids, dtype, device)
        if key not in self._cache:
            with torch.inference_mode(False):  # made during evaluation, used in training later
                cells = [cell.to(device, dtype) for cell in self.cell_anchors]
                self._cache[key] = [grid_anchors(cell, grid, padded_size) for cell, grid in zip(cells, grids)]
            if len(self._cache) > MAX_CACHED_SHAPES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Anchors [A, 4] around the origin, ratio-major, then size; corners rounded to whole pixels (halves to even).

    Of area size^2: w = size / sqrt(ratio), h = size * sqrt(ratio). Raises InputError for a side that rounds to nothing.
    """
    sizes, root = torch.tensor(sizes, dtype=torch.float32), torch.tensor(aspect_ratios, dtype=torch.float32).sqrt()
    widths = ((1 / root)[:, None] * sizes).flatten()
    heights = (root[:, None] * sizes).flatten()
    anchors = (torch.stack((-widths, -heights, widths, heights), dim=1) / 2).round()
    if not (anchors[:, 2:] > 0).all():
        raise InputError(f"anchors: sizes {sizes.tolist()} are too small, every anchor needs sides above 1 pixel")
    return anchors


def grid_anchors(cell: Tensor, grid: tuple[int, int], padded_size: tuple[int, int]) -> Tensor:
    """Copies [H * W * A, 4] of the cell's anchors [A, 4] with centres at multiples of the stride.

    The stride is the whole part of padded side / grid side, not the backbone's nominal one: after odd divisions they
    differ.
    """
    stride_y, stride_x = padded_size[0] // grid[0], padded_size[1] // grid[1]
    y = torch.arange(grid[0], device=cell.device, dtype=cell.dtype) * stride_y
    x = torch.arange(grid[1], device=cell.device, dtype=cell.dtype) * stride_x
    y, x = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack((x, y, x, y), dim=-1)  # [H, W, 4]
    return (centres[:, :, None] + cell).reshape(-1, 4)  # [H, W, A, 4] -> [H * W * A, 4]
