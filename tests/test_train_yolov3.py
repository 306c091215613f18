"""The script end to end on tiny drawn data: results, resume, stages, the 2019 trainer's commands, Darknet's files, bad input."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from runs import equal, expect_one_sentence, moved, rows_without_times
from yolo_data import make_yolo

import predict
import train_yolov3 as script
from network_files.darknet import base_layers, head_convolutions
from network_files.darknet_cfg import set_num_classes
from network_files.darknet_weights import write_weights
from train_utils.checkpoint import load_checkpoint
from train_utils.device import make_repeatable
from train_utils.evolve import read_trials

CFG = "cfg/yolov3-small.cfg"
SMALL = ["--cfg", CFG, "--img-size", "96", "--batch-size", "4", "--lr", "0.002", "--print-freq", "100", "--device", "cpu",
         "--workers", "0", "--opt", "sgd", "--eval-every", "1", "--nominal-batch", "0"]
BASE, HEADS = 9, 2  # layers of the small net's base; number of its heads


@pytest.fixture
def run(shapes, tmp_path, monkeypatch):
    """Call the script as from the command line, in an empty folder; returns the run folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words, output="out"):
        args = script.parse_args(["--data-path", str(shapes), "--output-dir", output, *SMALL, *map(str, words)])
        (script.evolve if args.evolve else script.main)(args)
        return tmp_path / output

    return call


NO_OBJECTS = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "image_id": 0,
              "area": torch.zeros(0), "iscrowd": torch.zeros(0, dtype=torch.int64)}


def start_of(checkpoint):
    """The model as the run with seed 0 began."""
    make_repeatable(0, deterministic=False)
    return script.create_model(checkpoint["model_args"], checkpoint["class_names"]).state_dict()


def layers(state, numbers):
    return {key: value for key, value in state.items() if int(key.split(".")[2]) in numbers}


def small_cfg(num_classes):
    return set_num_classes((ROOT / CFG).read_text(), num_classes)


def metric_lines(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if "@[ IoU" in line or "mean F1" in line]


def test_a_run_leaves_everything_in_its_folder(run, tmp_path):
    folder = run("--epochs", 3, "--keep-last", 1, "--val-loss", "--ema", "--backup-every", 2)
    expected = {"args.json", "backup2.pth", "best.pth", "classes.txt", "detections.json", "last.pth", "last.prev.pth",
                "loss_and_lr.png", "mAP.png", "metrics.json", "model.cfg", "model_2.pth", "predictions.png", "results.csv",
                "results.txt", "train_batch0.jpg"}
    assert {path.name for path in folder.iterdir()} == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    row = rows_without_times(folder)[0]
    assert {"loss_box", "loss_obj", "loss_cls", "val_loss", "AP50", "precision", "recall", "f1", "confidence"} <= set(row)
    checkpoint = load_checkpoint(folder / "last.pth")
    assert checkpoint["model_args"]["cfg"] == (folder / "model.cfg").read_text() == small_cfg(4)
    assert checkpoint["model_args"]["img_size"] == 96


@pytest.mark.parametrize(
    "options",
    [
        ["--mosaic", "0.5", "--lr-scheduler", "cosine", "--final-lr", "0.1", "--multi-scale"],
        ["--freeze-epochs", "2", "--unfreeze-lr", "0.001", "--ema", "0.9", "--accumulate", "3", "--loss", "darknet", "--rect"],
    ],
)
def test_four_epochs_are_two_and_two_more(run, options):
    whole = run("--epochs", 4, "--keep-last", 4, *options, output="whole")
    half = whole.parent / "half"
    half.mkdir()  # the schedule depends on the final number of epochs: a run of 4 that ended after 2
    shutil.copy(whole / "model_1.pth", half / "last.pth")
    final = run("--epochs", 4, "--resume", half / "last.pth", *options, output="half")
    one, other = load_checkpoint(whole / "last.pth"), load_checkpoint(final / "last.pth")
    equal(one["model"], other["model"])
    assert rows_without_times(whole) == rows_without_times(final)


