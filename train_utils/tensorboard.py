"""The results of a run as TensorBoard's event files: `tensorboard --logdir runs`.

Epochs are in the folder itself, with the scalar names of jetson-inference's train_ssd.py and many more; steps within the
epochs, which need an axis of their own, are in its folder `steps`. Both are written through torch, which needs the package
tensorboard for that.
"""

import importlib.util
import io
import itertools
import re
from pathlib import Path

import numpy as np
from PIL import Image

from train_utils.coco_eval import STAT_NAMES
from train_utils.errors import InputError
from train_utils.metric_logger import MetricLogger

TRAINING_LOSS = "Loss/train"  # the point that every epoch has
CLASS_AP = "AP50/"  # how the columns of a row begin that hold a class's AP
# Losses that sum up to jetson's two, by the words that our detectors name them with
PARTS = {"Regression Loss": re.compile(r"loss_(rpn_)?(box|xy|wh)"), "Classification Loss": re.compile(r"loss_cl(s|assifier)")}


def is_installed() -> bool:
    """Whether the package tensorboard is there."""
    return importlib.util.find_spec("tensorboard") is not None


def check_installed() -> None:
    """Raise InputError, with the remedy, if event files cannot be written."""
    _summary_writer()


def _summary_writer() -> type:
    try:
        from torch.utils.tensorboard import SummaryWriter  # lazily: a package that most runs do without
    except ImportError as error:
        raise InputError(f"--tensorboard needs a package ({error}): pip install tensorboard, or give --no-tensorboard") from error
    return SummaryWriter


class EventFiles:
    """The event files of one run.

    A run that goes on from a checkpoint takes the epochs after it again: TensorBoard drops the points that it had of them
    when it meets the new ones. Rows of earlier epochs that the event files do not have, all or those of the time that the
    run went on without them, are written too.

    Args:
        folder: made with the first point.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.epochs = self.steps = None  # writers, opened with their first point: what is there from its step on is void

    def add_epoch(self, rows: list[dict], picture: Path | None = None) -> None:
        """Write the last row of a run, and the picture of its detections.

        Args:
            rows: of `RunFolder`, all so far.
            picture: a file; None or a missing one is left out.
        """
        due = rows[-1:]
        if self.epochs is None:
            writer, there = _summary_writer(), _written_losses(self.folder)
            known = itertools.takewhile(lambda row: there.get(row["epoch"]) == np.float32(row["mean_loss"]), rows[:-1])
            due = rows[len(list(known)) :]
            self.epochs = writer(self.folder, purge_step=due[0]["epoch"] if there else None)
        for row in due:
            for name, value in scalars(row).items():
                self.epochs.add_scalar(name, value, row["epoch"])
        if picture is not None and picture.is_file():
            self.epochs.file_writer.add_summary(_picture_summary("predictions", picture), rows[-1]["epoch"])
        self.epochs.flush()
        if self.steps is not None:
            self.steps.flush()

    def flush(self) -> None:
        """Bring everything so far to the files, so that a run that goes on from a checkpoint has all points before it."""
        for writer in (self.epochs, self.steps):
            if writer is not None:
                writer.flush()

    def close(self) -> None:
        """Let go of the files; the next point opens others, and adds what these lack of the epochs."""
        self.epochs = self.steps = None

    def watch(self, logger: MetricLogger, epoch: int) -> None:
        """Write the meters of an epoch whenever `logger` shows them."""

        def add_step(number: int, total: int) -> None:
            step = epoch * total + number
            if self.steps is None:
                self.steps = _summary_writer()(self.folder / "steps", purge_step=step)
            for name, meter in logger.meters.items():
                self.steps.add_scalar(f"{name}/step", meter.value if name == "lr" else meter.median, step)

        logger.on_show = add_step


def _written_losses(folder: Path) -> dict[int, float]:
    """{epoch: training loss} of a folder's event files, without what TensorBoard drops; a file may break off."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    if not files:
        return {}
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    losses: dict[int, float] = {}
    for file in files:
        for event in LegacyEventFileLoader(str(file)).Load():
            if event.HasField("session_log"):  # a new beginning: what is there from its step on is void
                losses = {step: loss for step, loss in losses.items() if step < event.step}
            for value in event.summary.value:
                if value.tag == TRAINING_LOSS:
                    losses[event.step] = value.simple_value
    return losses


def _picture_summary(name: str, path: Path):
    """A picture as JPEG, where `SummaryWriter.add_image` makes PNG: of photographs that has megabytes and takes a second."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    data = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(data, "JPEG", quality=85)
        height, width = image.height, image.width
    content = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data.getvalue())
    return Summary(value=[Summary.Value(tag=name, image=content)])


def scalars(row: dict) -> dict[str, float]:
    """The points of an epoch by name, from a row of `RunFolder`; numbers that it does not have are left out.

    Mean and class average precision are COCO's at IoU 0.5. Jetson's are VOC2007's, the mean at 11 points of the curve.
    """
    losses = {name: value for name, value in row.items() if name.startswith("loss_")}
    val_losses = {name.removeprefix("val_"): value for name, value in row.items() if name.startswith("val_loss_")}
    coco = dict(zip(STAT_NAMES, row["stats"] or ()))
    classes = {name: value for name, value in row.items() if name.startswith(CLASS_AP)}
    precisions = {
        "Mean Average Precision/val": coco.get("AP50"),
        **{f"COCO/{name}": value for name, value in coco.items()},
        **{f"Class Average Precision/{name.removeprefix(CLASS_AP)}": value for name, value in classes.items()},
    }
    told = {"epoch", "stats", "mean_loss", "val_loss", *losses, *classes, *(f"val_{name}" for name in val_losses)}
    points = {
        **_loss_scalars(row["mean_loss"], losses, "train"),
        **_loss_scalars(row.get("val_loss"), val_losses, "val"),
        **{name: value for name, value in precisions.items() if value is not None and value >= 0},  # -1: not defined
        **{name: value for name, value in row.items() if name not in told},
    }
    return {name: value for name, value in points.items() if value is not None}


def _loss_scalars(total: float | None, parts: dict[str, float], phase: str) -> dict[str, float | None]:
    """The loss, jetson's two sums of parts if there are such parts, and the parts."""
    sums = {}
    for name, pattern in PARTS.items():
        members = [value for part, value in parts.items() if pattern.match(part)]
        if members:
            sums[name] = sum(members)
    return {f"{name}/{phase}": value for name, value in {"Loss": total, **sums, **parts}.items()}
