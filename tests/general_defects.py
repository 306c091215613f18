"""Defects of images, boxes and classes, which any format may have, and how a defect is described; the rest: defects.py."""

import dataclasses
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from format_data import (
    CLASSES,
    FORMATS,
    Box,
    Scene,
    annotation_file,
    edit_json,
    edit_text,
    image_file,
    make_scene,
    repeat_object,
    set_box,
    set_class,
    set_numbers,
)
from PIL import Image

from datasets.annotations import DROP_IMAGE, DROP_OBJECT, FIX, STOP, WARN
from datasets.image_io import ORIENTATION_TAG

LEGAL = "nothing"  # the action where there is no defect


@dataclasses.dataclass(frozen=True)
class Defect:
    """One way to damage a data set.

    plant: `(folder, stem) -> None` damages the picture of a stem, or a whole file; says: regular expression, found in "kind:
    detail (name of the file, where)" of the fault; action: of the fault, as in datasets.annotations; dropped_objects: numbers
    from 0 of the picture's objects that training does not see; moved, renamed: number of an object -> its other box or class;
    stem: the picture, or a pattern for several, where it is not the caller's to choose; options: switches that it is opened with.
    """

    format: str
    name: str
    plant: Callable[[Path, str], object]
    says: str
    action: str
    dropped_objects: tuple[int, ...] = ()
    dropped_image: bool = False
    moved: dict[int, Box] = dataclasses.field(default_factory=dict)
    renamed: dict[int, str] = dataclasses.field(default_factory=dict)
    stem: str = ""
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.format}: {self.name}"


def everywhere(name: str, plant: Callable, says: str, action: str, formats: tuple[str, ...] = FORMATS, **more) -> list[Defect]:
    """A defect in several formats; plant: `(format, folder, stem)`."""
    return [Defect(kind, name, partial(plant, kind), says, action, **more) for kind in formats]


def in_format(kind: str, rows: list[tuple], **common) -> list[Defect]:
    """Rows (name, plant, says, action), with a dict of the other fields behind where there are any."""
    return [Defect(kind, *row[:4], **common | (row[4] if len(row) > 4 else {})) for row in rows]


# Images

def resave(folder: Path, stem: str, suffix: str, mode: str = "RGB") -> None:
    """The same picture in another mode under another suffix."""
    path = image_file("voc", folder, stem)
    picture = Image.open(path).convert(mode)
    path.unlink()
    picture.save(path.with_suffix(suffix))
    edit_text(annotation_file("voc", folder, stem), path.name, f"{stem}{suffix}")


def _orient(folder: Path, stem: str, value: int, turn: Image.Transpose | None = None) -> None:
    """An EXIF orientation, and for those that exchange the sides pixels that fit it, so that upright is as annotated."""
    path = image_file("voc", folder, stem)
    picture, kind = Image.open(path), 3 if value < 2**16 else 4  # TIFF's SHORT and LONG; Pillow would not write the latter
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, ORIENTATION_TAG, kind, 1, value, 0)
    (picture if turn is None else picture.transpose(turn)).save(path, exif=exif)


def _deepen(folder: Path, stem: str) -> None:
    path = image_file("voc", folder, stem)
    Image.fromarray(np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 257).save(path, "PNG")


def _cut(kind: str, folder: Path, stem: str, keep: slice) -> None:
    path = image_file(kind, folder, stem)
    path.write_bytes(path.read_bytes()[keep])


def damage_image(folder: Path, stem: str) -> None:
    path = image_file("voc", folder, stem)
    data = bytearray(path.read_bytes())
    data[-200:-190] = bytes(10)
    path.write_bytes(data)


