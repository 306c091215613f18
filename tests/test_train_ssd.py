"""The script end to end on tiny drawn data: results, resume, stages, jetson's commands, bad input, other projects' files."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from jetson_data import make_jetson_voc, make_open_images
from runs import equal, expect_one_sentence, moved, rows_without_times

import predict
import train_ssd as script
from datasets.shapes import SHAPE_CLASSES
from network_files.ssd_nets import NETS
from train_utils.checkpoint import load_checkpoint
from train_utils.device import make_repeatable

SMALL = ["--net", "small-ssd", "--resolution", "96", "--batch-size", "4", "--lr", "0.01", "--print-freq", "100", "--device",
         "cpu", "--workers", "0", "--opt", "sgd", "--eval-every", "1"]


@pytest.fixture
def run(shapes, tmp_path, monkeypatch):
    """Call the script as from the command line, in an empty folder; returns the run folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words, output="out"):
        args = script.parse_args(["--data-path", str(shapes), "--output-dir", output, *SMALL, *map(str, words)])
        script.main(args)
        return tmp_path / output

    return call


def start_of(checkpoint):
    """The model as the run with seed 0 began."""
    make_repeatable(0, deterministic=False)
    return script.create_model(checkpoint["model_args"], checkpoint["class_names"]).state_dict()


def test_a_run_leaves_everything_in_its_folder(run, tmp_path):
    folder = run("--epochs", 2, "--keep-last", 1, "--val-loss", "--ema")
    expected = {"args.json", "best.pth", "classes.txt", "detections.json", "last.pth", "last.prev.pth",
                "loss_and_lr.png", "mAP.png", "metrics.json", "model_1.pth", "predictions.png", "results.csv", "results.txt"}
    assert {path.name for path in folder.iterdir()} == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    row = rows_without_times(folder)[0]
    assert {"loss_classifier", "loss_box_reg", "val_loss", "AP50"} <= set(row)
    model_args = load_checkpoint(folder / "last.pth")["model_args"]
    assert model_args["resolution"] == model_args["default_boxes"]["resolution"] == 96


@pytest.mark.parametrize(
    "options",
    [
        ["--lr-scheduler", "multistep", "--lr-steps", "3", "--augmentation", "nvidia"],
        ["--freeze-epochs", "2", "--unfreeze-lr", "0.005", "--ema", "0.9", "--accumulate", "3", "--lr-scheduler", "cosine",
         "--base-net-lr", "0.001", "--extra-layers-lr", "0.02"],
    ],
)
def test_four_epochs_are_two_and_two_more(run, options):
    whole = run("--epochs", 4, "--keep-last", 4, *options, output="whole")
    half = whole.parent / "half"
    half.mkdir()  # the cosine depends on the final number of epochs: a run of 4 that ended after 2
    shutil.copy(whole / "model_1.pth", half / "last.pth")
    final = run("--epochs", 4, "--resume", half / "last.pth", *options, output="half")
    one, other = load_checkpoint(whole / "last.pth"), load_checkpoint(final / "last.pth")
    equal(one["model"], other["model"])
    assert rows_without_times(whole) == rows_without_times(final)


def test_the_first_stage_leaves_the_base_alone(run):
    folder = run("--epochs", 2, "--freeze-epochs", 1)
    last, first_stage = load_checkpoint(folder / "last.pth"), torch.load(folder / "pretrain.pth", weights_only=True)
    start = start_of(last)
    assert any("running_mean" in name for name in start)
    assert not moved(start, first_stage, "base_net.") and moved(start, first_stage, "extras.")
    assert moved(first_stage, last["model"], "base_net.")


@pytest.mark.parametrize(("flag", "frozen"), [("--freeze-base-net", ["base_net."]), ("--freeze-net", ["base_net.", "extras."])])
def test_frozen_parts_keep_parameters_and_statistics(run, flag, frozen):
    last = load_checkpoint(run("--epochs", 1, flag) / "last.pth")
    start = start_of(last)
    for part in ("base_net.", "extras.", "classification_headers.", "regression_headers."):
        assert bool(moved(start, last["model"], part)) == (part not in frozen), part


def test_three_rates():
    args = script.parse_args(["--dataset", "voc", "--data-path", "x", "--net", "mb1-ssd", "--base-net-lr", "0.001",
                              "--extra-layers-lr", "0.005", "--lr", "0.01", "--norm-weight-decay", "0"])
    model = script.create_model(script.resolve_model_args(args, None), ["a"])
    groups = script.create_optimizer(args, model).param_groups
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found[id(model.base_net[0][0].weight)] == (0.001, 5e-4)
    assert found[id(model.base_net[0][1].weight)] == (0.001, 0.0)
    assert found[id(model.extras[0][0].weight)] == (0.005, 5e-4)
    assert found[id(model.classification_headers[0].bias)] == (0.01, 5e-4)
    assert len(found) == len(list(model.parameters()))


