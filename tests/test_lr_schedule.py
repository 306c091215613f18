"""Learning-rate factors, step by step."""

import math

import pytest
import torch

from train_utils.errors import InputError
from train_utils.lr_schedule import LRSchedule, set_lr


def factors(steps, **options):
    schedule = LRSchedule(**options)
    return [schedule.factor(step) for step in steps]


def test_warmup():
    options = {"kind": "constant", "steps_per_epoch": 10, "epochs": 3, "warmup_factor": 0.1}
    # K = min(1000, 9) = 9: from .1 in steps of .1 to 1 at step 9
    assert factors(range(12), **options) == pytest.approx([0.1 * (k + 1) for k in range(10)] + [1, 1])
    assert factors(range(4), **options, warmup_steps=2) == pytest.approx([0.1, 0.55, 1, 1])
    assert factors([0, 1], **options, warmup_steps=0) == [1, 1]
    assert LRSchedule("constant", 5000, 1).factor(500) == pytest.approx(0.001 + 0.999 * 0.5)


def test_tiny_epochs():
    assert factors(range(3), kind="constant", steps_per_epoch=1, epochs=3) == [1, 1, 1]  # never stuck at 1/1000
    assert factors(range(3), kind="constant", steps_per_epoch=2, epochs=3) == [0.001, 1, 1]


def test_multistep():
    options = {"kind": "multistep", "steps_per_epoch": 2, "epochs": 6, "warmup_steps": 0, "milestones": (2, 4)}
    expected = [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01]
    assert factors(range(12), **options) == pytest.approx(expected)
    # a second stage from epoch 3: nothing before it, milestones stay epochs of the run
    assert factors(range(4, 10, 2), **options, start_epoch=3) == pytest.approx([1, 0.1, 0.01])


def test_step():
    options = {"kind": "step", "steps_per_epoch": 1, "epochs": 8, "step_size": 3, "gamma": 0.5}
    assert factors(range(8), **options) == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25])
    assert factors(range(8), **options, start_epoch=2) == pytest.approx([1, 1, 1, 1, 1, 0.5, 0.5, 0.5])


def test_cosine():
    options = {"kind": "cosine", "steps_per_epoch": 2, "epochs": 4, "warmup_steps": 0}
    values = factors(range(10), **options)
    assert values[0] == 1 and values[4] == pytest.approx(0.5) and values[2] == pytest.approx(0.8535533906)
    assert 0 < values[7] < 0.05 and values[8] == values[9] == 0  # 0 at the end of the last step, and ever after
    assert factors([0, 3, 4, 6, 8], **options, start_epoch=2) == pytest.approx([1, 1, 1, 0.5, 0])
    assert factors([0, 8], **options, start_epoch=4) == pytest.approx([1, 1])  # no second stage left


def test_warmup_multiplies_the_schedule():
    options = {"kind": "cosine", "steps_per_epoch": 4, "epochs": 1, "warmup_factor": 0.5}
    plain = factors(range(4), kind="cosine", steps_per_epoch=4, epochs=1, warmup_steps=0)
    warmup = [0.5, 0.5 + 0.5 / 3, 0.5 + 1 / 3, 1]
    assert factors(range(4), **options) == pytest.approx([a * b for a, b in zip(plain, warmup)])


def test_set_lr():
    one, two = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [one], "lr": 0.1}, {"params": [two], "lr": 0.02}])
    for factor in (0.5, 0.25):  # of the first rate each time, not of the last
        set_lr(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * factor, 0.02 * factor])


@pytest.mark.parametrize("wrong", [{"kind": "linear"}, {"steps_per_epoch": 0}, {"step_size": 0}, {"warmup_steps": -1},
                                   {"warmup_power": 0}, {"final_factor": 1.5}, {"final_factor": -0.1}])
def test_wrong_values(wrong):
    with pytest.raises(ValueError):
        LRSchedule(**{"kind": "step", "steps_per_epoch": 5, "epochs": 2, **wrong})


def test_a_cosine_shorter_or_longer_than_the_run():
    options = {"kind": "cosine", "steps_per_epoch": 1, "epochs": 4, "warmup_steps": 0}
    assert factors([0, 1, 2, 3], **options, cosine_epochs=2) == pytest.approx([1, 0.5, 0, 0])  # stays at zero
    assert factors([0, 4], **options, cosine_epochs=8) == pytest.approx([1, 0.5])
    assert factors([1, 2, 3], **options, cosine_epochs=4, start_epoch=2) == pytest.approx([1, 1, (1 + 0.5**0.5) / 2])
    with pytest.raises(InputError, match="cosine over 0 epochs"):
        LRSchedule(**options, cosine_epochs=0)


def test_burn_in():
    options = {"kind": "constant", "steps_per_epoch": 9, "epochs": 2, "warmup_power": 4}
    # K = min(1000, 8) = 8: (1/8)^4, (2/8)^4, ..., 1 at its last step, never 0
    assert factors(range(10), **options) == pytest.approx([((k + 1) / 8) ** 4 for k in range(8)] + [1, 1])
    assert factors([0, 1, 2, 3], **options, warmup_steps=2) == pytest.approx([1 / 16, 1, 1, 1])
    assert factors([0, 1], **options, warmup_steps=0) == [1, 1]
    assert factors([0, 1], **{**options, "steps_per_epoch": 1}) == [1, 1]


def test_cosine_with_a_floor():
    options = {"kind": "cosine", "steps_per_epoch": 1, "epochs": 4, "warmup_steps": 0}
    assert factors(range(6), **options, final_factor=0.05) == pytest.approx(
        [1, 0.8535533906 * 0.95 + 0.05, 0.525, 0.1464466094 * 0.95 + 0.05, 0.05, 0.05])
    assert factors(range(6), **options, final_factor=1) == pytest.approx([1] * 6)
    # without one, the numbers of the plain formula to the last bit
    plain = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(5)]
    assert factors(range(5), **options) == plain
