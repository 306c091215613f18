"""Anchors for a data set: k-means over the sizes of its boxes, then random mutation.

Shapes: K boxes, A anchors
Words:  sizes = (width, height) in pixels of the network's input; wh-IoU = IoU of two boxes laid on one centre
"""

import numpy as np
from numpy.typing import ArrayLike

from datasets.errors import InputError

THRESHOLD = 0.2  # wh-IoU above which an anchor fits a box
MIN_SIDE = 2.0  # pixels: smaller boxes are noise, smaller anchors useless
MAX_BOXES = 20_000  # more are sampled: the clusters of a sample this large are those of all
MAX_ROUNDS = 100  # of k-means; it settles long before
MUTATED_SHARE, MUTATION_STEP = 0.9, 0.1


def kmeans_anchors(boxes_wh: ArrayLike, count: int, *, seed: int = 0, restarts: int = 30, mutations: int = 1000,
                   threshold: float = THRESHOLD) -> np.ndarray:
    """`count` anchors [A, 2] (width, height) for boxes of sizes boxes_wh [K, 2], smallest area first.

    k-means runs `restarts` times on the sizes divided by their deviations; of its best result `mutations` random
    variations are tried, each kept if the fitness rises: the mean over the boxes of the best wh-IoU, counted 0 where it
    is not above `threshold`. Of more than 20,000 boxes a random 20,000 are used. With fewer different sizes than
    anchors, the missing anchors are these sizes halved, doubled, quartered and so on. Equal seeds give equal anchors.

    Raises:
        InputError: no boxes, or sizes that are not positive and finite, or a count below 1.
    """
    sizes = np.asarray(boxes_wh, dtype=np.float64).reshape(-1, 2)
    if count < 1:
        raise InputError(f"{count} anchors are asked for; at least 1 is needed")
    if len(sizes) == 0:
        raise InputError(f"anchors need boxes, and the data set has none of {MIN_SIDE:g} pixels or more at the training "
                         "size; check the annotations, or train with the anchors of the cfg")
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise InputError("anchors need boxes of positive, finite width and height; clean the annotations first")
    random = np.random.default_rng(seed)
    if len(sizes) > MAX_BOXES:
        sizes = sizes[random.choice(len(sizes), MAX_BOXES, replace=False)]
    distinct = np.unique(sizes, axis=0)
    anchors = _kmeans(sizes, distinct, count, restarts, random) if len(distinct) > count else _fill_up(distinct, count)
    anchors = _mutate(sizes, anchors, mutations, threshold, random)
    return anchors[np.argsort(anchors.prod(axis=1), kind="stable")]


def anchor_recall(boxes_wh: ArrayLike, anchors: ArrayLike, threshold: float = THRESHOLD) -> tuple[float, float]:
    """(best possible recall, mean best wh-IoU) of boxes [K, 2] with anchors [A, 2]; (0, 0) without boxes.

    The recall is the share of boxes that some anchor meets with a wh-IoU above `threshold`.
    """
    best = best_wh_iou(boxes_wh, anchors)
    return (float((best > threshold).mean()), float(best.mean())) if len(best) else (0.0, 0.0)


def best_wh_iou(boxes_wh: ArrayLike, anchors: ArrayLike) -> np.ndarray:
    """The largest wh-IoU [K], 0..1, of each box [K, 2] with any of the anchors [A, 2]."""
    widths, heights = np.asarray(boxes_wh, dtype=np.float64).reshape(-1, 2).T.copy()
    areas, best = widths * heights, np.zeros(len(widths))
    for width, height in np.asarray(anchors, dtype=np.float64).reshape(-1, 2):  # rows of [K] stay in the cache
        shared = np.minimum(widths, width) * np.minimum(heights, height)
        np.maximum(best, shared / (areas + width * height - shared), out=best)
    return best


