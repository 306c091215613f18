"""What continues a run: the rate of the command, thresholds, the best checkpoint, refusals."""

import os
from pathlib import Path

import pytest
import torch

from train_utils.checkpoint import load_checkpoint, save_checkpoint
from train_utils.errors import InputError
from train_utils.lr_schedule import set_lr
from train_utils.resume import (
    Position,
    RunIsComplete,
    check_resume,
    find_position,
    find_resume_path,
    merge_model_args,
    open_run,
    restore_best,
)
from train_utils.run_folder import RunFolder
from train_utils.training_state import fingerprint, restore_optimizer, software

SCRIPT = Path("train_some.py")
SETTINGS = {"backbone": "a", "opt": "sgd", "epochs": 4, "test_only": False, "lr": 0.1, "workers": 2, "batch_size": 4,
            "world_size": 1, "seed": 0, "resume": "x.pth", "resume_anyway": False}


def stored(**changes):
    return {"script": "train_some", "class_names": ["cat"], "epoch": 1, "args": dict(SETTINGS), **changes}


def test_the_rate_of_the_command_holds_and_the_momentum_stays():
    def optimizer(lr):
        parameter = torch.nn.Parameter(torch.ones(1))
        made = torch.optim.SGD([parameter], lr=lr, momentum=0.9)
        return made, parameter

    old, parameter = optimizer(0.1)
    parameter.grad = torch.ones(1)
    set_lr(old, 0.5)
    old.step()
    new, parameter = optimizer(0.2)
    restore_optimizer(new, old.state_dict())
    set_lr(new, 0.5)
    assert new.param_groups[0]["lr"] == pytest.approx(0.1)
    assert new.state[parameter]["momentum_buffer"].item() == 1.0


def test_changes_are_named_and_refusals_say_what_to_do():
    def check(checkpoint, **changes):
        return check_resume(checkpoint, Path("x.pth"), class_names=["cat"], settings=SETTINGS | changes, script=SCRIPT)

    assert check(stored()) == []
    assert check(stored(), lr=0.2, workers=0) == ["lr 0.1 -> 0.2"]
    for checkpoint, changes, match in [
        (stored(script="train_other"), {}, "continue it with train_other.py"),
        (stored(script=None), {}, "--weights"),
        (stored(class_names=["dog"]), {}, "dog"),
        (stored(), {"backbone": "b"}, "--backbone a"),
        (stored(), {"opt": "adamw"}, "--opt sgd"),
        (stored(epoch=3), {}, "--epochs is 4"),
    ]:
        with pytest.raises(InputError, match=match):
            check(checkpoint, **changes)
    assert check(stored(epoch=3), test_only=True, opt="adamw") == ["opt sgd -> adamw", "test_only False -> True"]


def test_thresholds_follow_the_command_and_the_shape_does_not():
    old = {"min_size": [800], "box_score_thresh": 0.05, "norm": "frozen_bn"}
    merged, kept = merge_model_args(old, {"min_size": [600], "box_score_thresh": 0.5, "norm": "bn"})
    assert merged == {"min_size": [800], "box_score_thresh": 0.5, "norm": "frozen_bn"}
    assert kept == ["min_size [800] (the command says [600])"]


def test_best_is_taken_along_or_removed(tmp_path, capsys):
    old, new = (RunFolder(tmp_path / name) for name in ("old", "new"))
    last, best = old.path / "last.pth", old.path / "best.pth"
    save_checkpoint({"epoch": 2}, last)
    save_checkpoint({"epoch": 1}, best)
    restore_best(new, last, Position(3), best=1)  # into another folder
    assert load_checkpoint(new.path / "best.pth") == {"epoch": 1}
    restore_best(new, last, Position(3), best=2)  # the checkpoint itself is the best
    assert load_checkpoint(new.path / "best.pth") == {"epoch": 2}
    restore_best(old, last, Position(3), best=0)  # epoch 0 was not saved: an older one is better than none
    assert load_checkpoint(best) == {"epoch": 1}
    save_checkpoint({"epoch": 5}, best)  # of epochs that are about to be run again
    restore_best(old, last, Position(3), best=1)
    assert not best.exists()
    best.write_bytes(last.read_bytes()[:-9])  # damaged: no reason to stop
    restore_best(old, last, Position(3), best=1)
    assert not best.exists() and "best.pth" in capsys.readouterr().out


