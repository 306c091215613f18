"""Where the images and the class names of a YOLO data set are. Labels are read in yolo_txt.py.

    obj.data     lines `key = value`: classes, train, valid, names; train and valid are image lists, or folders; # begins a
                 comment at the start of a line or behind a blank
    data.yaml    path, train, val, test, nc, names; a split is a folder, an image list, or several of them
    train.txt    an image list: one path per line; blank lines and lines that begin with # count as none
    a folder     with data.yaml or one .data file, else images/train + labels/train, or train/images + train/labels, or train/
                 with the labels beside the images, or train.txt; or without splits: images/ + labels/, or all side by side,
                 shared out then

What the paths in such files mean: yolo_paths.py. The data folder is the one given, or that of the file given.
"""

import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from datasets.annotations import FIX, Fault, parse_integer, parse_number
from datasets.boundary import Boundary
from datasets.class_names import check_class_names, read_names
from datasets.errors import InputError
from datasets.image_files import ImageFolder, is_file_name, require_inside
from datasets.shares import SHARES, share_out
from datasets.tally import shorten
from datasets.yolo_paths import PathFinder, folders_of, images_below, read_image_list, read_text

DATA_FILE, YAML_FILES, LIST_FILE = ".data", (".yaml", ".yml"), ".txt"
FILE_SUFFIXES = (DATA_FILE, *YAML_FILES, LIST_FILE)
YAML_AT_ROOT = "data.yaml"
CLASS_LISTS = ("classes.txt", "_darknet.labels")  # of labelImg and of an export with a list in every split's folder
MAX_YAML_CHARACTERS = 300_000  # a second of reading
IMAGES, LABELS = "images", "labels"
SPLIT_NAMES = (("train",), ("val", "valid", "validation"), ("test",))
EXPECTED_TREE = """\
    {0}/
        data.yaml or obj.data, or else a class list (obj.names or classes.txt) and
        images/train/*.jpg, images/val/*.jpg
        labels/train/*.txt, labels/val/*.txt (or the same as train/images, train/labels, ...)
    or all images in one folder with their labels beside them, or in images/ with their labels in labels/"""


class YoloSplit(NamedTuple):
    """The images of one split.

    source: the file or folder that says which they are, for messages; class_names: in the order of the class indices, None
    where nothing says them; faults: images listed but missing, or listed twice; folders: those whose images are all in this
    split; none where a list, or the share of a split, chooses among them.
    """

    source: str
    images: list[str]
    class_names: list[str] | None
    faults: list[Fault]
    folders: list[str]

    @property
    def whole_folders(self) -> bool:
        return bool(self.folders)


class _Config(NamedTuple):
    """A .data or .yaml file. entries: key of a split -> what it names; bases: folders that paths may be relative to."""

    file: Path
    entries: dict[str, list[str]]
    class_names: list[str] | None
    bases: list[str]


class _Found(NamedTuple):
    """What a folder holds of a split. shared: its places hold all splits."""

    class_names: list[str] | None
    places: list[Path]
    shared: bool


def is_yolo_source(path: str | os.PathLike) -> bool:
    """Whether a path is, by its suffix or the layout below it, of a kind read here; folders of other formats may look so too."""
    path = Path(path)
    if not path.is_dir():
        return path.suffix.lower() in FILE_SUFFIXES
    pairs = [(path / IMAGES, path / LABELS)]
    pairs += [(path / name / IMAGES, path / name / LABELS) for names in SPLIT_NAMES for name in names]
    return (path / YAML_AT_ROOT).is_file() or any(path.glob(f"*{DATA_FILE}")) or any(
        images.is_dir() and labels.is_dir() for images, labels in pairs) or any(
        map(_has_labels_beside, [path, *_split_folders(path)]))


def data_folders(source: Path) -> list[str]:
    """Where a data set's own files may lead: into the folder given, or that of the file given; of a link, its target's too."""
    return [str(source)] if source.is_dir() else folders_of(source)


