"""When a run is saved within an epoch, what stands in the file, and how a signal makes it leave."""

import contextlib
import os
import signal

import pytest
import torch

from train_utils.checkpoint import load_checkpoint
from train_utils.checkpointer import Checkpointer
from train_utils.errors import InputError
from train_utils.metric_logger import MetricLogger
from train_utils.resume import Position
from train_utils.run_folder import RunFolder
from train_utils.signals import REQUEUE_CODE, Interrupted


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


class Weights:
    """A training whose weight is the number of its steps."""

    def __init__(self):
        self.value = 0.0

    def __call__(self):
        return {"model": {"w": torch.tensor(self.value), "count": torch.tensor(3)}}


def keeper_of(run, weights=None, position=None, **options):
    return Checkpointer(run, weights or Weights(), position or Position(), **options)


def steps(keeper, weights, *batches_done):
    """(batches done, weight) in the file after each step; None before there is one."""
    seen = []
    for done in batches_done:
        weights.value = float(done)
        keeper.after_step(done)
        path = keeper.run.path / "last.pth"
        stored = load_checkpoint(path) if path.exists() else None
        seen.append(stored and (stored["step_in_epoch"], stored["model"]["w"].item()))
    return seen


def test_after_so_many_steps(run):
    weights = Weights()
    with keeper_of(run, weights, every_steps=2) as keeper:
        keeper.begin_epoch(0, 10, MetricLogger(enabled=False))
        assert steps(keeper, weights, 2, 4, 6, 8) == [None, (4, 4.0), (4, 4.0), (8, 8.0)]
        keeper.end_epoch()
        assert load_checkpoint(run.path / "last.pth")["step_in_epoch"] is None
        keeper.begin_epoch(1, 10, MetricLogger(enabled=False))
        assert steps(keeper, weights, 2)[0][0] is None  # the count begins anew with every file
    assert load_checkpoint(run.path / "last.prev.pth")["step_in_epoch"] == 8


def test_after_so_many_minutes(run, monkeypatch):
    weights, clock = Weights(), [0.0]
    monkeypatch.setattr("train_utils.checkpointer.time.monotonic", lambda: clock[0])
    with keeper_of(run, weights, every_minutes=1.5) as keeper:
        keeper.begin_epoch(0, 10, MetricLogger(enabled=False))
        for seconds, expected in ((89, None), (90, (2, 2.0)), (179, (2, 2.0)), (180, (4, 4.0))):
            clock[0] = seconds
            done = 1 if expected is None else int(seconds // 45)
            assert steps(keeper, weights, done) == [expected]


def test_never_unless_asked(run):
    weights = Weights()
    with keeper_of(run, weights) as keeper:
        keeper.begin_epoch(0, 3, MetricLogger(enabled=False))
        assert steps(keeper, weights, 1, 2, 3) == [None] * 3
        keeper.save()  # before an evaluation
    assert load_checkpoint(run.path / "last.pth")["step_in_epoch"] == 3


def test_the_meters_go_on(run):
    logger = MetricLogger(enabled=False)
    logger.update(loss=2.0)
    with keeper_of(run) as keeper:
        keeper.begin_epoch(4, 3, logger)
        keeper.after_step(1)
        keeper.save()
    stored = load_checkpoint(run.path / "last.pth")
    assert (stored["epoch"], stored["step_in_epoch"], stored["batches_in_epoch"]) == (4, 1, 3)
    resumed, next_epoch = MetricLogger(enabled=False), MetricLogger(enabled=False)
    with keeper_of(run, position=Position(4, 1, stored["meters"])) as keeper:
        assert keeper.begin_epoch(4, 3, resumed) == 1 and resumed.means() == {"loss": 2.0}
        assert keeper.begin_epoch(5, 3, next_epoch) == 0 and next_epoch.means() == {}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(run, number, capsys):
    weights, before = Weights(), signal.getsignal(number)
    with pytest.raises(Interrupted) as left, keeper_of(run, weights) as keeper:
        keeper.begin_epoch(0, 3, MetricLogger(enabled=False))
        keeper.after_step(1)
        os.kill(os.getpid(), number)
        weights.value = 2.0
        keeper.after_step(2)
    assert left.value.code == REQUEUE_CODE and signal.getsignal(number) is before
    stored = load_checkpoint(run.path / "last.pth")
    assert (stored["step_in_epoch"], stored["model"]["w"].item()) == (2, 2.0)
    assert f"{signal.Signals(number).name}: left in epoch 0 after 2 of 3 batches" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_what_is_saved_is_not_saved_again(run, monkeypatch):
    saves = []
    monkeypatch.setattr(RunFolder, "save", lambda run, state, *_, **options: saves.append(state["step_in_epoch"]) or True)
    with pytest.raises(Interrupted), keeper_of(run) as keeper:
        keeper.begin_epoch(0, 2, MetricLogger(enabled=False))
        keeper.after_step(2)
        keeper.save()
        raise Interrupted  # as in an evaluation
    assert saves == [2]


def test_weights_that_are_not_finite_are_not_saved(run, capsys):
    weights = Weights()
    with pytest.raises(InputError, match="not saved in .*run"), keeper_of(run, weights, every_steps=1) as keeper:
        keeper.begin_epoch(0, 3, MetricLogger(enabled=False))
        steps(keeper, weights, 1)
        weights.value = float("nan")
        keeper.after_step(2)
    assert load_checkpoint(run.path / "last.pth")["step_in_epoch"] == 1
    assert "not finite in epoch 0 (1 tensors, first w): not saved" in capsys.readouterr().out


def test_other_processes_write_nothing(tmp_path):
    run = RunFolder(tmp_path / "run", enabled=False)
    with keeper_of(run, lambda: pytest.fail("the state was asked for"), every_steps=1) as keeper:
        keeper.begin_epoch(0, 3, MetricLogger(enabled=False))
        keeper.after_step(1)
        keeper.end_epoch(is_best=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("room_again", [True, False])
def test_the_end_of_a_training_is_tried_once_more(run, monkeypatch, room_again):
    save, tries = RunFolder.save, []

    def full(run, state, epoch, is_best=False, finished=True):
        tries.append((state["step_in_epoch"], is_best))
        return save(run, state, epoch, is_best, finished) if room_again and len(tries) == 2 else False

    monkeypatch.setattr(RunFolder, "save", full)
    expected = contextlib.nullcontext() if room_again else pytest.raises(InputError, match="--resume auto does again")
    with expected, keeper_of(run) as keeper:
        keeper.begin_epoch(0, 1, MetricLogger(enabled=False))
        keeper.after_step(1)
        keeper.end_epoch(is_best=True)
    assert tries == [(None, True)] * 2 and (run.path / "best.pth").exists() == room_again


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_run_that_cannot_be_saved_does_not_promise_to_go_on_there(run, monkeypatch, capsys):
    monkeypatch.setattr(RunFolder, "save", lambda *_, **__: False)
    with pytest.raises(Interrupted), keeper_of(run) as keeper:
        keeper.begin_epoch(0, 3, MetricLogger(enabled=False))
        os.kill(os.getpid(), signal.SIGTERM)
        keeper.after_step(1)
    assert "goes on from the checkpoint before" in capsys.readouterr().out
