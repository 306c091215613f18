import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from datasets import image_io
from datasets.image_io import UnreadableImage, image_size, read_image


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth picture of height 12, width 20, so that JPEG keeps it nearly as it is."""
    y, x = np.mgrid[:12, :20]
    return np.stack([x * 12, y * 20, 255 - x * 6 - y * 10], axis=-1).astype(np.uint8)


def _as_array(image: torch.Tensor) -> np.ndarray:
    assert image.dtype == torch.uint8 and image.shape[0] == 3 and image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.gif.png"])
def test_lossless_formats(tmp_path, pixels, name):
    Image.fromarray(pixels).save(tmp_path / name)
    assert np.array_equal(_as_array(read_image(tmp_path / name)), pixels)
    assert image_size(tmp_path / name) == (12, 20)


def test_content_decides_not_the_name(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(_as_array(read_image(tmp_path / "a.jpg")), pixels)


@pytest.mark.parametrize(("mode", "suffix"), [
    ("L", "png"), ("LA", "png"), ("P", "png"), ("1", "png"), ("RGBA", "png"), ("L", "jpg"), ("CMYK", "jpg"),
    ("P", "bmp"), ("L", "webp"), ("RGBA", "webp"), ("RGBA", "tiff"), ("P", "gif")])
def test_every_mode_becomes_rgb(tmp_path, pixels, mode, suffix):
    picture = Image.fromarray(pixels).convert(mode)
    if mode.endswith("A"):
        picture.putalpha(Image.fromarray(pixels[..., 0]))  # hidden colours must come out
    path = tmp_path / f"a.{suffix}"
    picture.save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    expected = np.asarray(Image.open(path).convert("RGB"), dtype=int)
    assert np.abs(_as_array(read_image(path)).astype(int) - expected).max() <= (2 if suffix == "jpg" else 0)


def test_16_bit_colour_keeps_its_scale(tmp_path):
    """A PNG written by hand, since Pillow writes none: one row of two pixels, 16 bits a channel."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    values = struct.pack(">6H", 0, 65535, 128 * 257, 257, 10 * 257, 200 * 257)
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(b"\0" + values)) + chunk(b"IEND", b""))
    assert _as_array(read_image(path)).tolist() == [[[0, 255, 128], [1, 10, 200]]]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 128 * 257, 65535, 128, 129]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    image = _as_array(read_image(tmp_path / f"a.{suffix}"))
    assert image[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255, 0, 1)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_orientation(tmp_path, pixels, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {}))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)), dtype=int)
    height, width = upright.shape[:2]
    assert image_size(path) == (height, width)
    for expected_size in (None, (height, width), (7, 7)):
        assert np.abs(_as_array(read_image(path, expected_size)).astype(int) - upright).max() <= 2
    if orientation >= 5:  # annotated as stored: boxes and picture must stay together
        stored = np.asarray(Image.open(path), dtype=int)
        assert np.abs(_as_array(read_image(path, (12, 20))).astype(int) - stored).max() <= 2


def test_invalid_orientation_is_ignored(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(_as_array(read_image(tmp_path / "a.png")), pixels)


@pytest.mark.parametrize("cut", [2, 20, 600])
def test_truncated_jpeg(tmp_path, cut):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(buffer.getvalue()[:-cut])
    with pytest.raises(UnreadableImage, match=r"cut\.jpg"):
        read_image(path)
    assert image_size(path) == (64, 64)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + bytes(30)])
def test_what_is_no_image(tmp_path, content):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(UnreadableImage, match=r"bad\.jpg: cannot read"):
            read(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        for read in (read_image, image_size):
            with pytest.raises(UnreadableImage, match="cannot open"):
                read(path)


def test_bomb_is_refused_before_decoding(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(image_io, "MAX_PIXELS", 239)
    monkeypatch.setattr(image_io, "_decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UnreadableImage, match="20x12 pixels"):
        read_image(tmp_path / "a.png")


def test_float_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UnreadableImage, match="32-bit"):
        read_image(tmp_path / "a.tiff")
