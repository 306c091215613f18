"""Write a data set in another format: Pascal VOC, COCO or YOLO's text labels.

    python tools/convert_dataset.py data/voc --to coco --output data/coco
    python tools/convert_dataset.py data/coco --to yolo --output data/yolo --splits train val --images copy
    python tools/convert_dataset.py data/obj.data --to voc --output data/voc

The data set is read as for training (Open Images and the drawn shapes too), so faulty boxes are dropped or clipped; what was
done is printed. Boxes come back to 0.01 pixels, classes in their order, images without objects as such. What a format cannot
say is counted: only COCO has crowd regions (elsewhere they are left out, as in training) and areas other than the box's, only
VOC marks difficult objects (elsewhere they are ordinary ones). Masks and whatever else no reader looks at are not carried over.

Images are linked, never changed. An image whose name another one has, or that the format cannot write, gets a new one. The
output is read again before it gets its name; a run that fails leaves nothing.

    voc     Annotations/, ImageSets/Main/<split>.txt, JPEGImages/, labels.txt
    coco    annotations/instances_<split>.json, <split>/
    yolo    data.yaml, images/<split>/, labels/<split>/
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository: this file is started from anywhere

import datasets
from datasets.annotations import clip_to_images, find_box_faults, summarise_faults
from datasets.class_names import read_labels
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError
from datasets.image_files import IMAGE_SUFFIXES
from datasets.image_io import UnreadableImage, image_size
from datasets.open_dataset import KINDS, LABELS, SPLITS, guess_sources, open_dataset
from datasets.yolo_config import SPLIT_NAMES, YAML_AT_ROOT
from datasets.yolo_txt import label_path
from train_utils.errors import one_sentence_errors

DECIMALS = 6  # of a pixel; a whole number that was a fraction of a side in between is whole again
FRACTION_DECIMALS = 12  # of YOLO's values: a millionth of a pixel in any image that can be read
TOLERANCE = 0.01  # pixels between a box and what the output gives back
VOC_FLAGS = ("-1", "0", "1")  # behind a file stem in split files of one class
UNSAFE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's controls, bytes that are no UTF-8, line ends: not in lists, XML or JSON


class Split(NamedTuple):
    """One split, cleaned. paths: of the images; truth: as of `DetectionDataset.ground_truth`, with clipped boxes."""

    name: str
    paths: list[str]
    truth: dict

    def rows(self) -> list[range]:
        """The objects of each image."""
        ends = np.searchsorted(self.truth["image_index"], np.arange(len(self.paths) + 1)).tolist()
        return [range(start, end) for start, end in zip(ends, ends[1:])]


class Written(NamedTuple):
    """images: path of every image of a split, as the reader will call it; where: what `open_dataset` needs beside the split."""

    images: list[str]
    where: dict


def get_args_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("data", metavar="DATA", help="folder of the data set; for YOLO also a .data, .yaml or image list")
    parser.add_argument("--to", choices=[*WRITERS], required=True, help="format of the output")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, which must be new or empty")
    parser.add_argument("--dataset", choices=["auto", *(kind for kind in KINDS if kind != "shapes")], default="auto",
                        help="format of the data; default: told from its layout")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT",
                        help=f"splits to convert; default: those there are of {', '.join(SPLITS)}")
    parser.add_argument("--classes", metavar="FILE", help="class names in label order; default: the data set's own")
    parser.add_argument("--allow-outside", action=argparse.BooleanOptionalAction, default=False,
                        help="let the data set's files name paths outside its folder, and follow links that lead out of it")
    parser.add_argument("--images", choices=["symlink", "copy", "path"], default="symlink",
                        help="how the output gets its images; path: they stay where they are (COCO only)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Convert; the output folder appears at once, complete and checked."""
    check_flags(args)
    source = guess_sources(args.data)[0]
    kind = source.kind if args.dataset == "auto" else args.dataset
    print(f"{args.data} is read as {kind}" + (f", since {source.why}" if args.dataset == "auto" else ""))
    opened = open_splits(kind, args.data, args.splits, args.classes, args.allow_outside)
    first = opened[0][1].ground_truth()
    names, ids = first["class_names"], first["category_ids"].tolist()
    splits = [prepare(name, dataset, args.to) for name, dataset in opened]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{args.output.name}-", dir=args.output.parent))
    try:
        check_class_names(names, args.to, temporary)
        written = WRITERS[args.to](temporary, splits, names, ids, args.images)
        for split, output in zip(splits, written):
            check_output(args.to, temporary, split, names, output)
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner may read
        if args.output.is_dir():
            args.output.rmdir()
        temporary.rename(args.output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already if all went well
    print(f"{args.output}: {args.to}, {len(names)} classes; read again, every box within {TOLERANCE} pixels")
    for split, output in zip(splits, written):
        place = f", images in {output.where['image_dir']}" if args.images == "path" else ""
        print(f"  {split.name}: {len(split.paths)} images, {len(split.truth['labels'])} objects{place}")
    if args.images == "symlink":
        print(f"open with --data-path {args.output} --allow-outside, since its images are links")


def check_flags(args: argparse.Namespace) -> None:
    """Raises InputError for what cannot work, before any data is read."""
    data, output = Path(args.data).resolve(), args.output.resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {args.output} is in use; give a new folder: nothing is overwritten")
    if data.is_dir() and data in output.parents:
        raise InputError(f"--output {args.output} lies in the data set {args.data}, which stays as it is; give another folder")
    if args.images == "path" and args.to != "coco":
        why = "looks for images in its own folder" if args.to == "voc" else "finds labels by the path of their image"
        raise InputError(f"--images path does not work with --to {args.to}, which {why}; take symlink or copy")
    for split in args.splits or []:
        if Path(split).name != split:
            raise InputError(f"--splits {split}: a split is the name of a file or folder without a path; leave the rest out")


# Reading


def open_splits(kind: str, data: str, wanted: Sequence[str] | None, class_file: str | None,
                allow_outside: bool) -> list[tuple[str, DetectionDataset]]:
    """(name, data set) of the wanted splits, or of all usual ones that exist; every one has the classes of the first.

    Raises:
        FileNotFoundError: a wanted split is missing, or there is none at all.
    """
    opened: list[tuple[str, DetectionDataset]] = []
    images: dict[str, set[str]] = {}
    left_out, missing = [], None
    for split in dict.fromkeys(name.removesuffix(".txt") for name in wanted or SPLITS):
        try:
            names = opened[0][1].class_names if opened else class_file
            dataset = open_dataset(kind, data, split, class_names=names, allow_outside=allow_outside)
        except FileNotFoundError as error:
            if wanted:
                raise
            missing = missing or error
            left_out.append(f"{split}: left out, {str(error).splitlines()[0].removesuffix('; expected is')}")
            continue
        paths = {dataset.image_path(i) for i in range(len(dataset))}
        # An image list is every split, and of an undivided VOC export val and test are the same share.
        same = next((name for name, others in images.items() if paths == others), None)
        if same and not wanted:
            left_out.append(f"{split}: left out, its images are those of {same}")
            continue
        images[split] = paths
        opened.append((split, dataset))
    if not opened:
        raise missing
    print("".join(f"{line}\n" for line in left_out), end="")
    return opened


def prepare(name: str, dataset: DetectionDataset, target: str) -> Split:
    """What of a split the target format can hold; prints what the reader did and what is lost."""
    truth, paths = dataset.ground_truth(), [dataset.image_path(i) for i in range(len(dataset))]
    notes = summarise_faults(dataset.faults)
    keep_images = np.ones(len(paths), dtype=bool)
    if target == "yolo":
        keep_images = _take_sizes_of_files(paths, truth, notes)
    index = truth["image_index"]
    box_sizes = truth["heights"][index], truth["widths"][index]
    boxes = np.round(clip_to_images(truth["boxes"], *box_sizes), DECIMALS)
    keep, faults = find_box_faults(boxes, truth["labels"], truth["iscrowd"], index, *box_sizes, lambda k: (paths[index[k]], ""))
    notes += [f"after clipping, {line}" for line in summarise_faults(faults)]
    keep &= keep_images[index]
    sides = boxes[:, 2:] - boxes[:, :2]
    other_area = ~np.isclose(truth["area"], sides.prod(axis=1), rtol=1e-3, atol=0.01)
    if target != "coco":
        notes += _lost(keep & truth["iscrowd"], f"crowd regions left out: {target} has none")
        keep &= ~truth["iscrowd"]
        notes += _lost(keep & other_area, f"areas lost, which were not the box's: {target} has none")
    if target != "voc":
        notes += _lost(keep & truth["difficult"], f"difficult flags lost: {target} has none; the objects stay")
    for note in notes:
        print(f"{name}: {note}")
    position = np.cumsum(keep_images) - 1
    per_object = {key: truth[key][keep] for key in ("labels", "area", "iscrowd", "difficult")}
    per_image = {key: truth[key][keep_images] for key in ("heights", "widths", "source_image_ids")}
    cleaned = {**per_image, **per_object, "boxes": boxes[keep], "image_index": position[index[keep]]}
    return Split(name, [path for path, kept in zip(paths, keep_images) if kept], cleaned)


def _lost(mask: np.ndarray, words: str) -> list[str]:
    return [f"{mask.sum()} {words}"] if mask.any() else []


def _take_sizes_of_files(paths: Sequence[str], truth: dict, notes: list[str]) -> np.ndarray:
    """Puts the sizes of the image files into `truth`: YOLO's fractions are of these. Returns which images can be read, [n].

    Raises:
        InputError: an image is annotated in another size and boxes do not fit, or as if it were not turned by its EXIF.
    """
    readable = np.ones(len(paths), dtype=bool)
    unreadable, resized = [], []
    reach = np.zeros((len(paths), 2))
    np.maximum.at(reach, truth["image_index"], truth["boxes"][:, 2:])
    truth["heights"], truth["widths"] = truth["heights"].copy(), truth["widths"].copy()
    for i, path in enumerate(paths):
        try:
            height, width = image_size(path)
        except UnreadableImage as error:
            unreadable.append(str(error))
            readable[i] = False
            continue
        annotated = int(truth["heights"][i]), int(truth["widths"][i])
        if annotated == (height, width):
            continue
        sizes = f"the image has {width}x{height} pixels, its annotation says {annotated[1]}x{annotated[0]}"
        if annotated == (width, height) or reach[i, 0] > width or reach[i, 1] > height:
            raise InputError(f"{path}: {sizes}, so its boxes cannot be written as fractions; correct the annotation or turn the "
                             "image")
        resized.append(f"{path}: {sizes}")
        truth["heights"][i], truth["widths"][i] = height, width
    for found, words in ((unreadable, "images dropped"), (resized, "images of another size, boxes used as they stand")):
        notes += [f"{words}: {len(found)} ({found[0]}{', ...' * (len(found) > 1)})"] if found else []
    if not readable.any():
        raise InputError(f"no image of this split can be read ({unreadable[0]}); correct the images")
    return readable


def check_class_names(names: list[str], target: str, folder: Path) -> None:
    """Raises InputError if the format cannot give these names back, before any image is copied. `folder` is for trying."""
    bad = next((name for name in names if any(unicodedata.category(c) in UNSAFE for c in name)), None)
    if bad is not None:
        raise InputError(f"the class name {bad!r} holds a line end or a control character; rename the class")
    if target == "coco" and len(set(names)) < len(names):
        raise InputError("two classes have the same name, which COCO does not allow; rename one of them")
    if target == "voc":
        try:
            fits = read_labels(_write_labels(folder, names)) == names
        except InputError:
            fits = False
        if not fits:
            raise InputError(f"{LABELS} cannot hold the classes {', '.join(names)}: none may be called background, and a single "
                             "one may have no comma; rename it")


# File names


def plan_names(splits: Sequence[Split], target: str) -> list[list[str]]:
    """File names of every split's images: their own, but for those that another one has or that no format can write.

    VOC keeps the images of all splits in one folder, so an image of two splits has one name there; elsewhere every split has its
    own folder. Stems differ, since labels are files of the same stem.
    """
    keys = [_image_keys(split.paths) for split in splits]
    groups = [list(dict.fromkeys(chain(*keys)))] if target == "voc" else keys
    tables = [dict(zip(group, unused_names(group, target))) for group in groups]
    names = [[tables[k if len(tables) > 1 else 0][key] for key in own] for k, own in enumerate(keys)]
    renamed = sum(new != key[1] for table in tables for key, new in table.items())
    if renamed:
        print(f"{renamed} images get another name, since two have the same one or the format cannot write it")
    return names


def _image_keys(paths: Sequence[str]) -> list[tuple[str, str, int]]:
    """(real file, name, repetition) of the images of a split: which images of two splits are the same."""
    seen: dict[tuple[str, str], int] = {}
    keys = []
    for path in paths:
        file = os.path.realpath(path), os.path.basename(path)
        seen[file] = seen.get(file, 0) + 1
        keys.append((*file, seen[file]))
    return keys


def unused_names(keys: Iterable[tuple[str, str, int]], target: str) -> list[str]:
    """A file name for each image; of two equal ones the second gets the name of its folder in front, or a number behind."""
    taken: set[str] = set()  # in lower case, for file systems that know no other
    names = []
    for file, name, _ in keys:
        stem, suffix = os.path.splitext(_safe(name))
        if suffix.lower() not in IMAGE_SUFFIXES and target != "coco":
            raise InputError(f"{file}: {target} knows images by their suffix ({', '.join(IMAGE_SUFFIXES)}), and {name} has none; "
                             "save it as one of these")
        stem, longer = stem.strip(), f"{_safe(os.path.basename(os.path.dirname(file)))}_{stem.strip()}"
        stems = chain([stem, longer], (f"{longer}_{k}" for k in count(2)))
        unused = next(stem for stem in stems if stem.lower() not in taken)
        taken.add(unused.lower())
        names.append(unused + suffix)
    return names


def _safe(name: str) -> str:
    """The name without what lists of files, XML or JSON cannot hold; hidden files are no images to any reader."""
    name = "".join("_" if c == "\\" or unicodedata.category(c) in UNSAFE else c for c in name).strip()
    return f"_{name}" if name.startswith(".") else name


def put_image(path: str, place: Path, images: str) -> None:
    """Links or copies an image; a link leads to the real file, so that outputs between may be removed."""
    if os.path.lexists(place):
        return  # an image of two splits
    if images == "copy":
        shutil.copy(path, place)
    else:
        place.symlink_to(os.path.realpath(path))


# Writing: all functions take the same. ids: category ids of the classes; images: "symlink", "copy" or, for COCO, "path"


def write_voc(folder: Path, splits: Sequence[Split], names: list[str], ids: list[int], images: str) -> list[Written]:
    """Annotations, ImageSets/Main, JPEGImages and labels.txt."""
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    _write_labels(folder, names)
    written = []
    for split, file_names in zip(splits, plan_names(splits, "voc")):
        lines = []
        for i, (path, name, rows) in enumerate(zip(split.paths, file_names, split.rows())):
            stem, text = os.path.splitext(name)[0], _voc_xml(split.truth, i, name, rows, names)
            file = folder / "Annotations" / f"{stem}.xml"
            if file.exists() and file.read_text(encoding="utf-8") != text:
                raise InputError(f"{path} has other annotations in another split, and VOC has one file per image; convert the "
                                 "splits into two folders")
            file.write_text(text, encoding="utf-8")
            put_image(path, folder / "JPEGImages" / name, images)
            # The end of "photo 1" would be taken for a flag of the image "photo", so it gets a flag of its own.
            words = stem.split()
            lines.append(f"{stem} 1\n" if len(words) > 1 and words[-1] in VOC_FLAGS else f"{stem}\n")
        (folder / "ImageSets" / "Main" / f"{split.name}.txt").write_text("".join(lines), encoding="utf-8")
        written.append(Written([str(folder / "JPEGImages" / name) for name in file_names], {}))
    return written


def _write_labels(folder: Path, names: list[str]) -> Path:
    path = folder / LABELS
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return path


def _voc_xml(truth: dict, image: int, file_name: str, rows: range, names: list[str]) -> str:
    height, width = truth["heights"][image], truth["widths"][image]
    lines = ["<annotation>", f"  <filename>{escape(file_name)}</filename>",
             f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>"]
    for k in rows:
        x1, y1, x2, y2 = (_decimal(value, DECIMALS) for value in truth["boxes"][k])
        lines += ["  <object>", f"    <name>{escape(names[truth['labels'][k] - 1])}</name>",
                  f"    <difficult>{int(truth['difficult'][k])}</difficult>",
                  f"    <bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>", "  </object>"]
    return "\n".join([*lines, "</annotation>", ""])


def write_coco(folder: Path, splits: Sequence[Split], names: list[str], ids: list[int], images: str) -> list[Written]:
    """annotations/instances_<split>.json, and a folder of images per split unless they stay where they are."""
    (folder / "annotations").mkdir()
    if sorted(ids) != ids:  # the order of the ids is the order of the classes
        ids = list(range(1, len(names) + 1))
    written = []
    for split, file_names in zip(splits, plan_names(splits, "coco") if images != "path" else [None] * len(splits)):
        short = split.name.removesuffix("2017")  # as the reader takes it
        if file_names is None:
            paths = [os.path.abspath(path) for path in split.paths]
            image_dir = os.path.commonpath([os.path.dirname(path) for path in paths])
            file_names = [os.path.relpath(path, image_dir) for path in paths]
        else:
            image_dir = str(folder / short)
            (folder / short).mkdir()
            for path, name in zip(split.paths, file_names):
                put_image(path, folder / short / name, images)
        content = {**_coco_records(split, file_names, ids),
                   "categories": [{"id": number, "name": name} for number, name in zip(ids, names)]}
        file = folder / "annotations" / f"instances_{short}.json"
        file.write_text(json.dumps(content), encoding="utf-8")
        where = {"json_path": file, "image_dir": image_dir} if images == "path" else {}
        written.append(Written([os.path.join(image_dir, name) for name in file_names], where))
    return written


def _coco_records(split: Split, file_names: Sequence[str], ids: Sequence[int]) -> dict[str, list[dict]]:
    """The lists of images and of annotations."""
    truth = split.truth
    numbers = truth["source_image_ids"].tolist()
    images = [{"id": number, "file_name": name, "width": int(width), "height": int(height)}
              for number, name, width, height in zip(numbers, file_names, truth["widths"], truth["heights"])]
    columns = (truth[key].tolist() for key in ("image_index", "labels", "boxes", "area", "iscrowd"))
    annotations = []
    for k, (image, label, (x1, y1, x2, y2), area, crowd) in enumerate(zip(*columns), start=1):
        box = [_whole(x1), _whole(y1), _whole(x2 - x1), _whole(y2 - y1)]
        annotations.append({"id": k, "image_id": numbers[image], "category_id": ids[label - 1], "bbox": box,
                            "area": _whole(area), "iscrowd": int(crowd), "segmentation": []})
    return {"images": images, "annotations": annotations}


def _whole(value: float) -> float | int:
    """Rounded, and without a point if nothing stands behind it."""
    value = round(value, DECIMALS)
    return int(value) if value.is_integer() else value


def write_yolo(folder: Path, splits: Sequence[Split], names: list[str], ids: list[int], images: str) -> list[Written]:
    """data.yaml, images/<split> and labels/<split>; an image without objects has an empty label file."""
    known = [split.name for split in splits if any(split.name in words for words in SPLIT_NAMES)]
    content = {**{name: f"images/{name}" for name in known}, "nc": len(names), "names": names}
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    (folder / YAML_AT_ROOT).write_text(text, encoding="utf-8")
    written = []
    for split, file_names in zip(splits, plan_names(splits, "yolo")):
        places = [folder / "images" / split.name / name for name in file_names]
        for place in (places[0], Path(label_path(str(places[0])))):
            place.parent.mkdir(parents=True)
        for i, (path, place, rows) in enumerate(zip(split.paths, places, split.rows())):
            put_image(path, place, images)
            width, height = int(split.truth["widths"][i]), int(split.truth["heights"][i])
            lines = [_yolo_line(split.truth["labels"][k] - 1, split.truth["boxes"][k], width, height) for k in rows]
            Path(label_path(str(place))).write_text("".join(lines), encoding="utf-8")
        written.append(Written([str(place) for place in places], {}))
    return written


def _yolo_line(index: int, box: np.ndarray, width: int, height: int) -> str:
    x1, y1, x2, y2 = box / (width, height, width, height)
    values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    return " ".join([str(index), *(_decimal(value, FRACTION_DECIMALS) for value in values)]) + "\n"


def _decimal(value: float, decimals: int) -> str:
    """Without zeros at the end: 12, 12.5."""
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


Writer = Callable[[Path, Sequence[Split], list[str], list[int], str], list[Written]]
WRITERS: dict[str, Writer] = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}


# Checking


def check_output(target: str, folder: Path, split: Split, names: list[str], written: Written) -> None:
    """Reads a split again and compares it; every difference is a fault of this file, not of the data."""
    # Links to the images lead out of the new folder.
    dataset = open_dataset(target, None if written.where else folder, split.name, allow_outside=True, **written.where)
    found, expected = dataset.ground_truth(), split.truth
    assert found["class_names"] == names, found["class_names"]
    places: dict[str, list[int]] = {}  # several where COCO lists a file twice
    for i, path in enumerate(written.images):
        places.setdefault(path, []).append(i)
    taken = [places[dataset.image_path(i)].pop(0) for i in range(len(dataset))]
    assert not any(places.values()), f"{split.name} came back with {len(taken)} of {len(written.images)} images"
    index = np.array(taken, dtype=np.int64)[found["image_index"]]
    order = np.argsort(index, kind="stable")  # YOLO's images come sorted by name
    assert np.array_equal(index[order], expected["image_index"]), f"{split.name}: not the same number of boxes in every image"
    for key in ("labels", *(["iscrowd"] if target == "coco" else []), *(["difficult"] if target == "voc" else [])):
        assert np.array_equal(found[key][order], expected[key]), f"{split.name}: other {key}"
    moved = np.abs(found["boxes"][order] - expected["boxes"]).max(initial=0)
    assert moved <= TOLERANCE, f"{split.name}: a box moved by {moved} pixels"


if __name__ == "__main__":
    with one_sentence_errors(datasets.InputError):
        main(get_args_parser().parse_args())
