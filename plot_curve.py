"""Curves of a training: loss and learning rate, mAP; fitness of an evolution; several runs on one page.

The training scripts call the functions after every epoch. To draw the curves of a finished run again, also of a results.txt
that the YOLOv3 trainers of 2019 and 2020 left:

    python plot_curve.py runs/fasterrcnn

Of several runs, also of different detectors and lengths, there is one page more, comparison.png in the working directory:

    python plot_curve.py runs/fasterrcnn runs/ssd-2 old/results.txt
"""

import argparse
import contextlib
import csv
import io
import json
import math
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure  # not pyplot: no display, no window, no state shared with the caller
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

Numbers = Sequence[float | None]

MOST_CLASSES = 20  # on a page that compares runs
# What differs between any two runs, and says nothing about their results
NOT_COMPARED = {"output_dir", "resume", "notes", "rank", "gpu", "distributed", "dist_url", "tensorboard", "print_freq", "bucket"}


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
        _from_zero(rate_axes)
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


def plot_comparison(
    runs: Mapping[str, Mapping[str, Numbers]], settings: Mapping[str, Mapping], path: str | os.PathLike = "comparison.png"
) -> None:
    """One page of several runs, a colour for each: a panel for every kind of number that any of them has.

    Args:
        runs: the columns of each run, as `read_results` gives them, by its name on the page.
        settings: the flags of each run, by the same names; those that differ are listed below the panels.
        path: the picture to write.
    """
    with _names_as_they_are():
        _draw_comparison(runs, settings, path)


