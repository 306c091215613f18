"""What the paths mean that stand in the files of a YOLO data set: such files are often moved without being edited.

A path is tried at several places, and the first that exists counts: below the working directory and below the file's own folder
(see `_places`), one inside the data folder before one outside: there nothing is read unless that is allowed. Of an absolute path
of another machine the longest tail counts that exists below the file's own folder or the data folder.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from datasets.annotations import DROP_IMAGE, Fault, FaultError, stop_on_faults
from datasets.boundary import Boundary
from datasets.errors import InputError
from datasets.image_files import IMAGE_SUFFIXES, MAX_BYTES, files_below, read_bytes, require_inside
from datasets.tally import Tally, join_places, shorten

MAX_FOLDERS = 32  # of an absolute path, counted from its end, that are tried below the data folder


class PathFinder:
    """Finds what the paths in one file of a data set lead to. `tally` counts those that were written on another machine."""

    def __init__(self, file: Path, boundary: Boundary):
        self.file, self.boundary, self.tally = file, boundary, Tally()
        self.beside = folders_of(file)
        self.cut: tuple[str, str] | None = None  # (folder on the other machine, the same here), of the last path found so

    def find(self, entry: str, bases: Sequence[str], exists: Callable[[str], bool],
             where: str = "") -> tuple[str | None, list[str]]:
        """(what the path `entry` leads to, None if there is nothing; places that were looked at); `where`: its line."""
        written = os.path.expanduser(entry.replace("\\", "/").removeprefix("./"))
        if not os.path.isabs(written) and not re.match("[A-Za-z]:/", written):
            places = _places(written, bases, self.beside)
            inside, outside = _choose(places, exists, self.boundary)
            return inside or outside, places
        inside, outside = _choose([written], exists, self.boundary)
        if inside is None:
            inside = self._find_moved(written, exists)
            if inside is not None:
                self.tally.add(str(self.file), where, "path of another machine, found below the data folder",
                               f"{shorten(entry)} is taken to be {inside}")
        return inside or outside, [written, os.path.join(self.beside[0], os.path.basename(written))]

    def resolve(self, key: str, entry: str, bases: Sequence[str]) -> Path:
        """The file or folder that a `key` of the file names.

        Raises:
            FileNotFoundError: it does not exist.
            InputError: it leads out of the data folder.
        """
        found, places = self.find(entry, bases, os.path.exists)
        if found is None:
            raise FileNotFoundError(f"{self.file}: {key} = {entry[:200]} does not exist (looked for as {join_places(places)}); "
                                    "correct the path")
        require_inside(self.boundary, found, self.file)
        return Path(found)

    def _find_moved(self, written: str, exists: Callable[[str], bool]) -> str | None:
        if self.cut is not None and written.startswith(self.cut[0] + "/"):  # a list's images mostly lie side by side
            path = os.path.join(self.cut[1], written[len(self.cut[0]) + 1 :])
            if exists(path) and self.boundary.contains(path):
                return path
        parts = written.split("/")
        for k in range(max(1, len(parts) - MAX_FOLDERS), len(parts)):
            for base in dict.fromkeys([*self.beside, *self.boundary.roots]):
                path = os.path.join(base, *parts[k:])
                if parts[-1] and exists(path) and self.boundary.contains(path):
                    self.cut = "/".join(parts[:k]), base
                    return path
        return None


def folders_of(file: Path) -> list[str]:
    """The folder of a file, and for a link that of its target, too."""
    target = [os.path.dirname(os.path.realpath(file))] if os.path.islink(file) else []
    return [str(file.parent), *target]


def read_image_list(path: Path, boundary: Boundary) -> tuple[list[tuple[int, str]], list[Fault]]:
    """(line, image) of all images of a list file that exist, and a fault for each of the others.

    A path that begins with ./ is relative to the list's folder, another one to the working directory, else to that folder.

    Raises:
        FileNotFoundError: the list names images, but none of them is there.
        InputError: no text, no image listed, or all of them outside the data folder.
    """
    found: list[tuple[int, str]] = []
    faults: list[Fault] = []
    finder = PathFinder(path, boundary)
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        where = f"line {number}"
        bases = [*finder.beside, os.curdir] if entry.startswith("./") else [os.curdir, *finder.beside]
        image, places = finder.find(entry, bases, os.path.isfile, where)
        try:
            if image is not None:
                boundary.check(image, path, where)
                found.append((number, image))
                continue
            detail = f"there is no image {entry[:200]} (looked for as {join_places(places)}); correct or remove the line"
            faults.append(Fault(str(path), where, "image missing", detail, DROP_IMAGE))
        except FaultError as error:
            faults.append(error.fault)
    if faults and not found:
        stop_on_faults(faults)
        raise FileNotFoundError(f"none of the {len(faults)} images of the list {path} is there; {faults[0].detail}")
    if not found:
        raise InputError(f"{path} lists no image; write one path per line")
    return found, faults + finder.tally.faults()


def images_below(folder: Path, boundary: Boundary) -> tuple[list[tuple[int, str]], list[Fault]]:
    """(0, image) of all images of a folder and the folders in it, sorted, and a fault for each link that leads outside."""
    faults: list[Fault] = []
    found: list[tuple[int, str]] = []
    for image in sorted(path for path in files_below(folder, boundary, faults)
                        if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES):
        try:
            boundary.check(image, image)
            found.append((0, image))
        except FaultError as error:
            faults.append(error.fault)
    if not found:
        stop_on_faults(faults)
        raise FileNotFoundError(f"the folder {folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); correct the path")
    return found, faults


def read_text(path: str | os.PathLike, limit: int = MAX_BYTES) -> str:
    """The text of a file of at most `limit` bytes.

    Raises:
        FileNotFoundError: no such file.
        InputError: it cannot be opened, is too large, or is not UTF-8.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot open this file ({error.strerror})") from error


def _choose(places: Sequence[str], exists: Callable[[str], bool], boundary: Boundary) -> tuple[str | None, str | None]:
    """(the first of the places that exists inside the boundary, else None; else the first that exists outside)."""
    outside = None
    for place in places:
        if exists(place):
            if boundary.contains(place):
                return place, None
            outside = outside or place
    return None, outside


def _places(entry: str, bases: Sequence[str], beside: Sequence[str]) -> list[str]:
    """Where a relative path that is written in a file may be: below each of `bases`, and for moved data sets below its folders.

    There an export's ../train/images is train/images, and a file data/train.txt or data/obj/1.jpg is train.txt or obj/1.jpg.
    """
    places = [entry if base == os.curdir else os.path.join(base, entry) for base in bases]
    first, _, rest = entry.partition("/")
    if first == ".." or rest and os.path.splitext(rest)[1]:
        while rest.startswith("../"):
            rest = rest.removeprefix("../")
        places += [os.path.join(folder, rest) for folder in beside]
    return list(dict.fromkeys(places))
