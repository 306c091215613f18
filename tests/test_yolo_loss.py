"""python -m pytest tests/test_yolo_loss.py"""

import math

import pytest
import torch
from test_multibox_loss import CountReads
from torchvision.ops import generalized_box_iou

from network_files.darknet import YoloHead
from network_files.errors import InputError
from network_files.yolo_loss import YoloLoss, paired_giou

KINDS = ["giou", "xywh", "darknet"]
KEYS = {
    "giou": ["loss_box", "loss_obj", "loss_cls"],
    "xywh": ["loss_xy", "loss_wh", "loss_obj", "loss_cls"],
    "darknet": ["loss_xy", "loss_wh", "loss_obj", "loss_cls"],
}
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
ANCHORS = ((6.0, 6.0), (10.0, 14.0), (23.0, 27.0), (37.0, 58.0), (81.0, 82.0), (120.0, 90.0))
LN2 = math.log(2)


def target(boxes, labels):
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}


def head(anchors, mask, num_classes=2, stride=32, truth=1.0, scale_x_y=1.0):
    return YoloHead(0, num_classes, mask, tuple(anchors), stride, 0.5, truth, scale_x_y)


def two_heads(num_classes=2, **settings):
    return [head(ANCHORS, (3, 4, 5), num_classes, 32, **settings), head(ANCHORS, (0, 1, 2), num_classes, 16, **settings)]


