"""python -m pytest tests/test_faster_rcnn.py"""

import copy

import pytest
import torch
import torchvision
from torch import nn

from network_files import AnchorsGenerator, FasterRCNN, FastRCNNPredictor, TwoMLPHead
from network_files.faster_rcnn import DenseOutputs

LOSSES = ["loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"]
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "image_id": 0}


def backbone():
    """Stride 8, 16 channels, with a BatchNorm to watch."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 4, 1), nn.ReLU())
    net.out_channels = 16
    return net


def make_model(**changes):
    torch.manual_seed(0)
    settings = {
        "num_classes": 4,
        "min_size": 64,
        "max_size": 128,
        "rpn_anchor_generator": AnchorsGenerator(sizes=((16, 32),), aspect_ratios=((0.5, 1.0, 2.0),)),
        "box_roi_pool": torchvision.ops.MultiScaleRoIAlign(featmap_names=["0"], output_size=7, sampling_ratio=2),
        "rpn_pre_nms_top_n_train": 60,
        "rpn_post_nms_top_n_train": 40,
        "rpn_pre_nms_top_n_test": 30,
        "rpn_post_nms_top_n_test": 20,
        "box_head": TwoMLPHead(16 * 49, 32),
    }
    return FasterRCNN(backbone(), **{**settings, **changes})


def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 50, 60, generator=generator), torch.rand(3, 70, 40, generator=generator)]


def targets():
    return [
        {"boxes": torch.tensor([[5.0, 5.0, 30.0, 35.0], [20.0, 10.0, 55.0, 45.0]]), "labels": torch.tensor([1, 3])},
        {**EMPTY},
    ]


def test_the_way_of_building_it_with_anchors_and_torchvision_pooling():
    model = FasterRCNN(
        backbone=backbone(),
        num_classes=21,
        rpn_anchor_generator=AnchorsGenerator(sizes=((32, 64, 128, 256, 512),), aspect_ratios=((0.5, 1.0, 2.0),)),
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(featmap_names=["0"], output_size=7, sampling_ratio=2),
    )
    assert model.rpn.head.cls_logits.out_channels == 15 and model.num_classes == 21
    assert model.roi_heads.box_head.fc6.in_features == 16 * 49
    assert model.transform.min_size == (800,) and model.transform.max_size == 1333


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_losses_and_detections_in_both_modes(mode):
    model = getattr(make_model(box_score_thresh=0.0), mode)()
    losses = model(images(), targets())
    assert list(losses) == LOSSES
    assert all(v.ndim == 0 and v.dtype == torch.float32 and v.requires_grad and v > 0 for v in losses.values())
    detections = model(images())
    assert len(detections) == 2
    for detection, (height, width) in zip(detections, [(50, 60), (70, 40)]):
        boxes, labels, scores = (detection[key] for key in ("boxes", "labels", "scores"))
        assert boxes.shape == (len(scores), 4) and labels.shape == scores.shape and len(scores) > 0
        assert boxes.dtype == torch.float32 and labels.dtype == torch.int64
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= width + 1e-3).all() and (boxes[:, 1::2] <= height + 1e-3).all()
        assert labels.min() >= 1 and labels.max() <= 3 and (scores.diff() <= 0).all()


def test_validation_loss_leaves_the_statistics_alone():
    model = make_model().eval()
    before = copy.deepcopy(model.state_dict())
    first = model(images(), targets())
    torch.manual_seed(0)
    model(images(), targets())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()) and first["loss_classifier"] > 0
    model.train()(images(), targets())
    assert not torch.equal(before["backbone.1.running_mean"], model.state_dict()["backbone.1.running_mean"])


def test_nothing_given_is_changed():
    model, given_images, given_targets = make_model(), images(), targets()
    before = copy.deepcopy((given_images, given_targets))
    model(given_images, given_targets)
    model.eval()(given_images)
    assert all(torch.equal(a, b) for a, b in zip(given_images, before[0]))
    for given, old in zip(given_targets, before[1]):
        assert given.keys() == old.keys() and torch.equal(given["boxes"], old["boxes"])


@pytest.mark.parametrize("batch", ["mixed", "all without objects"])
def test_images_without_objects(batch):
    losses = make_model()(images(), targets() if batch == "mixed" else [EMPTY, EMPTY])
    assert list(losses) == LOSSES and all(v.isfinite() and v.requires_grad for v in losses.values())
    if batch != "mixed":
        assert losses["loss_box_reg"] == 0 and losses["loss_rpn_box_reg"] == 0
    assert losses["loss_objectness"] > 0 and losses["loss_classifier"] > 0


def test_no_proposal_survives():
    model = make_model(rpn_score_thresh=1.0)
    losses = model(images(), [EMPTY, EMPTY])
    assert losses["loss_classifier"] == 0 and losses["loss_box_reg"] == 0 and losses["loss_objectness"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert [len(d["boxes"]) for d in model.eval()(images())] == [0, 0]


def test_every_weight_gets_a_gradient_and_the_image_too():
    model, batch = make_model(), images()
    batch[0].requires_grad_()
    sum(model(batch, targets()).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert batch[0].grad.abs().sum() > 0


def test_same_seed_same_losses():
    model = make_model().eval()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append({k: v.item() for k, v in model(images(), targets()).items()})
    assert runs[0] == runs[1] != runs[2]


def test_bytes_floats_and_a_batch_give_the_same():
    model = make_model(box_score_thresh=0.0).eval()
    pixels = torch.randint(256, (2, 3, 48, 64), dtype=torch.uint8)
    with torch.no_grad():
        results = [model(given)[1]["boxes"] for given in (pixels, list(pixels), pixels.float() / 255)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("size", [(17, 17), (33, 1333), (1333, 33)])
def test_odd_sizes(size):
    model = make_model(box_score_thresh=0.0)
    target = {"boxes": torch.tensor([[2.0, 3.0, 15.0, 16.0]]), "labels": torch.tensor([1])}
    assert all(v.isfinite() for v in model([torch.rand(3, *size)], [target]).values())
    (detection,) = model.eval()([torch.rand(3, *size)])
    assert detection["boxes"].isfinite().all() and len(detection["boxes"]) > 0


def test_a_17_pixel_image_is_pooled_at_the_true_stride():
    """torchvision infers the stride from the sizes it is given, and keeps it: so they must be padded."""
    pool = torchvision.ops.MultiScaleRoIAlign(featmap_names=["0"], output_size=7, sampling_ratio=2)
    make_model(box_roi_pool=pool, min_size=17, max_size=17).eval()([torch.rand(3, 17, 17)])
    assert pool.scales == [1 / 8]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_boxes_of_any_dtype(dtype):
    model = make_model().eval()
    expected, given = targets(), targets()
    given[0]["boxes"] = given[0]["boxes"].to(dtype)
    losses = []
    for some_targets in (expected, given):
        torch.manual_seed(2)
        losses.append(model(images(), some_targets))
    assert losses[0] == losses[1]


def test_double_model():
    model = make_model(box_score_thresh=0.0).double()
    losses = model(images(), targets())
    assert all(v.dtype == torch.float64 and v.isfinite() for v in losses.values())
    assert model.eval()(images())[0]["boxes"].dtype == torch.float64


def test_autocast_losses_are_close_and_float32():
    model = make_model().eval()
    torch.manual_seed(2)
    expected = model(images(), targets())
    torch.manual_seed(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images(), targets())
        detections = model(images())
    for key, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[key], rtol=0.03, atol=0.01)
    assert detections[0]["boxes"].dtype == detections[0]["scores"].dtype == torch.float32
    sum(losses.values()).backward()
    torch.manual_seed(2)
    assert model(images(), targets()) == expected  # nothing of the half precision stays behind


def test_normaliser_is_reduced_in_training_only():
    model = make_model()
    model.backbone.eval()  # so that train and eval mode differ in nothing else
    losses = {}
    for name, mode, factor in [("plain", True, 1.0), ("doubled", True, 2.0), ("eval", False, 2.0)]:
        model.training = mode
        model.reduce_normalizer = lambda numbers, factor=factor: numbers * factor
        torch.manual_seed(3)
        losses[name] = model(images(), targets())
    for key in LOSSES:
        torch.testing.assert_close(losses["doubled"][key] * 2, losses["plain"][key])
        torch.testing.assert_close(losses["eval"][key], losses["plain"][key])


def test_gradients_do_not_depend_on_how_images_are_dealt_out():
    """Two processes in turn, with the mean of their numbers of samples, against one process with both images."""
    exhaustive = {"rpn_batch_size_per_image": 9999, "rpn_positive_fraction": 1.0}
    exhaustive |= {"box_batch_size_per_image": 9999, "box_positive_fraction": 1.0}
    model = make_model(**exhaustive, size_divisible=128)
    model.backbone.eval()
    pair, both = images(), targets()

    def gradients(some_images, some_targets):
        model.zero_grad()
        sum(model(some_images, some_targets).values()).backward()
        return [p.grad.clone() for p in model.parameters()]

    expected, numbers = gradients(pair, both), []
    model.reduce_normalizer = lambda n: numbers.append(n) or n
    for i in range(2):
        model(pair[i : i + 1], both[i : i + 1])
    model.reduce_normalizer = lambda n: torch.stack(numbers).mean(dim=0)
    halves = [gradients(pair[i : i + 1], both[i : i + 1]) for i in range(2)]
    assert not torch.equal(*numbers)
    for grad, *parts in zip(expected, *halves):
        torch.testing.assert_close(sum(parts) / 2, grad, atol=1e-6, rtol=1e-4)


def test_wrong_targets_are_named_in_original_pixels():
    model = make_model()
    bad = targets()
    bad[0] |= {"image_id": 31, "labels": torch.tensor([1, 4])}
    with pytest.raises(ValueError, match=r"image_id 31, box 1 \[20.0, 10.0, 55.0, 45.0\]: label 4 must be in 1..3"):
        model(images(), bad)
    with pytest.raises(ValueError, match="2 images but 1 targets"):
        model(images(), targets()[:1])


def test_a_new_predictor_changes_the_class_count():
    model = make_model()
    model.roi_heads.box_predictor = FastRCNNPredictor(32, 9)
    target = targets()
    target[0]["labels"] = torch.tensor([8, 1])
    assert model.num_classes == 9 and model(images(), target)["loss_classifier"] > 0


def test_constructor_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="out_channels"):
        FasterRCNN(nn.Sequential(nn.Conv2d(3, 8, 3)), 2)
    with pytest.raises(ValueError, match="either num_classes"):
        make_model(num_classes=None)
    with pytest.raises(ValueError, match="either num_classes"):
        make_model(box_predictor=FastRCNNPredictor(32, 4))
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        make_model(rpn_anchor_generator=AnchorsGenerator(((16,), (16, 32)), ((1.0,), (1.0,))))
    with pytest.raises(ValueError, match="returns 1 feature maps .* 5 levels"):
        make_model(rpn_anchor_generator=None)(images())


def test_dense_part_compiles_without_a_break():
    model = make_model().eval()
    batch = model.prepare(images())
    explanation = torch._dynamo.explain(model.forward_heads)(batch.images)
    assert explanation.graph_break_count == 0
    dense = model.forward_heads(batch.images)
    assert isinstance(dense, DenseOutputs) and dense.features["0"].shape == (2, 16, *dense.objectness[0].shape[2:])


def test_learns_one_image():
    torch.manual_seed(0)
    image = torch.zeros(3, 64, 64)
    image[0, 10:40, 20:50] = 1.0
    target = {"boxes": torch.tensor([[20.0, 10.0, 50.0, 40.0]]), "labels": torch.tensor([2])}
    model = make_model(box_batch_size_per_image=32)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        sum(model([image], [target]).values()).backward()
        optimizer.step()
    (detection,) = model.eval()([image])
    assert detection["labels"][0] == 2 and detection["scores"][0] > 0.7
    assert torchvision.ops.box_iou(detection["boxes"][:1], target["boxes"]).item() > 0.8