def find_yolo_split(source: Path, split: str, boundary: Boundary | None = None) -> YoloSplit:
    """The images of a split ("train", "val" or "valid", "test"); an image list is taken whole, whatever the split.

    Raises:
        FileNotFoundError: no such file, folder or split; the message says where it was looked for.
        InputError: a file that cannot be read, or that contradicts itself.
    """
    if not source.exists():
        raise FileNotFoundError(f"the data path {source} does not exist; expected is\n{EXPECTED_TREE.format(source)}")
    boundary, shared = boundary or Boundary(*data_folders(source)), False
    names = next((names for names in SPLIT_NAMES if split.removesuffix(".txt") in names), (split,))
    suffix = source.suffix.lower()
    if source.is_dir():
        class_names, places, shared = _find_in_folder(source, names, boundary)
    elif suffix == LIST_FILE:
        near = [place for folder in map(Path, folders_of(source)) for place in (folder, folder.parent)]
        class_names, places = _first_class_names(filter(boundary.contains, near), boundary), [source]
    elif suffix in FILE_SUFFIXES:
        config = _read_config(source, boundary)
        class_names, places = config.class_names, _places_of(config, names, boundary)
        if not places:
            raise FileNotFoundError(f"{source} names no {names[0]} images; its splits are {', '.join(config.entries) or 'none'}")
    else:
        raise InputError(f"the data path {source} is neither a folder nor a .data, .yaml or .txt file; give one of them")
    images, faults = _collect(places, boundary)
    if shared:
        images, fault = share_out(images, names[0], str(places[0]), f"the folder {places[0]} holds", "all images")
        faults.append(fault)
    folders = [str(place) for place in places] if not shared and all(place.is_dir() for place in places) else []
    return YoloSplit(", ".join(map(str, places)), images, class_names, faults, folders)


def _find_in_folder(folder: Path, names: tuple[str, ...], boundary: Boundary) -> _Found:
    """By the file at the root that says it, else by the names of the folders; without any splits, all images are shared out."""
    data_files = sorted(folder.glob(f"*{DATA_FILE}"))
    file = folder / YAML_AT_ROOT if (folder / YAML_AT_ROOT).is_file() else data_files[0] if len(data_files) == 1 else None
    config = _read_config(file, boundary) if file else None
    places = _places_of(config, names, boundary) if config else []
    places = places or _split_folders(folder, (names,))[:1] or _split_lists(folder, (names,))[:1]
    # Beside a split of the user's own, a share of all images could hold images of it: then this split is missing.
    others = (config and config.entries) or _split_folders(folder) or _split_lists(folder)
    shared = not places and not others and names[0] in SHARES
    if shared:
        places = [folder / IMAGES] if (folder / IMAGES).is_dir() and (folder / LABELS).is_dir() else []
        places = places or [folder] * _has_labels_beside(folder)
    if not places:
        several = f" and {len(data_files)} .data files (give one of them)" if len(data_files) > 1 else ""
        raise FileNotFoundError(f"the data path {folder} holds no {names[0]} images of a YOLO set{several}; expected is\n"
                                f"{EXPECTED_TREE.format(folder)}")
    near = [folder, folder / LABELS, *places]
    return _Found((config and config.class_names) or _first_class_names(near, boundary), places, shared)


def _split_folders(folder: Path, splits: Sequence[tuple[str, ...]] = SPLIT_NAMES) -> list[Path]:
    """The folders with the images of splits, by their names."""
    # train2017 and val2017 are the folders of COCO.
    tree = [parts for names in splits for name in names
            for parts in ((name, IMAGES), (IMAGES, name), (IMAGES, f"{name}2017"), (name,))]
    places = [folder.joinpath(*parts) for parts in tree]
    return [place for place in places if place.is_dir() and (place.parent != folder or _has_labels_beside(place))]


def _split_lists(folder: Path, splits: Sequence[tuple[str, ...]] = SPLIT_NAMES) -> list[Path]:
    """The image lists of splits at the root, which need no file to name them."""
    places = [folder / f"{name}{LIST_FILE}" for names in splits for name in names]
    return [place for place in places if place.is_file()]


def _has_labels_beside(folder: Path) -> bool:
    """Whether a folder holds images with a .txt of the same stem, and no annotations of another format."""
    labels = set(ImageFolder(folder, (LIST_FILE,)).stems())
    return bool(labels) and not labels.isdisjoint(ImageFolder(folder).stems()) and not ImageFolder(folder, (".xml",)).stems()


def _first_class_names(folders: Iterable[Path], boundary: Boundary) -> list[str] | None:
    return next(filter(None, (_class_names_near(folder, boundary) for folder in folders)), None)


def _class_names_near(folder: Path, boundary: Boundary) -> list[str] | None:
    """The class list that lies in a folder without being named by anything."""
    if (folder / YAML_AT_ROOT).is_file():
        return _read_config(folder / YAML_AT_ROOT, boundary).class_names
    lists = sorted(path for path in folder.glob("*.names") if not path.name.startswith("."))
    lists = lists or [folder / name for name in CLASS_LISTS if (folder / name).is_file()][:1]
    if len(lists) != 1:
        return None
    require_inside(boundary, lists[0])
    return read_names(lists[0])


def _read_config(file: Path, boundary: Boundary) -> _Config:
    require_inside(boundary, file)
    return _read_yaml(file) if file.suffix.lower() in YAML_FILES else _read_data_file(file, boundary)


