"""Ancestral spellings of flags, rewritten to ours before parsing.

People bring command lines from the course repository and from torchvision's reference scripts. A table per script
says what each of their flags means here; `modernise` applies it and says in one line what it took. The script itself
sees modern names only.

A rule is called with the values that follow its flag and returns the replacing words, or raises `InputError`.
"""

import argparse
from collections.abc import Callable, Sequence

from train_utils.errors import InputError

Rule = Callable[[str, list[str]], list[str]]

TRUE, FALSE = {"true", "yes", "1", "on"}, {"false", "no", "0", "off"}


def rename(new: str) -> Rule:
    """The same values under a new name."""
    return lambda flag, values: [new, *values]


def drop(flag: str, values: list[str]) -> list[str]:
    """A flag that has no meaning here, with its values."""
    return []


def switch(on: list[str], off: list[str]) -> Rule:
    """A boolean written with or without a value: `--amp`, `--amp True`, `--amp False`."""

    def rule(flag: str, values: list[str]) -> list[str]:
        word = values[0].lower() if values else "true"
        if word in TRUE:
            return on
        return off if word in FALSE else [flag, *values]

    return rule


def drop_if_empty(flag: str, values: list[str]) -> list[str]:
    """`--resume ''` means no resume."""
    return [] if values == [""] else [flag, *values]


def choices(new: str, table: dict[str, list[str]], remedy: str) -> Rule:
    """A flag whose values have other names here, or stand for other flags."""

    def rule(flag: str, values: list[str]) -> list[str]:
        value = values[0].lower() if values else ""
        if value in table:
            return table[value]
        if new and new != flag and value:
            raise InputError(f"{flag} {value} is not known here: {remedy}")
        return [new, value] if value else [new]

    return rule


def unsupported(remedy: str) -> Rule:
    """A flag whose meaning does not exist here."""

    def rule(flag: str, values: list[str]) -> list[str]:
        raise InputError(f"{flag} is not supported: {remedy}")

    return rule


# torchvision's multi-scale recipe: one of these short sides is drawn for every image
MULTI_SCALE_SIDES = [str(side) for side in range(480, 801, 32)]

# Rules shared by every script. Left: their flag, dashes instead of underscores.
SHARED: dict[str, Rule] = {
    "--amp": switch(["--amp"], ["--amp", "off"]),
    "--no-amp": lambda flag, values: ["--amp", "off"],
    "--sync-bn": switch(["--sync-bn"], []),
    "--test-only": switch(["--test-only"], []),
    "--resume": drop_if_empty,
    "--weights": drop_if_empty,
    "--weights-backbone": lambda flag, values: [flag, "none"] if values in ([""], ["None"]) else [flag, *values],
    "--opt": lambda flag, values: [flag, *(value.lower() for value in values)],
    "--world-size": drop,  # torchrun sets it
    "--backend": drop,  # image decoding and transforms have one implementation here
    "--use-v2": drop,
    "--use-deterministic-algorithms": rename("--deterministic"),
    "--lr-scheduler": choices(
        "--lr-scheduler",
        {
            "multisteplr": ["--lr-scheduler", "multistep"],
            "steplr": ["--lr-scheduler", "step"],
            "cosineannealinglr": ["--lr-scheduler", "cosine"],
        },
        "",
    ),
}

# train_res50_fpn, train_mobilenetv2, change_backbone_*, train_multi_GPU, the COCO project, validation (course
# repository); references/detection/train.py (torchvision).
FASTER_RCNN: dict[str, Rule] = {
    **SHARED,
    "--weights-path": lambda flag, values: ["--weights", *values, "--test-only"],  # the course's validation script
    "--pretrained": lambda flag, values: ["--weights", "DEFAULT"],
    "--model": choices(
        "--backbone",
        {
            f"fasterrcnn_{name}": ["--backbone", name]
            for name in ("resnet50_fpn", "resnet50_fpn_v2", "mobilenet_v3_large_fpn", "mobilenet_v3_large_320_fpn")
        },
        "this script trains Faster R-CNN; name one of its backbones with --backbone",
    ),
    "--data-augmentation": choices(
        "--augmentation",
        {"hflip": [], "multiscale": ["--min-size", *MULTI_SCALE_SIDES]},
        "use hflip (the default here), multiscale (--min-size with several sides) or --photometric",
    ),
    "--use-copypaste": unsupported("copy-paste needs masks, and Faster R-CNN trains on boxes; remove the flag"),
}


def modernise(
    argv: Sequence[str], table: dict[str, Rule], parser: argparse.ArgumentParser
) -> tuple[list[str], list[str]]:
    """Rewrite a command line to the flags of `parser`.

    Underscores in flag names become dashes, `--flag=value` is split, and the table's rules are applied.

    Returns:
        (the new command line, one line of explanation for each flag whose meaning or spelling changed).

    Raises:
        InputError: a rule refuses a flag.
    """
    known = {name for action in parser._actions for name in action.option_strings}
    words: list[str] = []
    notes: list[str] = []
    for typed, flag, values in split_flags(argv, known | set(table)):
        new = table[flag](flag, values) if flag in table else [flag, *values]
        if new != [typed, *values]:
            notes.append(f"{' '.join([typed, *values])} -> {' '.join(new) or 'dropped, not needed here'}")
        words += new if flag else values
    return words, notes


def is_number(word: str) -> bool:
    """True for the negative numbers that look like a short flag."""
    return word[1:].replace(".", "", 1).isdigit()


def split_flags(argv: Sequence[str], known: set[str]) -> list[tuple[str, str, list[str]]]:
    """A command line as (flag as typed, flag with dashes, values); words before the first flag come under the flag ""."""
    found: list[tuple[str, str, list[str]]] = []
    for word in argv:
        name, equals, value = word.partition("=")
        dashed = name.replace("_", "-") if name.startswith("--") else name
        if dashed in known:
            found.append((name, dashed, [value] if equals else []))
        elif word.startswith("-") and not is_number(word):
            found.append((word, word, []))  # unknown, or a short flag with its value attached: argparse judges it
        elif found:
            found[-1][2].append(word)
        else:
            found.append(("", "", [word]))
    return found
