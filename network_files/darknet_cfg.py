"""The text of a Darknet cfg: sections with their options and lines, and the changes that a data set asks for.

Only text comes in here: opening files is the caller's business.

Words:  section = `[name]` and the `key=value` lines under it; layer = a section other than [net], numbered from 0
        mask = the numbers of those anchors in the cfg's list that a head uses
        head = the convolution before a [yolo] section, with (5 + classes) * masks filters
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from network_files.errors import InputError

Number = TypeVar("Number", int, float)
ALIASES = {"network": "net", "conv": "convolutional", "max": "maxpool"}


class Option(NamedTuple):
    """The value of one key, without blanks and comment, and where it stands."""

    value: str
    line: int  # the first line of a cfg is 1


@dataclass
class Section:
    """One section of a cfg. The methods read its options; the keys that nobody read remain in `unread`."""

    kind: str  # aliases resolved
    line: int
    layer: int  # number of the layer, -1 for [net]
    options: dict[str, Option] = field(default_factory=dict)
    repeated: list[int] = field(default_factory=list)  # lines of keys that the section already has
    read: set[str] = field(default_factory=set)

    @property
    def unread(self) -> dict[str, Option]:
        """The options that had no effect so far."""
        return {key: option for key, option in self.options.items() if key not in self.read}

    def error(self, message: str, key: str | None = None) -> InputError:
        """An InputError that names the line of the key if the section has it, else the line of the section."""
        line = self.options[key].line if key in self.options else self.line
        return InputError(f"cfg line {line}, [{self.kind}]: {message}")

    def text(self, key: str, default: str) -> str:
        """The value as it stands."""
        self.read.add(key)
        return self.options[key].value if key in self.options else default

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        """The value as a whole number; a key without default must be there. Raises InputError below `least`."""
        number = self._number(key, self._required(key, default), int)
        if number < least:
            raise self.error(f"{key} must be at least {least}, not {number}", key)
        return number

    def real(self, key: str, default: float) -> float:
        """The value as a finite number."""
        return self._number(key, self.text(key, str(default)), float)

    def integers(self, key: str, default: Sequence[int] | None = None) -> list[int]:
        """The comma-separated whole numbers of a key."""
        return self._numbers(key, default, int)

    def reals(self, key: str) -> list[float]:
        """The comma-separated numbers of a key that must be there."""
        return self._numbers(key, None, float)

    def _numbers(self, key: str, default: Sequence[Number] | None, kind: type[Number]) -> list[Number]:
        joined = None if default is None else ",".join(map(str, default))
        return [self._number(key, item, kind) for item in self._required(key, joined).split(",")]

    def _required(self, key: str, default: object | None) -> str:
        if key not in self.options and default is None:
            raise self.error(f"the key {key} is missing")
        return self.text(key, str(default))

    def _number(self, key: str, value: str, kind: type[Number]) -> Number:
        try:
            number = kind(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self.error(f"{key} must hold {'whole ' if kind is int else ''}numbers, not {value!r}", key)
        return number


def parse_cfg(text: str) -> list[Section]:
    """The sections of a cfg in their order, [net] first.

    Blanks, empty lines, comments (# anywhere, ; at the start of a line) and a carriage return at the end do not count.
    Of a key that stands twice in a section the first counts, as in Darknet. Raises InputError, with the line, for a line
    that is neither a section nor `key=value`, and for a text that does not begin with [net].
    """
    sections: list[Section] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = re.sub(r"\s", "", line.partition("#")[0])
        if not line or line.startswith(";"):
            continue
        if line.startswith("[") and line.endswith("]"):
            kind = line[1:-1]
            sections.append(Section(ALIASES.get(kind, kind), number, len(sections) - 1))
            continue
        key, equals, value = line.partition("=")
        if not (key and equals and value):
            raise InputError(f"cfg line {number}: {line!r} is neither [section] nor key=value")
        if not sections:
            raise InputError(f"cfg line {number}: {line!r} stands before the first [section]")
        if sections[-1].options.setdefault(key, Option(value, number)).line != number:
            sections[-1].repeated.append(number)
    if not sections:
        raise InputError("this cfg is empty")
    if sections[0].kind != "net":
        raise InputError(f"cfg line {sections[0].line}: the first section must be [net], not [{sections[0].kind}]")
    return sections


# what a [yolo] section has in common with its cfg's other ones
def anchors_of(section: Section) -> tuple[tuple[float, float], ...]:
    """All anchors of a [yolo] section, (width, height) in pixels of the network input; as many as `num` says."""
    numbers = section.reals("anchors")
    count = section.integer("num", (len(numbers) + 1) // 2)
    if len(numbers) != 2 * count:
        raise section.error(f"anchors holds {len(numbers)} numbers, but num={count} anchors need {2 * count}", "anchors")
    if min(numbers) <= 0:
        raise section.error("anchors must be widths and heights above 0", "anchors")
    return tuple(zip(numbers[::2], numbers[1::2]))


def mask_of(section: Section, anchors: Sequence) -> tuple[int, ...]:
    """The numbers of those of the anchors that a [yolo] section uses, all of them by default."""
    mask = tuple(section.integers("mask", range(len(anchors))))
    if not all(0 <= number < len(anchors) for number in mask) or len(set(mask)) < len(mask):
        raise section.error(f"mask must name different anchors by their numbers 0 to {len(anchors) - 1}", "mask")
    return mask


# cfg text -> cfg text
def set_num_classes(text: str, num_classes: int) -> str:
    """The same cfg for another number of classes (without background).

    In each [yolo] section `classes`, in the convolution before it `filters` = (5 + classes) * masks; every other
    character stays. Raises InputError if a [yolo] section does not follow a convolution, or if there is none.
    """
    if num_classes < 1:
        raise InputError(f"a network needs at least 1 class, not {num_classes}")
    lines = text.split("\n")
    for before, yolo in _heads(text, "class count"):
        if before.kind != "convolutional":
            raise yolo.error(f"the layer before must be a convolution, whose filters follow the classes, not [{before.kind}]")
        _set_option(lines, yolo, "classes", num_classes)
        _set_option(lines, before, "filters", (5 + num_classes) * len(mask_of(yolo, anchors_of(yolo))))
    return "\n".join(lines)


def set_anchors(text: str, anchors: Sequence[tuple[float, float]]) -> str:
    """The same cfg with other anchors, (width, height) in pixels of the network input, in every [yolo] section.

    They are rounded to 2 decimals; every other character stays, the masks too: give them in the order of the cfg's own,
    small ones first. Raises InputError if there is no [yolo] section, or one whose `num` is not the number of anchors,
    and for an anchor that is not finite and above 0.
    """
    sides = [round(float(side), 2) for anchor in anchors for side in anchor]
    if not all(math.isfinite(side) and side > 0 for side in sides):
        raise InputError(f"anchors must be finite widths and heights of at least 0.01 pixels, not {list(anchors)}")
    numbers = [f"{side:.2f}".rstrip("0").rstrip(".") for side in sides]
    value = ",  ".join(map(",".join, zip(numbers[::2], numbers[1::2])))
    lines = text.split("\n")
    for _, yolo in _heads(text, "list of anchors"):
        count = len(anchors_of(yolo))
        if count != len(anchors):
            raise yolo.error(f"it has {count} anchors, but {len(anchors)} are given: give {count}", "anchors")
        _set_option(lines, yolo, "anchors", value)
    return "\n".join(lines)


def set_input_size(text: str, height: int, width: int) -> str:
    """The same cfg for a network input of that size in pixels; every other character stays."""
    lines, net = text.split("\n"), parse_cfg(text)[0]
    for key, side in (("height", height), ("width", width)):
        if net.integer(key) != side:
            _set_option(lines, net, key, side)
    return "\n".join(lines)


def _heads(text: str, wanted: str) -> list[tuple[Section, Section]]:
    """Every [yolo] section with the section before it; `wanted` is for the InputError if there is none."""
    sections = parse_cfg(text)
    heads = [(before, section) for before, section in zip(sections, sections[1:]) if section.kind == "yolo"]
    if not heads:
        raise InputError(f"this cfg has no [yolo] section, so there is no {wanted} to set")
    return heads


def _set_option(lines: list[str], section: Section, key: str, value: int | str) -> None:
    """Changes the value where it stands in the lines of the cfg, or adds `key=value` to the line of the section."""
    if key not in section.options:
        ending = "\r" if lines[section.line - 1].endswith("\r") else ""
        lines[section.line - 1] += f"\n{key}={value}{ending}"
    else:
        # group 1: up to the value; the value itself may have blanks in it; group 2: what follows it
        at = section.options[key].line - 1
        lines[at] = re.sub(r"^([^=]*=\s*)[^#]*?(\s*(?:#.*)?)$", rf"\g<1>{value}\g<2>", lines[at], flags=re.DOTALL)
