"""The kind of error that a user can mend: scripts print its one sentence instead of a traceback."""


class InputError(ValueError):
    """Something given from outside is wrong: an image, a target, arguments that do not fit; says what and where."""
