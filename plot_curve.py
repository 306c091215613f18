"""Curves of a training: loss and learning rate, mAP; fitness of an evolution.

The training scripts call the functions after every epoch. To draw the curves of finished runs again, also of results.txt
files that the YOLOv3 trainers of 2019 and 2020 left:

    python plot_curve.py runs/fasterrcnn runs/fasterrcnn-2 old/results.txt
"""

import argparse
import csv
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure  # not pyplot: no display, no window, no state shared with the caller
from matplotlib.ticker import MaxNLocator

Numbers = Sequence[float | None]


def plot_loss_and_lr(
    train_loss: Numbers,
    learning_rate: Numbers | None,
    path: str | os.PathLike = "loss_and_lr.png",
    val_loss: Numbers | None = None,
    epochs: Sequence[int] | None = None,
    unfreeze_epoch: int | None = None,
) -> None:
    """Loss (red, left axis) and learning rate (blue, right axis), one point per epoch.

    Args:
        train_loss, learning_rate: a number per epoch; None and NaN are left out. Without any rate there is one axis.
        path: the picture to write.
        val_loss: a third line, of the validation loss.
        epochs: where the points stand; default 0, 1, 2, ...
        unfreeze_epoch: first epoch of the second stage, marked by a vertical line.
    """
    figure, axes = _figure("loss", "Loss" if learning_rate is None else "Loss and learning rate")
    lines = [_line(axes, epochs, train_loss, "training loss", "tab:red", "-")]
    if val_loss is not None:
        lines.append(_line(axes, epochs, val_loss, "validation loss", "tab:orange", "--"))
    if learning_rate is not None:
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


def plot_evolution(
    fitness: Numbers, values: Mapping[str, Numbers], path: str | os.PathLike = "evolve.png"
) -> None:
    """A panel for each hyper-parameter: its value against the fitness of every trial, the best trial marked.

    Args:
        fitness: a number per trial.
        values: a number per trial, by name of the hyper-parameter.
        path: the picture to write.
    """
    columns = min(5, max(1, len(values)))
    rows = max(1, math.ceil(len(values) / columns))
    figure = Figure(figsize=(2.6 * columns, 2.4 * rows), layout="constrained")
    best = max(range(len(fitness)), key=lambda k: fitness[k], default=None)
    for number, (name, column) in enumerate(values.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.grid(alpha=0.3)
        axes.plot(column, fitness, ".", color="tab:blue", markersize=5)
        if best is None:
            axes.set_title(name, fontsize="small")
            continue
        axes.plot(column[best], fitness[best], "+", color="tab:red", markersize=14, markeredgewidth=2)
        axes.set_title(f"{name} = {column[best]:.4g}", fontsize="small")
    figure.supylabel("fitness")
    figure.savefig(path, dpi=120)


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


def read_results(source: Path) -> dict[str, list[float | None]]:
    """The columns of a run's results.csv by name, or of a results.txt; None where a row has no number.

    Args:
        source: the file, or the folder of a run with results.csv or else results.txt.

    Raises:
        FileNotFoundError: no such file there.
        ValueError: it is not a table of numbers with the columns epoch, mean_loss and lr, nor a known results.txt.
    """
    places = [source, source / "results.csv", source / "results.txt"]
    path = next((place for place in places if place.is_file()), places[1])
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the folder of a training run")
    if path.suffix == ".txt":
        return read_results_text(path)
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


# Which word of a line is which number, by the form of its first word and the number of words: ours; 2019's (box wh obj cls
# total targets size P R mAP F1 test_loss after epoch and batch); 2020's (memory; box obj cls; three validation losses)
_TEXT_COLUMNS = {
    ("epoch:", 15): {"AP": [1], "AP50": [2], "mean_loss": [13], "lr": [14]},
    ("/", 14): {"mean_loss": [6], "AP50": [11], "val_loss": [13]},
    ("/", 15): {"mean_loss": [5], "AP50": [10], "val_loss": [12, 13, 14]},
}


def read_results_text(path: Path) -> dict[str, list[float | None]]:
    """The columns of a results.txt, ours or a YOLOv3 trainer's: epoch, mean_loss, AP50 and, where it has them, more.

    Raises:
        ValueError: a line is none of these, by number.
    """
    columns: dict[str, list[float | None]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        mark = "epoch:" if words[0].startswith("epoch:") else "/"
        try:
            row = {"epoch": float(words[0].removeprefix("epoch:").partition("/")[0])}
            for name, places in _TEXT_COLUMNS[mark, len(words)].items():
                row[name] = sum(float(words[place]) for place in places)
        except (KeyError, ValueError):
            raise ValueError(f"{path}:{number}: not a line of results, which has 14 or 15 words; remove it") from None
        row["val_loss"] = row.get("val_loss") or None  # they write 0 for a validation that was not run
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns if columns else {"epoch": [], "mean_loss": []}


def redraw(source: Path) -> Path:
    """Write loss_and_lr.png and mAP.png anew from a run's results, beside them. Returns the folder."""
    columns = read_results(source)
    folder = source if source.is_dir() else source.parent
    settings = folder / "args.json"
    args = json.loads(settings.read_text(encoding="utf-8"))["args"] if settings.is_file() else {}
    shared = {"epochs": columns["epoch"], "unfreeze_epoch": args.get("freeze_epochs")}
    plot_loss_and_lr(
        columns["mean_loss"], columns.get("lr"), folder / "loss_and_lr.png", val_loss=columns.get("val_loss"), **shared
    )
    plot_map(columns.get("AP50", []), folder / "mAP.png", ap=columns.get("AP"), **shared)
    return folder


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw the curves of training runs again.", allow_abbrev=False)
    parser.add_argument("run_folders", nargs="+", type=Path, metavar="RUN_FOLDER",
                        help="folder with a results.csv or results.txt, or such a file")
    return parser


def main(args: argparse.Namespace) -> None:
    """Redraw every folder given."""
    for source in args.run_folders:
        folder = redraw(source)
        print(f"{folder / 'loss_and_lr.png'}  {folder / 'mAP.png'}")


if __name__ == "__main__":
    try:
        main(get_args_parser().parse_args())
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
