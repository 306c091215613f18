"""Which epoch was the best, read from the result rows alone, so that a resumed run agrees with an uninterrupted one."""

from collections.abc import Sequence

METRICS = {"AP": 0, "AP50": 1, "AP75": 2}  # name -> place among the 12 COCO numbers


def scores(rows: Sequence[dict], metric: str) -> list[tuple[int, float]]:
    """(epoch, value) of every row that was evaluated."""
    return [(row["epoch"], row["stats"][METRICS[metric]]) for row in rows if row.get("stats")]


def best_epoch(rows: Sequence[dict], metric: str) -> int | None:
    """Epoch of the highest value, the first of equals; None before any evaluation."""
    evaluated = scores(rows, metric)
    return max(evaluated, key=lambda pair: pair[1])[0] if evaluated else None


def evaluations_since_best(rows: Sequence[dict], metric: str, first_epoch: int = 0) -> int:
    """Number of evaluations after the best one, looking at epochs from `first_epoch` on (where a second stage begins)."""
    rows = [row for row in rows if row["epoch"] >= first_epoch]
    epochs = [epoch for epoch, _ in scores(rows, metric)]
    return len(epochs) - 1 - epochs.index(best_epoch(rows, metric)) if epochs else 0


def out_of_patience(rows: Sequence[dict], metric: str, patience: int, first_epoch: int = 0) -> bool:
    """Whether `patience` evaluations in a row brought nothing better; never with a patience of 0."""
    return 0 < patience <= evaluations_since_best(rows, metric, first_epoch)
