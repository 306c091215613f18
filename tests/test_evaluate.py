"""evaluate.py as a user calls it: the figures of the training log, any number of processes, other data, detections of others."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from runs import expect_one_sentence
from test_train_fasterrcnn import SMALL as SMALL_FASTERRCNN
from test_train_ssd import SMALL as SMALL_SSD
from test_train_yolov3 import SMALL as SMALL_YOLOV3

import evaluate
import train_fasterrcnn
import train_ssd
import train_yolov3
from network_files.ssd_nets import build_ssd
from train_utils.checkpoint import load_checkpoint
from train_utils.coco_eval import STAT_NAMES
from train_utils.errors import InputError

SCRIPTS = {  # so long, and with thresholds so low, that each finds something
    "fasterrcnn": (train_fasterrcnn, [*SMALL_FASTERRCNN, "--box-score-thresh", "0", "--epochs", "2"]),
    "ssd": (train_ssd, [*SMALL_SSD, "--epochs", "2"]),
    "yolov3": (train_yolov3, [*SMALL_YOLOV3, "--box-score-thresh", "0", "--box-detections", "300", "--epochs", "4",
                              "--eval-every", "4"]),
}
FILES = {"metrics.json", "per_class.csv", "record_mAP.txt", "detections.json", "pr_curve.png", "scores.png",
         "confusion_matrix.png", "errors.png", "worst.png"}


@pytest.fixture(scope="module", params=SCRIPTS)
def trained(request, shapes, tmp_path_factory):
    """The folder of a short run of each script."""
    script, words = SCRIPTS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    script.main(script.parse_args(["--data-path", str(shapes), "--output-dir", str(folder / "run"), *words, "--val-loss"]))
    return folder / "run"


@pytest.fixture
def call(tmp_path, capsys):
    """Calls the script; returns (the folder it wrote, what it printed)."""

    def run(*words):
        evaluate.main(evaluate.parse_args([*map(str, words), "--device", "cpu", "--workers", "0", "--output-dir",
                                           str(tmp_path / "out")]))
        folder = max(tmp_path.glob("out*"), key=lambda path: path.stat().st_mtime_ns)
        return folder, capsys.readouterr().out

    return run


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_the_numbers_of_the_training_log(trained, call):
    """The 12 numbers, VOC's, those per class and the losses, to the last digit."""
    folder, out = call(trained / "last.pth", "--loss")
    assert {path.name for path in folder.iterdir()} == FILES
    found, logged = metrics_of(folder), metrics_of(trained)
    last = load_checkpoint(trained / "last.pth")["rows"][-1]
    assert any(value > 0 for value in last["stats"])
    assert [found["coco"][name] for name in STAT_NAMES] == last["stats"]
    for section in ("voc07", "voc12", "per_class"):
        assert found[section] == logged[section]
    val_losses = {name.removeprefix("val_"): value for name, value in last.items() if name.startswith("val_loss_")}
    assert found["losses"] == val_losses
    assert json.loads((folder / "detections.json").read_text()) == json.loads((trained / "detections.json").read_text())
    rules = found["protocol"]
    assert (rules["images"], rules["epochs"], rules["val_split"], len(rules["sha256"])) == (6, last["epoch"] + 1, "val", 64)
    assert "protocol: " in out


def test_two_processes_find_what_one_finds(trained, call, tmp_path):
    one, _ = call(trained / "last.pth")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "evaluate.py"),
               str(trained / "last.pth"), "--device", "cpu", "--workers", "0", "--output-dir", str(tmp_path / "two")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    two = tmp_path / "two"
    assert (two / "detections.json").read_text() == (one / "detections.json").read_text()
    sections = ("coco", "voc07", "voc12", "per_class", "best_confidence", "chosen_confidence", "errors")
    assert {name: metrics_of(two)[name] for name in sections} == {name: metrics_of(one)[name] for name in sections}