def _bomb(kind: str, folder: Path, stem: str) -> None:
    """A PNG whose header promises 400 million pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(2501))), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in parts)
    image_file(kind, folder, stem).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def _same_picture(folder: Path, stem: str, split: str) -> None:
    """The pixels of a picture of the same size that no defect touches."""
    other = f"{split}_{int(stem.partition('_')[2]) % 3:02d}"
    image_file("voc", folder, stem).write_bytes(image_file("voc", folder, other).read_bytes())


def hide_files(kind: str, folder: Path, stem: str) -> None:
    for name in (".DS_Store", "Thumbs.db", f"._{stem}.jpg"):
        image_file(kind, folder, stem).with_name(name).write_bytes(b"\x00\x05\x16\x07")
    if kind in ("voc", "yolo"):
        path = annotation_file(kind, folder, stem)
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")


def remove_file(find: Callable[[str, Path, str], Path], kind: str, folder: Path, stem: str) -> None:
    find(kind, folder, stem).unlink()


def _unlisted_image(kind: str, folder: Path, stem: str) -> None:
    path = image_file(kind, folder, stem)
    Image.new("RGB", (40, 30), (1, 2, 3)).save(path.with_name("unlisted.jpg"))


GONE = {"dropped_image": True}
FIRST_GONE = {"dropped_objects": (0,)}
LISTED = ("voc", "coco", "openimages")  # formats whose annotations name classes; YOLO counts them
INNER = (40, 30, 60, 50)  # inside of every picture, upright or lying

IMAGES = [
    *in_format("voc", [
        ("PNG bytes named .jpg", lambda f, s: Image.open(image_file("voc", f, s)).save(image_file("voc", f, s), "PNG"),
         "kind than the suffix", FIX),
        ("GIF bytes named .jpg", lambda f, s: Image.open(image_file("voc", f, s)).save(image_file("voc", f, s), "GIF"),
         "kind than the suffix", FIX),
        ("RGBA image", lambda f, s: resave(f, s, ".png", "RGBA"), "transparency", FIX),
        ("grey image with alpha", lambda f, s: resave(f, s, ".png", "LA"), "transparency", FIX),
        ("palette image", lambda f, s: resave(f, s, ".png", "P"), "palette", FIX),
        ("grey image", lambda f, s: resave(f, s, ".jpg", "L"), "grey", FIX),
        ("1-bit image", lambda f, s: resave(f, s, ".png", "1"), "1-bit", FIX),
        ("CMYK image", lambda f, s: resave(f, s, ".jpg", "CMYK"), "CMYK", FIX),
        ("16-bit PNG", _deepen, "16.bit", FIX),
        ("EXIF orientation 6, upright size annotated", lambda f, s: _orient(f, s, 6, Image.Transpose.ROTATE_90), "EXIF", FIX),
        ("EXIF orientation 6, stored size annotated", lambda f, s: _orient(f, s, 6), "EXIF.*not applied", FIX),
        ("EXIF orientation 3", lambda f, s: _orient(f, s, 3), "EXIF", FIX),
        ("EXIF orientation 9", lambda f, s: _orient(f, s, 9), "invalid EXIF", FIX),
        ("EXIF orientation 65537", lambda f, s: _orient(f, s, 65537), "invalid EXIF", FIX),
        ("JPEG without its last 2 bytes", lambda f, s: _cut("voc", f, s, slice(-2)), "unreadable image", DROP_IMAGE, GONE),
        ("half a JPEG", lambda f, s: _cut("voc", f, s, slice(1500)), "unreadable image", DROP_IMAGE, GONE),
        ("0-byte image", lambda f, s: _cut("voc", f, s, slice(0)), "unreadable image", DROP_IMAGE, GONE),
        ("HTML saved as .jpg", lambda f, s: image_file("voc", f, s).write_text("<!DOCTYPE html><html>404</html>"),
         "unreadable image", DROP_IMAGE, GONE),
        ("same picture twice in a split", lambda f, s: _same_picture(f, s, "train"), "same picture twice", WARN),
        ("same picture in both splits", lambda f, s: _same_picture(f, s, "val"), "same picture in", WARN),
    ]),
    *everywhere("truncated JPEG", lambda kind, f, s: _cut(kind, f, s, slice(-20)), "unreadable image", DROP_IMAGE, **GONE),
    *everywhere("decompression bomb", _bomb, "bomb|more than can be read", DROP_IMAGE, **GONE),
    *everywhere("image that nothing names", _unlisted_image, "unlisted.jpg", WARN, LISTED),
]


# Boxes and classes

NO_NUMBERS = ("nan", "inf", "", "1_0", "４２")


def _replace(k: int, make_box: Callable[[Scene], Box], kind: str, folder: Path, stem: str) -> None:
    set_box(kind, folder, stem, k, make_box(make_scene(stem)))


def _shift(scene: Scene, k: int, by: Box) -> Box:
    return tuple(value + step for value, step in zip(scene.objects[k][1], by))


def _set_first(value: str, kind: str, folder: Path, stem: str) -> None:
    """One number of the first box, which is nothing where it is blank in JSON."""
    others = ["5", "20", "20"] if kind in ("voc", "coco") else ["0.2"] * 3
    numbers = [None if kind == "coco" and value == "" else value, *others]
    set_numbers(kind, folder, stem, 0, numbers)


def _class_list(folder: Path, *names: str) -> None:
    (folder / "labels.txt").write_text("\n".join(names) + "\n")


def _unknown_class(name: str, kind: str, folder: Path, stem: str) -> None:
    """A class that stands on no list: VOC and Open Images have labels.txt, COCO the categories of the training split."""
    if kind == "coco":
        edit_json(folder, "val_00", lambda content: content["categories"].append({"id": 9, "name": name}))
        set_class("coco", folder, "val_00", 0, 9)
    elif kind == "yolo":
        set_class("yolo", folder, stem, 0, len(CLASSES) + 4)
    else:
        _class_list(folder, *CLASSES)
        _describe(folder, "/m/9", name)
        set_class(kind, folder, stem, 0, name if kind == "voc" else "/m/9")


def _blank_class(kind: str, folder: Path, stem: str) -> None:
    if kind == "yolo":
        edit_text(folder / "obj.names", "cat\n", "\ncat\n")
    else:
        _class_list(folder, "car", "", "cat", "dog")


def _describe(folder: Path, label: str, name: str) -> None:
    with open(folder / "class-descriptions-boxable.csv", "a") as file:
        file.write(f"{label},{name}\n")


def _class_of_val_alone(kind: str, folder: Path, stem: str) -> None:
    _list_more(kind, folder, "bus")
    set_class(kind, folder, "val_00", 0, {"voc": "bus", "coco": 9, "openimages": "/m/9", "yolo": len(CLASSES)}[kind])


def _list_more(kind: str, folder: Path, name: str) -> None:
    """A class more on the list, without an object."""
    if kind == "coco":
        for stem in ("train_", "val_"):
            edit_json(folder, stem, lambda content: content["categories"].append({"id": 9, "name": name}))
    elif kind == "yolo":
        edit_text(folder / "obj.names", "dog\n", f"dog\n{name}\n")
        edit_text(folder / "obj.data", "classes = 3", "classes = 4")
    else:
        _class_list(folder, *CLASSES, name)
        _describe(folder, "/m/9", name)


def pad_names(kind: str, folder: Path, stem: str) -> None:
    if kind == "voc":
        set_class("voc", folder, stem, 0, f" {make_scene(stem).objects[0][0]} ")
    elif kind == "coco":
        edit_json(folder, stem, lambda content: content["categories"][0].update(name=" car "))
    else:
        edit_text(folder / {"openimages": "class-descriptions-boxable.csv", "yolo": "obj.names"}[kind], "car\n", " car \n")


BOXES = [
    *everywhere("zero width", partial(_replace, 0, lambda scene: (10, 10, 10, 30)), "zero size", DROP_OBJECT, **FIRST_GONE),
    *everywhere("zero height", partial(_replace, 0, lambda scene: (10, 10, 30, 10)), "zero size", DROP_OBJECT, **FIRST_GONE),
    *everywhere("min above max", partial(_replace, 0, lambda scene: (30, 10, 10, 30)), "swapped|outside 0..1", DROP_OBJECT,
                **FIRST_GONE),
    *everywhere("1 px over the right edge", partial(_replace, 1, lambda scene: _shift(scene, 1, (0, 0, 1, 0))), "clipped", FIX),
    *everywhere("-1 at the upper left", partial(_replace, 0, lambda scene: _shift(scene, 0, (-1, -1, 0, 0))), "clipped", FIX),
    *everywhere("wholly outside", partial(_replace, 0, lambda scene: (scene.width + 5, 5, scene.width + 25, 25)), "outside",
                DROP_OBJECT, **FIRST_GONE),
    *[defect for value in NO_NUMBERS for defect in everywhere(
        f"{value!r} for a number", partial(_set_first, value), "not a number|too few columns", DROP_OBJECT, **FIRST_GONE)],
    *everywhere("same box and class twice", lambda kind, f, s: repeat_object(kind, f, s, 0), "twice", FIX),
    *everywhere("class outside the list", partial(_unknown_class, "zebra"), "zebra|the class 7", STOP),
    *everywhere("class in another case", partial(_unknown_class, "Car"), 'did you mean "car"', STOP, LISTED),
    *everywhere("blank line inside a class list", _blank_class, "blank", STOP, ("voc", "openimages", "yolo")),
    *everywhere("class in val but not in train", _class_of_val_alone, "class", WARN, stem="val_00", renamed={0: "bus"}),
    *everywhere("class of the list without a box", lambda kind, f, s: _list_more(kind, f, "bus"), "bus", WARN),
]
