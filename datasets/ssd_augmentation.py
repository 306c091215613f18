"""Augmentation recipes of the SSD family: random zoom-out and crop, resized to the network's square, colours, mirror.

All geometry is a choice of one window: the crop looks at a part of the image, the zoom-out at more than the image.
The steps choose windows from boxes alone, and the pixels are touched once, at the end: the part of the image in the
window is resized into its place in the output, and the rest of the output is filled. A canvas of 16 times the image,
which the paper's zoom-out asks for, never exists.

Shapes: M boxes of the image, K windows tried at once
Words:  picture = what the steps so far left to see; a step is called as step(boxes, height, width, generator) with the
        boxes [M, 4] and the size of the picture in whole pixels, and returns a Window in pixels of that picture.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

import network_files.boxes as box_ops
from datasets.errors import InputError
from datasets.transforms import Compose, PhotometricDistort, RandomHorizontalFlip, adjust_colours, keep_boxes

WHOLE = None  # the option of leaving the picture as it is
CROP_OPTIONS = (WHOLE, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)  # least IoU of a crop with an object; 0: any crop
MIN_SIDE = 0.3  # of the picture: crops are not smaller
MAX_ASPECT_RATIO = 2.0  # of the sides in units of the picture's sides

# Ways to resize: (mode, antialias) of torch's `interpolate`.
# Nets differ in whether they antialias in evaluation; one that was trained on both kinds minds neither.
BILINEAR = (("bilinear", False), ("bilinear", True))
# The paper's recipe draws one of linear, area, nearest, cubic and lanczos.
ANY_RESAMPLING = (*BILINEAR, ("nearest", False), ("bicubic", True))


class Window(NamedTuple):
    """A rectangle of whole pixels to look at; it may reach beyond the picture."""

    left: int
    top: int
    width: int
    height: int


class ZoomOut:
    """With probability `p` a window of up to `max_ratio` times the picture's sides, the picture somewhere inside."""

    def __init__(self, p: float = 0.5, max_ratio: float = 4.0):
        self.p = p
        self.max_ratio = max_ratio

    def __call__(self, boxes: Tensor, height: int, width: int, generator: Generator) -> Window:
        chance, ratio, left, top = torch.rand(4, generator=generator).tolist()
        if chance >= self.p:
            return Window(0, 0, width, height)
        ratio = 1 + ratio * (self.max_ratio - 1)
        new_width, new_height = round(ratio * width), round(ratio * height)
        return Window(-round(left * (new_width - width)), -round(top * (new_height - height)), new_width, new_height)


class IoUCrop:
    """The paper's crop: a window that has at least a drawn IoU with some object, and the centre of one inside.

    The options are tried in random order, each with `trials` windows, until one succeeds (`WHOLE` always does), which
    is the same as drawing one of all options that can be met. A picture without objects stays whole: a crop of
    background alone teaches nothing new.
    """

    def __init__(self, options: Sequence[float | None] = CROP_OPTIONS, trials: int = 50):
        self.options = tuple(options)
        self.trials = trials

    def __call__(self, boxes: Tensor, height: int, width: int, generator: Generator) -> Window:
        order = torch.randperm(len(self.options), generator=generator).tolist() if len(boxes) else []
        for min_iou in (self.options[k] for k in order):
            if min_iou is WHOLE:
                break
            windows = draw_windows(self.trials, height, width, generator)
            good = self.allows(windows, boxes, min_iou)
            if good.any():
                return _first(windows, good)
        return Window(0, 0, width, height)

    def allows(self, windows: Tensor, boxes: Tensor, min_iou: float) -> Tensor:
        """Mask [K]: some object has the IoU with window k, and the centre of one is inside."""
        reached = (box_ops.iou(boxes, windows) >= min_iou).any(dim=0)  # [M, K] -> [K]
        return reached & centres_inside(boxes, windows).any(dim=0)


class SSDCropping:
    """NVIDIA's crop: as `IoUCrop`, but *all* objects must have the drawn IoU with the window.

    An option is drawn, `trials` windows are tried, then the next option is drawn; after `rounds` options the picture
    stays whole, as it does without objects.
    """

    def __init__(self, options: Sequence[float | None] = CROP_OPTIONS, trials: int = 5, rounds: int = 50):
        self.options = tuple(options)
        self.trials = trials
        self.rounds = rounds

    def __call__(self, boxes: Tensor, height: int, width: int, generator: Generator) -> Window:
        rounds = self.rounds if len(boxes) else 0
        for k in torch.randint(len(self.options), (rounds,), generator=generator).tolist():
            if self.options[k] is WHOLE:
                break
            windows, well_shaped = draw_free_windows(self.trials, height, width, generator)
            good = well_shaped & self.allows(windows, boxes, self.options[k])
            if good.any():
                return _first(windows, good)
        return Window(0, 0, width, height)

    def allows(self, windows: Tensor, boxes: Tensor, min_iou: float) -> Tensor:
        """Mask [K]: all objects have the IoU with window k, and the centre of one is inside."""
        reached = (box_ops.iou(boxes, windows) >= min_iou).all(dim=0)  # [M, K] -> [K]
        return reached & centres_inside(boxes, windows).any(dim=0)


