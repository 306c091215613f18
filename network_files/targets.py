"""The check of ground truth before it reaches a loss: a wrong label or box would show later, as a crash or a NaN.

Shapes: M ground-truth boxes of one image; all images are checked together
"""

import torch
from torch import Tensor

from network_files.errors import InputError

# A box narrower than this part of its coordinates could lose its width when float32 scales it.
MIN_RELATIVE_SIDE = 2.0**-20


def check_targets(targets: list[dict], image_sizes: list[tuple[int, int]], num_classes: int | None = None) -> None:
    """Raises InputError, with image id, box number and box, for the first target that no detector can be trained on.

    targets: per image "boxes" floating [M, 4] xyxy pixels and "labels" integer [M]; image_sizes: (height, width) of
    the images as given; num_classes: with background, so that labels lie in 1..num_classes - 1 (None: no upper
    bound). M may be 0.
    """
    if len(targets) != len(image_sizes):
        raise InputError(f"{len(image_sizes)} images but {len(targets)} targets: give one target per image")
    for number, target in enumerate(targets):
        _check_form(target, _name(target, number))
    if not targets:
        return
    rows = _to_host(targets)  # [sum of M, 5]
    counts = [len(target["boxes"]) for target in targets]
    owner = torch.arange(len(targets)).repeat_interleave(torch.tensor(counts))
    sizes = torch.tensor(image_sizes, dtype=torch.float64)[owner]
    for message, is_bad in _faults(rows, sizes, num_classes):
        if is_bad.any():
            row = int(is_bad.nonzero()[0])
            image = int(owner[row])
            box = [round(value, 3) for value in rows[row, :4].tolist()]
            raise InputError(
                f"{_name(targets[image], image)}, box {row - sum(counts[:image])} {box}: "
                + message.format(label=int(rows[row, 4]), height=image_sizes[image][0], width=image_sizes[image][1])
            )


def _name(target: dict, number: int) -> str:
    return f"image_id {int(target['image_id'])}" if "image_id" in target else f"image {number} of the batch"


def _check_form(target: dict, name: str) -> None:
    boxes, labels = target.get("boxes"), target.get("labels")
    if not isinstance(boxes, Tensor) or not isinstance(labels, Tensor):
        raise InputError(f"{name}: the target needs the tensors 'boxes' and 'labels'")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise InputError(f"{name}: boxes must be floating [M, 4], not {boxes.dtype} {list(boxes.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != boxes.shape[:1]:
        raise InputError(
            f"{name}: labels must be integers [{len(boxes)}] as there are {len(boxes)} boxes, "
            f"not {labels.dtype} {list(labels.shape)}"
        )


def _to_host(targets: list[dict]) -> Tensor:
    """All boxes and labels as float64 [sum of M, 5] on the CPU: one copy from the device, not one per question."""
    rows = [torch.cat((t["boxes"].float(), t["labels"].float()[:, None]), dim=1) for t in targets]  # MPS has no double
    return torch.cat(rows).cpu().double()


def _faults(rows: Tensor, sizes: Tensor, num_classes: int | None) -> list[tuple[str, Tensor]]:
    """(message, mask over the rows) for each kind of fault; a mask may presume that the faults before it are absent."""
    x1, y1, x2, y2, labels = rows.unbind(1)
    height, width = sizes.unbind(1)
    smallest_side = rows[:, :4].abs().amax(dim=1) * MIN_RELATIVE_SIDE
    bad_label = labels < 1
    last = "..."
    if num_classes is not None:
        bad_label, last = bad_label | (labels >= num_classes), str(num_classes - 1)
    return [
        ("coordinates must be finite numbers", ~rows[:, :4].isfinite().all(dim=1)),
        ("x2 must be greater than x1 and y2 greater than y1", ~(torch.minimum(x2 - x1, y2 - y1) > smallest_side)),
        (
            "lies wholly outside the image of width {width} and height {height}",
            (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0),
        ),
        (f"label {{label}} must be in 1..{last} (0 is background)", bad_label),
    ]
