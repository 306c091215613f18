"""Images from files: always RGB, upright, 8 bit, whatever the file holds.

Pillow decodes everything: it reads the most formats, knows EXIF, and decodes JPEGs at a fraction of their size. torchvision's
decoder (0.29.2) gives the same pixels of a JPEG in about the same time, is announced to be removed, and one changed byte in
a PNG can end the process there. Milliseconds on one core, decoder and all else that `read_image` does, JPEG of quality 90:

                                500x375  640x480  1280x720  4000x3000
    read_image                      1.9      2.9       7.0        125
    torchvision's decoder in it     2.0      2.9       6.7         98
    read_image, least_side=300      1.9      2.9       4.8         23
"""

import os
import stat

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from datasets.errors import InputError

MAX_PIXELS = 178_956_970  # more is taken for a decompression bomb: 0.5 GB as RGB bytes
ORIENTATION_TAG = 0x0112
# What pictures of data sets come as. Pillow knows many more, among them EPS, which it hands to another program to be run.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")


class UnreadableImage(InputError):
    """An image that is missing, broken, too large or of an unsupported kind; the message names the file."""


class DecompressionBomb(UnreadableImage):
    """An image of more pixels than can be read."""


def read_image(path: str | os.PathLike, expected_size: tuple[int, int] | None = None, least_side: int | None = None) -> Tensor:
    """The picture as uint8 [3, H, W] RGB.

    Grey, palette and CMYK pixels are converted, alpha is dropped, 16-bit values are scaled to 8. An EXIF orientation is
    applied, unless `expected_size` (height, width) says that the annotation belongs to the picture as stored.

    With `least_side` a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, sides rounded up, if its shorter side keeps as
    many pixels: much cheaper than all of it. `expected_size` still is that of the whole picture.

    Raises:
        UnreadableImage: see there.
    """
    return read_with_size(path, expected_size, least_side)[0]


def read_with_size(path: str | os.PathLike, expected_size: tuple[int, int] | None = None,
                   least_side: int | None = None) -> tuple[Tensor, tuple[int, int]]:
    """What `read_image` returns, and (height, width) of the whole picture, which is larger where it was decoded smaller."""
    with open_image(path) as picture:
        orientation = _orientation(picture)
        stored_size = (picture.height, picture.width)
        try:
            image = _decode(picture, least_side)
        except Exception as error:  # Pillow's decoders raise many kinds for broken data
            raise UnreadableImage(f"{path}: cannot read this image ({_reason(error)})") from error
    if not _is_to_turn(stored_size, orientation, expected_size):
        return image, stored_size
    return _turn(image, orientation), stored_size[::-1] if orientation >= 5 else stored_size


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of the upright picture, from the file's header alone.

    Raises:
        UnreadableImage: see there.
    """
    with open_image(path) as picture:
        width, height = picture.size
        return (width, height) if _orientation(picture) >= 5 else (height, width)


def open_image(path: str | os.PathLike) -> Image.Image:
    """The picture with its header read, one of FORMATS; its kind is told from its content, not from its name.

    Raises:
        UnreadableImage: see there; a DecompressionBomb for its number of pixels.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe waits for ever
            raise OSError("it is a pipe or a device, not a file")
        picture = Image.open(path, formats=FORMATS)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UnreadableImage(f"{path}: cannot open this image ({error.strerror})") from error
    except Image.DecompressionBombError as error:
        raise DecompressionBomb(f"{path}: cannot read this image ({error})") from error
    except Exception as error:  # Pillow's format readers raise many kinds for a broken header
        raise UnreadableImage(f"{path}: cannot read this image ({_reason(error)})") from error
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise DecompressionBomb(f"{path}: the image has {picture.width}x{picture.height} pixels, more than can be read")
    return picture


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; unknown values count as 1."""
    # Asking a PNG without EXIF in its header would decode all of it. A TIFF is turned by Pillow, its size in the header too.
    if picture.format not in ("JPEG", "MPO", "WEBP") and "exif" not in picture.info:
        return 1
    try:
        value = picture.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data say nothing about the pixels; the picture is used as stored
        return 1
    return value if value in range(1, 9) else 1


def _is_to_turn(stored: tuple[int, int], orientation: int, expected: tuple[int, int] | None) -> bool:
    upright = stored[::-1] if orientation >= 5 else stored
    belongs_to_stored = expected is not None and tuple(expected) == stored != upright
    return orientation > 1 and not belongs_to_stored


def _turn(image: Tensor, orientation: int) -> Tensor:
    if orientation >= 5:  # rows and columns exchanged
        image = image.transpose(1, 2)
    flips = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}[orientation]
    return image.flip(flips).contiguous()


def _decode(picture: Image.Image, least_side: int | None = None) -> Tensor:
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion would clip at 255. 65535 / 257 is 255 exactly; + 128 rounds.
        grey = (np.asarray(picture).astype(np.int32) + 128) // 257
        return torch.from_numpy(np.stack([grey.astype(np.uint8)] * 3))
    if picture.mode in ("I", "F"):
        raise ValueError("32-bit pixels are not supported, save it with 8 bits")
    if least_side is not None:
        _shrink(picture, least_side)
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    image = np.empty((3, rgb.height, rgb.width), dtype=np.uint8)
    for band, name in zip(image, "RGB"):  # faster than `split`, or than an array [H, W, 3] that is reordered
        band[:] = np.frombuffer(rgb.tobytes("raw", name), dtype=np.uint8).reshape(band.shape)
    return torch.from_numpy(image)


def _shrink(picture: Image.Image, least_side: int) -> None:
    """Tells the JPEG decoder, if it is one, the smallest scale at which the shorter side, rounded up, has `least_side` pixels."""
    scale = next((scale for scale in (8, 4, 2) if -(-min(picture.size) // scale) >= least_side), 1)
    picture.draft(None, (max(1, picture.width // scale), max(1, picture.height // scale)))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # Pillow's own words for this repeat the path
        return f"not an image of a kind that is read: {', '.join(FORMATS)}"
    return str(error) or type(error).__name__
