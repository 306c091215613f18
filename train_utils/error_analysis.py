"""What is wrong with the detections of a user who keeps those above one score, by kind.

    report = classify_errors(ground_truth, detections)
    print("\\n".join(report.lines))
"""

from dataclasses import dataclass

import numpy as np

from train_utils.greedy_matching import match_by_score
from train_utils.voc_eval import best_matches, check_detections, ignored_objects

# Shapes: K detections of all images, L of them that count, M ground-truth boxes of all images, N images, C classes

KINDS = ("correct", "duplicate", "wrong class", "badly placed", "background", "missed")  # the last one is of objects
CORRECT, DUPLICATE, WRONG_CLASS, BADLY_PLACED, BACKGROUND, MISSED = range(len(KINDS))


@dataclass
class ErrorReport:
    """What `classify_errors` gives.

    Attributes:
        class_names: [C], without background.
        score_threshold, iou_threshold: what the detections were judged by.
        rows: int64 [L] the detections that count: at least that score, and not in a crowd or difficult object.
        kinds: int8 [L] index in `KINDS` of each.
        objects: int64 [L] row of the object that the kind speaks of, -1 for background.
        missed: int64 [...] rows of the objects that no detection has.
        by_class: int64 [C, 6] number of each of `KINDS`; a detection counts for its own class, a missed object for its.
        by_image: int64 [N, 6] the same per image.
    """

    class_names: list[str]
    score_threshold: float
    iou_threshold: float
    rows: np.ndarray
    kinds: np.ndarray
    objects: np.ndarray
    missed: np.ndarray
    by_class: np.ndarray
    by_image: np.ndarray

    @property
    def counts(self) -> dict[str, int]:
        """Number of each kind."""
        return dict(zip(KINDS, self.by_class.sum(axis=0).tolist()))

    @property
    def per_class(self) -> dict[str, dict[str, int]]:
        """Number of each kind by name of the class."""
        return {name: dict(zip(KINDS, row)) for name, row in zip(self.class_names, self.by_class.tolist())}

    def worst_images(self, count: int) -> list[int]:
        """At most `count` images, those with most errors first, none without; of equals the first in the data set."""
        errors = self.by_image[:, CORRECT + 1 :].sum(axis=1)
        return [int(image) for image in np.argsort(-errors, kind="stable")[:count] if errors[image]]

    @property
    def lines(self) -> list[str]:
        """A table of the classes that have an object or a detection, and their sum."""
        objects = self.by_class[:, CORRECT] + self.by_class[:, MISSED]
        columns = ["objects", "correct", "missed", *KINDS[DUPLICATE:MISSED]]
        table = np.column_stack([objects, self.by_class[:, [CORRECT, MISSED]], self.by_class[:, DUPLICATE:MISSED]])
        rows = [(" ".join(name.split()), row) for name, row in zip(self.class_names, table.tolist()) if any(row)]
        rows.append(("all", table.sum(axis=0).tolist()))
        width = max(len(name) for name, _ in [*rows, ("class", [])])
        widths = [max(len(column), len(str(total))) for column, total in zip(columns, rows[-1][1])]
        return [
            f"errors of the detections of score {self.score_threshold:g} or more (IoU {self.iou_threshold:g})",
            "  ".join([f"{'class':<{width}}", *(f"{column:>{w}}" for column, w in zip(columns, widths))]),
            *("  ".join([f"{name:<{width}}", *(f"{number:>{w}}" for number, w in zip(row, widths))]) for name, row in rows),
        ]


def classify_errors(
    ground_truth: dict,
    detections: dict,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.5,
    background_iou: float = 0.1,
) -> ErrorReport:
    """The kind of every detection of at least `score_threshold`, and the objects missed.

    In descending order of score each detection takes the free object of its class of highest IoU in its image. The first of
    these that fits is its kind:

        correct        IoU >= `iou_threshold` with that object
        (left out)     in a crowd or difficult object of its class, which is neither to be found nor a mistake when found
        duplicate      IoU >= `iou_threshold` with an object of its class, but a better detection has it
        wrong class    IoU >= `iou_threshold` with an object of another class, found by others or not
        badly placed   IoU >= `background_iou` with an object of its class
        background     everything else, also IoU below `iou_threshold` with objects of other classes only

    An object is missed if no correct detection has it. So correct and missed add up to the objects to be found, and one bad box
    often counts twice: as badly placed and as a missed object.

    Args:
        ground_truth: arrays of `dataset.ground_truth()`.
        detections: "image_index", "labels" (1..C), "scores" [K] and "boxes" [K, 4] xyxy pixels.

    Raises:
        InputError: see `voc_eval.check_detections`.
    """
    check_detections(ground_truth, detections)
    rows = np.flatnonzero(np.asarray(detections["scores"]) >= float(score_threshold))
    kept = {name: np.asarray(detections[name])[rows] for name in ("image_index", "labels", "scores", "boxes")}
    taken, neither = match_by_score(ground_truth, kept, iou_threshold)
    own_iou, own_object = best_matches(ground_truth, kept, same_class=True)
    any_iou, any_object = best_matches(ground_truth, kept, same_class=False)
    cases = [  # the first that holds counts
        (taken >= 0, CORRECT, taken),
        (own_iou >= iou_threshold, DUPLICATE, own_object),
        (any_iou >= iou_threshold, WRONG_CLASS, any_object),
        (own_iou >= background_iou, BADLY_PLACED, own_object),
    ]
    conditions, kinds, objects = zip(*cases)
    kinds = np.select(conditions, kinds, BACKGROUND).astype(np.int8)
    objects = np.select(conditions, objects, -1)
    missed = ~ignored_objects(ground_truth)
    missed[taken[taken >= 0]] = False
    missed = np.flatnonzero(missed)
    num_classes, gt_labels = len(ground_truth["class_names"]), np.asarray(ground_truth["labels"], np.int64)
    classes = np.append(kept["labels"][~neither].astype(np.int64), gt_labels[missed]) - 1
    images = np.append(kept["image_index"][~neither], np.asarray(ground_truth["image_index"])[missed])
    what = np.append(kinds[~neither], np.full(len(missed), MISSED))
    return ErrorReport(
        list(ground_truth["class_names"]), score_threshold, iou_threshold, rows[~neither], kinds[~neither], objects[~neither],
        missed, _count(classes, what, num_classes), _count(images, what, ground_truth["num_images"]))


def _count(groups: np.ndarray, kinds: np.ndarray, num_groups: int) -> np.ndarray:
    """int64 [num_groups, 6]: how often each kind occurs in each group."""
    cells = groups.astype(np.int64) * len(KINDS) + kinds
    return np.bincount(cells, minlength=num_groups * len(KINDS)).reshape(num_groups, len(KINDS))
