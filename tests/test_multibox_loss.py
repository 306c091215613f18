"""python -m pytest tests/test_multibox_loss.py"""

import pytest
import torch
from torch.nn.functional import softplus
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import SSDMatcher

from network_files.boxes import iou
from network_files.multibox_loss import BACKGROUND, LossSums, MultiBoxLoss, match, match_batch

# Six boxes of 10 x 10 pixels in a row, far apart
ROW = torch.tensor([[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(6)])
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def target(boxes, labels):
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}


def random_boxes(number, generator, side=100.0):
    corners = torch.rand(number, 2, generator=generator) * side
    return torch.cat((corners, corners + 2 + torch.rand(number, 2, generator=generator) * side / 2), dim=1)


def test_the_threshold_belongs_to_the_objects():
    default_boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 4.9]])
    assert match(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), default_boxes).tolist() == [0, 0, -1]


def test_an_object_below_the_threshold_gets_its_best_box():
    assert match(torch.tensor([[17.0, 0.0, 22.0, 10.0]]), ROW).tolist() == [-1, 0, -1, -1, -1, -1]


def test_a_forced_box_overrides_the_threshold_match():
    default_boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 15.0]])
    gt_boxes = torch.tensor([[0.0, 0.0, 10.0, 14.0], [0.0, 0.0, 2.0, 3.0]])
    # IoU of gt 0: 0.71, 0.93; of gt 1: 0.06, 0.04. Box 0 overlaps gt 0 more, but is the best that gt 1 has.
    assert match(gt_boxes, default_boxes).tolist() == [1, 0]


def test_two_objects_share_their_best_box():
    default_boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 20.0], [50.0, 50.0, 60.0, 60.0]])
    gt_boxes = torch.tensor([[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 10.0]])  # IoU .9 .45 0 and 1 .5 0
    assert match(gt_boxes, default_boxes).tolist() == [1, 0, -1]
    assert match(gt_boxes.flip(0), default_boxes).tolist() == [0, 1, -1]
    assert match(gt_boxes[[1, 1]], default_boxes).tolist() == [0, 1, -1]  # equal objects: the first keeps it


def test_a_loser_displaces_the_holder_of_its_next_best_box():
    """gt 0 and gt 1 want box 0; gt 1 loses and wants box 1, which gt 2 holds with a lower IoU."""
    default_boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 20.0], [90.0, 0.0, 99.0, 5.0]])
    gt_boxes = torch.tensor([[0.0, 0.0, 10.0, 9.5], [0.0, 0.0, 10.0, 9.0], [0.0, 18.0, 10.0, 25.0]])
    ious = iou(gt_boxes, default_boxes)
    assert ious[:, 0].argmax() == 0 and ious[1].argmax() == 0 and ious[2].argmax() == 1 and ious[1, 1] > ious[2, 1] > 0
    assert match(gt_boxes, default_boxes).tolist() == [0, 1, 2]  # gt 2 is left with a box that it does not touch


def greedy(iou_matrix):
    """(object, box) pairs, one after the other."""
    iou_matrix, pairs = iou_matrix.clone(), []
    for _ in range(min(iou_matrix.shape)):
        pairs.append(divmod(int(iou_matrix.argmax()), iou_matrix.shape[1]))
        iou_matrix[pairs[-1][0]] = iou_matrix[:, pairs[-1][1]] = -1
    return pairs


@pytest.mark.parametrize("num_objects, num_boxes", [(4, 300), (30, 60), (40, 25)])
def test_same_as_the_greedy_choice(num_objects, num_boxes):
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        default_boxes = random_boxes(num_boxes, generator)
        gt_boxes = default_boxes[torch.randint(num_boxes, (num_objects,), generator=generator)]
        gt_boxes = gt_boxes + torch.rand(num_objects, 4, generator=generator)  # many share their best box
        matched_idxs = match(gt_boxes, default_boxes, fg_iou_thresh=1.0)
        ious = iou(gt_boxes, default_boxes)
        pairs = [(int(matched_idxs[box]), int(box)) for box in (matched_idxs >= 0).nonzero()]
        assert len({gt for gt, _ in pairs}) == len(pairs) == min(num_objects, num_boxes)
        assert {pair for pair in pairs if ious[pair] > 0} == {pair for pair in greedy(ious) if ious[pair] > 0}


