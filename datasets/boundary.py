"""What a data set's own files may name: nothing outside the folder that the user gave.

Data sets come from anywhere, and a path inside one (`<filename>`, `file_name`, a line of a list, a symbolic link) may lead to
any file of the machine: `../`, an absolute path, a link. Every reader asks here before it opens such a path.
"""

import os

from datasets.annotations import STOP, Fault, FaultError

KIND = "path leads out of the data folder"


class Boundary:
    """The folders that paths may lead to, links resolved.

    Args:
        roots: folders; a link as root itself is the user's own choice and is followed.
        allow_outside: everything is inside.
    """

    def __init__(self, *roots: str | os.PathLike, allow_outside: bool = False):
        self.roots = [os.path.realpath(root) for root in roots]
        self.allow_outside = allow_outside
        self._is_inside: dict[str, bool] = {}  # folder -> whether it lies in a root; resolving is slow, folders are few

    def contains(self, path: str | os.PathLike) -> bool:
        """Whether the file or folder at `path`, which need not exist, really lies in one of the roots."""
        if self.allow_outside:
            return True
        path = os.fspath(path)
        folder, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir) or os.path.islink(path):
            return self._lies_inside(path)
        if folder not in self._is_inside:
            self._is_inside[folder] = self._lies_inside(folder)
        return self._is_inside[folder] or self._lies_inside(path)  # the last: a root itself

    def check(self, path: str | os.PathLike, file: str | os.PathLike, where: str = "") -> None:
        """Raises FaultError, which stops, if `path` lies outside; `file` and `where` say what names it."""
        if not self.contains(path):
            detail = (f"{os.fspath(path)!r} leads out of {', '.join(self.roots)}; move it there, or add --allow-outside if that "
                      "is meant")
            raise FaultError(Fault(str(file), where, KIND, detail, STOP))

    def _lies_inside(self, path: str) -> bool:
        try:
            real = os.path.realpath(path)
        except (ValueError, OSError):  # a NUL byte, or a name too long: no file
            return False
        return any(os.path.commonpath([root, real]) == root for root in self.roots)
