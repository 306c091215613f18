"""Curves: what is drawn, single points, gaps, the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import plot_curve
from plot_curve import plot_evolution, plot_loss_and_lr, plot_map, read_results


@pytest.fixture
def figures(monkeypatch):
    """The figures drawn during a test."""
    drawn = []
    save = Figure.savefig

    def remember(self, *args, **kwargs):
        drawn.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(plot_curve.Figure, "savefig", remember)
    return drawn


def lines(figure):
    """{label: [(x, y), ...]} over all axes of a figure."""
    return {line.get_label(): list(map(tuple, line.get_xydata())) for axes in figure.axes for line in axes.lines}


def red_pixels(path):
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return ((picture[..., 0] > 180) & (picture[..., 1] < 90) & (picture[..., 2] < 90)).sum()


def test_loss_and_lr(tmp_path, figures):
    path = tmp_path / "loss_and_lr.png"
    plot_loss_and_lr([2.0, 1.0, 0.5], [0.01, 0.01, 0.001], path)
    assert lines(figures[0]) == {
        "training loss": [(0, 2.0), (1, 1.0), (2, 0.5)],
        "learning rate": [(0, 0.01), (1, 0.01), (2, 0.001)],
    }
    assert len(figures[0].axes) == 2 and red_pixels(path) > 100


def test_extras(tmp_path, figures):
    nan = float("nan")
    plot_loss_and_lr(
        [2.0, nan, 0.5], [0.1] * 3, tmp_path / "a.png", val_loss=[None, 3.0, None], epochs=[4, 5, 6], unfreeze_epoch=5
    )
    drawn = lines(figures[0])
    assert drawn["training loss"] == [(4, 2.0), (6, 0.5)] and drawn["validation loss"] == [(5, 3.0)]
    assert drawn["backbone unfrozen"][0][0] == 4.5
    plot_map([-1, 0.5, nan], tmp_path / "b.png", ap=[-1, 0.25, None])
    assert lines(figures[1]) == {"AP at IoU 0.5": [(1, 0.5)], "AP at IoU 0.5:0.95": [(1, 0.25)]}


def test_a_single_point_is_visible(tmp_path, figures):
    plot_loss_and_lr([1.0], [0.1], tmp_path / "a.png")
    plot_map([0.5], tmp_path / "b.png")
    drawn = [line for figure in figures for axes in figure.axes for line in axes.lines]
    assert len(drawn) == 3 and all(line.get_marker() == "o" and line.get_markersize() > 2 for line in drawn)
    assert red_pixels(tmp_path / "a.png") > 20 and red_pixels(tmp_path / "b.png") > 20


def test_default_names_and_nothing_to_draw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plot_loss_and_lr([], [])
    plot_map([])
    plot_map([-1.0], ap=[-1.0])
    assert (tmp_path / "loss_and_lr.png").stat().st_size > 1000 and (tmp_path / "mAP.png").stat().st_size > 1000


def test_command_line(tmp_path, root):
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.csv").write_text("epoch,AP,AP50,mean_loss,lr,val_loss\n0,,,2.5,0.01,\n1,0.25,0.5,1.5,0.01,1.75\n")
    (run / "args.json").write_text(json.dumps({"args": {"freeze_epochs": 1}}))
    assert read_results(run)["AP50"] == [None, 0.5]
    command = [sys.executable, str(root / "plot_curve.py"), str(run)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {f.name for f in run.iterdir()} == {"results.csv", "args.json", "loss_and_lr.png", "mAP.png"}
    done = subprocess.run([*command[:2], str(tmp_path / "no")], capture_output=True, text=True)
    assert done.returncode == 2 and "results.csv: no such file" in done.stderr and "Traceback" not in done.stderr


def test_bad_tables(tmp_path):
    (tmp_path / "results.csv").write_text("epoch,lr\n0,0.1\n")
    with pytest.raises(ValueError, match="column mean_loss is missing"):
        read_results(tmp_path)
    (tmp_path / "results.csv").write_text("epoch,mean_loss,lr\n0,many,0.1\n")
    with pytest.raises(ValueError, match="not a table of numbers"):
        read_results(tmp_path)


# The three forms of results.txt, two epochs each
OURS = ("epoch:0 " + "  ".join(["-1.0000"] * 12) + "  2.5000  0.010000\n"
        "epoch:1 0.2500  0.5000  " + "0.1000  " * 10 + "1.5000  0.001000\n")
OF_2019 = ("   0/272  7328/7328     0.5     0.1    1.25    0.65     2.5      33     416       0       0       0       0       0\n"
           "   1/272  7328/7328     0.5     0.1    0.75    0.15     1.5      33     416   0.109   0.773   0.5   0.186    1.75\n")
OF_2020 = ("     0/299     3.21G      1.5      0.5      0.5      2.5       33      416  0  0  0  0  0  0  0\n"
           "     1/299     3.21G      0.5      0.5      0.5      1.5       33      416  0.4  0.6  0.5  0.48  0.75  0.5  0.5\n\n")


@pytest.mark.parametrize(("text", "rates", "val_loss", "ap50"), [
    (OURS, [0.01, 0.001], [None, None], [-1, 0.5]),
    (OF_2019, None, [None, 1.75], [0, 0.5]),
    (OF_2020, None, [None, 1.75], [0, 0.5]),
])
def test_results_txt(tmp_path, figures, text, rates, val_loss, ap50):
    file = tmp_path / "results.txt"
    file.write_text(text)
    columns = read_results(file)
    assert columns["epoch"] == [0, 1] and columns["mean_loss"] == [2.5, 1.5] and columns.get("lr") == rates
    assert columns["val_loss"] == val_loss and columns["AP50"] == ap50
    plot_curve.main(plot_curve.get_args_parser().parse_args([str(file)]))
    assert {f.name for f in tmp_path.iterdir()} == {"results.txt", "loss_and_lr.png", "mAP.png"}
    assert lines(figures[0])["training loss"] == [(0, 2.5), (1, 1.5)] and len(figures[0].axes) == (2 if rates else 1)
    assert lines(figures[1])["AP at IoU 0.5"][-1] == (1, 0.5)
    assert read_results(tmp_path) == columns  # the folder, which has no results.csv


def test_results_txt_without_lines_and_with_a_wrong_one(tmp_path):
    file = tmp_path / "results.txt"
    file.write_text("")
    plot_curve.redraw(file)
    assert (tmp_path / "mAP.png").is_file()
    for wrong in (OF_2019 + "1/272 0.5\n", OF_2019 + OF_2019.replace("   2.5", "  much")):
        file.write_text(wrong)
        with pytest.raises(ValueError, match="results.txt:3: not a line of results"):
            read_results(file)


def test_evolution(tmp_path, figures):
    values = {"giou": [3.0, 4.0, 5.0], "lr0": [0.01, 0.002, 0.003]}
    plot_evolution([0.1, 0.3, 0.2], values, tmp_path / "evolve.png")
    assert red_pixels(tmp_path / "evolve.png") > 20
    first, second = figures[0].axes
    assert list(map(tuple, first.lines[0].get_xydata())) == [(3, 0.1), (4, 0.3), (5, 0.2)]
    assert list(map(tuple, second.lines[1].get_xydata())) == [(0.002, 0.3)]
    assert (first.get_title(), second.get_title()) == ("giou = 4", "lr0 = 0.002")
    plot_evolution([], {"giou": []}, tmp_path / "none.png")
    plot_evolution([0.5], {}, tmp_path / "no_value.png")
    assert (tmp_path / "none.png").is_file() and (tmp_path / "no_value.png").is_file()
