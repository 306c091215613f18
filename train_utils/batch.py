"""One batch on its way from a loader worker to the training process."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Batch(tuple):
    """((image, ...), (target, ...)) that a worker sends in one piece.

    A tensor by itself takes a shared memory file, and its descriptor is handed over through a socket: for the fields of a target
    this takes longer than to decode the image, and large batches reach the limit of open files. So the images of a batch share
    one file, and the targets, a few numbers, are sent as they are. What arrives is a plain tuple.
    """

    def __reduce__(self):
        images, targets = self
        if len({getattr(image, "dtype", None) for image in images}) != 1 or not isinstance(images[0], Tensor):
            return tuple, (tuple(self),)
        pixels = torch.cat([image.reshape(-1) for image in images])
        return _unpack, (pixels, [image.shape for image in images], [_without_tensors(target) for target in targets])


def _without_tensors(target: dict) -> tuple[dict, dict]:
    """(entries that are tensors as arrays, the other entries)"""
    tensors = {key: value.numpy() for key, value in target.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in target.items() if key not in tensors}


def _unpack(pixels: Tensor, shapes: Sequence[torch.Size], targets: Sequence[tuple[dict, dict]]) -> tuple[Any, Any]:
    """What `Batch.__reduce__` took apart."""
    parts = pixels.split([shape.numel() for shape in shapes])
    images = tuple(part.view(shape) for part, shape in zip(parts, shapes))
    return images, tuple({key: torch.from_numpy(value) for key, value in tensors.items()} | other for tensors, other in targets)
