"""Augmentations of decoded images: `transform(image, target, generator) -> (image, target)`.

Every random choice comes from the generator given, none from global state; the input is never changed.
image: uint8 [3, H, W]; target: as in `DetectionDataset`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

PER_BOX_FIELDS = ("boxes", "labels", "area", "iscrowd", "difficult")
LUMA = torch.tensor([0.299, 0.587, 0.114])  # weights of R, G, B in the grey value
RGB_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
YIQ_TO_RGB = torch.linalg.inv(RGB_TO_YIQ)


def keep_boxes(target: dict, keep: Tensor) -> dict:
    """A target with some of its objects: all per-box fields filtered together. keep: bool [M] or indices."""
    return {key: value[keep] if key in PER_BOX_FIELDS else value for key, value in target.items()}


class Compose:
    """Several transforms, one after the other."""

    def __init__(self, transforms: Sequence[Callable]):
        self.transforms = list(transforms)

    def __call__(self, image: Tensor, target: dict, generator: Generator) -> tuple[Tensor, dict]:
        for transform in self.transforms:
            image, target = transform(image, target, generator)
        return image, target


class RandomHorizontalFlip:
    """Mirrors image and boxes with probability `p`."""

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, image: Tensor, target: dict, generator: Generator) -> tuple[Tensor, dict]:
        if torch.rand(1, generator=generator).item() >= self.p:
            return image, target
        left, top, right, bottom = target["boxes"].unbind(1)
        width = image.shape[2]
        boxes = torch.stack([width - right, top, width - left, bottom], dim=1)  # the right edge becomes the left one
        return image.flip(2), {**target, "boxes": boxes}


class PhotometricDistort:
    """Random brightness, contrast, saturation and hue, each with probability `p`.

    All four are linear in RGB (the hue turns the colour plane of YIQ), so that together they cost one 3x3 matrix
    product: image -> contrast * brightness * M image + (1 - contrast) * mean grey. Values are clipped once, at the end.

    Args:
        brightness, contrast, saturation: factors are uniform in 1 - x .. 1 + x.
        hue: the colour circle is turned by a fraction uniform in -hue .. hue.
    """

    def __init__(self, brightness: float = 0.125, contrast: float = 0.5, saturation: float = 0.5, hue: float = 0.05,
                 p: float = 0.5):
        self.ranges = torch.tensor([brightness, contrast, saturation, hue])
        self.p = p

    def __call__(self, image: Tensor, target: dict, generator: Generator) -> tuple[Tensor, dict]:
        chosen = torch.rand(4, generator=generator) < self.p
        amounts = (torch.rand(4, generator=generator) * 2 - 1) * self.ranges * chosen
        if not chosen.any():
            return image, target
        brightness, contrast, saturation = (1 + amounts[:3]).tolist()
        return adjust_colours(image, brightness, contrast, saturation, amounts[3].item()), target


def adjust_colours(image: Tensor, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0,
                   hue: float = 0.0, shift: float = 0.0) -> Tensor:
    """Colours of a uint8 image [3, H, W] changed; 1, 1, 1, 0, 0 leave it as it is.

    hue is a fraction of a full turn; shift (in levels of 255) is added to all channels at the end.
    """
    assert image.dtype == torch.uint8
    cos, sin = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, sin], [0.0, -sin, cos]])  # red -> yellow -> green
    towards_grey = saturation * torch.eye(3) + (1 - saturation) * LUMA.expand(3, 3)
    matrix = contrast * brightness * (YIQ_TO_RGB @ turn @ RGB_TO_YIQ @ towards_grey)
    pixels = image.reshape(3, -1).float()
    mean_grey = brightness * (LUMA @ pixels.mean(dim=1))
    offset = (1 - contrast) * mean_grey + shift + 0.5  # 0.5: conversion to uint8 cuts off, so this rounds
    out = torch.addmm(offset.expand(3, 1), matrix, pixels)
    return out.clamp_(0, 255).to(torch.uint8).reshape(image.shape)
