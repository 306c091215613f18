"""Where a run goes on, and what must fit when it does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train_utils.checkpoint import load_checkpoint
from train_utils.checkpoint_archive import damaged_entry
from train_utils.distributed_utils import broadcast_object, is_main_process, say
from train_utils.errors import InputError
from train_utils.rebuild import script_hash
from train_utils.run_folder import RunFolder, duplicate, find_resume
from train_utils.training_state import software

# settings that may differ between a run and its continuation without a word
VOLATILE = {
    "resume", "resume_anyway", "weights", "weights_backbone", "notes", "device", "rank", "world_size", "gpu", "distributed",
    "dist_url", "output_dir", "workers", "print_freq", "save_every_steps", "save_every_minutes", "keep_last", "tensorboard",
}
# settings without which a run cannot be continued exactly: they decide which images meet in which step (augmentation, which
# decides what becomes of them, may be changed on purpose, and is only named)
OF_THE_ORDER = ("batch_size", "accumulate", "nominal_batch", "world_size", "seed", "aspect_ratio_group_factor")
# what of the model may be changed by the command line of a continuation or a test
THRESHOLDS = {"box_score_thresh", "box_nms_thresh", "box_detections_per_img",  # Faster R-CNN's names
              "score_thresh", "nms_thresh", "detections_per_img"}


class RunIsComplete(SystemExit):
    """`--resume auto` found a run with nothing left to do, which is no failure: exit code 0."""


@dataclass
class Position:
    """Where a run stands: `batches_done` of the batches of `epoch`, all of them if only its evaluation lacks.

    meters: of the logger of that epoch, see `MetricLogger.state_dict`; None at its beginning.
    """

    epoch: int = 0
    batches_done: int = 0
    meters: dict | None = None


def find_resume_path(resume: str | None, output_dir: str) -> Path | None:
    """The checkpoint that `--resume` means: the file named, the newest in `output_dir` for "auto", None for a new run.

    All processes get the answer of rank 0.
    """
    if resume != "auto":
        return Path(resume) if resume else None
    found = broadcast_object(find_resume(output_dir) if is_main_process() else None)
    if found is None:
        say("--resume auto: no checkpoint there, so a new run begins")
    return found


def open_run(settings: dict, default: str, resume_path: Path | None, class_names: list[str], **options: Any) -> RunFolder:
    """A fresh folder for a new run; a run that goes on stays in its checkpoint's, unless `--output-dir` says otherwise.

    Args:
        settings: the script's flags, `vars(args)`; "output_dir" and "resume" decide.
        default: the folder where no `--output-dir` is given.
        options: of `RunFolder`.
    """
    folder, auto = Path(settings["output_dir"] or default), settings["resume"] == "auto"
    if resume_path and (auto or not settings["output_dir"]):
        folder = resume_path.parent
    goes_on = resume_path is not None and folder.resolve() == resume_path.parent.resolve()
    run = RunFolder(folder, resume=goes_on, take_over=auto, enabled=is_main_process(), **options)
    run.newest, last = resume_path, run.path / "last.pth"
    if goes_on and run.enabled and resume_path != last and last.is_file() and damaged_entry(last):
        last.unlink()  # or the next save would put it in the place of the good one before it
    run.write_args(settings)
    run.write_classes(class_names)
    say(f"run folder: {run.path}")
    return run


def check_resume(
    checkpoint: dict, path: Path, *, class_names: list[str], settings: dict, script: Path, data: dict | None = None
) -> list[str]:
    """Refuse what cannot be continued; returns what differs from what the run began with, for the log.

    Args:
        settings: the script's flags, `vars(args)`; with "resume_anyway", what makes a continuation inexact is only named.
        data: the `fingerprint` of each data set; None to test.

    Raises:
        InputError: another script's checkpoint, another class list, another backbone, other data or batches, or no epoch left.
        RunIsComplete: nothing left to do, with `--resume auto`.
    """
    if checkpoint.get("script") != script.stem:
        writer = checkpoint.get("script")
        remedy = f"continue it with {writer}.py" if writer else "to start a new run from its weights use --weights"
        raise InputError(f"{path} was written by {writer or 'another program'}, not by {script.stem}: {remedy}")
    if checkpoint["class_names"] != class_names:
        raise InputError(
            f"{path} has the classes {', '.join(checkpoint['class_names'])}; the data has {', '.join(class_names)}: "
            "to train on other classes start a new run with --weights"
        )
    old, testing = checkpoint["args"], settings["test_only"]
    for name in ("backbone", "net", "opt"):
        if name in settings and not (name == "opt" and testing) and old.get(name) != settings[name]:
            raise InputError(f"{path} has --{name} {old.get(name)}, the command says {settings[name]}: make them equal")
    if not testing:
        _check_epochs_left(checkpoint, path, settings)
    inexact = [] if testing else _inexact(checkpoint, settings, data or {})
    if inexact and not settings["resume_anyway"]:
        raise InputError(f"{path} cannot be continued exactly: {'; '.join(inexact)}. Undo that, or add --resume-anyway")
    harmless = [
        f"{name} {old[name]} -> {value}"
        for name, value in settings.items()
        if name not in VOLATILE and name not in OF_THE_ORDER and name in old and old[name] != value
    ]
    if "script_hash" in checkpoint and checkpoint["script_hash"] != script_hash(script):
        harmless.append(f"{script.name} itself")
    then, now = checkpoint.get("software", {}), software()
    harmless += [f"{name} {then[name]} -> {now.get(name)}" for name in then if then[name] != now.get(name)]
    return inexact + harmless


def _check_epochs_left(checkpoint: dict, path: Path, settings: dict) -> None:
    done = checkpoint["epoch"] + (checkpoint.get("step_in_epoch") is None)
    if done < settings["epochs"]:
        return
    if settings["resume"] == "auto":
        say(f"{path}: all {done} epochs are done; a larger --epochs goes on")
        raise RunIsComplete(0)
    raise InputError(f"{path} has done {done} epochs and --epochs is {settings['epochs']}: raise it to go on")


def _inexact(checkpoint: dict, settings: dict, data: dict) -> list[str]:
    """What of the settings and the data would make a continuation another run."""
    old = checkpoint["args"]
    found = [f"--{name.replace('_', '-')} was {old[name]} and is {settings[name]}" if name != "world_size" else
             f"it ran on {old[name]} process(es), now on {settings[name]}"
             for name in OF_THE_ORDER if name in old and name in settings and old[name] != settings[name]]
    for name, now in data.items():
        then = checkpoint.get("data", data)[name]
        if then["hash"] != now["hash"]:
            found.append(f"the {name} data is not the same ({_counts(then)} then, {_counts(now)} now)")
    return found


def _counts(data: dict) -> str:
    return f"{data['images']} images" + (f" with {data['objects']} objects" if data["objects"] is not None else "")


def find_position(checkpoint: dict, num_batches: int, accumulate: int) -> Position:
    """Where to go on: as far into the epoch as before, also if it has another number of batches now, where a step begins."""
    done = checkpoint.get("step_in_epoch")
    if done is None:
        return Position(checkpoint["epoch"] + 1)
    before = checkpoint["batches_in_epoch"]
    done = num_batches if done == before else done * num_batches // before // accumulate * accumulate
    return Position(checkpoint["epoch"], done, checkpoint["meters"])


def merge_model_args(stored: dict, wanted: dict) -> tuple[dict, list[str]]:
    """The model values of a checkpoint with the thresholds of this command; and what else the command would have changed."""
    merged = stored | {name: wanted[name] for name in THRESHOLDS if name in wanted}
    kept = [f"{name} {merged[name]} (the command says {value})" for name, value in wanted.items()
            if name in merged and merged[name] != value and name not in ("norm", "norm_eps", "default_boxes")]
    return merged, kept


def restore_best(run: RunFolder, resume_path: Path, position: Position, best: int | None) -> None:
    """Make best.pth of a continued run the checkpoint of its best epoch so far, or remove one from an abandoned future.

    An older one, which stayed when the disk was full in the best epoch, is better than none.

    Args:
        run: may have another folder than the checkpoint's.
        position: where it goes on.
        best: the best epoch among the rows it holds.
    """
    if not run.enabled:
        return
    source, target = resume_path.parent / "best.pth", run.path / "best.pth"
    if best is not None and best == position.epoch - 1 and position.meters is None:  # the checkpoint of that very epoch
        source = resume_path
    elif best is None or not _is_of_the_past(source, position):
        source = None
    with run.keep_going("best.pth"):
        if source is None:
            target.unlink(missing_ok=True)
        elif not (target.exists() and source.samefile(target)):
            duplicate(source, target)


def _is_of_the_past(best: Path, position: Position) -> bool:
    try:
        return best.is_file() and load_checkpoint(best)["epoch"] < position.epoch
    except InputError as damaged:
        say(f"warning: {damaged}")
        return False
