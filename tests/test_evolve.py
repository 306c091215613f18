"""Evolution: the formula by hand, limits, the table on disk, going on after a stop."""

import json
import os

import numpy as np
import pytest

from train_utils.errors import InputError
from train_utils.evolve import (
    HYPER_PARAMETERS,
    append_trial,
    best_trial,
    check_settings,
    fitness,
    mutate,
    read_trials,
    trial_generator,
)

VALUES = {"giou": 3.54, "lr0": 0.01, "momentum": 0.937, "iou_t": 0.2, "fl_gamma": 0.0, "lrf": -4.0, "degrees": 0.0}


class Scripted:
    """A generator that gives what it is told."""

    def __init__(self, uniform, normal, shared):
        self.uniform, self.normal, self.shared = uniform, normal, shared

    def choice(self, count, p):
        self.weights = p
        return 1

    def random(self, size=None):
        return self.shared.pop(0) if size is None else np.array(self.uniform.pop(0))

    def standard_normal(self, size):
        return np.array(self.normal.pop(0))


def test_fitness():
    assert fitness({"AP": 0.5, "AP50": 0.8}) == pytest.approx(0.53)
    assert fitness({"AP": 0.0, "AP50": 0.02}) == pytest.approx(0.002)
    assert fitness({"AP": -1.0, "AP50": float("nan"), "precision": 1.0}) == 0


def test_one_mutation_by_hand():
    values = {"giou": 3.0, "momentum": 0.9, "cls": 20.0, "lr0": 0.009, "lrf": 0.1, "mine": 7.0}
    rows = [{"fitness": f, **values, "giou": g} for f, g in ((0.1, 1.0), (0.4, 2.0), (0.2, 5.0))]
    # the second of the best is row 2 (giou 5). Draw 1 changes nothing (all U >= .9), draw 2 does; u = .5
    generator = Scripted(uniform=[[0.9, 0.95, 1.0, 0.99], [0.1, 0.2, 0.95, 0.3]],
                         normal=[[1, 1, 1, 1], [1.0, -2.0, 3.0, 40.0]], shared=[1.0, 0.5])
    new = mutate(rows, values, generator)
    assert generator.weights == pytest.approx(np.array([0.75, 0.25, 0]), abs=1e-5)
    assert new["giou"] == pytest.approx(5 * 1.1)  # 1 + 1 * .5 * .2
    assert new["momentum"] == pytest.approx(0.9 * 0.98)  # gain .1: 1 - .1 * 2 * .5 * .2
    assert new["cls"] == 20.0  # not chosen
    assert new["lr0"] == 0.01  # factor 1 + 40 * .1 = 5, clipped to 3, and the value to its limit
    assert new["lrf"] == 0.1 and new["mine"] == 7.0 and list(new) == list(values)
    assert all(row["giou"] in (1.0, 2.0, 5.0) for row in rows)  # the rows are not changed


def test_factors_are_bounded_and_digits_few():
    rows = [{"fitness": 0.5, "giou": 3.0, "cls": 20.123456789}]
    generator = Scripted(uniform=[[0, 0]], normal=[[-1000, 0.5]], shared=[1.0])
    generator.choice = lambda count, p: 0
    new = mutate(rows, {"giou": 3.0, "cls": 1.0}, generator)
    assert new == {"giou": 0.9, "cls": 22.136}  # .3 * 3; 20.123 * 1.1


def test_the_first_trial_takes_the_values_as_given():
    assert mutate([], VALUES, trial_generator(0, 0)) == VALUES


def test_limits_hold_and_something_changes():
    rows = [{"fitness": 0.5, **VALUES}]
    for generation in range(300):
        new = mutate(rows, VALUES, trial_generator(1, generation))
        assert list(new) == list(VALUES) and new != VALUES
        for name, value in new.items():
            assert HYPER_PARAMETERS[name][1] <= value <= HYPER_PARAMETERS[name][2], name
        assert (new["fl_gamma"], new["lrf"], new["degrees"]) == (0, -4, 0)
        rows.append({"fitness": 0.5, **new})
    with pytest.raises(InputError, match="every value is 0 or fixed"):
        mutate([{"fitness": 0.5, "lrf": 1.0, "degrees": 0.0}], {"lrf": 1.0, "degrees": 0.0}, trial_generator(0, 1))


def test_parents_are_the_five_best_by_their_lead():
    rows = [{"fitness": 0.1 * k, "giou": float(k), "cls": 1.0} for k in range(1, 8)]  # 7 is the best, 3 the fifth
    parents = np.zeros(8)
    for generation in range(2000):
        new = mutate(rows, {"giou": 1.0, "cls": 1.0}, trial_generator(0, generation), {"cls": (1, 0, 9)})
        parents[int(new["giou"])] += 1
    assert parents[:4].sum() <= 2  # the fifth has a weight of 1e-6 only
    assert parents[4:] / 2000 == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.04)
    equal = [{"fitness": 0.0, "giou": float(k), "cls": 1.0} for k in range(1, 4)]
    drawn = {mutate(equal, {"giou": 1.0, "cls": 1.0}, trial_generator(0, k), {"cls": (1, 0, 9)})["giou"] for k in range(30)}
    assert drawn == {1.0, 2.0, 3.0}


