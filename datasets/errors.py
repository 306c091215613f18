"""The kind of error that a user can mend: scripts print its one sentence instead of a traceback."""

from collections.abc import Sequence


class InputError(ValueError):
    """A fault in the data (path, file, annotation, class name); the message says what, where and what to do.

    faults: what led to it, for an inspection that lists them all.
    """

    def __init__(self, message: str = "", faults: Sequence = ()):
        super().__init__(message)
        self.faults = list(faults)
