"""The kind of error that a user can mend: scripts print its one sentence instead of a traceback."""


class InputError(ValueError):
    """A fault in the data (path, file, annotation, class name); the message says what, where and what to do."""
