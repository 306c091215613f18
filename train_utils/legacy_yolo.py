"""What the flags of other YOLOv3 trainers mean here; `legacy_flags` has the rules' language and applies them.

The command lines of the 2019 trainer (train.py, test.py), of its later versions, and of the course repository's yolov3_spp.
"""

from collections.abc import Sequence
from pathlib import Path

from train_utils.errors import InputError
from train_utils.legacy_flags import SHARED, Rule, drop, drop_if_empty, flags_in, rename, switch, unsupported


def true_or_false(on: list[str], off: list[str]) -> Rule:
    """A flag with an optional value of its own, a path or a number, that is also typed with True or False."""

    def rule(flag: str, values: list[str]) -> list[str]:
        word = values[0].lower() if values else "true"
        return {"true": on, "false": off, "": off}.get(word, [flag, *values])

    return rule


def data_file(flag: str, values: list[str]) -> list[str]:
    """`--data-cfg coco.data`: the two kinds of file that describe a data set of label text files, or else any data.

    Such files lie apart from the data, and those trainers follow them anywhere.
    """
    described = values and Path(values[0]).suffix.lower() in (".data", ".yaml", ".yml")
    return [*(["--dataset", "yolo", "--allow-outside"] if described else []), "--data-path", *values]


def device(flag: str, values: list[str]) -> list[str]:
    """`--device 0` is the first GPU; several GPUs need a process each."""
    word = values[0] if values else ""
    if "," in word:
        raise InputError(f"{flag} {word}: one process uses one GPU here; start one for each with torchrun --nproc-per-node "
                         f"{word.strip(',').count(',') + 1} and leave the flag out")
    if word.isdigit():
        return [flag, f"cuda:{word}"]
    return [flag, *values] if word else []


def run_name(flag: str, values: list[str]) -> list[str]:
    """`--name mine`: what used to be put into file names is a run folder's name."""
    return [] if values in ([], [""]) else ["--output-dir", f"runs/{values[0]}"]


def matching_iou(flag: str, values: list[str]) -> list[str]:
    """test.py's IoU of a right detection in 2019, and later that of NMS: only the usual .5 needs no decision."""
    try:
        usual = float(values[0]) == 0.5
    except (IndexError, ValueError):
        usual = False
    if not usual:
        raise InputError(f"{' '.join([flag, *values])} is not clear: metrics are at IoU 0.5 and 0.5:0.95 always; "
                         "for the IoU of NMS use --box-nms-thresh")
    return []


YOLO: dict[str, Rule] = {
    **SHARED,
    "--data-cfg": data_file,
    "--data": data_file,
    "--num-workers": rename("--workers"),
    "--single-cls": switch(["--single-cls"], []),
    "--cache-images": switch(["--cache-images"], []),
    "--multi-scale": switch(["--multi-scale"], []),
    "--rect": switch(["--rect"], []),
    "--xywh": switch(["--xywh"], []),
    "--adam": switch(["--opt", "adamw"], []),
    "--resume": true_or_false(["--resume", "auto"], []),
    "--transfer": true_or_false(["--transfer"], []),
    "--freeze-layers": true_or_false(["--freeze-layers"], []),
    "--evolve": true_or_false(["--evolve"], []),
    "--device": device,
    "--conf-thres": rename("--box-score-thresh"),
    "--conf-thresh": rename("--box-score-thresh"),
    "--nms-thres": rename("--box-nms-thresh"),
    "--nms-thresh": rename("--box-nms-thresh"),
    "--iou-thres": matching_iou,
    "--save-json": unsupported("training writes detections.json into its run folder after each evaluation; leave the flag out"),
    "--nosave": switch(["--nosave"], []),
    "--notest": switch(["--notest"], []),
    "--savebest": drop,  # last.pth and best.pth are both kept, always
    "--name": run_name,
    "--bucket": drop_if_empty,
    "--var": drop,  # did nothing there either
    "--rank": drop,  # torchrun sets it
    "--local-rank": drop,
}


def has_yolo_2019_flags(argv: Sequence[str]) -> bool:
    """Whether a command line has a flag, in either spelling, that the trainer of 2019 alone has: it gets its defaults."""
    return "--data-cfg" in flags_in(argv)
