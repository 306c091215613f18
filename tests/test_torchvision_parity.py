"""The same numbers as torchvision's Faster R-CNN, from the same weights and the same random numbers.

python -m pytest tests/test_torchvision_parity.py
"""

import copy

import pytest
import torch
from torchvision.models import detection

from network_files import AnchorsGenerator, FasterRCNN, FastRCNNConvFCHead, RPNHead

NUM_CLASSES = 21
# Smaller numbers of boxes than the defaults, for speed; the same in both models
SETTINGS = {
    "rpn_pre_nms_top_n_train": 300,
    "rpn_post_nms_top_n_train": 120,
    "rpn_pre_nms_top_n_test": 200,
    "rpn_post_nms_top_n_test": 60,
    "box_batch_size_per_image": 32,
    "box_score_thresh": 0.0,
}
RATIOS = (0.5, 1.0, 2.0)


def mobilenet_parts():
    return {"rpn_anchor_generator": AnchorsGenerator(((32, 64, 128, 256, 512),) * 3, RATIOS), "rpn_score_thresh": 0.05}


def v2_parts():
    return {"rpn_head": RPNHead(256, 3, conv_depth=2), "box_head": FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024])}


# name -> (what differs from the defaults in our constructor, min_size, max_size)
MODELS = {
    "fasterrcnn_resnet50_fpn": (dict, 200, 333),
    "fasterrcnn_resnet50_fpn_v2": (v2_parts, 160, 256),
    "fasterrcnn_mobilenet_v3_large_fpn": (mobilenet_parts, 256, 427),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (mobilenet_parts, 320, 640),
}


def randomise(model):
    """Running statistics as after a training, and a second stage that says something about its boxes."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 1.0)
        elif name.endswith("box_predictor.bbox_pred.weight"):
            tensor.mul_(5)


def build_pair(name):
    """torchvision's model and ours, around copies of one backbone, with equal weights."""
    parts, min_size, max_size = MODELS[name]
    settings = {**SETTINGS, "min_size": min_size, "max_size": max_size}
    torch.manual_seed(0)
    theirs = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=NUM_CLASSES, **settings)
    randomise(theirs)
    ours = FasterRCNN(copy.deepcopy(theirs.backbone), NUM_CLASSES, **{**settings, **parts()})
    ours.load_state_dict(theirs.state_dict())  # strict: the keys are the same
    return theirs, ours


def batch():
    """Three sizes and orientations; the second image has no objects."""
    generator = torch.Generator().manual_seed(2)
    images = [torch.rand(3, *size, generator=generator) for size in [(180, 250), (240, 150), (131, 133)]]
    boxes = [
        torch.tensor([[10.0, 20.0, 100.0, 120.0], [50.0, 50.0, 249.0, 170.0], [3.0, 3.0, 20.0, 30.0]]),
        torch.zeros(0, 4),
        torch.tensor([[10.5, 20.25, 60.0, 90.5]]),
    ]
    labels = [torch.tensor([1, 20, 7]), torch.zeros(0, dtype=torch.int64), torch.tensor([4])]
    return images, [{"boxes": b, "labels": c} for b, c in zip(boxes, labels)]


@pytest.mark.parametrize("name", MODELS)
def test_same_detections_losses_and_gradients(name):
    theirs, ours = build_pair(name)
    images, targets = batch()

    with torch.no_grad():
        expected, detections = theirs.eval()(images), ours.eval()(images)
    for theirs_per_image, ours_per_image in zip(expected, detections):
        assert len(theirs_per_image["boxes"]) >= 20
        torch.testing.assert_close(ours_per_image["boxes"], theirs_per_image["boxes"], atol=1e-3, rtol=0)
        torch.testing.assert_close(ours_per_image["scores"], theirs_per_image["scores"], atol=1e-5, rtol=0)
        assert torch.equal(ours_per_image["labels"], theirs_per_image["labels"])
        assert theirs_per_image["scores"].std() > 1e-6  # not one score for all, which would prove little

    torch.manual_seed(3)
    expected = theirs.train()(images, targets)
    torch.manual_seed(3)
    losses = ours.train()(images, targets)
    assert list(losses) == list(expected)
    for key, loss in losses.items():
        assert loss > 0
        torch.testing.assert_close(loss, expected[key], atol=1e-5, rtol=0)

    if "mobilenet" in name:  # one backward pass is enough to see that the graphs agree
        sum(expected.values()).backward()
        sum(losses.values()).backward()
        for (key, parameter), other in zip(ours.named_parameters(), theirs.parameters()):
            torch.testing.assert_close(
                parameter.grad, other.grad, atol=1e-5, rtol=1e-3, msg=lambda m, k=key: f"{k}: {m}"
            )


def test_several_sizes_to_choose_from_in_training():
    theirs, ours = build_pair("fasterrcnn_mobilenet_v3_large_fpn")
    images, targets = batch()
    theirs.transform.min_size = ours.transform.min_size = (96, 128, 160)
    for seed in range(2):
        torch.manual_seed(seed)
        expected = theirs.train()(images, targets)
        torch.manual_seed(seed)
        for key, loss in ours.train()(images, targets).items():
            torch.testing.assert_close(loss, expected[key], atol=1e-5, rtol=0)


def test_batch_without_any_object():
    theirs, ours = build_pair("fasterrcnn_mobilenet_v3_large_fpn")
    images, targets = batch()
    negative = [targets[1]] * 3
    torch.manual_seed(3)
    expected = theirs.train()(images, negative)
    torch.manual_seed(3)
    losses = ours.train()(images, negative)
    for key in expected:
        torch.testing.assert_close(losses[key], expected[key], atol=1e-5, rtol=0)
    assert losses["loss_box_reg"] == 0 and losses["loss_rpn_box_reg"] == 0
