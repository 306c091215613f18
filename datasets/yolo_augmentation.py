"""Augmentation of the YOLO family: letterbox, turn, scale, shear and shift in one warp, colours, mirror.

All geometry of a sample is one matrix from the pixels of the file to those of the output, so that every pixel is
interpolated once. A mosaic (mosaic.py) is four pictures drawn into one output in the same way.

Shapes: M boxes of the image, H, W sides of the output
Words:  matrix = float64 [3, 3], takes (x, y, 1) of the picture to (x, y, 1) of the output; coordinates are continuous,
        the first pixel covers 0..1; canvas = where pictures are laid out before the random affine; sizes (height, width)
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

import network_files.boxes as box_ops
from datasets.errors import InputError
from datasets.transforms import PER_BOX_FIELDS, Compose, RandomHorizontalFlip, keep_boxes

# The model's letterbox fills with .5, as Darknet does; this is its nearest byte, so nets meet one grey only.
GREY = 128
MIN_SIDE = 4.0  # pixels of the output: smaller boxes are dropped
MAX_ASPECT_RATIO = 10.0  # narrower boxes are dropped
MIN_AREA = 0.1  # share of the scaled box that must be left in the output
STRIP = 64  # rows coloured at once: their floats fit the cache, and take no fresh memory, which the system would have to clear

# Keys of the hyper-parameters used here, each with its largest value; a missing key is 0: no such change.
# A larger scale or shear can flatten the picture to nothing.
LARGEST = {"hsv_h": 0.5, "hsv_s": 1.0, "hsv_v": 1.0, "degrees": 180.0, "translate": 1.0, "scale": 0.9, "shear": 40.0}


def fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) in whole pixels of a picture resized so that its long side is `size`."""
    ratio = size / max(height, width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def placement(height: int, width: int, new_size: tuple[int, int], left: int, top: int) -> Tensor:
    """The matrix that resizes a picture of height x width to new_size and lays its corner on (left, top)."""
    x_scale, y_scale = new_size[1] / width, new_size[0] / height
    return torch.tensor([[x_scale, 0, left], [0, y_scale, top], [0, 0, 1]], dtype=torch.float64)


class RandomAffine:
    """Draws the matrix from a canvas to the output: turned, scaled and sheared about the centre, then shifted.

    The angle is uniform in -degrees..degrees, the factor in 1 - scale..1 + scale, the angles of shear along x and y in
    -shear..shear degrees, the shifts along x and y in -translate..translate of the output's width and height.

    Args:
        hyp: hyper-parameters; degrees, translate, scale and shear are used, see `LARGEST`.

    Raises:
        InputError: a value that is negative, not finite or too large.
    """

    def __init__(self, hyp: Mapping[str, float]):
        self.degrees, self.translate, self.scale, self.shear = _amounts(hyp, ("degrees", "translate", "scale", "shear"))

    def __call__(self, canvas: tuple[int, int], output: tuple[int, int], generator: Generator) -> Tensor:
        drawn = torch.rand(6, generator=generator, dtype=torch.float64) * 2 - 1
        angle, growth, x_shear, y_shear, x_shift, y_shift = drawn.tolist()
        angle = math.radians(angle * self.degrees)
        x_shear, y_shear = (math.tan(math.radians(value * self.shear)) for value in (x_shear, y_shear))
        cos, sin = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        lean = torch.tensor([[1, x_shear], [y_shear, 1]], dtype=torch.float64)
        linear = (1 + growth * self.scale) * lean @ turn
        height, width = output
        new_centre = torch.tensor([width * (0.5 + x_shift * self.translate), height * (0.5 + y_shift * self.translate)],
                                  dtype=torch.float64)
        matrix = torch.eye(3, dtype=torch.float64)
        matrix[:2, :2] = linear
        matrix[:2, 2] = new_centre - linear @ torch.tensor([canvas[1] / 2, canvas[0] / 2], dtype=torch.float64)
        return matrix


class HSVJitter:
    """Random hue, saturation and value (brightness) of HSV; the image given is not changed.

    Hue is turned by a part of the colour circle that is uniform in -hsv_h..hsv_h; saturation and value are multiplied by
    factors uniform in 1 - hsv_s..1 + hsv_s and 1 - hsv_v..1 + hsv_v. Raises InputError as `RandomAffine`.
    """

    def __init__(self, hyp: Mapping[str, float]):
        self.ranges = torch.tensor(_amounts(hyp, ("hsv_h", "hsv_s", "hsv_v")))

    def __call__(self, image: Tensor, target: dict, generator: Generator) -> tuple[Tensor, dict]:
        hue, saturation, value = ((torch.rand(3, generator=generator) * 2 - 1) * self.ranges).tolist()
        if hue == saturation == value == 0:
            return image, target
        return adjust_hsv(image, hue, 1 + saturation, 1 + value), target


def adjust_hsv(image: Tensor, hue: float, saturation: float, value: float) -> Tensor:
    """A uint8 image [3, H, W] with its HSV hue turned by a part of a full turn, saturation and value multiplied.

    Saturation and value are cut at their largest, so hues never shift by clipping; (0, 1, 1) gives the same pixels.
    """
    assert image.dtype == torch.uint8
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    for top in range(0, image.shape[1], STRIP):
        strip = slice(top, top + STRIP)
        out[:, strip] = _adjust_hsv(image[:, strip], hue, saturation, value)
    return out


def _adjust_hsv(image: Tensor, hue: float, saturation: float, value: float) -> Tensor:
    """As `adjust_hsv`, to float values that cutting off rounds.

    The largest channel V of a pixel is its value, and its saturation is the largest of (V - c) / V over the channels c.
    So c becomes r (V - k (V - c)), where r and k are the factors of value and saturation, as far as the pixel can follow.
    """
    largest = image.amax(dim=0)
    chroma = largest - image.amin(dim=0)
    channels = _turn_hue(image, largest, chroma, hue) if hue % 1 else image.float()
    # Divisors of 0 are black and grey pixels, which stay so with any factor.
    brightening = (255 / largest.clamp(min=1)).clamp_(max=value)  # r, [H, W]
    slope = (largest / chroma.clamp(min=1)).clamp_(max=saturation).mul_(brightening)  # r k
    offset = brightening.sub_(slope).mul_(largest).add_(0.5)
    return channels.mul_(slope).add_(offset)


def _turn_hue(image: Tensor, largest: Tensor, chroma: Tensor, hue: float) -> Tensor:
    """Float [3, H, W]: the pixels with their largest channel and chroma (largest - smallest channel), but another hue."""
    red, green, blue = image.float()
    per_chroma = 1 / chroma.clamp(min=1)  # grey pixels have hue 0
    sextant = torch.where(largest == red, (green - blue) * per_chroma,
                          torch.where(largest == green, (blue - red) * per_chroma + 2, (red - green) * per_chroma + 4))
    sextant += 6 * hue
    sextant -= 6 * (sextant / 6).floor_()  # now in 0..6: red 0, green 2, blue 4
    shares = torch.stack([(sextant - 3).abs_().sub_(1), 2 - (sextant - 2).abs_(), 2 - (sextant - 4).abs_()])
    return shares.clamp_(0, 1).mul_(chroma).add_(largest - chroma)


def render(parts: Sequence[tuple[Tensor, dict, Tensor]], size: tuple[int, int], min_area: float, colours: Callable,
           generator: Generator) -> tuple[Tensor, dict]:
    """Pictures drawn on grey, and their boxes: (image uint8 [3, H, W], target).

    Args:
        parts: (image, target, matrix) of each picture; where they overlap the last one is seen.
        size: of the output.
        min_area: see `warp_target`.
        colours: transform of the pixels alone; what no picture covers stays grey.

    Per-box fields are joined in the order of the parts, all else is that of the first target.
    """
    out = torch.full((3, *size), GREY, dtype=torch.uint8)
    covered = torch.zeros(size, dtype=torch.bool)
    for image, _, matrix in parts:
        _draw(image, matrix, out, covered)
    targets = [warp_target(target, matrix, size, min_area) for _, target, matrix in parts]
    target = {key: torch.cat([other[key] for other in targets]) if key in PER_BOX_FIELDS else value
              for key, value in targets[0].items()}
    coloured, target = colours(out, target, generator)
    return coloured * covered + (~covered).to(torch.uint8) * GREY, target  # `where` takes five times as long on bytes


def _draw(image: Tensor, matrix: Tensor, out: Tensor, covered: Tensor) -> None:
    """Draws the image into out uint8 [3, H, W], and marks the pixels it covers in covered bool [H, W]."""
    image, matrix = _shrink(image, matrix)
    height, width = image.shape[1:]
    corners = torch.tensor([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], dtype=torch.float64) @ matrix.T
    left, top = (max(0, math.floor(edge)) for edge in corners.amin(dim=0).tolist()[:2])
    right = min(out.shape[2], math.ceil(corners[:, 0].max().item()))
    bottom = min(out.shape[1], math.ceil(corners[:, 1].max().item()))
    if left >= right or top >= bottom:
        return
    # From pixel centres of the output to -1..1 of the picture, `grid_sample`'s coordinates.
    to_unit = torch.tensor([[2 / width, 0, -1], [0, 2 / height, -1]], dtype=torch.float64) @ torch.linalg.inv(matrix)
    x = torch.arange(left, right, dtype=torch.float64) + 0.5
    y = torch.arange(top, bottom, dtype=torch.float64) + 0.5
    across, down = to_unit[:, 0, None] * x, to_unit[:, 1, None] * y + to_unit[:, 2:]  # [2, W], [2, H] of the region
    grid = across.T[None].float() + down.T[:, None].float()  # [H, W, (x, y)]
    from_middle = grid.abs()
    inside = torch.maximum(from_middle[..., 0], from_middle[..., 1]) <= 1
    pixels = F.grid_sample(image[None].float(), grid[None], padding_mode="border", align_corners=False)[0]
    out[:, top:bottom, left:right].mul_(~inside).add_(pixels.add_(0.5).to(torch.uint8) * inside)  # 0.5: rounds
    covered[top:bottom, left:right] |= inside


def _shrink(image: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The image made smaller by a whole factor, antialiased, if the matrix halves it or more; and the matrix for that.

    The warp takes each pixel from its nearest four, which skips pixels if they are many.
    """
    factor = int(1 / _area_scale(matrix) ** 0.5)
    if factor < 2:
        return image, matrix
    height, width = image.shape[1:]
    new_size = max(1, round(height / factor)), max(1, round(width / factor))
    small = F.interpolate(image[None], size=new_size, mode="bilinear", antialias=True)[0]
    return small, matrix @ torch.linalg.inv(placement(height, width, new_size, 0, 0))


def warp_target(target: dict, matrix: Tensor, size: tuple[int, int], min_area: float = MIN_AREA) -> dict:
    """A target after the warp: boxes that enclose the four moved corners, cut at the border of the output.

    Kept are boxes with both sides above 4 pixels, an aspect ratio below 10, and more than `min_area` of the area that
    the scale alone would give them. `area` is scaled, and shrinks as the cut box does.
    """
    boxes = target["boxes"].double()
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)  # [M, corner, (x, y)]
    corners = corners @ matrix[:2, :2].T + matrix[:2, 2]
    enclosing = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    cut = box_ops.clip(enclosing, *size)
    sides = cut[:, 2:] - cut[:, :2]
    scale = _area_scale(matrix)
    keep = (sides > MIN_SIDE).all(dim=1) & (sides.amax(dim=1) < MAX_ASPECT_RATIO * sides.amin(dim=1))
    keep &= box_ops.area(cut) > min_area * scale * box_ops.area(boxes)
    left_over = box_ops.area(cut) / box_ops.area(enclosing)
    return keep_boxes({**target, "boxes": cut.float(), "area": (target["area"] * scale * left_over).float()}, keep)


def _area_scale(matrix: Tensor) -> float:
    """By what the matrix multiplies areas."""
    return abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]).item()


class WarpedLetterbox:
    """The picture with its long side at `size` in the middle of a grey size x size square, randomly warped and coloured.

    Args:
        size: pixels of the network's input.
        hyp: hyper-parameters of `RandomAffine` and `HSVJitter`.
        rect: the output is as large as the resized picture, without the bars of the square.
    """

    def __init__(self, size: int, hyp: Mapping[str, float], rect: bool = False):
        if size < 1:
            raise InputError(f"augmentation to {size} pixels: the size must be positive")
        self.size = size
        self.affine = RandomAffine(hyp)
        self.colours = HSVJitter(hyp)
        self.rect = rect

    def __call__(self, image: Tensor, target: dict, generator: Generator) -> tuple[Tensor, dict]:
        height, width = image.shape[1:]
        new_height, new_width = fitted_size(height, width, self.size)
        canvas = (new_height, new_width) if self.rect else (self.size, self.size)
        left, top = (canvas[1] - new_width) // 2, (canvas[0] - new_height) // 2
        placed = placement(height, width, (new_height, new_width), left, top)
        matrix = self.affine(canvas, canvas, generator) @ placed
        return render([(image, target, matrix)], canvas, MIN_AREA, self.colours, generator)


def yolo_recipe(size: int, hyp: Mapping[str, float], hflip: float = 0.5, rect: bool = False) -> Compose:
    """The YOLO trainers': one warp to the network's square, HSV, mirror. Images leave as uint8 [3, size, size].

    hyp: keys degrees, translate, scale, shear, hsv_h, hsv_s, hsv_v (others are not looked at), see `LARGEST`; hflip:
    probability of mirroring; rect: as of `WarpedLetterbox`, for batches of one shape and for models that stretch.

    Raises:
        InputError: a size or hyper-parameter that cannot be used.
    """
    return Compose([WarpedLetterbox(size, hyp, rect), RandomHorizontalFlip(hflip)])


def plain_recipe(hflip: float = 0.5) -> Compose:
    """Mirror only; images keep their sizes and the model resizes them."""
    return Compose([RandomHorizontalFlip(hflip)])


def _amounts(hyp: Mapping[str, float], keys: Sequence[str]) -> list[float]:
    """The hyper-parameters of these names, checked."""
    amounts = [float(hyp.get(key, 0.0)) for key in keys]
    for key, amount in zip(keys, amounts):
        if not 0 <= amount <= LARGEST[key]:  # false for NaN too
            raise InputError(f"hyper-parameter {key} is {amount:g}; give a value in 0..{LARGEST[key]:g}")
    return amounts
