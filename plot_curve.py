"""Curves of a training: loss and learning rate, mAP.

The training scripts call the two functions after every epoch. To draw the curves of finished runs again:

    python plot_curve.py runs/fasterrcnn runs/fasterrcnn-2
"""

import argparse
import csv
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure  # not pyplot: no display, no window, no state shared with the caller
from matplotlib.ticker import MaxNLocator

Numbers = Sequence[float | None]


def plot_loss_and_lr(
    train_loss: Numbers,
    learning_rate: Numbers,
    path: str | os.PathLike = "loss_and_lr.png",
    val_loss: Numbers | None = None,
    epochs: Sequence[int] | None = None,
    unfreeze_epoch: int | None = None,
) -> None:
    """Loss (red, left axis) and learning rate (blue, right axis), one point per epoch.

    Args:
        train_loss, learning_rate: a number per epoch; None and NaN are left out.
        path: the picture to write.
        val_loss: a third line, of the validation loss.
        epochs: where the points stand; default 0, 1, 2, ...
        unfreeze_epoch: first epoch of the second stage, marked by a vertical line.
    """
    figure, axes = _figure("loss", "Loss and learning rate")
    lines = [_line(axes, epochs, train_loss, "training loss", "tab:red", "-")]
    if val_loss is not None:
        lines.append(_line(axes, epochs, val_loss, "validation loss", "tab:orange", "--"))
    rate_axes = axes.twinx()
    rate_axes.set_ylabel("learning rate")
    lines.append(_line(rate_axes, epochs, learning_rate, "learning rate", "tab:blue", ":"))
    rate_axes.set_ylim(bottom=0)
    lines.append(_mark(axes, unfreeze_epoch))
    _finish(figure, axes, lines, path)


def plot_map(
    mAP: Numbers,  # noqa: N803  the name users of the origin know
    path: str | os.PathLike = "mAP.png",
    ap: Numbers | None = None,
    epochs: Sequence[int] | None = None,
    unfreeze_epoch: int | None = None,
) -> None:
    """AP at IoU 0.5 of each epoch and, if given, COCO's AP.

    Args:
        mAP: a number 0..1 per epoch; None, NaN and -1 (not evaluated, not defined) are left out.
        path: the picture to write.
        ap: COCO's AP, the mean over IoU 0.5 to 0.95.
        epochs: where the points stand; default 0, 1, 2, ...
        unfreeze_epoch: first epoch of the second stage, marked by a vertical line.
    """
    figure, axes = _figure("average precision", "Validation mAP")
    lines = [_line(axes, epochs, _defined(mAP), "AP at IoU 0.5", "tab:red", "-")]
    if ap is not None:
        lines.append(_line(axes, epochs, _defined(ap), "AP at IoU 0.5:0.95", "tab:blue", "--"))
    axes.set_ylim(0, 1)
    lines.append(_mark(axes, unfreeze_epoch))
    _finish(figure, axes, lines, path)


def _defined(values: Numbers) -> Numbers:
    return [None if value is None or value < 0 else value for value in values]


def _figure(ylabel: str, title: str):
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel="epoch", ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _line(axes, epochs, values, label, colour, style):
    """The line, or None without a point. Points are marked, so that a single one is seen."""
    epochs = range(len(values)) if epochs is None else epochs
    points = [(x, y) for x, y in zip(epochs, values) if y is not None and math.isfinite(y)]
    if not points:
        return None
    marker_size = 4 if len(points) <= 60 else 0
    (line,) = axes.plot(*zip(*points), style, color=colour, label=label, marker="o", markersize=marker_size)
    return line


def _mark(axes, unfreeze_epoch):
    if not unfreeze_epoch:
        return None
    return axes.axvline(unfreeze_epoch - 0.5, color="grey", linestyle="-.", linewidth=1, label="backbone unfrozen")


def _finish(figure, axes, lines, path) -> None:
    lines = [line for line in lines if line is not None]
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize="small")
    else:
        axes.text(0.5, 0.5, "no point yet", transform=axes.transAxes, ha="center", color="grey")
    figure.savefig(path, dpi=120)


def read_results(folder: Path) -> dict[str, list[float | None]]:
    """The columns of a run folder's results.csv by name; None where a row has no number.

    Raises:
        FileNotFoundError: no results.csv there.
        ValueError: it is not a table of numbers with the columns epoch, mean_loss and lr.
    """
    path = folder / "results.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the folder of a training run")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), reader.fieldnames or []
    missing = [name for name in ("epoch", "mean_loss", "lr") if name not in names]
    if missing:
        raise ValueError(f"{path}: column {missing[0]} is missing; give the folder of a training run")
    try:
        return {name: [float(row[name]) if row[name] else None for row in rows] for name in names}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a table of numbers ({error}); restore the file") from error


def redraw(folder: Path) -> None:
    """Write loss_and_lr.png and mAP.png of a run folder anew from its results.csv."""
    columns = read_results(folder)
    settings = folder / "args.json"
    args = json.loads(settings.read_text(encoding="utf-8"))["args"] if settings.is_file() else {}
    shared = {"epochs": columns["epoch"], "unfreeze_epoch": args.get("freeze_epochs")}
    plot_loss_and_lr(
        columns["mean_loss"], columns["lr"], folder / "loss_and_lr.png", val_loss=columns.get("val_loss"), **shared
    )
    plot_map(columns.get("AP50", []), folder / "mAP.png", ap=columns.get("AP"), **shared)


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw the curves of training runs again.", allow_abbrev=False)
    parser.add_argument("run_folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="folder with a results.csv")
    return parser


def main(args: argparse.Namespace) -> None:
    """Redraw every folder given."""
    for folder in args.run_folders:
        redraw(folder)
        print(f"{folder / 'loss_and_lr.png'}  {folder / 'mAP.png'}")


if __name__ == "__main__":
    try:
        main(get_args_parser().parse_args())
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
