"""Any weights file as a detector: what is taken for what, names and ids, limits, and the sentence when it is wrong."""

import hashlib

import pytest
import torch
from torch import nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import datasets
import load_detector as module
import network_files
from datasets.class_names import VOC_CLASS_FILE, read_class_file
from load_detector import detection_limits, file_hash, load_detector, name_classes, set_detection_limits
from network_files.ssd_nets import build_ssd
from train_utils.errors import InputError

ERRORS = (InputError, network_files.InputError, datasets.InputError, FileNotFoundError)
IMAGE = torch.arange(3 * 150 * 200).reshape(3, 150, 200).to(torch.uint8)


@pytest.fixture
def ssd_file(tmp_path):
    """A function that writes the bare state_dict of a small SSD with that many classes and returns its path."""

    def write(num_classes=4, net="small-ssd", wrap=lambda state: state):
        path = tmp_path / f"{net}-{num_classes}.pth"
        torch.save(wrap(build_ssd(net, num_classes).state_dict()), path)
        return str(path)

    return write


def labels_file(tmp_path, text):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    return str(path)


def refused(*words, **options):
    with pytest.raises(ERRORS) as error:
        load_detector(*map(str, words), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("text", ["BACKGROUND\ncat\ndog\ncow", "BACKGROUND\ncat\ndog\ncow\n\n\n", "cat\ndog\ncow\n"])
def test_bare_file_with_net_and_labels(text, ssd_file, tmp_path):
    """jetson's model-side file, with blank lines at its end, and without BACKGROUND: the count tells what is meant."""
    detector = load_detector(ssd_file(4), net="small-ssd", labels=labels_file(tmp_path, text))
    assert detector.class_names == ["cat", "dog", "cow"] and detector.category_ids == [1, 2, 3]
    assert not detector.model.training and detector.script == "train_ssd" and detector.settings == {}
    (note,) = detector.notes
    assert note.startswith("small-ssd in the layout of pytorch-ssd, 160 pixels, 3 classes: names from ")
    (found,) = detector.model([IMAGE])
    x1, y1, x2, y2 = found["boxes"].unbind(1)
    assert len(x1) and x1.min() >= 0 and x2.max() <= 200.01 and y1.min() >= 0 and y2.max() <= 150.01  # pixels of the image


def test_a_file_of_the_course_repository(ssd_file):
    detector = load_detector(ssd_file(wrap=lambda state: {"model": state, "optimizer": {}, "lr_scheduler": {}, "epoch": 3}))
    assert detector.class_names == ["class 1", "class 2", "class 3"]
    assert "3 classes: without names (--labels gives them)" in detector.notes[0]


def test_resolution_changes_the_network_input(ssd_file):
    detector = load_detector(ssd_file(), resolution=192)
    assert detector.model.resolution == 192 and "192 pixels" in detector.notes[0]


def test_names_by_count():
    names, ids, _ = name_classes(20, None)
    assert names == read_class_file(VOC_CLASS_FILE) and ids == list(range(1, 21))
    names, ids, _ = name_classes(90, None)
    assert len(names) == 90 and names[16] == "cat" and ids[16] == 17
    names, ids, _ = name_classes(80, None)  # NVIDIA's file: the same classes without gaps
    assert len(names) == len(ids) == 80 and "N/A" not in names and ids[names.index("cat")] == 17 and ids[-1] == 90
    assert name_classes(2, None)[:2] == (["class 1", "class 2"], [1, 2])


def test_published_ssd_by_name(monkeypatch):
    fetched = []

    def fetch(url, offline_hint):
        fetched.append(url)
        return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict()

    monkeypatch.setattr(module, "fetch_url", fetch)
    detector = load_detector("SSDLite320_MobileNet_V3_Large_Weights.COCO_V1")
    assert fetched[0].endswith("ssdlite320_mobilenet_v3_large_coco-a79551df.pth")
    assert detector.class_names == name_classes(90, None)[0] and detector.category_ids == list(range(1, 91))
    assert detector.notes[0].startswith("ssdlite320-mobilenet-v3-large in the layout of torchvision, 320 pixels, 90 classes: "
                                        "taken for COCO's by cat")


def test_a_checkpoint_of_ours(tmp_path):
    """The ids, flags and epoch of the file; a script changed since is told."""
    args = {"net": "small-ssd", "num_classes": 3, "resolution": 96}
    script = tmp_path / "train_tiny.py"
    script.write_text("from network_files.ssd_nets import build_ssd\n\n\ndef create_model(model_args, class_names):\n"
                      "    return build_ssd(model_args['net'], len(class_names) + 1, resolution=model_args['resolution'])\n")
    state = build_ssd("small-ssd", 3, resolution=96).state_dict()
    file = {"model": state, "model_args": args, "class_names": ["a", "b"], "category_ids": [7, 3], "script": "train_tiny",
            "args": {"lr": 0.1}, "epoch": 4}
    torch.save(file, tmp_path / "ours.pth")
    detector = load_detector(str(tmp_path / "ours.pth"), script=str(script))
    assert (detector.class_names, detector.category_ids, detector.epoch) == (["a", "b"], [7, 3], 5)
    assert (detector.settings, detector.model_args, detector.script) == ({"lr": 0.1}, args, "train_tiny")
    assert torch.equal(next(iter(detector.model.state_dict().values())), next(iter(state.values())))
    assert not detector.model.training
    del file["category_ids"], file["epoch"], file["args"]
    torch.save(file, tmp_path / "ours.pth")
    detector = load_detector(str(tmp_path / "ours.pth"), script=str(script))
    assert detector.category_ids == [1, 2] and detector.epoch is None and detector.settings == {}


# limits
@pytest.mark.parametrize("where", ["roi_heads", "itself"])
def test_limits(where):
    """Faster R-CNN's are those of its second stage."""
    part = model = nn.Module()
    if where == "roi_heads":
        part = model.roi_heads = nn.Module()
    part.score_thresh, part.nms_thresh, part.detections_per_img = 0.05, 0.5, 100
    set_detection_limits(model)
    assert detection_limits(model) == {"score_thresh": 0.05, "nms_thresh": 0.5, "max_detections": 100}
    set_detection_limits(model, 0.0, 1.0, 1)
    assert (part.score_thresh, part.nms_thresh, part.detections_per_img) == (0.0, 1.0, 1)
    assert detection_limits(model) == {"score_thresh": 0.0, "nms_thresh": 1.0, "max_detections": 1}
    wrong = [("--score-thresh 1.5", 1.5), ("--score-thresh nan", float("nan")), ("--nms-thresh -1", None, -1.0),
             ("--max-detections 0", None, None, 0)]
    for message, *values in wrong:
        with pytest.raises(InputError, match=message):
            set_detection_limits(model, *values)
    assert part.detections_per_img == 1


def test_limits_of_a_real_detector(ssd_file):
    model = load_detector(ssd_file()).model
    set_detection_limits(model, score_thresh=0.0, max_detections=7)
    (found,) = model([IMAGE])
    assert len(found["scores"]) == 7
    set_detection_limits(model, score_thresh=1.0)
    assert len(model([IMAGE])[0]["scores"]) == 0


def test_file_hash(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


# what cannot be done
def test_wrong_net(ssd_file):
    assert "this file holds small-ssd, not mb1-ssd: give --net small-ssd" in refused(ssd_file(), net="mb1-ssd")
    assert "unknown net 'mb1-sdd', did you mean mb1-ssd?" in refused(ssd_file(), net="mb1-sdd")


def test_wrong_labels(ssd_file, tmp_path):
    message = refused(ssd_file(), labels=labels_file(tmp_path, "BACKGROUND\ncat\ndog\n"))
    assert "labels.txt names 2 classes (without background), the weights have 3: give the labels.txt of these" in message
    assert "blank" in refused(ssd_file(), labels=labels_file(tmp_path, "BACKGROUND\ncat\n\ndog\n"))
    assert "does not exist" in refused(ssd_file(), labels=str(tmp_path / "none.txt"))


def test_wrong_resolution(ssd_file):
    assert "takes resolutions from" in refused(ssd_file(), resolution=5000)


def test_other_files(tmp_path):
    path = tmp_path / "classifier.pth"
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    assert "does not say which model it belongs to" in refused(path)
    assert "this file holds an image classifier, not one of the SSDs" in refused(path, net="mb1-ssd")
    torch.save({"epoch": 3}, path)
    assert "holds no model weights" in refused(path)
    assert "none.pth" in refused(tmp_path / "none.pth")


def test_darknet_files_need_their_cfg(tmp_path):
    assert "does not say which network it belongs to: give its Darknet cfg with --cfg" in refused(tmp_path / "x.weights")
    assert "x.weights: no such weights file" in refused(tmp_path / "x.weights", cfg="yolov3-tiny.cfg")


def test_flags_of_bare_files_are_refused_elsewhere(tmp_path, monkeypatch):
    path = tmp_path / "ours.pth"
    state = build_ssd("small-ssd", 3).state_dict()
    torch.save({"model": state, "model_args": {}, "class_names": ["a", "b"], "script": "train_ssd"}, path)
    message = refused(path, net="small-ssd", labels="labels.txt")
    assert "only files of other projects take --net and --labels, and " in message
    monkeypatch.setattr(module, "fetch_url", lambda url, hint: {})
    message = refused("fasterrcnn_resnet50_fpn", resolution=300)
    assert "take --resolution, and fasterrcnn_resnet50_fpn is none: leave it out" in message


def test_unknown_name():
    message = refused("ssd300_vgg19")
    assert "neither a weights file nor a published detector (choose from fasterrcnn_resnet50_fpn, " in message
    assert "ssdlite320_mobilenet_v3_large)" in message