def test_the_first_stage_leaves_the_base_alone(run):
    folder = run("--epochs", 2, "--freeze-epochs", 1)
    last, first_stage = load_checkpoint(folder / "last.pth"), torch.load(folder / "pretrain.pth", weights_only=True)
    start = start_of(last)
    base = range(base_layers(script.create_model(last["model_args"], last["class_names"]).darknet))
    assert len(base) == BASE and any("running_mean" in name for name in layers(start, base))
    equal(layers(start, base), layers(first_stage, base))
    assert moved(first_stage, last["model"], "darknet.module_list.0.")
    assert moved(start, first_stage, f"darknet.module_list.{BASE}.")


@pytest.mark.parametrize(("words", "learning"), [(["--freeze-layers"], "heads"), (["--transfer"], "heads"),
                                                 (["--freeze-layers", "5"], 5)])
def test_frozen_layers_keep_parameters_and_statistics(run, words, learning):
    last = load_checkpoint(run("--epochs", 1, *words) / "last.pth")
    start, network = start_of(last), script.create_model(last["model_args"], last["class_names"]).darknet
    free = head_convolutions(network) if learning == "heads" else range(learning, len(network.module_list))
    for number in {int(key.split(".")[2]) for key in start}:
        assert bool(moved(start, last["model"], f"darknet.module_list.{number}.")) == (number in free), number


def test_test_only_repeats_the_numbers_of_the_run(run, capsys):
    folder = run("--epochs", 1)
    lines = metric_lines(capsys)
    assert len(lines) == 13
    for source in ("--weights", "--resume"):
        run("--test-only", source, folder / "last.pth")
        assert metric_lines(capsys) == lines
    for other in ("rect", "stretch"):
        folder = run("--epochs", 1, *(["--rect"] if other == "rect" else ["--resize", "stretch"]), output=other)
        lines = metric_lines(capsys)
        for source in ("--weights", "--resume"):
            run("--test-only", source, folder / "last.pth", "--eval-batch-size", 1)
            assert metric_lines(capsys) == lines


def test_the_cfg_follows_the_data_and_its_anchors(run, capsys):
    folder = run("--epochs", 1, "--anchors", "auto", "--single-cls", "--class-weights", "--xywh", "--cache-images")
    text = (folder / "model.cfg").read_text()
    assert text.count("classes=1\n") == HEADS and text != small_cfg(1)
    out = capsys.readouterr().out
    before, after = (float(re.search(rf"anchors: ([\d.]+)% of .*: {whose}", out)[1]) for whose in ("the cfg's", "fitted"))
    assert before <= after
    assert {"loss_xy", "loss_wh", "loss_obj", "loss_cls"} <= set(rows_without_times(folder)[0])
    assert load_checkpoint(folder / "last.pth")["class_names"] == ["object"]
    run("--test-only", "--single-cls", "--resume", folder / "last.pth")


def test_anchors_are_fitted_on_the_first_start_of_a_restartable_command(run, capsys):
    words = ["--anchors", "auto", "--resume", "auto", "--multi-scale", "--nosave", "--patience", 1]
    folder = run("--epochs", 1, *words)
    text = (folder / "model.cfg").read_text()
    assert text != small_cfg(4) and (folder / "last.pth").is_file()
    capsys.readouterr()
    assert run("--epochs", 2, *words, "--nominal-batch", 64, "--resume-anyway") == folder
    assert (folder / "model.cfg").read_text() == text
    changed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("changed since")]
    assert changed == [f"changed since the run began: {what}" for what in ("--nominal-batch was 0 and is 64", "epochs 1 -> 2")]


def test_a_run_without_patience_left_ends_again_at_once(run, capsys):
    words = ["--epochs", 9, "--patience", 1, "--resume", "auto", "--lr", "1e-9"]  # the second epoch is no better than the first
    folder = run(*words)
    rows = rows_without_times(folder)
    assert len(rows) < 9
    capsys.readouterr()
    assert run(*words) == folder and rows_without_times(folder) == rows
    assert "stopping early" in capsys.readouterr().out


