"""Divide a data set into parts, each with its share of every class: lists of images are written, no image is touched.

    python tools/split_dataset.py /data/mine --parts train=0.8 val=0.1 test=0.1
    python tools/split_dataset.py /data/mine --parts train=300 val=64 --seed 1 --output /data/mine-300
    python tools/split_dataset.py --json instances_default.json --images photos --parts train=0.9 val=0.1

All images of the data set are divided, whatever splits it has. What is written:

    VOC     ImageSets/Main/<part>.txt in the data set; with --output, there, beside links to Annotations and JPEGImages; of a set
            that lies in folders train, valid, ... only with --output, beside a link to each annotation and image
    COCO    annotations/<part>.json in the folder `split` of the data set (or --output), beside a link to the images per part
    YOLO    <part>.txt and data.yaml in the folder `split` of the data set (or --output)

The folder written to (VOC: the data set) is what the training scripts take as --data-path, with --allow-outside where its images
lie elsewhere: lists and links lead to them. No existing file is overwritten.

The parts are stratified iteratively, rarest class first (Sechidis, Tsoumakas, Vlahavas: On the Stratification of Multi-Label
Data, 2011); images without objects count as a class. The same seed gives the same parts. Byte-identical images share a part.

Shapes: N images, U groups of identical images, K classes with "no object" as the last, P parts
"""

import argparse
import dataclasses
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages lie beside this folder

import datasets
from datasets.annotations import (
    DROP_IMAGE,
    AnnotationTable,
    Fault,
    FaultError,
    RawAnnotations,
    build_table,
    parse_integer,
    parse_number,
    summarise_faults,
)
from datasets.boundary import Boundary
from datasets.class_names import order_class_names, read_names
from datasets.coco import CocoDetection, find_coco_files
from datasets.errors import InputError
from datasets.image_files import IMAGE_SUFFIXES, require_inside
from datasets.image_io import UnreadableImage, image_size
from datasets.open_dataset import LABELS, SPLITS, guess_sources
from datasets.voc import VocFile, parse_voc_xml
from datasets.voc_folder import SPLIT_FOLDERS, XML_SUFFIXES, VocPlace, find_voc_folder
from datasets.yolo_config import LIST_FILE, SPLIT_NAMES, YAML_AT_ROOT
from datasets.yolo_txt import CLASS_LISTS, IMAGE_FOLDERS, YoloTxtDataset
from train_utils.errors import one_sentence_errors

KINDS = ("voc", "coco", "yolo")
COCO_SPLITS = (*SPLITS, "default")  # CVAT's name of an export that was never divided
NEW_FOLDER = "split"
PART_NAME = re.compile(r"[\w-]+")
SUM_TOLERANCE = 1e-6


class Images(NamedTuple):
    """names: what a list calls each image (VOC stem, YOLO path, COCO position); boxes: int64 [N, C]; faults: what is left out."""

    names: list
    paths: list[str]
    class_names: list[str]
    boxes: np.ndarray
    faults: list[Fault]


class Plan(NamedTuple):
    """What is to be written: path -> text, and path of a link -> what it leads to."""

    files: dict[Path, str]
    links: dict[Path, str]


Members = dict[str, list]  # part -> names of its images
Planner = Callable[[Members], Plan]


def parse_parts(words: Sequence[str]) -> dict[str, float]:
    """Part -> its share or number of images, from words like "train=0.8".

    Raises:
        InputError: no such word, a name that is no file name or there twice, a number that is not positive.
    """
    parts: dict[str, float] = {}
    for word in words:
        name, _, text = word.partition("=")
        value = parse_number(text)
        if not PART_NAME.fullmatch(name) or not value > 0:  # NaN compares false
            raise InputError(f"--parts {word}: write NAME=SHARE with a name of letters, digits, _ and - and a share above 0, "
                             "as in train=0.8")
        if name in parts:
            raise InputError(f"--parts names {name} twice; give every part once")
        parts[name] = value
    return parts


