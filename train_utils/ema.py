"""A slowly following copy of the model, which is often the better one to evaluate."""

import copy
import math

import torch
from torch import nn


class ModelEma:
    """Exponential moving average of a model's parameters and floating-point buffers.

    After update n: average = d * average + (1 - d) * model with d = min(decay, (1 + n) / (10 + n)), or, where a `ramp`
    is given, d = decay * (1 - exp(-n / ramp)). It follows fast at first, so that it does not hang on to the initial
    weights. Integer buffers (BatchNorm's counters) are copied.

    Args:
        model: the model itself, not its DistributedDataParallel wrapper; it is copied and not changed.
        decay: share of the old average that each update keeps, 0..1, once warmed up.
        ramp: updates in which the share kept comes to 63 % of `decay` (YOLOv3's later trainers: 2000 to .9999).

    Attributes:
        module: the averaged model, in eval mode, without gradients.
        updates: number of updates so far.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998, ramp: float | None = None):
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.ramp = ramp
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Follow the model; call after each optimiser step."""
        self.updates += 1
        decay = self._decay(self.updates)
        current = model.state_dict()
        for name, average in self.module.state_dict().items():  # tensors shared with the module
            if average.is_floating_point():
                average.lerp_(current[name].to(average), 1 - decay)
            else:
                average.copy_(current[name])

    def _decay(self, updates: int) -> float:
        if self.ramp is None:
            return min(self.decay, (1 + updates) / (10 + updates))
        return self.decay * (1 - math.exp(-updates / self.ramp))

    def state_dict(self) -> dict:
        """{"model": state dict of the averaged model, "updates": int}"""
        return {"model": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict()`."""
        self.module.load_state_dict(state["model"])
        self.updates = state["updates"]
