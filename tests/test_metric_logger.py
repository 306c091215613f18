"""Meters and the logging loop."""

import re

import pytest

from train_utils.metric_logger import MetricLogger, SmoothedValue


def run(logger, batches, **options):
    seen = []
    for batch in logger.log_every(list(batches), header="Epoch: [3]", **options):
        logger.update(loss_box=batch / 2, lr=0.01, loss=float(batch))
        seen.append(batch)
    return seen


def test_smoothed_value():
    meter = SmoothedValue(window=3)
    assert meter.global_avg == meter.median == meter.value == 0.0
    for value in (100.0, 1.0, 2.0, 6.0):
        meter.update(value)
    assert (meter.value, meter.median, meter.global_avg) == (6.0, 2.0, 109 / 4)
    meter.update(3.0, n=6)
    assert meter.global_avg == pytest.approx((109 + 18) / 10)
    assert str(SmoothedValue(fmt="{value:.1f}")) == "0.0"


def test_lines_in_a_log(capsys):
    logger = MetricLogger(bar=False)
    assert run(logger, range(8), print_freq=3) == list(range(8))
    lines = capsys.readouterr().out.splitlines()
    assert [re.search(r"\[(\d)/8\]", line)[1] for line in lines[:-1]] == ["0", "3", "6", "7"]
    pattern = (
        r"Epoch: \[3\]  \[3/8\]  eta: 0:00:00  lr: 0\.010000  loss: 1\.5000 \(1\.5000\)  "
        r"loss_box: 0\.7500 \(0\.7500\)  time: \d+\.\d{4}  data: \d+\.\d{4}"
    )
    assert re.match(pattern, lines[1])
    assert "total time" in lines[-1]
    assert logger.means() == {"loss_box": 1.75, "lr": pytest.approx(0.01), "loss": 3.5}


def test_bar_on_a_terminal(capsys):
    logger = MetricLogger(bar=True)
    run(logger, range(4), print_freq=1)
    shown = capsys.readouterr()
    assert shown.out == "" and "4/4" in shown.err and "loss: 1.5000 (1.5000)" in shown.err


def test_other_processes_are_silent(capsys):
    for bar in (True, False):
        run(MetricLogger(enabled=False, bar=bar), range(4), print_freq=1)
    assert capsys.readouterr() == ("", "")


def test_no_batches(capsys):
    logger = MetricLogger(bar=False)
    assert run(logger, [], print_freq=1) == [] and logger.means() == {}
    assert "no batch" in capsys.readouterr().out


def test_an_epoch_in_two_parts_has_the_same_means(capsys):
    whole, first, second = MetricLogger(bar=False), MetricLogger(bar=False), MetricLogger(bar=False)
    run(whole, range(5), print_freq=2)
    run(first, range(2), print_freq=2, total=5)
    second.load_state_dict(first.state_dict())
    assert str(second) == str(first)
    capsys.readouterr()
    run(second, range(2, 5), print_freq=2, start=2)
    assert second.means() == whole.means() and second.state_dict()["meters"] == whole.state_dict()["meters"]
    assert second.seconds > first.seconds > 0
    lines = capsys.readouterr().out.splitlines()
    assert "[2/5]" in lines[0] and "[4/5]" in lines[1]