@contextlib.contextmanager
def _names_as_they_are() -> Iterator[None]:
    """Of names that others chose: a dollar begins no formula, a letter that the font does not have becomes a frame."""
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _draw_comparison(runs: Mapping, settings: Mapping, path: str | os.PathLike) -> None:
    panels, classes, table = _panels(runs), _class_ap(runs), differences(settings)
    heights = [2.6] * math.ceil(len(panels) / 3) + [2.8] * bool(classes) + [0.2 * (len(table) + 1)] * bool(table)
    figure = Figure(figsize=(13, 0.7 + sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    epochs = [epoch for columns in runs.values() for epoch in columns["epoch"]] or [0]
    looks = {name: (f"C{k % 10}", ["-", "--", ":", "-."][k // 10 % 4]) for k, name in enumerate(runs)}
    for number, (column, title) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[divmod(number, 3)])
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("epoch", fontsize="small")
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for name, columns in runs.items():
            _line(axes, columns["epoch"], _values(columns, column), name, *looks[name])
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)  # the same in all panels, also in those of short runs
        _from_zero(axes)
    if classes:
        _draw_bars(figure.add_subplot(grid[len(heights) - 1 - bool(table), :]), classes, looks)
    if table:
        _draw_table(figure.add_subplot(grid[-1, :]), table, looks)
    handles = [Line2D([], [], color=colour, linestyle=style, label=name) for name, (colour, style) in looks.items()]
    fitting = 150 // (6 + max(map(len, looks)))
    figure.legend(handles=handles, loc="outside upper center", ncols=max(1, min(len(handles), 5, fitting)), frameon=False)
    figure.savefig(path, dpi=100)


def _panels(runs: Mapping) -> dict[str, str]:
    """Title by column, for the columns that a run has a number of."""
    parts = [name for columns in runs.values() for name in columns if name.startswith("loss_")]
    titles = {
        "mean_loss": "training loss",
        **{name: f"{name} (training)" for name in parts},
        "val_loss": "validation loss",
        "lr": "learning rate",
        "AP": "AP at IoU 0.5:0.95",
        "AP50": "AP at IoU 0.5",
        "images_per_second": "images per second (training)",
    }
    there = {name for columns in runs.values() for name in columns if any(v is not None for v in _values(columns, name))}
    return {name: title for name, title in titles.items() if name in there or name == "mean_loss"}


def _values(columns: Mapping[str, Numbers], name: str) -> Numbers:
    values = columns.get(name, [])
    return _defined(values) if name.startswith("AP") else values


def _class_ap(runs: Mapping) -> dict[str, dict[str, float]]:
    """{class: {run: its last AP50}}."""
    found: dict[str, dict[str, float]] = {}
    for run, columns in runs.items():
        for name in columns:
            values = [value for value in _values(columns, name) if value is not None]
            if name.startswith("AP50/") and values:
                found.setdefault(name.removeprefix("AP50/"), {})[run] = values[-1]
    return found


def _draw_bars(axes, classes: Mapping[str, Mapping[str, float]], looks: Mapping) -> None:
    """Bars of each run's AP, class by class; of many classes those that differ most between the runs."""
    many = f", the {MOST_CLASSES} of {len(classes)} that differ most" if len(classes) > MOST_CLASSES else ""
    spread = {name: max(of_run.values()) - min(of_run.values()) for name, of_run in classes.items()}
    kept = sorted(classes, key=lambda name: -spread[name])[:MOST_CLASSES]
    classes = {name: of_run for name, of_run in classes.items() if name in kept}
    width = 0.8 / len(looks)
    for k, (run, (colour, _)) in enumerate(looks.items()):
        places = [x for x, of_run in enumerate(classes.values()) if run in of_run]
        heights = [of_run[run] for of_run in classes.values() if run in of_run]
        axes.bar([x - 0.4 + (k + 0.5) * width for x in places], heights, width, color=colour)
    axes.set_title(f"AP at IoU 0.5 by class{many}, last evaluation", fontsize="medium")
    crowded = len(classes) * max(map(len, classes)) > 150
    axes.set_xticks(range(len(classes)), [_cut(name, 24) for name in classes], fontsize="small",
                    rotation=30 if crowded else 0, ha="right" if crowded else "center")
    axes.set(xlim=(-0.6, len(classes) - 0.4), ylim=(0, 1))
    axes.grid(alpha=0.3, axis="y")


def differences(settings: Mapping[str, Mapping]) -> dict[str, list[str]]:
    """{flag: its value in each run, as text} for the flags that differ between the runs that have them; "" for the others."""

    def as_typed(value) -> str:
        if isinstance(value, list):
            return " ".join(map(as_typed, value))
        return "none" if value is None else str(value)

    table = {}
    for flag in dict.fromkeys(flag for flags in settings.values() for flag in flags if flag not in NOT_COMPARED):
        values = [as_typed(flags[flag]) if flag in flags else "" for flags in settings.values()]
        if len(set(values) - {""}) > 1:
            table[flag] = values
    return table


def _draw_table(axes, table: Mapping[str, Sequence[str]], looks: Mapping) -> None:
    """A line for each setting, a column for each run."""
    axes.axis("off")
    width = 0.85 / len(looks)
    lines = {"settings that differ": list(looks), **table}
    for row, (flag, values) in enumerate(lines.items()):
        y = 1 - (row + 0.5) / len(lines)
        axes.text(0, y, _cut(flag, 28), fontsize=8, va="center", transform=axes.transAxes)
        for k, (value, (colour, _)) in enumerate(zip(values, looks.values())):
            text = _cut(value, int(170 * width))  # 170 letters of this size fill the page
            axes.text(0.15 + k * width, y, text, fontsize=8, va="center", color=colour, transform=axes.transAxes)


def _cut(text: str, length: int) -> str:
    """At most `length` letters; what is left out, in the middle, is marked."""
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[: length - 1 - half]}…{text[len(text) - half :]}"


def short_names(files: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that differ, without what is equal in all: a/runs/ssd and b/runs/ssd are `a` and `b`.

    Args:
        files: different absolute paths of results files; results.csv and results.txt go by the name of their folder.
    """
    parts = [file.parts[:-1] if file.name in ("results.csv", "results.txt") else file.parts for file in files]
    if len(set(parts)) < len(parts):
        parts = [file.parts for file in files]
    count = next(k for k in range(1, max(map(len, parts)) + 1) if len({path[-k:] for path in parts}) == len(parts))
    ends = [path[-count:] for path in parts]
    while len(ends) > 1 and len({end[-1] for end in ends}) == 1:
        ends = [end[:-1] for end in ends]
    return [os.path.join(*end) for end in ends]


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


def _from_zero(axes) -> None:
    """Let the y axis go from 0 to a little above the highest point."""
    highest = max((y for line in axes.lines for y in line.get_ydata()), default=0)
    axes.set_ylim(0, 1.05 * highest if highest > 0 else 1)


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


def results_file(source: Path) -> Path:
    """The file itself, or the results.csv or else results.txt of a folder.

    Raises:
        FileNotFoundError: no such file there.
    """
    places = [source, source / "results.csv", source / "results.txt"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{places[1]}: no such file; give the folder of a training run")
    return path


def read_results(source: Path) -> dict[str, list[float | None]]:
    """The columns of a run's results.csv by name, or of a results.txt; None where a row has no number.

    Args:
        source: the file, or the folder of a run with results.csv or else results.txt.

    Raises:
        FileNotFoundError: no such file there.
        ValueError: it is not a table of numbers with the columns epoch, mean_loss and lr, nor a known results.txt.
    """
    path = results_file(source)
    if path.suffix == ".txt":
        return read_results_text(path)
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""))
    try:
        rows, names = list(reader), reader.fieldnames or []
    except csv.Error as error:
        raise ValueError(f"{path}: not a table ({error}); restore the file") from error
    missing = [name for name in ("epoch", "mean_loss", "lr") if name not in names]
    if missing:
        raise ValueError(f"{path}: column {missing[0]} is missing; give the folder of a training run")
    try:
        return {name: [float(row[name]) if row[name] else None for row in rows] for name in names}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a table of numbers ({error}); restore the file") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error.reason}); restore the file") from error


# Which word of a line is which number, by the form of its first word and the number of words: ours; 2019's (box wh obj cls
# total targets size P R mAP F1 test_loss after epoch and batch); 2020's (memory; box obj cls; three validation losses)
_TEXT_COLUMNS = {
    ("epoch:", 15): {"AP": [1], "AP50": [2], "mean_loss": [13], "lr": [14]},
    ("/", 14): {"mean_loss": [6], "AP50": [11], "val_loss": [13], "loss_box": [2, 3], "loss_obj": [4], "loss_cls": [5]},
    ("/", 15): {"mean_loss": [5], "AP50": [10], "val_loss": [12, 13, 14], "loss_box": [2], "loss_obj": [3], "loss_cls": [4]},
}


def read_results_text(path: Path) -> dict[str, list[float | None]]:
    """The columns of a results.txt, ours or a YOLOv3 trainer's: epoch, mean_loss, AP50 and, where it has them, more.

    Raises:
        ValueError: a line is none of these, by number.
    """
    columns: dict[str, list[float | None]] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
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


def read_settings(folder: Path) -> dict:
    """The flags that a run was made with, and its "script"; nothing where the folder has no args.json.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / "args.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        words = shlex.split(content.get("command", ""))
        return {**({"script": Path(words[0]).name} if words else {}), **content["args"]}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the settings of a run ({error}); restore or remove the file") from error


def redraw(source: Path) -> Path:
    """Write loss_and_lr.png and mAP.png anew from a run's results, beside them. Returns the folder."""
    columns = read_results(source)
    folder = source if source.is_dir() else source.parent
    shared = {"epochs": columns["epoch"], "unfreeze_epoch": read_settings(folder).get("freeze_epochs")}
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
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help="the page that compares the runs; default: comparison.png here, and none for a single run")
    return parser


def check_page(path: Path) -> None:
    """Raises ValueError if no picture can be written there."""
    known = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise ValueError(f"--output {path}: no kind of picture ends like this; take one of .{', .'.join(known)}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"--output {path}: {path if path.is_dir() else path.parent} is "
                         f"{'a folder, name a file in it' if path.is_dir() else 'no folder, make it first'}")


def main(args: argparse.Namespace) -> None:
    """Redraw every folder given, and compare the runs."""
    files = list(dict.fromkeys(Path(os.path.abspath(results_file(source))) for source in args.run_folders))
    path = args.output or (Path("comparison.png") if len(files) > 1 else None)
    if path:
        check_page(path)
    for source in args.run_folders:
        folder = redraw(source)
        print(f"{folder / 'loss_and_lr.png'}  {folder / 'mAP.png'}")
    if path:
        names = short_names(files)
        plot_comparison(dict(zip(names, map(read_results, files))),
                        {name: read_settings(file.parent) for name, file in zip(names, files)}, path)
        print(path)


if __name__ == "__main__":
    try:
        main(get_args_parser().parse_args())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
