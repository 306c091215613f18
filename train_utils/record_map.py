"""The numbers of an evaluation as text: the course repository's record_mAP.txt, and a table of the classes."""

from train_utils.coco_eval import CocoResult
from train_utils.score_curves import ScoreCurves


def record_map_text(result: CocoResult) -> str:
    """Contents of record_mAP.txt: the twelve lines, then the unrounded AP50 of every class; -1 without ground truth."""
    classes = [f" {entry['name']:15}: {entry['AP50'] if entry['AP50'] >= 0 else -1}" for entry in result.per_class]
    return "\n".join(["COCO results:", *result.lines, "", "mAP(IoU=0.5) for each category:", *classes])


def class_table(result: CocoResult, curves: ScoreCurves) -> list[str]:
    """A line per class, and one above: category id, name, objects to be found, AP, AP50, AR, where its F1 is highest.

    Args:
        result, curves: of the same detections and ground truth.
    """
    names = [" ".join(entry["name"].split()) for entry in result.per_class]
    name_width = max([len("class"), *map(len, names)])
    id_width = max([len("id"), *(len(str(entry["category_id"])) for entry in result.per_class)])
    lines = [f"{'id':>{id_width}}  {'class':<{name_width}}  objects     AP   AP50     AR  best F1 at confidence"]
    for k, (entry, name) in enumerate(zip(result.per_class, names)):
        start = f"{entry['category_id']:>{id_width}}  {name:<{name_width}}  {entry['num_gt']:>7}"
        if not entry["num_gt"]:
            lines.append(f"{start}  no ground truth")
            continue
        values = "  ".join(f"{entry[key]:.3f}" if entry[key] >= 0 else "  n/a" for key in ("AP", "AP50", "AR100"))
        best = "n/a" if not curves.best_f1[k] else f"{curves.best_f1[k]:.3f} at {curves.best_confidences[k]:.3f}"
        lines.append(f"{start}  {values}    {best}")
    return lines
