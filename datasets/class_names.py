"""Lists of class names: reading them from a file, ordering names found in annotations, suggesting a near name.

COCO's names are known in two spellings: Darknet's coco.names still has VOC's words for six of them.

A list never contains the background: name k of the list is label k + 1.
"""

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from datasets.errors import InputError

VOC_CLASS_FILE = Path(__file__).parent / "classes" / "pascal_voc_classes.json"
# Control characters, line separators and halves of surrogate pairs: a class list, one name per line, cannot hold them.
NO_TEXT = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_SHOWN = 80  # letters of a name in a message
BACKGROUND = "background"  # in any case; stands on the first line of jetson's labels.txt files of a model, and is no class
PLACEHOLDER = "N/A"  # stands for an unused label, as in the published table of COCO's 90 sparse ids; may repeat
COCO_NAMES = tuple((
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,bench,bird,"
    "cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,"
    "sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,"
    "bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,"
    "toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,"
    "teddy bear,hair drier,toothbrush").split(","))
UNUSED_COCO_IDS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
COCO_IDS = tuple(number for number in range(1, 91) if number not in UNUSED_COCO_IDS)  # category id of every COCO name
COCO_OLD_NAMES = {  # spelling of coco.names and VOC -> spelling of COCO's annotations
    "motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant",
    "diningtable": "dining table", "tvmonitor": "tv",
}


def read_class_file(path: str | os.PathLike) -> list[str]:
    """Class names in label order from a JSON file (a list, or name -> id counted from 1) or a text file.

    A text file is read by `read_names` if its suffix is .names, else by `read_labels`.

    Raises:
        FileNotFoundError: no such file.
        InputError: not such a list; an empty, repeated or blank-separated name; ids that are not 1..C.
    """
    path = Path(path)
    if path.suffix.lower() == ".names":
        return read_names(path)
    if path.suffix.lower() != ".json":
        return read_labels(path)
    text = _read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, a number of thousands of digits, nested too deeply
        raise InputError(f"class file {path} cannot be read ({error}); save it as UTF-8 text") from error
    return check_class_names(_names_from_json(content, path), f"class file {path}")


def read_labels(path: str | os.PathLike) -> list[str]:
    """Class names in label order from a text file, jetson's labels.txt in both its habits included.

    One name per line, or all names in one line with commas between them. A BACKGROUND at the head and blank lines at the
    end are left out: neither is a class.

    Raises:
        FileNotFoundError: no such file.
        InputError: no name; a blank or repeated one or a BACKGROUND further down, by line.
    """
    path = Path(path)
    lines = [line.strip() for line in _read_text(path).rstrip().splitlines()]
    in_one_line = len(lines) == 1 and "," in lines[0]
    names = [name.strip() for name in lines[0].rstrip(", ").split(",")] if in_one_line else lines
    first = 1
    if names and _is_background(names[0]):
        names, first = names[1:], 2
    word = "name" if in_one_line else "line"
    for position, name in enumerate(names, start=first):
        if _is_background(name):
            raise InputError(f"class file {path}, {word} {position}: {name} may only stand first; remove it, or move it there")
    return check_class_names(names, f"class file {path}", word, first)


def read_names(path: str | os.PathLike) -> list[str]:
    """Class names in the order of their indices from one of Darknet's .names files: one per line, blank lines at the end dropped.

    Raises:
        FileNotFoundError: no such file.
        InputError: no name; a blank or repeated one, by line.
    """
    names = [line.strip() for line in _read_text(Path(path)).rstrip().splitlines()]
    return check_class_names(names, f"class file {path}", "line")


def as_class_names(names: Sequence[str] | str | os.PathLike) -> list[str]:
    """A checked list of names from a list of names, or from the path of a class file."""
    if isinstance(names, (str, os.PathLike)):
        return read_class_file(names)
    return check_class_names([str(name).strip() for name in names], "the given class list")


def order_class_names(found: Iterable[str]) -> list[str]:
    """Names found in annotations as a list: in VOC's customary order if all are VOC's, else sorted."""
    found = set(found)
    voc_order = read_class_file(VOC_CLASS_FILE)
    return [name for name in voc_order if name in found] if found <= set(voc_order) else sorted(found)


def without_case_variants(counts: Counter[str]) -> set[str]:
    """The names found in annotations, of those that differ by upper and lower case alone only the most frequent one.

    The others are taken for misspelt. counts: how often each name was found.
    """
    best: dict[str, str] = {}
    for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        best.setdefault(name.casefold(), name)
    return set(best.values())


def describe_unknown_class(name: str, known: Sequence[str]) -> str:
    """A sentence for a name outside the list, with the nearest known name if one is near."""
    name = name if len(name) <= MAX_SHOWN else name[:MAX_SHOWN] + "..."  # a whole file may have become one name
    by_lower_case = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.5)
    if near:
        hint = f'did you mean "{by_lower_case[near[0]]}"?'
    else:
        hint = "known are " + ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f'unknown class "{name}"; {hint}'


def check_class_names(names: list[str], source: object, word: str = "class", first: int = 1) -> list[str]:
    """The names, if they can be a class list; `word` and `first` say how the source counts them.

    Raises:
        InputError: no name; a blank or repeated one, or one with control characters.
    """
    if not names:
        raise InputError(f"{source} holds no class name; write one name per line, without the background")
    if "" in names:
        # Skipping the blank would silently shift the ids of all names after it.
        raise InputError(f"{source}, {word} {names.index('') + first} is blank; remove the empty line or name")
    seen: set[str] = set()
    for position, name in enumerate(names, start=first):
        if NO_TEXT.search(name):
            raise InputError(f"{source}, {word} {position}: {name[:80]!r} holds a line end or a control character; correct it")
        if name in seen and name != PLACEHOLDER:
            raise InputError(f'{source}, {word} {position}: the class "{name}" stands there twice; remove one')
        seen.add(name)
    return names


def translate_old_names(names: Sequence[str], known: Collection[str]) -> list[str]:
    """The names, where one that is not known but whose other spelling is known takes that spelling, see COCO_OLD_NAMES.

    So a detector of coco.names ("sofa") agrees with annotations of COCO ("couch"), and the other way round. A list that has
    both spellings means two classes by them and keeps both.
    """
    other = COCO_OLD_NAMES | {new: old for old, new in COCO_OLD_NAMES.items()}
    usable = set(known) - set(names)
    return [other[name] if name not in known and other.get(name) in usable else name for name in names]


def _names_from_json(content: object, path: Path) -> list[str]:
    if isinstance(content, list):
        names = content
    elif isinstance(content, dict):
        ids = [number for number in content.values() if isinstance(number, (int, str))]
        if sorted(map(str, ids)) != sorted(str(k + 1) for k in range(len(content))):
            raise InputError(f"class file {path}: the ids must be 1..{len(content)}, each once (0 is the background)")
        names = sorted(content, key=lambda name: int(content[name]))
    else:
        raise InputError(f"class file {path} must hold a list of names or an object name -> id")
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"class file {path}: every class name must be a string")
    return [name.strip() for name in names]


def _read_text(path: Path) -> str:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"class file {path} does not exist; give a .json or .txt file with the class names")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"class file {path} cannot be read ({error}); save it as UTF-8 text") from error
    except OSError as error:
        raise InputError(f"class file {path} cannot be opened ({error.strerror})") from error


def _is_background(name: str) -> bool:
    return name.strip("_").lower() == BACKGROUND  # torchvision and others write __background__
