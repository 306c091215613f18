"""The script end to end on tiny drawn data: results, resume, two stages, bad input, prediction."""

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from runs import equal, expect_one_sentence, rows_without_times

import predict
import train_fasterrcnn as script
from train_utils.checkpoint import load_checkpoint
from train_utils.coco_eval import STAT_NAMES
from train_utils.device import make_repeatable
from train_utils.errors import one_sentence_errors

SMALL = ["--min-size", "64", "--max-size", "96", "--box-head-size", "32", "--batch-size", "4", "--lr", "0.01",
         "--roi-samples", "16", "--rpn-top-n", "50", "--print-freq", "100", "--device", "cpu", "--workers", "0", "--opt", "sgd",
         "--eval-every", "1"]


@pytest.fixture
def run(shapes, tmp_path, monkeypatch):
    """Call the script as from the command line, in an empty folder; returns the run folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words, output="out"):
        args = script.parse_args(["--data-path", str(shapes), "--output-dir", output, *SMALL, *map(str, words)])
        script.main(args)
        return tmp_path / output

    return call


def weights(folder, name="last.pth"):
    return load_checkpoint(folder / name)["model"]


def read_last_row(folder):
    with open(folder / "results.csv") as file:
        return list(csv.DictReader(file))[-1]


def test_a_run_leaves_everything_in_its_folder(run, tmp_path):
    folder = run("--epochs", 2, "--keep-last", 1, "--val-loss", "--ema")
    expected = {"args.json", "best.pth", "classes.txt", "detections.json", "last.pth", "last.prev.pth",
                "loss_and_lr.png", "mAP.png", "metrics.json", "model_1.pth", "predictions.png", "results.csv", "results.txt"}
    assert {path.name for path in folder.iterdir()} == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    lines = (folder / "results.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["epoch:0", "epoch:1"] and len(lines[0].split()) == 15
    assert (folder / "classes.txt").read_text().split() == ["circle", "square", "triangle", "star"]
    assert "val_loss" in rows_without_times(folder)[0]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"coco", "voc07", "voc12", "per_class"} and len(metrics["coco"]) == 12


def test_a_new_run_does_not_mix_with_an_old_one(run, tmp_path):
    run("--epochs", 1)
    run("--epochs", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-2"]


@pytest.mark.parametrize(
    "options",
    [
        ["--lr-scheduler", "multistep", "--lr-steps", "3"],
        ["--freeze-epochs", "2", "--unfreeze-lr", "0.005", "--trainable-backbone-layers", "2", "--ema", "0.9",
         "--accumulate", "3", "--lr-scheduler", "cosine"],
    ],
)
def test_four_epochs_are_two_and_two_more(run, options):
    whole = run("--epochs", 4, "--keep-last", 4, *options, output="whole")
    half = whole.parent / "half"
    if "cosine" in options:  # its course depends on the final number of epochs: a run of 4 that ended after 2
        half.mkdir()
        shutil.copy(whole / "model_1.pth", half / "last.pth")
    else:
        run("--epochs", 2, *options, output="half")
    final = run("--epochs", 4, "--resume", half / "last.pth", *options, output="half")
    one, other = load_checkpoint(whole / "last.pth"), load_checkpoint(final / "last.pth")
    equal(one["model"], other["model"])
    if one["ema"]:
        equal(one["ema"]["model"], other["ema"]["model"])
    assert rows_without_times(whole) == rows_without_times(final)
    assert (whole / "results.txt").read_text() == (final / "results.txt").read_text()


def test_resume_auto_takes_the_newest_and_keeps_its_folder(run, tmp_path):
    run("--epochs", 1, "--resume", "auto")  # none yet: a new run
    run("--epochs", 2, "--resume", "auto")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len((tmp_path / "out" / "results.txt").read_text().splitlines()) == 2


def test_the_first_stage_leaves_the_backbone_alone(run):
    """Parameters and BatchNorm statistics of the body are bit-equal to the start; what lies above it has moved."""
    words = ["--backbone", "resnet18_fpn", "--fpn-channels", "16", "--norm", "bn", "--epochs", "2", "--freeze-epochs", "1"]
    folder = run(*words)
    after = torch.load(folder / "pretrain.pth", weights_only=True)
    last = load_checkpoint(folder / "last.pth")
    make_repeatable(0, deterministic=False)
    start = script.create_model(last["model_args"], last["class_names"]).state_dict()
    body = [name for name in start if name.startswith("backbone.body.")]
    assert any("running_mean" in name for name in body)
    equal({name: start[name] for name in body}, {name: after[name] for name in body})
    assert not torch.equal(start["rpn.head.cls_logits.weight"], after["rpn.head.cls_logits.weight"])
    assert not torch.equal(start["backbone.fpn.layer_blocks.0.0.weight"], after["backbone.fpn.layer_blocks.0.0.weight"])
    moved = [name for name in body if not torch.equal(after[name], last["model"][name])]
    assert any("running_mean" in name for name in moved) and any(name.endswith("conv1.weight") for name in moved)


def test_early_stopping(run):
    folder = run("--epochs", 5, "--patience", 1, "--lr", "1e-12")
    assert len((folder / "results.txt").read_text().splitlines()) == 2


def test_test_only_repeats_the_numbers_of_the_run(run, capsys):
    folder = run("--epochs", 1, "--box-score-thresh", "0.01")
    lines = [line for line in capsys.readouterr().out.splitlines() if "@[ IoU" in line]
    run("--test-only", "--weights", folder / "last.pth", "--box-score-thresh", "0.01")
    assert [line for line in capsys.readouterr().out.splitlines() if "@[ IoU" in line] == lines


def test_averaged_weights_are_tested_whether_weights_or_resume_names_them(run, capsys):
    folder = run("--epochs", 1, "--box-score-thresh", "0.01", "--ema", "0.5")
    lines = [line for line in capsys.readouterr().out.splitlines() if "@[ IoU" in line]
    for source in (["--weights", folder / "last.pth"], ["--resume", folder / "last.pth"]):
        run("--test-only", "--box-score-thresh", "0.01", *source)
        assert [line for line in capsys.readouterr().out.splitlines() if "@[ IoU" in line] == lines


def test_bare_files_are_taken_for_what_their_tensors_tell():
    coco = {"roi_heads.box_predictor.cls_score.weight": torch.zeros(91, 8)}
    course = script.foreign_start({**coco, "backbone.body.bn1.num_batches_tracked": torch.tensor(0)}, None, "resnet50_fpn")
    assert course.model_args == {"norm": "bn"} and course.class_names[16] == "cat" and len(course.class_names) == 90
    torchvision = script.foreign_start(coco, None, "resnet50_fpn")
    assert torchvision.model_args == {"norm": "frozen_bn", "norm_eps": 0.0}
    other = script.foreign_start({"roi_heads.box_predictor.cls_score.weight": torch.zeros(21, 8)}, None, "resnet50_fpn")
    assert other.class_names is None and other.model_args == {"norm": "frozen_bn", "norm_eps": 1e-5}


def test_a_schedule_of_ones_own_replaces_that_of_the_quick_start():
    quick = script.parse_args([])
    assert (quick.opt, quick.lr_scheduler, quick.backbone) == ("adamw", "cosine", "small_cnn")
    own = script.parse_args(["--lr", "0.02", "--lr-steps", "7", "12"])
    assert (own.opt, own.lr_scheduler, own.lr, own.backbone) == ("sgd", "multistep", 0.02, "small_cnn")
    idle = script.parse_args(["--dataset", "voc", "--lr-scheduler", "cosine", "--lr-steps", "7"])
    assert "--lr-steps has no effect with --lr-scheduler cosine" in idle.notes
    assert any("random start" in note for note in script.parse_args(["--freeze-epochs", "1"]).notes)
    assert not any("random start" in note for note in quick.notes)


def test_weights_of_other_classes_keep_the_rows_of_equal_names(run, tmp_path, capsys):
    folder = run("--epochs", 1)
    (tmp_path / "classes.txt").write_text("star\ncircle\nsquare\ntriangle\n")
    args = script.parse_args(["--data-path", str(tmp_path), *SMALL, "--dataset", "shapes", "--weights", str(folder / "last.pth")])
    start = script.read_start(args)
    names = ["star", "circle", "other"]
    model = script.create_model(script.resolve_model_args(args, start), names)
    script.load_start_weights(model, args, start, names)
    old, new = start.state, model.state_dict()
    key = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(new[key][[0, 1, 2]], old[key][[0, 4, 1]])
    assert "other" in capsys.readouterr().out


def test_coco_scores_as_pycocotools_scores_the_json_file(shared_data, tmp_path, monkeypatch):
    """50 + 50 real images, 80 classes with gaps in the ids: one epoch, then the written detections against the file."""
    monkeypatch.chdir(tmp_path)
    coco = shared_data / "tiny_coco"
    backbone = shared_data / "weights" / "squeezenet" / "squeezenet1_1_imagenet_from_ncnn_fp16.pth"
    script.main(script.parse_args([
        "--dataset", "coco", "--data-path", str(coco), "--num-classes", "90", "--backbone", "squeezenet1_1",
        "--weights-backbone", str(backbone), "--box-score-thresh", "0.0", "--box-detections", "2000", "--epochs", "1",
        "--output-dir", "out", *SMALL]))
    last = read_last_row(tmp_path / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(coco / "annotations" / "instances_val2017.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "out" / "detections.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert [float(last[name]) for name in STAT_NAMES] == pytest.approx(evaluation.stats.tolist(), abs=1e-12)
    ids = {entry["category_id"] for entry in json.loads((tmp_path / "out" / "detections.json").read_text())}
    assert max(ids) > 80 and evaluation.stats[8] > 0


def test_bad_input_ends_in_one_sentence(run, shapes, tmp_path, capsys, monkeypatch):
    base = ["--data-path", shapes, "--output-dir", "bad", *SMALL]
    expect_one_sentence(script, capsys, "JPEGImages", "--dataset", "voc", "--data-path", tmp_path / "nowhere")
    expect_one_sentence(script, capsys, "nosuch.txt", *base, "--train-split", "nosuch")
    expect_one_sentence(script, capsys, "--num-classes 7", *base, "--num-classes", "7")
    expect_one_sentence(script, capsys, "lower --batch-size", *base, "--batch-size", "17")
    expect_one_sentence(script, capsys, "--freeze-epochs", *base, "--freeze-epochs", "5", "--epochs", "5")
    expect_one_sentence(script, capsys, "--amp bf16", *base, "--amp", "fp16")
    expect_one_sentence(script, capsys, "no such checkpoint", *base, "--resume", "missing.pth")
    expect_one_sentence(script, capsys, "from 0 to 3", *base, "--trainable-backbone-layers", "9")
    expect_one_sentence(script, capsys, "choose from", *base, "--weights", "no_such_detector")
    if not torch.cuda.is_available():
        expect_one_sentence(script, capsys, "--device cuda", *base, "--device", "cuda")
    assert not (tmp_path / "bad").exists()


def test_a_folder_that_cannot_be_written_is_named(shapes, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    expect_one_sentence(script, capsys, "--output-dir", "--data-path", shapes, "--output-dir", tmp_path / "file" / "run", *SMALL)


def test_broken_annotations_are_named_by_file_and_line(shapes, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(shapes, copy)
    xml = sorted((copy / "Annotations").glob("train*.xml"))[3]
    text = xml.read_text()
    words = ["--dataset", "voc", "--data-path", copy, *SMALL, "--output-dir", tmp_path / "bad"]
    xml.write_text("<!DOCTYPE annotation>\n" + text)
    assert "line 1" in expect_one_sentence(script, capsys, xml.name, *words)
    for name in ("circle", "square", "triangle", "star"):
        if f"<name>{name}</name>" in text:
            xml.write_text(text.replace(f"<name>{name}</name>", f"<name>{name}x</name>", 1))
            (copy / "classes.txt").write_text("circle\nsquare\ntriangle\nstar\n")
            message = expect_one_sentence(script, capsys, xml.name, *words, "--classes", copy / "classes.txt")
            assert "object" in message and f'"{name}"' in message


def test_checkpoints_of_others_are_refused_on_resume(run, tmp_path, capsys, shapes):
    folder = run("--epochs", 1)
    checkpoint = load_checkpoint(folder / "last.pth")
    base = ["--data-path", shapes, *SMALL, "--epochs", "2", "--resume", tmp_path / "other.pth"]
    torch.save({**checkpoint, "script": "train_ssd"}, tmp_path / "other.pth")
    expect_one_sentence(script, capsys, "train_ssd", *base)
    torch.save({**checkpoint, "class_names": ["cat", "dog", "cow", "hen"]}, tmp_path / "other.pth")
    expect_one_sentence(script, capsys, "cat, dog, cow, hen", *base)
    torch.save(checkpoint, tmp_path / "other.pth")
    expect_one_sentence(script, capsys, "--epochs is 1", *base[:-4], "--epochs", "1", "--resume", tmp_path / "other.pth")


def test_predict_draws_and_writes(run, shapes, tmp_path, capsys):
    folder = run("--epochs", 1, "--box-score-thresh", "0.01")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = sorted((shapes / "JPEGImages").glob("val*.jpg"))[:2]
    words = [str(folder / "best.pth"), *map(str, images), "--output-dir", str(tmp_path / "found"), "--device", "cpu"]
    predict.main(predict.parse_args(words))
    written = {path.name for path in (tmp_path / "found").iterdir()}
    assert written == {*(p.name for p in images), "predictions.json", "images.json"}
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert {"image_id", "category_id", "bbox", "score", "file_name", "class_name"} == set(results[0])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left, one_sentence_errors(*script.USER_ERRORS):
        predict.main(predict.parse_args([*words, str(tmp_path / "broken.jpg")]))
    assert left.value.code == 2 and "broken.jpg" in capsys.readouterr().err
    assert len(list((tmp_path / "found-2").iterdir())) == 4  # the others are done, and two lists of them


def test_a_copied_script_serves_its_own_checkpoints(run, shapes, tmp_path):
    folder = run("--epochs", 1)
    copy = tmp_path / "train_mine.py"
    shutil.copy(ROOT / "train_fasterrcnn.py", copy)
    checkpoint = {**load_checkpoint(folder / "last.pth"), "script": "train_mine"}
    torch.save(checkpoint, tmp_path / "mine.pth")
    image = str(sorted((shapes / "JPEGImages").glob("val*.jpg"))[0])
    words = [str(tmp_path / "mine.pth"), image, "--script", str(copy), "--output-dir", str(tmp_path / "found")]
    predict.main(predict.parse_args(words))
    assert (tmp_path / "found" / "predictions.json").exists()


def test_two_processes_with_the_flags_of_the_course(shapes, tmp_path):
    """`torchrun` with the command line of the course's multi-process script, one epoch."""
    course = (
        "--device cpu --num-classes 4 -b 4 --start_epoch 0 --epochs 1 -j 0 --lr 0.02 --momentum 0.9 --wd 1e-4 "
        "--lr-step-size 8 --lr-steps 7 12 --lr-gamma 0.1 --print-freq 20 --output-dir ./multi_train --resume= "
        "--aspect-ratio-group-factor 3 --world-size 2 --dist-url env:// --sync-bn False --amp False"
    ).split()
    own = ["--min-size", "64", "--max-size", "96", "--box-head-size", "32", "--roi-samples", "16", "--rpn-top-n", "50"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(ROOT / "train_fasterrcnn.py"), "--data-path", str(shapes), *course, *own]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 processes, backend gloo" in done.stdout
    assert len((tmp_path / "multi_train" / "results.txt").read_text().splitlines()) == 1


def test_one_command_from_an_empty_folder(tmp_path):
    """The README's first command, for one epoch: data is drawn, nothing is downloaded."""
    command = [sys.executable, str(ROOT / "train_fasterrcnn.py"), "--epochs", "1", "--print-freq", "100", "--lr", "0.001"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "quick start:" in done.stdout and (tmp_path / "runs" / "fasterrcnn" / "predictions.png").exists()
