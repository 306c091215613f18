"""Defects of VOC's XML files and of COCO's JSON files; the rest: defects.py."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from format_data import (
    Box,
    annotation_file,
    coco_annotations,
    coco_image,
    edit_json,
    edit_text,
    edit_xml,
    image_file,
    make_scene,
    set_box,
    set_class,
)
from general_defects import FIRST_GONE, GONE, INNER, in_format, remove_file

from datasets.annotations import DROP_IMAGE, DROP_OBJECT, FIX, STOP, WARN

# VOC


def edit_annotation(folder: Path, stem: str, old: str, new: str) -> None:
    edit_text(annotation_file("voc", folder, stem), old, new)


def _size_of(folder: Path, stem: str, width: int, height: int) -> None:
    scene = make_scene(stem)
    edit_annotation(folder, stem, f"<width>{scene.width}</width><height>{scene.height}</height>",
          f"<width>{width}</width><height>{height}</height>")


def _grow(folder: Path, stem: str, side: int, box: Box) -> None:
    _size_of(folder, stem, side, side)
    set_box("voc", folder, stem, 0, box)


def _exchange_sides(folder: Path, stem: str) -> None:
    _size_of(folder, stem, *make_scene(stem)[2:0:-1])
    set_box("voc", folder, stem, 1, INNER)


def rewrite_xml(folder: Path, stem: str, head: str, encoding: str) -> None:
    """The annotation in another encoding, with a word in it that ASCII lacks."""
    path = annotation_file("voc", folder, stem)
    path.write_bytes((head + path.read_text().replace("JPEGImages</folder>", "照片</folder>")).encode(encoding))


def _misread_class(folder: Path, stem: str) -> None:
    """A class whose bytes in GBK are other letters in UTF-8."""
    (folder / "labels.txt").write_text("car\ncat\ndog\n图片\n")
    set_class("voc", folder, stem, 0, "图片")
    path = annotation_file("voc", folder, stem)
    path.write_bytes(path.read_text().replace("<?xml version='1.0' encoding='utf-8'?>", "").encode("gbk"))


def _copy(folder: Path, stem: str, *finds: Callable[[str, Path, str], Path]) -> None:
    """The files of a picture once more under a name that no split has."""
    for find in finds:
        path = find("voc", folder, stem)
        path.with_stem("unlisted").write_bytes(path.read_bytes())


def _no_size(folder: Path, stem: str) -> None:
    edit_xml(folder, stem, lambda root: root.remove(root.find("size")))


def _remove_first_box(root: ElementTree.Element) -> None:
    first = root.find("object")
    first.remove(first.find("bndbox"))


def _doctype(folder: Path, stem: str, entity: str) -> None:
    path = annotation_file("voc", folder, stem)
    path.write_text(f'<!DOCTYPE annotation [<!ENTITY e {entity}>]>\n{path.read_text()}')


def link_out(find: Callable[[str, Path, str], Path], kind: str, folder: Path, stem: str) -> None:
    """A file that lies outside and is linked to from inside."""
    path = find(kind, folder, stem)
    outside = folder.parent / "elsewhere"
    outside.mkdir(exist_ok=True)
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)


def put_outside(kind: str, folder: Path, stem: str) -> Path:
    """A picture that lies outside, to be named by a path."""
    path = image_file(kind, folder, stem)
    outside = folder.parent / "elsewhere" / "secret.jpg"
    outside.parent.mkdir(exist_ok=True)
    path.rename(outside)
    return outside


def relative_outside(kind: str, folder: Path, stem: str) -> str:
    """The way from the folder of the pictures to one that lies outside."""
    return os.path.relpath(put_outside(kind, folder, stem), image_file(kind, folder, stem).parent)


VOC = in_format("voc", [
    ("size 0x0", lambda f, s: _size_of(f, s, 0, 0), "no image size", FIX),
    ("no size", _no_size, "no image size", FIX),
    ("size larger than the image", lambda f, s: _size_of(f, s, 200, 100), "says 200x100", WARN),
    ("size and boxes larger than the image", lambda f, s: _grow(f, s, 200, (110, 110, 150, 150)), "boxes lie outside",
     DROP_IMAGE, GONE),
    ("sides of the size exchanged", lambda f, s: _exchange_sides(f, s),
     "sides are swapped", WARN, {"moved": {1: INNER}}),
    ("<filename> of another file", lambda f, s: edit_annotation(f, s, f"{s}.jpg", "000001.png"), "<filename>", FIX),
    ("<filename> without suffix", lambda f, s: edit_annotation(f, s, f"{s}.jpg", s), "<filename>", FIX),
    ("no <filename>", lambda f, s: edit_annotation(f, s, f"<filename>{s}.jpg</filename>", ""), "<filename>", FIX),
    ("malformed XML", lambda f, s: edit_annotation(f, s, "</annotation>", ""), "does not parse", DROP_IMAGE, GONE),
    ("0-byte XML", lambda f, s: annotation_file("voc", f, s).write_bytes(b""), "does not parse|empty", DROP_IMAGE, GONE),
    ("XML that is no annotation", lambda f, s: annotation_file("voc", f, s).write_text("<html></html>"), "root element",
     DROP_IMAGE, GONE),
    ("GBK without a declaration", lambda f, s: rewrite_xml(f, s, "", "gbk"), "does not parse", DROP_IMAGE, GONE),
    ("object without <bndbox>", lambda f, s: edit_xml(f, s, _remove_first_box), "bndbox", DROP_OBJECT, FIRST_GONE),
    ("missing annotation, skipped", lambda f, s: remove_file(annotation_file, "voc", f, s), "missing", DROP_IMAGE,
     {"options": ("skip_missing",), **GONE}),
    ("missing image, skipped", lambda f, s: remove_file(image_file, "voc", f, s), "missing|no image", DROP_IMAGE,
     {"options": ("skip_missing",), **GONE}),
    ("missing annotation", lambda f, s: remove_file(annotation_file, "voc", f, s), "annotation file missing", STOP),
    ("missing image", lambda f, s: remove_file(image_file, "voc", f, s), "image missing", STOP),
    ("class in GBK without a declaration", _misread_class, "unknown class", STOP),
    ("image in no split", lambda f, s: _copy(f, s, image_file, annotation_file), "in no split.*unlisted", WARN),
    ("annotation in no split and without image", lambda f, s: _copy(f, s, annotation_file), "without image.*unlisted", WARN),
    ("internal entity", lambda f, s: _doctype(f, s, '"car"'), "DOCTYPE", STOP),
    ("external entity", lambda f, s: _doctype(f, s, 'SYSTEM "file:///etc/hostname"'), "DOCTYPE", STOP),
])


# COCO

def _all_ids(folder: Path, change: Callable[[int], object]) -> None:
    def apply(content: dict) -> None:
        for key in ("images", "annotations", "categories"):
            for record in content[key]:
                record.update({name: change(record[name]) for name in ("id", "image_id", "category_id") if name in record})
    edit_json(folder, "train_", apply)


def _of_first(change: dict) -> Callable[[Path, str], None]:
    """Changes the first annotation of a picture."""
    return lambda folder, stem: edit_json(folder, stem, lambda content: coco_annotations(content, stem)[0].update(change))


def _of_image(**change: Callable[[Path, str], object]) -> Callable[[Path, str], None]:
    """Changes a picture's record; each value is made of the folder and the stem."""
    def plant(folder: Path, stem: str) -> None:
        values = {key: make(folder, stem) for key, make in change.items()}
        edit_json(folder, stem, lambda content: coco_image(content, stem).update(values))
    return plant