def test_a_cfg_of_another_shape_than_square(run, tmp_path):
    (tmp_path / "wide.cfg").write_text(small_cfg(4).replace("height=160", "height=80"))
    folder = run("--epochs", 1, "--cfg", "wide.cfg", "--img-size", "128", "--anchors", "auto")
    model_args = load_checkpoint(folder / "last.pth")["model_args"]
    model = script.create_model(model_args, ["a"] * 4)
    assert model.transform.size == (64, 128)
    args = script.parse_args(["--dataset", "voc", "--data-path", "x", "--cfg", "wide.cfg"])
    args.rank, args.world_size = 0, 1
    train_set = script.TrainingSamples([(torch.zeros(3, 50, 200, dtype=torch.uint8), NO_OBJECTS)])
    loader = script.make_train_loader(args, train_set, model, model_args, torch.device("cpu"))
    assert loader.dataset[0][0].shape == (3, 32, 128)  # the model adds the borders: the scale is that of evaluation


def test_hyperparameters_come_from_file_and_flags(run, tmp_path):
    (tmp_path / "hyp.yaml").write_text("lr0: 0.02\nmomentum: 0.8\ngiou: 3.5\n")
    words = ["--dataset", "voc", "--data-path", "x", "--hyp", str(tmp_path / "hyp.yaml")]
    args = script.parse_args([*words, "--momentum", "0.7"])
    assert (args.lr, args.momentum, args.hyperparameters["momentum"]) == (0.02, 0.7, 0.7)
    assert script.resolve_model_args(args, None, ["a"])["loss"]["giou"] == 3.5
    assert script.parse_args(["--dataset", "voc", "--data-path", "x"]).hyperparameters == script.HYP
    later = script.parse_args(["--dataset", "voc", "--data-path", "x", "--hyp", "cfg/hyp-2020.yaml", "--mosaic"])
    assert (later.lr, later.final_lr, later.mosaic, later.hyperparameters["obj"]) == (0.01, 0.05, 1.0, 64.3)


@pytest.mark.parametrize(("batch", "world", "accumulate", "batches", "steps", "lr"), [
    (16, 1, None, 9, 4, 0.01), (16, 1, 1, 9, 1, 0.0025), (128, 1, None, 9, 1, 0.02), (16, 2, None, 9, 2, 0.01),
    (24, 1, None, 9, 3, 0.01125), (16, 1, 4, 2, 4, 0.005)])
def test_the_rate_is_meant_for_64_images(batch, world, accumulate, batches, steps, lr):
    args = script.parse_args(["--dataset", "voc", "--data-path", "x", "--batch-size", str(batch), "--lr", "0.01"])
    args.world_size, args.accumulate = world, accumulate
    assert script.step_settings(args, batches) == (steps, pytest.approx(lr))


def test_sizes_of_the_network_input():
    for words, expected in [
        ([], None), (["--img-size", "320"], None), (["--img-size", "320", "640"], (320, 640)),
        (["--img-size", "320", "320", "416"], (320, 320)), (["--multi-scale"], (288, 640)),
    ]:
        args = script.parse_args(["--dataset", "voc", "--data-path", "x", *words])
        assert script.training_range(args, 416) == expected, words


@pytest.mark.parametrize(("epochs", "factors"), [(1, [1]), (2, [1, 1]), (3, [1, 1, 0.1]), (10, [1] * 8 + [0.1, 0.01])])
def test_the_rate_falls_at_80_and_90_percent(epochs, factors):
    args = script.parse_args(["--dataset", "voc", "--data-path", "x", "--epochs", str(epochs), "--accumulate", "1"])
    schedule = script.make_schedule(args, 100, accumulate=1)
    assert [schedule.factor(100 * epoch + 99) for epoch in range(epochs)] == pytest.approx(factors)
    assert schedule.factor(0) == pytest.approx((1 / 21) ** 4) and schedule.factor(21) == 1.0


def test_two_parameter_groups():
    args = script.parse_args(["--dataset", "voc", "--data-path", "x", "--weight-decay", "0.01", "--norm-weight-decay", "0.002"])
    model = script.create_model({"cfg": small_cfg(1)}, ["a"])
    groups = script.create_optimizer(args, model, 0.01).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decays) == len(list(model.parameters()))
    first = model.darknet.module_list[0]
    assert (decays[id(first.conv.weight)], decays[id(first.norm.weight)], decays[id(first.norm.bias)]) == (0.01, 0.002, 0.002)


