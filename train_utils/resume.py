"""What a run saves to go on later, and what must fit when it does."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from train_utils.checkpoint import load_checkpoint, save_checkpoint
from train_utils.distributed_utils import broadcast_object, is_main_process, say
from train_utils.errors import InputError
from train_utils.rebuild import script_hash
from train_utils.run_folder import RunFolder, find_resume

# settings that may differ between a run and its continuation without a word
VOLATILE = {
    "resume", "weights", "weights_backbone", "notes", "device", "rank", "world_size", "gpu", "distributed", "output_dir",
    "workers", "print_freq",
}
# what of the model may be changed by the command line of a continuation or a test
THRESHOLDS = {"box_score_thresh", "box_nms_thresh", "box_detections_per_img",  # Faster R-CNN's names
              "score_thresh", "nms_thresh", "detections_per_img"}


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
    folder = Path(settings["output_dir"] or default)
    if resume_path and (settings["resume"] == "auto" or not settings["output_dir"]):
        folder = resume_path.parent
    goes_on = resume_path is not None and folder.resolve() == resume_path.parent.resolve()
    run = RunFolder(folder, resume=goes_on, enabled=is_main_process(), **options)
    run.write_args(settings)
    run.write_classes(class_names)
    say(f"run folder: {run.path}")
    return run


def training_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    ema: nn.Module | None,
    epoch: int,
    *,
    model_args: dict,
    class_names: list[str],
    category_ids: list[int],
    settings: dict,
    script: Path,
) -> dict:
    """Everything needed to go on after `epoch`, and to rebuild the model without the command line.

    Args:
        model: without DistributedDataParallel around it.
        category_ids: the data set's own id of each class, for results in its numbering.
        settings: the script's flags, `vars(args)`.
        script: the file of the script, whose `create_model(model_args, class_names)` rebuilds the model.
    """
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "ema": ema.state_dict() if ema else None,
        "epoch": epoch,
        "args": settings,
        "model_args": model_args,
        "class_names": class_names,
        "category_ids": category_ids,
        "script": script.stem,
        "script_hash": script_hash(script),
    }


def check_resume(checkpoint: dict, path: Path, *, class_names: list[str], settings: dict, script: Path) -> list[str]:
    """Refuse what cannot be continued; returns the settings that differ from those the run began with, for the log.

    Raises:
        InputError: another script's checkpoint, another class list, another backbone, or nothing left to do.
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
    old = checkpoint["args"]
    for name in ("backbone", "net", "opt"):
        if name in settings and not (name == "opt" and settings["test_only"]) and old.get(name) != settings[name]:
            raise InputError(f"{path} has --{name} {old.get(name)}, the command says {settings[name]}: make them equal")
    done = checkpoint["epoch"] + 1
    if done >= settings["epochs"] and not settings["test_only"]:
        raise InputError(f"{path} has done {done} epochs and --epochs is {settings['epochs']}: raise it to go on")
    return [
        f"{name} {old[name]} -> {value}"
        for name, value in settings.items()
        if name not in VOLATILE and name in old and old[name] != value
    ]


def merge_model_args(stored: dict, wanted: dict) -> tuple[dict, list[str]]:
    """The model values of a checkpoint with the thresholds of this command; and what else the command would have changed."""
    merged = stored | {name: wanted[name] for name in THRESHOLDS if name in wanted}
    kept = [f"{name} {merged[name]} (the command says {value})" for name, value in wanted.items()
            if name in merged and merged[name] != value and name not in ("norm", "norm_eps", "default_boxes")]
    return merged, kept


def restore_best(folder: Path, resume_path: Path, epoch: int, best: int | None) -> None:
    """Make best.pth of a continued run the checkpoint of its best epoch so far, or remove one from an abandoned future.

    Args:
        folder: of the run that goes on; may be another than the checkpoint's.
        epoch: of the checkpoint that is continued.
        best: the best epoch among the rows it holds.
    """
    source, target = resume_path.parent / "best.pth", folder / "best.pth"
    if best == epoch:
        source = resume_path
    elif best is None or not source.is_file() or load_checkpoint(source)["epoch"] != best:
        target.unlink(missing_ok=True)
        return
    if source.resolve() != target.resolve():
        save_checkpoint(load_checkpoint(source), target)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Momentum and the like from a checkpoint; rates and decay stay those of this command."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings):
        group.update(own)
        group["initial_lr"] = own["lr"]
