"""The best epoch and the patience counter come from the rows alone."""

from train_utils.best_epoch import best_epoch, evaluations_since_best


def row(epoch, ap, ap50):
    return {"epoch": epoch, "stats": [ap, ap50, 0.0] + [0.0] * 9}


ROWS = [row(0, 0.1, 0.5), {"epoch": 1, "stats": None}, row(2, 0.3, 0.4), row(3, 0.3, 0.6), row(4, 0.2, 0.6)]


def test_best_is_the_first_of_equals():
    assert best_epoch(ROWS, "AP") == 2
    assert best_epoch(ROWS, "AP50") == 3


def test_evaluations_since_best_skip_epochs_without_evaluation():
    assert evaluations_since_best(ROWS, "AP") == 2
    assert evaluations_since_best(ROWS[:3], "AP50") == 1
    assert evaluations_since_best(ROWS[:1], "AP") == 0
    assert evaluations_since_best(ROWS, "AP", first_epoch=3) == 1  # the first stage does not count


def test_before_any_evaluation():
    assert best_epoch([], "AP") is None and evaluations_since_best([], "AP") == 0
    assert best_epoch([{"epoch": 0}], "AP") is None
