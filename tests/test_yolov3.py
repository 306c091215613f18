"""python -m pytest tests/test_yolov3.py"""

import copy
import json
import math
import time

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from datasets.coco import CocoDetection
from datasets.image_io import read_image
from network_files import YOLOv3, yolov3
from network_files.boxes import batched_nms
from network_files.darknet_weights import read_weights
from network_files.resize import Batch
from train_utils.coco_eval import STAT_NAMES, CocoScorer
from train_utils.distributed_utils import all_reduce_mean, sync_normalizers
from train_utils.train_eval_utils import label_map, merge_detections

# Heads at stride 32 (layer 3, anchors 2 and 3, scale_x_y 1.2) and 16 (layer 6, anchors 0 and 1), 3 classes.
CFG = """
[net]
width=64
height=64

[convolutional]
batch_normalize=1
filters=8
size=16
stride=16
activation=leaky

[convolutional]
batch_normalize=1
filters=8
size=2
stride=2
activation=leaky

[convolutional]
filters=16
activation=linear

[yolo]
mask=2,3
anchors=10,20, 24,16, 30,40, 50,60
classes=3
scale_x_y=1.2

[route]
layers=0

[convolutional]
filters=16
activation=linear

[yolo]
mask=0,1
anchors=10,20, 24,16, 30,40, 50,60
classes=3
"""
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "image_id": 0}


def make_model(cfg=CFG, **settings):
    torch.manual_seed(0)
    return YOLOv3(cfg, **settings)


def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 50, 60, generator=generator), torch.rand(3, 70, 40, generator=generator)]


def targets():
    return [
        {"boxes": torch.tensor([[5.0, 5.0, 30.0, 35.0], [20.0, 10.0, 55.0, 45.0]]), "labels": torch.tensor([1, 3])},
        {**EMPTY},
    ]


# The model contract


def test_outputs_and_heads():
    model = make_model()
    outputs = model.forward_heads(torch.rand(2, 3, 64, 96))
    assert [output.shape for output in outputs] == [(2, 16, 2, 3), (2, 16, 4, 6)]
    assert [head.stride for head in model.heads] == [32, 16] and model.num_classes == 3
    assert "darknet.module_list.0.conv.weight" in model.state_dict()
    assert {key.split(".")[0] for key in model.state_dict()} == {"darknet"}


@pytest.mark.parametrize("settings", [{}, {"rect": True}, {"resize": "stretch"}, {"loss": {"kind": "darknet"}}])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_losses_and_detections_in_both_modes(mode, settings):
    model = getattr(make_model(score_thresh=0.0, **settings), mode)()
    losses = model(images(), targets())
    losses = {key: value for key, value in losses.items() if key.startswith("loss_")}
    assert len(losses) >= 3
    assert all(v.ndim == 0 and v.dtype == torch.float32 and v.requires_grad and v.isfinite() for v in losses.values())
    detections = model(images())
    assert len(detections) == 2
    for detection, (height, width) in zip(detections, [(50, 60), (70, 40)]):
        boxes, labels, scores = (detection[key] for key in ("boxes", "labels", "scores"))
        assert boxes.shape == (len(scores), 4) and labels.shape == scores.shape and 0 < len(scores) <= 100
        assert boxes.dtype == torch.float32 and labels.dtype == torch.int64
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= width).all() and (boxes[:, 1::2] <= height).all()
        assert boxes[:, 2].max() > width - 5 and boxes[:, 3].max() > height - 5
        assert labels.min() >= 1 and labels.max() <= 3 and (scores.diff() <= 0).all()


def test_the_loss_gets_what_it_needs():
    model = make_model()
    seen = []
    model.loss.forward = lambda *given: seen.extend(given) or {"loss_box": torch.zeros(()), "note": torch.ones(())}
    losses = model(images(), targets())
    outputs, heads, boxes, input_size = seen
    assert losses.keys() == {"loss_box", "note"}
    assert input_size == (64, 64) and heads is model.heads and len(outputs) == 2
    assert [target["labels"].tolist() for target in boxes] == [[1, 3], []]
    # 50 x 60 becomes 53 x 64, 5 below the upper border
    expected = torch.tensor([5 * 64 / 60, 5 + 5 * 53 / 50, 32.0, 5 + 35 * 53 / 50])
    torch.testing.assert_close(boxes[0]["boxes"][0], expected)


