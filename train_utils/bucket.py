"""Copies of a run's files elsewhere after each epoch: object stores and other places that fsspec knows.

A copy that fails costs one line in the log, never the training.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from train_utils.distributed_utils import say


def bucket_url(place: str) -> str:
    """A place as a URL: a bare bucket name, with or without a folder, is one of Google's (`NAME` -> `gs://NAME`).

    URLs and paths (those that begin with `/`, `.` or `~`) stay as they are.
    """
    return f"gs://{place}" if re.match(r"\w[^:]*$", place) else place


def upload(place: str, files: Iterable[str | os.PathLike]) -> bool:
    """Copy files into a folder of an fsspec file system, over those of the same names.

    Call once per epoch, on one process. Files that do not exist (yet) are passed over. Nothing is raised: the reason why
    a copy failed is printed in one line, and the files after it are not tried.

    Args:
        place: s3://bucket/folder, gs://..., file:///..., memory://..., a path, or a bucket's name (`bucket_url`).

    Returns:
        Whether all is there.
    """
    url = bucket_url(place)
    name = "the first file"
    try:
        file_system, folder = fsspec.core.url_to_fs(url)
        for file in map(Path, files):
            if file.is_file():
                name = file.name
                _put(file_system, file, f"{folder.rstrip('/')}/{name}")
    except ImportError as error:
        say(f"warning: --bucket {url}: a driver is missing ({' '.join(str(error).split())}); nothing was copied")
        return False
    except Exception as error:  # each driver has exceptions of its own, and none may end a training
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"warning: --bucket {url}: {name} could not be copied ({reason}); the training goes on")
        return False
    return True


def _put(file_system: fsspec.AbstractFileSystem, file: Path, target: str) -> None:
    """Copy one file; object stores show it when it is whole, on a disk a renaming does that."""
    if not isinstance(file_system, LocalFileSystem):
        file_system.put_file(str(file), target)
        return
    file_system.makedirs(os.path.dirname(target), exist_ok=True)
    file_system.put_file(str(file), f"{target}.part")
    os.replace(f"{target}.part", target)
