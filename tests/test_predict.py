"""predict.py as a user calls it on SSD files of other projects: what is taken for what, and the sentence when it is wrong."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from PIL import Image
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import datasets
import network_files
import predict
from datasets.class_names import VOC_CLASS_FILE, read_class_file
from network_files.ssd_nets import build_ssd
from train_utils.errors import one_sentence_errors


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((200, 150), 80).convert("RGB").save(tmp_path / "photo.jpg")
    return str(tmp_path / "photo.jpg")


@pytest.fixture
def ssd_file(tmp_path):
    """A function that writes the bare state_dict of a small SSD with that many classes and returns its path."""

    def write(num_classes=4, net="small-ssd", wrap=lambda state: state):
        path = tmp_path / f"{net}-{num_classes}.pth"
        torch.save(wrap(build_ssd(net, num_classes).state_dict()), path)
        return str(path)

    return write


@pytest.fixture
def run(tmp_path, photo):
    """Calls the script on the photo; returns the entries of predictions.json."""

    def call(*words):
        args = predict.parse_args([*map(str, words), photo, "--output-dir", str(tmp_path / "out"), "--device", "cpu"])
        predict.main(args)
        folder = max(tmp_path.glob("out*"), key=lambda path: path.stat().st_mtime_ns)
        assert {path.name for path in folder.iterdir()} == {"photo.jpg", "predictions.json"}
        return json.loads((folder / "predictions.json").read_text())

    return call


@pytest.fixture
def complaint(run, capsys):
    """Calls the script, which has to refuse; returns its sentence."""

    def call(*words):
        with pytest.raises(SystemExit) as left, one_sentence_errors(network_files.InputError, datasets.InputError):
            run(*words)
        error = capsys.readouterr().err
        assert left.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
        return error

    return call


def labels_file(tmp_path, text):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", ["BACKGROUND\ncat\ndog\ncow", "BACKGROUND\ncat\ndog\ncow\n\n\n", "cat\ndog\ncow\n"])
def test_bare_file_with_net_and_labels(text, ssd_file, run, tmp_path, capsys):
    """jetson's model-side file, with blank lines at its end, and without BACKGROUND: the count tells what is meant."""
    results = run("--weights", ssd_file(4), "--net", "small-ssd", "--labels", labels_file(tmp_path, text))
    assert results and {r["class_name"] for r in results} <= {"cat", "dog", "cow"}
    assert all(["cat", "dog", "cow"][r["category_id"] - 1] == r["class_name"] for r in results)
    x, y, width, height = results[0]["bbox"]
    assert 0 <= x and x + width <= 200.01 and 0 <= y and y + height <= 150.01  # pixels of the photo
    out = capsys.readouterr().out
    assert "small-ssd in the layout of pytorch-ssd, 160 pixels, 3 classes: names from " in out and "note" not in out


def test_positional_weights_of_the_course_repository(ssd_file, run, capsys):
    weights = ssd_file(4, wrap=lambda state: {"model": state, "optimizer": {}, "lr_scheduler": {}, "epoch": 3})
    results = run(weights)
    assert {r["class_name"] for r in results} <= {"class 1", "class 2", "class 3"}
    assert "3 classes: without names (--labels gives them)" in capsys.readouterr().out


def test_resolution_changes_the_network_input(ssd_file, run, capsys):
    assert run("--weights", ssd_file(), "--resolution", "192")
    assert "192 pixels" in capsys.readouterr().out


def test_names_by_count():
    names, ids, _ = predict.name_classes(20, None)
    assert names == read_class_file(VOC_CLASS_FILE) and ids == list(range(1, 21))
    names, ids, _ = predict.name_classes(90, None)
    assert len(names) == 90 and names[16] == "cat" and ids[16] == 17
    names, ids, _ = predict.name_classes(80, None)  # NVIDIA's file: the same classes without gaps
    assert len(names) == len(ids) == 80 and "N/A" not in names and ids[names.index("cat")] == 17 and ids[-1] == 90
    assert predict.name_classes(2, None)[:2] == (["class 1", "class 2"], [1, 2])


