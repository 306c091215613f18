"""jetson-inference's log lines to the letter, and its files."""

import re

import torch
from torch import nn

from train_utils import jetson
from train_utils.run_folder import RunFolder

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - "


def lines_of(capsys):
    """The lines printed, without their times, which must all be there."""
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(TIME, line) for line in lines), lines
    return [re.sub(TIME, "", line) for line in lines]


def test_step_lines_show_the_mean_since_the_line_before(capsys):
    logger = jetson.JetsonLogger(epoch=3, enabled=True)
    for number, _ in enumerate(logger.log_every(range(5), print_freq=2)):
        logger.update(loss=3.0 * number, loss_box_reg=1.0 * number, loss_classifier=2.0 * number)
    # steps 0 | 1, 2 | 3, 4: means 0, 1.5, 3.5
    assert lines_of(capsys) == [
        f"Epoch: 3, Step: {n}/5, Avg Loss: {3 * m:.4f}, Avg Regression Loss {m:.4f}, Avg Classification Loss: {2 * m:.4f}"
        for n, m in ((0, 0.0), (2, 1.5), (4, 3.5))
    ]


def test_an_epoch_without_a_finite_loss_has_lines_all_the_same(capsys):
    assert list(jetson.JetsonLogger(epoch=0, enabled=True).log_every([7], print_freq=1)) == [7]
    assert lines_of(capsys)[0].startswith("Epoch: 0, Step: 0/1, Avg Loss: 0.0000")


def test_lines_of_an_epoch(capsys):
    jetson.log_losses(1, "Validation", {"loss_box_reg": 0.25, "loss_classifier": 0.5})
    jetson.log_average_precision(1, {"mAP": 0.5, "per_class": [
        {"name": "cat", "AP": 0.5, "num_gt": 3}, {"name": "dog", "AP": -1.0, "num_gt": 0}]})
    assert lines_of(capsys) == [
        "Epoch: 1, Validation Loss: 0.7500, Validation Regression Loss 0.2500, Validation Classification Loss: 0.5000",
        "Epoch: 1, Average Precision Per-class:", "    cat: 0.5", "Epoch: 1, Mean Average Precision (mAP):  0.5"]


def test_files(tmp_path, capsys):
    run, model = RunFolder(tmp_path / "models"), nn.Linear(2, 1)
    jetson.save_labels(run, ["cat", "dog"])
    jetson.save_epoch(run, model, "mb1-ssd", 4, 2.5)
    assert (run.path / "labels.txt").read_bytes() == b"BACKGROUND\ncat\ndog"
    file = run.path / "mb1-ssd-Epoch-4-Loss-2.5.pth"
    assert torch.equal(torch.load(file, weights_only=True)["weight"], model.weight)
    assert lines_of(capsys) == [f"Stored labels into file {run.path / 'labels.txt'}.", f"Saved model {file}"]