def part_sizes(parts: dict[str, float], num_images: int) -> np.ndarray:
    """Number of images of each part, int64 [P], with the sum `num_images`; shares are rounded by largest remainder.

    Raises:
        InputError: neither shares with the sum 1 nor numbers with the sum `num_images`; a part without an image.
    """
    values = np.array(list(parts.values()))
    if abs(values.sum() - 1) <= SUM_TOLERANCE:
        exact = values / values.sum() * num_images
        sizes = np.floor(exact).astype(np.int64)
        sizes[np.argsort(sizes - exact, kind="stable")[: num_images - sizes.sum()]] += 1
    elif (values == np.floor(values)).all():
        sizes = values.astype(np.int64)
        if sizes.sum() != num_images:
            raise InputError(f"--parts are {sizes.sum()} images together, but the data set has {num_images}; make them agree, "
                             "or give shares")
    else:
        raise InputError(f"--parts have the sum {values.sum():g}; give shares with the sum 1, or whole numbers of images")
    for name, size in zip(parts, sizes):
        if size < 1:
            raise InputError(f"--parts {name}={parts[name]:g} of {num_images} images is less than one; give it a larger share")
    return sizes


def stratify(labels: np.ndarray, weights: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """The part of every group of images, int64 [U] in 0..P-1.

    The groups of the class with the fewest images left go, one after the other, to the part that is farthest behind its share of
    the images of this class given out so far, among those with room, if any; ties go to the part with most room, then to chance.
    Groups with the same set of classes follow each other, so that every part gets its share of such sets too.

    Args:
        labels: bool [U, K], the classes of a group, at least one each.
        weights: int64 [U], its number of images.
        sizes: int64 [P], images of each part. They are kept exactly unless a group finds no part with room for all of it.
        seed: not negative.
    """
    rng = np.random.default_rng(seed)
    class_set = np.unique(np.packbits(labels, axis=1), axis=0, return_inverse=True)[1].ravel()
    order = np.lexsort((rng.permutation(len(labels)), class_set, -weights))  # large groups first, while there is room
    total, room = int(weights.sum()), sizes.copy()
    given = np.zeros((labels.shape[1], len(sizes)), dtype=np.int64)  # images of a class in a part [K, P]
    left = weights @ labels  # images of a class in no part yet [K]
    part = np.full(len(labels), -1, dtype=np.int64)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, total + 1)))
        for unit in order[labels[order, rarest] & (part[order] < 0)]:
            fits = room >= weights[unit]
            # Images it is behind, times `total`: in whole numbers ties are ties.
            behind = (given[rarest].sum() + weights[unit]) * sizes - given[rarest] * total
            part[unit] = np.lexsort((rng.random(len(sizes)), room, behind, fits))[-1]  # the last key counts first
            room[part[unit]] -= weights[unit]
            given[labels[unit], part[unit]] += weights[unit]
            left[labels[unit]] -= weights[unit]
    return part