def test_detections_score_like_the_detector(trained, call, shapes):
    """Written as COCO's JSON and as VOC's files, read again: the figures of the model itself."""
    first, _ = call(trained / "last.pth", "--save-voc")
    assert len(list(first.glob("det_test_*.txt"))) == 4
    from_json, _ = call("--detections", first / "detections.json", "--data-path", shapes)
    from_text, _ = call("--detections", first, "--data-path", shapes)
    expected = metrics_of(first)
    for folder in (from_json, from_text):
        assert list(metrics_of(folder)["coco"].values()) == pytest.approx(list(expected["coco"].values()), abs=1e-9)
        assert metrics_of(folder)["voc12"]["mAP"] == pytest.approx(expected["voc12"]["mAP"], abs=1e-9)
        assert metrics_of(folder)["errors"] == expected["errors"]


@pytest.fixture(scope="module")
def ssd_run(shapes, tmp_path_factory):
    script, words = SCRIPTS["ssd"]
    folder = tmp_path_factory.mktemp("ssd") / "run"
    script.main(script.parse_args(["--data-path", str(shapes), "--output-dir", str(folder), *words]))
    return folder


def test_other_data_and_another_split(ssd_run, call, shapes, tmp_path):
    """The training split of the run's data; the same data under another path, whose classes are found in its annotations."""
    folder, out = call(ssd_run / "last.pth", "--val-split", "train")
    assert metrics_of(folder)["protocol"]["images"] == 16 and f"split train of {shapes}: 16 images" in out
    one, _ = call(ssd_run / "last.pth")
    os.symlink(shapes, tmp_path / "link")
    other, _ = call(ssd_run / "last.pth", "--data-path", tmp_path / "link", "--allow-outside")
    assert metrics_of(other)["coco"] == metrics_of(one)["coco"]


def test_what_is_left_out_of_the_runs_settings_is_said(ssd_run, call, shapes, tmp_path):
    """Another path takes nothing of the run's; the run's own data must be there, and are never drawn anew."""
    checkpoint = torch.load(ssd_run / "last.pth", weights_only=True)
    checkpoint["args"] |= {"year": "2007", "val_split": "train", "data_path": [str(tmp_path / "moved")]}
    torch.save(checkpoint, tmp_path / "other.pth")
    folder, out = call(tmp_path / "other.pth", "--data-path", shapes)
    assert "its --year 2007 --val-split train is left out" in out and metrics_of(folder)["protocol"]["images"] == 6
    with pytest.raises(InputError, match="moved is not here: the run of this checkpoint had its data there"):
        call(tmp_path / "other.pth")


def test_other_classes_are_named(ssd_run, call, shapes, tmp_path):
    """The model's classes by name; a loss needs them in the model's order."""
    (tmp_path / "names.txt").write_text("star\ncircle\ntriangle\nsquare\n")
    same, _ = call(ssd_run / "last.pth")
    other, out = call(ssd_run / "last.pth", "--data-path", shapes, "--classes", tmp_path / "names.txt")
    assert metrics_of(other)["coco"]["AR100"] == pytest.approx(metrics_of(same)["coco"]["AR100"], abs=1e-12)
    with pytest.raises(InputError, match="--loss needs data with the classes of the model in its order"):
        call(ssd_run / "last.pth", "--data-path", shapes, "--classes", tmp_path / "names.txt", "--loss")
    checkpoint = torch.load(ssd_run / "last.pth", weights_only=True)
    checkpoint["class_names"][3] = "comet"
    torch.save(checkpoint, tmp_path / "other.pth")
    _, out = call(tmp_path / "other.pth", "--data-path", shapes)
    assert "the model does not know" in out and "star" in out and "left out: comet" in out
    single, _ = call(ssd_run / "last.pth", "--single-cls")
    assert [row["name"] for row in metrics_of(single)["per_class"]] == ["object"] and metrics_of(single)["coco"]["AR100"] > 0


