"""What continues a run: the rate of the command, thresholds, the best checkpoint, refusals."""

from pathlib import Path

import pytest
import torch

from train_utils.checkpoint import load_checkpoint, save_checkpoint
from train_utils.errors import InputError
from train_utils.lr_schedule import set_lr
from train_utils.resume import check_resume, find_resume_path, merge_model_args, restore_best, restore_optimizer

SCRIPT = Path("train_some.py")
SETTINGS = {"backbone": "a", "opt": "sgd", "epochs": 4, "test_only": False, "lr": 0.1, "workers": 2}


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


def test_best_is_taken_along_or_removed(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(), new.mkdir()
    save_checkpoint({"epoch": 2}, old / "last.pth")
    save_checkpoint({"epoch": 1}, old / "best.pth")
    restore_best(new, old / "last.pth", epoch=2, best=1)  # into another folder
    assert load_checkpoint(new / "best.pth") == {"epoch": 1}
    restore_best(new, old / "last.pth", epoch=2, best=2)  # the checkpoint itself is the best
    assert load_checkpoint(new / "best.pth") == {"epoch": 2}
    restore_best(old, old / "last.pth", epoch=0, best=0)
    save_checkpoint({"epoch": 5}, old / "best.pth")  # of epochs that are about to be run again
    restore_best(old, old / "last.pth", epoch=2, best=1)
    assert not (old / "best.pth").exists()


def test_resume_paths(tmp_path):
    assert find_resume_path(None, str(tmp_path)) is None
    assert find_resume_path("auto", str(tmp_path / "none")) is None
    assert find_resume_path("x.pth", str(tmp_path)) == Path("x.pth")
