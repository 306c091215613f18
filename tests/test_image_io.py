import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageOps

from datasets import image_io
from datasets.image_io import FORMATS, DecompressionBomb, UnreadableImage, image_size, read_image


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


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_tiff_is_turned_once(tmp_path, pixels, orientation):
    """Pillow turns TIFFs when it reads them; 6: the stored picture has to be turned clockwise."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.tiff", exif=exif)
    upright = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}[orientation]
    assert np.array_equal(_as_array(read_image(tmp_path / "a.tiff")), upright)
    assert image_size(tmp_path / "a.tiff") == upright.shape[:2]


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


@pytest.mark.parametrize(("size", "least_side", "scale"), [
    ((320, 240), 240, 1), ((320, 240), 121, 1), ((320, 240), 120, 2), ((320, 240), 61, 2), ((320, 240), 60, 4),
    ((320, 240), 30, 8), ((320, 240), 1, 8), ((240, 320), 60, 4), ((320, 240), 1000, 1), ((320, 239), 120, 2),
    ((2000, 3), 2, 2), ((15, 15), 4, 4), ((9, 15), 2, 8), ((1, 1), 1, 1)])
def test_jpeg_decoded_smaller(tmp_path, size, least_side, scale):
    width, height = size
    y, x = np.mgrid[:height, :width]
    x, y = x * 200 / max(width, 100), y * 200 / max(height, 100)
    smooth = np.stack([x, y, 40 + 0.4 * x + 0.4 * y], axis=-1)
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth.astype(np.uint8)).save(path, quality=95)
    whole, small = read_image(path).float(), read_image(path, least_side=least_side)
    assert small.shape == (3, -(-height // scale), -(-width // scale))
    assert min(small.shape[1:]) >= min(least_side, height, width)
    assert _as_array(small).shape == (*small.shape[1:], 3)
    averaged = torch.nn.functional.avg_pool2d(whole, scale, ceil_mode=True)  # of the pixels that are there
    inner = slice(0, height // scale), slice(0, width // scale)
    assert not small[:, *inner].numel() or (small[:, *inner] - averaged[:, *inner]).abs().mean() < 2
    assert image_size(path) == (height, width)


def test_detail_survives_as_far_as_the_scale_allows(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 1), dtype=np.uint8)
    noise = noise.repeat(3, axis=2).repeat(8, axis=0).repeat(8, axis=1)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=95)
    small = _as_array(read_image(tmp_path / "a.jpg", least_side=30)).astype(int)
    assert small.shape == (30, 40, 3) and np.abs(small - noise[::8, ::8]).max() <= 3  # each pixel is one of 8x8 equal ones


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_smaller_jpegs_are_turned_by_their_whole_size(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    columns = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None] * 2, (80, 100, 3))  # brighter to the right
    Image.fromarray(columns).save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = (100, 80) if orientation == 6 else (80, 100)
    image = read_image(tmp_path / "a.jpg", upright, least_side=20)
    assert image.shape[1:] == (upright[0] // 4, upright[1] // 4)
    corner, across, down = image[0, 0, 0].item(), image[0, 0, -1].item(), image[0, -1, 0].item()
    assert {1: across - corner, 3: corner - across, 6: down - corner}[orientation] > 150
    if orientation == 6:  # annotated as stored, which only the whole size tells
        stored = read_image(tmp_path / "a.jpg", (80, 100), least_side=20)
        assert stored.shape[1:] == (20, 25) and stored[0, 0, -1] - 150 > stored[0, 0, 0]


@pytest.mark.parametrize(("mode", "suffix"), [
    ("L", "jpg"), ("CMYK", "jpg"), ("RGB", "png"), ("RGB", "webp"), ("L", "tiff"), ("P", "gif")])
def test_only_jpegs_are_decoded_smaller(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (64, 48), (200, 100, 50)).convert(mode).save(path)
    whole, small = read_image(path), read_image(path, least_side=12)
    assert small.shape == ((3, 12, 16) if suffix == "jpg" else (3, 48, 64))
    assert (small[:, 5, 5].int() - whole[:, 20, 20].int()).abs().max() <= 2


@pytest.mark.parametrize("cut", [2, 20, 600])
def test_truncated_jpeg_decoded_smaller(tmp_path, cut):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:-cut])
    with pytest.raises(UnreadableImage, match=r"cut\.jpg"):
        read_image(tmp_path / "cut.jpg", least_side=16)


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


def test_only_known_formats_are_opened(tmp_path, pixels, monkeypatch):
    """EPS is a program, which Pillow hands to an interpreter."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("ran a program from an image file"))
    Image.fromarray(pixels).save(tmp_path / "a.jpg", format="EPS")
    Image.fromarray(pixels).save(tmp_path / "b.jpg", format="TGA")
    for name in ("a.jpg", "b.jpg"):
        for read in (read_image, image_size):
            with pytest.raises(UnreadableImage, match=name + r": cannot read .*not an image of a kind that is read: J"):
                read(tmp_path / name)
    for kind in (*FORMATS, "MPO"):
        Image.fromarray(pixels).save(tmp_path / "c.jpg", format=kind)
        assert image_size(tmp_path / "c.jpg") == read_image(tmp_path / "c.jpg").shape[1:] == (12, 20)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_pipe_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened a pipe"))
    os.mkfifo(tmp_path / "a.jpg")
    for read in (read_image, image_size):
        with pytest.raises(UnreadableImage, match=r"a\.jpg: cannot read this image \(it is a pipe"):
            read(tmp_path / "a.jpg")


def test_bomb_is_refused_before_decoding(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(image_io, "MAX_PIXELS", 239)
    monkeypatch.setattr(image_io, "_decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DecompressionBomb, match="20x12 pixels"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own limit is twice that
    with pytest.raises(DecompressionBomb, match=r"a\.png: .*240 pixels"):
        image_size(tmp_path / "a.png")


def test_float_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UnreadableImage, match="32-bit"):
        read_image(tmp_path / "a.tiff")