def test_a_batch_without_any_object_teaches():
    model = make_model()
    losses = model(images(), [EMPTY, EMPTY])
    assert all(value.isfinite() for value in losses.values()) and losses["loss_obj"] > 0
    sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.darknet.module_list[0].conv.weight.grad.abs().sum() > 0


def test_validation_loss_leaves_the_statistics_alone():
    model = make_model().eval()
    before = copy.deepcopy(model.state_dict())
    model(images(), targets())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.train()(images(), targets())
    key = "darknet.module_list.0.norm.running_mean"
    assert not torch.equal(before[key], model.state_dict()[key])


def test_nothing_given_is_changed():
    model, given_images, given_targets = make_model(), images(), targets()
    before = copy.deepcopy((given_images, given_targets))
    model(given_images, given_targets)
    model.eval()(given_images)
    assert all(torch.equal(a, b) for a, b in zip(given_images, before[0]))
    for given, old in zip(given_targets, before[1]):
        assert given.keys() == old.keys() and torch.equal(given["boxes"], old["boxes"])


def test_bytes_floats_and_a_batch_give_the_same():
    model = make_model(score_thresh=0.0).eval()
    pixels = torch.randint(256, (2, 3, 48, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(list(pixels / 255))
        for given in (pixels, list(pixels), pixels / 255):
            for detection, other in zip(model(given), expected):
                torch.testing.assert_close(detection, other)


@pytest.mark.parametrize("settings", [{"rect": True}, {}, {"resize": "stretch"}])
def test_an_image_gives_the_same_alone_and_among_others_of_its_padded_size(settings):
    model = make_model(score_thresh=0.0, **settings).eval()
    pair = [torch.rand(3, 30, 64), torch.rand(3, 31, 64)]
    assert model.transform.padded_size(30, 64) == model.transform.padded_size(31, 64)
    with torch.no_grad():
        together = model(pair)
        for image, detection in zip(pair, together):
            torch.testing.assert_close(model([image])[0], detection)


def test_autocast_leaves_float32_and_nearly_the_same_losses():
    model = make_model(score_thresh=0.0)
    expected = model(images(), targets())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model.forward_heads(model.prepare(images()).images)
        losses = model(images(), targets())
        detections = model.eval()(images())
    assert all(output.dtype == torch.float32 for output in outputs)
    assert all(detection["boxes"].dtype == torch.float32 for detection in detections)
    for key, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[key], rtol=0.02, atol=0.02)


def test_double_precision():
    model = make_model(score_thresh=0.0).double()
    assert all(value.dtype == torch.float64 for key, value in model(images(), targets()).items() if "loss" in key)
    assert model.eval()(images())[0]["boxes"].dtype == torch.float64


def test_the_dense_part_compiles_in_one_piece():
    model, x = make_model().eval(), torch.rand(2, 3, 64, 64)
    compiled = torch.compile(model.forward_heads, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled, model.forward_heads(x))


def test_the_hook_for_normalisers_reaches_the_loss():
    model = make_model()
    calls = []
    model.reduce_normalizer = lambda numbers: calls.append(numbers) or numbers
    model.eval()(images(), targets())
    assert not calls
    model.train()(images(), targets())
    assert len(calls) == 1
    sync_normalizers(model)
    assert model.loss.reduce_normalizer is model.reduce_normalizer is all_reduce_mean


# What comes out of given outputs


def test_decoded_by_hand():
    """Stride 32, s = 1.2, cell in column 2 and row 1, anchor 30 x 40.

    sigmoid(ln 3) = .75, so x = (1.2 * .75 - .1 + 2) * 32 = 89.6; sigmoid(-ln 3) = .25, so y = (1.2 * .25 - .1 + 1) * 32 =
    38.4; width 30 * 2, height 40 / 4.
    """
    values = torch.tensor([[math.log(3), -math.log(3), math.log(2), -math.log(4)], [0, 0, 0, 0], [0, 0, 1e4, -1e4]])
    cells, anchors = torch.tensor([[2, 1], [0, 0], [1, 1]]), torch.tensor([[30.0, 40.0]] * 3)
    boxes = yolov3.decode(values, cells, anchors, make_model().heads[0], max_side=400)
    expected = [[59.6, 33.4, 119.6, 43.4], [1.0, -4.0, 31.0, 36.0], [48 - 200, 48.0, 48 + 200, 48.0]]
    torch.testing.assert_close(boxes, torch.tensor(expected))


def silent_outputs(num_images=1, height=2, width=2):
    """Outputs of both heads that say: nothing, anywhere."""
    outputs = [torch.zeros(num_images, 2, 8, height * k, width * k) for k in (1, 2)]
    for output in outputs:
        output[:, :, 4] = -20
    return outputs


def flat(outputs):
    return [output.flatten(1, 2) for output in outputs]


def batch_of(num_images, image_size=(64, 64), offset=(0, 0), original_size=(64, 64), padded=(64, 64)):
    sizes = ([size] * num_images for size in (image_size, original_size))
    return Batch(torch.zeros(num_images, 3, *padded), *sizes, None, [offset] * num_images)


def logit(probability):
    return math.log(probability / (1 - probability))


def test_detections_by_hand():
    """Second head (stride 16), second anchor (24 x 16), column 1, row 2: around (24, 40) of the 64 x 64 input, that is
    [12, 32, 36, 48]. The image has 80 x 128 pixels: resized to 40 x 64 it begins 12 below the border."""
    outputs = silent_outputs(2)
    outputs[1][1, 1, 4:, 2, 1] = torch.tensor([logit(0.8), logit(0.5), logit(0.001), logit(0.9)])
    model = make_model()
    nothing, found = model.postprocess(batch_of(2, (40, 64), (12, 0), (80, 128)), flat(outputs))
    assert nothing["boxes"].shape == (0, 4) and nothing["labels"].dtype == torch.int64 and nothing["scores"].shape == (0,)
    assert found["labels"].tolist() == [3, 1]
    torch.testing.assert_close(found["scores"], torch.tensor([0.72, 0.4]))
    torch.testing.assert_close(found["boxes"], torch.tensor([[24.0, 40.0, 72.0, 72.0]] * 2))
    model.multi_label = False
    assert model.postprocess(batch_of(2), flat(outputs))[1]["labels"].tolist() == [3]


def test_boxes_are_clipped_after_suppression():
    """Two boxes 24 high, y from -4 to 20 and from 12 to 36: IoU 8 / 40. In an image 20 high 8 / 20 would be left."""
    outputs = silent_outputs()
    for row, score in ((0, 0.9), (1, 0.8)):
        outputs[1][0, 1, 3:, row, 0] = torch.tensor([math.log(24 / 16), logit(score), logit(0.9), -20, -20])
    model = make_model(score_thresh=0.3, nms_thresh=0.3)
    (found,) = model.postprocess(batch_of(1, (20, 64), (0, 0), (20, 64)), flat(outputs))
    torch.testing.assert_close(found["boxes"], torch.tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 12.0, 20.0, 20.0]]))


