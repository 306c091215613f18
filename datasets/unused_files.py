"""Files of a data set that no split uses: images that nobody trains on, annotations whose image is gone.

The folders looked at are those in which images and annotations of its splits lie. Hidden files and files of other kinds
(Thumbs.db) count as none. A path that leads out of the data folder is told and not followed, unless that is allowed.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datasets.annotations import WARN, Fault, FaultError
from datasets.boundary import KIND, Boundary
from datasets.errors import InputError
from datasets.image_files import IMAGE_SUFFIXES
from datasets.voc_folder import VocPlace, VocSplit, find_voc_folder, find_voc_split
from datasets.yolo_config import SPLIT_NAMES, data_folders, find_yolo_split
from datasets.yolo_txt import CLASS_LISTS, label_path


class Claim(NamedTuple):
    """What the splits of one data set use.

    images: absolute paths; annotation_of: path of an image's own annotation file, None where the format has one file for all;
    outside: warnings of paths that lead out of the data folder.
    """

    images: set[str]
    annotation_of: Callable[[str], str] | None = None
    outside: Sequence[Fault] = ()


def claim_files(kind: str, root: str | os.PathLike, splits: Sequence[str], year: str, allow_outside: bool = False) -> list[Claim]:
    """What the splits of a VOC ("voc", "shapes") or YOLO ("yolo") set use, told without reading annotations.

    Args:
        splits: their names; those that do not exist are passed over, and lists of other splits of a VOC set count, too.
        allow_outside: follow paths and links that lead out of the data folder.
    """
    if kind == "yolo":
        return [_claim_of_yolo(Path(root), splits, Boundary(*data_folders(Path(root)), allow_outside=allow_outside))]
    try:
        return _claims_of_voc(find_voc_folder(root, year), splits, Boundary(root, allow_outside=allow_outside))
    except FileNotFoundError:  # told when it is opened
        return []


def unused_files(claims: Iterable[Claim]) -> list[Fault]:
    """A warning for every image and every annotation that none of the data sets uses; first come those of `Claim.outside`."""
    claims = list(claims)
    used = set().union(*(claim.images for claim in claims))
    faults: dict[str, Fault] = {}  # path -> fault: data sets may share a folder
    for claim in claims:
        folders = sorted({os.path.dirname(image) for image in claim.images})
        there = [path for folder in folders for path in _files_of(folder, IMAGE_SUFFIXES)]
        unused = [path for path in there if path not in used]
        faults |= {path: _image_fault(path, claim.annotation_of) for path in unused}
        if claim.annotation_of is not None:
            detail = "no image belongs to it, so it is not used; add the image, or remove the file"
            orphans = _orphans({*claim.images, *there}, claim.annotation_of)
            faults |= {path: Fault(path, "", "annotation without image", detail, WARN) for path in orphans}
    return [*dict.fromkeys(fault for claim in claims for fault in claim.outside), *faults.values()]


def outside_warnings(faults: Iterable[Fault]) -> list[Fault]:
    """Those that tell of paths out of the data folder; they stop nothing, since no training reads a split just looked at."""
    return [dataclasses.replace(fault, action=WARN) for fault in faults if fault.kind == KIND]


def _image_fault(path: str, annotation_of: Callable[[str], str] | None) -> Fault:
    if annotation_of is not None and not os.path.isfile(annotation_of(path)):
        detail = f"it is in no split, and there is no {annotation_of(path)}; annotate it, or remove it"
        return Fault(path, "", "image without annotation", detail, WARN)
    return Fault(path, "", "image in no split", "no split names it, so it is not used; add it to one, or remove it", WARN)


def _orphans(images: Iterable[str], annotation_of: Callable[[str], str]) -> list[str]:
    """Annotation files of no image, in the folders where those of the images belong."""
    expected = {annotation_of(image) for image in images}
    suffixes = {os.path.splitext(path)[1] for path in expected}
    no_annotations = {*CLASS_LISTS, *(f"{name}.txt" for names in SPLIT_NAMES for name in names)}
    return [path for folder in sorted({os.path.dirname(path) for path in expected}) for path in _files_of(folder, suffixes)
            if path not in expected and os.path.basename(path) not in no_annotations]


def _files_of(folder: str, suffixes: Iterable[str]) -> list[str]:
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")]


def _claims_of_voc(folder: Path, splits: Sequence[str], boundary: Boundary) -> list[Claim]:
    """A claim for each place where images and annotations lie together: one, or one for each split."""
    lists = [path.stem for parent in ("ImageSets/Main", "ImageSets") for path in sorted((folder / parent).glob("*.txt"))]
    claims: dict[str, Claim] = {}
    seen: dict[str, set[str]] = {}  # stems: VOC has dozens of lists of the same images
    faults: list[Fault] = []
    for split in dict.fromkeys([*splits, *lists]):
        try:
            found = find_voc_split(folder, split, boundary)
        except (InputError, FileNotFoundError) as error:  # no such split, or told when it is opened
            faults += _carried(error)
            continue
        key = str(found.place.images.folder)
        claim = claims.setdefault(key, Claim(set(), partial(_voc_annotation, found.place)))
        claim.images.update(_images_of_voc(found, seen.setdefault(key, set()), boundary, faults))
    return [*claims.values(), Claim(set(), outside=outside_warnings(faults))]


def _images_of_voc(found: VocSplit, seen: set[str], boundary: Boundary, faults: list[Fault]) -> Iterator[str]:
    """Images of the stems not seen before; paths to outside are told as the reader tells them."""
    new = [(stem, line) for stem, line in found.lines.items() if stem not in seen]
    seen.update(found.lines)
    for stem, line in new:
        image, annotation = found.place.images.find(stem), found.place.xml_path(stem)
        try:
            boundary.check(annotation, found.file, f"line {line}" if line else "")
            if image is not None:
                boundary.check(image, annotation)
        except FaultError as error:
            faults.append(error.fault)
        if image is not None and boundary.contains(os.path.dirname(image)):  # also a link, whose target is not looked at
            yield os.path.abspath(image)


def _voc_annotation(place: VocPlace, image: str) -> str:
    return os.path.abspath(place.xml_path(os.path.splitext(os.path.relpath(image, place.images.folder))[0]))


def _claim_of_yolo(root: Path, splits: Sequence[str], boundary: Boundary) -> Claim:
    images: set[str] = set()
    whole_folders, faults = True, []
    for split in splits:
        try:
            found = find_yolo_split(root, split, boundary)
        except (InputError, FileNotFoundError) as error:  # no such split, or told when it is opened
            faults += _carried(error)
            continue
        outside = outside_warnings(found.faults)
        links = [fault.file for fault in outside if fault.file.lower().endswith(IMAGE_SUFFIXES)]
        images.update(map(os.path.abspath, [*found.images, *links]))
        faults += outside
        whole_folders &= found.whole_folders
    # Of whole folders the reader tells the labels without image.
    return Claim(images, None if whole_folders else label_path, outside_warnings(faults))


def _carried(error: Exception) -> list[Fault]:
    """The fault that led to an error, if it is said."""
    return [error.__cause__.fault] if isinstance(error.__cause__, FaultError) else []
