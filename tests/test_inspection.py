"""What decoding every image finds: broken files, unusual pixels, EXIF, other sizes than annotated, repeated pictures."""

import multiprocessing
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from datasets import InputError, inspection
from datasets.inspection import (
    ImageFacts,
    SamePicture,
    examine_image,
    examine_images,
    image_faults,
    same_picture_fault,
    same_pictures,
    size_fault,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
SIZE = (30, 40)


class Pictures:
    """The part of a data set's contract that is asked for: paths, one annotated size, and one box."""

    def __init__(self, *paths, size=SIZE, boxes=()):
        self.paths, self.size = list(map(str, paths)), size
        self.boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)

    def image_path(self, index):
        return self.paths[index]

    def get_height_and_width(self, index):
        return self.size

    def coco_index(self, index):
        return self.size, {"boxes": self.boxes}


def save(path, mode="RGB", orientation=None, **options):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
        options["exif"] = exif
    Image.fromarray(PIXELS).convert(mode).save(path, **options)
    return path


def faults_of(path, size=SIZE, boxes=()):
    dataset = Pictures(path, size=size, boxes=boxes)
    return image_faults(dataset, [examine_image(str(path), size)])


def kinds_of(path, size=SIZE, boxes=()):
    faults = faults_of(path, size, boxes)
    assert all(fault.file == str(path) and fault.detail for fault in faults)
    return [(fault.kind, fault.action) for fault in faults]


def test_an_ordinary_image_has_no_fault(tmp_path):
    facts = examine_image(str(save(tmp_path / "a.png")), SIZE)
    assert facts[:8] == (SIZE, "", False, "PNG", "RGB", False, SIZE, 1) and facts.remarks == () and len(facts.digest) == 20
    assert kinds_of(tmp_path / "a.png") == [] and kinds_of(save(tmp_path / "a.JPEG")) == []
    assert image_faults(Pictures(), []) == [] and examine_images([], []) == examine_images([], [], 0) == []