def divide(images: Images, sizes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(part of every image, int64 [N]; its group of byte-identical images, int64 [N])."""
    group = group_identical(images.paths)
    labels = np.zeros((group.max() + 1, images.boxes.shape[1] + 1), dtype=bool)
    labels[:, :-1] = _sum_rows(images.boxes, group, len(labels)) > 0
    labels[:, -1] = ~labels.any(axis=1)
    return stratify(labels, np.bincount(group), sizes, seed)[group], group


def group_identical(paths: Sequence[str]) -> np.ndarray:
    """A number for every image, equal for images whose files hold the same bytes; int64 [N], in order of first appearance."""
    lengths = [os.path.getsize(path) for path in paths]
    several = {length for length, count in zip(*np.unique(lengths, return_counts=True)) if count > 1}
    numbers: dict[object, int] = {}
    group = []
    for path, length in zip(paths, lengths):
        key: object = path
        if length in several:  # only files of equal length are read
            with open(path, "rb") as file:
                key = hashlib.file_digest(file, "sha256").digest()
        group.append(numbers.setdefault(key, len(numbers)))
    return np.array(group, dtype=np.int64)


class VocContent(NamedTuple):
    """folder: of the data set; places: of its annotations, with their stems; files: image's stem -> its annotation and image."""

    folder: Path
    places: list[tuple[VocPlace, list[str]]]
    files: dict[str, tuple[str, str]]


def find_voc_places(folder: Path) -> tuple[list[tuple[VocPlace, list[str]]], bool]:
    """(where annotations lie, with their stems: the folder itself, a folder for each split; whether there are the latter)."""
    names = {name for names in SPLIT_FOLDERS for name in names}
    splits = sorted(path for path in folder.iterdir() if path.name.lower() in names and path.is_dir())
    places = []
    for path in (folder, *splits):
        place = VocPlace(path)
        # Lists may name files in sub-folders of Annotations; the folders beside flat files hold something else.
        stems = place.annotations.stems() if place.annotations.folder == path else _all_stems(place.annotations.folder)
        places.append((place, stems))
    filled = [(place, stems) for place, stems in places if stems]
    return filled or places[:1], any(stems for _, stems in places[1:])


def _all_stems(folder: Path) -> list[str]:
    """Stems of the annotations in a folder and its sub-folders."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*")
                   if path.suffix.lower() in XML_SUFFIXES and not path.name.startswith("."))
    return list(dict.fromkeys(path.with_suffix("").as_posix() for path in paths))


def read_voc(folder: Path, places: list[tuple[VocPlace, list[str]]], boundary: Boundary) -> tuple[Images, VocContent]:
    """All images of a VOC folder that have an annotation; files that stop a training are left out, as faults."""
    raw, faults, files = RawAnnotations(), [], {}
    parsed = _parse_voc(places, boundary, faults)
    names = order_class_names({item.name for _, _, file in parsed.values() for item in file.objects if item.name})
    for source, (place, stem, file) in parsed.items():
        image = place.images.find(stem)
        try:
            if image is None:
                raise UnreadableImage(f"there is no image {place.images.folder / stem}")
            boundary.check(image, source)
            height, width = (file.height, file.width) if file.height and file.width else image_size(image)
        except UnreadableImage as error:
            faults.append(Fault(source, "", "image missing or unreadable", str(error), DROP_IMAGE))
            continue
        except FaultError as error:
            faults.append(dataclasses.replace(error.fault, action=DROP_IMAGE))
            continue
        if stem in files:
            raise InputError(f"{files[stem][0]} and {source} have the same name, so no list could tell them apart; rename one, "
                             "and its image with it")
        files[stem] = source, image
        raw.add_image(image, height, width, len(files), source)
        for item in file.objects:
            if item.name and item.box is not None:
                raw.add_object(len(files) - 1, item.box, names.index(item.name) + 1, item.number, difficult=item.difficult)
    if not files:
        folders = " or ".join(dict.fromkeys(str(place.images.folder) for place, _ in places))
        raise InputError(f"no annotation in {', '.join(str(place.annotations.folder) for place, _ in places)} has its image in "
                         f"{folders}; correct the folder" + (f" ({faults[0]})" if faults else ""))
    table, box_faults = build_table(raw, names)
    images = Images(list(files), raw.paths, names, _count_boxes(table), faults + box_faults)
    return images, VocContent(folder, places, files)


def _parse_voc(places: list[tuple[VocPlace, list[str]]], boundary: Boundary,
               faults: list[Fault]) -> dict[str, tuple[VocPlace, str, VocFile]]:
    """Path of an annotation -> (where it lies, its stem there, what it says), of all that can be used."""
    parsed = {}
    for place, stems in places:
        for stem in stems:
            source = place.xml_path(stem)
            try:
                boundary.check(source, source)
                parsed[source] = place, stem, parse_voc_xml(Path(source))
            except FaultError as error:
                faults.append(dataclasses.replace(error.fault, action=DROP_IMAGE))
    return parsed


def plan_voc(content: VocContent, root: Path, output: Path, members: Members) -> Plan:
    """Split files, and in an output folder of their own links to the rest of the set; root: the data path, which contains it."""
    place = output / "ImageSets" / "Main"
    # A stem that ends in " 1" would lose this word, which means a flag in files of one class: it gets a flag.
    files = {place / f"{part}.txt": "".join(f"{stem} 1\n" if re.search(r"\s(-1|0|1)$", stem) else f"{stem}\n" for stem in stems)
             for part, stems in members.items()}
    if output.resolve() == content.folder.resolve():
        return Plan(files, {})
    sources: dict[Path, str | Path] = {}
    if len(content.places) == 1:
        (only, _), = content.places
        sources = {output / "Annotations": only.annotations.folder, output / "JPEGImages": only.images.folder}
    else:
        for stem, (annotation, image) in content.files.items():
            sources[output / "Annotations" / f"{stem}.xml"] = annotation
            sources[output / "JPEGImages" / f"{stem}{os.path.splitext(image)[1]}"] = image
    labels = next((path for path in (root / LABELS, content.folder / LABELS) if path.is_file()), None)
    sources |= {output / LABELS: labels} if labels else {}
    return Plan(files, {link: _reference(path, root, link.parent) for link, path in sources.items()})


class CocoContent(NamedTuple):
    """head: all but the two lists; images, annotations: records of image k and of its objects; folder: contains all images."""

    head: dict
    images: list[dict]
    annotations: list[list[dict]]
    folder: Path


def find_coco_sources(root: Path | None, json_path: Path | None, image_dir: Path | None) -> list[tuple[Path, Path]]:
    """(annotation file, image folder) of every split under `root`, or the ones given."""
    if json_path is not None:
        return [find_coco_files(root, "", json_path, image_dir)]
    sources, errors = [], []
    for split in COCO_SPLITS:
        try:
            sources.append(find_coco_files(root, split, None, image_dir))
        except FileNotFoundError as error:
            errors.append(error)
    if not sources:
        raise errors[0]
    return sources


def read_coco(sources: Sequence[tuple[Path, Path]], allow_outside: bool) -> tuple[Images, CocoContent]:
    """The usable images of several annotation files, and their records as they stand, but numbered anew where ids collide."""
    folder = Path(os.path.commonpath([os.path.abspath(folder) for _, folder in sources]))
    head, names, paths, boxes, faults, records, annotations = None, None, [], [], [], [], []
    for json_file, image_folder in sources:
        dataset = CocoDetection(None, json_path=json_file, image_dir=image_folder, allow_outside=allow_outside)
        content = json.loads(json_file.read_bytes().decode("utf-8-sig"))
        if names not in (None, dataset.coco_classes):
            raise InputError(f"{json_file} has other categories than {sources[0][0]}; make them agree, or divide one (--json)")
        head, names = head or {key: content[key] for key in content if key not in ("images", "annotations")}, dataset.coco_classes
        by_id = {parse_integer(record["id"]): record for record in content["images"]}
        objects = {}
        for record in content["annotations"]:
            objects.setdefault(parse_integer(record.get("image_id")), []).append(record)
        for index, number in enumerate(dataset.ids):
            path = dataset.image_path(index)
            # Where images lie in several folders, names are told from the folder that contains them all.
            moved = {} if len(sources) == 1 else {"file_name": Path(os.path.relpath(path, folder)).as_posix()}
            paths.append(path)
            records.append(by_id[number] | moved)
            annotations.append(objects.get(number, []))
        boxes.append(_count_boxes(dataset.table))
        faults += dataset.faults
    if len(sources) > 1:
        records, annotations = _number_anew(records, annotations)
    images = Images(list(range(len(records))), paths, list(names.values()), np.concatenate(boxes), faults)
    return images, CocoContent(head, records, annotations, folder)


def _number_anew(records: list[dict], annotations: list[list[dict]]) -> tuple[list[dict], list[list[dict]]]:
    """The records of several files with ids that all differ: their own if they do, else 1, 2, ..."""
    ids = [record["id"] for record in records], [item.get("id") for items in annotations for item in items]
    if all(len(set(map(parse_integer, some))) == len(some) for some in ids):
        return records, annotations
    number, renumbered = 0, []
    for position, items in enumerate(annotations, start=1):
        renumbered.append([item | {"id": number + k, "image_id": position} for k, item in enumerate(items, start=1)])
        number += len(items)
    return [record | {"id": k} for k, record in enumerate(records, start=1)], renumbered


def plan_coco(content: CocoContent, root: Path, output: Path, members: Members) -> Plan:
    """An annotation file for each part, and under the part's name, where the reader looks first, a link to the images."""
    files = {}
    for part, positions in members.items():
        images = [content.images[k] for k in positions]
        annotations = [item for k in positions for item in content.annotations[k]]
        text = json.dumps(content.head | {"images": images, "annotations": annotations}, ensure_ascii=False)
        files[output / "annotations" / f"{part}.json"] = text + "\n"
    return Plan(files, {output / part: _reference(content.folder, root, output) for part in members})


def read_yolo(source: Path, allow_outside: bool) -> Images:
    """All images of a YOLO set, of all its splits, each once; those of a folder `images` that is not divided into splits too."""
    parts, missing = [], []
    for split in SPLITS[:1] if source.suffix.lower() == LIST_FILE else SPLITS:  # a list is taken whole for any split
        try:
            parts.append(YoloTxtDataset(source, split, allow_outside=allow_outside))
        except FileNotFoundError as error:
            missing.append(error)
    if not parts and (source / IMAGE_FOLDERS[0]).is_dir():
        parts = [_read_flat_yolo(source, Boundary(source, allow_outside=allow_outside))]
    elif not parts:
        raise missing[0]
    else:
        for error in missing:
            print(f"not read: {str(error).partition(';')[0]}")
    paths = {}  # absolute path -> row of its boxes; an image may be listed in two splits
    for dataset in parts:
        for index, counts in enumerate(_count_boxes(dataset.table)):
            paths.setdefault(os.path.abspath(dataset.image_path(index)), counts)
    faults = [fault for dataset in parts for fault in dataset.faults]
    return Images(list(paths), list(paths), parts[0].class_names, np.stack(list(paths.values())), faults)


def _read_flat_yolo(source: Path, boundary: Boundary) -> YoloTxtDataset:
    """The images of `images`, which no file and no folder assigns to a split; the class list lies beside or among the labels."""
    folder = (source / IMAGE_FOLDERS[0]).absolute()
    places = [*sorted(source.glob("*.names")), *[source / where / name for name in CLASS_LISTS for where in ("", "labels")]]
    class_file = next((path for path in places if path.is_file()), None)
    if class_file is None:
        raise InputError(f"nothing says the class names of {source}; put a file {CLASS_LISTS[0]} there, one name per line")
    images = sorted(str(path) for path in folder.rglob("*")
                    if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))
    if not images:
        raise FileNotFoundError(f"the folder {folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); correct the path")
    for path in images:
        require_inside(boundary, path)
    with tempfile.TemporaryDirectory() as temporary:  # the reader takes images of no split from a list only
        image_list = Path(temporary, f"images{LIST_FILE}")
        image_list.write_bytes(_encode("".join(f"{image}\n" for image in images)))
        try:
            return YoloTxtDataset(image_list, class_names=read_names(class_file), allow_outside=True)  # of this folder
        except (InputError, FileNotFoundError) as error:
            raise type(error)(str(error).replace(str(image_list), str(folder))) from error


