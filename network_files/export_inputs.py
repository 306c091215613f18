"""What goes into an exported graph (see export_graphs.py): its size, how a caller prepares an image, and images prepared so.

Shapes: N images, H, W sides of the network input
Words:  network input = float [N, 3, H, W], RGB 0..1, resized; free = sides that the graph leaves open
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from network_files.errors import InputError
from network_files.resize import Batch, LetterboxResize, ShortSideResize
from network_files.ssd import SSD


def input_size(model: nn.Module, given: Sequence[int] = ()) -> tuple[int, int]:
    """(height, width) of a detector's network input; given: one side, or height and width, instead of its own.

    Raises InputError for a size that it cannot take.
    """
    transform = model.transform
    if isinstance(transform, ShortSideResize):
        multiple = transform.size_divisible
        own = tuple(-(-side // multiple) * multiple for side in (transform.min_size[-1], transform.max_size))
    else:
        multiple, own = getattr(model, "stride", 1), transform.size
    size = (given[0], given[-1]) if given else own
    if isinstance(model, SSD) and size != own:
        raise InputError(f"this SSD has its default boxes for {own[0]} x {own[1]} pixels, not {size[0]} x {size[1]}: leave the "
                         "size out, or train it at another resolution")
    if min(size) < 1 or any(side % multiple for side in size):
        raise InputError(f"the sides of the network input must be multiples of {multiple}, not {size[0]} x {size[1]}")
    return size


def describe_input(model: nn.Module, free: bool) -> dict:
    """How an image becomes the network input, and the mean and std that the graph then applies: plain values for JSON."""
    transform = model.transform
    mean, std = list(transform.image_mean), list(transform.image_std)
    facts = {"colour": "RGB", "layout": "NCHW", "range": [0, 1], "mean_in_graph": mean, "std_in_graph": std}
    if isinstance(transform, LetterboxResize):
        padding = {"pad": "all around", "pad_value": [transform.fill] * len(mean)}
        return facts | {"resize": "letterbox", **padding, "multiple_of": model.stride}
    if not isinstance(transform, ShortSideResize):
        return facts | {"resize": "stretch", "antialias": transform.antialias}
    padding = {"pad": "right and bottom", "pad_value": mean}  # which the graph makes 0
    if not free:
        return facts | {"resize": "fit", **padding}
    sides = {"min_size": transform.min_size[-1], "max_size": transform.max_size, "multiple_of": transform.size_divisible}
    return facts | {"resize": "short side", **padding, **sides}


def network_input(model: nn.Module, image: Tensor, size: tuple[int, int], free: bool) -> Tensor:
    """The network input [1, 3, H, W] of an image [3, H, W], uint8 0..255 or float 0..1, of any size, as described above.

    size: of the input; with free, a detector that resizes to a short side takes the size that follows from the image.
    """
    transform = model.transform
    mean, std = (torch.tensor(values)[:, None, None] for values in (transform.image_mean, transform.image_std))
    if not isinstance(transform, ShortSideResize):
        batch = transform([image], size=size).images
    elif free:
        batch = transform([image]).images
    else:
        factor = min(side / own for side, own in zip(size, image.shape[1:]))
        inner = [max(1, int(own * factor)) for own in image.shape[1:]]
        pixels = image[None] / 255 if image.dtype == torch.uint8 else image[None]
        batch = (F.interpolate(pixels, size=inner, mode="bilinear") - mean) / std
        batch = F.pad(batch, (0, size[1] - inner[1], 0, size[0] - inner[0]))
    return (batch * std + mean).clamp(0, 1)


def whole_batch(model: nn.Module, images: Tensor) -> Batch:
    """Network input [N, 3, H, W] as the detector's own `prepare` would give it: normalised, nothing of it padding."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.transform.image_mean, model.transform.image_std))
    sizes = [(images.shape[2], images.shape[3])] * len(images)
    return Batch((images - mean) / std, sizes, sizes, None, [(0, 0)] * len(images))