# Darknet's files
@pytest.fixture
def darknet_file(tmp_path):
    """random.weights with three.names, made for three classes of which two are in the shapes set."""
    make_repeatable(7, deterministic=False)
    network = script.create_model({"cfg": small_cfg(3)}, ["a", "b", "c"]).darknet
    for number in head_convolutions(network):
        network.module_list[number].conv.bias.data[4::8] += 6  # objectness: there is something everywhere
    (tmp_path / "random.weights").write_bytes(write_weights(network.state_dict(), network))
    (tmp_path / "small.cfg").write_text(small_cfg(3))
    (tmp_path / "three.names").write_text("star\ncircle\nother\n")
    return network


def test_weights_of_other_classes_keep_the_channels_of_equal_names(darknet_file, run, tmp_path, capsys):
    args = script.parse_args(["--dataset", "voc", "--data-path", "x", "--cfg", "small.cfg", "--weights", "random.weights",
                              "--names", "three.names"])
    names = ["circle", "square", "triangle", "star"]
    start = script.read_start(args)
    model = script.create_model(script.resolve_model_args(args, start, names), names)
    script.load_start_weights(model, args, start, names)
    for number in head_convolutions(model.darknet):
        old, new = (net.module_list[number].conv.bias.unflatten(0, (3, -1)) for net in (darknet_file, model.darknet))
        assert torch.equal(new[:, [0, 1, 2, 3, 4, 5, 8]], old[:, [0, 1, 2, 3, 4, 6, 5]])
    assert "square, triangle" in capsys.readouterr().out


def test_a_bare_weights_file_is_tested_and_predicts(darknet_file, run, shapes, tmp_path, capsys):
    run("--test-only", "--cfg", "small.cfg", "--weights", "random.weights", "--names", "three.names")
    assert len(metric_lines(capsys)) == 13
    image = next((shapes / "JPEGImages").iterdir())
    words = ["random.weights", "--cfg", "small.cfg", "--names", "three.names", "--img-size", "96", "--device", "cpu",
             "--output-dir"]
    predict.main(predict.parse_args([*words, "found", str(image)]))
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert results and {entry["class_name"] for entry in results} <= {"star", "circle", "other"}
    foreign = {f"module_list.{key.split('.', 1)[1]}".replace(".norm.", ".BatchNorm2d.").replace(".conv.", ".Conv2d."): value
               for key, value in darknet_file.state_dict().items()}
    torch.save({"model": foreign, "epoch": 3}, tmp_path / "later.pt")
    predict.main(predict.parse_args(["later.pt", *words[1:], "again", str(image)]))
    again = json.loads((tmp_path / "again" / "predictions.json").read_text())
    assert len(again) == pytest.approx(len(results), rel=0.2)  # BatchNorm's eps is another there
    with pytest.raises(script.InputError, match="give its Darknet cfg with --cfg"):
        predict.main(predict.parse_args(["random.weights", str(image)]))


def test_old_names_of_coco_are_the_same_classes(darknet_file, run, tmp_path, capsys):
    data = make_yolo(tmp_path / "mine", images=4)
    (data.parent / "obj.names").write_text("motorcycle\nsofa\n")
    (tmp_path / "three.names").write_text("motorbike\ncouch\nother\n")
    words = ["--data-path", data, "--cfg", "small.cfg", "--weights", "random.weights", "--names", "three.names"]
    run("--test-only", *words)
    assert len(metric_lines(capsys)) == 13
    run("--epochs", 1, *words)
    assert "classes kept: motorcycle, sofa, new: none" in capsys.readouterr().out


def test_a_base_is_cut_out_of_any_file(darknet_file, run, tmp_path, capsys):
    cut = write_weights(darknet_file.state_dict(), darknet_file, layers=BASE)
    (tmp_path / "small.conv.9").write_bytes(cut)
    torch.save({"model": {f"module_list.{key.split('.', 1)[1]}": value for key, value in darknet_file.state_dict().items()}},
               tmp_path / "whole.pt")
    for file in ("small.conv.9", "whole.pt", "random.weights"):
        args = script.parse_args(["--dataset", "voc", "--data-path", "x", "--cfg", "small.cfg", "--weights-backbone", file])
        model = script.create_model({"cfg": small_cfg(2)}, ["a", "b"])
        script.load_start_weights(model, args, None, ["a", "b"])
        for key, value in darknet_file.state_dict().items():
            if key.endswith("conv.weight") and int(key.split(".")[1]) not in head_convolutions(darknet_file):
                assert torch.equal(model.darknet.state_dict()[key], value) == (int(key.split(".")[1]) < BASE), (file, key)
        assert f"layers 0 to {BASE - 2} only" in capsys.readouterr().out  # the last one of the base is a shortcut