def test_classes_stay_apart_left_of_the_image():
    """Suppression moves the classes apart; boxes that begin left of 0 need the room on that side too."""
    boxes = torch.tensor([[30.0, 30.0, 50.0, 50.0], [-21.0, -21.0, -1.0, -1.0]])
    assert batched_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor([1, 2]), 0.5).tolist() == [0, 1]


def by_loops(model, outputs, original_size):
    """The same, cell after cell and class after class; images fill the input."""
    found = []
    for image in range(len(outputs[0])):
        rows = []
        for output, head in zip(outputs, model.heads):
            _, _, height, width = output.shape
            for anchor, (anchor_width, anchor_height) in enumerate(head.own_anchors):
                values = output[image, 8 * anchor : 8 * anchor + 8]
                s = head.scale_x_y
                x = (s * values[0].sigmoid() - (s - 1) / 2 + torch.arange(width)[None]) / width * original_size[1]
                y = (s * values[1].sigmoid() - (s - 1) / 2 + torch.arange(height)[:, None]) / height * original_size[0]
                w = anchor_width * values[2].exp() / 64 * original_size[1]
                h = anchor_height * values[3].exp() / 64 * original_size[0]
                boxes = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
                scores = values[4].sigmoid() * values[5:].sigmoid()
                if not model.multi_label:
                    scores = scores * (scores == scores.amax(dim=0))
                for label, row, column in (scores > model.score_thresh).nonzero().tolist():
                    rows.append([*boxes[:, row, column].tolist(), label + 1, scores[label, row, column].item()])
        rows = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
        keep = torchvision.ops.batched_nms(rows[:, :4] + 1000, rows[:, 5], rows[:, 4].long(), model.nms_thresh)
        rows = rows[keep[: model.detections_per_img]]
        rows[:, 0:4:2] = rows[:, 0:4:2].clamp(0, original_size[1])
        rows[:, 1:4:2] = rows[:, 1:4:2].clamp(0, original_size[0])
        found.append({"boxes": rows[:, :4], "labels": rows[:, 4].long(), "scores": rows[:, 5]})
    return found


