"""Curves: what is drawn, single points, gaps, several runs on a page, the command line."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rcParams
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
    for name in ("results.csv", "results.txt"):
        (tmp_path / name).write_bytes("epoch,mean_loss,lr,Stra\xdfe\n".encode("latin-1"))
        with pytest.raises(ValueError, match=f"{name}: not a text file in UTF-8 .*; restore the file"):
            read_results(tmp_path / name)
    (tmp_path / "results.csv").write_text("epoch,mean_loss,lr\n" + "1" * 200_000)
    with pytest.raises(ValueError, match="results.csv: not a table .*; restore the file"):
        read_results(tmp_path)


# The three forms of results.txt, two epochs each
OURS = ("epoch:0 " + "  ".join(["-1.0000"] * 12) + "  2.5000  0.010000\n"
        "epoch:1 0.2500  0.5000  " + "0.1000  " * 10 + "1.5000  0.001000\n")
OF_2019 = ("   0/272  7328/7328     0.5     0.1    1.25    0.65     2.5      33     416       0       0       0       0       0\n"
           "   1/272  7328/7328     0.5     0.1    0.75    0.15     1.5      33     416   0.109   0.773   0.5   0.186    1.75\n")
OF_2020 = ("     0/299     3.21G      1.5      0.5      0.5      2.5       33      416  0  0  0  0  0  0  0\n"
           "     1/299     3.21G      0.5      0.5      0.5      1.5       33      416  0.4  0.6  0.5  0.48  0.75  0.5  0.5\n\n")


@pytest.mark.parametrize(("text", "rates", "val_loss", "ap50", "loss_box"), [
    (OURS, [0.01, 0.001], [None, None], [-1, 0.5], None),
    (OF_2019, None, [None, 1.75], [0, 0.5], [0.6, 0.6]),
    (OF_2020, None, [None, 1.75], [0, 0.5], [1.5, 0.5]),
])
def test_results_txt(tmp_path, figures, text, rates, val_loss, ap50, loss_box):
    file = tmp_path / "results.txt"
    file.write_text(text)
    columns = read_results(file)
    assert columns["epoch"] == [0, 1] and columns["mean_loss"] == [2.5, 1.5] and columns.get("lr") == rates
    assert columns["val_loss"] == val_loss and columns["AP50"] == ap50 and columns.get("loss_box") == loss_box
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


@pytest.fixture
def draw(tmp_path, figures, monkeypatch):
    """Write results.csv and args.json of runs, call the command in an empty folder; the axes of the page by title."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plot_curve, "redraw", lambda source: source)  # has its own tests, and takes time

    def call(runs, *words):
        for name, (table, settings) in runs.items():
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name / "results.csv").write_text(table)
            if settings is not None:
                (tmp_path / name / "args.json").write_text(json.dumps(settings))
        plot_curve.main(plot_curve.get_args_parser().parse_args([*runs, *words]))
        return {axes.get_title(): axes for figure in figures for axes in figure.axes}

    return call


def drawn(axes):
    return {line.get_label(): list(map(tuple, line.get_xydata())) for line in axes.lines}


FASTER = ("epoch,AP,AP50,mean_loss,lr,loss_box_reg,images_per_second,val_loss,AP50/cat,AP50/dog\n"
          "0,,,2.5,0.01,0.5,10,,,\n1,0.25,0.5,1.5,0.01,0.25,12,1.75,0.375,-1\n")
YOLO = "epoch,AP,AP50,mean_loss,lr,loss_box,AP50/dog,AP50/cow\n0,0.125,0.25,9,0.02,3,0.75,0.5\n"