# the 2019 trainer: command -> what it comes to. Common to all: its defaults.
DEFAULTS_2019 = {
    "dataset": "yolo", "data_path": ["data/coco_64img.data"], "cfg": "cfg/yolov3-spp.cfg", "img_size": [416], "batch_size": 16,
    "accumulate": 4, "epochs": 100, "lr": 0.001844, "momentum": 0.913, "weight_decay": 0.000467, "norm_weight_decay": 0.000467,
    "opt": "sgd", "lr_scheduler": "multistep", "lr_steps": None, "warmup_steps": None, "warmup_power": 4.0, "loss": "giou",
    "multi_scale": False, "rect": None, "resume": None, "freeze_layers": None, "nosave": False, "notest": False, "workers": 4,
    "best_metric": "AP50", "box_nms_thresh": 0.5, "evolve": None, "bucket": None, "val_loss": True, "backup_every": 10,
    "jitter": True, "mosaic": 0.0,
    "nominal_batch": 64,
}
COMMANDS = [
    ("", {}),
    ("--data-cfg data/coco_64img.data", {}),
    ("--img-size 320 --multi-scale", {"img_size": [320], "multi_scale": True}),
    ("--rect --num-workers 0", {"rect": True, "workers": 0}),
    ("--accumulate 4", {}),
    ("--accumulate 2 --epochs 9", {"accumulate": 2, "epochs": 9}),
    ("--cfg cfg/yolov3-tiny.cfg --data-cfg data/other.data --batch-size 8 --accumulate 8",
     {"cfg": "cfg/yolov3-tiny.cfg", "data_path": ["data/other.data"], "batch_size": 8, "accumulate": 8}),
    ("--resume", {"resume": "auto"}),
    ("--transfer", {"freeze_layers": -1}),
    ("--xywh", {"loss": "xywh"}),
    ("--nosave --notest", {"nosave": True, "notest": True}),
    ("--evolve 2", {"evolve": 2}),
    ("--bucket file:///BUCKET", {"bucket": "file:///BUCKET"}),
]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A working folder as the 2019 trainer's users have it; its cfg files are small ones."""
    data = make_yolo(tmp_path / "data" / "coco", images=18)
    for name in ("coco_64img.data", "other.data"):
        shutil.copy(data, tmp_path / "data" / name)
    for name in ("train.txt", "valid.txt", "obj.names"):
        text = (data.parent / name).read_text().replace("./", f"{data.parent}/")
        (tmp_path / "data" / name).write_text(text)
    (tmp_path / "cfg").mkdir()
    for name in ("yolov3-spp.cfg", "yolov3-tiny.cfg"):
        (tmp_path / "cfg" / name).write_text(small_cfg(80))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "expected"), COMMANDS)
def test_commands_of_the_2019_trainer_resolve(command, expected, checkout):
    found = vars(script.parse_args(command.split()))
    expected = DEFAULTS_2019 | expected
    assert {name: found[name] for name in expected} == expected
    assert any(note.startswith("defaults of the 2019 trainer: ") for note in found["notes"])


