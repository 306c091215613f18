"""python -m pytest tests/test_ssd.py"""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms

from network_files import SSD
from network_files.boxes import clip
from network_files.default_boxes import DefaultBoxSpec
from network_files.resize import Batch
from network_files.ssd import HeadOutputs, SSDLayers, Tap

SPEC = DefaultBoxSpec(64, ((10, 20), (20, 40), (40, 60)), ((2,),) * 3)
NUM_BOXES = 4 * (16**2 + 8**2 + 4**2)
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "image_id": 0}


class Block(nn.Module):
    """Tapped inside, as a MobileNet's."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1))

    def forward(self, x):
        return self.conv(x)


def make_layers(num_classes=4, extra=None):
    base = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), Block(), nn.ReLU())
    extras = nn.ModuleList([extra or nn.Conv2d(16, 10, 3, 2, 1)])
    classification, regression = (
        nn.ModuleList(nn.Conv2d(channels, 4 * columns, 3, padding=1) for channels in (12, 16, 10))
        for columns in (num_classes, 4)
    )
    add_ons = nn.ModuleList([nn.BatchNorm2d(12)])
    return SSDLayers(base, (Tap(2, ("conv", 3)), Tap(3)), extras, classification, regression, add_ons)


def make_model(num_classes=4, **settings):
    torch.manual_seed(0)
    return SSD(make_layers(num_classes), SPEC, num_classes, **settings)


def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 50, 60, generator=generator), torch.rand(3, 70, 40, generator=generator)]


def targets():
    return [
        {"boxes": torch.tensor([[5.0, 5.0, 30.0, 35.0], [20.0, 10.0, 55.0, 45.0]]), "labels": torch.tensor([1, 3])},
        {**EMPTY},
    ]


def test_sources_and_rows():
    model = make_model().eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        first = model.base_net[2].conv[:3](model.base_net[:2](x))
        base = model.base_net(x)
        sources, heads = model.sources(x), model.forward_heads(x)
    for source, expected in zip(sources, [model.source_layer_add_ons[0](first), base, model.extras[0](base)]):
        torch.testing.assert_close(source, expected)
    assert heads.grid_sizes == [(16, 16), (8, 8), (4, 4)]
    assert heads.logits.shape == (2, NUM_BOXES, 4) and heads.deltas.shape == (2, NUM_BOXES, 4)
    # level 1, row 2, column 5, box 3
    row = 4 * 256 + 4 * (2 * 8 + 5) + 3
    output = model.classification_headers[1](base)[1, :, 2, 5]
    torch.testing.assert_close(heads.logits[1, row], output[3 * 4 : 4 * 4])
    torch.testing.assert_close(heads.deltas[1, row], model.regression_headers[1](base)[1, 3 * 4 : 4 * 4, 2, 5])
    box = model.default_boxes(heads.grid_sizes)[row]
    torch.testing.assert_close((box[:2] + box[2:]) / 2, torch.tensor([5.5 * 8, 2.5 * 8]))


def test_the_keys_of_a_checkpoint():
    groups = ["base_net", "extras", "classification_headers", "regression_headers", "source_layer_add_ons"]
    assert list(dict.fromkeys(key.split(".")[0] for key in make_model().state_dict())) == groups


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_losses_and_detections_in_both_modes(mode):
    model = getattr(make_model(score_thresh=0.0), mode)()
    losses = model(images(), targets())
    assert list(losses) == ["loss_classifier", "loss_box_reg"]
    assert all(v.ndim == 0 and v.dtype == torch.float32 and v.requires_grad and v > 0 for v in losses.values())
    detections = model(images())
    assert len(detections) == 2
    for detection, (height, width) in zip(detections, [(50, 60), (70, 40)]):
        boxes, labels, scores = (detection[key] for key in ("boxes", "labels", "scores"))
        assert boxes.shape == (len(scores), 4) and labels.shape == scores.shape and 0 < len(scores) <= 200
        assert boxes.dtype == torch.float32 and labels.dtype == torch.int64
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= width + 1e-3).all() and (boxes[:, 1::2] <= height + 1e-3).all()
        assert boxes[:, 2].max() > width - 5 and boxes[:, 3].max() > height - 5
        assert labels.min() >= 1 and labels.max() <= 3 and (scores.diff() <= 0).all()


def test_validation_loss_leaves_the_statistics_alone():
    model = make_model().eval()
    before = copy.deepcopy(model.state_dict())
    model(images(), targets())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.train()(images(), targets())
    assert not torch.equal(before["base_net.2.conv.1.running_mean"], model.base_net[2].conv[1].running_mean)


def test_train_and_eval_differ_in_the_layers_only():
    model = make_model()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    training = model.train()(images(), targets())
    assert {k: v.item() for k, v in training.items()} == {k: v.item() for k, v in model.eval()(images(), targets()).items()}


def test_nothing_given_is_changed():
    model, given_images, given_targets = make_model(), images(), targets()
    before = copy.deepcopy((given_images, given_targets))
    model(given_images, given_targets)
    model.eval()(given_images)
    assert all(torch.equal(a, b) for a, b in zip(given_images, before[0]))
    for given, old in zip(given_targets, before[1]):
        assert given.keys() == old.keys() and torch.equal(given["boxes"], old["boxes"])


def test_batch_without_any_object_teaches():
    model = make_model()
    losses = model(images(), [EMPTY, EMPTY])
    assert losses["loss_box_reg"] == 0 and losses["loss_classifier"].isfinite() and losses["loss_classifier"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(head.weight.grad.abs().sum() > 0 for head in model.classification_headers[:1])
    assert all(head.weight.grad.abs().sum() == 0 for head in model.regression_headers)


def test_every_weight_gets_a_gradient_and_the_image_too():
    model, batch = make_model(min_negatives=500), images()
    batch[0].requires_grad_()
    sum(model(batch, targets()).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.base_net.parameters()) and batch[0].grad.abs().sum() > 0


def test_bytes_floats_and_a_batch_give_the_same():
    model = make_model(score_thresh=0.0).eval()
    pixels = torch.randint(256, (2, 3, 48, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(list(pixels / 255))
        for given in (pixels, list(pixels), pixels / 255):
            for detection, other in zip(model(given), expected):
                torch.testing.assert_close(detection, other)


@pytest.mark.parametrize("kind", ["four images with objects", "objects in one half only"])
def test_gradients_do_not_depend_on_how_images_are_dealt_out(kind):
    generator = torch.Generator().manual_seed(5)
    batch = [torch.rand(3, 40, 40, generator=generator) for _ in range(4)]
    some = [targets()[0], {"boxes": torch.tensor([[2.0, 2.0, 12.0, 14.0]]), "labels": torch.tensor([2])}]
    given = [*some, *some[::-1]] if kind.startswith("four") else [*some, EMPTY, EMPTY]
    given = [{"boxes": t["boxes"].clamp(max=40), "labels": t["labels"]} for t in given]

    def gradients(parts, reduce_normalizer):
        model = make_model()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()  # statistics of a half batch would differ
        model.reduce_normalizer = reduce_normalizer
        for part in parts:
            (sum(model(batch[part], given[part]).values()) / len(parts)).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    numbers = []
    whole = gradients([slice(0, 4)], lambda n: numbers.append(n) or n)
    halves = gradients([slice(0, 2), slice(2, 4)], lambda n: numbers[0] / 2)
    assert numbers[0].shape == (2,) and numbers[0][1] >= numbers[0][0] > 0
    for name, gradient in whole.items():
        torch.testing.assert_close(halves[name], gradient, atol=1e-6, rtol=1e-4)


def test_eval_mode_does_not_reduce():
    model = make_model().eval()
    model.reduce_normalizer = None
    model(images(), targets())


def test_autocast_leaves_float32_and_nearly_the_same_losses():
    model = make_model(score_thresh=0.0)
    expected = model(images(), targets())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        heads = model.forward_heads(model.prepare(images()).images)
        losses = model(images(), targets())
        model.eval()(images())
    assert heads.logits.dtype == heads.deltas.dtype == torch.float32
    for key, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[key], rtol=0.02, atol=0.02)


def test_double_precision():
    model = make_model().double()
    losses = model(images(), targets())
    assert losses["loss_box_reg"].dtype == torch.float64
    assert model.eval()(images())[0]["boxes"].dtype == torch.float64


def test_the_dense_part_compiles_in_one_piece():
    model, x = make_model().eval(), torch.rand(2, 3, 64, 64)
    compiled = torch.compile(model.forward_heads, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(tuple(compiled), tuple(model.forward_heads(x)))


# What comes out of given logits and deltas


def heads_of(logits, deltas):
    return HeadOutputs(logits, deltas, [(16, 16), (8, 8), (4, 4)])


def batch_of(num_images, size=(64, 64)):
    return Batch(torch.zeros(num_images, 3, 64, 64), [(64, 64)] * num_images, [size] * num_images, None)


def test_detections_by_hand():
    """One box of class 2 at .8, moved half its width to the right; its neighbour at .4 suppressed; class 1 not."""
    model = make_model(score_thresh=0.3, nms_thresh=0.45)
    first = 4 * 256 + 4 * (3 * 8 + 3)  # level 1, row 3, column 3: 20 x 20 pixels around (28, 28)
    scores = torch.zeros(1, NUM_BOXES, 4)
    scores[..., 0] = 1
    scores[0, first] = torch.tensor([0.1, 0.1, 0.8, 0.0])
    scores[0, first + 1] = torch.tensor([0.25, 0.35, 0.4, 0.0])  # 28.3 x 28.3 pixels: IoU 0.5 with the first
    deltas = torch.zeros(1, NUM_BOXES, 4)
    deltas[0, first : first + 2, 0] = 10 * torch.tensor([0.5, 10 / 28.28427])  # both move by 10 pixels
    detection = model.postprocess(batch_of(1, size=(32, 128)), heads_of(scores.log(), deltas))[0]
    assert detection["labels"].tolist() == [2, 1]
    torch.testing.assert_close(detection["scores"], torch.tensor([0.8, 0.35]))
    # centre (38, 28) of 64 x 64 pixels; the image given has half the height and twice the width
    expected = torch.tensor([[56.0, 9.0, 96.0, 19.0], [47.7157, 6.9289, 104.2843, 21.0711]])
    torch.testing.assert_close(detection["boxes"], expected, atol=1e-3, rtol=0)


def by_loops(model, logits, deltas):
    """The same, class after class."""
    detections = []
    for image_logits, image_deltas in zip(logits, deltas):
        scores, default_boxes = image_logits.softmax(dim=-1), model.default_boxes([(16, 16), (8, 8), (4, 4)])
        boxes = clip(model.box_coder.decode(image_deltas, default_boxes), 64, 64)
        rows = []
        for label in range(1, logits.shape[2]):
            ranked = scores[:, label].argsort(descending=True)[: model.candidates_per_class].tolist()
            rows += [(box, label) for box in ranked if scores[box, label] > model.score_thresh]
        box, label = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).unbind(1)
        keep = batched_nms(boxes[box], scores[box, label], label, model.nms_thresh)[: model.detections_per_img]
        detections.append({"boxes": boxes[box[keep]], "labels": label[keep], "scores": scores[box[keep], label[keep]]})
    return detections


@pytest.mark.parametrize(
    "settings",
    [
        {"score_thresh": 0.0, "candidates_per_class": 400},  # saturated: every class is crowded
        {"score_thresh": 0.3, "candidates_per_class": 50},  # some are
        {"score_thresh": 0.9, "candidates_per_class": 400},  # none is
        {"score_thresh": 0.0, "candidates_per_class": 5000, "detections_per_img": 10000},  # more than there are
        {"score_thresh": 1.0},
    ],
)
def test_same_as_class_after_class(settings):
    model = make_model(num_classes=6, **settings)
    logits = 2 * torch.randn(3, NUM_BOXES, 6, dtype=torch.float64)  # double: no two scores are equal
    logits[1] = torch.tensor([20.0, 0, 0, 0, 0, 0], dtype=torch.float64)  # an image with nothing above most thresholds
    logits[1] += 0.1 * torch.randn(NUM_BOXES, 6)
    logits[2, :, 4] += 3  # one crowded class
    deltas = torch.randn(3, NUM_BOXES, 4, dtype=torch.float64)
    detections = model.postprocess(batch_of(3), heads_of(logits, deltas))
    assert len(detections) == 3
    for detection, expected in zip(detections, by_loops(model, logits, deltas)):
        torch.testing.assert_close(detection, expected)
    if settings["score_thresh"] == 1:
        for detection in detections:
            assert detection["boxes"].shape == (0, 4) and detection["labels"].dtype == torch.int64
            assert detection["scores"].shape == (0,)


def test_equal_scores_everywhere_are_capped():
    """An untrained net may give one score for all."""
    model = make_model(score_thresh=0.2, nms_thresh=1.0, candidates_per_class=7)
    detection = model.postprocess(batch_of(1), heads_of(torch.zeros(1, NUM_BOXES, 4), torch.zeros(1, NUM_BOXES, 4)))[0]
    assert detection["labels"].bincount().tolist() == [0, 7, 7, 7]


@pytest.mark.parametrize("above, left", [(6, 6), (7, 7), (8, 7)])
def test_the_best_of_each_class_are_left(above, left):
    model = make_model(score_thresh=0.2, nms_thresh=1.0, candidates_per_class=7)
    logits = torch.tensor([9.0, 0, 0, 0]).repeat(1, NUM_BOXES, 1)
    logits[0, 5 : 5 + above, 2] = 9 + torch.arange(above) / 10
    detection = model.postprocess(batch_of(1), heads_of(logits, torch.zeros(1, NUM_BOXES, 4)))[0]
    expected = logits[0].softmax(dim=1)[5 : 5 + above, 2].flip(0)[:left]
    torch.testing.assert_close(detection["scores"], expected)
    assert detection["labels"].tolist() == [2] * left


# What a user can get wrong


@pytest.mark.parametrize(
    "change, message",
    [
        ({"taps": (Tap(3),)}, "1 taps and 1 extras make 2 sources"),
        ({"extras": nn.ModuleList()}, "2 taps and 0 extras"),
        ({"regression_headers": nn.ModuleList()}, "0 regression headers"),
        ({"source_layer_add_ons": nn.ModuleList([nn.Identity()] * 4)}, "4 add-ons"),
    ],
)
def test_layers_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        SSD(make_layers()._replace(**change), SPEC, 4)


def test_heads_of_other_widths():
    model = SSD(make_layers(num_classes=8), SPEC, 4)
    with pytest.raises(ValueError, match="2688 rows of logits and 1344 of deltas for 1344 default boxes"):
        model(images())


def test_background_counts():
    with pytest.raises(ValueError, match="at least 2"):
        make_model(num_classes=1)


def test_batch_norm_on_a_map_of_one_cell():
    extra = nn.Sequential(nn.Conv2d(16, 10, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(10))
    model = SSD(make_layers(extra=extra), SPEC, 4)
    assert all(loss.isfinite() for loss in model(images(), targets()).values())
    model.eval()(images()[:1], targets()[:1])


def test_targets_are_checked():
    bad = targets()
    bad[0]["labels"] = torch.tensor([1, 4])
    with pytest.raises(ValueError, match="image 0 of the batch, box 1 .* label 4 must be in 1..3"):
        make_model()(images(), bad)
