"""What the tests of exported files share: small checkpoints whose outputs are far from zero, so that a difference shows."""

import torch
from conftest import ROOT

from load_detector import load_detector
from network_files.darknet_cfg import set_num_classes
from network_files.export_inputs import whole_batch
from train_utils.checkpoint import save_checkpoint
from train_utils.rebuild import find_script, import_script

NAMES = ["cat", "dog", "cow"]


def small_checkpoint(folder, script, **options):
    """The path of a checkpoint of a small detector of that script, with random weights; options: of its model_args."""
    cfg = (ROOT / "cfg" / "yolov3-small.cfg").read_text()
    model_args = {
        "train_ssd": {"net": "small-ssd"},
        "train_fasterrcnn": {"backbone": "small_cnn", "min_size": [64], "max_size": 128},
        "train_yolov3": {"cfg": set_num_classes(cfg, len(NAMES)), "img_size": 96},
    }[script] | options
    model = import_script(find_script(script)).create_model(model_args, NAMES).eval()
    make_lively(model, script)
    path = folder / f"{script}.pth"
    save_checkpoint({"model": model.state_dict(), "model_args": model_args, "class_names": NAMES, "script": script,
                     "category_ids": [3, 5, 8], "epoch": 1}, path)
    return path


def blots(count, height, width):
    """Smooth random pictures [count, 3, height, width] in 0..1: nearer to photographs than noise is."""
    return torch.nn.functional.interpolate(torch.rand(count, 3, 6, 6), size=(height, width), mode="bicubic").clamp(0, 1)


@torch.no_grad()
def make_lively(model, script):
    """Scales the last layers such that logits have a standard deviation of about 3 on blots, and boxes are moved a little."""
    side = model.resolution if script == "train_ssd" else 96
    images = whole_batch(model, blots(4, side, side)).images
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = None  # the mean over all it sees
        layer.train()
    model.forward_heads(images)
    model.eval()
    if script == "train_ssd":
        scale(model.classification_headers, 3, lambda: model.forward_heads(images).logits)
        scale(model.regression_headers, 0.5, lambda: model.forward_heads(images).deltas)
    elif script == "train_yolov3":
        heads = [model.darknet.module_list[head.layer - 1] for head in model.heads]
        for head in heads:
            head.conv.bias.zero_()  # of a new model it says that there is no object anywhere
        scale(heads, 1.5, lambda: torch.cat([output.flatten() for output in model.forward_heads(images)]))
    else:
        scale([model.rpn.head.cls_logits], 3, lambda: torch.cat([o.flatten() for o in model.forward_heads(images).objectness]))
        scale([model.rpn.head.bbox_pred], 0.3, lambda: torch.cat([o.flatten() for o in model.forward_heads(images).deltas]))
        dense = model.forward_heads(images)
        proposals, _ = model.rpn(dense.objectness, dense.deltas, (side, side), [(side, side)] * len(images))
        second = [dense.features, proposals, (side, side)]
        scale([model.roi_heads.box_predictor.cls_score], 3, lambda: model.roi_heads.predict(*second)[0])
        scale([model.roi_heads.box_predictor.bbox_pred], 2, lambda: model.roi_heads.predict(*second)[1])


def scale(heads, wanted, outputs):
    """Multiplies the last convolution or linear layer of each head, so that their outputs get this standard deviation."""
    factor = wanted / outputs().std()
    for head in heads:
        last = [layer for layer in head.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))][-1]
        last.weight *= factor


def detect(path, images, **options):
    """(detector of a file, what it detects in images)."""
    detector = load_detector(str(path), **options)
    with torch.no_grad():
        return detector, detector.model(images)


def same_detections(one, other):
    """Two lists of detections are equal, bit for bit, and not empty."""
    assert sum(len(detection["scores"]) for detection in one) > 0
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in ("boxes", "labels", "scores"))
