"""What a run says: the class table before it, the metrics and pictures of an evaluation, the last words."""

from collections import Counter

import torch
from torch import Tensor

from train_utils.any_dataset import ground_truth_of
from train_utils.best_epoch import best_epoch
from train_utils.coco_eval import STAT_NAMES, CocoResult, explain_zero, to_coco_json
from train_utils.distributed_utils import is_main_process, say
from train_utils.draw import draw_validation
from train_utils.metric_logger import MetricLogger
from train_utils.run_folder import RunFolder
from train_utils.tensorboard import CLASS_AP
from train_utils.voc_eval import score_voc_both


def say_classes(data_sets: dict) -> None:
    """Print each class with its label and its boxes in every data set of {"training": ..., "validation": ...}."""
    counts = [Counter(ground_truth_of(data)["labels"].tolist()) for data in data_sets.values()]
    images = " and ".join(f"{len(data)} {name}" for name, data in data_sets.items())
    names = next(iter(data_sets.values())).class_names
    boxes = (f"{label} {name}: {' + '.join(str(count[label]) for count in counts)}" for label, name in enumerate(names, 1))
    say(f"{images} images; label class: boxes", "  " + ", ".join(boxes))


def epoch_row(
    epoch: int, mean_loss: Tensor, lr: float, logger: MetricLogger, images: int, device: torch.device
) -> dict:
    """The results of an epoch's training as a row for `RunFolder.add_row`; memory is the peak on a CUDA device in MiB."""
    parts = {name: meter.global_avg for name, meter in logger.meters.items() if name.startswith("loss_")}
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    return {
        "epoch": epoch,
        "stats": None,
        "mean_loss": mean_loss.item(),
        "lr": lr,
        **parts,
        "seconds": logger.seconds,
        "images_per_second": images / logger.seconds,
        "memory_mb": memory,
    }


def evaluation_columns(result: CocoResult) -> dict:
    """The results of an evaluation as part of such a row: the 12 numbers, and the AP at IoU 0.5 of every class by name."""
    return {"stats": result.stats, **{f"{CLASS_AP}{entry['name']}": entry["AP50"] for entry in result.per_class}}


def report_evaluation(run: RunFolder, result: CocoResult, detections: dict, val_set, truth: dict) -> dict:
    """Print the 12 numbers; write metrics.json, detections.json (COCO results) and predictions.png. Rank 0 only.

    truth: `ground_truth_of(val_set)`. An AP of zero is explained by its likely causes. Returns what is in metrics.json, nothing
    on other ranks.
    """
    if not is_main_process():
        return {}
    say(*result.lines)
    if result.stats[0] <= 0 and (why := explain_zero(truth, detections)):
        say(f"AP is {result.stats[0]:.3f}: {why}")
    metrics = {
        "coco": dict(zip(STAT_NAMES, result.stats)),
        **score_voc_both(truth, detections),
        "per_class": result.per_class,
    }
    run.write_metrics(metrics)
    run.write_detections(to_coco_json(truth, detections))
    with run.keep_going("predictions.png"):
        draw_validation(val_set, truth, detections, run.path / "predictions.png")
    return metrics


def say_best(run: RunFolder, metric: str) -> None:
    """The last words of a run: its best epoch, and where everything is."""
    best = best_epoch(run.rows, metric)
    if best is not None:
        stats = next(row["stats"] for row in run.rows if row["epoch"] == best)
        say(f"best {metric} in epoch {best}: AP {stats[0]:.3f}, AP50 {stats[1]:.3f}; everything is in {run.path}")
