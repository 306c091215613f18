"""Files that are there whole or not at all."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, flush_folder: bool = False) -> Iterator[Path]:
    """A temporary path in the folder of `path`, which is made if absent; what is written there takes the name at the end.

    The content reaches the disk before the name changes hands, so that a power cut leaves the old file or the new one. What a
    killed process left of the same file is removed.

    Args:
        flush_folder: wait until the disk has the new name as well, which takes several times as long as a small file itself.

    Raises:
        OSError: it cannot be written; a file that was there before is untouched, nothing is left over.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield temporary
        _flush(temporary, os.O_RDWR)  # Windows flushes only what may be written
        os.replace(temporary, path)
    except OSError as error:
        raise not_written(path, error.strerror or str(error), error.errno) from error
    finally:
        with contextlib.suppress(OSError):  # it may lie below a file in place of a folder
            temporary.unlink()
    if flush_folder and os.name != "nt":  # Windows cannot open folders and does not need it
        with contextlib.suppress(OSError):  # some network file systems refuse; the file is there, whole
            _flush(path.parent, os.O_RDONLY)


def not_written(path: Path, reason: str, number: int | None) -> OSError:
    """The error for a file that could not be written, in one sentence; `errno` is the number."""
    error = OSError(f"{path}: not written ({reason}); free some space or choose another place")
    error.errno = number
    return error


def _flush(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_leftovers(path: Path) -> None:
    """Delete temporary files of `path` whose processes are gone: a run killed while saving would leave one each time."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.tmp")
    for file in path.parent.iterdir():
        if (match := name.fullmatch(file.name)) and _is_gone(int(match[1])):
            with contextlib.suppress(OSError):
                file.unlink()


def _is_gone(pid: int) -> bool:
    """No process of this number is left on this machine; on Windows, where asking could end it, never true."""
    if os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # another user's
        pass
    return False