def test_test_only_repeats_the_numbers_of_the_run(run, capsys):
    folder = run("--epochs", 1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "@[ IoU" in line]
    for source in ("--weights", "--resume"):
        run("--test-only", source, folder / "last.pth")
        assert [line for line in capsys.readouterr().out.splitlines() if "@[ IoU" in line] == lines
    args = script.parse_args(["--dataset", "voc", "--net", "small-ssd", "--weights", str(folder / "last.pth")])
    assert script.resolve_model_args(args, script.read_start(args))["resolution"] == 96  # the file says it
    args.resolution = 128
    assert script.resolve_model_args(args, script.read_start(args))["default_boxes"]["resolution"] == 128


def test_batches_of_one_are_refused_where_batch_norm_cannot_learn(run, shapes, capsys):
    words = ["--data-path", shapes, *SMALL, "--net", "mb2-ssd-lite", "--resolution", "300", "--batch-size", "1"]
    expect_one_sentence(script, capsys, "--batch-size 1", *words, "--output-dir", "bad")
    args = script.parse_args(list(map(str, words)))
    args.rank, args.world_size, args.batch_size = 0, 1, 5
    train_set, _ = script.open_data(args)
    model = script.create_model(script.resolve_model_args(args, None), train_set.class_names)
    loader = script.make_train_loader(args, train_set, model, torch.device("cpu"))
    assert [len(images) for images, _ in loader] == [5, 5, 5]  # 16 images: the one left over waits for another epoch


def test_bad_input_ends_in_one_sentence(run, shapes, tmp_path, capsys):
    base = ["--data-path", shapes, "--output-dir", "bad", *SMALL]
    message = expect_one_sentence(script, capsys, "invalid choice: 'mb9-ssd'", *base, "--net", "mb9-ssd")
    assert all(name in message for name in NETS)
    expect_one_sentence(script, capsys, "--resolution", *base, "--resolution", "0")
    expect_one_sentence(script, capsys, "resolution", *base, "--net", "ssd512-vgg16", "--resolution", "20")
    expect_one_sentence(script, capsys, "choose from", *base, "--weights", "no_such_detector")
    expect_one_sentence(script, capsys, "from 0 to", *base, "--trainable-backbone-layers", "99")
    expect_one_sentence(script, capsys, "--t-max must be at least 1", *base, "--t-max", "0")
    expect_one_sentence(script, capsys, "add --jetson", *base, "--validation-mean-ap", "--no-jetson")
    mb1 = tmp_path / "mb1.pth"
    torch.save(script.create_model({"net": "mb1-ssd"}, ["a"] * 20).state_dict(), mb1)
    message = expect_one_sentence(script, capsys, "mb1-ssd", *base, "--weights", mb1)
    assert "--net mb1-ssd" in message
    torch.save(script.create_model({"net": "mb2-ssd-lite", "mb2_width_mult": 0.5}, ["a"]).state_dict(), mb1)
    expect_one_sentence(script, capsys, "has 0.5: leave the flag out", *base, "--net", "mb2-ssd-lite", "--resolution", "300",
                        "--mb2-width-mult", "0.75", "--weights", mb1)
    torch.save({"fc.weight": torch.zeros(3)}, mb1)
    expect_one_sentence(script, capsys, "image classifier", *base, "--weights", mb1)
    torch.save({"model": {"roi_heads.box_head.fc6.weight": torch.zeros(3)}, "model_args": {"backbone": "x"}, "class_names": ["a"],
                "script": "train_fasterrcnn"}, mb1)
    expect_one_sentence(script, capsys, "was written by train_fasterrcnn and holds a Faster R-CNN: give", *base, "--weights", mb1)
    expect_one_sentence(script, capsys, "torchvision has no weights for the base of mb1-ssd", *base, "--net", "mb1-ssd",
                        "--weights-backbone", "IMAGENET1K_V1")
    expect_one_sentence(script, capsys, "from 32 to 2048 pixels, not 2", *base, "--resolution", "2")
    expect_one_sentence(script, capsys, "--box-nms-thresh must be in 0..1", *base, "--box-nms-thresh", "2")
    csv_file = tmp_path / "empty" / "sub-train-annotations-bbox.csv"
    csv_file.parent.mkdir()
    csv_file.write_text("ImageID,XMin,XMax,YMin,YMax,ClassName\n")
    expect_one_sentence(script, capsys, str(csv_file), f"--data={csv_file.parent}", "--model-dir=bad")
    assert not (tmp_path / "bad").exists()


