"""The loop over one epoch and the evaluation of one checkpoint, the same for every detector.

All they ask of a model is the contract: `losses = model(images, targets)` with 0-dim `loss_*` tensors whenever targets
are given, `detections = model(images)` otherwise. `train_one_epoch` is short on purpose: paste it into your script
when you need another one.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from train_utils.any_dataset import ground_truth_of, image_path, indices_of
from train_utils.bad_samples import BadSamples
from train_utils.coco_eval import CocoResult, CocoScorer
from train_utils.distributed_utils import (
    broadcast_buffers,
    broadcast_object,
    gather_objects,
    get_rank,
    is_main_process,
    reduce_dict,
    say,
    unwrap,
)
from train_utils.errors import InputError
from train_utils.failures import LESS_MEMORY, explain_failures
from train_utils.freeze import frozen_stay_in_eval
from train_utils.lr_schedule import set_lr
from train_utils.metric_logger import MetricLogger
from train_utils.nonfinite import NonFiniteGuard
from train_utils.signals import StopSignal, until_stopped

MAX_OVERFLOWS = 10  # fp16: so many steps in a row without a finite loss are no accident


def train_one_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data_loader: Iterable,
    device: torch.device,
    epoch: int,
    print_freq: int = 50,
    warmup: bool = False,
    scaler: torch.amp.GradScaler | None = None,
    *,
    lr_factor: Callable[[int], float] | None = None,
    amp_dtype: torch.dtype | None = None,
    accumulate: int = 1,
    clip_grad_norm: float = 0.0,
    ema: Any = None,
    seed: int | None = None,
    bad_samples: BadSamples | None = None,
    logger: MetricLogger | None = None,
    first_batch: int = 0,
    after_step: Callable[[int], None] | None = None,
    guard: NonFiniteGuard | None = None,
) -> tuple[Tensor, float]:
    """Train for one pass over `data_loader`.

    Args:
        model: the detector, wrapped in DistributedDataParallel or not.
        data_loader: yields (images, targets), with an exact `len`.
        warmup: without `lr_factor`, raise the rate linearly over the first steps of epoch 0.
        scaler: for fp16; a scaler alone means autocast to fp16.
        lr_factor: learning rate of an optimiser step as a multiple of each group's `initial_lr`.
        amp_dtype: autocast to this type.
        accumulate: batches per optimiser step; gradients are averaged over the window as it really is.
        clip_grad_norm: largest total gradient norm, 0 for no clipping.
        ema: object with `update(model)`, called after every optimiser step.
        seed: reseeds the random choices inside each step from (seed, step, rank); None leaves them alone.
        bad_samples: counts samples that could not be read and stops above its limit.
        logger: meters of the epoch, for the caller to read.
        first_batch: number of the loader's first batch in the epoch, where those before were done before a restart; all
            batches may have been.
        after_step: called with the number of batches done after every optimiser step; may raise to leave.
        guard: decides what becomes of a loss that is not finite; default: it ends the training.

    Returns:
        (mean total loss over the steps and processes as a 1-element tensor, learning rate of group 0 at the last step).

    Raises:
        InputError: the loader is empty.
        LossNotFinite: its parts and the images' paths are in the message.
    """
    logger = logger if logger is not None else MetricLogger(enabled=is_main_process())
    scaler = scaler if scaler is not None and scaler.is_enabled() else None
    amp_dtype = amp_dtype or (torch.float16 if scaler else None)
    guard = guard or NonFiniteGuard("stop")
    num_batches = len(data_loader)
    if num_batches == 0:
        raise InputError("the training data does not fill a single batch: lower --batch-size")
    if lr_factor is None and warmup and epoch == 0:
        lr_factor = warmup_factor(min(1000, num_batches - 1))
    model.train()
    frozen_stay_in_eval(model)
    steps_per_epoch = math.ceil(num_batches / accumulate)
    if lr_factor is not None and first_batch == num_batches:  # no step left, but the rate of the last one is saved, too
        set_lr(optimizer, lr_factor((epoch + 1) * steps_per_epoch - 1))
    batches = logger.log_every(data_loader, print_freq, f"Epoch: [{epoch}]", first_batch, num_batches)
    given_up = False  # whether the gradients of the window under way are of no use
    with explain_failures(LESS_MEMORY) as working_on:
        for i, (images, targets) in enumerate(batches, first_batch):
            step, window_start = epoch * steps_per_epoch + i // accumulate, i - i % accumulate
            window = min(accumulate, num_batches - window_start)  # the last window of an epoch may be shorter
            last_of_window = i == window_start + window - 1
            if lr_factor is not None:
                set_lr(optimizer, lr_factor(step))
            if seed is not None:
                seed_step(seed, epoch * num_batches + i)
            if bad_samples is not None:
                bad_samples.count(targets)
            working_on(images, targets)
            images, targets = to_device(images, targets, device)
            with no_sync(model, not last_of_window):
                with autocast(device, amp_dtype):
                    losses = parts_to_sum(model(images, targets))
                finite = log_losses(reduce_dict(losses), logger)
                guard.overflows = 0 if finite else guard.overflows + 1
                if not finite and (scaler is None or guard.overflows > MAX_OVERFLOWS):
                    message = not_finite_message(losses, step, targets, data_loader)
                    guard(message, model, optimizer, (images, targets), losses, step)
                    given_up = True
                if not given_up:
                    total = sum(losses.values()) / window
                    (scaler.scale(total) if scaler else total).backward()
            if last_of_window and given_up:
                optimizer.zero_grad(set_to_none=True)
                given_up = False
            elif last_of_window:
                optimizer_step(model, optimizer, scaler, clip_grad_norm)
                if ema is not None:
                    ema.update(unwrap(model))
            logger.update(lr=optimizer.param_groups[0]["lr"])
            if last_of_window and after_step is not None:
                after_step(i + 1)
    if bad_samples is not None:
        bad_samples.check()
    means = logger.means()
    return torch.tensor([means.get("loss", math.nan)]), logger.meters["lr"].value


def parts_to_sum(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a loss dict that belong to the sum: those named `loss_*`."""
    return {name: value for name, value in outputs.items() if name.startswith("loss_")}


