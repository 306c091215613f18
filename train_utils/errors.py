"""How a user's mistake or Ctrl-C ends: one sentence on stderr and an exit code, without a traceback."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

INTERRUPTED = 130  # exit code after Ctrl-C, 128 + SIGINT as shells have it


class InputError(ValueError):
    """A mistake in what the user gave (flag, path, file, annotation): the message says what, where and what to do."""


class LossNotFinite(InputError):
    """A training step without a finite loss."""


@contextlib.contextmanager
def one_sentence_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn `InputError`, the given further kinds, and errors of the file system into one sentence and exit code 2.

    Ctrl-C ends in one line too, with exit code 130. Every other exception is a bug and keeps its traceback.
    """
    try:
        yield
    except (InputError, OSError, *kinds) as error:
        _leave(sentence(error), 2)
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED)


def _leave(message: str, code: int) -> NoReturn:
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0")
    who = f"[process {rank}] " if rank != "0" else ""
    print(f"{who}error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def sentence(error: Exception) -> str:
    """The message of an error; of one raised in a loader process, without that process's traceback around it."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.rstrip().splitlines()[-1].split(": ", 1)[-1]
    return text
