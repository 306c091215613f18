"""Holding parts of a model fixed, parameters and statistics both."""

from torch import nn


def freeze(module: nn.Module) -> None:
    """No parameter of the module learns; gradients left over are dropped, so that momentum does not use them.

    Call `frozen_stay_in_eval` after every `model.train()` to hold BatchNorm statistics as well.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None


def unfreeze(module: nn.Module) -> None:
    """Every parameter of the module learns again."""
    module.requires_grad_(True)


def frozen_stay_in_eval(model: nn.Module) -> None:
    """Put what is frozen back into eval mode; call after `model.train()`, which wakes it.

    Concerned are layers without children: those whose parameters are all frozen (BatchNorm would go on moving its
    statistics), and those without parameters (Dropout, BatchNorm without affine) where every parameter of the nearest
    module around them that has any is frozen. Containers keep their mode: a detector's own train/eval switches stay.
    """
    _visit(model, surrounding_frozen=False)


def _visit(module: nn.Module, surrounding_frozen: bool) -> None:
    parameters = list(module.parameters())
    frozen = not any(p.requires_grad for p in parameters) if parameters else surrounding_frozen
    children = list(module.children())
    if frozen and not children:
        module.eval()
    for child in children:
        _visit(child, frozen)
