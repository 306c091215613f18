"""Where the files of a data set with VOC's XML are: its folders, its splits, and the annotation file of every image.

    ImageSets/Main/train.txt    lists the images of a split, one file stem per line; their annotations are in Annotations/, they
                                themselves in JPEGImages/ (or images/, or beside the annotations)
    train/*.xml, valid/*.xml    or else a folder per split, with the images beside the annotations
    neither                     all annotations are shared out: 80 % to train and trainval, 20 % to val and test; so is the
                                default.txt of a CVAT export, where it is the only list

The folders may also be called annotations/ and images/, or the like, as long as it is XML that they hold.
"""

import os
from pathlib import Path
from typing import NamedTuple

from datasets.annotations import Fault
from datasets.boundary import Boundary
from datasets.errors import InputError
from datasets.image_files import IMAGE_SUFFIXES, ImageFolder, is_file_name, read_bytes, require_inside
from datasets.shares import SHARES, share_out
from datasets.tally import Tally, shorten

ANNOTATIONS, IMAGES = "Annotations", ("JPEGImages", "images")  # of the images' the first one that is there
SPLIT_FOLDERS = (("train",), ("val", "valid", "validation"), ("test",))
XML_SUFFIXES = (".xml",)
MAX_FOLDERS = 32  # of a path in place of a stem, counted from its end
EXPECTED_TREE = """\
    {0}/
        Annotations/*.xml
        JPEGImages/*.jpg (or .png, .bmp, .webp, .tif)
        ImageSets/Main/train.txt, val.txt
    or the same three folders in {0}/VOC2012/ or {0}/VOCdevkit/VOC2012/,
    or train/ and val/ with the images and their *.xml side by side"""


class VocPlace:
    """The annotations and images that belong together: of a whole data set, or of a split that has a folder of its own."""

    def __init__(self, folder: Path):
        self.annotations = ImageFolder(_annotations_in(folder) or folder, XML_SUFFIXES)
        usual = [place for name in IMAGES for place in _subfolders(folder, name)]
        self.images = ImageFolder([*usual, self.annotations.folder][0])

    def xml_path(self, stem: str) -> str:
        """Path of the annotation of a stem, whether it is there or not."""
        return self.annotations.find(stem) or str(self.annotations.folder / f"{stem}.xml")


class VocSplit(NamedTuple):
    """The images of one split.

    file: the list, or the folder that is the split; lines: file stem -> its line in the list, 0 where there is no list.
    """

    place: VocPlace
    file: Path
    lines: dict[str, int]
    faults: list[Fault]


def find_voc_folder(voc_root: str | os.PathLike, year: str = "2012") -> Path:
    """The folder that holds Annotations and ImageSets, from any of the usual places above it; or one with XML beside images."""
    root = Path(voc_root)
    for folder in (root, root / "VOCdevkit"):
        if _annotations_in(folder):
            return folder
        years = sorted(f for f in folder.glob("VOC*") if _annotations_in(f))
        wanted = [f for f in years if f.name == f"VOC{str(year).removeprefix('VOC')}"]
        if wanted or len(years) == 1:
            return (wanted or years)[0]
        if years:
            found = ", ".join(f.name.removeprefix("VOC") for f in years)
            raise FileNotFoundError(f"{folder} holds no VOC year {year}; found are the years {found}")
    if _split_places(root) or VocPlace(root).annotations.stems():
        return root
    problem = "is not a VOC data set" if root.is_dir() else "does not exist"
    raise FileNotFoundError(f"the data path {root} {problem}; expected is\n{EXPECTED_TREE.format(root)}")


def find_voc_split(folder: Path, split: str, boundary: Boundary) -> VocSplit:
    """The images of a split, in the order of its list, each once.

    Raises:
        FileNotFoundError: no such split; the message lists those that exist.
        InputError: the list names nothing, or too little to share; or it leads out of the data folder.
    """
    name = split.removesuffix(".txt")
    path, lists = _split_file(folder, name), _split_files(folder)
    if path is not None:
        require_inside(boundary, path)
        place, tally = VocPlace(folder), Tally()
        lines = _stems_of(path, place, tally)
        if not lines:
            raise InputError(f"split file {path} lists no image; write one file stem per line")
        return VocSplit(_inside(place, boundary), path, lines, tally.faults())
    places = _split_places(folder)
    names = next((names for names in SPLIT_FOLDERS if name in names), (name,))
    own = next((places[other] for other in names if other in places), None)
    if own is not None:
        lines = dict.fromkeys(own.annotations.stems(), 0)
        return VocSplit(_inside(own, boundary), own.annotations.folder, lines, [])
    default = _split_file(folder, "default")
    # Beside a split of the user's own, a share of the others could hold images of it: then this split is missing.
    if name not in SHARES or places or (lists and (default is None or any(_split_file(folder, other) for other in SHARES))):
        found = ", ".join([*sorted(p.stem for p in lists)[:12], *places]) or "none"
        raise FileNotFoundError(f"split file {folder / 'ImageSets' / 'Main' / name}.txt does not exist; splits found: {found}")
    place = _inside(VocPlace(folder), boundary)
    return _share(place, default, boundary, name)


