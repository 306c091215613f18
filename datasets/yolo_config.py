"""Where the images and the class names of a YOLO data set are. Labels are read in yolo_txt.py.

    obj.data     lines `key = value`: classes, train, valid, names; train and valid are image lists, or folders; # begins a
                 comment at the start of a line or behind a blank
    data.yaml    path, train, val, test, nc, names; a split is a folder, an image list, or several of them
    train.txt    an image list: one path per line; blank lines and lines that begin with # count as none
    a folder     with data.yaml or one .data file, else images/train + labels/train, or train/images + train/labels

Such files are often moved without being edited, so a path in them is tried at several places, and the first that exists counts:
below the working directory and below the file's own folder (see `_places`). Images may lie anywhere on the machine.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from datasets.annotations import DROP_IMAGE, FIX, Fault, parse_integer
from datasets.class_names import check_class_names, read_names
from datasets.errors import InputError
from datasets.image_files import IMAGE_SUFFIXES

DATA_FILE, YAML_FILES, LIST_FILE = ".data", (".yaml", ".yml"), ".txt"
FILE_SUFFIXES = (DATA_FILE, *YAML_FILES, LIST_FILE)
YAML_AT_ROOT = "data.yaml"
SPLIT_NAMES = (("train",), ("val", "valid", "validation"), ("test",))
EXPECTED_TREE = """\
    {0}/
        data.yaml or obj.data, or else a class list (obj.names or classes.txt) and
        images/train/*.jpg, images/val/*.jpg
        labels/train/*.txt, labels/val/*.txt (or the same as train/images, train/labels, ...)"""


class YoloSplit(NamedTuple):
    """The images of one split.

    source: the file or folder that says which they are, for messages; class_names: in the order of the class indices, None
    where nothing says them; faults: images listed but missing, or listed twice; whole_folders: no list chooses among the images.
    """

    source: str
    images: list[str]
    class_names: list[str] | None
    faults: list[Fault]
    whole_folders: bool


class _Config(NamedTuple):
    """A .data or .yaml file. entries: key of a split -> what it names; bases: folders that paths may be relative to."""

    file: Path
    entries: dict[str, list[str]]
    class_names: list[str] | None
    bases: list[str]


def is_yolo_source(path: str | os.PathLike) -> bool:
    """Whether a path is, by its suffix or the layout below it, of a kind read here; folders of other formats may look so too."""
    path = Path(path)
    if not path.is_dir():
        return path.suffix.lower() in FILE_SUFFIXES
    pairs = [(path / "images", path / "labels")]
    pairs += [(path / name / "images", path / name / "labels") for names in SPLIT_NAMES for name in names]
    return (path / YAML_AT_ROOT).is_file() or any(path.glob(f"*{DATA_FILE}")) or any(
        images.is_dir() and labels.is_dir() for images, labels in pairs)


def find_yolo_split(source: Path, split: str) -> YoloSplit:
    """The images of a split ("train", "val" or "valid", "test"); an image list is taken whole, whatever the split.

    Raises:
        FileNotFoundError: no such file, folder or split; the message says where it was looked for.
        InputError: a file that cannot be read, or that contradicts itself.
    """
    if not source.exists():
        raise FileNotFoundError(f"the data path {source} does not exist; expected is\n{EXPECTED_TREE.format(source)}")
    names = next((names for names in SPLIT_NAMES if split.removesuffix(".txt") in names), (split,))
    suffix = source.suffix.lower()
    if source.is_dir():
        class_names, places = _find_in_folder(source, names)
    elif suffix == LIST_FILE:
        class_names, places = _class_names_near(source.parent) or _class_names_near(source.parent.parent), [source]
    elif suffix in FILE_SUFFIXES:
        config = _read_config(source)
        class_names, places = config.class_names, _places_of(config, names)
        if not places:
            raise FileNotFoundError(f"{source} names no {names[0]} images; its splits are {', '.join(config.entries) or 'none'}")
    else:
        raise InputError(f"the data path {source} is neither a folder nor a .data, .yaml or .txt file; give one of them")
    images, faults = _collect(places)
    return YoloSplit(", ".join(map(str, places)), images, class_names, faults, all(place.is_dir() for place in places))


def read_image_list(path: Path) -> tuple[list[tuple[int, str]], list[Fault]]:
    """(line, image) of all images of a list file that exist, and a fault for each of the others.

    A path that begins with ./ is relative to the list's folder, another one to the working directory, else to that folder.

    Raises:
        FileNotFoundError: the list names images, but none of them is there.
        InputError: no text, or no image listed.
    """
    found: list[tuple[int, str]] = []
    faults: list[Fault] = []
    folder, here = str(path.parent), os.curdir
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        places = _places(entry, [folder, here] if entry.startswith("./") else [here, folder], folder)
        image = next(filter(os.path.isfile, places), None)
        if image is not None:
            found.append((number, image))
        else:
            detail = f"there is no image {entry} (looked for as {', '.join(places)}); correct or remove the line"
            faults.append(Fault(str(path), f"line {number}", "image missing", detail, DROP_IMAGE))
    if faults and not found:
        raise FileNotFoundError(f"none of the {len(faults)} images of the list {path} is there; {faults[0].detail}")
    if not found:
        raise InputError(f"{path} lists no image; write one path per line")
    return found, faults


def read_text(path: str | os.PathLike) -> str:
    """The text of a file.

    Raises:
        FileNotFoundError: no such file.
        InputError: it cannot be opened, or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot open this file ({error.strerror})") from error


def _find_in_folder(folder: Path, names: tuple[str, ...]) -> tuple[list[str] | None, list[Path]]:
    """(class names, places of the images): from the file at its root that says them, else by the names of its folders."""
    data_files = sorted(folder.glob(f"*{DATA_FILE}"))
    file = folder / YAML_AT_ROOT if (folder / YAML_AT_ROOT).is_file() else data_files[0] if len(data_files) == 1 else None
    config = _read_config(file) if file else None
    places = _places_of(config, names) if config else []
    if not places:
        # train2017 and val2017 are the folders of COCO.
        tree = [parts for name in names for parts in ((name, "images"), ("images", name), ("images", f"{name}2017"))]
        places = [folder.joinpath(*parts) for parts in tree if folder.joinpath(*parts).is_dir()][:1]
    if not places:
        several = f" and {len(data_files)} .data files (give one of them)" if len(data_files) > 1 else ""
        raise FileNotFoundError(f"the data path {folder} holds no {names[0]} images of a YOLO set{several}; expected is\n"
                                f"{EXPECTED_TREE.format(folder)}")
    return (config and config.class_names) or _class_names_near(folder), places


def _class_names_near(folder: Path) -> list[str] | None:
    """The class list that lies in a folder without being named by anything."""
    if (folder / YAML_AT_ROOT).is_file():
        return _read_config(folder / YAML_AT_ROOT).class_names
    lists = sorted(folder.glob("*.names")) or [path for path in [folder / "classes.txt"] if path.is_file()]
    return read_names(lists[0]) if len(lists) == 1 else None


def _read_config(file: Path) -> _Config:
    return _read_yaml(file) if file.suffix.lower() in YAML_FILES else _read_data_file(file)


def _read_data_file(file: Path) -> _Config:
    values: dict[str, str] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", line)  # not in a path such as set#2/train.txt
        key, equals, value = (part.strip() for part in line.partition("="))
        if not key:
            continue
        if not equals:
            raise InputError(f"{file}, line {number}: {line.strip()!r} is not `key = value`; correct it")
        values[key] = value
    bases = [os.curdir, str(file.parent), str(file.parent.parent)]
    names = read_names(_resolve(file, "names", values["names"], bases)) if values.get("names") else None
    _check_count(file, "classes", values.get("classes"), names)
    return _Config(file, _split_entries(file, values), names, bases)


def _read_yaml(file: Path) -> _Config:
    try:
        content = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise InputError(f"{file} cannot be read as YAML ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold lines like `train: images/train` and `names: [cat, dog]`")
    names = _names_from_yaml(content.get("names"), file)
    _check_count(file, "nc", content.get("nc"), names)
    # The folder of the file comes after what `path` says: that is often a folder of another machine.
    bases = [str(file.parent), os.curdir]
    if content.get("path"):
        base = os.path.expanduser(str(content["path"]))
        bases = [os.path.join(str(file.parent), base), base, *bases]
    return _Config(file, _split_entries(file, content), names, bases)


def _names_from_yaml(names: object, file: Path) -> list[str] | None:
    if names is None:
        return None
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise InputError(f"{file}: the indices of `names` must be 0..{len(names) - 1}, each once")
        names = [names[k] for k in range(len(names))]
    # Without quotes YAML reads the names yes, no, on and off as true or false.
    if not isinstance(names, list) or any(isinstance(name, bool) or not isinstance(name, (str, int, float)) for name in names):
        raise InputError(f"{file}: `names` must be a list of class names; put unusual ones into quotes")
    return check_class_names([str(name).strip() for name in names], str(file))


def _check_count(file: Path, key: str, value: object, names: list[str] | None) -> None:
    if value in (None, "") or names is None:
        return
    if parse_integer(value) != len(names):
        raise InputError(f"{file}: {key} is {value}, but there are {len(names)} class names; correct one of them")


def _split_entries(file: Path, values: dict) -> dict[str, list[str]]:
    """Key of every split that the file has -> its paths, as written."""
    entries = {}
    for key in (name for names in SPLIT_NAMES for name in names):
        value = values.get(key)
        if not value:
            continue
        paths = [value] if isinstance(value, str) else value
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise InputError(f"{file}: {key} must be a path or a list of paths, not {value!r}")
        entries[key] = paths
    return entries


def _places_of(config: _Config, names: Sequence[str]) -> list[Path]:
    """The image lists and folders of a split; none where the file does not name it."""
    key = next((name for name in names if name in config.entries), None)
    return [_resolve(config.file, key, entry, config.bases) for entry in config.entries[key]] if key else []


def _resolve(file: Path, key: str, entry: str, bases: Sequence[str]) -> Path:
    places = _places(entry, bases, str(file.parent))
    found = next(filter(os.path.exists, places), None)
    if found is None:
        raise FileNotFoundError(f"{file}: {key} = {entry} does not exist (looked for as {', '.join(places)}); correct the path")
    return Path(found)


def _places(entry: str, bases: Sequence[str], beside: str) -> list[str]:
    """Where a path that is written in a file may be: below each of `bases`, and for moved data sets below `beside`, its folder.

    There an export's ../train/images is train/images, and a file data/train.txt or data/obj/1.jpg is train.txt or obj/1.jpg.
    """
    entry = os.path.expanduser(entry.replace("\\", "/").removeprefix("./"))
    if os.path.isabs(entry):
        return [entry]
    places = [entry if base == os.curdir else os.path.join(base, entry) for base in bases]
    first, _, rest = entry.partition("/")
    if first == ".." or rest and os.path.splitext(rest)[1]:
        while rest.startswith("../"):
            rest = rest.removeprefix("../")
        places.append(os.path.join(beside, rest))
    return list(dict.fromkeys(places))


def _collect(places: Sequence[Path]) -> tuple[list[str], list[Fault]]:
    """The images of all lists and folders in their order, each once."""
    images: dict[str, str] = {}  # absolute path -> path
    faults: list[Fault] = []
    for place in places:
        if place.is_dir():
            found = [(0, image) for image in _images_below(place)]
        else:
            found, missing = read_image_list(place)
            faults += missing
        for line, image in found:
            key = os.path.abspath(image)
            if key in images:
                where = f"line {line}" if line else ""
                faults.append(Fault(str(place), where, "image listed twice, taken once", f"{image} was there before", FIX))
            images.setdefault(key, image)
    return list(images.values()), faults


def _images_below(folder: Path) -> list[str]:
    """All images of a folder and the folders in it, sorted."""
    images = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names
              if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")]
    if not images:
        raise FileNotFoundError(f"the folder {folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); correct the path")
    return sorted(images)