def plan_yolo(images: Images, root: Path, output: Path, members: Members) -> Plan:
    """An image list for each part, and a data.yaml that names the class names and those lists that it has words for."""
    files = {}
    for part, paths in members.items():
        entries = [_reference(path, root, output) for path in paths]
        # A path that begins with ./ is relative to its list, another one to the working directory.
        files[output / f"{part}{LIST_FILE}"] = "".join(f"{e}\n" if os.path.isabs(e) else f"./{e}\n" for e in entries)
    splits = {name: f"{name}{LIST_FILE}" for names in SPLIT_NAMES for name in names if name in members}
    content = splits | {"nc": len(images.class_names), "names": images.class_names}
    files[output / YAML_AT_ROOT] = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return Plan(files, {})


def write(plan: Plan) -> None:
    """Writes all files and links, or nothing.

    Raises:
        InputError: something is in the place of one of them, or a name is no UTF-8.
    """
    encoded = {path: _encode(text) for path, text in plan.files.items()}
    taken = [path for path in [*plan.files, *plan.links] if os.path.lexists(path)]
    if taken:
        raise InputError(f"{', '.join(map(str, taken))} {'exists' if len(taken) == 1 else 'exist'} already and nothing is "
                         "overwritten; name the parts otherwise, remove what is there, or give another folder (--output)")
    for path, data in encoded.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            file.write(data)
    for path, target in plan.links.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target, target_is_directory=True)