def log_losses(reduced: dict[str, Tensor], logger: MetricLogger) -> bool:
    """Put the losses into the meters if all are finite, and tell whether they are; one transfer to the host a step.

    `reduced` is the mean over the processes, so all of them come to the same answer.
    """
    values = dict(zip(reduced, torch.stack(list(reduced.values())).tolist()))
    total = sum(values.values())
    if math.isfinite(total):
        logger.update(loss=total, **values)
    return math.isfinite(total)


def not_finite_message(losses: dict[str, Tensor], step: int, targets: list[dict], data_loader: Iterable) -> str:
    """The loss parts and the image files of this process's batch."""
    parts = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
    dataset = getattr(data_loader, "dataset", None)
    paths = ", ".join(image_path(dataset, int(target["image_id"])) for target in targets)
    return (
        f"the loss is not finite at step {step} ({parts}); images of the batch on process {get_rank()}: {paths}. "
        "Usual causes: a learning rate too high for the batch size, or broken boxes in these files"
    )


def optimizer_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None, clip_grad_norm: float
) -> None:
    """Clip (after unscaling), step, and drop the gradients, so that parameters frozen later are truly left alone."""
    if clip_grad_norm > 0:
        if scaler:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def warmup_factor(num_steps: int, start: float = 1 / 1000) -> Callable[[int], float]:
    """Factor from `start` to 1 over `num_steps` optimiser steps; 1 throughout for 0 steps."""
    return lambda step: 1.0 if step >= num_steps else start + (1 - start) * step / num_steps


def seed_step(seed: int, step: int) -> None:
    """Seed torch's global generators for the choices inside a step (proposal sampling, image size, dropout)."""
    words = np.random.SeedSequence([seed, step, get_rank()]).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 31 ^ int(words[1]))


def to_device(images: Iterable[Tensor], targets: Iterable[dict], device: torch.device) -> tuple[list, list]:
    """Images and the tensors of the targets on the device; copies from pinned memory do not wait."""
    images = [image.to(device, non_blocking=True) for image in images]
    targets = [
        {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in target.items()}
        for target in targets
    ]
    return images, targets


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager:
    """Autocast to `dtype`, or nothing for None."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)


def no_sync(model: nn.Module, skip: bool) -> contextlib.AbstractContextManager:
    """Leave out the gradient exchange between processes for all but the last batch of an accumulation window."""
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
    return model.no_sync() if wrapped and skip else contextlib.nullcontext()


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode restored after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def detect(
    model: nn.Module,
    data_loader: Iterable,
    device: torch.device,
    *,
    amp_dtype: torch.dtype | None = None,
    label_map: np.ndarray | None = None,
    print_freq: int = 100,
    stop: StopSignal | None = None,
) -> dict[str, np.ndarray] | None:
    """Detections of a whole data set as flat arrays, gathered once: `image_index`, `labels`, `scores`, `boxes`.

    Args:
        label_map: [C_model + 1] the data set's label for each of the model's labels, 0 where it has none (dropped).
        stop: a signal to break off.

    Returns:
        The arrays on rank 0, None on the others. An image that could not be read has no detections.

    Raises:
        Interrupted: one of the processes got the signal.
    """
    model = unwrap(model)  # DDP's forward would exchange buffers, and the processes have unequal numbers of batches
    broadcast_buffers(model)
    rows: list[tuple[np.ndarray, ...]] = [EMPTY_ROW]
    unreadable: list[str] = []
    progress = MetricLogger(enabled=is_main_process())
    batches = progress.log_every(until_stopped(data_loader, stop), print_freq, "Test:", total=len(data_loader))
    with eval_mode(model), explain_failures("lower --eval-batch-size") as working_on:
        for images, targets in batches:
            working_on(images, targets)
            images, _ = to_device(images, [], device)
            with autocast(device, amp_dtype):
                outputs = model(images)
            for target, output in zip(targets, outputs):
                if "unreadable" in target:
                    unreadable.append(target["unreadable"])
                    continue
                labels = output["labels"].cpu().numpy()
                index = np.full(len(labels), int(target["image_id"]), dtype=np.int64)
                scores, boxes = (output[name].float().cpu().numpy() for name in ("scores", "boxes"))
                rows.append((index, labels, scores, boxes))
    gathered = gather_objects((unreadable, [np.concatenate(column) for column in zip(*rows)]))
    if gathered is None:
        return None
    say(*(f"not evaluated, its objects count as missed: {path}" for paths, _ in gathered for path in paths))
    return merge_detections([arrays for _, arrays in gathered], label_map)


EMPTY_ROW = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))


def merge_detections(
    parts: list[Sequence[np.ndarray]], label_map: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The (image_index, labels, scores, boxes) arrays of all processes as one array each, in the order of the images."""
    image_index, labels, scores, boxes = (np.concatenate(column) for column in zip(*parts))
    if label_map is not None:
        labels = label_map[labels]
    order = np.argsort(image_index, kind="stable")
    keep = order[labels[order] > 0]
    return {"image_index": image_index[keep], "labels": labels[keep], "scores": scores[keep], "boxes": boxes[keep]}