def box_sizes(ground_truth: dict, img_size: int | tuple[int, int], resize: str = "letterbox") -> np.ndarray:
    """Sizes [K, 2] (width, height) that the boxes of a data set have in the network's input.

    Boxes with a side below 2 pixels there, and crowd regions, are left out. For training at several sizes, join the
    results for each.

    Args:
        ground_truth: as of `DetectionDataset.ground_truth`.
        img_size: side of the network's input in pixels, or its (height, width).
        resize: of an image w x h for the input W x H: "letterbox" (by min(W / w, H / h)) or "stretch" (by W / w and H / h).
    """
    if resize not in ("letterbox", "stretch"):
        raise InputError(f"resize is {resize!r}; give letterbox or stretch")
    is_object = ~np.asarray(ground_truth["iscrowd"], dtype=bool)
    boxes, image_index = ground_truth["boxes"][is_object].reshape(-1, 4), ground_truth["image_index"][is_object]
    image_wh = np.stack([ground_truth["widths"], ground_truth["heights"]], axis=1)[image_index].astype(np.float64)
    scales = np.broadcast_to(img_size, 2)[::-1] / image_wh
    if resize == "letterbox":
        scales = scales.min(axis=1, keepdims=True)
    sizes = (boxes[:, 2:] - boxes[:, :2]) * scales
    return sizes[(sizes >= MIN_SIDE).all(axis=1)]


def _kmeans(sizes: np.ndarray, distinct: np.ndarray, count: int, restarts: int, random: np.random.Generator) -> np.ndarray:
    """The centres [A, 2] of the best of several runs; distinct [., 2], more than count: sizes to start from."""
    deviation = sizes.std(axis=0)
    deviation[deviation == 0] = 1
    points = sizes / deviation
    runs = [_one_kmeans(points, distinct[random.choice(len(distinct), count, replace=False)] / deviation)
            for _ in range(max(1, restarts))]
    return min(runs, key=lambda run: run[1])[0] * deviation


def _one_kmeans(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, float]:
    """Lloyd's algorithm from the given centres [A, 2]: (centres, mean squared distance of the points to theirs)."""
    squares, distortion = (points**2).sum(axis=1).mean(), np.inf
    for _ in range(MAX_ROUNDS):
        # Without the points' own squares, which are the same for all centres: [K, A].
        distances = (centres**2).sum(axis=1) - 2 * points @ centres.T
        nearest = distances.argmin(axis=1)
        last, distortion = distortion, squares + distances[np.arange(len(points)), nearest].mean()
        if last - distortion <= 1e-5 * distortion:
            break
        members = np.bincount(nearest, minlength=len(centres))
        sums = np.stack([np.bincount(nearest, weights=column, minlength=len(centres)) for column in points.T], axis=1)
        centres = np.where(members[:, None] > 0, sums / np.maximum(members, 1)[:, None], centres)  # empty: stays
    return centres, float(distortion)


def _fill_up(distinct: np.ndarray, count: int) -> np.ndarray:
    """All distinct sizes [., 2], count or fewer, then these halved, doubled, quartered, ... until there are `count`."""
    scales = [1.0]
    while len(scales) * len(distinct) < count:
        power = len(scales) // 2 + 1
        scales += [0.5**power, 2.0**power]
    return np.maximum(np.concatenate([distinct * scale for scale in scales])[:count], MIN_SIDE)


def _mutate(sizes: np.ndarray, anchors: np.ndarray, mutations: int, threshold: float,
            random: np.random.Generator) -> np.ndarray:
    """Anchors after trying random factors, each set kept if it is fitter."""
    fitness = _fitness(sizes, anchors, threshold)
    for _ in range(mutations):
        chosen = random.random(anchors.shape) < MUTATED_SHARE
        # One strength for all: small and large steps are both tried.
        step = chosen * random.random() * random.standard_normal(anchors.shape) * MUTATION_STEP
        mutated = np.maximum(anchors * np.clip(1 + step, 0.3, 3.0), MIN_SIDE)
        new_fitness = _fitness(sizes, mutated, threshold)
        if new_fitness > fitness:
            anchors, fitness = mutated, new_fitness
    return anchors


def _fitness(sizes: np.ndarray, anchors: np.ndarray, threshold: float) -> float:
    best = best_wh_iou(sizes, anchors)
    return float((best * (best > threshold)).mean())
