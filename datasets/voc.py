"""Pascal VOC: one XML file per image, split files with one file stem per line.

Only parsing happens here; what is done about faulty boxes is decided in annotations.py. Coordinates are used as they
stand in the file, without subtracting 1. The image belongs to the XML of the same stem; `<filename>` and `<path>` are
wrong in many sets and only compared.
"""

import dataclasses
import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lxml import etree

from datasets.annotations import (
    DROP_IMAGE,
    DROP_OBJECT,
    STOP,
    AnnotationTable,
    Fault,
    FaultError,
    RawAnnotations,
    build_table,
    parse_number,
)
from datasets.boundary import Boundary
from datasets.class_names import (
    as_class_names,
    check_class_names,
    describe_unknown_class,
    order_class_names,
    without_case_variants,
)
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError
from datasets.image_files import IMAGE_SUFFIXES, ImageFolder, annotated_side, read_bytes
from datasets.image_io import UnreadableImage, image_size
from datasets.tally import Tally, shorten
from datasets.voc_folder import VocSplit, all_annotations, find_voc_folder, find_voc_split

MAX_XML_BYTES = 16 * 2**20
BOX_TAGS = ("xmin", "ymin", "xmax", "ymax")
MISSING_FILES = ("annotation file missing", "image missing")


class VOCDataSet(DetectionDataset):
    """One split of a data set in VOC layout; see `DetectionDataset` for samples and ground truth.

    Args:
        voc_root: the parent of VOCdevkit, VOCdevkit, a year folder, or any folder with Annotations, ImageSets and
            JPEGImages, or with the XML beside the images, see voc_folder.py.
        year: which year folder, where there are several.
        transforms: optional `(image, target) -> (image, target)`.
        txt_name: split, with or without ".txt"; `train_set` is another name for it.
        class_names: list of names, or path of a class file; by default the names found in the annotations of all
            splits, so that training and validation agree.
        drop_empty: leave out images without objects to train on.
        skip_difficult: leave difficult objects out of the targets.
        skip_unknown: drop objects of classes outside the class list instead of stopping.
        skip_missing: leave out images whose file, or whose annotation, is missing instead of stopping.
        allow_outside: follow paths and links that lead out of `voc_root`.
        strict: raise on a fault that stops; else keep it in `faults`.

    Raises:
        FileNotFoundError: no VOC folder, year or split there; the message shows what was expected.
        InputError: an annotation that stops, by file and line or object number.
    """

    has_difficult = True

    def __init__(self, voc_root: str | os.PathLike, year: str = "2012", transforms: Callable | None = None,
                 txt_name: str = "train.txt", *, train_set: str | None = None,
                 class_names: Sequence[str] | str | os.PathLike | None = None, drop_empty: bool = False,
                 skip_difficult: bool = False, skip_unknown: bool = False, skip_missing: bool = False,
                 allow_outside: bool = False, strict: bool = True):
        folder = find_voc_folder(voc_root, year)
        names = None if class_names is None else as_class_names(class_names)
        found = find_voc_split(folder, train_set or txt_name, boundary := Boundary(voc_root, allow_outside=allow_outside))
        table, faults = read_voc(folder, found, boundary, names, skip_unknown, skip_missing)
        super().__init__(table, faults, transforms, skip_difficult=skip_difficult, drop_empty=drop_empty, strict=strict)


def read_voc(folder: Path, found: VocSplit, boundary: Boundary, class_names: list[str] | None = None,
             skip_unknown: bool = False, skip_missing: bool = False) -> tuple[AnnotationTable, list[Fault]]:
    """Annotations of one split and all their faults; a fault that stops is listed like the others, not raised."""
    faults, tally, raw = list(found.faults), Tally(), RawAnnotations()
    parsed = _parse_split(found, boundary, skip_missing, faults)
    hint = ""
    if class_names is None:
        class_names = _find_class_names(folder, parsed, boundary)
        hint = "; if both are classes, give the class list (--classes)"  # only a variant of a name can be unknown then
    labels, unknown_action = {name: k + 1 for k, name in enumerate(class_names)}, DROP_OBJECT if skip_unknown else STOP
    for stem, (source, voc_file) in parsed.items():
        try:
            path = _find_image(found.place.images, stem, source, boundary)
            height, width = _size(voc_file, path, source, tally)
        except FaultError as error:
            faults.append(_if_missing(error.fault, skip_missing))
            continue
        _compare_filename(voc_file, path, source, tally)
        raw.add_image(path, height, width, len(raw.paths) + 1, source)
        for item in voc_file.objects:
            _add_object(raw, item, labels, unknown_action, source, faults, hint)
    if not raw.paths:
        first = min(faults, key=lambda fault: (fault.action != STOP, fault.action != DROP_IMAGE))
        raise InputError(f"none of the {len(found.lines)} images of {found.file} can be used; {first}")
    table, box_faults = build_table(raw, class_names)
    return table, faults + tally.faults() + box_faults


class VocObject(NamedTuple):
    """One `<object>`: its number in the file from 1; box None where there is no `<bndbox>`."""

    number: int
    name: str
    box: tuple[float, float, float, float] | None
    difficult: bool


class VocFile(NamedTuple):
    """What one XML file says; width and height are 0 where it does not say."""

    filename: str
    width: int
    height: int
    objects: list[VocObject]