def test_weights_of_other_classes_keep_the_rows_of_equal_names(run, tmp_path, capsys):
    folder = run("--epochs", 1)
    args = script.parse_args(["--dataset", "voc", "--net", "small-ssd", "--weights", str(folder / "last.pth")])
    start = script.read_start(args)
    names = ["star", "circle", "other"]
    model = script.create_model(script.resolve_model_args(args, start), names)
    script.load_start_weights(model, args, start, names)
    assert model.resolution == 96
    key = "classification_headers.0.bias"
    old, new = (state[key].unflatten(0, (-1, classes)) for state, classes in ((start.state, 5), (model.state_dict(), 4)))
    assert torch.equal(new[:, [0, 1, 2]], old[:, [0, 4, 1]])
    assert "other" in capsys.readouterr().out
    equal({k: v for k, v in start.state.items() if k.startswith("regression")},
          {k: v for k, v in model.state_dict().items() if k.startswith("regression")})


# jetson's documentation: command -> what it comes to. Common to all: jetson's defaults.
JETSON_DEFAULTS = {
    "net": "mb1-ssd", "resolution": None, "lr": 0.01, "base_net_lr": 0.001, "extra_layers_lr": None, "momentum": 0.9,
    "weight_decay": 5e-4, "lr_scheduler": "cosine", "t_max": None, "batch_size": 4, "epochs": 30, "workers": 2, "eval_every": 1,
    "print_freq": 10, "validation_mean_ap": False, "freeze_base_net": False, "freeze_net": False, "balance_data": False,
    "mb2_width_mult": 1.0, "val_loss": True, "jetson": True,
}
VOC = {"dataset": "voc", "data_path": ["data/drone/"], "output_dir": "models/drone/", "train_split": "trainval",
       "val_split": "test"}
FRUIT = {"dataset": "openimages", "data_path": ["data/fruit"], "output_dir": "models/fruit", "train_split": "train",
         "val_split": "test"}
PLAIN = {"dataset": "openimages", "data_path": ["data"], "output_dir": "models/ssd", "train_split": "train", "val_split": "test"}
COMMANDS = [
    ("--dataset-type=voc --data=data/drone/ --model-dir=models/drone/ --resolution=512", VOC | {"resolution": 512}),
    ("--dataset-type=voc --data=data/drone/ --model-dir=models/drone/ --resolution=512 --num-workers=0 --batch-size=4 "
     "--epochs=100 --lr=0.01", VOC | {"resolution": 512, "workers": 0, "epochs": 100}),
    ("--data=data/fruit --model-dir=models/fruit --batch-size=4 --epochs=30", FRUIT),
    ("--net mb2-ssd-lite --mb2-width-mult 0.75", PLAIN | {"net": "mb2-ssd-lite", "mb2_width_mult": 0.75}),
    ("--net vgg16-ssd --freeze-base-net --validation-mean-ap --balance-data",
     PLAIN | {"net": "vgg16-ssd", "freeze_base_net": True, "validation_mean_ap": True, "balance_data": True}),
]


@pytest.fixture
def jetson_folder(tmp_path, monkeypatch):
    """A working folder as after jetson's tutorials: data/drone in VOC layout, data/fruit and data itself as Open Images."""
    make_jetson_voc(tmp_path / "data" / "drone", num_train=4, num_test=2)
    make_open_images(tmp_path / "data" / "fruit", num_train=4, num_test=2)
    make_open_images(tmp_path / "data", num_train=4, num_test=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "expected"), COMMANDS)
def test_commands_of_jetsons_documentation_resolve(command, expected, jetson_folder):
    found = vars(script.parse_args(command.split()))
    expected = JETSON_DEFAULTS | expected
    assert {name: found[name] for name in expected} == expected
    assert any(note.startswith("defaults of jetson-inference: ") for note in found["notes"])


