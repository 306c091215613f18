"""Rows of Open Images' CSV files, whatever the order of their columns, their separator and their decimal sign."""

import csv
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datasets.annotations import DROP_OBJECT, STOP, Fault, parse_integer, parse_number
from datasets.errors import InputError
from datasets.image_files import require_ordinary
from datasets.tally import Tally, join_places, shorten

NEEDED = ("ImageID", "XMin", "YMin", "XMax", "YMax")


class Row(NamedTuple):
    """One box as it stands in the file: corners xmin, ymin, xmax, ymax, NaN where there is no number."""

    line: int
    image_id: str
    class_name: str  # blank where the file and the class descriptions give none
    label_name: str
    corners: tuple[float, float, float, float]
    is_group: bool


class _Columns(NamedTuple):
    """Where a file has what: numbers of cells, None for a column that it lacks."""

    count: int
    image: int
    corners: list[int]
    class_name: int | None
    label_name: int | None
    group: int | None

    def class_of(self, cells: list[str], descriptions: dict[str, str]) -> tuple[str, str]:
        """(class name, LabelName) of a row; blank where there is none."""
        name = cells[self.class_name].strip() if self.class_name is not None else ""
        label = cells[self.label_name].strip() if self.label_name is not None else ""
        return name or (descriptions.get(label, "") if descriptions else label), label


def _read_header(path: Path, header: list[str]) -> _Columns:
    column = {name.strip().lower(): k for k, name in reversed(list(enumerate(header)))}  # of equal names the first counts
    missing = [name for name in NEEDED if name.lower() not in column]
    if "classname" not in column and "labelname" not in column:
        missing.append("ClassName (or LabelName)")
    if missing:
        found = join_places(name.strip() or "(blank)" for name in header) or "nothing: the file is empty"
        raise InputError(f"{path}, line 1: no column {', '.join(missing)}; found: {found}")
    image, *corners = (column[name.lower()] for name in NEEDED)
    return _Columns(len(header), image, corners, *map(column.get, ("classname", "labelname", "isgroupof")))


def read_rows(path: Path, descriptions: dict[str, str], faults: list[Fault], tally: Tally) -> Iterator[Row]:
    """The boxes of a file, whatever the order of its columns.

    Raises:
        InputError: no text file, no header, or columns missing.
    """
    lines = read_csv(path)
    columns = _read_header(path, next(lines, (1, []))[1])
    for line, cells in lines:
        if len(cells) < columns.count or any(cells[columns.count :]):
            faults.append(_misshapen(path, line, len(cells), columns.count))
            continue
        values = tuple([parse_number(cells[k]) for k in columns.corners])
        if any(map(math.isnan, values)):
            values = _read_decimal_commas([cells[k] for k in columns.corners], values, path, line, tally)
        is_group = columns.group is not None and parse_integer(cells[columns.group]) == 1
        yield Row(line, cells[columns.image].strip(), *columns.class_of(cells, descriptions), values, is_group)


def _misshapen(path: Path, line: int, found: int, expected: int) -> Fault:
    counts = f"{found} cells for {expected} columns"
    if found < expected:
        return Fault(str(path), f"line {line}", "row with too few cells", f"{counts}; complete the row or remove it", DROP_OBJECT)
    # An unquoted decimal comma moves all cells behind it: what they mean would be a guess.
    detail = f"{counts}; put decimal commas in quotes, or write points"
    return Fault(str(path), f"line {line}", "row with too many cells", detail, STOP)


def _read_decimal_commas(cells: list[str], values: tuple, path: Path, line: int, tally: Tally) -> tuple:
    reread = tuple(parse_number(cell.replace(",", ".", 1)) for cell in cells)
    if sum(map(math.isnan, reread)) == sum(map(math.isnan, values)):
        return values
    tally.add(str(path), f"line {line}", "decimal comma, read as a point", f"the numbers are {shorten(cells)}")
    return reread


def read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, cells) of all rows that are not blank; the separator is that of the first line."""
    line = 0
    try:
        require_ordinary(path)
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            for cells in reader:
                line = reader.line_num
                if cells:
                    yield line, cells
    except csv.Error as error:
        raise InputError(f"{path}, line {line + 1}: cannot be read as CSV ({error}); correct it") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot open this file ({error.strerror})") from error


def names_in(path: Path, descriptions: dict[str, str]) -> Counter[str]:
    """How many rows have which class name; rows that have none do not count."""
    lines = read_csv(path)
    columns = _read_header(path, next(lines, (1, []))[1])
    counts = Counter(columns.class_of(cells, descriptions)[0] for _, cells in lines if len(cells) >= columns.count)
    del counts[""]
    return counts