@pytest.mark.parametrize(
    "settings",
    [{"score_thresh": 0.0}, {"score_thresh": 0.3}, {"score_thresh": 0.3, "multi_label": False},
     {"score_thresh": 0.0, "nms_thresh": 1.0, "detections_per_img": 10_000}, {"score_thresh": 1.0}],
)
def test_same_as_cell_after_cell(settings):
    model = make_model(**settings)
    outputs = [torch.randn(3, 16, k, k, dtype=torch.float64) for k in (2, 4)]  # double: no two scores are equal
    outputs[0][1] -= 20  # an image with nothing
    outputs[1][1] -= 20
    detections = model.postprocess(batch_of(3, original_size=(32, 128)), outputs)
    for detection, expected in zip(detections, by_loops(model, outputs, (32, 128)), strict=True):
        torch.testing.assert_close(detection, expected)
    if settings["score_thresh"] == 1:
        assert all(detection["boxes"].shape == (0, 4) for detection in detections)


def test_the_best_candidates_go_into_suppression(monkeypatch):
    monkeypatch.setattr(yolov3, "MAX_CANDIDATES", 5)
    model = make_model(nms_thresh=1.0)
    outputs = [torch.randn(2, 16, k, k) for k in (2, 4)]
    found = model.postprocess(batch_of(2), outputs)
    monkeypatch.setattr(yolov3, "MAX_CANDIDATES", 1000)
    for few, all_of_them in zip(found, model.postprocess(batch_of(2), outputs)):
        assert len(all_of_them["scores"]) > 5
        torch.testing.assert_close(few, {key: value[:5] for key, value in all_of_them.items()})


def test_a_new_model_at_its_slowest():
    """Every box of a full-size input a candidate for every class: bounded."""
    model = make_model(score_thresh=0.0)
    outputs = [torch.zeros(1, 16, k, k) for k in (40, 80)]
    start = time.perf_counter()
    (found,) = model.postprocess(batch_of(1, padded=(1280, 1280)), outputs)
    assert len(found["scores"]) == 100 and time.perf_counter() - start < 20


# Sizes


def grey(height, width):
    return torch.full((3, height, width), 0.5)


def input_sizes(model, number=40, batch=None, goals=None):
    batch = batch or [grey(100, 100)]
    goals = [EMPTY] * len(batch) if goals is None else goals
    return [tuple(model.prepare(batch, goals).images.shape[2:]) for _ in range(number)]


def test_multi_scale_draws_a_size_per_training_batch():
    model = make_model(multi_scale=(60, 130))
    assert set(input_sizes(model)) == {(64, 64), (96, 96), (128, 128)}
    assert model.prepare([grey(100, 100)]).images.shape[2:] == (64, 64)  # without targets
    assert set(input_sizes(model.eval(), 5)) == {(64, 64)}
    model.train().multi_scale = None
    assert set(input_sizes(model, 5)) == {(64, 64)}
    assert model.transform.padded_size(1, 1) == (64, 64)


