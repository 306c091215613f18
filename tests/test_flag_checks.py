"""Ranges and pairs of flags, by the message."""

import pytest

from train_utils.errors import InputError
from train_utils.flag_checks import check_num_classes, check_pairs, check_ranges


def test_numbers_in_range_and_none_pass():
    check_ranges({"a": 1, "b": 0, "c": 0.1, "d": 1.0, "e": None}, ["a", "e"], ["b", "e"], ["c", "e"], ["d", "b", "e"])


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("at_least_one", 0, "--batch-size must be at least 1, not 0"),
        ("not_negative", -1, "--batch-size must not be negative, but is -1"),
        ("above_zero", 0.0, "--batch-size must be above 0, not 0.0"),
        ("in_0_1", 1.5, "--batch-size must be in 0..1, not 1.5"),
        ("above_zero", float("nan"), "--batch-size must be above 0, not nan"),
    ],
)
def test_numbers_out_of_range(kind, value, message):
    with pytest.raises(InputError) as raised:
        check_ranges({"batch_size": value}, **{kind: ["batch_size"]})
    assert str(raised.value) == message


def test_pairs():
    check_pairs({"a": "x", "b": "y", "c": None, "d": None}, [("a", "b"), ("c", "d")])
    with pytest.raises(InputError, match="--train-json and --train-images belong together: give both"):
        check_pairs({"train_json": "x", "train_images": None}, [("train_json", "train_images")])


def test_the_number_of_classes_is_checked_against_the_data(capsys):
    check_num_classes(None, ["a", "b"], "voc")
    check_num_classes(2, ["a", "b"], "voc")
    with pytest.raises(InputError, match="--num-classes 3, but the data has 2: a, b; leave the flag out"):
        check_num_classes(3, ["a", "b"], "voc")
    check_num_classes(90, ["a"] * 80, "coco")
    assert "mapped to 1..80" in capsys.readouterr().out
    with pytest.raises(InputError):
        check_num_classes(90, ["a"] * 80, "voc")
