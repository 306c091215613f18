"""Images of any sizes into one batch: normalise, resize to a short side and pad, squash, or letterbox; boxes there and back.

Shapes: N images, H, W sides of the padded batch
Words:  original size = the image as given; image size = after resizing, without padding; padded size = the batch. All
        (height, width). offset = (top, left) of the resized image in the batch; letterbox = shape kept, borders filled
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from network_files import boxes as box_ops
from network_files.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Batch(NamedTuple):
    """What a detector works on; the target boxes are in pixels of the batch."""

    images: Tensor  # [N, 3, H, W], normalised; where padded zero (right and bottom) or, letterboxed, grey (all around)
    image_sizes: list[tuple[int, int]]  # resized, without padding
    original_sizes: list[tuple[int, int]]  # as given
    targets: list[dict[str, Tensor]] | None  # per image "boxes" [M, 4], "labels" int64 [M]
    offsets: Sequence[tuple[int, int]] = ()  # (top, left) of each image; the boxes count from the corner of the batch


class _Resize(nn.Module):
    """What the kinds of resizing share: checks, normalisation, images to a size, the boxes."""

    def __init__(self, image_mean: Sequence[float], image_std: Sequence[float], antialias: bool = False):
        super().__init__()
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.antialias = antialias
        self._normalises = any(self.image_mean) or any(value != 1 for value in self.image_std)
        self._constants: dict[tuple, tuple[Tensor, Tensor]] = {}  # mean and std on each device used

    def forward(
        self,
        images: Sequence[Tensor] | Tensor,
        targets: Sequence[dict] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Batch:
        """One batch of the given dtype on the device (default: where the first image is); nothing given is changed.

        images: [3, H, W] each, uint8 0..255 or float 0..1, or a 4-D batch. Raises InputError for anything else.
        """
        return self._make_batch(images, targets, device, dtype)

    def boxes_to_original(
        self, boxes: Tensor, image_size: tuple[int, int], original_size: tuple[int, int], offset: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """Boxes [K, 4], in pixels of the batch, of an image that lies at the offset, in pixels of the image as given."""
        return box_ops.scale(_shift(boxes, -offset[0], -offset[1]), image_size, original_size)

    def _make_batch(
        self,
        images: Sequence[Tensor] | Tensor,
        targets: Sequence[dict] | None,
        device: torch.device | None,
        dtype: torch.dtype,
        **settings: tuple[int, int],
    ) -> Batch:
        """See forward; the settings go to _to_batch."""
        images = list(images)
        if not images:
            raise InputError("the list of images is empty")
        for number, image in enumerate(images):
            self._check_image(image, number)
        device = device or images[0].device
        original_sizes = [(image.shape[1], image.shape[2]) for image in images]
        batch, image_sizes = self._to_batch(images, device, dtype, **settings)
        offsets = [self._offset(size, (batch.shape[2], batch.shape[3])) for size in image_sizes]
        if targets is not None:
            places = zip(targets, original_sizes, image_sizes, offsets)
            targets = [self._resize_target(*place, device, dtype) for place in places]
        return Batch(batch, image_sizes, original_sizes, targets, offsets)

    def _to_batch(
        self, images: list[Tensor], device: torch.device, dtype: torch.dtype, **settings: tuple[int, int]
    ) -> tuple[Tensor, list[tuple[int, int]]]:
        """The batch [N, 3, H, W] and the image sizes."""
        raise NotImplementedError

    def _offset(self, image_size: tuple[int, int], padded_size: tuple[int, int]) -> tuple[int, int]:
        """(top, left) of a resized image in its batch."""
        return 0, 0

    def _check_image(self, image: Tensor, number: int) -> None:
        channels = len(self.image_mean)
        if image.ndim != 3 or image.shape[0] != channels or image.numel() == 0:
            raise InputError(f"image {number} must be [{channels}, H, W], not {list(image.shape)}")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise InputError(f"image {number} must be uint8 0..255 or float 0..1, not {image.dtype}")

    def _normalise_and_resize(self, images: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """[N, 3, *size], at least float32, from images [N, 3, H, W] of one size."""
        compute_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        if images.dtype == torch.uint8:
            images = images.to(compute_dtype).div_(255)
        images = images.to(compute_dtype)
        if self._normalises:
            mean, std = self._mean_and_std(images.device, compute_dtype)
            images = (images - mean).div_(std)
        if images.shape[2:] == size:
            return images
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=self.antialias)

    def _mean_and_std(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean and std [3, 1, 1], copied to a device once and not at every image."""
        if (device, dtype) not in self._constants:
            with torch.inference_mode(False):
                mean, std = (
                    torch.tensor(values, dtype=dtype, device=device)[:, None, None]
                    for values in (self.image_mean, self.image_std)
                )
            self._constants[device, dtype] = mean, std
        return self._constants[device, dtype]

    def _resize_target(
        self,
        target: dict,
        original_size: tuple[int, int],
        image_size: tuple[int, int],
        offset: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> dict[str, Tensor]:
        boxes = target["boxes"].to(device, torch.float64 if dtype == torch.float64 else torch.float32)
        return {
            "boxes": _shift(box_ops.scale(boxes, original_size, image_size), *offset),
            "labels": target["labels"].to(device, torch.int64),
        }


class ShortSideResize(_Resize):
    """Resizes each image so that its short side is min_size, or less where its long side would pass max_size.

    min_size: one value, or several of which training draws one per image and evaluation takes the last. image_mean,
    image_std: per channel, for values in 0..1. size_divisible: the batch's sides are rounded up to a multiple of it.
    keep_in_range: leave images alone whose short side is at least the smallest min_size and whose long side at most
    max_size.
    """

    def __init__(
        self,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        size_divisible: int = 32,
        keep_in_range: bool = False,
    ):
        super().__init__(image_mean, image_std)
        self.min_size = tuple(min_size) if isinstance(min_size, Sequence) else (min_size,)
        self.max_size = max_size
        self.size_divisible = size_divisible
        self.keep_in_range = keep_in_range
        if min(self.min_size) < 1 or max_size < 1:
            raise InputError(f"min_size {min_size} and max_size {max_size} must be at least 1 pixel")

    def resized_size(self, height: int, width: int, min_size: int) -> tuple[int, int]:
        """(height, width) after resizing; sides are cut to whole pixels, so 375 x 500 gives 800 x 1066."""
        short, long = min(height, width), max(height, width)
        if self.keep_in_range and min(self.min_size) <= short and long <= self.max_size:
            return height, width
        ratio = min(min_size / short, self.max_size / long)
        return max(1, math.floor(height * ratio)), max(1, math.floor(width * ratio))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the batch that an image of this size gets when it is alone in evaluation.

        Images of equal padded size can share an evaluation batch without changing each other's numbers.
        """
        height, width = self.resized_size(height, width, self.min_size[-1])
        return self._round_up(height), self._round_up(width)

    def extra_repr(self) -> str:
        return f"min_size={self.min_size}, max_size={self.max_size}, size_divisible={self.size_divisible}"

    def _to_batch(
        self, images: list[Tensor], device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, list[tuple[int, int]]]:
        image_sizes = [self.resized_size(*image.shape[1:], self._draw_min_size()) for image in images]
        padded = self._round_up(max(h for h, _ in image_sizes)), self._round_up(max(w for _, w in image_sizes))
        batch = torch.zeros((len(images), len(self.image_mean), *padded), dtype=dtype, device=device)
        for number, (image, (height, width)) in enumerate(zip(images, image_sizes)):
            resized = self._normalise_and_resize(image[None].to(device), (height, width), dtype)
            batch[number, :, :height, :width].copy_(resized[0])
        return batch, image_sizes

    def _draw_min_size(self) -> int:
        if not self.training:
            return self.min_size[-1]
        # One number is drawn even when there is nothing to choose: the draws that follow must not depend on the choice.
        return self.min_size[int(torch.empty(1).uniform_(0, len(self.min_size)))]

    def _round_up(self, side: int) -> int:
        return math.ceil(side / self.size_divisible) * self.size_divisible


class _FixedSizeResize(_Resize):
    """What the resizers share whose batches have a size that is known beforehand."""

    def __init__(self, size: int | tuple[int, int], *normalisation):
        super().__init__(*normalisation)
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if min(self.size) < 1:
            raise InputError(f"the size of the network input must be at least 1 pixel, not {size}")

    def forward(
        self,
        images: Sequence[Tensor] | Tensor,
        targets: Sequence[dict] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        size: tuple[int, int] | None = None,
    ) -> Batch:
        """As every resizer; size: (height, width) of the network input for this batch only."""
        return self._make_batch(images, targets, device, dtype, size=size or self.size)

    @staticmethod
    def _pieces(images: list[Tensor], device: torch.device) -> list[Tensor]:
        """The images as [., 3, H, W] to be resized in one call each.

        On an accelerator equal images go in one piece: one copy, few kernels. On a CPU one image at a time is twice as
        fast, as it stays in the cache.
        """
        if device.type != "cpu" and len({(image.shape, image.dtype, image.device) for image in images}) == 1:
            return [torch.stack(images)]
        return [image[None] for image in images]


class SquashResize(_FixedSizeResize):
    """Stretches each image to the size of the network input, whatever its shape, and its boxes with it.

    size: side of a square, or (height, width). image_mean, image_std: per channel, for values in 0..1. antialias: shrink
    as Pillow does, each pixel a mean over all that it covers; else each pixel lies between its nearest four. Images of this
    size already are normalised only.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        image_mean: Sequence[float],
        image_std: Sequence[float],
        antialias: bool = False,
    ):
        super().__init__(size, image_mean, image_std, antialias)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the batch: the same for all images, so any of them can share one."""
        return self.size

    def extra_repr(self) -> str:
        return f"size={self.size}, antialias={self.antialias}"

    def _to_batch(
        self, images: list[Tensor], device: torch.device, dtype: torch.dtype, size: tuple[int, int]
    ) -> tuple[Tensor, list[tuple[int, int]]]:
        batch = torch.empty((len(images), len(self.image_mean), *size), dtype=dtype, device=device)
        first = 0
        for piece in self._pieces(images, device):
            batch[first : first + len(piece)].copy_(self._normalise_and_resize(piece.to(device), size, dtype))
            first += len(piece)
        return batch, [size] * len(images)


class LetterboxResize(_FixedSizeResize):
    """Resizes each image, its shape kept, to the largest that fits into the network input, and puts it in the middle.

    As Darknet does it: one side fills the input, the other is cut to whole pixels, (h * S) // w; half of what is left of
    the input, rounded down, lies above the image, or on its left. Values stay in 0..1.

    size: side of a square, or (height, width). fill: value of what the images leave free, 0..1. rect: cut the input of a
    batch down to the smallest multiple of `divisible` that holds all its images.
    """

    def __init__(
        self, size: int | tuple[int, int], rect: bool = False, divisible: int = 32, fill: float = 0.5, channels: int = 3
    ):
        super().__init__(size, (0.0,) * channels, (1.0,) * channels)
        self.rect, self.divisible, self.fill = rect, divisible, fill

    def resized_size(self, height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of an image after resizing into an input of this size."""
        input_height, input_width = size
        if height * input_width < width * input_height:
            return max(1, height * input_width // width), input_width
        return input_height, max(1, width * input_height // height)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the batch that an image of this size gets when it is alone.

        Images of equal padded size can share an evaluation batch without changing each other's numbers.
        """
        return self._input_size([self.resized_size(height, width, self.size)], self.size)

    def extra_repr(self) -> str:
        return f"size={self.size}, rect={self.rect}, divisible={self.divisible}, fill={self.fill}"

    def _to_batch(
        self, images: list[Tensor], device: torch.device, dtype: torch.dtype, size: tuple[int, int]
    ) -> tuple[Tensor, list[tuple[int, int]]]:
        image_sizes = [self.resized_size(*image.shape[1:], size) for image in images]
        size = self._input_size(image_sizes, size)
        batch = torch.full((len(images), len(self.image_mean), *size), self.fill, dtype=dtype, device=device)
        first = 0
        for piece in self._pieces(images, device):
            height, width = image_sizes[first]
            top, left = self._offset((height, width), size)
            place = batch[first : first + len(piece), :, top : top + height, left : left + width]
            place.copy_(self._normalise_and_resize(piece.to(device), (height, width), dtype))
            first += len(piece)
        return batch, image_sizes

    def _input_size(self, image_sizes: list[tuple[int, int]], size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the batch that holds resized images."""
        if not self.rect:
            return size
        height, width = (math.ceil(max(sides) / self.divisible) * self.divisible for sides in zip(*image_sizes))
        return height, width

    def _offset(self, image_size: tuple[int, int], padded_size: tuple[int, int]) -> tuple[int, int]:
        return (padded_size[0] - image_size[0]) // 2, (padded_size[1] - image_size[1]) // 2


def _shift(boxes: Tensor, down: int, right: int) -> Tensor:
    """Boxes [K, 4] moved by whole pixels."""
    if not (down or right):
        return boxes
    shifted = boxes.clone()
    shifted[:, 0::2] += right
    shifted[:, 1::2] += down
    return shifted
