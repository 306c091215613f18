"""The run folder: names, results files, what is kept, finding the file to continue from."""

import csv
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from train_utils import run_folder
from train_utils.checkpoint import load_checkpoint
from train_utils.run_folder import RunFolder, find_resume, results_line, unused_folder


def row(epoch, stats=True, **more):
    stats = [round(0.01 * (k + epoch), 4) for k in range(12)] if stats else None
    return {"epoch": epoch, "stats": stats, "mean_loss": 1.5 / (epoch + 1), "lr": 0.0033, **more}


def test_a_new_run_takes_an_unused_folder(tmp_path):
    wanted = tmp_path / "runs" / "net"
    for name in ("net", "net-2", "net-3"):
        run = RunFolder(wanted)
        assert run.path == wanted.with_name(name) and not any(run.path.iterdir())
        run.write_classes(["a"])
    assert RunFolder(wanted, resume=True).path == wanted
    (tmp_path / "empty").mkdir()
    assert unused_folder(tmp_path / "empty") == tmp_path / "empty"


def test_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(ValueError, match="--output-dir .*file.*cannot write there"):
            RunFolder(place)


def test_results_line_is_the_origins():
    line = results_line({"epoch": 3, "stats": [0.40123, 0.7011] + [0.5] * 10, "mean_loss": 0.65341, "lr": 0.0033})
    assert line == "epoch:3 0.4012  0.7011  " + "0.5000  " * 10 + "0.6534  0.003300"
    assert len(line.split()) == 15
    assert results_line(row(0, stats=False)).split()[1:13] == ["-1.0000"] * 12