def describe(images: Images, part: np.ndarray, names: Sequence[str]) -> list[str]:
    """Lines of a table classes x parts with the numbers of images and boxes, and a warning for each class that a part lacks."""
    classes, boxes = images.class_names, images.boxes
    present = np.column_stack([boxes > 0, (boxes == 0).all(axis=1), np.ones(len(boxes), dtype=bool)])  # [N, C + 2]
    num_images = _sum_rows(present, part, len(names)).T  # [C + 2, P]
    num_boxes = _sum_rows(np.column_stack([boxes, np.zeros(len(boxes), dtype=np.int64), boxes.sum(axis=1)]), part, len(names)).T
    rows = [*classes, "(no object)", "all"]
    first = max(map(len, [*rows, "class"]))
    widths = [max(len(name), 16) for name in names]
    lines = ["  ".join(["".ljust(first), *(name.rjust(w) for name, w in zip(names, widths))]),
             "  ".join(["class".ljust(first), *(f"{'images':>7} {'boxes':>8}".rjust(w) for w in widths)])]
    for row, some_images, some_boxes in zip(rows, num_images, num_boxes):
        cells = [f"{m:>7} {k:>8}".rjust(w) for m, k, w in zip(some_images, some_boxes, widths)]
        lines.append("  ".join([row.ljust(first), *cells]))
    for name, column in zip(names, num_images.T):
        lacking = [label for label, count, everywhere in zip(classes, column, num_images.sum(axis=1)) if everywhere and not count]
        if lacking:
            lines.append(f"warning: {name} has no image of {', '.join(lacking)}")
    return lines


