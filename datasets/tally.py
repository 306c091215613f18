"""What readers say about defects: odd values in few words, and one fault for a harmless defect that many records share."""

import dataclasses
import reprlib
from collections.abc import Iterable

from datasets.annotations import FIX, Fault

MAX_LETTERS = 160

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def shorten(value: object) -> str:
    """The value as Python writes it, cut to a line's length however long or deeply nested it is."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python refuses to write out integers of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 3] + "..."


def join_places(places: Iterable[str]) -> str:
    """Paths that were looked for, each cut to a line's length."""
    return ", ".join(place if len(place) <= MAX_LETTERS else place[:MAX_LETTERS] + "..." for place in places)


class Tally:
    """Counts defects by kind; of each kind the first one found is kept to be shown."""

    def __init__(self):
        self._first: dict[str, Fault] = {}
        self._count: dict[str, int] = {}

    def add(self, file: str, where: str, kind: str, detail: str, count: int = 1, action: str = FIX) -> None:
        """`count` more defects of a kind, of which the first is at (file, where); none if `count` is 0."""
        if count:
            self._first.setdefault(kind, Fault(file, where, kind, detail, action))
            self._count[kind] = self._count.get(kind, 0) + count

    def faults(self) -> list[Fault]:
        """One fault for each kind, with the count in its detail."""
        return [dataclasses.replace(fault, detail=fault.detail + f" ({self._count[kind]} such cases, this is the first)",
                                    count=self._count[kind])
                if self._count[kind] > 1 else fault for kind, fault in self._first.items()]
