"""Default boxes: fixed reference boxes at every cell of every source map (SSD, arXiv 1512.02325, section 2.2).

Shapes: L levels, P default boxes of one image = sum over the levels of H * W * boxes per cell
Words:  resolution = side of the square network input in pixels; step = pixels between the centres of neighbouring
        cells; ratio = width / height
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from network_files.errors import InputError

CLIPS = ("all", "sides")
MAX_CACHED_GRIDS = 16  # grids follow from the resolution: one or two in a run; each takes up to 1 MB


@dataclass(frozen=True)
class DefaultBoxSpec:
    """All that determines the default boxes of a network, but for the grids: those come from its maps.

    A cell has, in this order, a square of side min, one of side sqrt(min * max), and for each ratio a the boxes
    (w, h) = (min * sqrt(a), min / sqrt(a)) and (min / sqrt(a), min * sqrt(a)). Raises InputError where the levels differ.
    """

    resolution: int
    sizes: tuple[tuple[float, float], ...]  # per level (min, max) in pixels of the network input
    aspect_ratios: tuple[tuple[float, ...], ...]  # per level; each also gives its inverse
    steps: tuple[float, ...] | None = None  # per level, in pixels; None: resolution / side of the grid
    clip: str = "all"  # "all": cx, cy, w, h in 0..1 of the resolution (Caffe's ports); "sides": w, h only (torchvision)

    def __post_init__(self):
        levels = {len(self.sizes), len(self.aspect_ratios), len(self.sizes if self.steps is None else self.steps)}
        if len(levels) > 1 or self.clip not in CLIPS:
            raise InputError(
                f"default boxes need sizes, aspect_ratios and steps (or None) for the same levels and a clip of {CLIPS}, "
                f"not {self}"
            )

    @property
    def boxes_per_cell(self) -> list[int]:
        """Of every level."""
        return [2 + 2 * len(ratios) for ratios in self.aspect_ratios]

    def to_dict(self) -> dict:
        """Numbers, strings and lists only, for checkpoints; `from_dict` is the way back."""
        return {key: _as_lists(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping) -> "DefaultBoxSpec":
        """The spec that `to_dict` (or JSON) describes. Raises InputError for missing or unknown keys."""
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise InputError(f"default boxes are described by {sorted(names)}, but {sorted(values)} are given")
        return cls(**{key: _as_tuples(value) for key, value in values.items()})


class DefaultBoxes:
    """Makes the default boxes of a spec, and keeps those of the last few grids."""

    def __init__(self, spec: DefaultBoxSpec):
        self.spec = spec
        self._cache: OrderedDict[tuple, Tensor] = OrderedDict()

    def __call__(self, grid_sizes: Sequence[tuple[int, int]], device: torch.device | str = "cpu") -> Tensor:
        """Default boxes [P, 4], xyxy pixels of the network input, float32, ordered by level, row, column, box.

        grid_sizes: (height, width) of every source map, from fine to coarse. Not to be changed in place. Boxes may
        reach over the image's border. Raises InputError for another number of levels than the spec's.
        """
        key = tuple(map(tuple, grid_sizes)), torch.device(device)
        if key not in self._cache:
            with torch.inference_mode(False):  # made during evaluation, used in training later
                centres, sides = (self._in_double(grid_sizes) * self.spec.resolution).split(2, dim=1)
                boxes = torch.cat((centres - sides / 2, centres + sides / 2), dim=1)  # [P, 4] cxcywh -> xyxy
                self._cache[key] = boxes.to(device, torch.float32)
            if len(self._cache) > MAX_CACHED_GRIDS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def cxcywh_norm(self, grid_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """The same boxes [P, 4] as centre, width, height in units of the resolution; float32, on the CPU."""
        return self._in_double(grid_sizes).float()

    def _in_double(self, grid_sizes: Sequence[tuple[int, int]]) -> Tensor:
        spec = self.spec
        if len(grid_sizes) != len(spec.sizes):
            raise InputError(
                f"the network has {len(grid_sizes)} source maps but the default boxes are given for {len(spec.sizes)} "
                f"levels: give sizes, aspect ratios and steps once per map"
            )
        steps = spec.steps or (None,) * len(grid_sizes)
        levels = zip(grid_sizes, steps, cell_sides(spec))
        boxes = torch.cat([_level_boxes(grid, step, spec.resolution, sides) for grid, step, sides in levels])
        clipped = boxes if spec.clip == "all" else boxes[:, 2:]
        clipped.clamp_(0, 1)
        return boxes


def cell_sides(spec: DefaultBoxSpec) -> list[Tensor]:
    """(w, h) of the boxes of one cell in units of the resolution, per level [boxes per cell, 2], float64."""
    levels = []
    for (smallest, largest), ratios in zip(spec.sizes, spec.aspect_ratios):
        sides = [(smallest, smallest), (math.sqrt(smallest * largest),) * 2]
        for root in map(math.sqrt, ratios):
            sides += [(smallest * root, smallest / root), (smallest / root, smallest * root)]
        levels.append(torch.tensor(sides, dtype=torch.float64) / spec.resolution)
    return levels


def _level_boxes(grid: tuple[int, int], step: float | None, resolution: int, sides: Tensor) -> Tensor:
    """Boxes [H * W * B, 4] cxcywh in units of the resolution; sides [B, 2]."""
    step_y, step_x = (1 / cells if step is None else step / resolution for cells in grid)
    cy = (torch.arange(grid[0], dtype=torch.float64) + 0.5) * step_y
    cx = (torch.arange(grid[1], dtype=torch.float64) + 0.5) * step_x
    cy, cx = torch.meshgrid(cy, cx, indexing="ij")
    centres = torch.stack((cx, cy), dim=-1)[:, :, None].expand(-1, -1, len(sides), -1)  # [H, W, B, 2]
    return torch.cat((centres, sides.expand(*grid, -1, -1)), dim=-1).reshape(-1, 4)  # [H, W, B, 4] -> [H * W * B, 4]


def _as_lists(value):
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


def _as_tuples(value):
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value