def random_batch(num_images, heads, height=64, width=96, scale=1.0, dtype=torch.float32):
    """Raw heads that require a gradient, and targets of 0, 4, 8, ... boxes."""
    generator = torch.Generator().manual_seed(7)
    outputs = []
    for this in heads:
        shape = (num_images, len(this.mask) * (5 + this.num_classes), height // this.stride, width // this.stride)
        outputs.append((scale * torch.randn(shape, generator=generator, dtype=dtype)).requires_grad_())
    targets = []
    for image in range(num_images):
        corners = torch.rand(4 * image, 2, generator=generator) * torch.tensor([width * 0.9, height * 0.9])
        boxes = torch.cat((corners, corners + 2 + torch.rand(4 * image, 2, generator=generator) * height), dim=1)
        labels = torch.randint(1, heads[0].num_classes + 1, (4 * image,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels})
    return outputs, targets


def total(losses):
    return sum(value for name, value in losses.items() if name.startswith("loss_"))


def one_anchor(kind, boxes=((32.0, 16.0, 48.0, 32.0),), labels=(2,), scale_x_y=1.0, **settings):
    """One anchor of 16 x 16 in 2 x 2 cells of 32 pixels, 2 classes, all logits 0: the losses and the gradient [7, 2, 2].

    By default one truth of class index 1, 16 x 16 around (40, 24) = cell (row 0, column 1) + (.25, .75).
    """
    raw = torch.zeros(1, 7, 2, 2, dtype=torch.float64, requires_grad=True)
    this = head([(16.0, 16.0)], (0,), scale_x_y=scale_x_y)
    losses = YoloLoss(kind, **settings)([raw], [this], [target([list(box) for box in boxes], list(labels))], (64, 64))
    return {name: value.item() for name, value in losses.items()}, torch.autograd.grad(total(losses), raw)[0][0]


def test_giou_by_hand():
    losses, gradient = one_anchor("giou")
    # Boxes from the cell's corner: centres (16, 16), (8, 24), sides 16: common 8 * 8 = 64, union 448, hull 24 * 24 = 576:
    # GIoU = 64 / 448 - (576 - 448) / 576 = 1 / 7 - 2 / 9 = -5 / 63
    assert losses["loss_box"] == pytest.approx(0.8541 * 68 / 63)
    assert losses["loss_obj"] == pytest.approx(22.9 * LN2 * (3 + 2.894) / 4)
    assert losses["loss_cls"] == pytest.approx(21.61 * LN2 * (1 + 1.957) / 2)
    assert losses["num_targets"] == 1 and list(losses) == [*KEYS["giou"], "num_targets"]
    assert gradient[:4].abs().amax(dim=0).nonzero().tolist() == [[0, 1]]
    assert gradient[0, 0, 1] > 0 > gradient[1, 0, 1]  # to the left and down
    assert gradient[4].flatten().tolist() == pytest.approx([22.9 / 8, -22.9 * 2.894 / 8, 22.9 / 8, 22.9 / 8])
    assert gradient[5:, 0, 1].tolist() == pytest.approx([21.61 / 4, -21.61 * 1.957 / 4])


def test_xywh_by_hand():
    losses, gradient = one_anchor("xywh", [(32.0, 16.0, 48.0, 32.0), (0.0, 40.0, 32.0, 56.0)], (2, 1))
    # The second: centre (16, 48) = cell (1, 0) + (.5, .5), 32 x 16. Four numbers each: .25^2 twice; ln(2)^2 once
    assert losses["loss_xy"] == pytest.approx(4.062 * 2 * 0.0625 / 4)
    assert losses["loss_wh"] == pytest.approx(0.1845 * LN2**2 / 4)
    assert losses["loss_obj"] == pytest.approx(22.9 * LN2 * (2 + 2 * 2.894) / 4)
    assert losses["loss_cls"] == pytest.approx(21.61 * LN2 * (1 + 1.957) / 2)
    assert gradient[0, 0, 1] == pytest.approx(4.062 * 2 * 0.25 / 4 * 0.25)  # sigmoid' = .25
    assert gradient[2:4, 1, 0].tolist() == pytest.approx([-0.1845 * 2 * LN2 / 4, 0])


def test_gains_and_weights():
    losses, gradient = one_anchor("giou", giou=2.0, obj=3.0, obj_pw=1.0, cls=5.0, cls_pw=2.0, class_weights=[7.0, 1.5])
    assert losses["loss_box"] == pytest.approx(2 * 68 / 63)
    assert losses["loss_obj"] == pytest.approx(3 * LN2)
    assert losses["loss_cls"] == pytest.approx(5 * LN2 * (1 + 2 * 1.5) / 2)
    losses, gradient = one_anchor("xywh", xy=1.0, wh=7.0, cls=2.0, cls_pw=1.0, label_smoothing=0.2)
    assert losses["loss_xy"] == pytest.approx(0.0625) and losses["loss_wh"] == 0
    assert gradient[5:, 0, 1].tolist() == pytest.approx([0.5 - 0.1, 0.5 - 0.9])


def test_the_centre_goes_by_the_decoding():
    # .25 = s * sigmoid - (s - 1) / 2 has its error at sigmoid .5 whatever s, but s times the slope
    assert one_anchor("xywh", scale_x_y=1.2)[1][0, 0, 1] == pytest.approx(1.2 * one_anchor("xywh")[1][0, 0, 1])


def test_a_truth_with_two_anchors_and_one_with_none():
    """Sums over the heads of means over the pairs of each."""
    anchors = [(16.0, 16.0), (16.0, 8.0), (200.0, 200.0)]
    heads = [head(anchors, (0, 1)), head(anchors, (2,), stride=64)]
    outputs = [torch.zeros(1, 14, 2, 2, requires_grad=True), torch.zeros(1, 7, 1, 1, requires_grad=True)]
    boxes = [[32.0, 18.0, 48.0, 30.0], [7.0, 7.0, 9.0, 9.0]]  # wh-IoU .75 .667 .005; .016 .031 .0001: its best is anchor 1
    losses = YoloLoss("xywh", wh=1.0)(outputs, heads, [target(boxes, [1, 2])], (64, 64))
    wh = [0, math.log(12 / 16), 0, math.log(12 / 8), math.log(2 / 16), math.log(2 / 8)]
    assert losses["loss_wh"].item() == pytest.approx(sum(value**2 for value in wh) / 6)
    total(losses).backward()
    assert outputs[0].grad.view(2, 7, 2, 2)[:, 5].nonzero().tolist() == [[0, 0, 1], [1, 0, 0], [1, 0, 1]]
    gradient = outputs[1].grad[0, :, 0, 0]
    assert gradient[4] > 0 and gradient[[0, 1, 2, 3, 5, 6]].abs().max() == 0  # no pair, but a place
    assert losses["num_targets"] == 2


def test_two_truths_at_one_place_both_count():
    losses, gradient = one_anchor("xywh", [(32.0, 16.0, 48.0, 32.0)] * 2, (1, 2), cls_pw=1.0, obj_pw=1.0)
    assert losses["loss_xy"] == pytest.approx(4.062 * 0.0625)
    assert gradient[5:, 0, 1].tolist() == pytest.approx([0, 0])
    assert gradient[4, 0, 1] == pytest.approx(-22.9 / 8)


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_objects(kind, num_classes):
    heads = two_heads(num_classes)
    outputs, _ = random_batch(2, heads)
    losses = YoloLoss(kind)(outputs, heads, [NOTHING, NOTHING], (64, 96))
    assert list(losses) == [*KEYS[kind], "num_targets"] and losses["num_targets"] == 0
    assert all(losses[key].requires_grad and losses[key].shape == () for key in KEYS[kind])
    assert all(losses[key] == 0 for key in KEYS[kind] if key != "loss_obj")
    total(losses).backward()
    for output, this in zip(outputs, heads):
        gradient = output.grad.unflatten(1, (3, 5 + this.num_classes))
        assert (gradient[:, :, 4] > 0).all() and gradient[:, :, :4].abs().max() == gradient[:, :, 5:].abs().max() == 0


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_images_do_not_depend_on_their_order(kind, num_classes):
    heads = two_heads(num_classes)
    outputs, targets = random_batch(3, heads, dtype=torch.float64)
    losses = YoloLoss(kind)(outputs, heads, targets, (64, 96))
    assert all(losses[key] > 0 for key in KEYS[kind]) and losses["num_targets"] == 12
    turned = YoloLoss(kind)([output.flip(0) for output in outputs], heads, targets[::-1], (64, 96))
    for key in KEYS[kind]:
        torch.testing.assert_close(turned[key], losses[key])


@pytest.mark.parametrize("kind", KINDS)
def test_several_processes_as_one(kind):
    """With the mean of their numbers the mean of the gradients is that of the whole batch."""
    heads = two_heads(3)
    outputs, targets = random_batch(4, heads, dtype=torch.float64)
    whole = torch.autograd.grad(total(YoloLoss(kind)(outputs, heads, targets, (64, 96))), outputs)
    parts, numbers, gradients = (slice(0, 1), slice(1, 4)), [], []
    for reduce in (lambda n: numbers.append(n) or n, lambda n: torch.stack(numbers).mean(dim=0)):
        loss = YoloLoss(kind)
        loss.reduce_normalizer = reduce
        for part in parts:
            losses = loss([output[part] for output in outputs], heads, targets[part], (64, 96))
            gradients.append(torch.autograd.grad(total(losses), outputs))
    for expected, first, second in zip(whole, *gradients[2:]):
        torch.testing.assert_close((first + second) / 2, expected)
    loss.reduce_normalizer = None
    assert total(loss.eval()(outputs, heads, targets, (64, 96))) > 0


EXTREME = {
    "tiny": target([[5.0, 5.0, 5.001, 5.001], [63.0, 63.0, 64.0, 64.0]], [1, 2]),
    "no area": target([[5.0, 5.0, 5.0, 5.0], [9.0, 3.0, 9.0, 30.0]], [1, 2]),
    "the whole input": target([[0.0, 0.0, 96.0, 64.0]], [2]),
    "outside": target([[90.0, 60.0, 130.0, 90.0], [-50.0, -9.0, 2.0, 3.0]], [2, 1]),
    "equal": target([[30.0, 30.0, 60.0, 60.0]] * 9, [1] * 9),
    "nothing": NOTHING,
}


@pytest.mark.parametrize("scale", [1.0, 1e4, 65504.0])
@pytest.mark.parametrize("name", EXTREME)
@pytest.mark.parametrize("kind", KINDS)
def test_always_finite(kind, name, scale):
    heads = two_heads(truth=0.3, scale_x_y=1.05)
    outputs, _ = random_batch(2, heads)
    for sign in (torch.sign, torch.ones_like, lambda output: -torch.ones_like(output)):
        signed = [(scale * sign(output.detach())).requires_grad_() for output in outputs]
        losses = YoloLoss(kind)(signed, heads, [EXTREME[name], NOTHING], (64, 96))
        gradients = torch.autograd.grad(total(losses), signed)
        assert all(tensor.isfinite().all() for tensor in (*losses.values(), *gradients))


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_autocast(kind):
    heads = two_heads()
    outputs, targets = random_batch(3, heads)
    halves = [output.detach().bfloat16() for output in outputs]
    expected = YoloLoss(kind)([half.float() for half in halves], heads, targets, (64, 96))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = YoloLoss(kind)(halves, heads, targets, (64, 96))
    assert all(value.dtype == torch.float32 for value in found.values())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_learn_a_box(kind):
    """The best box becomes the object, with its class."""
    heads = two_heads(3)
    outputs, _ = random_batch(1, heads)
    optimizer, loss = torch.optim.Adam(outputs, lr=0.1), YoloLoss(kind)
    for _ in range(200):
        optimizer.zero_grad()
        total(loss(outputs, heads, [target([[20.0, 10.0, 44.0, 34.0]], [3])], (64, 96))).backward()
        optimizer.step()
    maps = outputs[1].detach().view(3, 8, 4, 6)
    assert maps[:, 4].flatten().argmax() == 2 * 24 + 1 * 6 + 2  # anchor 23 x 27, centre (32, 22): row 1, column 2
    tx, ty, tw, th, *classes = torch.cat((maps[2, :4, 1, 2], maps[2, 5:, 1, 2])).tolist()
    assert (2 + 1 / (1 + math.exp(-tx))) * 16 == pytest.approx(32, abs=0.5)
    assert (1 + 1 / (1 + math.exp(-ty))) * 16 == pytest.approx(22, abs=0.5)
    assert (23 * math.exp(tw), 27 * math.exp(th)) == pytest.approx((24, 24), abs=0.8)
    assert classes.index(max(classes)) == 2


def test_paired_giou():
    corners, others = torch.rand(50, 2, dtype=torch.float64) * 10, torch.rand(50, 2, dtype=torch.float64) * 10
    boxes = torch.cat((corners, corners + torch.rand(50, 2) * 5), dim=1)
    other_boxes = torch.cat((others, others + torch.rand(50, 2) * 5), dim=1)
    torch.testing.assert_close(paired_giou(boxes, other_boxes), generalized_box_iou(boxes, other_boxes).diagonal())
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert paired_giou(point, point).tolist() == [0]
    assert paired_giou(boxes[:0], boxes[:0]).shape == (0,)


@pytest.mark.parametrize("kind, truth_thresh, number", [("giou", 1, 0), ("xywh", 1, 0), ("darknet", 1, 0), ("darknet", 0.5, 2)])
def test_reads_from_the_device(kind, truth_thresh, number):
    heads = two_heads(truth=truth_thresh)
    outputs, targets = random_batch(4, heads)
    loss = YoloLoss(kind, class_weights=[1.0, 2.0])
    with CountReads() as reads:
        loss(outputs, heads, targets, (64, 96))
    assert reads.number == number


def test_not_in_the_state_of_the_model():
    assert not YoloLoss(class_weights=[1.0, 2.0]).state_dict()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kind": "ciou"}, "giou, xywh, darknet"),
        ({"cls_pw": -1.0}, "cls_pw"),
        ({"obj": math.inf}, "obj"),
        ({"iou_t": 1.0}, "iou_t"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"class_weights": [1.0, 0.0]}, "class_weights"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InputError, match=message):
        YoloLoss(**settings)


def test_class_weights_of_other_classes():
    with pytest.raises(InputError, match="3 class_weights for 2 classes"):
        one_anchor("giou", class_weights=[1.0, 2.0, 3.0])