@pytest.mark.parametrize(("command", "expected"), COMMANDS)
def test_commands_of_jetsons_documentation_run(command, expected, jetson_folder):
    """As they stand, but for one epoch (the last word counts)."""
    done = subprocess.run([sys.executable, str(ROOT / "train_ssd.py"), *command.split(), "--epochs=1"], cwd=jetson_folder,
                          capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, done.stderr[-3000:]
    folder = jetson_folder / expected["output_dir"]
    net = (JETSON_DEFAULTS | expected)["net"]
    saved = [path.name for path in folder.iterdir() if re.fullmatch(rf"{net}-Epoch-0-Loss-[\d.]+\.pth", path.name)]
    assert len(saved) == 1
    names = SHAPE_CLASSES if expected["dataset"] == "voc" else sorted(SHAPE_CLASSES)  # of labels.txt, of the CSV files
    assert (folder / "labels.txt").read_text().split("\n") == ["BACKGROUND", *names]
    step = r"Epoch: 0, Step: 0/\d+, Avg Loss: [\d.]+, Avg Regression Loss [\d.]+, Avg Classification Loss: [\d.]+"
    for line in (r"Train dataset size: \d+", step, r"Epoch: 0, Validation Loss: [\d.]+", "Saved model ", "Task done, exiting"):
        assert re.search(rf"^\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d - {line}", done.stdout, re.M), (line, done.stdout)
    assert ("Mean Average Precision (mAP)" in done.stdout) == ("--validation-mean-ap" in command)
    state = torch.load(folder / saved[0], weights_only=True)
    equal(state, load_checkpoint(folder / "last.pth")["model"])


def test_a_model_of_jetsons_predicts_and_starts_another(jetson_folder, capsys):
    words = ["--data=data/drone", "--dataset-type=voc", "--model-dir=models/drone", "--resolution=96", "--net=small-ssd",
             "--num-workers=0", "--use-cuda=False", "--epochs=1"]
    script.main(script.parse_args(words))
    folder = jetson_folder / "models" / "drone"
    file = next(folder.glob("small-ssd-Epoch-0-*.pth"))
    args = script.parse_args([*words, f"--resume={file}"])
    assert args.weights == str(file) and args.resume is None
    start = script.read_start(args)
    assert start.class_names == (folder / "labels.txt").read_text().split("\n")[1:]
    image = next((jetson_folder / "data" / "drone" / "JPEGImages").iterdir())
    predict.main(predict.parse_args(["--weights", str(file), "--net", "small-ssd", "--labels", str(folder / "labels.txt"),
                                     "--resolution", "96", "--device", "cpu", "--output-dir", "found", "--score-thresh", "0.05",
                                     str(image)]))
    results = json.loads((jetson_folder / "found" / "predictions.json").read_text())
    assert {entry["class_name"] for entry in results} <= set(start.class_names)


def test_jetsons_habits_on_the_quick_start_and_without_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = script.parse_args(["--model-dir=m"])  # nothing in data/: shapes
    assert (args.dataset, args.net, args.jetson, args.val_loss, args.output_dir) == ("shapes", "small-ssd", True, True, "m")
    assert script.parse_args(["--net=mb1-ssd"]).resolution == 160 and script.parse_args(["--net=vgg16-ssd"]).resolution is None
    plain = script.parse_args(["--dataset=voc", "--data=x", "--model-dir=m", "--no-jetson"])
    assert not plain.jetson and not plain.val_loss and plain.net == "ssd300-resnet50" and plain.data_path == ["x"]
    asked = script.parse_args(["--dataset=voc", "--data-path=x", "--jetson"])
    assert asked.jetson and asked.net == "mb1-ssd" and asked.val_split == "test"


def test_a_base_goes_before_a_detector_in_jetsons_commands():
    both = ["--dataset=voc", "--data=x", "--base-net=b.pth", "--pretrained-ssd=p.pth"]
    args = script.parse_args(both)
    assert args.weights is None and args.weights_backbone == "b.pth"
    assert "--pretrained-ssd has no effect with --base-net" in args.notes
    assert script.parse_args([*both, "--resume=mb1-ssd-Epoch-1-Loss-2.pth"]).weights == "mb1-ssd-Epoch-1-Loss-2.pth"


def test_two_roots_are_joined(jetson_folder, capsys):
    make_jetson_voc(jetson_folder / "data" / "more", num_train=3, num_test=1)
    args = script.parse_args(["--dataset-type=voc", "--datasets", "data/drone", "data/more"])
    train_set, val_set = script.open_data(args)
    assert (len(train_set), len(val_set)) == (7, 3)


def test_a_missing_default_start_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes = script.parse_args(["--data=x", "--model-dir=y"]).notes
    assert any(note.startswith("warning: there is no models/mobilenet-v1-ssd-mp-0_675.pth") for note in notes)
    assert not any("mobilenet-v1" in note for note in script.parse_args(["--data=x", "--net=vgg16-ssd"]).notes)
    script.JETSON_WEIGHTS.parent.mkdir()
    script.JETSON_WEIGHTS.touch()
    assert script.parse_args(["--data=x"]).weights == str(script.JETSON_WEIGHTS)
    assert script.parse_args(["--data=x", "--base-net=z.pth"]).weights is None


def test_two_processes(shapes, tmp_path):
    own = ["--data-path", str(shapes), *SMALL, "--epochs", "1", "--output-dir", "two", "--val-loss"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(ROOT / "train_ssd.py"), *own]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 processes, backend gloo" in done.stdout
    assert len((tmp_path / "two" / "results.txt").read_text().splitlines()) == 1


def test_one_command_from_an_empty_folder(tmp_path):
    """The README's first command, for one epoch: data is drawn, nothing is downloaded."""
    command = [sys.executable, str(ROOT / "train_ssd.py"), "--epochs", "1", "--print-freq", "100"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "quick start:" in done.stdout and (tmp_path / "runs" / "ssd" / "predictions.png").exists()
