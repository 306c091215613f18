"""Images of any sizes into one batch: normalise, resize to a short side and pad, or squash; and boxes there and back.

Shapes: N images, H, W sides of the padded batch
Words:  original size = the image as given; image size = after resizing, without padding; padded size = the batch. All
        (height, width).
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
    """What a detector works on; the target boxes are in pixels of the resized images."""

    images: Tensor  # [N, 3, H, W], normalised, zero where padded (right and bottom)
    image_sizes: list[tuple[int, int]]  # resized, without padding
    original_sizes: list[tuple[int, int]]  # as given
    targets: list[dict[str, Tensor]] | None  # per image "boxes" [M, 4], "labels" int64 [M]


class _Resize(nn.Module):
    """What the kinds of resizing share: checks, normalisation, images to a size, the boxes."""

    def __init__(self, image_mean: Sequence[float], image_std: Sequence[float], antialias: bool = False):
        super().__init__()
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.antialias = antialias
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
        images = list(images)
        if not images:
            raise InputError("the list of images is empty")
        for number, image in enumerate(images):
            self._check_image(image, number)
        device = device or images[0].device
        original_sizes = [(image.shape[1], image.shape[2]) for image in images]
        batch, image_sizes = self._to_batch(images, device, dtype)
        if targets is not None:
            targets = [self._resize_target(*args, device, dtype) for args in zip(targets, original_sizes, image_sizes)]
        return Batch(batch, image_sizes, original_sizes, targets)

    def boxes_to_original(self, boxes: Tensor, image_size: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
        """Boxes [K, 4] of a resized image in pixels of the image as given."""
        return box_ops.scale(boxes, image_size, original_size)

    def _to_batch(
        self, images: list[Tensor], device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, list[tuple[int, int]]]:
        """The batch [N, 3, H, W] and the image sizes."""
        raise NotImplementedError

    def _check_image(self, image: Tensor, number: int) -> None:
        channels = len(self.image_mean)
        if image.ndim != 3 or image.shape[0] != channels or image.numel() == 0:
            raise InputError(f"image {number} must be [{channels}, H, W], not {list(image.shape)}")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise InputError(f"image {number} must be uint8 0..255 or float 0..1, not {image.dtype}")

    def _normalise_and_resize(self, images: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """[N, 3, *size], at least float32, from images [N, 3, H, W] of one size."""
        compute_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        mean, std = self._mean_and_std(images.device, compute_dtype)
        if images.dtype == torch.uint8:
            images = images.to(compute_dtype).div_(255)
        images = (images.to(compute_dtype) - mean).div_(std)
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
        device: torch.device,
        dtype: torch.dtype,
    ) -> dict[str, Tensor]:
        boxes = target["boxes"].to(device, torch.float64 if dtype == torch.float64 else torch.float32)
        return {
            "boxes": box_ops.scale(boxes, original_size, image_size),
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


class SquashResize(_Resize):
    """Stretches each image to size x size pixels, whatever its shape, and its boxes with it.

    image_mean, image_std: per channel, for values in 0..1. antialias: shrink as Pillow does, each pixel a mean over all
    that it covers; else each pixel lies between its nearest four. Images of this size already are normalised only.
    """

    def __init__(self, size: int, image_mean: Sequence[float], image_std: Sequence[float], antialias: bool = False):
        super().__init__(image_mean, image_std, antialias)
        self.size = size
        if size < 1:
            raise InputError(f"the size of the network input must be at least 1 pixel, not {size}")

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the batch: the same for all images, so any of them can share one."""
        return self.size, self.size

    def extra_repr(self) -> str:
        return f"size={self.size}, antialias={self.antialias}"

    def _to_batch(
        self, images: list[Tensor], device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, list[tuple[int, int]]]:
        size = self.size, self.size
        batch = torch.empty((len(images), len(self.image_mean), *size), dtype=dtype, device=device)
        first = 0
        for piece in self._pieces(images, device):
            batch[first : first + len(piece)].copy_(self._normalise_and_resize(piece.to(device), size, dtype))
            first += len(piece)
        return batch, [size] * len(images)

    @staticmethod
    def _pieces(images: list[Tensor], device: torch.device) -> list[Tensor]:
        """The images as [., 3, H, W] to be resized in one call each.

        On an accelerator equal images go in one piece: one copy, few kernels. On a CPU one image at a time is twice as
        fast, as it stays in the cache.
        """
        if device.type != "cpu" and len({(image.shape, image.dtype, image.device) for image in images}) == 1:
            return [torch.stack(images)]
        return [image[None] for image in images]