def test_the_limits_reach_the_model_and_are_said(ssd_run, call):
    many, _ = call(ssd_run / "last.pth", "--score-thresh", 0)
    few, out = call(ssd_run / "last.pth", "--score-thresh", 0, "--max-detections", 3, "--nms-thresh", 0.3)
    counts = [len(json.loads((folder / "detections.json").read_text())) for folder in (many, few)]
    assert counts[0] > counts[1] == 18
    assert "score_thresh 0" in out and "nms_thresh 0.3" in out and "max_detections 3" in out
    crowded, out = call(ssd_run / "last.pth", "--score-thresh", 0, "--max-detections", 150)
    assert "maxDets=150" in out


def test_zero_is_explained(call, shapes, tmp_path):
    """No detection at all, and boxes in units of the image."""
    (tmp_path / "none.json").write_text("[]")
    folder, out = call("--detections", tmp_path / "none.json", "--data-path", shapes)
    assert metrics_of(folder)["coco"]["AP"] == 0 and "there is no detection" in out
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_file_of_another_project(call, shapes, tmp_path):
    """Its class names come from --labels; classes that it does not know are not found."""
    torch.save(build_ssd("small-ssd", 3).state_dict(), tmp_path / "small-ssd.pth")
    (tmp_path / "labels.txt").write_text("BACKGROUND\ncircle\ncar")
    with pytest.raises(InputError, match="do not say which data they belong to: give --data-path"):
        call(tmp_path / "small-ssd.pth", "--net", "small-ssd", "--labels", tmp_path / "labels.txt")
    folder, _ = call(tmp_path / "small-ssd.pth", "--net", "small-ssd", "--labels", tmp_path / "labels.txt", "--data-path", shapes,
                     "--score-thresh", 0)
    rows = list(csv.DictReader(open(folder / "per_class.csv")))
    assert [row["name"] for row in rows] == ["circle", "square", "triangle", "star"]
    assert {entry["category_id"] for entry in json.loads((folder / "detections.json").read_text())} == {1}


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([], "give either the weights of a detector or --detections"),
        (["a.pth", "--detections", "b.json"], "not both"),
        (["a.pth", "--weights", "b.pth"], "two weights files"),
        (["--detections", "b.json"], "--detections needs the data"),
        (["--detections", "b.json", "--data-path", "d", "--loss"], "--loss: only with the weights of a detector"),
        (["--detections", "b.json", "--data-path", "d", "--score-thresh", "0.5", "--nms-thresh", "7"],
         "--score-thresh and --nms-thresh: only with"),
        (["--detections", "b.json", "--data-path", "d", "--score-thresh", "0"], "--score-thresh: only with"),
        (["--detections", "b.json", "--data-path", "d"], "no such file or folder"),
        (["a.pth", "--confidence", "1.5"], "--confidence"),
        (["a.pth", "--iou", "0"], "--iou"),
        (["a.pth", "--max-detections", "0"], "--max-detections"),
        (["."], "is a folder"),
        (["a.pth", "--val-json", "x.json"], "--val-images"),
        (["no/such/file.pth"], "no such checkpoint file"),
        (["nothing_published"], "neither a weights file nor a published detector"),
    ],
)
def test_bad_commands_end_in_one_sentence(words, match, capsys):
    expect_one_sentence(evaluate, capsys, match, *words)


def test_other_trainers_spellings():
    args = evaluate.parse_args(["--weights-path", "a.pth", "--batch_size", "2", "--num-classes", "20"])
    assert (args.weights, args.batch_size, args.num_classes) == ("a.pth", 2, 20)
    args = evaluate.parse_args(["--net", "mb1-ssd", "--trained_model", "a.pth", "--dataset_type", "voc", "--dataset", "/data/VOC",
                                "--label_file", "l.txt", "--use_2007_metric", "True", "--nms_method", "hard"])
    assert (args.weights, args.dataset, args.data_path, args.labels) == ("a.pth", "voc", ["/data/VOC"], "l.txt")
    args = evaluate.parse_args(["--cfg", "c.cfg", "--data", "x.data", "--weights", "y.weights", "--conf-thres", "0.001",
                                "--iou-thres", "0.5", "--device", "0", "--task", "test"])
    assert args.device == "cuda:0"
    assert (args.data_path, args.score_thresh, args.nms_thresh, args.allow_outside) == (["x.data"], 0.001, 0.5, True)