def test_files_that_cannot_be_read(tmp_path):
    whole = save(tmp_path / "whole.jpg").read_bytes()
    contents = {"cut": whole[:-2], "half": whole[: len(whole) // 2], "empty": b"", "page": b"<!DOCTYPE html><html></html>"}
    for name, content in contents.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
        assert kinds_of(tmp_path / f"{name}.jpg") == [("unreadable image", "drop image")]
    assert "the file is empty" in faults_of(tmp_path / "empty.jpg")[0].detail
    assert "<!DOCTYPE html>" in faults_of(tmp_path / "page.jpg")[0].detail
    assert kinds_of(tmp_path / "nothing.jpg") == [("unreadable image", "drop image")]


def test_programs_and_pipes_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("ran a program from an image file"))
    fault, = faults_of(save(tmp_path / "a.jpg", format="EPS"))
    assert fault.kind == "unreadable image" and "begins with b'%!PS-Adobe" in fault.detail
    assert examine_image(str(tmp_path / "a.jpg")).format == ""  # nor was its header read
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        for place in (Image, inspection):
            monkeypatch.setattr(place, "open", lambda *_, **__: pytest.fail("opened a pipe"), raising=False)
        fault, = faults_of(tmp_path / "pipe.jpg")
        assert fault.kind == "unreadable image" and "it is a pipe" in fault.detail and "begins" not in fault.detail


def png(width, height, bits, colour, rows):
    """A PNG file by hand, of a depth that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))
                                            for tag, data in chunks)


def test_decompression_bomb_is_named_and_not_decoded(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(20000, 20000, 1, 0, bytes(10)))
    assert kinds_of(tmp_path / "bomb.png") == [("decompression bomb", "drop image")]


@pytest.mark.parametrize("mode, suffix, kind", [
    ("L", ".jpg", "grey image"), ("LA", ".png", "grey image with transparency"), ("P", ".png", "palette image"),
    ("RGBA", ".png", "image with transparency"), ("1", ".png", "1-bit image"), ("CMYK", ".jpg", "CMYK image"),
    ("YCbCr", ".tif", "image of unusual pixels")])
def test_pixels_that_are_not_rgb(tmp_path, mode, suffix, kind):
    assert kinds_of(save(tmp_path / f"a{suffix}", mode)) == [(kind, "fix")]


def test_16_bits(tmp_path):
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert kinds_of(tmp_path / "a.png") == [("16-bit image", "fix")]
    (tmp_path / "rgb.png").write_bytes(png(2, 1, 16, 2, b"\0" + bytes(range(12))))
    assert kinds_of(tmp_path / "rgb.png", (1, 2)) == [("16-bit image", "fix")]


def test_content_of_another_kind(tmp_path):
    save(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    fault, = faults_of(tmp_path / "a.jpg")
    assert (fault.kind, fault.action) == ("content of another kind than the suffix", "fix") and "PNG" in fault.detail
    assert kinds_of(save(tmp_path / "b.jpg", format="MPO", save_all=True)) == []  # as telephones name it


@pytest.mark.parametrize("orientation, annotated, kind", [
    (1, SIZE, None), (3, SIZE, "EXIF orientation applied"), (6, SIZE[::-1], "EXIF orientation applied"),
    (6, SIZE, "EXIF orientation not applied"), (9, SIZE, "invalid EXIF orientation"),
    (0, SIZE, "invalid EXIF orientation")])
def test_exif(tmp_path, orientation, annotated, kind):
    path = save(tmp_path / "a.jpg", orientation=orientation)
    assert kinds_of(path, annotated) == ([(kind, "fix")] if kind else [])
    assert examine_image(str(path), annotated).size == annotated


def test_another_size_than_annotated(tmp_path):
    path = save(tmp_path / "a.png")  # 40 wide, 30 high
    assert kinds_of(path, (25, 50)) == kinds_of(path, (25, 50), [[0, 0, 40, 25]]) == [
        ("image of another size than annotated", "warn")]
    assert kinds_of(path, (25, 50), [[0, 0, 5, 5], [0, 0, 41, 25]]) == [
        ("boxes outside an image of another size than annotated", "drop image")]
    fault = size_fault("a", (30, 40), (40, 30), torch.zeros(0, 4))
    assert "40x30 pixels, its annotation says 30x40: the sides are swapped" in fault.detail
    assert "swapped" not in size_fault("a", (30, 40), (41, 30), torch.zeros(0, 4)).detail
    assert size_fault("a", (30, 40), (40, 30), torch.tensor([[0, 0, 1, 31.0]])).action == "drop image"


def test_remarks_of_the_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # warns above, raises above twice that
    path = save(tmp_path / "a.png")
    fault, = faults_of(path)
    assert (fault.kind, fault.action) == ("remark of the decoder", "warn") and "1200 pixels" in fault.detail


def test_same_pictures_are_told_by_their_pixels(tmp_path):
    paths = [str(save(tmp_path / name)) for name in ("a.png", "b.bmp", "c.jpg")]
    facts = examine_images(paths, [SIZE] * 3, workers=0)
    unreadable = ImageFacts(None, "broken")
    assert facts[0].digest == facts[1].digest != facts[2].digest
    pairs = same_pictures({"training": (paths[:2], facts[:2]), "validation": ([paths[0], "x", "y"],
                                                                             [facts[0], unreadable, unreadable])})
    assert pairs == [SamePicture("training", paths[1], "training", paths[0]),
                     SamePicture("validation", paths[0], "training", paths[0])]
    assert [same_picture_fault(pair).kind for pair in pairs] == ["same picture twice in a split",
                                                                 "same picture in training and validation"]
    # One file twice, as two data paths may have it, counts double, too; one of another shape is another picture.
    pair, = same_pictures({"training": ([paths[0]] * 2, [facts[0]] * 2)})
    assert pair == SamePicture("training", paths[0], "training", paths[0]) and same_pictures({}) == []
    assert "has this file twice" in same_picture_fault(pair).detail and same_picture_fault(pair).file == paths[0]
    Image.fromarray(PIXELS.reshape(40, 30, 3)).save(tmp_path / "d.png")
    assert examine_image(str(tmp_path / "d.png")).digest != facts[0].digest


def test_processes_find_what_one_finds(tmp_path):
    paths = [str(save(tmp_path / f"{k}.png", ("RGB", "L", "P")[k % 3])) for k in range(40)]
    (tmp_path / "7.png").write_bytes(b"broken")
    alone = examine_images(paths, [SIZE] * 40, workers=0)
    assert [facts.mode for facts in alone[:3]] == ["RGB", "L", "P"] and alone[7].size is None
    assert examine_images(paths, [SIZE] * 40, workers=2) == alone
    assert examine_images(paths[:1], [SIZE], workers=2) == alone[:1]


def test_processes_that_are_not_forked(tmp_path, monkeypatch):
    paths = [str(save(tmp_path / f"{k}.png")) for k in range(3)]
    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(inspection.multiprocessing, "get_context", lambda: context)
    assert examine_images(paths, [SIZE] * 3, workers=1) == examine_images(paths, [SIZE] * 3, workers=0)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="plants its fault by forking")
def test_a_process_that_dies_ends_in_a_sentence(tmp_path, monkeypatch):
    paths = [str(save(tmp_path / f"{k}.png")) for k in range(9)]
    monkeypatch.setattr(inspection, "examine_image", lambda path, size: os._exit(1) if path == paths[5] else ImageFacts(size))
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(inspection.multiprocessing, "get_context", lambda: context)
    with pytest.raises(InputError, match=r"a process died while it decoded one of these images: .*5\.png; "):
        examine_images(paths, [SIZE] * 9, workers=1)
    with pytest.raises(InputError, match=r"a process died.*/5\.png"):
        examine_images(paths, [SIZE] * 9, workers=2)
