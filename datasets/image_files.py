"""Which files there are, which belongs to a name in an annotation, and what an annotation says of an image's size."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from datasets.annotations import Fault, FaultError, parse_number
from datasets.boundary import Boundary
from datasets.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # compared in lower case; the first is taken
MAX_BYTES = 4 * 2**30  # of a JSON or CSV file, or a list of images
MAX_SIDE = 2**31 - 1  # sizes are held as int32; a larger one is no size of an image


class ImageFolder:
    """The images of a folder by stem; every (sub-)folder is listed once, since sets mix .jpg, .JPG and .png.

    Hidden files (.DS_Store, ._x.jpg) count as none. Other suffixes make it a folder of other files.
    """

    def __init__(self, folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES):
        self.folder = folder
        self.suffixes = suffixes
        self.listed: dict[str, dict[str, str]] = {}  # sub-folder -> stem -> file name

    def find(self, stem: str) -> str | None:
        """Path of the file of a stem, which may have sub-folders before it; None if there is none."""
        parent, name = os.path.split(stem)
        file_name = self._list(parent).get(name)
        if file_name is None or not parent:
            return file_name and os.path.join(self.folder, file_name)
        return str(self.folder / parent / file_name)

    def stems(self) -> list[str]:
        """The stems in the folder itself, sorted."""
        return sorted(self._list(""))

    def _list(self, parent: str) -> dict[str, str]:
        if parent not in self.listed:
            self.listed[parent] = _list(self.folder / parent, self.suffixes)
        return self.listed[parent]


def read_bytes(path: str | os.PathLike, limit: int = MAX_BYTES) -> bytes:
    """The content of an ordinary file.

    Raises:
        OSError: see `require_ordinary`, or the file cannot be opened.
    """
    require_ordinary(path, limit)
    with open(path, "rb") as file:
        return file.read()


def require_ordinary(path: str | os.PathLike, limit: int = MAX_BYTES) -> None:
    """Raises OSError, whose `strerror` says why, unless `path` is a file of at most `limit` bytes.

    To open a pipe waits for ever, and a device may have no end.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not an ordinary file", os.fspath(path))
    if status.st_size > limit:
        raise OSError(errno.EFBIG, f"{status.st_size} bytes are too many, {limit} are allowed", os.fspath(path))


def files_below(folder: str | os.PathLike, boundary: Boundary, faults: list[Fault]) -> Iterator[str]:
    """Paths of all files in a folder and the folders in it, hidden files and folders left out; each real folder once.

    Links to folders are followed where they stay inside the data folder, after all real folders; one that leads out is added
    to `faults`. A link to a folder that holds `folder` is not: it would make a split of the whole data set.
    """
    pending, seen, start = [os.fspath(folder)], set(), os.path.realpath(folder)
    while pending:
        top = pending.pop(0)
        for parent, folders, names in os.walk(top):
            real = os.path.realpath(parent)
            if real in seen or (real != start and os.path.commonpath([real, start]) == real):
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if not name.startswith(".")]  # .ipynb_checkpoints holds copies of pictures
            for link in sorted(name for name in folders if os.path.islink(os.path.join(parent, name))):
                path = os.path.join(parent, link)
                try:
                    boundary.check(path, path)
                    pending.append(path)
                except FaultError as error:
                    faults.append(error.fault)
            yield from (os.path.join(parent, name) for name in names if not name.startswith("."))


def is_file_name(name: str) -> bool:
    """Whether a file could have this name or path at all: no NUL, and characters that the system can write."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # half of a surrogate pair, from an escape in JSON
        return False


def annotated_side(value: object) -> int:
    """Pixels of an image's side as an annotation says them; 0 where it says none or nonsense."""
    side = parse_number(value)
    return int(side) if 1 <= side <= MAX_SIDE else 0  # false for NaN


def require_inside(boundary: Boundary, path: str | os.PathLike, file: str | os.PathLike | None = None) -> None:
    """Raises InputError if a file or folder without which nothing can be read leads out of the data folder; `file` names it."""
    try:
        boundary.check(path, file or path)
    except FaultError as error:
        raise InputError(str(error)) from error


def _list(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    try:
        names = os.listdir(folder)
    except (OSError, ValueError):  # no such folder, or a name that no folder can have
        names = []
    suffix = {name: os.path.splitext(name)[1].lower() for name in names}
    usable = [name for name in names if suffix[name] in suffixes and not name.startswith(".")]
    files: dict[str, str] = {}
    for name in sorted(usable, key=lambda name: (suffixes.index(suffix[name]), name)):
        files.setdefault(os.path.splitext(name)[0], name)
    return files
