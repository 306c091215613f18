"""The same numbers as torchvision's SSD and SSDlite, from the same weights.

python -m pytest tests/test_torchvision_ssd_parity.py
"""

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from network_files.boxes import iou, scale
from network_files.default_boxes import DefaultBoxes
from network_files.ssd_nets import build_ssd, default_box_spec, grid_sides
from network_files.ssd_weights import rename_to_ours

NETS = {"ssd300-vgg16": "ssd300_vgg16", "ssdlite320-mobilenet-v3-large": "ssdlite320_mobilenet_v3_large"}
SIZES = [(180, 250), (240, 150), (131, 133)]
BOXES = [  # each with one best default box in either net: see test_the_targets_leave_no_choice
    torch.tensor([[124.0, 138.5, 210.5, 180.0], [22.0, 24.0, 104.0, 98.5], [77.0, 114.0, 145.5, 168.5]]),
    torch.tensor([[58.5, 113.5, 144.5, 231.5]]),
    torch.tensor([[38.5, 4.5, 69.0, 21.0], [50.0, 58.5, 82.0, 123.5]]),
]


def randomise(model):
    """Running statistics as after a training, and heads whose scores and boxes differ from place to place."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.ndim == 4:  # keeps the size of the activations from layer to layer, with small outputs in the end
            gain = 0.2 if name.startswith("head") else 1.4
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * gain / tensor[0].numel() ** 0.5)
            if name == "backbone.features.0.weight":  # VGG takes pixels of +-123
                tensor.div_(100)
        elif name.endswith("bias"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def build_pair(net, num_classes):
    """torchvision's model and ours with equal weights; a threshold that some candidates of each image pass."""
    settings = {"weights": None, "weights_backbone": None, "num_classes": num_classes, "score_thresh": 1.2 / num_classes}
    theirs = getattr(detection, NETS[net])(**settings)
    randomise(theirs)
    ours = build_ssd(net, num_classes, score_thresh=theirs.score_thresh)
    ours.load_state_dict(rename_to_ours(theirs.state_dict()))
    assert (ours.nms_thresh, ours.candidates_per_class) == (theirs.nms_thresh, theirs.topk_candidates)
    assert ours.detections_per_img == theirs.detections_per_img
    return theirs, ours


def images(dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    pixels = [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in SIZES]
    return pixels if dtype == torch.uint8 else [image / 255 for image in pixels]


def targets(num_classes):
    generator = torch.Generator().manual_seed(3)
    return [{"boxes": b, "labels": torch.randint(1, num_classes, (len(b),), generator=generator)} for b in BOXES]


def assert_same_detections(expected, detections):
    assert len(expected) == len(detections) == len(SIZES)
    for theirs, ours in zip(expected, detections):
        assert len(theirs["boxes"]) >= 20 and len(theirs["labels"].unique()) > 1
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], atol=1e-3, rtol=0)
        torch.testing.assert_close(ours["scores"], theirs["scores"], atol=1e-5, rtol=0)
        assert torch.equal(ours["labels"], theirs["labels"])
        assert theirs["scores"].std() > 1e-3  # not one score for all, which would prove little


@pytest.mark.parametrize(
    "net, num_classes",
    [("ssd300-vgg16", 91), ("ssdlite320-mobilenet-v3-large", 4), ("ssdlite320-mobilenet-v3-large", 91)],
)
def test_same_detections_and_losses(net, num_classes):
    theirs, ours = build_pair(net, num_classes)
    with torch.no_grad():
        assert_same_detections(theirs.eval()(images()), ours.eval()(images()))
        if num_classes == 4:
            assert_same_detections(theirs(images()), ours(images(torch.uint8)))
        expected = theirs.train()(images(), targets(num_classes))
        losses = ours.train()(images(), targets(num_classes))
    for key, name in {"loss_classifier": "classification", "loss_box_reg": "bbox_regression"}.items():
        assert losses[key] > 0.01
        torch.testing.assert_close(losses[key], expected[name], atol=1e-5, rtol=1e-5)


def test_the_targets_leave_no_choice():
    """A shared best box should give other losses than torchvision's, which loses an object; a tie may."""
    for net in NETS:
        spec = default_box_spec(net)
        default_boxes = DefaultBoxes(spec)([(side, side) for side in grid_sides(net, spec.resolution)])
        for boxes, size in zip(BOXES, SIZES):
            ious = iou(scale(boxes, size, (spec.resolution, spec.resolution)), default_boxes)
            first, second = ious.topk(2, dim=1).values.unbind(1)
            assert len(ious.argmax(dim=1).unique()) == len(boxes)
            assert (first - second).min() > 1e-3 and (ious.amax(dim=0) - 0.5).abs().min() > 1e-4


def test_same_gradients():
    theirs, ours = build_pair("ssdlite320-mobilenet-v3-large", 4)
    sum(theirs.train()(images(), targets(4)).values()).backward()
    sum(ours.train()(images(), targets(4)).values()).backward()
    expected = rename_to_ours({key: parameter.grad for key, parameter in theirs.named_parameters()})
    assert sum(gradient.abs().max() > 1e-3 for gradient in expected.values()) > 200
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], atol=1e-5, rtol=1e-3, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("net", NETS)
def test_same_batch(net):
    model = build_ssd(net, 2)
    mean, std, size = model.transform.image_mean, model.transform.image_std, model.resolution
    expected, _ = GeneralizedRCNNTransform(size, size, list(mean), list(std), size_divisible=1, fixed_size=(size, size))(images())
    for dtype in (torch.float32, torch.uint8):
        torch.testing.assert_close(model.prepare(images(dtype)).images, expected.tensors, atol=2e-4, rtol=0)