def parse_voc_xml(path: Path) -> VocFile:
    """One annotation file, from its bytes, so that the encoding it declares is honoured.

    Raises:
        FaultError: cannot be opened, too large, not well-formed, with a DOCTYPE, or no VOC annotation at all.
    """
    def broken(kind: str, detail: str, where: str = "", action: str = STOP) -> FaultError:
        return FaultError(Fault(str(path), where, kind, detail, action))

    try:
        data = read_bytes(path, MAX_XML_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise broken("annotation file too large", f"{error.strerror} for one image") from error
        raise broken("annotation file that cannot be opened", f"cannot open this annotation ({error.strerror}); correct it, or "
                     "remove its line in the split file") from error
    # No entity is resolved and nothing is loaded: annotations may come from anywhere.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    doctype = broken("XML with DOCTYPE", "a DOCTYPE is not allowed in an annotation; remove it", "line 1")
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, LookupError) as error:  # LookupError: an unknown encoding
        if b"<!DOCTYPE" in data:
            raise doctype from error
        line = getattr(error, "lineno", None) or 1
        reason = (getattr(error, "msg", None) or "empty file")[:200]
        raise broken("XML that does not parse", f"the XML does not parse ({reason}); correct or remove it", f"line {line}",
                     DROP_IMAGE) from error
    if root.getroottree().docinfo.doctype:
        # With entities unresolved a class name written as an entity would silently become empty.
        raise doctype
    if root.tag != "annotation":
        raise broken("not a VOC annotation", f"the root element is <{root.tag}>, expected is <annotation>", "line 1", DROP_IMAGE)
    objects = [_parse_object(k + 1, child) for k, child in enumerate(c for c in root if c.tag == "object")]
    width, height = (annotated_side(root.findtext(f"size/{tag}")) for tag in ("width", "height"))
    return VocFile((root.findtext("filename") or "").strip(), width, height, objects)


def _parse_object(number: int, element: etree._Element) -> VocObject:
    # find() and findtext() look at direct children only: a <part> has a <name> and a <bndbox> of its own.
    bndbox = element.find("bndbox")
    box = None if bndbox is None else tuple(parse_number(bndbox.findtext(tag)) for tag in BOX_TAGS)
    difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "true")
    return VocObject(number, " ".join((element.findtext("name") or "").split()), box, difficult)


def _add_object(raw: RawAnnotations, item: VocObject, labels: dict[str, int], unknown_action: str, source: str,
                faults: list[Fault], hint: str) -> None:
    where = f"object {item.number}"
    if item.name not in labels:
        detail = describe_unknown_class(item.name, list(labels)) + hint if item.name else "the object has no <name>"
        faults.append(Fault(source, where, "unknown class", detail, unknown_action))
    elif item.box is None:
        faults.append(Fault(source, where, "object without box", "there is no <bndbox>", DROP_OBJECT))
    else:
        raw.add_object(len(raw.paths) - 1, item.box, labels[item.name], item.number, difficult=item.difficult)


def _parse_split(found: VocSplit, boundary: Boundary, skip_missing: bool,
                 faults: list[Fault]) -> dict[str, tuple[str, VocFile]]:
    """Stem -> (path of its annotation, what that says), of all that can be used."""
    parsed = {}
    for stem, line in found.lines.items():
        source, where = found.place.xml_path(stem), f"line {line}" if line else ""
        try:
            boundary.check(source, found.file, where)
            if not os.path.exists(source):
                detail = f"there is no such annotation, but {found.file}, {where}, lists it; add it, or remove the line"
                raise FaultError(Fault(source, "", "annotation file missing", detail, STOP))
            parsed[stem] = source, parse_voc_xml(Path(source))
        except FaultError as error:
            faults.append(_if_missing(error.fault, skip_missing))
    return parsed


def _if_missing(fault: Fault, skip_missing: bool) -> Fault:
    return dataclasses.replace(fault, action=DROP_IMAGE) if skip_missing and fault.kind in MISSING_FILES else fault


def _find_class_names(folder: Path, parsed: dict[str, tuple[str, VocFile]], boundary: Boundary) -> list[str]:
    """Names in all splits. Broken files of other splits are no matter here: opening those splits reports them."""
    files = dict(parsed.values())
    for path in all_annotations(folder, boundary):
        if path not in files:
            try:
                files[path] = parse_voc_xml(Path(path))
            except FaultError:
                continue
    counts = Counter(item.name for file in files.values() for item in file.objects if item.name)
    if not counts and parsed:
        raise InputError(f"no annotation under {os.path.dirname(next(iter(files)))} holds an object, so there are no classes to "
                         "learn; give a class list if that is intended")
    names = order_class_names(without_case_variants(counts))
    return check_class_names(names, f"the annotations in {folder}") if names else []


def _size(voc_file: VocFile, path: str, source: str, tally: Tally) -> tuple[int, int]:
    if voc_file.height and voc_file.width:
        return voc_file.height, voc_file.width
    try:
        height, width = image_size(path)
    except UnreadableImage as error:
        raise FaultError(Fault(path, "", "unreadable image", str(error), DROP_IMAGE)) from error
    tally.add(source, "", "no image size, taken from the image", f"the size is {width}x{height}")
    return height, width


def _find_image(images: ImageFolder, stem: str, source: str, boundary: Boundary) -> str:
    path = images.find(stem)
    if path is None:
        detail = (f"there is no image {images.folder / stem} ({', '.join(IMAGE_SUFFIXES)}); add it, or remove the "
                  "line from the split file")
        raise FaultError(Fault(source, "", "image missing", detail, STOP))
    boundary.check(path, source)
    return path


def _compare_filename(voc_file: VocFile, path: str, source: str, tally: Tally) -> None:
    said, is_called = voc_file.filename, os.path.basename(path)
    if os.path.basename(said.replace("\\", "/")) != is_called:
        complaint = f"<filename> is {shorten(said)}" if said else "there is no <filename>"
        tally.add(source, "", "<filename> is not the image's, ignored", f"{complaint}, the image of this name is {is_called}")
