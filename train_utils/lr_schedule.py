"""The learning rate as a pure function of the optimiser step, so that a resumed run has nothing to restore."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim import Optimizer

from train_utils.errors import InputError

KINDS = ("multistep", "step", "cosine", "constant")


@dataclass(frozen=True)
class LRSchedule:
    """Warm-up times one of four schedules; `factor(step)` multiplies the base learning rate.

    Warm-up, with K = min(warmup_steps, steps_per_epoch - 1): warmup_factor + (1 - warmup_factor) * step / K for
    step < K, then 1. With another `warmup_power` p than 1 it is Darknet's burn-in, ((step + 1) / K)^p, which needs no
    floor: its first step is small but not 0. An epoch of one step has none.

    Args:
        kind: "multistep": times gamma at each of `milestones`, epochs of the run; "step": times gamma every
            `step_size` epochs; "cosine": from 1 down to `final_factor` at the end of the last step, changing at every step;
            "constant": 1.
        steps_per_epoch: optimiser steps of an epoch, at least 1.
        epochs: of the whole run, both stages.
        start_epoch: where a second stage begins. The schedule is 1 before; step and cosine count from there.
        cosine_epochs: epochs that the cosine takes from 1 to its end, where it stays; default: all that there are.
        warmup_power: 1 for a line, 4 for Darknet's burn-in.
        final_factor: f in cosine's (1 + cos(pi * progress)) / 2 * (1 - f) + f, 0..1.

    Raises:
        InputError: an unknown kind, or a number out of its range.
    """

    kind: str
    steps_per_epoch: int
    epochs: int
    warmup_steps: int = 1000
    warmup_factor: float = 1 / 1000
    milestones: Sequence[int] = (16, 22)
    step_size: int = 3
    gamma: float = 0.1
    start_epoch: int = 0
    cosine_epochs: int | None = None
    warmup_power: float = 1.0
    final_factor: float = 0.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise InputError(f"learning-rate schedule {self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if self.steps_per_epoch < 1:
            raise InputError("an epoch has no optimiser step; use more images or a smaller batch size")
        if self.step_size < 1:
            raise InputError(f"a learning-rate step of {self.step_size} epochs is impossible; use at least 1")
        if self.cosine_epochs is not None and self.cosine_epochs < 1:
            raise InputError(f"a cosine over {self.cosine_epochs} epochs is impossible; use at least 1")
        if self.warmup_steps < 0:
            raise InputError(f"{self.warmup_steps} warm-up steps are impossible; use 0 for none")
        if not self.warmup_power > 0:
            raise InputError(f"a warm-up of power {self.warmup_power:g} is impossible; use 1 for a line, 4 for Darknet's")
        if not 0 <= self.final_factor <= 1:
            raise InputError(f"a cosine cannot end at {self.final_factor:g} of the learning rate; use 0 to 1")

    def factor(self, step: int) -> float:
        """What the base learning rate is multiplied by at optimiser step `step` = 0, 1, ... of the run."""
        return self._warmup(step) * self._schedule(step)

    def _warmup(self, step: int) -> float:
        last = min(self.warmup_steps, self.steps_per_epoch - 1)
        if step >= last:
            return 1.0
        if self.warmup_power != 1:
            return ((step + 1) / last) ** self.warmup_power
        return self.warmup_factor + (1 - self.warmup_factor) * step / last

    def _schedule(self, step: int) -> float:
        epoch = step // self.steps_per_epoch
        if self.kind == "constant" or epoch < self.start_epoch:
            return 1.0
        if self.kind == "multistep":
            return self.gamma ** sum(milestone <= epoch for milestone in self.milestones)
        if self.kind == "step":
            return self.gamma ** ((epoch - self.start_epoch) // self.step_size)
        first = self.start_epoch * self.steps_per_epoch
        epochs = self.cosine_epochs or self.epochs - self.start_epoch
        progress = (step - first) / max(1, epochs * self.steps_per_epoch)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress))) * (1 - self.final_factor) + self.final_factor


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Give every parameter group `factor` times its initial rate, which the group remembers from the first call on."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