def test_same_as_torchvision_where_no_best_box_is_shared():
    generator, compared = torch.Generator().manual_seed(2), 0
    for num_objects in [1, 2, 3, 4, 6] * 20:
        default_boxes, gt_boxes = random_boxes(400, generator), random_boxes(num_objects, generator)
        iou_matrix = iou(gt_boxes, default_boxes)
        if len(iou_matrix.argmax(dim=1).unique()) == num_objects:
            compared += 1
            assert torch.equal(match(gt_boxes, default_boxes), SSDMatcher(0.5)(iou_matrix))
    assert compared > 80


def test_a_batch_is_its_images_with_indices_into_all_objects():
    generator = torch.Generator().manual_seed(3)
    default_boxes = random_boxes(200, generator)
    images = [random_boxes(number, generator) for number in (5, 0, 40, 1, 0)]
    matched_idxs = match_batch(images, default_boxes)
    for number, (first, gt_boxes) in enumerate(zip([0, 5, 5, 45, 46], images)):
        alone = match(gt_boxes, default_boxes)
        assert torch.equal(matched_idxs[number], torch.where(alone == BACKGROUND, BACKGROUND, alone + first))
        assert set(alone.tolist()) - {-1} == set(range(len(gt_boxes)))  # none is lost


@pytest.mark.parametrize("num_objects", [1, 7])
def test_nothing_to_match(num_objects):
    assert match(torch.zeros(0, 4), ROW).tolist() == [-1] * 6
    crowd = ROW[[0]].repeat(num_objects, 1)
    assert sorted(match(crowd, ROW).tolist()) == sorted([-1] * (6 - num_objects) + list(range(min(num_objects, 6))))


def six_boxes():
    """Cross-entropy with background is softplus(x), with class 1 softplus(-x)."""
    x = torch.tensor([0.5, 1.0, 3.0, -2.0, 2.0, 0.0])
    return torch.stack((torch.zeros(6), x), dim=1)[None].requires_grad_(), torch.zeros(1, 6, 4, requires_grad=True)


def test_by_hand():
    logits, deltas = six_boxes()
    loss = MultiBoxLoss(negatives_per_positive=2)
    # The object is box 0 moved right by 1.5 pixels: dx = 10 * 1.5 / 10 = 1.5, smooth-L1 1.5 - 0.5 = 1
    sums = loss.sums(logits, deltas, ROW, [target([[1.5, 0.0, 11.5, 10.0]], [1])])
    assert (sums.positives, sums.mined) == (1, 2)
    torch.testing.assert_close(sums.box_reg, torch.tensor(1.0))
    expected = softplus(torch.tensor([-0.5, 3.0, 2.0])).sum()  # box 0 is class 1; boxes 2 and 4 are the hardest
    torch.testing.assert_close(sums.classifier, expected)
    sum(loss.divide(sums, torch.stack((sums.positives, sums.mined))).values()).backward()
    assert logits.grad[0].abs().sum(dim=1).nonzero().flatten().tolist() == [0, 2, 4]
    assert deltas.grad.nonzero().tolist() == [[0, 0, 0]]


def test_never_more_negatives_than_there_are():
    logits, deltas = six_boxes()
    sums = MultiBoxLoss().sums(logits, deltas, ROW, [target(ROW[:2].tolist(), [1, 1])])
    assert (sums.positives, sums.mined) == (2, 4)
    torch.testing.assert_close(sums.classifier, softplus(torch.tensor([-0.5, -1.0, 3.0, -2.0, 2.0, 0.0])).sum())
    sums = MultiBoxLoss().sums(logits, deltas, ROW, [NOTHING])
    assert (sums.positives, sums.mined) == (0, 6)
    sums = MultiBoxLoss().sums(logits, deltas, ROW, [target(ROW.tolist(), [1] * 6)])
    assert (sums.positives, sums.mined) == (6, 0)


def test_image_without_objects_beside_one_with():
    """In the second image the logits are halved and the object is box 3, moved down by 3 pixels."""
    logits, deltas = six_boxes()
    logits, deltas = torch.cat((logits, logits / 2)), deltas.repeat(2, 1, 1)
    loss = MultiBoxLoss(negatives_per_positive=2, min_negatives=4)
    sums = loss.sums(logits, deltas, ROW, [NOTHING, target([[60.0, 3.0, 70.0, 13.0]], [1])])
    assert (sums.positives, sums.mined) == (1, 6)
    expected = softplus(torch.tensor([3.0, 2.0, 1.0, 0.5, 1.0, 1.5, 1.0])).sum()
    torch.testing.assert_close(sums.classifier, expected)
    losses = loss.divide(sums, torch.stack((sums.positives, sums.mined)))
    torch.testing.assert_close(losses["loss_classifier"], expected / 3)  # max(1 positive, 6 mined / 2)
    torch.testing.assert_close(losses["loss_box_reg"], torch.tensor(2.5))  # dy = 10 * 3 / 10


