"""Images from files: always RGB, upright, 8 bit, whatever the file holds.

Pillow decodes everything: it is within a tenth of the fastest decoder, reads more formats, and knows EXIF.
"""

import os

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.errors import InputError

MAX_PIXELS = 178_956_970  # more is taken for a decompression bomb: 0.5 GB as RGB bytes
ORIENTATION_TAG = 0x0112


class UnreadableImage(InputError):
    """An image that is missing, broken, too large or of an unsupported kind; the message names the file."""


def read_image(path: str | os.PathLike, expected_size: tuple[int, int] | None = None) -> Tensor:
    """The picture as uint8 [3, H, W] RGB.

    Grey, palette and CMYK pixels are converted, alpha is dropped, 16-bit values are scaled to 8. An EXIF orientation is
    applied, unless `expected_size` (height, width) says that the annotation belongs to the picture as stored.

    Raises:
        UnreadableImage: see there.
    """
    with _open(path) as picture:
        orientation = _orientation(picture)
        try:
            image = _decode(picture)
        except Exception as error:  # Pillow's decoders raise many kinds for broken data
            raise UnreadableImage(f"{path}: cannot read this image ({_reason(error)})") from error
    return _turn(image, orientation) if _is_to_turn(image.shape[1:], orientation, expected_size) else image


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of the upright picture, from the file's header alone.

    Raises:
        UnreadableImage: see there.
    """
    with _open(path) as picture:
        width, height = picture.size
        return (width, height) if _orientation(picture) >= 5 else (height, width)


def _open(path: str | os.PathLike) -> Image.Image:
    """Reads the header only; the kind of file is told from its content, not from its name."""
    try:
        picture = Image.open(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UnreadableImage(f"{path}: cannot open this image ({error.strerror})") from error
    except Exception as error:  # Pillow's format readers raise many kinds for a broken header
        raise UnreadableImage(f"{path}: cannot read this image ({_reason(error)})") from error
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise UnreadableImage(f"{path}: the image has {picture.width}x{picture.height} pixels, more than can be read")
    return picture


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; unknown values count as 1."""
    # Asking a PNG without EXIF in its header would decode all of it.
    if picture.format not in ("JPEG", "MPO", "WEBP", "TIFF") and "exif" not in picture.info:
        return 1
    try:
        value = picture.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data say nothing about the pixels; the picture is used as stored
        return 1
    return value if value in range(1, 9) else 1


def _is_to_turn(stored: tuple[int, int], orientation: int, expected: tuple[int, int] | None) -> bool:
    upright = tuple(stored)[::-1] if orientation >= 5 else tuple(stored)
    belongs_to_stored = expected is not None and tuple(expected) == tuple(stored) != upright
    return orientation > 1 and not belongs_to_stored


def _turn(image: Tensor, orientation: int) -> Tensor:
    if orientation >= 5:  # rows and columns exchanged
        image = image.transpose(1, 2)
    flips = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}[orientation]
    return image.flip(flips).contiguous()


def _decode(picture: Image.Image) -> Tensor:
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion would clip at 255. 65535 / 257 is 255 exactly; + 128 rounds.
        grey = (np.asarray(picture).astype(np.int32) + 128) // 257
        return torch.from_numpy(np.stack([grey.astype(np.uint8)] * 3))
    if picture.mode in ("I", "F"):
        raise ValueError("32-bit pixels are not supported, save it with 8 bits")
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    return torch.from_numpy(np.stack([np.asarray(band) for band in rgb.split()]))


def _reason(error: Exception) -> str:
    # Pillow's own words for this repeat the path.
    return "not an image" if type(error).__name__ == "UnidentifiedImageError" else str(error) or type(error).__name__