def of_2019(checkout, command):
    """The command as it stands, but for one epoch more than there are (the last word counts)."""
    epochs = 2 if command == "--resume" else 1
    done = subprocess.run([sys.executable, str(ROOT / "train_yolov3.py"), *command.split(), f"--epochs={epochs}"], cwd=checkout,
                          capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(("command", "expected"), COMMANDS[2:-2])
def test_commands_of_the_2019_trainer_run(command, expected, checkout):
    if "--resume" in command:
        of_2019(checkout, "")
    out = of_2019(checkout, command)
    folder = checkout / "runs" / "yolov3"
    rows = rows_without_times(folder)
    assert len(rows) == (2 if "--resume" in command else 1) and rows[-1]["AP50"] and rows[-1]["f1"] and rows[-1]["val_loss"]
    assert (folder / "last.pth").is_file()
    assert ("there is no weights/yolov3-spp.pt" in out) == ("--transfer" in command)
    assert [path.name for path in checkout.iterdir() if path.name not in ("data", "cfg")] == ["runs"]


def test_evolution_goes_on_after_a_stop_and_leaves_the_best_alone(checkout):
    of_2019(checkout, "--evolve 2 --num-workers 0")
    folder = checkout / "runs" / "yolov3-evolve"
    trials = read_trials(folder / "evolve.csv")
    assert len(trials) == 2 and trials[0]["lr0"] == script.HYP["lr0"] and trials[1]["giou"] != trials[0]["giou"]
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trial?/last.pth")}
    assert len(before) == 2
    of_2019(checkout, "--evolve 1 --num-workers 0")
    assert read_trials(folder / "evolve.csv")[:2] == trials and len(read_trials(folder / "evolve.csv")) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {"best.yaml", "evolve.csv", "evolve.png", "settings.json", "trial0", "trial1", "trial2"} == {
        path.name for path in folder.iterdir()}
    with pytest.raises(script.InputError, match="--lr 0.001844, now 0.009"):
        script.evolve(script.parse_args(["--evolve", "1", "--num-workers", "0", "--epochs", "1", "--lr", "0.009"]))


def test_a_trial_that_diverges_counts_as_nothing(checkout, capsys):
    (checkout / "hyp.yaml").write_text("giou: 3.0e+38\ncls: 3.0e+38\nobj: 3.0e+38\n")
    script.evolve(script.parse_args(["--evolve", "1", "--num-workers", "0", "--epochs", "1", "--hyp", "hyp.yaml"]))
    assert "trial 0 counts as 0: the loss is not finite" in capsys.readouterr().out
    assert read_trials(checkout / "runs" / "yolov3-evolve" / "evolve.csv")[0]["fitness"] == 0


def test_a_bucket_gets_the_results(checkout):
    of_2019(checkout, f"--bucket file://{checkout}/bucket --notest --nosave")
    assert {"last.pth", "results.txt", "results.csv"} <= {path.name for path in (checkout / "bucket").iterdir()}
    shutil.rmtree(checkout / "bucket")
    assert "could not be copied" in of_2019(checkout, "--bucket file:///proc/nowhere")


def test_the_usual_starts_are_taken_if_they_are_there(checkout):
    (checkout / "weights").mkdir()
    for name in script.START_2019.values():
        (checkout / name).touch()
    assert script.parse_args([]).weights_backbone == "weights/darknet53.conv.74"
    assert script.parse_args(["--cfg", "cfg/yolov3-tiny.cfg"]).weights_backbone == "weights/yolov3-tiny.conv.15"
    transfer = script.parse_args(["--transfer"])
    assert (transfer.weights, transfer.weights_backbone, transfer.freeze_layers) == ("weights/yolov3-spp.pt", "none", -1)
    assert script.parse_args(["--weights", "x.pt"]).weights_backbone == "none"


@pytest.mark.parametrize("style", ["data", "yaml", "folder"])
def test_yolo_label_files(style, run, tmp_path):
    folder = run("--data-path", make_yolo(tmp_path / "mine", images=6, style=style), "--epochs", 1)
    assert (folder / "classes.txt").read_text().split() == ["circle", "square"]


def test_a_run_goes_on_with_its_own_network(run, tmp_path, capsys):
    folder = run("--epochs", 1, "--resize", "stretch")
    words = ["--data-path", make_yolo(tmp_path / "mine", images=6), "--resume", folder / "last.pth"]
    again = [word for word in SMALL if word not in ("--cfg", CFG, "--img-size", "96")]
    expect_one_sentence(script, capsys, "has the classes circle, square, triangle, star", *words, *again, "--epochs", "2")
    (tmp_path / "other.cfg").write_text(small_cfg(4).replace("filters=16", "filters=8"))
    shapes_words = json.loads((folder / "args.json").read_text())["args"]["data_path"]
    expect_one_sentence(script, capsys, "has another network than --cfg other.cfg", "--data-path", *shapes_words, *again,
                        "--resume", folder / "last.pth", "--epochs", "2", "--cfg", "other.cfg")
    script.main(script.parse_args(["--data-path", *shapes_words, *again, "--resume", str(folder / "last.pth"), "--epochs", "2"]))
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "since the run began" in line] == ["changed since the run began: epochs 1 -> 2"]
    assert load_checkpoint(folder / "last.pth")["model_args"]["resize"] == "stretch"


