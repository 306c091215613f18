"""Pictures of an evaluation: precision against recall, scores against confidence, the confusion matrix, errors by kind.

    plot_pr(curves, "pr_curve.png")
    plot_scores(curves, "scores.png")
    plot_confusion(confusion_matrix(ground_truth, detections), class_names, "confusion_matrix.png")
    plot_errors(report, "errors.png")
"""

import os
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure  # not pyplot: no display, no window, no state shared with the caller
from matplotlib.patches import Patch

from train_utils.box_labels import readable_name
from train_utils.draw import KIND_COLOURS, class_colour
from train_utils.error_analysis import CORRECT, DUPLICATE, KINDS, MISSED, ErrorReport
from train_utils.score_curves import CONFIDENCES, RECALLS, ScoreCurves

MAX_NAME = 28  # letters
MAX_NUMBERS = 15  # classes up to which the cells of a confusion matrix have room for numbers
MAX_CLASSES = 80  # in the picture of a confusion matrix, which is then about 20 inches wide
MAX_BARS = 20  # classes in the picture of the errors
MIN_BARS = 4  # that there is always room for, so that the bar of a single class is no wall
DPI = 120


def plot_pr(curves: ScoreCurves, path: str | os.PathLike, max_classes: int = 10) -> None:
    """Precision against recall: a line per class with its AP, and their mean; each line ends where the recall ends.

    Args:
        path: the picture to write.
        max_classes: of more classes than this the lines are thin, grey and without a name.
    """
    figure, axes = _square(f"Precision and recall at IoU {curves.iou_threshold:g}", "recall", "precision")
    there = np.flatnonzero(curves.judged.objects)
    few = len(there) <= max_classes
    handles, names = [], []
    for k in there:
        reached = curves.pr[k] > 0
        colour = np.array(class_colour(int(k) + 1)) / 255 if few else "0.75"
        (line,) = axes.plot(RECALLS[reached], curves.pr[k][reached], color=colour, linewidth=1.6 if few else 0.7)
        handles.append(line)
        names.append(f"{_name(curves.class_names[k], int(k) + 1)}: AP {curves.ap[k]:.3f}")
    if not few:
        handles, names = handles[:1], [f"each of {len(there)} classes"]
    if len(there) > 1:
        mean = curves.mean(curves.pr)
        (line,) = axes.plot(RECALLS[mean > 0], mean[mean > 0], color="black", linewidth=2.4, linestyle="--" if few else "-")
        handles.append(line)
        names.append(f"mean: AP {curves.mean(curves.ap):.3f}")
    _finish(figure, axes, handles, names, curves, path)


def plot_scores(curves: ScoreCurves, path: str | os.PathLike) -> None:
    """Precision, recall and F1, each the mean of the classes, against the lowest score kept; the highest F1 is marked.

    A class without a detection of that score has precision 0, which lowers the mean; the line ends at the highest score of all.
    """
    figure, axes = _square(f"Means of the classes at IoU {curves.iou_threshold:g}", "lowest score kept", "")
    handles, names = [], []
    scores = curves.judged.scores
    for values, name, colour in ((curves.precision, "precision", "tab:blue"), (curves.recall, "recall", "tab:orange"),
                                 (curves.f1, "F1", "tab:green")):
        shown = CONFIDENCES.astype(scores.dtype) <= scores.max(initial=-1) if name == "precision" else slice(None)
        (line,) = axes.plot(CONFIDENCES[shown], curves.mean(values)[shown], color=colour, linewidth=1.8)
        handles.append(line)
        names.append(name)
    best = curves.best
    if best["f1"] > 0:
        axes.axvline(best["confidence"], color="0.5", linewidth=1, linestyle=":")
        (mark,) = axes.plot(best["confidence"], best["f1"], "o", color="tab:green", markersize=7)
        handles.append(mark)
        names.append(f"F1 {best['f1']:.3f} at {best['confidence']:.3f}")
    _finish(figure, axes, handles, names, curves, path)