def draw_windows(count: int, height: int, width: int, generator: Generator) -> Tensor:
    """Windows [K, 4] xyxy inside a picture, the paper's way: a size, then a shape that still fits, then a place.

    The square root of the area is uniform in 0.3..1 of the picture's, the aspect ratio in 1/2..2 as far as it fits.
    """
    scale, shape, left, top = torch.rand(4, count, generator=generator)
    scale = MIN_SIDE + scale * (1 - MIN_SIDE)
    low = (scale**2).clamp(min=1 / MAX_ASPECT_RATIO)  # at aspect ratio scale^2 the window is as high as the picture
    high = (1 / scale**2).clamp(max=MAX_ASPECT_RATIO)
    root = (low + shape * (high - low)).sqrt()
    return _place(scale * root, scale / root, left, top, height, width)


def draw_free_windows(count: int, height: int, width: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Windows [K, 4] xyxy inside a picture, NVIDIA's way, and a mask [K] of those that may be used.

    Both sides are uniform in 0.3..1 of the picture's; aspect ratios beyond 1/2..2 may not be used.
    """
    sides_and_place = torch.rand(4, count, generator=generator)
    wide, high = MIN_SIDE + sides_and_place[:2] * (1 - MIN_SIDE)
    well_shaped = (wide <= MAX_ASPECT_RATIO * high) & (high <= MAX_ASPECT_RATIO * wide)
    return _place(wide, high, *sides_and_place[2:], height, width), well_shaped


def _place(wide: Tensor, high: Tensor, left: Tensor, top: Tensor, height: int, width: int) -> Tensor:
    """Windows [K, 4] of whole pixels from their sides and places, 0..1 of the picture and of the room that is left.

    Rounding comes first of all, so that the IoU is that of the pixels really shown.
    """
    x_side, y_side = (wide * width).round().clamp(1, width), (high * height).round().clamp(1, height)
    x1, y1 = (left * (width - x_side)).round(), (top * (height - y_side)).round()
    return torch.stack([x1, y1, x1 + x_side, y1 + y_side], dim=1)


def centres_inside(boxes: Tensor, windows: Tensor) -> Tensor:
    """Mask [M, K]: the centre of box m is inside window k, not on its border. boxes [M, 4], windows [K, 4]."""
    centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2  # [M, 1, 2]
    return ((centres > windows[:, :2]) & (centres < windows[:, 2:])).all(dim=2)


def _first(windows: Tensor, good: Tensor) -> Window:
    """The first of the windows [K, 4] whose good [K] is true."""
    x1, y1, x2, y2 = (int(edge) for edge in windows[good.int().argmax()])
    return Window(x1, y1, x2 - x1, y2 - y1)


def crop_target(target: dict, window: Window) -> dict:
    """A target as seen through a window: boxes with their centre inside, cut at its border, in its pixels.

    `area` shrinks as the box does.
    """
    left, top, width, height = window
    edges = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
    target = keep_boxes(target, centres_inside(target["boxes"], edges)[:, 0])
    old = target["boxes"]
    boxes = box_ops.clip(old - edges[:, [0, 1, 0, 1]], height, width)
    return {**target, "boxes": boxes, "area": target["area"] * (box_ops.area(boxes) / box_ops.area(old))}


class ResizedWindow:
    """Lets the steps choose a window one after the other and shows it as uint8 [3, size, size].

    Without steps it stretches the whole image. Boxes are cut at the window's border, those with their centre outside
    are dropped; `area` follows.

    Args:
        size: sides of the output in pixels.
        steps: called as the module's head says.
        mean: colour, per channel in 0..1, of what is beyond the image.
        colours: transform of the image's pixels alone; the fill keeps the mean colour, which the network sees as 0.
        resamplings: (mode, antialias) pairs of torch's `interpolate`, one is drawn for each image.
    """

    def __init__(
        self,
        size: int,
        steps: Sequence[Callable] = (),
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        colours: Callable | None = None,
        resamplings: Sequence[tuple[str, bool]] = BILINEAR,
    ):
        if size < 1 or len(mean) != 3 or not all(0 <= value <= 1 for value in mean):
            raise InputError(f"augmentation to {size} pixels with mean {tuple(mean)}: size must be positive, the mean "
                             "three values in 0..1")
        self.size = size
        self.steps = list(steps)
        self.fill = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)
        self.colours = colours
        self.resamplings = tuple(resamplings)

    def __call__(self, image: Tensor, target: dict, generator: Generator) -> tuple[Tensor, dict]:
        view = Window(0, 0, image.shape[2], image.shape[1])  # in pixels of the image
        for step in self.steps:
            window = step(target["boxes"], view.height, view.width, generator)
            target = crop_target(target, window)
            view = Window(view.left + window.left, view.top + window.top, window.width, window.height)
        across = _visible_span(view.left, view.width, image.shape[2], self.size)
        down = _visible_span(view.top, view.height, image.shape[1], self.size)
        pixels = self._resize(image[:, down.start : down.stop, across.start : across.stop],
                              (down.new_stop - down.new_start, across.new_stop - across.new_start), generator)
        if self.colours is not None:
            pixels, target = self.colours(pixels, target, generator)
        return self._fill_around(pixels, down, across), _place_target(target, view, down, across, self.size)

    def _resize(self, pixels: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        drawn = torch.randint(len(self.resamplings), (1,), generator=generator).item()
        if pixels.shape[1:] == size:
            return pixels
        mode, antialias = self.resamplings[drawn]
        return F.interpolate(pixels[None], size=size, mode=mode, antialias=antialias)[0]

    def _fill_around(self, pixels: Tensor, down: "_Span", across: "_Span") -> Tensor:
        if pixels.shape[1:] == (self.size, self.size):
            return pixels.contiguous()
        out = self.fill[:, None, None].repeat(1, self.size, self.size)
        out[:, down.new_start : down.new_stop, across.new_start : across.new_stop] = pixels
        return out


class _Span(NamedTuple):
    """Along one side: the image's pixels start..stop are shown as the output's pixels new_start..new_stop."""

    start: int
    stop: int
    new_start: int
    new_stop: int

    @property
    def scale(self) -> float:
        return (self.new_stop - self.new_start) / (self.stop - self.start)


def _visible_span(offset: int, length: int, image_side: int, size: int) -> _Span:
    """Where the visible part of the image goes when the window offset..offset + length becomes `size` pixels."""
    start, stop = max(offset, 0), min(offset + length, image_side)
    new_start = min(round((start - offset) * size / length), size - 1)
    new_stop = max(round((stop - offset) * size / length), new_start + 1)
    return _Span(start, stop, new_start, new_stop)


def _place_target(target: dict, view: Window, down: _Span, across: _Span, size: int) -> dict:
    """A target in pixels of the view -> in pixels of the output.

    The spans are whole pixels, so their scale and not size / view side takes the boxes to where their pixels went.
    """
    scale = torch.tensor([across.scale, down.scale])
    start = torch.tensor([across.start - view.left, down.start - view.top])  # of the visible part, in the view
    new_start = torch.tensor([across.new_start, down.new_start])
    corners = target["boxes"].reshape(-1, 2, 2)  # [M, corner, (x, y)]
    boxes = ((corners - start) * scale + new_start).reshape(-1, 4)
    return {**target, "boxes": box_ops.clip(boxes, size, size), "area": target["area"] * scale.prod()}


class PaperColours:
    """The paper's photometric distortion: brightness, contrast, saturation and hue, each with probability `p`.

    Brightness adds up to 32 levels, contrast multiplies by 0.5..1.5, saturation by 0.5..1.5, hue turns by up to 18
    degrees. All are linear here, as in `PhotometricDistort`, so contrast before or after the colours is the same.
    """

    RANGES = torch.tensor([32.0, 0.5, 0.5, 18 / 360])

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, image: Tensor, target: dict, generator: Generator) -> tuple[Tensor, dict]:
        chosen = torch.rand(4, generator=generator) < self.p
        amounts = (torch.rand(4, generator=generator) * 2 - 1) * self.RANGES * chosen
        if not chosen.any():
            return image, target
        shift, contrast, saturation, hue = amounts.tolist()
        # The paper's contrast keeps black and not the mean grey: it is what `adjust_colours` calls brightness.
        factor = 1 + contrast
        return adjust_colours(image, factor, 1.0, 1 + saturation, hue, shift=factor * shift), target


def ssd_recipe(size: int, mean: Sequence[float], hflip: float = 0.5) -> Compose:
    """The paper's: colours, zoom-out, IoU crop, resize in a random way, mirror.

    For all recipes: images leave as uint8 [3, size, size], the network's input, so that the model has nothing to
    resize and workers hand over small images. mean: the network's image mean, 0..1 per channel, which fills what is
    outside the image; hflip: probability of mirroring.
    """
    window = ResizedWindow(size, [ZoomOut(), IoUCrop()], mean, PaperColours(), ANY_RESAMPLING)
    return Compose([window, RandomHorizontalFlip(hflip)])


def nvidia_recipe(size: int, mean: Sequence[float], hflip: float = 0.5) -> Compose:
    """NVIDIA's (and the course repository's): `SSDCropping`, resize, colour jitter always, mirror."""
    jitter = PhotometricDistort(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05, p=1.0)
    return Compose([ResizedWindow(size, [SSDCropping()], mean), jitter, RandomHorizontalFlip(hflip)])


def ssdlite_recipe(size: int, mean: Sequence[float], hflip: float = 0.5) -> Compose:
    """The light one for small nets: IoU crop, resize, mirror."""
    return Compose([ResizedWindow(size, [IoUCrop()], mean), RandomHorizontalFlip(hflip)])


def plain_recipe(size: int, mean: Sequence[float], hflip: float = 0.5) -> Compose:
    """Resize and mirror only."""
    return Compose([ResizedWindow(size, (), mean), RandomHorizontalFlip(hflip)])


RECIPES = {"ssd": ssd_recipe, "nvidia": nvidia_recipe, "ssdlite": ssdlite_recipe, "hflip": plain_recipe}
