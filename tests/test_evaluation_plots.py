"""Pictures of an evaluation: what is in the axes, any number of classes, odd names, nothing there."""

import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from test_coco_eval import make_detections, make_truth, nothing

from train_utils import evaluation_plots
from train_utils.confusion_matrix import confusion_matrix
from train_utils.error_analysis import classify_errors
from train_utils.evaluation_plots import plot_confusion, plot_errors, plot_pr, plot_scores
from train_utils.score_curves import score_curves


@pytest.fixture
def figures(monkeypatch):
    """Every figure made, in order; drawing one must not warn."""
    made = []

    class Kept(Figure):
        def __init__(self, *words, **named):
            super().__init__(*words, **named)
            made.append(self)

    monkeypatch.setattr(evaluation_plots, "Figure", Kept)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield made


def square(x):
    return [x, 0, x + 10, 10]


def case(num_classes, names=None):
    """An object of each class but the last, found with a rising score; the first detection has a wrong class, too."""
    classes = range(1, num_classes + (num_classes == 1))
    truth = make_truth([0] * len(classes), [square(20 * k) for k in classes], classes, 1, range(1, num_classes + 1))
    truth["class_names"] = names or truth["class_names"]
    boxes = [square(20 * k) for k in classes]
    found = make_detections([0] * (len(boxes) + 1), [*boxes, boxes[0]], [*classes, num_classes],
                            [*np.linspace(0.3, 0.8, len(boxes)), 0.95])
    return truth, found


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def texts(axes):
    return [text.get_text() for text in axes.texts]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_pr(figures, tmp_path):
    curves = score_curves(*case(4, ["_cat", "$x^2$", "猫咪\nand more", "none"]))
    plot_pr(curves, tmp_path / "few.png")
    axes, = figures[0].axes
    assert [len(line.get_xdata()) for line in axes.lines] == [101, 101, 101, 101]  # three classes with objects, and their mean
    assert legend(figures[0]) == ["_cat: AP 1.000", r"\$x^2\$: AP 1.000", "3 猫咪 and more: AP 1.000", "mean: AP 1.000"]
    plot_pr(curves, tmp_path / "many.png", max_classes=2)
    assert legend(figures[1]) == ["each of 3 classes", "mean: AP 1.000"] and len(figures[1].axes[0].lines) == 4
    assert size_of(tmp_path / "many.png") == (900, 600)


def test_a_line_ends_where_the_recall_ends(figures, tmp_path):
    truth = make_truth([0] * 4, [square(20 * k) for k in range(4)], [1] * 4, 1, [1])
    plot_pr(score_curves(truth, make_detections([0], [square(0)], [1], [0.5])), tmp_path / "pr.png")
    line, = figures[0].axes[0].lines  # one class has no mean beside it
    assert line.get_xdata()[-1] == 0.25 and line.get_ydata().tolist() == [1] * 26
    assert legend(figures[0]) == ["class 1: AP 0.257"]


def test_scores(figures, tmp_path):
    plot_scores(score_curves(*case(3)), tmp_path / "scores.png")
    axes, = figures[0].axes
    precision, recall, f1, best, mark = axes.lines
    assert precision.get_xdata()[-1] == pytest.approx(0.95) and recall.get_xdata()[-1] == f1.get_xdata()[-1] == 1
    assert legend(figures[0]) == ["precision", "recall", "F1", "F1 1.000 at 0.300"]
    assert mark.get_xdata()[0] == pytest.approx(0.3) and mark.get_ydata()[0] == 1 and texts(axes) == []