def trials(path, count):
    """Run trials up to `count`: the results are a made-up function of the values."""
    while len(rows := read_trials(path)) < count:
        new = mutate(rows, VALUES, trial_generator(3, len(rows)))
        ap = float(np.exp(-abs(new["giou"] - 2)))
        append_trial(path, {"AP": ap, "AP50": min(1.0, 2 * ap), "f1": 0.5}, new)


def test_a_stop_changes_nothing(tmp_path):
    trials(tmp_path / "whole.csv", 8)
    trials(tmp_path / "halves.csv", 3)
    with open(tmp_path / "halves.csv", "a") as file:
        file.write("0.4,0.3,0.5,0.5,3.1")
    with pytest.warns(UserWarning, match="halves.csv:5: the last line is cut off"):
        trials(tmp_path / "halves.csv", 8)
    assert (tmp_path / "halves.csv").read_text() == (tmp_path / "whole.csv").read_text()
    assert sorted(os.listdir(tmp_path)) == ["halves.csv", "whole.csv"]
    rows = read_trials(tmp_path / "whole.csv")
    assert {name: rows[0][name] for name in VALUES} == VALUES
    assert list(rows[0]) == ["fitness", "AP", "AP50", "f1", *VALUES]
    assert len({row["giou"] for row in rows}) > 4 and best_trial(rows)["fitness"] == max(row["fitness"] for row in rows)


def test_the_table_on_disk(tmp_path):
    path = tmp_path / "evolve.csv"
    assert read_trials(path) == [] and best_trial([]) is None
    row = append_trial(path, {"AP": np.float32(0.5), "AP50": 0.75}, {"giou": 1 / 3})
    assert row == {"fitness": pytest.approx(0.525), "AP": 0.5, "AP50": 0.75, "giou": 1 / 3}
    assert read_trials(path) == [row] and path.read_text().splitlines()[0] == "fitness,AP,AP50,giou"
    before = path.read_text()
    with pytest.raises(InputError, match=r"columns are not those of this evolution \(cls, giou\)"):
        append_trial(path, {"AP": 0.5, "AP50": 0.75}, {"cls": 1.0})
    assert path.read_text() == before
    with path.open("a") as file:
        file.write("0.1,0.1,0.1,0.2")  # whole, but a digit may be missing: no line break
    with pytest.warns(UserWarning, match="cut off"):
        assert read_trials(path) == [row]
    path.write_text(before + "1,2,much,4\n" + "0.1,0.1,0.1,0.2\n")
    with pytest.raises(InputError, match="evolve.csv:3: not 4 numbers"):
        read_trials(path)
    for wrong in ("", "a,b\n1,2\n"):
        path.write_text(wrong)
        with pytest.raises(InputError, match="no column `fitness`"):
            read_trials(path)


def test_a_failed_trial_counts_as_0(tmp_path):
    path = tmp_path / "evolve.csv"
    rows = [append_trial(path, {"AP": ap, "AP50": ap}, {"giou": giou}) for ap, giou in ((0.0, 3.0), (0.0, 4.0), (0.5, 5.0))]
    assert read_trials(path) == rows and [row["fitness"] for row in rows] == [0, 0, 0.5] and best_trial(rows)["giou"] == 5
    assert mutate(rows[:2], {"giou": 3.0}, trial_generator(0, 2))["giou"] > 0  # nothing but failures


def test_settings_are_those_of_the_first_time(tmp_path):
    path = tmp_path / "settings.json"
    settings = {"epochs": 3, "img_size": (320, 640), "multi_scale": False, "names": None, "data_path": "möwe"}
    check_settings(path, settings)
    written = path.read_bytes()
    assert json.loads(written) == {**settings, "img_size": [320, 640]} and "möwe" in written.decode()
    check_settings(path, settings)
    check_settings(path, {**settings, "new_flag": None})  # not given is as if there were none
    changed = {"multi_scale": True, "img_size": [320], "names": "a", "data_path": "möwe", "seed": 1}
    with pytest.raises(InputError) as caught:
        check_settings(path, changed)
    assert str(caught.value) == (
        f"{path}: this evolution was begun with other flags (--epochs 3, now null; --img-size [320, 640], now [320]; "
        '--multi-scale false, now true; --names null, now "a"; --seed null, now 1), and its trials would not compare; '
        "give the same flags, or another --output-dir")
    assert path.read_bytes() == written and os.listdir(tmp_path) == ["settings.json"]


@pytest.mark.parametrize("content", ["", "{", "3", "[1]", "null", '["epochs"]'])
def test_damaged_settings(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"settings\.json does not hold the flags .* another --output-dir"):
        check_settings(path, {"epochs": 3})
    assert path.read_text() == content


def test_no_settings(tmp_path):
    check_settings(tmp_path / "settings.json", {})
    check_settings(tmp_path / "settings.json", {})


def test_equal_fitness_keeps_the_first():
    assert best_trial([{"fitness": 0.5, "k": 1}, {"fitness": 0.5, "k": 2}, {"fitness": 0.1, "k": 3}])["k"] == 1