def test_results_files_and_curves(tmp_path):
    calls = []
    run = RunFolder(
        tmp_path / "run",
        plot_functions=(lambda *a, **k: calls.append((a, k)), lambda *a, **k: calls.append((a, k))),
        unfreeze_epoch=1,
    )
    run.add_row(row(0, stats=False, loss_box=np.float32(0.5)))
    run.add_row(row(1, loss_box=0.25, val_loss=0.75))
    assert len((run.path / "results.txt").read_text().splitlines()) == 2
    with open(run.path / "results.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["AP50"], first["loss_box"], first["val_loss"]) == ("", "0.5", "")
    assert (second["AP"], second["AP50"], second["ARl"]) == ("0.01", "0.02", "0.12")
    assert (second["val_loss"], second["lr"], second["epoch"]) == ("0.75", "0.0033", "1")
    (losses, rates), kwargs = calls[-2]
    assert losses == [1.5, 0.75] and rates == [0.0033] * 2 and kwargs["val_loss"] == [None, 0.75]
    assert kwargs["epochs"] == [0, 1] and kwargs["unfreeze_epoch"] == 1
    (ap50,), kwargs = calls[-1]
    assert ap50 == [-1, 0.02] and kwargs["ap"] == [-1, 0.01] and kwargs["path"] == run.path / "mAP.png"
    assert sorted(os.listdir(run.path)) == ["results.csv", "results.txt"]


def test_a_resumed_run_has_the_same_rows(tmp_path):
    whole = RunFolder(tmp_path / "whole")
    for epoch in range(4):
        whole.add_row(row(epoch))
    first = RunFolder(tmp_path / "halves")
    first.add_row(row(0))
    first.add_row(row(1))
    first.save({"epoch": 1}, epoch=1)
    first.add_row(row(2))  # killed after the row, before the checkpoint
    second = RunFolder(tmp_path / "halves", resume=True)
    second.rows = load_checkpoint(second.path / "last.pth")["rows"]
    second.add_row(row(2))
    second.add_row(row(3))
    for name in ("results.txt", "results.csv"):
        assert (second.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_json_files_and_classes(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.write_args({"lr": 0.01, "data_path": tmp_path, "lr_steps": (7, 12)})
    stored = json.loads((run.path / "args.json").read_text())
    assert stored["args"] == {"lr": 0.01, "data_path": str(tmp_path), "lr_steps": [7, 12]}
    assert stored["versions"]["torch"] and stored["hardware"]["cpus"] >= 1 and stored["date"] and stored["command"]
    assert "git_commit" in stored
    run.write_metrics({"coco": {"AP": np.float64(0.5)}, "per_class": [{"name": "a", "AP": -1.0}]})
    assert json.loads((run.path / "metrics.json").read_text())["coco"] == {"AP": 0.5}
    run.write_classes(["red blood cell", "Größe"])
    assert (run.path / "classes.txt").read_text(encoding="utf-8") == "red blood cell\nGröße\n"


def test_which_checkpoints_are_kept(tmp_path):
    run = RunFolder(tmp_path / "run", keep_last=2)
    (run.path / "model_final.pth").write_text("not ours")
    for epoch in range(12):
        run.save({"epoch": epoch}, epoch, is_best=epoch == 3)
    names = {"last.pth", "last.prev.pth", "best.pth", "model_10.pth", "model_11.pth", "model_final.pth"}
    assert set(os.listdir(run.path)) == names
    epochs = {name: load_checkpoint(run.path / name)["epoch"] for name in names - {"model_final.pth"}}
    assert epochs == {"last.pth": 11, "last.prev.pth": 10, "best.pth": 3, "model_10.pth": 10, "model_11.pth": 11}
    other = RunFolder(tmp_path / "other")
    other.save({"epoch": 0}, 0)
    assert os.listdir(other.path) == ["last.pth"]
    weights = torch.nn.Linear(1, 2).state_dict()
    other.save_weights(weights, "pretrain.pth")
    assert load_checkpoint(other.path / "pretrain.pth").keys() == weights.keys()


def test_backups_are_kept_for_good(tmp_path):
    run = RunFolder(tmp_path / "run", keep_last=1, keep_every=3)
    for epoch in range(8):
        run.save({"epoch": epoch}, epoch)
    names = {"last.pth", "last.prev.pth", "model_7.pth", "backup3.pth", "backup6.pth"}
    assert set(os.listdir(run.path)) == names
    assert load_checkpoint(run.path / "backup3.pth")["epoch"] == 3 and load_checkpoint(run.path / "backup6.pth")["epoch"] == 6


def test_cfg_picture_and_further_columns(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.write_cfg("[net]\nwidth=96\n")
    assert (run.path / "model.cfg").read_text() == "[net]\nwidth=96\n"
    run.save_picture(Image.new("RGB", (5, 4), "red"), "train_batch0.jpg")
    assert Image.open(run.path / "train_batch0.jpg").size == (5, 4)
    run.add_row(row(0))
    run.add_row(row(1, precision=0.5, recall=0.25, f1=1 / 3))
    with open(run.path / "results.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["precision"], second["precision"], second["recall"]) == ("", "0.5", "0.25")
    assert float(second["f1"]) == 1 / 3


def test_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("not supported")

    monkeypatch.setattr(run_folder.os, "link", refuse)
    run = RunFolder(tmp_path / "run")
    run.save({"epoch": 0}, 0, is_best=True)
    run.save({"epoch": 1}, 1)
    assert load_checkpoint(run.path / "best.pth")["epoch"] == 0


def test_other_processes_touch_nothing(tmp_path):
    run = RunFolder(tmp_path / "run", enabled=False, keep_last=1, keep_every=1)
    run.write_args({"lr": 1})
    run.write_cfg("[net]")
    run.save_picture(Image.new("RGB", (2, 2)), "p.png")
    run.add_row(row(0))
    run.save({"epoch": 0}, 0, is_best=True)
    assert not run.path.exists() and len(run.rows) == 1


def test_find_resume(tmp_path, capsys):
    assert find_resume(tmp_path / "runs" / "net") is None
    first, second = RunFolder(tmp_path / "runs" / "net"), None
    first.save({"epoch": 0}, 0)
    second = RunFolder(tmp_path / "runs" / "net")
    second.save({"epoch": 1}, 1)
    second.save({"epoch": 2, "weights": torch.zeros(1000)}, 2)
    unrelated = RunFolder(tmp_path / "runs" / "network-9")
    unrelated.save({"epoch": 9}, 9)
    for number, folder in enumerate((first, second, unrelated)):
        for name in ("last.prev.pth", "last.pth"):
            if (folder.path / name).exists():
                os.utime(folder.path / name, ns=(number * 10**9, number * 10**9))
    assert find_resume(tmp_path / "runs" / "net") == second.path / "last.pth"
    assert find_resume(tmp_path / "runs" / "net-2") == second.path / "last.pth"
    assert find_resume(tmp_path / "runs") == unrelated.path / "last.pth"
    content = (second.path / "last.pth").read_bytes()
    (second.path / "last.pth").write_bytes(content[:-100])
    os.utime(second.path / "last.pth", ns=(10**9, 10**9))
    assert find_resume(tmp_path / "runs" / "net") == second.path / "last.prev.pth"
    assert "last.pth is damaged" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert find_resume(tmp_path / "empty") is None
