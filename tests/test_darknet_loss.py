"""python -m pytest tests/test_darknet_loss.py"""

import math

import numpy as np
import pytest
import torch

from network_files.darknet import YoloHead
from network_files.yolo_loss import YoloLoss

NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
KEYS = ["loss_xy", "loss_wh", "loss_obj", "loss_cls"]


def head(anchors=((16.0, 16.0),), mask=(0,), num_classes=2, stride=32, ignore=0.5, truth=1.0, scale_x_y=1.0):
    return YoloHead(0, num_classes, tuple(mask), tuple(anchors), stride, ignore, truth, scale_x_y)


def target(boxes, labels, dtype=torch.float64):
    return {"boxes": torch.tensor(boxes, dtype=dtype), "labels": torch.tensor(labels)}


def gradient(raw, this, targets, input_size=(64, 64), **settings):
    """The losses by name, and the gradient of their sum * N: [N, A, 5 + C, H, W] like raw."""
    raw = raw.clone().requires_grad_()
    losses = YoloLoss("darknet", **settings)([raw.flatten(1, 2)], [this], targets, input_size)
    (found,) = torch.autograd.grad(sum(losses[key] for key in KEYS), raw)
    return losses, found * len(raw)


def plain():
    """One anchor in 2 x 2 cells of 32 pixels, all logits 0; without objects the gradient is .5 at each objectness."""
    raw, expected = torch.zeros(1, 1, 7, 2, 2, dtype=torch.float64), torch.zeros(1, 1, 7, 2, 2, dtype=torch.float64)
    expected[:, :, 4] = 0.5
    return raw, expected