def _count_boxes(table: AnnotationTable) -> np.ndarray:
    """Boxes of each class in each image, int64 [N, C]."""
    counts = np.zeros((len(table), len(table.class_names)), dtype=np.int64)
    np.add.at(counts, (table.image_index, table.labels - 1), 1)
    return counts


def _sum_rows(values: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Sum of the rows [N, K] of each group 0..count-1; int64 [count, K]."""
    sums = np.zeros((count, values.shape[1]), dtype=np.int64)
    np.add.at(sums, group, values)
    return sums


def _reference(path: str | Path, root: Path, output: Path) -> str:
    """What a file or link in `output` calls a path: relative if both are in the data set, which may then move; or absolute."""
    path, base = os.path.abspath(path), os.path.abspath(root)
    real_root, real_output = root.resolve(), output.resolve()  # ".." leads up from where a link leads to
    if os.path.commonpath([path, base]) != base or not real_output.is_relative_to(real_root):
        return path
    return os.path.normpath(os.path.join(os.path.relpath(real_root, real_output), os.path.relpath(path, base)))


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        line = text[text.rfind("\n", 0, error.start) + 1 : error.end]
        raise InputError(f"a file name is no UTF-8 ({line!r}...); rename the file") from error


def open_voc(root: Path, args: argparse.Namespace) -> tuple[Images, Path, Planner]:
    """What `open_source` returns, of a set with VOC's XML.

    Raises:
        InputError: its images lie in a folder for each split, and no other folder is given to write to.
    """
    folder = find_voc_folder(root, args.year)
    output = args.output or folder
    places, has_splits = find_voc_places(folder)
    if has_splits and output.resolve() == folder.resolve():
        found = ", ".join(str(place.annotations.folder) for place, _ in places)
        raise InputError(f"{folder} is divided already, by the folders {found}, and lists in it would hide those; give another "
                         "folder for the lists and for links to all files (--output)")
    images, content = read_voc(folder, places, Boundary(root, allow_outside=args.allow_outside))
    return images, output, lambda members: plan_voc(content, root, output, members)


def open_source(args: argparse.Namespace) -> tuple[Images, Path, Planner]:
    """(all images, the folder to write to, what makes a plan of the parts' members)."""
    if args.data is None and args.json is None:
        raise InputError("give the folder of the data set, or a COCO file with --json and its images with --images")
    kind = args.dataset if args.dataset != "auto" else guess_sources(args.data, args.json)[0].kind
    kind = "voc" if kind == "shapes" else kind  # drawn shapes have the layout of VOC
    if kind not in KINDS:
        raise InputError(f"{args.data} is a data set of kind {kind}, which cannot be divided here; convert it to one of "
                         f"{', '.join(KINDS)}")
    if kind != "coco" and (args.json is not None or args.images is not None):
        raise InputError(f"--json and --images are for COCO, not for {kind}; leave them out")
    root = args.data or args.json.parent
    if kind == "voc":
        return open_voc(root, args)
    output = args.output or (root if root.is_dir() else root.parent) / NEW_FOLDER
    if kind == "coco":
        images, content = read_coco(find_coco_sources(args.data, args.json, args.images), args.allow_outside)
        return images, output, lambda members: plan_coco(content, root, output, members)
    images = read_yolo(root, args.allow_outside)
    return images, output, lambda members: plan_yolo(images, root if root.is_dir() else root.parent, output, members)


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("data", nargs="?", type=Path, metavar="DATA", help="folder of the data set; for YOLO also its .data, "
                        "data.yaml or image list")
    parser.add_argument("--parts", nargs="+", required=True, metavar="NAME=SHARE",
                        help="the parts with their shares, which add up to 1, or with their numbers of images")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another division")
    parser.add_argument("--dataset", choices=("auto", *KINDS), default="auto", help="kind of the data set; auto: by its layout")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder to write to; default: see above")
    parser.add_argument("--year", default="2012", help="VOC: which year, where there are several")
    parser.add_argument("--json", type=Path, metavar="FILE", help="COCO: annotation file, instead of those below DATA")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="COCO: folder of the images")
    parser.add_argument("--allow-outside", action=argparse.BooleanOptionalAction, default=False,
                        help="let the data set's files name paths outside its folder, and follow links that lead out of it")
    return parser


def main(args: argparse.Namespace) -> None:
    """Read, divide, write."""
    parts = parse_parts(args.parts)
    if args.seed < 0:
        raise InputError(f"--seed must not be negative, as {args.seed} is")
    images, output, make_plan = open_source(args)
    sizes = part_sizes(parts, len(images.names))
    part, group = divide(images, sizes, args.seed)
    plan = make_plan({name: [images.names[k] for k in np.flatnonzero(part == p)] for p, name in enumerate(parts)})
    write(plan)
    for line in [*summarise_faults(images.faults), *describe(images, part, list(parts))]:
        print(line)
    copies = np.bincount(group)
    if (copies > 1).any():
        print(f"{copies[copies > 1].sum()} images are byte-identical to others ({(copies > 1).sum()} pictures); those of a "
              "picture are in one part")
    needs = "" if all(map(Boundary(output).contains, images.paths)) else " --allow-outside, since its images lie elsewhere"
    print(f"written: {', '.join(map(str, plan.files))}; open with --data-path {output}{needs}")


if __name__ == "__main__":
    with one_sentence_errors(datasets.InputError):
        main(get_args_parser().parse_args())