def all_annotations(folder: Path, boundary: Boundary) -> list[str]:
    """Paths of the annotations of all splits, as far as they are there and inside the data folder."""
    lists, place = _split_files(folder), VocPlace(folder)
    written = {name for path in lists if boundary.contains(path) for name in _read_lines(path)}  # VOC has dozens of lists
    paths = {place.annotations.find(_stem_of(name, place)) for name in written}
    for other in [] if lists else _split_places(folder).values() or [place]:
        paths |= {other.annotations.find(stem) for stem in other.annotations.stems()}
    return sorted(path for path in paths - {None} if boundary.contains(path))


def _subfolders(folder: Path, name: str) -> list[Path]:
    """The folders of a name, in whatever case; the one spelt so first."""
    try:
        names = [other for other in os.listdir(folder) if other.lower() == name.lower()]
    except OSError:  # no such folder: whoever asked says what is missing
        return []
    return [folder / other for other in sorted(names, key=lambda other: (other != name, other)) if (folder / other).is_dir()]


def _annotations_in(folder: Path) -> Path | None:
    """The folder of the annotations; under another spelling only if it holds XML, as COCO's annotations/ holds JSON."""
    return next((place for place in _subfolders(folder, ANNOTATIONS)
                 if place.name == ANNOTATIONS or ImageFolder(place, XML_SUFFIXES).stems()), None)


def _inside(place: VocPlace, boundary: Boundary) -> VocPlace:
    for folder in (place.annotations.folder, place.images.folder):
        require_inside(boundary, folder)
    return place


def _split_places(folder: Path) -> dict[str, VocPlace]:
    """Name of a split's own folder -> its files, of those that hold annotations."""
    places = {name: VocPlace(folder / name) for names in SPLIT_FOLDERS for name in names if (folder / name).is_dir()}
    return {name: place for name, place in places.items() if place.annotations.stems()}


def _split_file(folder: Path, name: str) -> Path | None:
    places = [folder / "ImageSets" / "Main" / f"{name}.txt", folder / "ImageSets" / f"{name}.txt"]
    return next((place for place in places if os.path.isfile(place)), None)


def _split_files(folder: Path) -> list[Path]:
    sets = folder / "ImageSets"
    return [path for place in (sets / "Main", sets) for path in sorted(place.glob("*.txt"))
            if not path.name.startswith(".")]


def _share(place: VocPlace, default: Path | None, boundary: Boundary, split: str) -> VocSplit:
    """The larger or the smaller part of a set without splits."""
    if default is not None:
        require_inside(boundary, default)
    tally = Tally()
    file = default or place.annotations.folder
    lines = _stems_of(default, place, tally) if default else dict.fromkeys(place.annotations.stems(), 0)
    holds = f"split file {file} lists" if default else f"{file} holds annotations of"
    stems, fault = share_out(lines, split, str(file), holds, default.name if default else "all annotations")
    return VocSplit(place, file, {stem: lines[stem] for stem in stems}, [*tally.faults(), fault])


def _stems_of(path: Path, place: VocPlace, tally: Tally) -> dict[str, int]:
    """File stem -> line of a split file, each stem once; see `_stem_of`."""
    stems: dict[str, int] = {}
    for written, number in _read_lines(path).items():
        stem = _stem_of(written, place)
        if stem != written:
            tally.add(str(path), f"line {number}", "file in place of a stem, its stem taken",
                      f"{shorten(written)} is taken to be {shorten(stem)}")
        stems.setdefault(stem, number)
    return stems


def _stem_of(written: str, place: VocPlace) -> str:
    """What stands in a list, if it is the stem of an annotation; else the longest end of it that is: JPEGImages/a.jpg is a."""
    if place.annotations.find(written):
        return written
    stem, suffix = os.path.splitext(written.replace("\\", "/"))
    parts = [part for part in (stem if suffix.lower() in IMAGE_SUFFIXES + XML_SUFFIXES else stem + suffix).split("/")
             if part not in ("", os.curdir)]
    if os.pardir in parts:  # it means what it says: the reader judges whether it leads out
        return written
    tails = ("/".join(parts[k:]) for k in range(max(0, len(parts) - MAX_FOLDERS), len(parts)))
    return next((tail for tail in tails if place.annotations.find(tail)), written)


def _read_lines(path: Path) -> dict[str, int]:
    """File stem -> line of a split file, each stem once. Files of one class have a flag -1, 0 or 1 behind the stem."""
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"split file {path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"split file {path}: cannot open this file ({error.strerror})") from error
    stems: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        stem, *flag = line.strip().rsplit(maxsplit=1)[:2] or [""]
        if flag and flag[0] not in ("-1", "0", "1"):
            stem = line.strip()  # a blank inside the name
        if not is_file_name(stem):
            raise InputError(f"split file {path}, line {number}: {stem[:80]!r} can be no file; correct the line")
        if stem:
            stems.setdefault(stem, number)
    return stems