def test_bad_input_ends_in_one_sentence(run, shapes, tmp_path, capsys, darknet_file):
    base = ["--data-path", shapes, "--output-dir", "bad", *SMALL]
    assert "cfg/yolov3-tiny.cfg" in expect_one_sentence(script, capsys, "no such file", *base, "--cfg", "nosuch.cfg")
    expect_one_sentence(script, capsys, "--img-size", *base, "--img-size", "640", "320")
    expect_one_sentence(script, capsys, "multiple of", *base, "--img-size", "100")
    expect_one_sentence(script, capsys, "--mosaic", *base, "--mosaic", "--rect")
    expect_one_sentence(script, capsys, "--rect", *base, "--resize", "stretch", "--rect")
    expect_one_sentence(script, capsys, "--val-data-path", *SMALL, "--data-path", tmp_path / "list.txt")
    expect_one_sentence(script, capsys, "pjreddie.com", *base, "--weights", "missing.weights")
    expect_one_sentence(script, capsys, "--weights-backbone IMAGENET1K_V1: no such file", *base,
                        "--weights-backbone", "IMAGENET1K_V1")
    expect_one_sentence(script, capsys, "leaves nothing to learn", *base, "--freeze-layers", "99")
    expect_one_sentence(script, capsys, "--freeze-layers", *base, "--freeze-layers", "-5")
    expect_one_sentence(script, capsys, "two files to start from", *base, "--transfer", "a.pt", "--weights", "b.pt")
    expect_one_sentence(script, capsys, "name the cfg of these weights", *base, "--cfg", "cfg/yolov3-tiny.cfg", "--weights",
                        "random.weights")
    (tmp_path / "bad.cfg").write_text(f"{small_cfg(4)}\n[attention]\n")
    expect_one_sentence(script, capsys, "[attention]: unknown kind of layer", *base, "--cfg", "bad.cfg")
    (tmp_path / "bad.yaml").write_text("lr: 3\n")
    expect_one_sentence(script, capsys, "bad.yaml:1", *base, "--hyp", "bad.yaml")
    (tmp_path / "bad.yaml").write_text("hsv_s: 3\n")
    expect_one_sentence(script, capsys, "hsv_s", *base, "--hyp", "bad.yaml")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "classifier.pt")
    expect_one_sentence(script, capsys, "image classifier", *base, "--weights", "classifier.pt")
    expect_one_sentence(script, capsys, "other classes", *base, "--cfg", "small.cfg", "--test-only", "--weights",
                        "random.weights")
    assert not (tmp_path / "bad").exists()
    labels = make_yolo(tmp_path / "mine") .parent / "labels" / "train" / "train_001.txt"
    labels.write_text("0 .5 .5 .2 .2\n2 .5 .5 .2 .2\n")
    expect_one_sentence(script, capsys, "train_001.txt, line 2", "--data-path", tmp_path / "mine" / "obj.data", *SMALL)


def test_two_processes(shapes, tmp_path):
    own = ["--data-path", str(shapes), *SMALL, "--epochs", "1", "--output-dir", "two", "--val-loss"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "train_yolov3.py")]
    for words in (own, [*own, "--test-only", "--weights", "two/last.pth", "--eval-batch-size", "8"]):
        done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        assert "2 processes, backend gloo" in done.stdout
    assert len((tmp_path / "two" / "results.txt").read_text().splitlines()) == 1


def test_one_command_from_an_empty_folder(tmp_path):
    """The README's command, for one epoch: data is drawn, nothing is downloaded."""
    command = [sys.executable, str(ROOT / "train_yolov3.py"), "--epochs", "1", "--print-freq", "100"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "quick start:" in done.stdout and (tmp_path / "runs" / "yolov3" / "predictions.png").exists()