def _without(key: str, *names: str) -> Callable[[Path, str], None]:
    """Removes fields of all records."""
    def apply(content: dict) -> None:
        for record in content[key]:
            for name in names:
                record.pop(name)
    return lambda folder, stem: edit_json(folder, "train_", apply)


def _of_all(change: Callable[[int, dict], dict]) -> Callable[[Path, str], None]:
    """Changes all annotations; change: (position, annotation) -> new fields."""
    def apply(content: dict) -> None:
        for k, annotation in enumerate(content["annotations"]):
            annotation.update(change(k, annotation))
    return lambda folder, stem: edit_json(folder, "train_", apply)


def _into_subfolder(folder: Path, stem: str) -> None:
    path = image_file("coco", folder, stem)
    (path.parent / "part").mkdir()
    path.rename(path.parent / "part" / path.name)


def _heading_category(folder: Path, stem: str) -> None:
    def apply(content: dict) -> None:
        for category in content["categories"]:
            category["supercategory"] = "vehicles"
        content["categories"].insert(0, {"id": 0, "name": "vehicles", "supercategory": "none"})
    edit_json(folder, "train_", apply)
    edit_json(folder, "val_", apply)


def convert_text(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


COCO = in_format("coco", [
    ("annotation id 0", _of_all(lambda k, a: {"id": k}), "id", FIX),
    ("annotation ids twice", _of_all(lambda k, a: {"id": k // 2 + 1}), "id", FIX),
    ("one file under two ids", lambda f, s: edit_json(f, s, lambda c: c["images"].append(coco_image(c, s) | {"id": 999})),
     "two ids|same file", WARN),
    ("file_name with another folder", _of_image(file_name=lambda f, s: f"elsewhere/{s}.jpg"), "another path", FIX),
    ("file_name is a URL", _of_image(file_name=lambda f, s: f"https://host/images/{s}.jpg"), "another path", FIX),
    ("file_name with backslashes", _of_image(file_name=lambda f, s: f"data\\{s}.jpg"), "another path", FIX),
    ("file_name without its folder", _into_subfolder, "another path", FIX),
    ("file_name with another suffix", _of_image(file_name=lambda f, s: f"{s}.png"), "another path", FIX),
    ("missing image", lambda f, s: remove_file(image_file, "coco", f, s), "missing", DROP_IMAGE, GONE),
    ("no area", _without("annotations", "area"), "area", FIX),
    ("no iscrowd", _without("annotations", "iscrowd"), "iscrowd", FIX),
    ("no segmentation", _without("annotations", "segmentation"), "segmentation", FIX),
    ("no width and height", lambda f, s: edit_json(f, s, lambda c: [coco_image(c, s).pop(k) for k in ("width", "height")]),
     "no image size", FIX),
    ("annotation of an unknown image", _of_first({"image_id": 12345}), "unknown image", DROP_OBJECT, FIRST_GONE),
    ("annotation of an unknown category", _of_first({"category_id": 12345}), "unknown category", DROP_OBJECT, FIRST_GONE),
    ("annotation without bbox", _of_first({"bbox": None}), "bbox", DROP_OBJECT, FIRST_GONE),
    ("ids as strings", lambda f, s: _all_ids(f, str), "ids?", FIX),
    ("ids as floats", lambda f, s: _all_ids(f, float), "ids?", FIX),
    ("heading category", _heading_category, "vehicles", FIX),
    ("key twice", lambda f, s: edit_text(annotation_file("coco", f, s), '"iscrowd": 0', '"iscrowd": 0, "iscrowd": 0'), "key",
     WARN),
    ("byte order mark", lambda f, s: convert_text(annotation_file("coco", f, s), b"\xef\xbb\xbf".__add__),
     "byte order mark", FIX),
    ("two images with one id", _of_image(id=lambda f, s: 1), "two images", STOP),
    ("corners for width and height", _of_all(lambda k, a: {"bbox": [40 + k % 9, 30, 70, 60]}), "corners", STOP),
    ("fractions for pixels", _of_all(lambda k, a: {"bbox": [v / 100 for v in a["bbox"]]}), "fractions", STOP),
    ("NaN", _of_first({"bbox": [float("nan"), 1, 5, 5]}), "NaN", STOP),
    ("half a file", lambda f, s: convert_text(annotation_file("coco", f, s), lambda data: data[: len(data) // 2]),
     "does not parse", STOP),
    ("absolute file_name", _of_image(file_name=lambda f, s: str(put_outside("coco", f, s))), "leads out", STOP),
    ("file_name with ..", _of_image(file_name=partial(relative_outside, "coco")), "leads out", STOP),
])