def read_golden(path, dtype):
    with np.load(path) as data:
        side, thresholds = int(data["net"]), (float(data["ignore_thresh"]), float(data["truth_thresh"]))
        this = head(data["anchors"].tolist(), data["mask"].tolist(), 3, side // 4, *thresholds)
        targets = []
        for rows in torch.from_numpy(data["truth"]).to(dtype):
            rows = rows[rows[:, 0] > 0]
            centres, sizes = rows[:, :2] * side, rows[:, 2:4] * side
            boxes = torch.cat((centres - sizes / 2, centres + sizes / 2), dim=1)
            targets.append({"boxes": boxes, "labels": rows[:, 4].long() + 1})
        return torch.from_numpy(data["x"]).to(dtype), this, targets, torch.from_numpy(data["delta"]), side


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ignore, total, untouched", [("0.3", 89.00979, 6), ("0.7", 94.73560, 0)])
def test_same_gradient_as_darknet(shared_data, ignore, total, untouched, dtype):
    path = shared_data / "yolo" / f"darknet_yolo_delta_ign{ignore}_tru1.npz"
    raw, this, targets, delta, side = read_golden(path, dtype)
    losses, found = gradient(raw, this, targets, (side, side))
    assert (found + delta).abs().max() < 1e-6
    assert int((found[:, :, 4] == 0).sum()) == untouched
    assert float(sum(losses[key] for key in KEYS).detach()) * len(raw) == pytest.approx(total, abs=1e-4)
    assert losses["num_targets"] == 5 and list(losses) == [*KEYS, "num_targets"]


def test_one_truth_by_hand():
    raw, expected = plain()
    raw[0, 0, 2, 0, 1] = 0.25
    losses, found = gradient(raw, head(), [target([[32.0, 16.0, 48.0, 32.0]], [2])])
    # Centre (40, 24) = cell (row 0, column 1) + (.25, .75); share = 2 - 256 / 4096 = 1.9375; ln(16 / 16) = 0
    expected[0, 0, :, 0, 1] = torch.tensor([1.9375 * 0.25, -1.9375 * 0.25, 1.9375 * 0.25, 0, -0.5, 0.5, -0.5])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(losses["loss_xy"].item(), 1.9375 * 2 * math.log(2))  # BCE(0, .) = ln 2 for any target
    torch.testing.assert_close(losses["loss_wh"].item(), 1.9375 / 2 * 0.0625)
    torch.testing.assert_close(losses["loss_obj"].item(), 4 * math.log(2))
    torch.testing.assert_close(losses["loss_cls"].item(), 2 * math.log(2))


def above_the_border():
    """One truth of class 0, 16 x 16 around (48, 30), learned in cell (0, 1); the box of cell (1, 1) overlaps it more.

    There sigmoid(ty) = .125, so the box is [40, 28, 56, 44], its IoU 10 * 16 / (512 - 160) = .4545; that of cell (0, 1)
    is [40, 8, 56, 24]: 2 * 16 / (512 - 32) = .0667.
    """
    raw, expected = plain()
    raw[0, 0, 1, 1, 1] = -math.log(7)
    # Offset (.5, 30 / 32), share 1.9375
    expected[0, 0, :, 0, 1] = torch.tensor([0, 1.9375 * (0.5 - 0.9375), 0, 0, -0.5, -0.5, 0.5])
    return raw, expected, [[40.0, 22.0, 56.0, 38.0]]


def test_ignored_overlap():
    raw, expected, boxes = above_the_border()
    torch.testing.assert_close(gradient(raw, head(ignore=0.5), [target(boxes, [1])])[1], expected)
    expected[0, 0, 4, 1, 1] = 0
    torch.testing.assert_close(gradient(raw, head(ignore=0.45), [target(boxes, [1])])[1], expected)


def test_truth_thresh_below_one():
    raw, expected, boxes = above_the_border()
    # Cell (1, 1) learns the truth as well: offset (.5, 30 / 32 - 1) = (.5, -.0625), as Darknet outside of the cell
    expected[0, 0, :, 1, 1] = torch.tensor([0, 1.9375 * (0.125 + 0.0625), 0, 0, -0.5, -0.5, 0.5])
    for ignore in (0.3, 0.5):
        found = gradient(raw, head(ignore=ignore, truth=0.4), [target(boxes, [1])])[1]
        torch.testing.assert_close(found, expected)
    expected[0, 0, :, 1, 1] = torch.tensor([0, 0, 0, 0, 0.5, 0, 0])
    torch.testing.assert_close(gradient(raw, head(truth=0.46), [target(boxes, [1])])[1], expected)


def test_a_centre_beats_an_overlap():
    raw, expected, boxes = above_the_border()
    expected[0, 0, :, 1, 1] = 0
    # The centre of a second truth, of class 1, lies in cell (1, 1), its IoU with the box there is .125: it wins the box,
    # offset (.5, 50 / 32 - 1), share 2 - 320 / 4096, and the classes of both are learned.
    share = 2 - 320 / 4096
    expected[0, 0, 1:, 1, 1] = torch.tensor([share * (0.125 - 0.5625), 0, -share * math.log(20 / 16), -0.5, -0.5, -0.5])
    found = gradient(raw, head(truth=0.4), [target([*boxes, [40.0, 40.0, 56.0, 60.0]], [1, 2])])[1]
    torch.testing.assert_close(found, expected)


def test_the_later_of_two_truths_at_one_place():
    first, second = [32.0, 16.0, 48.0, 32.0], [34.0, 20.0, 50.0, 36.0]  # centres (40, 24), (42, 28): cell (0, 1)
    for boxes, offset in (([first, second], (0.3125, 0.875)), ([second, first], (0.25, 0.75))):
        raw, expected = plain()
        expected[0, 0, :2, 0, 1] = 1.9375 * (0.5 - torch.tensor(offset))
        expected[0, 0, 4:, 0, 1] = torch.tensor([-0.5, -0.5, -0.5])
        torch.testing.assert_close(gradient(raw, head(), [target(boxes, [2, 1])])[1], expected)
        losses = gradient(raw, head(), [target(boxes, [2, 1])])[0]
        torch.testing.assert_close(losses["loss_cls"].item(), 2 * math.log(2))  # two bits once, not two truths


@pytest.mark.parametrize("box", [[32.0, 16.0, 42.0, 26.0], [32.0, 16.0, 48.0, 16.06], [40.0, 24.0, 40.0, 24.0]])
def test_truths_that_no_place_learns(box):
    """The anchor of another head fits better; one side below .001 of the input; no area at all."""
    raw, expected = plain()
    this = head([(16.0, 16.0), (10.0, 10.0)])
    losses, found = gradient(raw, this, [target([box], [1])])
    torch.testing.assert_close(found, expected)
    assert losses["loss_xy"] == losses["loss_wh"] == losses["loss_cls"] == 0 and losses["num_targets"] == 1


def test_a_truth_below_the_smallest_ignores_nothing():
    raw, expected = plain()
    raw[:, :, 3] = math.log(0.05 / 16)  # boxes as flat as the truth: IoU 1 in cell (0, 1)
    found = gradient(raw, head(), [target([[40.0, 15.975, 56.0, 16.025]], [1])])[1]
    torch.testing.assert_close(found, expected)


def test_nothing_to_learn():
    raw, expected = plain()
    losses, found = gradient(raw, head(ignore=0.0), [NOTHING])
    torch.testing.assert_close(found, expected)
    assert all(losses[key].requires_grad for key in KEYS) and not losses["num_targets"].requires_grad


def test_offsets_go_by_the_decoding():
    """Where the decoded box is the truth, nothing is left to learn of the box."""
    raw, expected = plain()
    raw[0, 0, :2, 0, 1] = torch.tensor([0.3, 0.6]).logit()
    this = head(scale_x_y=1.2, ignore=0.999)
    x, y = (1 + 1.2 * 0.3 - 0.1) * 32, (1.2 * 0.6 - 0.1) * 32
    found = gradient(raw, this, [target([[x - 8, y - 8, x + 8, y + 8]], [1])])[1]
    expected[0, 0, 4:, 0, 1] = torch.tensor([-0.5, -0.5, 0.5])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_label_smoothing_and_class_weights():
    raw, _ = plain()
    truth = [target([[32.0, 16.0, 48.0, 32.0]], [2])]
    found = gradient(raw, head(), truth, label_smoothing=0.1)[1]
    torch.testing.assert_close(found[0, 0, 5:, 0, 1].tolist(), [0.5 - 0.05, 0.5 - 0.95])
    found = gradient(raw, head(), truth, class_weights=[7.0, 3.0], cls=9.0, cls_pw=9.0, obj=9.0)[1]
    torch.testing.assert_close(found[0, 0, 4:, 0, 1].tolist(), [-0.5, 0.5, -1.5])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def overlap(box, other):
    width, height = (max(0, min(box[i + 2], other[i + 2]) - max(box[i], other[i])) for i in (0, 1))
    inter = width * height
    return inter / ((box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - inter)


def naive(raw, this, targets, input_size):
    """The gradient by the rules at the head of darknet_loss.py, place by place and truth by truth."""
    delta = torch.zeros_like(raw)
    num_anchors, (net_h, net_w), (height, width) = len(this.mask), input_size, raw.shape[3:]

    def learn(image, a, row, column, box, label):
        t, d = raw[image, a, :, row, column], delta[image, a, :, row, column]
        w, h = (box[2] - box[0]) / net_w, (box[3] - box[1]) / net_h
        x, y = (box[0] + box[2]) / 2 / net_w * width - column, (box[1] + box[3]) / 2 / net_h * height - row
        anchor_w, anchor_h = this.own_anchors[a]
        logs = (math.log(w * net_w / anchor_w), math.log(h * net_h / anchor_h))
        d[:4] = (2 - w * h) * torch.tensor([sigmoid(t[0]) - x, sigmoid(t[1]) - y, t[2] - logs[0], t[3] - logs[1]])
        d[4] = sigmoid(t[4]) - 1
        if (d[5:] == 0).all():
            d[5:] = t[5:].sigmoid()
        d[4 + label] = sigmoid(t[4 + label]) - 1

    for image, truth in enumerate(targets):
        boxes, labels = truth["boxes"].tolist(), truth["labels"].tolist()
        for a, row, column in np.ndindex(num_anchors, height, width):
            t = raw[image, a, :, row, column].tolist()
            x, y = (sigmoid(t[0]) + column) * net_w / width, (sigmoid(t[1]) + row) * net_h / height
            w, h = (math.exp(t[2 + i]) * this.own_anchors[a][i] / 2 for i in (0, 1))
            ious = [overlap((x - w, y - h, x + w, y + h), box) for box in boxes]
            best = max(ious, default=0)
            delta[image, a, 4, row, column] = sigmoid(t[4]) if best <= this.ignore_thresh else 0
            if best > this.truth_thresh:
                learn(image, a, row, column, boxes[ious.index(best)], labels[ious.index(best)])
        for box, label in zip(boxes, labels):
            w, h = box[2] - box[0], box[3] - box[1]
            ious = [overlap((0, 0, w, h), (0, 0, *anchor)) for anchor in this.anchors]
            if ious.index(max(ious)) in this.mask:
                column, row = int((box[0] + box[2]) / 2 / net_w * width), int((box[1] + box[3]) / 2 / net_h * height)
                learn(image, this.mask.index(ious.index(max(ious))), row, column, box, label)
    return delta


@pytest.mark.parametrize("truth_thresh", [1.0, 0.55, 0.3])
def test_same_as_place_by_place(truth_thresh):
    generator = torch.Generator().manual_seed(5)
    this = head([(6.0, 9.0), (20.0, 14.0), (30.0, 40.0)], (2, 0), 3, 16, ignore=0.4, truth=truth_thresh)
    raw = torch.randn(4, 2, 8, 4, 6, generator=generator, dtype=torch.float64)
    targets = []
    for number in (9, 0, 1, 14):
        centres = torch.rand(number, 2, generator=generator, dtype=torch.float64) * torch.tensor([95.0, 63.0])
        halves = 1 + torch.rand(number, 2, generator=generator, dtype=torch.float64) * 20
        labels = torch.randint(1, 4, (number,), generator=generator)
        targets.append({"boxes": torch.cat((centres - halves, centres + halves), dim=1), "labels": labels})
    found = gradient(raw, this, targets, (64, 96))[1]
    torch.testing.assert_close(found, naive(raw, this, targets, (64, 96)))