def test_published_ssd_by_name(run, monkeypatch, capsys):
    fetched = []

    def fetch(url, offline_hint):
        fetched.append(url)
        return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict()

    monkeypatch.setattr(predict, "fetch_url", fetch)
    results = run("SSDLite320_MobileNet_V3_Large_Weights.COCO_V1")
    assert fetched[0].endswith("ssdlite320_mobilenet_v3_large_coco-a79551df.pth")
    assert {r["class_name"] for r in results} <= set(predict.name_classes(90, None)[0])
    out = capsys.readouterr().out
    assert "ssdlite320-mobilenet-v3-large in the layout of torchvision, 320 pixels, 90 classes: taken for COCO's by cat" in out


def test_images_stand_before_and_after_the_flags(photo):
    args = predict.parse_args(["best.pth", "a.jpg", "--score-thresh", "0.3", "b.jpg"])
    assert (args.weights, args.images) == ("best.pth", ["a.jpg", "b.jpg"])
    args = predict.parse_args(["a.jpg", "--weights", "best.pth", "b.jpg"])
    assert (args.weights, args.images) == ("best.pth", ["a.jpg", "b.jpg"])
    with pytest.raises(SystemExit):
        predict.parse_args(["best.pth"])


# what cannot be done
def test_wrong_net(ssd_file, complaint):
    assert "this file holds small-ssd, not mb1-ssd: give --net small-ssd" in complaint(ssd_file(), "--net", "mb1-ssd")
    assert "unknown net 'mb1-sdd', did you mean mb1-ssd?" in complaint(ssd_file(), "--net", "mb1-sdd")


def test_wrong_labels(ssd_file, complaint, tmp_path):
    labels = labels_file(tmp_path, "BACKGROUND\ncat\ndog\n")
    message = complaint(ssd_file(), "--labels", labels)
    assert "labels.txt names 2 classes (without background), the weights have 3: give the labels.txt of these" in message
    assert "blank" in complaint(ssd_file(), "--labels", labels_file(tmp_path, "BACKGROUND\ncat\n\ndog\n"))
    assert "does not exist" in complaint(ssd_file(), "--labels", tmp_path / "none.txt")


def test_wrong_resolution(ssd_file, complaint):
    assert "takes resolutions from" in complaint(ssd_file(), "--resolution", "5000")


def test_other_files(tmp_path, complaint):
    path = tmp_path / "classifier.pth"
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    assert "does not say which model it belongs to" in complaint(path)
    assert "this file holds an image classifier, not one of the SSDs" in complaint(path, "--net", "mb1-ssd")
    torch.save({"epoch": 3}, path)
    assert "holds no model weights" in complaint(path)


def test_flags_of_bare_files_are_refused_elsewhere(tmp_path, complaint, monkeypatch):
    path = tmp_path / "ours.pth"
    state = build_ssd("small-ssd", 3).state_dict()
    torch.save({"model": state, "model_args": {}, "class_names": ["a", "b"], "script": "train_ssd"}, path)
    message = complaint(path, "--net", "small-ssd", "--labels", "labels.txt")
    assert "only files of other projects take --net and --labels, and " in message
    monkeypatch.setattr(predict, "fetch_url", lambda url, hint: {})
    message = complaint("fasterrcnn_resnet50_fpn", "--resolution", "300")
    assert "take --resolution, and fasterrcnn_resnet50_fpn is none: leave it out" in message


def test_unknown_name(complaint):
    message = complaint("ssd300_vgg19")
    assert "neither a weights file nor a published detector (choose from fasterrcnn_resnet50_fpn, " in message
    assert "ssdlite320_mobilenet_v3_large)" in message


def test_as_a_command(ssd_file, photo, tmp_path):
    words = ["--weights", ssd_file(), "--net", "small-ssd", photo, "--device", "cpu", "--output-dir", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, ROOT / "predict.py", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("1 images, "), done.stderr