def test_confusion(figures, tmp_path):
    truth, found = case(3)
    matrix = confusion_matrix(truth, found)  # the wrong class has the highest score and takes the first object
    plot_confusion(matrix, truth["class_names"], tmp_path / "matrix.png")
    axes, = figures[0].axes
    assert sorted(texts(axes)) == ["1.00\n(1)", "1.00\n(1)", "1.00\n(1)"] and matrix.sum() == 3
    assert {text.get_position() for text in axes.texts} == {(2, 0), (1, 1), (0, 3)}  # x is the detected class, y the true one
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["class 1", "class 2", "class 3", "missed"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["class 1", "class 2", "class 3", "false alarm"]
    right, wrong = (np.ma.filled(image.get_array().astype(float), np.nan) for image in axes.images)
    assert np.argwhere(np.isfinite(right)).tolist() == [[1, 1]] and np.argwhere(np.isfinite(wrong)).tolist() == [[0, 2], [3, 0]]
    plot_confusion(np.array([[30, 10], [5, 0]]), ["$"], tmp_path / "counts.png", normalise=False)
    assert sorted(texts(figures[1].axes[0])) == ["10", "30", "5"]
    plot_confusion(np.array([[30, 10], [5, 0]]), ["a"], tmp_path / "shares.png")
    assert sorted(texts(figures[2].axes[0])) == ["0.25\n(10)", "0.75\n(30)", "1.00\n(5)"]


def test_confusion_of_many_classes_has_those_with_most_errors(figures, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_plots, "MAX_CLASSES", 20)
    matrix = np.diag([9] * 1203 + [0])
    matrix[100:118, 1203] = 1  # missed
    matrix[1202, 7] = 2  # an object of the last class taken for class 8: an error of both
    plot_confusion(matrix, [f"class {k}" for k in range(1, 1204)], tmp_path / "matrix.png")
    axes = figures[0].axes[0]
    assert axes.get_title() == "Confusion matrix: the 20 of 1203 classes with most errors"
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["class 8", *[f"class {k}" for k in range(101, 119)], "class 1203", "false alarm"]
    right, wrong = (np.ma.filled(image.get_array().astype(float), np.nan) for image in axes.images)
    assert right.shape == (21, 21) and right[0, 0] == 1 and right[1, 1] == pytest.approx(0.9)
    assert wrong[19, 0] == pytest.approx(2 / 11) and wrong[1, 20] == pytest.approx(0.1)


def test_errors(figures, tmp_path):
    truth, found = case(30)
    report = classify_errors(truth, found, score_threshold=0.5)
    plot_errors(report, tmp_path / "errors.png")
    axes, = figures[0].axes
    worst = [tick.get_text() for tick in axes.get_yticklabels()]
    assert worst == [f"class {k} (0 of 1 found)" for k in range(1, 13)] + ["class 30 (0 of 0 found)"]
    assert legend(figures[0]) == ["missed 12", "duplicate 0", "wrong class 1", "badly placed 0", "background 0"]
    assert sum(bar.get_width() for bar in axes.patches) == 13 and axes.get_xlabel() == "errors"
    plot_errors(classify_errors(truth, nothing()), tmp_path / "all.png")
    axes, = figures[1].axes
    assert len(axes.get_yticklabels()) == 20 and axes.get_xlabel() == "errors (and 9 classes with fewer)"


@pytest.mark.parametrize("num_classes", [1, 20, 80])
def test_any_number_of_classes(figures, tmp_path, num_classes):
    truth, found = case(num_classes, [f"a rather long name of class {k}, indeed" for k in range(num_classes)])
    plot_confusion(confusion_matrix(truth, found), truth["class_names"], tmp_path / "matrix.png")
    figure, = figures
    width, height = size_of(tmp_path / "matrix.png")
    assert 400 < min(width, height) and max(width, height) < 2500
    names = figure.axes[0].get_yticklabels()
    boxes = [name.get_window_extent() for name in names]
    assert all(below.y1 <= above.y0 + 1 for above, below in zip(boxes, boxes[1:]))  # no name lies on the next
    assert (len(figure.axes[0].texts) > 0) == (num_classes == 1)


def test_nothing_there(figures, tmp_path):
    truth, found = case(3)
    empty = make_truth([], [], [], 1, [1, 2, 3])
    for number, (objects, detections, words) in enumerate(
        [(truth, nothing(), "no detection"), (empty, found, "nothing is to be found"),
         (empty, nothing(), "nothing is to be found")]
    ):
        curves = score_curves(objects, detections)
        plot_pr(curves, tmp_path / f"pr{number}.png")
        plot_scores(curves, tmp_path / f"scores{number}.png")
        plot_confusion(confusion_matrix(objects, detections), objects["class_names"], tmp_path / f"matrix{number}.png")
        plot_errors(classify_errors(objects, detections), tmp_path / f"errors{number}.png")
        assert [texts(figure.axes[0]) for figure in figures[-4:-2]] == [[words]] * 2
    assert texts(figures[-1].axes[0]) == ["no error"]
    sizes = [size_of(path) for path in tmp_path.glob("*.png")]
    assert len(sizes) == 12 and min(min(size) for size in sizes) > 300
