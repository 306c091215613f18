"""Which file is the image of a name without suffix, as annotations that do not say the suffix need it."""

import os
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # compared in lower case; the first is taken


class ImageFolder:
    """The images of a folder by stem; every (sub-)folder is listed once, since sets mix .jpg, .JPG and .png."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.listed: dict[str, dict[str, str]] = {}  # sub-folder -> stem -> file name

    def find(self, stem: str) -> str | None:
        """Path of the image of a stem, which may have sub-folders before it; None if there is none."""
        parent, name = os.path.split(stem)
        if parent not in self.listed:
            self.listed[parent] = _list(self.folder / parent)
        file_name = self.listed[parent].get(name)
        return None if file_name is None else str(self.folder / parent / file_name)


def _list(folder: Path) -> dict[str, str]:
    names = os.listdir(folder) if folder.is_dir() else []
    suffix = {name: os.path.splitext(name)[1].lower() for name in names}
    usable = [name for name in names if suffix[name] in IMAGE_SUFFIXES and not name.startswith(".")]
    files: dict[str, str] = {}
    for name in sorted(usable, key=lambda name: (IMAGE_SUFFIXES.index(suffix[name]), name)):
        files.setdefault(os.path.splitext(name)[0], name)
    return files