def test_two_detectors_of_different_length_on_one_page(draw, tmp_path):
    page = draw({"runs/a": (FASTER, {"args": {"lr": 0.01, "opt": "sgd", "min_size": [64, 96], "output_dir": "a"}}),
                 "runs/b": (YOLO, {"args": {"lr": 0.02, "opt": "sgd", "cfg": "x.cfg", "output_dir": "b"},
                                   "command": "/code/train_yolov3.py --epochs 1"})})
    assert list(page) == ["training loss", "loss_box_reg (training)", "loss_box (training)", "validation loss", "learning rate",
                          "AP at IoU 0.5:0.95", "AP at IoU 0.5", "images per second (training)",
                          "AP at IoU 0.5 by class, last evaluation", ""]
    assert drawn(page["training loss"]) == {"a": [(0, 2.5), (1, 1.5)], "b": [(0, 9)]}
    assert drawn(page["loss_box (training)"]) == {"b": [(0, 3)]} and drawn(page["validation loss"]) == {"a": [(1, 1.75)]}
    assert drawn(page["AP at IoU 0.5"]) == {"a": [(1, 0.5)], "b": [(0, 0.25)]}
    assert drawn(page["images per second (training)"]) == {"a": [(0, 10), (1, 12)]}
    bars = page["AP at IoU 0.5 by class, last evaluation"]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["cat", "dog", "cow"]
    found = [(round(bar.get_x() + bar.get_width() / 2, 6), bar.get_height()) for bar in bars.patches]
    assert found == [(-0.2, 0.375), (1.2, 0.75), (2.2, 0.5)]  # dog is not defined in a, which has no cow
    texts = [text.get_text() for text in page[""].texts]
    assert texts == ["settings that differ", "a", "b", "lr", "0.01", "0.02"]
    page = Image.open(tmp_path / "comparison.png")
    assert page.size[0] == 1300
    assert {f.name for f in tmp_path.iterdir()} == {"runs", "comparison.png"}


def test_runs_without_evaluation_without_epochs_and_of_other_trainers(draw, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "results.txt").write_text(OF_2020)
    header = "epoch,AP,AP50,mean_loss,lr\n"
    runs = {"none": (header + "0,,,1.5,0.1\n", None), "empty": (header, {"args": {"lr": 1}})}
    page = draw(runs, "old", "--output", "page.png")
    assert drawn(page["training loss"]) == {"none": [(0, 1.5)], "old": [(0, 2.5), (1, 1.5)]}
    assert drawn(page["AP at IoU 0.5"]) == {"old": [(0, 0), (1, 0.5)]} and "AP at IoU 0.5:0.95" not in page
    assert drawn(page["loss_box (training)"]) == {"old": [(0, 1.5), (1, 0.5)]} and "" not in page
    assert page["training loss"].get_xlim() == (-0.5, 1.5) == page["learning rate"].get_xlim()
    assert (tmp_path / "page.png").is_file() and not (tmp_path / "comparison.png").exists()


def test_one_run_has_a_page_if_asked_for(draw, tmp_path):
    assert draw({"a": (FASTER, None)}, "a/results.csv") == {}  # the same run again
    plot_curve.main(plot_curve.get_args_parser().parse_args(["a", "--output", "one.png"]))
    assert (tmp_path / "one.png").is_file()


def test_names_are_drawn_as_they_are(draw, tmp_path):
    table = "epoch,mean_loss,lr,loss_$x^$,AP50/$a_{$,AP50/\u732b\n0,1,0.1,1,0.5,0.5\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "Glyph missing" is one
        page = draw({name: (table, {"args": {"notes$": f"{name} $\\frac$ \u732b"}}) for name in ("$a^$", "b$")})
    assert (tmp_path / "comparison.png").is_file()
    texts = [text for axes in page.values() for text in (*axes.get_xticklabels(), *axes.texts, axes.title)]
    assert {"$a_{$", "loss_$x^$ (training)", "notes$"} <= {text.get_text() for text in texts}
    assert not any(text.get_parse_math() for text in texts if "$" in text.get_text()) and rcParams["text.parse_math"]


