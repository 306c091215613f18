"""Ancestral spellings of flags, rewritten to ours before parsing.

People bring command lines from the course repository, torchvision's reference scripts and jetson-inference. A table per
script says what each of their flags means here; `modernise` applies it and says in one line what it took. The script itself
sees modern names only.

A rule is called with the values that follow its flag and returns the replacing words, or raises `InputError`.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

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


def data_format(flag: str, values: list[str]) -> list[str]:
    """The format of the data; `open_images` is jetson's word for `openimages`."""
    return ["--dataset", *("openimages" if value == "open_images" else value for value in values)]


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
    "--dataset": data_format,
    "--sync-bn": switch(["--sync-bn"], []),
    "--test-only": switch(["--test-only"], []),
    "--resume": drop_if_empty,
    "--weights": drop_if_empty,
    "--weights-backbone": lambda flag, values: [flag, "none"] if values in ([""], ["None"]) else [flag, *values],
    "--opt": lambda flag, values: [flag, *(value.lower() for value in values)],
    "--weights-path": lambda flag, values: ["--weights", *values, "--test-only"],  # the course's validation script
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

def resume_or_weights(flag: str, values: list[str]) -> list[str]:
    """`--resume` takes one of our checkpoints; jetson's loads nothing but weights, from a file with a name of its own."""
    if values == [""]:
        return []
    is_jetsons = values and "-Epoch-" in Path(values[0]).name
    return ["--weights" if is_jetsons else flag, *values]


# train_ssd_voc12.py (course repository), references/detection/train.py (torchvision), train_ssd.py (jetson-inference
# and the pytorch-ssd that it comes from).
SSD: dict[str, Rule] = {
    **SHARED,
    "--pretrained": lambda flag, values: ["--weights", "DEFAULT"],
    "--model": choices(
        "--net",
        {
            "ssd300_vgg16": ["--net", "ssd300-vgg16"],
            "ssdlite320_mobilenet_v3_large": ["--net", "ssdlite320-mobilenet-v3-large"],
        },
        "this script trains SSD; name one of its networks with --net",
    ),
    "--data-augmentation": choices(
        "--augmentation",
        {name: ["--augmentation", name] for name in ("hflip", "ssd", "ssdlite")},
        "use hflip, ssd, ssdlite or nvidia",
    ),
    "--use-copypaste": unsupported("copy-paste needs masks, and SSD trains on boxes; remove the flag"),
    "--aspect-ratio-group-factor": drop,  # every image is stretched to the same square
    "--resume": resume_or_weights,
    "--dataset-type": data_format,
    "--datasets": rename("--data-path"),
    "--data": rename("--data-path"),
    "--validation-dataset": rename("--val-data-path"),
    "--base-net": rename("--weights-backbone"),
    "--pretrained-ssd": rename("--weights"),
    "--learning-rate": rename("--lr"),
    "--gamma": rename("--lr-gamma"),
    "--scheduler": choices("--lr-scheduler", {"multi-step": ["--lr-scheduler", "multistep"],
                                              "cosine": ["--lr-scheduler", "cosine"]}, "use cosine or multi-step"),
    "--milestones": lambda flag, values: ["--lr-steps", *(n for value in values for n in value.replace(",", " ").split())],
    "--num-epochs": rename("--epochs"),
    "--num-workers": rename("--workers"),
    "--validation-epochs": rename("--eval-every"),
    "--validation-mean-ap": switch(["--validation-mean-ap"], []),
    "--balance-data": switch(["--balance-data"], []),
    "--freeze-base-net": switch(["--freeze-base-net"], []),
    "--freeze-net": switch(["--freeze-net"], []),
    "--debug-steps": rename("--print-freq"),
    "--checkpoint-folder": rename("--output-dir"),
    "--model-dir": rename("--output-dir"),
    "--use-cuda": switch([], ["--device", "cpu"]),
    "--log-level": drop,  # there is one level here
}

# Who types one of these has a habit of jetson-inference, and gets its defaults.
JETSON_FLAGS = {
    "--dataset-type", "--datasets", "--data", "--validation-dataset", "--balance-data", "--mb2-width-mult", "--base-net",
    "--pretrained-ssd", "--freeze-base-net", "--freeze-net", "--learning-rate", "--gamma", "--base-net-lr",
    "--extra-layers-lr", "--scheduler", "--milestones", "--t-max", "--num-epochs", "--num-workers", "--validation-epochs",
    "--validation-mean-ap", "--debug-steps", "--checkpoint-folder", "--model-dir", "--use-cuda", "--log-level",
}


def has_jetson_flags(argv: Sequence[str]) -> bool:
    """Whether a command line uses a flag, in either spelling, that jetson-inference's train_ssd.py alone has."""
    return bool(flags_in(argv) & JETSON_FLAGS)


def flags_in(argv: Sequence[str]) -> set[str]:
    """The flags of a command line, with dashes."""
    return {word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--")}


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


def data_or_format(flag: str, values: list[str]) -> list[str]:
    """`--dataset` is a folder to jetson-inference's eval_ssd.py, and a format here."""
    known = ("auto", "voc", "coco", "openimages", "open_images", "yolo", "shapes")
    return data_format(flag, values) if set(values) <= set(known) else ["--data-path", *values]


# validation.py (course repository), eval_ssd.py (jetson-inference), test.py (YOLOv3 trainers of 2019 and 2020).
EVALUATE: dict[str, Rule] = {
    "--amp": SHARED["--amp"],
    "--dataset": data_or_format,
    "--dataset-type": data_format,
    "--weights-path": rename("--weights"),
    "--trained-model": rename("--weights"),
    "--label-file": rename("--labels"),
    "--data": lambda flag, values: ["--dataset", "yolo", "--data-path", *values, "--allow-outside"],
    "--use-cuda": switch([], ["--device", "cpu"]),
    "--use-2007-metric": drop,  # both are printed
    "--nms-method": choices("", {"hard": []}, "boxes are suppressed hard; remove the flag"),
    "--mb2-width-mult": drop,  # the tensors tell
    "--iou-threshold": rename("--iou"),
    "--conf-thres": rename("--score-thresh"),
    "--iou-thres": rename("--nms-thresh"),
    "--eval-dir": rename("--output-dir"),
    "--single-cls": switch(["--single-cls"], ["--no-single-cls"]),
    "--device": lambda flag, values: [flag, *(f"cuda:{value}" if value.isdigit() else value for value in values)],
    "--test-only": drop,
    "--task": choices("", {"test": [], "val": []}, "this script evaluates; train with the training scripts"),
    "--verbose": drop,
    "--augment": unsupported("there is no test-time augmentation; remove the flag"),
    "--save-json": drop,  # always written
}
