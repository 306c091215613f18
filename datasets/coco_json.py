"""COCO's JSON file as such: loading it, its categories, columns of its records, and the files it names. What they mean: coco.py.

Records that are odd in a harmless way (ids as text, no area) are counted in a `Tally`, not listed one by one.
"""

import contextlib
import gc
import json
import os
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path, PurePosixPath

from datasets.annotations import DROP_IMAGE, FIX, STOP, WARN, Fault, FaultError, parse_integer
from datasets.boundary import Boundary
from datasets.class_names import NO_TEXT
from datasets.image_files import IMAGE_SUFFIXES, files_below, is_file_name, read_bytes
from datasets.tally import Tally, shorten

LISTS = ("images", "annotations", "categories")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def broken(file: Path, kind: str, detail: str, where: str = "", action: str = STOP) -> FaultError:
    """The exception of a fault in the file."""
    return FaultError(Fault(str(file), where, kind, detail, action))


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """JSON has no cycles: looking for them among millions of records takes as long as reading them."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def load_json(path: Path, tally: Tally) -> dict:
    """The content, in which "images", "annotations" and "categories" are lists of objects.

    Raises:
        FaultError: not such a file.
    """
    def refuse(constant: str):
        raise broken(path, "NaN in JSON", f"the file holds {constant}, which is not a number; correct it")

    def build(pairs: list[tuple[str, object]]) -> dict:
        record = dict(pairs)
        if len(record) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            tally.add(str(path), "", "key twice in a JSON object, the last one taken", f"{shorten(twice)} in an object with the "
                      f"keys {shorten(names)}", action=WARN)
        return record

    try:
        data = read_bytes(path)
        if data.startswith(BYTE_ORDER_MARK):
            tally.add(str(path), "line 1", "byte order mark, left out", "save it as UTF-8 without one")
        content = json.loads(data.decode("utf-8-sig"), parse_constant=refuse, object_pairs_hook=build)
    except json.JSONDecodeError as error:
        raise broken(path, "JSON that does not parse", f"the JSON does not parse ({error.msg}, column {error.colno}); correct it",
                     f"line {error.lineno}") from error
    except OSError as error:
        raise broken(path, "JSON that cannot be opened", f"cannot open this file ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, a number of thousands of digits, nested too deeply
        raise broken(path, "JSON that does not parse", f"this is not a JSON text file ({error})") from error
    for key in LISTS:
        records = content.get(key) if isinstance(content, dict) else None
        if not isinstance(records, list) or set(map(type, records)) - {dict}:
            raise broken(path, "not COCO instances", f'there is no list "{key}" of objects; expected is a COCO '
                         "instances file with images, annotations and categories")
    return content


def column(records: Sequence[dict], key: str) -> list:
    """The value of a key in every record, None where it is missing."""
    try:
        return list(map(itemgetter(key), records))  # a loop in C, for a million records
    except KeyError:
        return [record.get(key) for record in records]


def integers(records: Sequence[dict], key: str, word: str, path: Path, tally: Tally) -> list[int | None]:
    """The value of a key in every record as int64, None where it is no integer."""
    values = column(records, key)
    if set(map(type, values)) <= {int} and (not values or -2**63 <= min(values) and max(values) < 2**63):
        return values
    parsed = [parse_integer(value) for value in values]
    odd = [k for k, value in enumerate(values) if parsed[k] is not None and type(value) is not int]
    if odd:
        tally.add(str(path), f"{word} {odd[0] + 1}", f"{key} as text or float, read as an integer",
                  f"{key} is {shorten(values[odd[0]])}", len(odd))
    return parsed


def read_categories(categories: list[dict], used: set[int | None], path: Path, tally: Tally) -> dict[int, str]:
    """Category id -> name, sorted by id; `used`: the category ids of the annotations."""
    numbers = integers(categories, "id", "category", path, tally)
    names: dict[int, str] = {}
    for position, (number, category) in enumerate(zip(numbers, categories), start=1):
        where, name = f"category {position}", category.get("name")
        if number is None or not isinstance(name, str) or not name.strip():
            raise broken(path, "category", f"needs an integer id and a name, not {shorten(category)}", where)
        if NO_TEXT.search(name):
            raise broken(path, "category", f"the name {shorten(name)} holds a line end or a control character; correct it", where)
        if number in names or name.strip() in names.values():
            raise broken(path, "category twice", f"id {number} or name {shorten(name)} stands there twice", where)
        names[number] = name.strip()
    if _has_heading(dict(zip(numbers, categories)), used):
        detail = f"{shorten(names.pop(0))} with the id 0 is the supercategory of all the others and has no object"
        tally.add(str(path), "", "heading among the categories, left out", detail)
    if not names:
        raise broken(path, "no category", 'the list "categories" is empty; add the classes')
    return dict(sorted(names.items()))


def _has_heading(categories: dict[int, dict], used: set[int | None]) -> bool:
    """Whether id 0 is no class but the title over the others, as some exports put it there."""
    heading, others = categories.get(0), [category for number, category in categories.items() if number != 0]
    return (heading is not None and 0 not in used and heading.get("supercategory") == "none" and bool(others)
            and all(category.get("supercategory") == heading["name"] for category in others))


class ImageFinder:
    """Finds the files of a COCO list in their folder, and nothing outside the data set."""

    def __init__(self, folder: Path, json_file: Path, boundary: Boundary):
        self.folder, self.json_file, self.boundary = folder, json_file, boundary
        with os.scandir(folder) as entries:
            self.links = {entry.name: entry.is_symlink() for entry in entries}  # file name -> whether it may lead out
        self.by_stem: dict[str, list[str]] | None = None  # stem -> images anywhere below; filled when first needed

    def find(self, file_name: object, where: str, faults: list[Fault]) -> str:
        """Path of the image that a record names by `file_name`; `where` is its place, for messages.

        Raises:
            FaultError: no such image, or outside the data set.
        """
        if not isinstance(file_name, str) or not file_name.strip():
            raise broken(self.json_file, "image without file name", f"file_name is {shorten(file_name)}", where, DROP_IMAGE)
        path = os.path.join(self.folder, file_name)
        if file_name in self.links:
            if self.links[file_name]:
                self.boundary.check(path, self.json_file, where)
            return path
        relative = file_name.strip().replace("\\", "/").removeprefix("./")
        path = os.path.join(self.folder, relative)
        if not (self.boundary.contains(path) and os.path.isfile(path)):
            path = self._elsewhere(path, relative, where, faults)
            detail = f"{shorten(file_name)} is taken to be {path}"
            faults.append(Fault(str(self.json_file), where, "image found under another path", detail, FIX))
        self.boundary.check(path, self.json_file, where)
        return path

    def _elsewhere(self, path: str, relative: str, where: str, faults: list[Fault]) -> str:
        """The only image of this name anywhere in the folder, or the only one of its stem."""
        name = PurePosixPath(relative).name
        same_stem = self._below(faults).get(os.path.splitext(name)[0], [])
        candidates = [other for other in same_stem if os.path.basename(other) == name] or same_stem
        if len(candidates) == 1:
            return candidates[0]
        if is_file_name(path):
            self.boundary.check(path, self.json_file, where)
        problem = "is not" if not candidates else f"is {len(candidates)} times"
        raise broken(self.json_file, "image missing", f"{shorten(relative)} {problem} in {self.folder}", where, DROP_IMAGE)

    def _below(self, faults: list[Fault]) -> dict[str, list[str]]:
        if self.by_stem is None:
            self.by_stem = {}
            for path in files_below(self.folder, self.boundary, faults):
                stem, suffix = os.path.splitext(os.path.basename(path))
                if suffix.lower() in IMAGE_SUFFIXES:
                    self.by_stem.setdefault(stem, []).append(path)
        return self.by_stem