@pytest.mark.parametrize("settings", [{}, {"rect": True}, {"resize": "stretch"}])
def test_multi_scale_with_every_resizing_trains(settings):
    model = make_model(multi_scale=(32, 128), **settings)
    for _ in range(5):
        losses = model(images(), targets())
        sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    if "rect" in settings:
        wide = [grey(30, 100), grey(40, 100)]
        assert set(input_sizes(model, batch=wide)) == {(32, 32), (32, 64), (64, 96), (64, 128)}


@pytest.mark.parametrize("multi_scale", [None, (64, 64), (32, 640)])
def test_one_random_number_per_training_batch_none_in_evaluation(multi_scale):
    torch.manual_seed(1)
    torch.empty(1).uniform_()
    expected = torch.rand(1)
    model = make_model(multi_scale=multi_scale)
    torch.manual_seed(1)
    model.prepare(images(), targets())
    model.eval().prepare(images(), targets())
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    "img_size, expected", [(None, (64, 128)), (128, (64, 128)), (256, (128, 256)), (96, (64, 96)), (32, (32, 32))]
)
def test_the_input_keeps_the_shape_of_the_cfg(img_size, expected):
    model = make_model(CFG.replace("width=64", "width=128"), img_size=img_size, resize="stretch")
    assert model.transform.size == expected
    assert model.eval().prepare(images()).images.shape[2:] == expected


def test_large_and_small_inputs_put_an_anchor_over_as_many_pixels():
    """Anchors are pixels of whatever input there is."""
    for size in (64, 128):
        outputs = silent_outputs(height=size // 32, width=size // 32)
        outputs[0][0, 1, 4:6, 0, 0] = 9
        model = make_model(img_size=size)
        found = model.postprocess(batch_of(1, (size, size), (0, 0), (size, size), (size, size)), flat(outputs))[0]
        torch.testing.assert_close(found["boxes"][0], torch.tensor([0.0, 0.0, 16 + 25, 16 + 30]))


# New models


@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_new_model_expects_few_objects(num_classes):
    filters = 2 * (5 + num_classes)
    cfg = CFG.replace("classes=3", f"classes={num_classes}").replace("filters=16", f"filters={filters}")
    torch.manual_seed(0)
    plain = yolov3.Darknet(cfg).state_dict()
    model = make_model(cfg)
    for layer in (2, 5):
        key = f"module_list.{layer}.conv.bias"
        added = (model.darknet.state_dict()[key] - plain[key]).view(2, 5 + num_classes)
        class_logit = {1: math.log(60), 3: math.log(0.6 / 2.01)}[num_classes]
        torch.testing.assert_close(added, torch.tensor([[0, 0, 0, 0, -4.5] + num_classes * [class_logit]] * 2))
    assert model.eval()([torch.rand(3, 64, 64)]) and model.train()(images(), [EMPTY, EMPTY])


def test_a_head_behind_another_layer():
    """With a norm its bias is the norm's; behind a route there is none."""
    normed = CFG.replace("filters=16\nactivation", "batch_normalize=1\nfilters=16\nactivation")
    model = make_model(normed)
    assert model.darknet.module_list[2].norm.bias.view(2, 8)[0, 4] == -4.5
    behind_route = CFG.replace("[yolo]\nmask=0,1", "[route]\nlayers=-1\n\n[yolo]\nmask=0,1")
    make_model(behind_route)


# What a user can get wrong


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"img_size": 100}, "network input of 100 pixels must be a multiple of the largest stride, 32"),
        ({"multi_scale": (65, 95)}, "65 to 95 pixels holds no multiple of the largest stride, 32"),
        ({"multi_scale": (128, 64)}, "128 to 64"),
        ({"resize": "crop"}, "'letterbox' or 'stretch', not 'crop'"),
        ({"resize": "stretch", "rect": True}, "rect needs resize='letterbox'"),
        ({"cfg": CFG.replace("width=64", "width=80").replace("height=64", "height=80")}, "input of 80 x 80 pixels"),
        (
            {"cfg": CFG.replace("classes=3\nscale", "classes=1\nscale").replace("filters=16", "filters=12", 1)},
            "equal classes, not 1 and 3",
        ),
    ],
)
def test_settings_that_make_no_model(settings, message):
    with pytest.raises(ValueError, match=message):
        make_model(**settings)