def test_only_negatives():
    logits, deltas = six_boxes()
    loss = MultiBoxLoss(min_negatives=3)
    sums = loss.sums(logits, deltas, ROW, [NOTHING])
    losses = loss.divide(sums, torch.stack((sums.positives, sums.mined)))
    torch.testing.assert_close(losses["loss_classifier"], softplus(torch.tensor([3.0, 2.0, 1.0])).sum())
    assert losses["loss_box_reg"] == 0 and losses["loss_box_reg"].requires_grad
    sum(losses.values()).backward()
    assert logits.grad.abs().sum() > 0 and deltas.grad.abs().sum() == 0
    sums = MultiBoxLoss(min_negatives=0).sums(logits, deltas, ROW, [NOTHING])
    assert MultiBoxLoss().divide(sums, torch.zeros(2))["loss_classifier"] == 0 and sums.classifier.requires_grad


def test_divisors():
    sums = LossSums(torch.tensor(12.0), torch.tensor(6.0), torch.tensor(0.0), torch.tensor(0.0))
    quotients = {(2, 6): (6, 3), (2, 36): (1, 3), (0, 30): (1.2, 6), (0.5, 1.5): (24, 12), (0, 0): (12, 6)}
    for numbers, expected in quotients.items():
        losses = MultiBoxLoss().divide(sums, torch.tensor(numbers, dtype=torch.float32))
        assert tuple(value.item() for value in losses.values()) == pytest.approx(expected)


EXTREME = {
    "boxes of one pixel": target([[0.0, 0.0, 1.0, 1.0], [299.0, 299.0, 300.0, 300.0]], [1, 2]),
    "a thousandth of a pixel": target([[5.0, 5.0, 5.001, 5.001]], [1]),
    "the whole image": target([[0.0, 0.0, 300.0, 300.0]], [2]),
    "equal boxes": target([[30.0, 30.0, 60.0, 80.0]] * 9, [1] * 9),
    "more objects than boxes": target([[1.0 * i, 3.0, 9.0 + i, 40.0] for i in range(250)], [1] * 250),
    "nothing": NOTHING,
}


@pytest.mark.parametrize("scale", [1, 1e4])
@pytest.mark.parametrize("name", EXTREME)
def test_always_finite(name, scale):
    generator = torch.Generator().manual_seed(4)
    default_boxes = random_boxes(200, generator, side=200.0)
    logits = (scale * torch.randn(2, 200, 3, generator=generator)).requires_grad_()
    deltas = (scale * torch.randn(2, 200, 4, generator=generator)).requires_grad_()
    loss = MultiBoxLoss()
    for second in (NOTHING, EXTREME[name]):
        sums = loss.sums(logits, deltas, default_boxes, [EXTREME[name], second])
        losses = loss.divide(sums, torch.stack((sums.positives, sums.mined)))
        logits.grad = deltas.grad = None
        sum(losses.values()).backward()
        assert all(tensor.isfinite().all() for tensor in (*losses.values(), logits.grad, deltas.grad))


class CountReads(TorchDispatchMode):
    """Counts what makes a host wait for its device."""

    READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split(".")[0]
        indices = args[1] if name in ("aten::index", "aten::index_put_") else ()
        self.number += name in self.READS or any(i is not None and i.dtype == torch.bool for i in indices)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_images", [1, 8])
def test_reads_from_the_device_do_not_grow_with_the_batch(num_images):
    logits, deltas = torch.randn(num_images, 6, 3), torch.zeros(num_images, 6, 4)
    apart = target(ROW[1:3].tolist(), [1, 2])
    with CountReads() as reads:
        MultiBoxLoss().sums(logits, deltas, ROW, [apart] * num_images)
    assert reads.number == 3
    with CountReads() as reads:
        MultiBoxLoss().sums(logits, deltas, ROW, [target(ROW[[1, 1]].tolist(), [1, 2])] * num_images)
    assert reads.number == 4


@pytest.mark.parametrize("settings", [{"fg_iou_thresh": 0}, {"negatives_per_positive": 0}, {"min_negatives": -1}])
def test_wrong_settings(settings):
    with pytest.raises(ValueError, match="min_negatives"):
        MultiBoxLoss(**settings)
