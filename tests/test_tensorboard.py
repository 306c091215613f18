"""Event files: the points of a row by hand, going on after a stop, the three scripts, a missing package."""

import csv
import importlib
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from runs import expect_one_sentence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from datasets.shapes import SHAPE_CLASSES
from train_utils.checkpoint import load_checkpoint
from train_utils.coco_eval import STAT_NAMES, CocoResult
from train_utils.metric_logger import MetricLogger
from train_utils.report import evaluation_columns
from train_utils.run_folder import RunFolder
from train_utils.tensorboard import EventFiles, scalars

SMALL = {
    "train_fasterrcnn": ["--min-size", "64", "--max-size", "96", "--box-head-size", "32", "--roi-samples", "16",
                         "--rpn-top-n", "50"],
    "train_ssd": ["--net", "small-ssd", "--resolution", "96"],
    "train_yolov3": ["--cfg", "cfg/yolov3-small.cfg", "--img-size", "96", "--nominal-batch", "0"],
}
COMMON = ["--batch-size", "4", "--lr", "0.002", "--print-freq", "2", "--device", "cpu", "--workers", "0", "--opt", "sgd",
          "--eval-every", "1", "--output-dir", "out"]


def row(epoch, stats=True, **more):
    stats = [round(0.01 * (k + epoch), 4) for k in range(12)] if stats else None
    return {"epoch": epoch, "stats": stats, "mean_loss": 1.5 / (epoch + 1), "lr": 0.0033, **more}