@pytest.mark.parametrize("label", [0, 4])
def test_targets_are_checked(label):
    bad = targets()
    bad[0]["labels"] = torch.tensor([1, label])
    with pytest.raises(ValueError, match=f"image 0 of the batch, box 1 .* label {label} must be in 1..3"):
        make_model()(images(), bad)
    with pytest.raises(ValueError, match="image 1 must be"):
        make_model()([images()[0], torch.zeros(1, 4, 4)])


def test_batch_norm_learns_from_one_image():
    model = make_model()
    assert all(isinstance(layer.norm, nn.BatchNorm2d) for layer in model.darknet.module_list[:2])
    model([torch.rand(3, 64, 64)], [EMPTY])


# A published model on real photographs: about 4 seconds for each of the four rows

OLD_NAMES = {
    "motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant",
    "diningtable": "dining table", "tvmonitor": "tv",
}


def published_model(shared_data, **settings):
    folder = shared_data / "yolo"
    model = make_model((folder / "MobileNetV2-YOLOv3-Nano-coco.cfg").read_text(), **settings).eval()
    weights = read_weights((folder / "MobileNetV2-YOLOv3-Nano-coco.weights").read_bytes(), model.darknet)
    model.darknet.load_state_dict(weights.state, strict=False)
    names = [line for line in (folder / "coco.names").read_text().splitlines() if line]
    return model, [OLD_NAMES.get(name, name) for name in names]


@pytest.mark.parametrize("split", ["val", "train"])
@pytest.mark.parametrize("resize, row", [("stretch", "plain_float"), ("letterbox", "letterbox_float")])
def test_published_scores(shared_data, resize, row, split):
    """The twelve COCO numbers of an implementation that has nothing to do with PyTorch, on 50 photographs."""
    expected = json.loads((shared_data / "yolo/expected_AP_tiny_coco.json").read_text())["results"][f"{split}2017"][row]
    model, names = published_model(shared_data, resize=resize, norm_eps=1e-6)
    dataset = CocoDetection(shared_data / "tiny_coco", split)
    parts = []
    with torch.no_grad():
        for number in range(len(dataset)):
            found = model([dataset[number][0]])[0]
            index = np.full(len(found["scores"]), number)
            parts.append((index, *(found[key].numpy() for key in ("labels", "scores", "boxes"))))
    detections = merge_detections(parts, label_map(names, dataset.class_names))
    stats = CocoScorer(dataset.ground_truth()).score(detections).stats
    # a thousandth is allowed; the same arithmetic comes ten times as close
    assert len(dataset) == 50 and abs(len(detections["scores"]) - expected["detections"]) <= 3
    assert {key: value for key, value in zip(STAT_NAMES, stats) if abs(value - expected[key]) > 1e-4} == {}


@pytest.mark.parametrize("resize, row", [("stretch", "plain"), ("letterbox", "letterbox")])
def test_published_boxes(shared_data, resize, row):
    """The photograph was rounded to bytes after resizing there, so scores differ by .01 and boxes by a pixel."""
    expected = json.loads((shared_data / "yolo/expected_AP_tiny_coco.json").read_text())
    expected = expected["dog.jpg_detections_score_above_0.25"][row]
    model, names = published_model(shared_data, resize=resize, norm_eps=1e-6, score_thresh=0.25)
    with torch.no_grad():
        (found,) = model([read_image(shared_data / "yolo/dog.jpg")])
    assert [names[label - 1] for label in found["labels"]] == [box["name"] for box in expected]
    torch.testing.assert_close(found["scores"], torch.tensor([box["score"] for box in expected]), atol=0.01, rtol=0)
    torch.testing.assert_close(found["boxes"], torch.tensor([box["xyxy"] for box in expected]), atol=1, rtol=0)
