"""Every figure of a set of detections against a ground truth: computed, as lines to print, as files."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from train_utils.coco_eval import STAT_NAMES, CocoResult, CocoScorer, explain_zero, to_coco_json
from train_utils.confusion_matrix import confusion_matrix
from train_utils.draw import draw_worst
from train_utils.error_analysis import ErrorReport, classify_errors
from train_utils.evaluation_plots import plot_confusion, plot_errors, plot_pr, plot_scores
from train_utils.precision_recall import format_line
from train_utils.record_map import class_table, record_map_text
from train_utils.score_curves import ScoreCurves, score_curves
from train_utils.voc_eval import score_voc_both


@dataclass
class Figures:
    """What `score_everything` finds.

    Attributes:
        truth, detections: what was compared, see `CocoScorer`.
        confidence, iou: score and IoU from which a detection counts as one and is right, in all but COCO's and VOC's AP.
        curves, errors: over all scores, and at the confidence.
        metrics: all numbers in plain terms, for metrics.json.
    """

    truth: dict
    detections: dict
    confidence: float
    iou: float
    coco: CocoResult
    curves: ScoreCurves
    errors: ErrorReport
    metrics: dict

    @property
    def lines(self) -> list[str]:
        """All of it, in the order in which one reads it."""
        voc = (f"mAP {self.metrics[name]['mAP']:.4f}: {self.metrics[name]['protocol']}" for name in ("voc07", "voc12"))
        at = (format_line(self.metrics["best_confidence"], self.iou),
              format_line(self.metrics["chosen_confidence"], self.iou, chosen=True))
        return [*self.coco.lines, "", *class_table(self.coco, self.curves), "", *voc, "", *at, "", *self.errors.lines]

    def explain_zero(self, score_threshold: float | None = None) -> str | None:
        """Why COCO's AP is 0 or -1, in one sentence; None where it is not."""
        ap = self.coco.stats[0]
        why = explain_zero(self.truth, self.detections, score_threshold) if ap <= 0 else None
        return f"AP is {ap:.3f}: {why}" if why else None


def score_everything(
    truth: dict, detections: dict, *, confidence: float = 0.25, iou: float = 0.5, plus_one: bool = True,
    max_detections: int = 100,
) -> Figures:
    """All figures of detections.

    Args:
        truth: arrays of `dataset.ground_truth()`.
        detections: "image_index", "labels" (1..C), "scores" [K] and "boxes" [K, 4] xyxy pixels.
        confidence, iou: see `Figures`; the IoU holds for VOC's AP, too.
        plus_one: measure VOC's boxes in whole pixels.
        max_detections: of an image and class that COCO's numbers count.

    Raises:
        InputError: see `CocoScorer`.
    """
    coco = CocoScorer(truth, max_detections=max_detections).score(detections)
    curves = score_curves(truth, detections, iou)
    errors = classify_errors(truth, detections, confidence, iou)
    metrics = {
        "coco": dict(zip(STAT_NAMES, coco.stats)),
        **score_voc_both(truth, detections, iou, plus_one),
        "per_class": coco.per_class,
        "best_confidence": curves.best,
        "chosen_confidence": {"confidence": confidence, **curves.at(confidence)},
        "errors": errors.counts,
    }
    return Figures(truth, detections, confidence, iou, coco, curves, errors, metrics)


def write_figures(folder: Path, figures: Figures, facts: dict, dataset, worst: int) -> None:
    """Every file of an evaluation; the numbers first.

    Args:
        facts: more entries of metrics.json.
        dataset: gives the images of the page of the worst.
        worst: number of images on it; 0: no page.
    """
    truth, detections = figures.truth, figures.detections
    metrics = json.dumps(figures.metrics | facts, indent=2, ensure_ascii=False)
    (folder / "metrics.json").write_text(metrics + "\n", encoding="utf-8")
    (folder / "record_mAP.txt").write_text(record_map_text(figures.coco), encoding="utf-8")
    (folder / "detections.json").write_text(json.dumps(to_coco_json(truth, detections)))
    with open(folder / "per_class.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(figures.coco.per_class[0]))
        writer.writeheader()
        writer.writerows(figures.coco.per_class)
    plot_pr(figures.curves, folder / "pr_curve.png")
    plot_scores(figures.curves, folder / "scores.png")
    matrix = confusion_matrix(truth, detections, figures.confidence, figures.iou)
    plot_confusion(matrix, truth["class_names"], folder / "confusion_matrix.png")
    plot_errors(figures.errors, folder / "errors.png")
    if worst:
        draw_worst(dataset, truth, detections, figures.errors, folder / "worst.png", worst)
