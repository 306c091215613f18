"""Pascal VOC: one XML file per image, split files with one file stem per line.

Only parsing happens here; what is done about faulty boxes is decided in annotations.py. Coordinates are used as they
stand in the file, without subtracting 1. The image belongs to the XML of the same stem; `<filename>` and `<path>` are
wrong in many sets and only compared.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lxml import etree

from datasets.annotations import (
    DROP_IMAGE,
    DROP_OBJECT,
    FIX,
    STOP,
    AnnotationTable,
    Fault,
    FaultError,
    RawAnnotations,
    build_table,
    parse_number,
)
from datasets.class_names import as_class_names, describe_unknown_class, order_class_names
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError
from datasets.image_files import IMAGE_SUFFIXES, ImageFolder
from datasets.image_io import UnreadableImage, image_size

SMALL_SHARE, SHARE_SEED = 0.2, 0  # how a default.txt is divided
LARGE, SMALL = "80 %", "20 %"
SHARES = {"train": LARGE, "trainval": LARGE, "val": SMALL, "test": SMALL}
MAX_XML_BYTES = 16 * 2**20
BOX_TAGS = ("xmin", "ymin", "xmax", "ymax")
EXPECTED_TREE = """\
    {0}/
        Annotations/*.xml
        JPEGImages/*.jpg (or .png, .bmp, .webp, .tif)
        ImageSets/Main/train.txt, val.txt
    or the same three folders in {0}/VOC2012/ or {0}/VOCdevkit/VOC2012/"""


class VOCDataSet(DetectionDataset):
    """One split of a data set in VOC layout; see `DetectionDataset` for samples and ground truth.

    Args:
        voc_root: the parent of VOCdevkit, VOCdevkit, a year folder, or any folder with Annotations, ImageSets and
            JPEGImages.
        year: which year folder, where there are several.
        transforms: optional `(image, target) -> (image, target)`.
        txt_name: split, with or without ".txt"; `train_set` is another name for it.
        class_names: list of names, or path of a class file; by default the names found in the annotations of all
            splits, so that training and validation agree.
        drop_empty: leave out images without objects to train on.
        skip_difficult: leave difficult objects out of the targets.
        skip_unknown: drop objects of classes outside the class list instead of stopping.

    Raises:
        FileNotFoundError: no VOC folder, year or split there; the message shows what was expected.
        InputError: an annotation that stops, by file and line or object number.
    """

    has_difficult = True

    def __init__(self, voc_root: str | os.PathLike, year: str = "2012", transforms: Callable | None = None,
                 txt_name: str = "train.txt", *, train_set: str | None = None,
                 class_names: Sequence[str] | str | os.PathLike | None = None, drop_empty: bool = False,
                 skip_difficult: bool = False, skip_unknown: bool = False):
        folder = find_voc_folder(voc_root, year)
        names = None if class_names is None else as_class_names(class_names)
        table, faults = read_voc(folder, train_set or txt_name, names, skip_unknown)
        super().__init__(table, faults, transforms, skip_difficult=skip_difficult, drop_empty=drop_empty)


def find_voc_folder(voc_root: str | os.PathLike, year: str = "2012") -> Path:
    """The folder that holds Annotations and ImageSets, from any of the usual places above it."""
    root = Path(voc_root)
    for folder in (root, root / "VOCdevkit"):
        if (folder / "Annotations").is_dir():
            return folder
        years = sorted(f for f in folder.glob("VOC*") if (f / "Annotations").is_dir())
        wanted = [f for f in years if f.name == f"VOC{str(year).removeprefix('VOC')}"]
        if wanted or len(years) == 1:
            return (wanted or years)[0]
        if years:
            found = ", ".join(f.name.removeprefix("VOC") for f in years)
            raise FileNotFoundError(f"{folder} holds no VOC year {year}; found are the years {found}")
    problem = "is not a VOC data set" if root.is_dir() else "does not exist"
    raise FileNotFoundError(f"the data path {root} {problem}; expected is\n{EXPECTED_TREE.format(root)}")


def read_split(folder: Path, split: str) -> tuple[list[str], list[Fault]]:
    """The image stems of a split file, in its order, each once; and a fault if they are a share of CVAT's default.txt.

    Where default.txt is the only split of an export, train and trainval are 80 % of it, val and test the other 20 %.

    Raises:
        FileNotFoundError: no such split; the message lists those that exist.
        InputError: the file lists nothing, or too little to share.
    """
    name = split.removesuffix(".txt")
    path = _split_file(folder, name)
    if path is not None:
        stems = _stems_in(path)
        if not stems:
            raise InputError(f"split file {path} lists no image; write one file stem per line")
        return stems, []
    default = _split_file(folder, "default")
    # Beside a split of the user's own, a share of the default could hold images of it: then this split is missing.
    if default is None or name not in SHARES or any(_split_file(folder, other) for other in SHARES):
        found = ", ".join(sorted(p.stem for p in _split_files(folder))[:12]) or "none"
        raise FileNotFoundError(f"split file {folder / 'ImageSets' / 'Main' / name}.txt does not exist; splits found: {found}")
    stems = _share(_stems_in(default), default, SHARES[name])
    kind = f"split {name} missing, {SHARES[name]} of default.txt taken"
    return stems, [Fault(str(default), "", kind, f"{len(stems)} images; write {name}.txt to choose them", FIX)]


def _split_file(folder: Path, name: str) -> Path | None:
    places = [folder / "ImageSets" / "Main" / f"{name}.txt", folder / "ImageSets" / f"{name}.txt"]
    return next((place for place in places if place.is_file()), None)


def _share(stems: list[str], path: Path, share: str) -> list[str]:
    """The larger or the smaller part; the same whatever the order of the lines."""
    if len(stems) < 2:
        raise InputError(f"split file {path} lists {len(stems)} image{'s' * (not stems)}, too few for training and validation; "
                         "add images")
    order = np.random.default_rng(SHARE_SEED).permutation(len(stems))
    num_small = max(1, round(SMALL_SHARE * len(stems)))
    chosen = order[:num_small] if share == SMALL else order[num_small:]
    return [sorted(stems)[i] for i in sorted(chosen)]


def read_voc(folder: Path, split: str, class_names: list[str] | None = None,
             skip_unknown: bool = False) -> tuple[AnnotationTable, list[Fault]]:
    """Annotations of one split and all their faults; a fault that stops is listed like the others, not raised."""
    stems, faults = read_split(folder, split)
    parsed = _parse_all(folder, stems, faults)
    if class_names is None:
        class_names = _find_class_names(folder, parsed)
    raw, images = RawAnnotations(), ImageFolder(folder / "JPEGImages")
    labels, unknown_action = {name: k + 1 for k, name in enumerate(class_names)}, DROP_OBJECT if skip_unknown else STOP
    for stem, voc_file in parsed.items():
        source = str(_xml_path(folder, stem))
        try:
            path = _find_image(images, stem, source)
            height, width = _size(voc_file, path, source, faults)
        except FaultError as error:
            faults.append(error.fault)
            continue
        if voc_file.filename and Path(voc_file.filename).stem != Path(stem).name:
            faults.append(Fault(source, "", "<filename> of another file, ignored",
                                f"<filename> is {voc_file.filename}", FIX))
        raw.add_image(path, height, width, len(raw.paths) + 1, source)
        for item in voc_file.objects:
            _add_object(raw, item, labels, unknown_action, source, faults)
    table, box_faults = build_table(raw, class_names)
    return table, faults + box_faults


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
        FaultError: missing, too large, not well-formed, with a DOCTYPE, or no VOC annotation at all.
    """
    def broken(kind: str, detail: str, where: str = "") -> FaultError:
        return FaultError(Fault(str(path), where, kind, detail, STOP))

    try:
        data = path.read_bytes()
    except OSError as error:
        raise broken("annotation file missing", f"cannot open this annotation ({error.strerror}), which the split file "
                     "lists; add it or remove the line") from error
    if len(data) > MAX_XML_BYTES:
        raise broken("annotation file too large", f"{len(data)} bytes are too many for one image")
    # No entity is resolved and nothing is loaded: annotations may come from anywhere.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise broken("XML that does not parse", f"the XML does not parse ({error.msg or 'empty file'}); correct or "
                     "remove it", f"line {error.lineno or 1}") from error
    if root.getroottree().docinfo.doctype:
        # With entities unresolved a class name written as an entity would silently become empty.
        raise broken("XML with DOCTYPE", "a DOCTYPE is not allowed in an annotation; remove it", "line 1")
    if root.tag != "annotation":
        raise broken("not a VOC annotation", f"the root element is <{root.tag}>, expected is <annotation>", "line 1")
    objects = [_parse_object(k + 1, child) for k, child in enumerate(c for c in root if c.tag == "object")]
    sizes = [parse_number(root.findtext(f"size/{tag}")) for tag in ("width", "height")]
    width, height = (int(size) if size >= 1 else 0 for size in sizes)  # NaN compares false
    return VocFile((root.findtext("filename") or "").strip(), width, height, objects)


def _parse_object(number: int, element: etree._Element) -> VocObject:
    # find() and findtext() look at direct children only: a <part> has a <name> and a <bndbox> of its own.
    bndbox = element.find("bndbox")
    box = None if bndbox is None else tuple(parse_number(bndbox.findtext(tag)) for tag in BOX_TAGS)
    difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "true")
    return VocObject(number, (element.findtext("name") or "").strip(), box, difficult)


def _add_object(raw: RawAnnotations, item: VocObject, labels: dict[str, int], unknown_action: str, source: str,
                faults: list[Fault]) -> None:
    where = f"object {item.number}"
    if item.name not in labels:
        detail = describe_unknown_class(item.name, list(labels)) if item.name else "the object has no <name>"
        faults.append(Fault(source, where, "unknown class", detail, unknown_action))
    elif item.box is None:
        faults.append(Fault(source, where, "object without box", "there is no <bndbox>", DROP_OBJECT))
    else:
        raw.add_object(len(raw.paths) - 1, item.box, labels[item.name], item.number, difficult=item.difficult)


def _parse_all(folder: Path, stems: Iterable[str], faults: list[Fault]) -> dict[str, VocFile]:
    parsed = {}
    for stem in stems:
        try:
            parsed[stem] = parse_voc_xml(_xml_path(folder, stem))
        except FaultError as error:
            faults.append(error.fault)
    return parsed


def _find_class_names(folder: Path, parsed: dict[str, VocFile]) -> list[str]:
    """Names in all splits. Broken files of other splits are no matter here: opening those splits reports them."""
    everywhere = {stem for path in _split_files(folder) for stem in _stems_in(path)}
    others = _parse_all(folder, sorted(everywhere - parsed.keys()), faults=[])
    files = [*parsed.values(), *others.values()]
    names = order_class_names({item.name for file in files for item in file.objects if item.name})
    if not names and parsed:
        raise InputError(f"no annotation under {folder / 'Annotations'} holds an object, so there are no classes to "
                         "learn; give a class list if that is intended")
    return names


def _size(voc_file: VocFile, path: str, source: str, faults: list[Fault]) -> tuple[int, int]:
    if voc_file.height and voc_file.width:
        return voc_file.height, voc_file.width
    try:
        height, width = image_size(path)
    except UnreadableImage as error:
        raise FaultError(Fault(path, "", "unreadable image", str(error), DROP_IMAGE)) from error
    faults.append(Fault(source, "", "no image size, taken from the image", f"the size is {width}x{height}", FIX))
    return height, width


def _find_image(images: ImageFolder, stem: str, source: str) -> str:
    path = images.find(stem)
    if path is None:
        detail = (f"there is no image {images.folder / stem} ({', '.join(IMAGE_SUFFIXES)}); add it, or remove the "
                  "line from the split file")
        raise FaultError(Fault(source, "", "image missing", detail, STOP))
    return path


def _xml_path(folder: Path, stem: str) -> Path:
    return folder / "Annotations" / f"{stem}.xml"


def _split_files(folder: Path) -> list[Path]:
    sets = folder / "ImageSets"
    return [path for place in (sets / "Main", sets) for path in sorted(place.glob("*.txt"))
            if not path.name.startswith(".")]


def _stems_in(path: Path) -> list[str]:
    """Stems of a split file, each once. Files of one class have a flag -1, 0 or 1 behind the stem."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"split file {path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    stems = {}
    for number, line in enumerate(lines, start=1):
        stem, *flag = line.strip().rsplit(maxsplit=1)[:2] or [""]
        if flag and flag[0] not in ("-1", "0", "1"):
            stem = line.strip()  # a blank inside the name
        if stem.startswith(("/", "\\")) or ".." in stem.replace("\\", "/").split("/"):
            raise InputError(f"split file {path}, line {number}: {stem!r} leads out of the data set; write a file stem")
        if stem:
            stems[stem] = None
    return list(stems)
