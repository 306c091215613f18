"""python -m pytest tests/test_roi_heads.py"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from network_files.box_coder import BoxCoder
from network_files.roi_align import MultiScaleRoIAlign
from network_files.roi_heads import FastRCNNConvFCHead, FastRCNNPredictor, RoIHeads, TwoMLPHead, proposal_labels

EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
FEATURES = {"0": torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))}  # stride 4 of a 64 x 64 batch
SIZE = (64, 64)


def make_heads(**changes):
    settings = {
        "fg_iou_thresh": 0.5,
        "bg_iou_thresh": 0.5,
        "batch_size_per_image": 16,
        "positive_fraction": 0.25,
        "bbox_reg_weights": None,
        "score_thresh": 0.05,
        "nms_thresh": 0.5,
        "detections_per_img": 100,
    }
    pool, head = MultiScaleRoIAlign(["0"], 7, 2), TwoMLPHead(4 * 49, 32)
    return RoIHeads(pool, head, FastRCNNPredictor(32, 4), **{**settings, **changes})


def boxes(number):
    start = torch.rand(number, 2) * 40
    return torch.cat((start, start + 4 + torch.rand(number, 2) * 20), dim=1)


def test_keys_and_shapes_of_the_heads():
    head = FastRCNNConvFCHead((4, 7, 7), [8, 8], [16])
    names = [k for k in head.state_dict() if "num_batches" not in k and "running" not in k]
    assert names == [
        "0.0.weight",
        "0.1.weight",
        "0.1.bias",
        "1.0.weight",
        "1.1.weight",
        "1.1.bias",
        "3.weight",
        "3.bias",
    ]
    assert head(torch.rand(5, 4, 7, 7)).shape == (5, 16)
    assert "0.0.bias" in FastRCNNConvFCHead((4, 7, 7), [8], [16], norm_layer=None).state_dict()
    assert list(TwoMLPHead(4, 2).state_dict()) == ["fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias"]
    logits, deltas = FastRCNNPredictor(16, 21)(torch.rand(5, 16))
    assert logits.shape == (5, 21) and deltas.shape == (5, 84)


def test_proposal_labels():
    matched = torch.tensor([0, 1, -1, -2])
    assert proposal_labels(matched, torch.tensor([7, 3])).tolist() == [7, 3, 0, -1]
    assert proposal_labels(matched, torch.zeros(0, dtype=torch.int64)).tolist() == [0, 0, 0, 0]


def test_ground_truth_is_a_proposal_and_the_quota_is_kept():
    gt_boxes = torch.tensor([[5.0, 5.0, 30.0, 30.0]])
    target = {"boxes": gt_boxes, "labels": torch.tensor([2])}
    far = torch.tensor([[40.0, 40.0, 60.0, 60.0]]).repeat(30, 1)
    proposals, labels, gt_deltas = make_heads().sample([far], [target])
    assert labels.tolist() == [0] * 15 + [2] and torch.equal(proposals[0][-1:], gt_boxes)  # ascending: it was appended
    assert torch.equal(gt_deltas, torch.zeros(1, 4))
    near = gt_boxes.repeat(30, 1) + torch.rand(30, 4)
    _, labels, gt_deltas = make_heads().sample([torch.cat((near, far))], [target])
    assert (labels == 2).sum() == 4 == len(gt_deltas) and len(labels) == 16


def test_losses_when_every_proposal_is_sampled():
    """Against the formula written out, without sampling: all proposals fit into the quota."""
    heads = make_heads(batch_size_per_image=10_000, positive_fraction=1.0)
    gt_boxes, gt_labels = boxes(3), torch.tensor([1, 2, 3])
    proposals = torch.cat((gt_boxes + torch.randn(3, 4), boxes(20)))
    sums = heads.loss_sums(FEATURES, [proposals, boxes(9)], SIZE, [{"boxes": gt_boxes, "labels": gt_labels}, EMPTY])
    torch.manual_seed(0)
    sampled, labels, gt_deltas = heads.sample(
        [proposals, torch.zeros(0, 4)], [{"boxes": gt_boxes, "labels": gt_labels}, EMPTY]
    )
    assert sums.num_samples == 23 + 3 + 9
    logits, deltas = heads.predict(FEATURES, sampled, SIZE)
    positive = labels > 0
    own = torch.stack([d[label] for d, label in zip(deltas, labels)])  # the four numbers of the true class
    error = (own[positive] - gt_deltas).abs()
    torch.testing.assert_close(sums.box_reg, torch.where(error < 1 / 9, 4.5 * error**2, error - 1 / 18).sum())
    second, _, _ = heads.sample([torch.zeros(0, 4), torch.zeros(0, 4)], [EMPTY, EMPTY])
    assert len(second[0]) == 0
    assert sums.classifier > F.cross_entropy(
        logits, labels, reduction="sum"
    )  # the second image's background comes on top


def test_images_without_objects():
    heads = make_heads()
    sums = heads.loss_sums(FEATURES, [boxes(20), boxes(20)], SIZE, [EMPTY, EMPTY])
    assert sums.num_samples == 32 and sums.box_reg == 0 and sums.classifier > 0


@pytest.mark.parametrize("conv_head", [False, True])
def test_no_proposal_at_all_gives_zero_attached_to_every_weight(conv_head):
    heads = make_heads().train()
    if conv_head:
        heads.box_head = FastRCNNConvFCHead((4, 7, 7), [8], [32])
    sums = heads.loss_sums(FEATURES, [torch.zeros(0, 4)] * 2, SIZE, [EMPTY, EMPTY])
    assert (sums.classifier, sums.box_reg, sums.num_samples) == (0, 0, 0)
    (sums.classifier + sums.box_reg).backward()
    assert all(p.grad is not None and not p.grad.any() for p in heads.parameters())
    assert all(buffer.isfinite().all() for buffer in heads.buffers())


class Fixed(nn.Module):
    """A predictor that always says the same."""

    def __init__(self, logits, deltas):
        super().__init__()
        self.logits, self.deltas = nn.Parameter(logits), nn.Parameter(deltas)

    def forward(self, hidden):
        return self.logits, self.deltas


def test_detections_by_hand():
    proposals = torch.tensor(
        [[0.0, 0.0, 20.0, 20.0], [1.0, 0.0, 21.0, 20.0], [30.0, 30.0, 90.0, 60.0], [5.0, 5.0, 5.0, 9.0]]
    )
    scores = torch.tensor([[0.2, 0.7, 0.1], [0.38, 0.6, 0.02], [0.05, 0.05, 0.9], [0.0, 0.5, 0.5]])
    heads = make_heads(score_thresh=0.08)
    heads.box_predictor = Fixed(scores.log().clamp(min=-50), torch.zeros(4, 12))
    with torch.no_grad():
        (detection,) = heads.detect({"0": FEATURES["0"][:1]}, [proposals], SIZE, [(64, 64)])
    # the second box is suppressed by the first (IoU 19/21), 0.05 is below the threshold, the last has no width
    assert detection["labels"].tolist() == [2, 1, 2]
    torch.testing.assert_close(detection["scores"], torch.tensor([0.9, 0.7, 0.1]))
    expected = torch.tensor([[30.0, 30.0, 64.0, 60.0], [0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 20.0, 20.0]])
    torch.testing.assert_close(detection["boxes"], expected)


def test_each_class_uses_its_own_deltas():
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 2] = torch.tensor([10.0, 0.0, 0.0, 0.0])  # over the weight 10: one width to the right, for class 2
    heads = make_heads()
    heads.box_predictor = Fixed(torch.tensor([[0.0, 2.0, 1.0]]), deltas.flatten(1))
    with torch.no_grad():
        (detection,) = heads.detect({"0": FEATURES["0"][:1]}, [torch.tensor([[0.0, 0.0, 10.0, 10.0]])], SIZE, [SIZE])
    assert detection["labels"].tolist() == [1, 2]
    torch.testing.assert_close(detection["boxes"], torch.tensor([[0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 20.0, 10.0]]))
    assert BoxCoder((10.0, 10.0, 5.0, 5.0)).weights == heads.box_coder.weights


def test_detections_without_proposals_and_at_most_the_quota():
    heads = make_heads(score_thresh=0.0, detections_per_img=7).eval()
    with torch.no_grad():
        empty, full = heads.detect(FEATURES, [torch.zeros(0, 4), boxes(50)], SIZE, [SIZE, SIZE])
        nothing = heads.detect(FEATURES, [torch.zeros(0, 4)] * 2, SIZE, [SIZE, SIZE])
    for detection in (empty, *nothing):
        assert detection["boxes"].shape == (0, 4) and detection["labels"].dtype == torch.int64
    assert len(full["scores"]) == 7 and (full["scores"].diff() <= 0).all()
