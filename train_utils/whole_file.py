"""Files that are there whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path in the folder of `path`, which is made if absent; what is written there takes the name at the end.

    Raises:
        OSError: it cannot be written; a file that was there before is untouched, nothing is left over.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path}: cannot be written ({reason}); free some space or choose another place") from error
    finally:
        with contextlib.suppress(OSError):  # it may lie below a file in place of a folder
            temporary.unlink()