def plot_confusion(
    matrix: np.ndarray, class_names: Sequence[str], path: str | os.PathLike, normalise: bool = True
) -> None:
    """The confusion matrix: rows the true class, columns the detected one, in the last ones false alarms and missed objects.

    What is right is blue, what is wrong orange; a row without objects is empty. Of more than `MAX_CLASSES` classes it has those
    with most errors, in their own order.

    Args:
        matrix: int64 [C + 1, C + 1] of `confusion_matrix`.
        class_names: [C], without background.
        path: the picture to write.
        normalise: colours, and first number of a cell, are its share of the row, for false alarms of all of them; in brackets
            is the count. Otherwise both are the count.
    """
    values = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1) if normalise else matrix
    shown = _with_most_errors(matrix)
    title = "Confusion matrix" + (f": the {len(shown)} of {len(class_names)} classes with most errors"
                                  if len(shown) < len(class_names) else "")
    names = [_name(class_names[k], int(k) + 1) for k in shown]
    cells = np.ix_(*[np.append(shown, len(matrix) - 1)] * 2)
    matrix, values = matrix[cells], values[cells]
    size = len(matrix)
    few = size - 1 <= MAX_NUMBERS
    cell = 0.72 if few else max(0.17, 0.4 - 0.004 * size)  # inches
    figure = Figure(figsize=(max(5.0, cell * size + (3.2 if few else 4.6)), max(4.2, cell * size + 2.4)), layout="constrained")
    axes = figure.add_subplot()
    norm = PowerNorm(0.5, 0, 1 if normalise else max(1, matrix.max()))  # the root: a rare confusion is seen, too
    right = np.eye(size, dtype=bool)
    for colours, part, what in (("Blues", right, "right"), ("Oranges", ~right, "wrong")):
        picture = axes.imshow(np.where(part & (matrix > 0), values, np.nan), cmap=colours, norm=norm)
        if not few:
            figure.colorbar(picture, ax=axes, label=f"{what}, " + ("share of the row" if normalise else "number"), fraction=0.025)
    letters = 9 if few else 7
    axes.set_xticks(range(size), [*names, "missed"], rotation=90, fontsize=letters)
    axes.set_yticks(range(size), [*names, "false alarm"], fontsize=letters)
    axes.set(xlabel="detected as", ylabel="true class", title=title)
    axes.axhline(size - 1.5, color="0.4", linewidth=0.8)
    axes.axvline(size - 1.5, color="0.4", linewidth=0.8)
    axes.fill_between([size - 1.5, size - 0.5], size - 1.5, size - 0.5, color="0.85")  # background as background is no case
    for row, column in np.argwhere(matrix > 0) if few else ():
        text = f"{values[row, column]:.2f}\n({matrix[row, column]})" if normalise else str(matrix[row, column])
        dark = norm(values[row, column]) > 0.65
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    _save(figure, path)


def _with_most_errors(matrix: np.ndarray) -> np.ndarray:
    """At most `MAX_CLASSES` indices of classes, ascending: those with most objects and detections off the diagonal."""
    errors = (matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal())[:-1]
    return np.sort(np.argsort(-errors, kind="stable")[:MAX_CLASSES])


def plot_errors(report: ErrorReport, path: str | os.PathLike) -> None:
    """Bars of the errors by kind: the classes that have most of them, each with its objects found."""
    order = [MISSED, *range(DUPLICATE, MISSED)]
    errors = report.by_class[:, order].sum(axis=1)
    worst = [k for k in np.argsort(-errors, kind="stable")[:MAX_BARS] if errors[k]]
    rows = max(MIN_BARS, len(worst))
    figure = Figure(figsize=(8.5, 0.3 * rows + 1.8), layout="constrained")
    axes = figure.add_subplot()
    left = np.zeros(len(worst))
    handles = []
    for kind in order:
        count, colour = report.by_class[worst, kind], np.array(KIND_COLOURS[KINDS[kind]]) / 255
        axes.barh(range(len(worst)), count, left=left, color=colour, height=0.75)
        handles.append(Patch(color=colour, label=f"{KINDS[kind]} {report.by_class[:, kind].sum():,}"))
        left += count
    found, objects = report.by_class[:, CORRECT], report.by_class[:, CORRECT] + report.by_class[:, MISSED]
    names = [f"{_name(report.class_names[k], int(k) + 1)} ({found[k]} of {objects[k]} found)" for k in worst]
    axes.set_yticks(range(len(worst)), names, fontsize=9)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlim(0, max(1, 1.03 * left.max(initial=0)))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    others = np.count_nonzero(errors) - len(worst)
    axes.set_xlabel("errors" + (f" (and {others} classes with fewer)" if others else ""))
    axes.set_title(f"Errors at score {report.score_threshold:g} and IoU {report.iou_threshold:g}")
    if not worst:
        axes.text(0.5, 0.5, "no error", transform=axes.transAxes, ha="center", color="grey")
    figure.legend(handles=handles, loc="outside lower center", ncols=len(order), frameon=False, fontsize="small")
    _save(figure, path)


def _square(title: str, xlabel: str, ylabel: str):
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xlim=(0, 1), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    return figure, axes


def _name(name: str, label: int) -> str:
    return readable_name(name, label, MAX_NAME).replace("$", r"\$")  # a dollar would begin a formula


def _finish(figure: Figure, axes, handles: list, names: list[str], curves: ScoreCurves, path: str | os.PathLike) -> None:
    if not curves.judged.objects.any() or not len(curves.judged.scores):
        why = "nothing is to be found" if not curves.judged.objects.any() else "no detection"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color="grey")
    if handles:
        figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize="small")
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a frame stands in its place
        figure.savefig(path, dpi=DPI)
