"""Hyper-parameter files: one number per name, as YAML or as lines of text.

    lr0: 0.01        # comment
    giou = 3.54
    'cls': 37.4,     # as it stands in a Python dictionary
"""

import difflib
import math
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import yaml

from train_utils.errors import InputError


def read_hyp(path: str | os.PathLike, known: Collection[str]) -> dict[str, float]:
    """The values of a file, by name; what it does not name is not in the result.

    Args:
        path: .yaml or .yml (a flat mapping), or any other name for lines of text.
        known: the names that there are.

    Raises:
        InputError: no such file, a line that is no name and number, a name that is unknown or comes twice, a number that
            is not finite, or focal loss asked for; by file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"hyper-parameters {path}: cannot be read ({reason}); give a .yaml or .txt file") from error
    entries = _yaml_entries(text, path) if path.suffix.lower() in (".yaml", ".yml") else _text_entries(text, path)
    values: dict[str, float] = {}
    seen: dict[str, int] = {}
    for line, name, word in entries:
        where = f"{path}:{line}"
        if name in seen:
            raise InputError(f"{where}: {name} stands in line {seen[name]} already; remove one of the two")
        seen[name] = line
        number = _number(word, name, where)
        if name == "fl_gamma" and number:
            raise InputError(f"{where}: fl_gamma {number:g} asks for focal loss, which there is not here; set it to 0")
        if name in known:
            values[name] = number
        elif name != "fl_gamma":
            raise InputError(f"{where}: {_unknown(name, known)}")
    return values


def write_hyp(path: str | os.PathLike, values: Mapping[str, float]) -> None:
    """Write values as YAML that `read_hyp` gives back exactly; the file is replaced in one step."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(f"{name}: {float(value)!r}\n" for name, value in values.items()), encoding="utf-8")
    os.replace(temporary, path)


def _yaml_entries(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, name, value as written): the document's nodes, as they know their lines and YAML reads 1e-3 as a word."""
    try:
        document = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())}); write `name: number` lines") from error
    if document is None:  # an empty file
        return
    if not isinstance(document, yaml.MappingNode):
        raise InputError(f"{path}: not a mapping of names to numbers; write `name: number` lines")
    for name, value in document.value:
        yield name.start_mark.line + 1, str(name.value), value.value if isinstance(value, yaml.ScalarNode) else "a list"


def _text_entries(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    for line, content in enumerate(text.splitlines(), start=1):
        content = content.partition("#")[0].strip()
        if not content:
            continue
        separator = ":" if ":" in content else "="
        name, found, word = content.partition(separator)
        if not found:
            raise InputError(f"{path}:{line}: {content!r} is not `name: number`; correct the line")
        yield line, name.strip(" \t'\""), word.strip(" \t,")


def _number(word: str, name: str, where: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {name} is {word!r}, not a number; correct the line")
    return number


def _unknown(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no hyper-parameter {name!r}; " + (
        f"did you mean {near[0]}?" if near else f"use some of {', '.join(known)}"
    )