@pytest.mark.parametrize("losses", [(100.0, 100.1), (0.5, 0.5), (0, 0), (2.0, 1.0)])
def test_no_curve_is_cut(draw, losses, figures, tmp_path):
    table = "epoch,mean_loss,lr\n" + "".join(f"{epoch},{loss},{loss}\n" for epoch, loss in enumerate(losses))
    page = draw({"a": (table, None), "b": (table, None)})
    plot_loss_and_lr(losses, losses, tmp_path / "loss.png")
    for axes in (page["training loss"], page["learning rate"], figures[-1].axes[1]):
        low, high = axes.get_ylim()
        assert low == 0 and max(losses) * 1.04 < high <= max(losses) * 1.06 or (low, high) == (0, 1) and max(losses) == 0


@pytest.mark.parametrize("page, sentence", [
    ("none/x.png", "none is no folder, make it first"), ("x.bad", "no kind of picture ends like this; take one of .*.eps, "),
    ("x", "no kind of picture"), ("dir.png", "dir.png is a folder, name a file in it"),
])
def test_a_page_that_cannot_be_written_is_told_first(page, sentence, draw, tmp_path, monkeypatch):
    (tmp_path / "dir.png").mkdir()
    monkeypatch.setattr(plot_curve, "redraw", None)  # it must not come so far
    with pytest.raises(ValueError, match=f"--output {page}: .*{sentence}"):
        draw({"a": (FASTER, None)}, "--output", page)


def test_of_many_classes_those_that_differ_most(draw):
    names = [f"c{k}" for k in range(25)]
    header = "epoch,mean_loss,lr," + ",".join(f"AP50/{name}" for name in names)
    first = "0,1,0.1" + ",1" * 25
    page = draw({run: (f"{header}\n{first}\n1,1,0.1," + ",".join(str(0.5 + sign * k / 100) for k in range(25)) + "\n", None)
                 for run, sign in {"a": 1, "b": -1}.items()})
    bars = page["AP at IoU 0.5 by class, the 20 of 25 that differ most, last evaluation"]
    assert [label.get_text() for label in bars.get_xticklabels()] == names[5:]
    assert bars.patches[0].get_height() == 0.55 and bars.patches[20].get_height() == 0.45


def test_names_of_runs():
    def names(*paths):
        return plot_curve.short_names([Path("/home/me") / path for path in paths])

    assert names("runs/ssd/results.csv", "runs/ssd-2/results.csv") == ["ssd", "ssd-2"]
    assert names("a/runs/ssd/results.csv", "b/runs/ssd/results.txt") == ["a", "b"]
    assert names("a/x/ssd/results.csv", "a/y/ssd/results.csv", "b/x/ssd/results.csv") == ["a/x", "a/y", "b/x"]
    assert names("runs/ssd/results.csv", "old/yolo.txt") == ["ssd", "yolo.txt"]
    assert names("run/results.csv", "run/results.txt") == ["results.csv", "results.txt"]
    assert names("ssd/results.csv", "ssd/ssd/results.csv") == ["me", "ssd"]  # me/ssd and ssd/ssd
    assert names("runs/ssd/results.csv") == ["ssd"]


def test_settings_that_differ():
    flags = {"a": {"lr": 0.1, "amp": False, "lr_steps": [1, 2], "new": 1, "ema": None, "output_dir": "x"},
             "b": {"lr": 0.1, "amp": True, "lr_steps": [1], "ema": 0.9, "output_dir": "y"}, "foreign": {}}
    assert plot_curve.differences(flags) == {
        "amp": ["False", "True", ""], "lr_steps": ["1 2", "1", ""], "ema": ["none", "0.9", ""]}
    assert plot_curve.differences({"a": {}}) == {} == plot_curve.differences({})


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"args": 3}', '{"args": {}, "command": 3}'])
def test_damaged_settings(tmp_path, content):
    (tmp_path / "results.csv").write_text(FASTER)
    (tmp_path / "args.json").write_text(content)
    with pytest.raises(ValueError, match="args.json: not the settings of a run"):
        plot_curve.redraw(tmp_path)
