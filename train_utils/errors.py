"""How a user's mistake ends: one sentence on stderr and exit code 2, without a traceback."""

import contextlib
import sys
from collections.abc import Iterator

from train_utils.distributed_utils import get_rank


class InputError(ValueError):
    """A mistake in what the user gave (flag, path, file, annotation): the message says what, where and what to do."""


@contextlib.contextmanager
def one_sentence_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn `InputError`, the given further kinds, and errors of the file system into one sentence and exit code 2.

    Every other exception is a bug and keeps its traceback.
    """
    try:
        yield
    except (InputError, OSError, *kinds) as error:
        who = f"[process {get_rank()}] " if get_rank() else ""
        print(f"{who}error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