def evaluate_fully(
    model: nn.Module,
    data_loader: Iterable,
    device: torch.device,
    scorer: CocoScorer | None = None,
    **detect_options: Any,
) -> tuple[CocoResult, dict[str, np.ndarray] | None]:
    """COCO metrics of a model on a data set, on every process, and the detections on rank 0.

    Args:
        data_loader: over any data set, see any_dataset.py.
        scorer: the prepared ground truth, to be reused from epoch to epoch.
        detect_options: passed to `detect`.
    """
    detections = detect(model, data_loader, device, **detect_options)
    result = None
    if is_main_process():
        dataset = data_loader.dataset
        scorer = scorer or CocoScorer(ground_truth_of(dataset))
        detections["image_index"] = indices_of(dataset, detections["image_index"], scorer.ground_truth)
        result = scorer.score(detections)
    return broadcast_object(result), detections


def evaluate(model: nn.Module, data_loader: Iterable, device: torch.device) -> list[float]:
    """The 12 COCO numbers, on every process: AP, AP50, AP75, AP small / medium / large, AR 1 / 10 / 100, AR S / M / L.

    -1 means that the number is not defined for lack of ground truth.
    """
    result, _ = evaluate_fully(model, data_loader, device)
    return result.stats


@torch.no_grad()
def validation_losses(
    model: nn.Module,
    data_loader: Iterable,
    device: torch.device,
    amp_dtype: torch.dtype | None = None,
    seed: int = 0,
    stop: StopSignal | None = None,
) -> dict[str, float]:
    """Mean of every loss over the images of a data set, in evaluation mode.

    Neither BatchNorm statistics nor the global random state change; the choices inside the losses are seeded by image. `stop`
    is as of `detect`.
    """
    model = unwrap(model)
    broadcast_buffers(model)
    totals: dict[str, float] = {}
    num_images = 0
    devices = [device] if torch.device(device).type == "cuda" else []
    with eval_mode(model), torch.random.fork_rng(devices=devices), explain_failures("lower --eval-batch-size") as working_on:
        for images, targets in until_stopped(data_loader, stop):
            working_on(images, targets)
            torch.manual_seed(seed + int(targets[0]["image_id"]))
            images, targets = to_device(images, targets, device)
            with autocast(device, amp_dtype):
                losses = parts_to_sum(model(images, targets))
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(images)
            num_images += len(images)
    return mean_over_processes(totals, num_images)


def mean_over_processes(totals: dict[str, float], count: int) -> dict[str, float]:
    """Sums and counts of all processes -> means, on every process."""
    parts = broadcast_object(gather_objects((totals, count)))
    count = max(1, sum(part[1] for part in parts))
    names = sorted(set().union(*(part[0] for part in parts)))
    return {name: sum(part[0].get(name, 0.0) for part in parts) / count for name in names}


def label_map(model_names: list[str], data_names: list[str]) -> np.ndarray | None:
    """The data set's label for each of the model's labels by class name, 0 for none; None if the lists are equal.

    Raises:
        InputError: the two have no class in common.
    """
    if model_names == data_names:
        return None
    label_of = {name: label for label, name in enumerate(data_names, start=1)}
    mapped = np.array([0] + [label_of.get(name, 0) for name in model_names], dtype=np.int64)
    if not mapped.any():
        raise InputError(f"the model's classes ({', '.join(model_names[:5])}, ...) and the data's "
                         f"({', '.join(data_names[:5])}, ...) have no name in common")
    return mapped