@pytest.fixture(autouse=True)
def numbers_from_zero(monkeypatch):
    """TensorBoard orders the files of one second by the text of a number that counts all files of a process: "10" before "9"."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def read(folder):
    """{tag: [(step, value), ...]} of the event files in a folder, and {tag: [(step, width), ...]} of its pictures."""
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    points = {tag: [(event.step, pytest.approx(event.value, rel=1e-6)) for event in events.Scalars(tag)]  # of 32 bits
              for tag in tags["scalars"]}
    return points, {tag: [(event.step, event.width) for event in events.Images(tag)] for tag in tags["images"]}


def test_points_of_an_ssd_with_validation_loss():
    stats = [0.25, 0.5, -1.0] + [0.125] * 9
    found = scalars({
        "epoch": 3, "stats": stats, "mean_loss": 5.0, "lr": 0.01, "loss_box_reg": 2.0, "loss_classifier": 3.0,
        "seconds": 8.0, "images_per_second": 2.0, "memory_mb": 0.0, "val_loss_box_reg": 1.0, "val_loss_classifier": 0.5,
        "val_loss": 1.5, "AP50/cat": 0.75, "AP50/a/b": 0.25, "AP50/none": -1.0,
    })
    assert found == {
        "Loss/train": 5.0, "Regression Loss/train": 2.0, "Classification Loss/train": 3.0,
        "loss_box_reg/train": 2.0, "loss_classifier/train": 3.0,
        "Loss/val": 1.5, "Regression Loss/val": 1.0, "Classification Loss/val": 0.5,
        "loss_box_reg/val": 1.0, "loss_classifier/val": 0.5,
        "Mean Average Precision/val": 0.5, "Class Average Precision/cat": 0.75, "Class Average Precision/a/b": 0.25,
        **{f"COCO/{name}": value for name, value in zip(STAT_NAMES, stats) if value >= 0},
        "lr": 0.01, "seconds": 8.0, "images_per_second": 2.0, "memory_mb": 0.0,
    }


@pytest.mark.parametrize(("parts", "regression", "classification"), [
    ({"loss_classifier": 1.0, "loss_box_reg": 2.0, "loss_objectness": 4.0, "loss_rpn_box_reg": 8.0}, 10.0, 1.0),
    ({"loss_box": 1.0, "loss_obj": 2.0, "loss_cls": 4.0}, 1.0, 4.0),
    ({"loss_xy": 1.0, "loss_wh": 2.0, "loss_obj": 4.0, "loss_cls": 8.0}, 3.0, 8.0),
    ({"loss_obj": 4.0}, None, None),
    ({}, None, None),
])
def test_jetsons_two_losses_of_other_detectors(parts, regression, classification):
    found = scalars({**row(0, stats=False), **parts})
    assert found.get("Regression Loss/train") == regression and found.get("Classification Loss/train") == classification
    assert {f"{name}/train": value for name, value in parts.items()}.items() <= found.items()
    assert not [name for name in found if name.endswith("/val") or name.startswith(("COCO", "Class Average"))]


def test_columns_of_an_evaluation():
    entries = [{"name": name, "category_id": k, "AP": 0.1, "AP50": ap, "AR100": 0, "num_gt": 1}
               for k, (name, ap) in enumerate({"cat": 0.5, "dog": -1.0}.items())]
    assert evaluation_columns(CocoResult([0.0] * 12, entries)) == {"stats": [0.0] * 12, "AP50/cat": 0.5, "AP50/dog": -1.0}
    assert evaluation_columns(CocoResult([-1.0] * 12, [])) == {"stats": [-1.0] * 12}


def test_a_killed_run_goes_on_without_double_points(tmp_path):
    first = RunFolder(tmp_path / "run", tensorboard=True)
    Image.new("RGB", (6, 4), "red").save(first.path / "predictions.png")
    for epoch in range(3):  # the last row was killed before its checkpoint
        first.add_row(row(epoch, stats=epoch != 1))
    second = RunFolder(tmp_path / "run", resume=True, tensorboard=True)
    second.rows = first.rows[:2]
    second.add_row(row(2))
    points, pictures = read(second.path / "tensorboard")
    assert points["Loss/train"] == [(0, 1.5), (1, 0.75), (2, 0.5)] and points["lr"] == [(k, 0.0033) for k in range(3)]
    assert points["COCO/AP75"] == [(0, 0.02), (2, 0.04)] and pictures == {"predictions": [(0, 6), (2, 6)]}


def test_rows_from_elsewhere_are_written_too(tmp_path):
    """A run that goes on in another folder, or was begun without the flag; its rows may be of an older version."""
    old = RunFolder(tmp_path / "old")
    old.add_row(row(0))
    old.add_row(row(1))
    assert not (old.path / "tensorboard").exists()
    new = RunFolder(tmp_path / "new", tensorboard=True)
    new.rows = old.rows
    new.add_row(row(2, **{"AP50/cat": 0.5}))
    points, pictures = read(new.path / "tensorboard")
    assert points["COCO/AP"] == [(0, 0.0), (1, 0.01), (2, 0.02)] and points["Class Average Precision/cat"] == [(2, 0.5)]
    assert pictures == {}
    with open(new.path / "results.csv", newline="") as file:
        assert [line["AP50/cat"] for line in csv.DictReader(file)] == ["", "", "0.5"]


def append(folder, rows, epoch, tensorboard, **more):
    """Go on with a run of these rows for one epoch; returns the rows then."""
    run = RunFolder(folder, resume=True, tensorboard=tensorboard)
    run.rows = list(rows)
    Image.new("RGB", (6 + epoch, 4)).save(run.path / "predictions.png")
    run.add_row(row(epoch, **more))
    return run.rows


def test_epochs_without_the_flag_are_written_later(tmp_path):
    rows = append(tmp_path, [], 0, True, mean_loss=0.1)  # not exact in 32 bits
    rows = append(tmp_path, append(tmp_path, rows, 1, False), 2, False)
    rows = append(tmp_path, rows, 3, True)
    append(tmp_path, rows, 4, True)
    points, pictures = read(tmp_path / "tensorboard")
    assert [step for step, _ in points["COCO/AP"]] == [0, 1, 2, 3, 4]
    assert pictures == {"predictions": [(0, 6), (3, 9), (4, 10)]}  # those of the others are gone


def test_epochs_taken_again_without_the_flag_replace_the_old_ones(tmp_path):
    rows = append(tmp_path, append(tmp_path, append(tmp_path, [], 0, True), 1, True), 2, True)
    rows = append(tmp_path, append(tmp_path, rows[:1], 1, False, lr=0.5, mean_loss=0.1), 2, False)
    append(tmp_path, rows, 3, True)
    points, pictures = read(tmp_path / "tensorboard")
    assert points["lr"] == [(0, 0.0033), (1, 0.5), (2, 0.0033), (3, 0.0033)] and points["Loss/train"][1] == (1, 0.1)
    assert pictures == {"predictions": [(0, 6), (3, 9)]}


def test_what_was_dropped_is_not_taken_for_written(tmp_path):
    rows = append(tmp_path, append(tmp_path, append(tmp_path, [], 0, True), 1, True), 2, True)
    rows = append(tmp_path, append(tmp_path, rows[:1], 1, True), 2, False)  # drops 2, which has the same loss again
    append(tmp_path, rows, 3, True)
    assert [step for step, _ in read(tmp_path / "tensorboard")[0]["lr"]] == [0, 1, 2, 3]


def test_event_files_that_break_off(tmp_path):
    """As a killed run leaves them: the row that is not whole is written again."""
    rows = append(tmp_path, [], 0, True)
    rows = append(tmp_path, rows, 1, True)
    last = max((tmp_path / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    last.write_bytes(last.read_bytes()[:70])
    append(tmp_path, rows, 2, True)
    assert [step for step, _ in read(tmp_path / "tensorboard")[0]["Loss/train"]] == [0, 1, 2]


def test_other_processes_write_nothing(tmp_path):
    run = RunFolder(tmp_path / "run", enabled=False, tensorboard=True)
    logger = MetricLogger(enabled=False)
    run.watch(logger, 0)
    run.add_row(row(0))
    assert not run.path.exists() and logger.on_show is None


@pytest.mark.parametrize("bar", [False, True])
def test_steps(tmp_path, bar):
    events = EventFiles(tmp_path)
    for epoch in (1, 2):
        logger = MetricLogger(enabled=True, bar=bar)
        events.watch(logger, epoch)
        for batch in logger.log_every([1.0, 2.0, 6.0, 7.0], print_freq=2):
            logger.update(loss=batch, lr=batch / 10)
        events.add_epoch([row(epoch)])
    points, _ = read(tmp_path / "steps")
    assert points["loss/step"] == [(4, 1.0), (6, 2.0), (7, 4.0), (8, 1.0), (10, 2.0), (11, 4.0)]  # medians, as in the log
    assert points["lr/step"][:3] == [(4, 0.1), (6, 0.6), (7, 0.7)]


@pytest.fixture
def train(shapes, tmp_path, monkeypatch):
    """Call a script in an empty folder, without its curves, which take time."""
    monkeypatch.chdir(tmp_path)

    def call(name, *words):
        script = importlib.import_module(name)
        for plot in ("plot_loss_and_lr", "plot_map"):
            monkeypatch.setattr(script, plot, lambda *args, **options: None)
        args = script.parse_args(["--data-path", str(shapes), *COMMON, *SMALL[name], *map(str, words)])
        script.main(args)

    return call


def test_two_epochs_and_one_more_are_three_points(train):
    train("train_ssd", "--epochs", 2, "--tensorboard", "--val-loss")
    state = load_checkpoint("out/last.pth")
    for old in state["rows"]:  # as a version without these columns left them
        for name in [name for name in old if name.startswith("AP50/")]:
            del old[name]
    torch.save(state, "out/last.pth")
    train("train_ssd", "--epochs", 3, "--tensorboard", "--val-loss", "--resume", "out/last.pth")
    points, pictures = read("out/tensorboard")
    with open("out/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert points["Loss/train"] == [(int(r["epoch"]), float(r["mean_loss"])) for r in rows] and len(rows) == 3
    for tag, column in {"Loss/val": "val_loss", "Regression Loss/train": "loss_box_reg", "COCO/ARl": "ARl", "lr": "lr",
                        "Classification Loss/val": "val_loss_classifier", "Mean Average Precision/val": "AP50"}.items():
        assert points[tag] == [(k, float(r[column])) for k, r in enumerate(rows)], tag
    assert [epoch for epoch, _ in pictures["predictions"]] == [0, 1, 2]
    assert [rows[2][f"AP50/{name}"] for name in SHAPE_CLASSES] != [""] * 4 and rows[0]["AP50/star"] == ""
    steps, _ = read("out/tensorboard/steps")
    assert [step for step, _ in steps["loss/step"]] == [0, 2, 3, 4, 6, 7, 8, 10, 11]  # 16 images: 4 steps an epoch


@pytest.mark.parametrize(("name", "parts"), [
    ("train_fasterrcnn", {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}),
    ("train_yolov3", {"loss_box", "loss_obj", "loss_cls", "precision", "recall", "f1"}),
])
def test_the_other_scripts(name, parts, train):
    train(name, "--epochs", 1, "--tensorboard", "--val-loss")
    with open("out/results.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    losses = {part for part in parts if part.startswith("loss_")}
    classes = {f"AP50/{shape}" for shape in SHAPE_CLASSES}
    expected = {"epoch", *STAT_NAMES, "mean_loss", "lr", *parts, *(f"val_{part}" for part in losses), "val_loss", "seconds",
                "images_per_second", "memory_mb", *classes}
    assert expected <= set(line) and all(line[column] != "" for column in expected)
    defined = [float(line[column]) for column in classes if float(line[column]) >= 0]
    assert np.mean(defined) == pytest.approx(float(line["AP50"]))
    points, _ = read("out/tensorboard")
    assert points["Loss/val"] == [(0, float(line["val_loss"]))] and points["COCO/AP"] == [(0, float(line["AP"]))]
    assert {f"{part}/train" for part in losses} <= set(points)


@pytest.mark.parametrize("name", SMALL)
def test_a_missing_package_is_told_before_any_data_is_read(name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    script = importlib.import_module(name)
    monkeypatch.setattr(script, "open_data", None)
    message = expect_one_sentence(script, capsys, "pip install tensorboard", "--dataset", "voc", "--data-path", "x", "--device",
                                  "cpu", "--tensorboard")
    assert message.startswith("error: --tensorboard needs a package") and len(message.splitlines()) == 1


def test_jetsons_commands_write_event_files_where_the_package_is():
    script = importlib.import_module("train_ssd")
    words = ["--dataset=voc", "--data=x", "--model-dir=m"]
    assert script.JETSON["tensorboard"] and script.parse_args(words).tensorboard
    assert not script.parse_args([*words, "--no-tensorboard"]).tensorboard
    assert not script.parse_args([*words, "--no-jetson"]).tensorboard