def _read_data_file(file: Path, boundary: Boundary) -> _Config:
    values: dict[str, str] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", line)  # not in a path such as set#2/train.txt
        key, equals, value = (part.strip() for part in line.partition("="))
        if not key:
            continue
        if not equals:
            raise InputError(f"{file}, line {number}: {shorten(line.strip())} is not `key = value`; correct it")
        values[key] = value
    bases = [os.curdir, *(base for folder in folders_of(file) for base in (folder, str(Path(folder).parent)))]
    names_file = PathFinder(file, boundary).resolve("names", values["names"], bases) if values.get("names") else None
    if names_file and names_file.is_dir():
        raise InputError(f"{file}: names = {values['names']} is a folder; name the file with the class names")
    names = read_names(names_file) if names_file else None
    _check_count(file, "classes", values.get("classes"), names, f" in {names_file}")
    return _Config(file, _split_entries(file, values), names, bases)


class _Loader(yaml.SafeLoader):
    """YAML without aliases: nine lines of them can stand for a billion entries."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed; write out what they stand for")
        return super().compose_node(parent, index)


def _read_yaml(file: Path) -> _Config:
    text = read_text(file)
    if len(text) > MAX_YAML_CHARACTERS:
        raise InputError(f"{file} has {len(text)} characters, too many for a description of a data set; shorten it")
    try:
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as YAML ({' '.join(str(error).split())}); correct it") from error
    except (ValueError, TypeError, OverflowError) as error:  # what looks like a date or number to YAML, but is none
        raise InputError(f"{file} cannot be read as YAML ({error}); put unusual values into quotes") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold lines like `train: images/train` and `names: [cat, dog]`")
    names = _names_from_yaml(content.get("names"), file)
    _check_count(file, "nc", content.get("nc"), names)
    # The folder of the file comes after what `path` says: that is often a folder of another machine.
    folders = folders_of(file)
    bases = [*folders, os.curdir]
    if content.get("path"):
        base = os.path.expanduser(_as_path(content["path"], file, "path"))
        bases = [*(os.path.join(folder, base) for folder in folders), base, *bases]
    return _Config(file, _split_entries(file, content), names, bases)


def _names_from_yaml(names: object, file: Path) -> list[str] | None:
    if names is None:
        return None
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise InputError(f"{file}: the indices of `names` must be 0..{len(names) - 1}, each once")
        names = [names[k] for k in range(len(names))]
    # Without quotes YAML reads the names yes, no, on and off as true or false.
    if not isinstance(names, list) or any(not isinstance(name, str) and math.isnan(parse_number(name)) for name in names):
        raise InputError(f"{file}: `names` must be a list of class names; put unusual ones into quotes")
    return check_class_names([str(name).strip() for name in names], str(file))


def _check_count(file: Path, key: str, value: object, names: list[str] | None, where: str = "") -> None:
    if value in (None, "") or names is None:
        return
    if parse_integer(value) != len(names):
        value = value[:80] if isinstance(value, str) else shorten(value)
        raise InputError(f"{file}: {key} is {value}, but there are {len(names)} class names{where}; correct one of them")


def _split_entries(file: Path, values: dict) -> dict[str, list[str]]:
    """Key of every split that the file has -> its paths, as written."""
    entries = {}
    for key in (name for names in SPLIT_NAMES for name in names):
        value = values.get(key)
        if not value:
            continue
        entries[key] = [_as_path(path, file, key) for path in (value if isinstance(value, list) else [value])]
    return entries


def _as_path(value: object, file: Path, key: str) -> str:
    if not isinstance(value, str) or not is_file_name(value):
        raise InputError(f"{file}: {key} must be a path or a list of paths, not {shorten(value)}")
    return value


def _places_of(config: _Config, names: Sequence[str], boundary: Boundary) -> list[Path]:
    """The image lists and folders of a split; none where the file does not name it."""
    key, finder = next((name for name in names if name in config.entries), None), PathFinder(config.file, boundary)
    return [finder.resolve(key, entry, config.bases) for entry in config.entries[key]] if key else []


def _collect(places: Sequence[Path], boundary: Boundary) -> tuple[list[str], list[Fault]]:
    """The images of all lists and folders in their order, each once."""
    images: dict[str, str] = {}  # absolute path -> path
    faults: list[Fault] = []
    for place in places:
        require_inside(boundary, place)
        if place.is_dir():
            found, others = images_below(place, boundary)
        else:
            found, others = read_image_list(place, boundary)
        faults += others
        for line, image in found:
            key = os.path.abspath(image)
            if key in images:
                where = f"line {line}" if line else ""
                faults.append(Fault(str(place), where, "image listed twice, taken once", f"{image} was there before", FIX))
            images.setdefault(key, image)
    return list(images.values()), faults
