"""What users of jetson-inference's train_ssd.py see and collect: its log lines, labels.txt and weights files.

Their tools read these: the export script takes the `.pth` of the lowest loss from the model folder, and labels.txt.
"""

import math
import time

from torch import nn

from train_utils.distributed_utils import say
from train_utils.metric_logger import MetricLogger
from train_utils.run_folder import RunFolder

# their words -> our loss (only one has a colon); their "Loss" is the sum of both
PARTS = {"Regression Loss": "loss_box_reg", "Classification Loss:": "loss_classifier"}


def log(*lines: str) -> None:
    """Print lines in the form `2026-01-31 12:00:00 - line`, on the first process."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    say(*(f"{now} - {line}" for line in lines))


class JetsonLogger(MetricLogger):
    """A `MetricLogger` that shows mean losses since the line before, in jetson's words.

    Args:
        epoch: for the lines.
    """

    def __init__(self, epoch: int, enabled: bool | None = None):
        super().__init__(enabled, bar=False)
        self.epoch = epoch
        self.shown: dict[str, tuple[float, int]] = {}  # (total, count) of each meter at the line before

    def line(self, header: str, number: int, total: int, eta: str, times: str) -> str:
        """As in the base class."""
        now, loss = time.strftime("%Y-%m-%d %H:%M:%S"), self._mean_since_last("loss")
        parts = (f"Avg {words} {self._mean_since_last(name):.4f}" for words, name in PARTS.items())
        return f"{now} - Epoch: {self.epoch}, Step: {number}/{total}, Avg Loss: {loss:.4f}, {', '.join(parts)}"

    def _mean_since_last(self, name: str) -> float:
        if name not in self.meters:
            return 0.0
        total, count = self.meters[name].total, self.meters[name].count
        old_total, old_count = self.shown.get(name, (0.0, 0))
        self.shown[name] = total, count
        return (total - old_total) / max(1, count - old_count)

    def _sum_up(self, header: str, seconds: float, batches: int) -> None:
        """Jetson's own lines for the whole epoch come from `log_losses`."""


def log_losses(epoch: int, phase: str, losses: dict[str, float]) -> None:
    """The losses of an epoch, nan for those that never were finite; phase is "Training" or "Validation"."""
    values = {words: losses.get(name, math.nan) for words, name in PARTS.items()}
    total = sum(values.values())
    parts = (f"{phase} {words} {value:.4f}" for words, value in values.items())
    log(f"Epoch: {epoch}, {phase} Loss: {total:.4f}, {', '.join(parts)}")


def log_average_precision(epoch: int, voc: dict) -> None:
    """AP per class and its mean, of a result of `score_voc`."""
    log(f"Epoch: {epoch}, Average Precision Per-class:")
    log(*(f"    {entry['name']}: {entry['AP']}" for entry in voc["per_class"] if entry["num_gt"]))
    log(f"Epoch: {epoch}, Mean Average Precision (mAP):  {voc['mAP']}")


def save_labels(run: RunFolder, class_names: list[str]) -> None:
    """labels.txt of the model folder, with BACKGROUND."""
    run.write_labels(class_names)
    log(f"Stored labels into file {run.path / 'labels.txt'}.")


def save_epoch(run: RunFolder, model: nn.Module, net: str, epoch: int, val_loss: float) -> None:
    """`{net}-Epoch-{epoch}-Loss-{val_loss}.pth`: the bare state dict."""
    name = f"{net}-Epoch-{epoch}-Loss-{val_loss}.pth"
    run.save_weights(model.state_dict(), name)
    log(f"Saved model {run.path / name}")