def test_the_checkpoint_that_is_the_best_is_not_written_again(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    run.save({"epoch": 2, "step_in_epoch": None}, 2, is_best=True)
    before = (run.path / "best.pth").stat().st_ino
    monkeypatch.setattr(os, "link", lambda *_: pytest.fail("linked"))
    restore_best(run, run.path / "last.pth", Position(3), best=2)
    assert (run.path / "best.pth").stat().st_ino == before


def test_a_damaged_file_does_not_take_the_place_of_the_good_one(tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    run.save({"epoch": 0}, 0)
    run.save({"epoch": 1}, 1)
    last, before = run.path / "last.pth", run.path / "last.prev.pth"
    last.write_bytes(last.read_bytes()[:-9])
    settings = {"output_dir": str(run.path), "resume": "auto"}
    path = find_resume_path("auto", str(run.path))
    assert path == before and "last.pth is damaged" in capsys.readouterr().out
    resumed = open_run(settings, "runs/x", path, ["cat"])
    assert resumed.newest == before and not last.exists()
    assert resumed.save({"epoch": 5}, 5)
    assert load_checkpoint(before)["epoch"] == 0 and load_checkpoint(last)["epoch"] == 5 and resumed.newest == last
    assert open_run(settings, "runs/x", before, ["cat"]).newest == before and last.exists()  # asked for, and last.pth is good


def test_best_of_a_run_within_an_epoch_is_its_own_file(tmp_path):
    save_checkpoint({"epoch": 2, "step_in_epoch": 5}, tmp_path / "last.pth")
    save_checkpoint({"epoch": 1, "step_in_epoch": None}, tmp_path / "best.pth")
    run = RunFolder(tmp_path, resume=True)
    restore_best(run, tmp_path / "last.pth", Position(2, 5, {"meters": {}, "seconds": 1.0}), best=1)
    assert load_checkpoint(tmp_path / "best.pth")["epoch"] == 1


def test_what_makes_a_continuation_inexact_is_refused_or_named():
    def check(checkpoint, data=None, **changes):
        return check_resume(checkpoint, Path("x.pth"), class_names=["cat"], settings=SETTINGS | changes, script=SCRIPT, data=data)

    then, now = ({"training": {"images": n, "objects": 2 * n, "hash": str(n)}} for n in (10, 11))
    for checkpoint, data, changes, reason in [
        (stored(), None, {"batch_size": 8}, "--batch-size was 4 and is 8"),
        (stored(), None, {"seed": 1}, "--seed was 0 and is 1"),
        (stored(), None, {"world_size": 2}, "it ran on 1 process(es), now on 2"),
        (stored(data=then), now, {},
         "the training data is not the same (10 images with 20 objects then, 11 images with 22 objects now)"),
    ]:
        with pytest.raises(InputError) as error:
            check(checkpoint, data, **changes)
        assert reason in str(error.value) and "--resume-anyway" in str(error.value)
        assert check(checkpoint, data, resume_anyway=True, **changes) == [reason]
        assert reason not in check(checkpoint, None, test_only=True, **changes)
    assert check(stored(data=then), then) == []
    assert check(stored(software={"torch": "1.0", "threads": torch.get_num_threads()})) == [f"torch 1.0 -> {software()['torch']}"]


def test_a_complete_run_is_no_failure_for_auto(capsys):
    def check(checkpoint, resume):
        settings = SETTINGS | {"resume": resume}
        return check_resume(checkpoint, Path("x.pth"), class_names=["cat"], settings=settings, script=SCRIPT)

    with pytest.raises(RunIsComplete) as left:
        check(stored(epoch=3), "auto")
    assert left.value.code == 0 and "all 4 epochs are done" in capsys.readouterr().out
    assert check(stored(epoch=3, step_in_epoch=7), "auto") == []  # only the evaluation of the last epoch lacks


def test_positions():
    meters = {"meters": {}, "seconds": 2.0}
    within = {"epoch": 3, "step_in_epoch": 6, "batches_in_epoch": 10, "meters": meters}
    assert find_position({"epoch": 3}, 10, 1) == Position(4)  # as of an older version
    assert find_position({"epoch": 3, "step_in_epoch": None}, 10, 1) == Position(4)
    assert find_position(within, 10, 2) == Position(3, 6, meters)
    assert find_position(within, 10, 4) == Position(3, 4, meters)  # steps of four batches now
    assert find_position(within, 5, 1) == Position(3, 3, meters)  # other batches: as far into the epoch
    assert find_position(within, 25, 4) == Position(3, 12, meters)  # 15, but a step begins at 12
    assert find_position(within | {"step_in_epoch": 10}, 25, 4) == Position(3, 25, meters)  # only the evaluation lacks


def test_a_fingerprint_knows_what_matters(shapes, tmp_path):
    import shutil

    from datasets.open_dataset import open_dataset

    def of(root):
        return fingerprint(open_dataset("shapes", [str(root)], "train"))

    first = of(shapes)
    moved = tmp_path / "elsewhere"
    shutil.copytree(shapes, moved)
    assert of(moved) == first and first["images"] == 16
    annotation = next((moved / "Annotations").glob("*.xml"))
    text = annotation.read_text()
    x = text.index("<xmin>") + len("<xmin>")
    annotation.write_text(text[:x] + "1" + text[text.index("</xmin>"):])
    assert of(moved)["hash"] != first["hash"]


def test_auto_takes_over_a_folder_without_a_checkpoint(tmp_path):
    settings = {"output_dir": str(tmp_path / "run"), "resume": "auto"}
    assert open_run(settings, "runs/x", None, ["cat"]).path == tmp_path / "run"
    assert open_run(settings, "runs/x", None, ["cat"]).path == tmp_path / "run"  # the run before was killed at once
    assert open_run(settings | {"resume": None}, "runs/x", None, ["cat"]).path == tmp_path / "run-2"
    (tmp_path / "run" / "best.pth").touch()
    assert open_run(settings, "runs/x", None, ["cat"]).path == tmp_path / "run-3"
