"""What the tests of the training scripts share: reading a run's files, and errors as a user meets them."""

import csv

import pytest
import torch

from train_utils.errors import one_sentence_errors


def equal(one, other):
    """Two state dicts are equal, bit for bit."""
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, different[:5]


def moved(before, after, part):
    """Names of the tensors of a part that differ."""
    return [name for name in before if name.startswith(part) and not torch.equal(before[name], after[name])]


def rows_without_times(folder):
    """The rows of results.csv without what differs from run to run."""
    with open(folder / "results.csv") as file:
        volatile = ("seconds", "images_per_second", "memory_mb")
        return [{k: v for k, v in row.items() if k not in volatile} for row in csv.DictReader(file)]


def expect_one_sentence(script, capsys, match, *words):
    """The command line ends with exit code 2 and a message that has `match` in it, which is returned."""
    with pytest.raises(SystemExit) as left, one_sentence_errors(*script.USER_ERRORS):
        script.main(script.parse_args([str(word) for word in words]))
    assert left.value.code == 2
    message = capsys.readouterr().err.strip()
    assert match in message and "Traceback" not in message, message
    return message
