"""Is an exported file the detector that it was made of? Its outputs beside those in torch, on the same network input.

Shapes: N images, K boxes or rows of one set, L of another, B boxes and C scores in a row
Words:  lost = without counterpart on the other side; rows = boxes with their scores, in a graph's outputs
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from network_files.boxes import clip
from network_files.export_inputs import network_input, whole_batch
from network_files.export_plan import Plan

Run = Callable[[Tensor], Sequence[Tensor]]  # a written file: network input [N, 3, H, W] -> the outputs in the graph's order
PAIR = 100  # tolerances: rows further apart than this are not the same one


class Difference(NamedTuple):
    """Largest differences of what was compared."""

    scores: float = 0.0
    boxes: float = 0.0  # pixels
    lost: int = 0  # rows without counterpart
    rows: int = 0  # that were compared

    def within(self, tolerance: "Difference") -> bool:
        """Whether no number is above that of the tolerance; NaN is."""
        return self.scores <= tolerance.scores and self.boxes <= tolerance.boxes and self.lost <= tolerance.lost


def worst(differences: list[Difference]) -> Difference:
    """The largest of every kind; the rows added up."""
    if not differences:
        return Difference()
    scores, boxes = (max(values, key=_nan_is_largest) for values in list(zip(*differences))[:2])
    return Difference(scores, boxes, sum(d.lost for d in differences), sum(d.rows for d in differences))


def by_position(boxes: Tensor, scores: Tensor, other_boxes: Tensor, other_scores: Tensor) -> Difference:
    """Of rows in the same order: boxes [..., 4] in pixels, scores of any shape.

    Raises:
        ValueError: the shapes differ.
    """
    if boxes.shape != other_boxes.shape or scores.shape != other_scores.shape:
        raise ValueError(f"boxes {list(boxes.shape)} and scores {list(scores.shape)} cannot be compared with "
                         f"{list(other_boxes.shape)} and {list(other_scores.shape)}")
    return Difference(_largest(scores - other_scores), _largest(boxes - other_boxes), 0, boxes[..., 0].numel())


def by_nearest(boxes: Tensor, scores: Tensor, other_boxes: Tensor, other_scores: Tensor, tolerance: Difference) -> Difference:
    """Of every row to the nearest of the others, whatever their order: boxes [K, B, 4] and [L, B, 4], scores [K, C] and [L, C].

    Near is measured in tolerances. A row further than PAIR of them from all others is lost, and counts in no other number.
    """
    if len(scores) == 0 or len(other_scores) == 0:
        return Difference(lost=len(scores), rows=len(scores))
    ours, theirs = (torch.cat((b.flatten(1).double() / tolerance.boxes, s.double() / tolerance.scores), dim=1)
                    for b, s in ((boxes, scores), (other_boxes, other_scores)))
    distance, partner = torch.cdist(ours, theirs, p=torch.inf).min(dim=1)
    found = distance <= PAIR
    partner = partner[found]
    return Difference(_largest(scores[found] - other_scores[partner]), _largest(boxes[found] - other_boxes[partner]),
                      int((~found).sum()), len(scores))


def network_inputs(plan: Plan, images: Sequence[Tensor]) -> list[Tensor]:
    """What the file is compared on: each image [1, 3, H, W], at several sizes where those are free, and four at once."""
    free = 2 in plan.free
    step = getattr(plan.model, "stride", 0) if free else 0
    inputs = [network_input(plan.model, image, (plan.size[0] + number * step, plan.size[1]), free)
              for number, image in enumerate(images)]
    if 0 in plan.free:
        first = inputs[0]
        inputs.append(torch.cat((first, first.flip(3), first.flip(2), first.flip((2, 3)))))
    return inputs


@torch.no_grad()
def compare(plan: Plan, run: Run, images: Tensor, tolerance: Difference) -> tuple[Difference, Difference]:
    """(the file's outputs beside those of the graph in torch, the detector's own detections beside the file's outputs).

    images: network input [N, 3, H, W]. The detector knows nothing of the graph: the second finds what is wrong with that.
    """
    given = 2 * images - 1 if plan.contract == "detectnet" else images
    our_outputs, their_outputs = plan.graph(given), run(given)
    batch = whole_batch(plan.model, images)
    detections = plan.model.postprocess(batch, plan.model.forward_heads(batch.images))
    outputs, found = [], []
    for number, detection in enumerate(detections):
        ours, theirs = _rows_of(plan, our_outputs, number), _rows_of(plan, their_outputs, number)
        if plan.contract == "nms" or plan.kind == "fasterrcnn":
            outputs += _both_ways(plan, ours, theirs, tolerance)
        else:
            outputs.append(by_position(*ours, *theirs))
        if plan.contract != "nms":  # not clipped in every graph, but in every detection
            theirs = clip(theirs[0], *images.shape[2:]), theirs[1]
        found += _detections_in(plan, detection, theirs, tolerance)
    return worst(outputs), worst(found)


def _rows_of(plan: Plan, outputs: Sequence[Tensor], number: int) -> tuple[Tensor, Tensor]:
    """Boxes [K, B, 4] in pixels and scores [K, C] of an image of the batch; behind NMS the label is the second score."""
    named = dict(zip(plan.output_names, outputs, strict=True))
    boxes, scores = named["boxes"], named["scores"]
    if plan.contract == "nms":
        return boxes[:, None], torch.stack((scores, named["labels"].to(scores)), dim=1)
    if plan.kind == "fasterrcnn":
        own = named["image_index"] == number
        return boxes[own], scores[own]
    if plan.contract == "detectnet":
        boxes, scores = boxes * plan.model.resolution, scores[:, :, 1:]
    return boxes[number][:, None], scores[number]


def _detections_in(
    plan: Plan, detection: dict[str, Tensor], rows: tuple[Tensor, Tensor], tolerance: Difference
) -> list[Difference]:
    """The detections of an image, each to be found among the file's rows; behind NMS also the other way round."""
    boxes, scores, labels = detection["boxes"][:, None], detection["scores"][:, None], detection["labels"]
    if plan.contract == "nms":
        return _both_ways(plan, (boxes, torch.cat((scores, labels[:, None].to(scores)), dim=1)), rows, tolerance)
    found = []
    for label in labels.unique().tolist():
        own, column = labels == label, label - 1
        box = column if rows[0].shape[1] > 1 else 0  # Faster R-CNN has a box per class
        found.append(by_nearest(boxes[own], scores[own], rows[0][:, box, None], rows[1][:, column, None], tolerance))
    return found


def _both_ways(
    plan: Plan, ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], tolerance: Difference
) -> list[Difference]:
    """Each row to its nearest on the other side. Behind NMS a score at the edge of what is let through decides nothing."""
    differences = []
    for (boxes, scores), others in ((ours, theirs), (theirs, ours)):
        if plan.contract == "nms":
            limits = getattr(plan.model, "roi_heads", plan.model)
            is_full = len(scores) == limits.detections_per_img
            edge = max(limits.score_thresh, float(scores[:, 0].min()) if is_full else 0.0)
            clear = scores[:, 0] > edge + tolerance.scores
            boxes, scores = boxes[clear], scores[clear]
        differences.append(by_nearest(boxes, scores, *others, tolerance))
    return differences


def _largest(differences: Tensor) -> float:
    return float(differences.abs().max()) if differences.numel() else 0.0


def _nan_is_largest(value: float) -> tuple[bool, float]:
    return value != value, value
