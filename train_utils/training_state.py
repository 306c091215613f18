"""All that a run needs to go on but its place: weights, optimiser, averages, counts, and what they came from."""

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from train_utils.any_dataset import ground_truth_of, has_annotations, image_path
from train_utils.bad_samples import BadSamples
from train_utils.checkpoint import load_checkpoint
from train_utils.distributed_utils import broadcast_object, is_main_process
from train_utils.ema import ModelEma
from train_utils.errors import InputError
from train_utils.nonfinite import NonFiniteGuard
from train_utils.rebuild import script_hash
from train_utils.run_folder import RunFolder


def training_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    ema: ModelEma | None,
    bad_samples: BadSamples,
    guard: NonFiniteGuard,
    *,
    model_args: dict,
    class_names: list[str],
    category_ids: list[int],
    settings: dict,
    script: Path,
    data: dict,
) -> dict:
    """Everything but its position that a run needs to go on, and to rebuild the model without the command line.

    Args:
        model: without DistributedDataParallel around it.
        category_ids: the data set's own id of each class, for results in its numbering.
        settings: the script's flags, `vars(args)`.
        script: the file of the script, whose `create_model(model_args, class_names)` rebuilds the model.
        data: the `fingerprint` of each data set.
    """
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "ema": ema.state_dict() if ema else None,
        "bad_samples": sorted(bad_samples.paths),
        "guard": guard.state_dict(),
        "args": settings,
        "model_args": model_args,
        "class_names": class_names,
        "category_ids": category_ids,
        "data": data,
        "software": software(),
        "script": script.stem,
        "script_hash": script_hash(script),
    }


def restore_training(
    checkpoint: dict,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    ema: ModelEma | None,
) -> None:
    """Weights, momentum, scale and average as `training_state` saved them; an average that is new begins at the weights."""
    model.load_state_dict(checkpoint["model"])
    restore_optimizer(optimizer, checkpoint["optimizer"])
    scaler.load_state_dict(checkpoint["scaler"] or scaler.state_dict())
    if ema:
        ema.load_state_dict(checkpoint["ema"] or {"model": model.state_dict(), "updates": 0})


def load_on_main(path: Path) -> dict:
    """The checkpoint as rank 0 reads it, on every process: another machine may have no such file, or an older one."""
    loaded, error = None, None
    if is_main_process():
        try:
            loaded = load_checkpoint(path)
        except (InputError, OSError) as caught:  # all must leave, or the others wait for ever
            error = caught
    loaded, error = broadcast_object((loaded, error))
    if error is not None:
        raise error
    return loaded


def restore_counts(checkpoint: dict, bad_samples: BadSamples, guard: NonFiniteGuard) -> None:
    """What a run has counted so far against its limits."""
    bad_samples.paths.update(checkpoint.get("bad_samples", ()))
    guard.load_state_dict(checkpoint.get("guard", guard.state_dict()))


def go_back(run: RunFolder, *parts) -> None:
    """Take back the weights that the run saved last; the parts are those of `restore_training`. All processes call it.

    Raises:
        InputError: nothing was saved yet.
    """
    newest = broadcast_object(run.newest)
    if newest is None:
        raise InputError("there are no weights to go back to, for the run was not saved yet: give --save-every-steps")
    restore_training(load_on_main(newest), *parts)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Momentum and the like from a checkpoint; rates and decay stay those of this command."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings):
        group.update(own)
        group["initial_lr"] = own["lr"]


def software() -> dict:
    """What besides settings and data decides the last bits of a result."""
    return {**{name: metadata.version(name) for name in ("torch", "torchvision")}, "threads": torch.get_num_threads()}


def fingerprint(dataset: Dataset | Sequence) -> dict:
    """What tells whether a data set is the same as before: counts, and a hash of classes, image names, sizes and objects.

    Folders do not count: a data set may move. Of one that has nothing but samples only their number is looked at, for reading
    all of them takes long.
    """
    digest, objects = hashlib.sha256(str(len(dataset)).encode()), None
    if has_annotations(dataset):
        truth = ground_truth_of(dataset)
        objects = len(truth["labels"])
        digest.update("\n".join(truth["class_names"]).encode())
        for name in ("heights", "widths", "image_index", "boxes", "labels", "iscrowd", "difficult"):
            digest.update(np.ascontiguousarray(truth[name]).tobytes())
        names = (Path(image_path(dataset, index)).name for index in range(len(dataset)))
        digest.update("\n".join(names).encode(errors="surrogateescape"))
    return {"images": len(dataset), "objects": objects, "hash": digest.hexdigest()}
