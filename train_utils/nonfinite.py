"""What to do about a training step whose loss is not finite: stop, leave the step out, or go back to the last checkpoint."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from train_utils.checkpoint import save_checkpoint
from train_utils.distributed_utils import agree, broadcast_object, gather_objects, get_rank, say, unwrap
from train_utils.errors import LossNotFinite

POLICIES = ("stop", "skip", "rollback")
MAX_FILES = 3  # of one process in one run folder; each holds the whole model


class NonFiniteGuard:
    """Decides how training goes on after a loss that is not finite, the same on every process.

    Args:
        policy: "stop"; "skip" leaves the step out; "rollback" leaves it out and puts the last checkpoint's weights back.
        limit: so many such steps a run may have; the next one stops it.
        folder: gets the step's weights, images and targets for inspection (that of rank 0 counts); None saves nothing.
        restore: for "rollback": loads the last checkpoint's weights and optimiser; called on every process.

    Attributes:
        count: such steps so far.
        overflows: fp16: steps in a row, up to the present one, whose loss is too large; the scaler leaves them out and lowers
            its scale, so the guard is called only for many. The loop counts them.
    """

    def __init__(
        self, policy: str = "stop", limit: int = 10, folder: Path | None = None, restore: Callable[[], None] | None = None
    ):
        if policy not in POLICIES:
            raise ValueError(f"policy {policy!r}: give one of {', '.join(POLICIES)}")
        self.policy = policy
        self.limit = limit
        self.folder = folder
        self.restore = restore
        self.count = 0
        self.overflows = 0

    def __call__(
        self,
        message: str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: tuple[Sequence[Tensor], Sequence[dict]],
        losses: dict[str, Tensor],
        step: int,
    ) -> None:
        """Return if training may go on; the caller then drops the gradients and takes no optimiser step.

        A collective call: all processes come here for the same step, if the mean of their losses is not finite.

        Args:
            message: what happened, with the loss parts and the images of this process's batch.
            model: wrapped in DistributedDataParallel or not.
            batch: (images, targets) of this process.
            losses: this process's loss parts, 0-dim tensors.
            step: for messages and the name of the file.

        Raises:
            LossNotFinite: the message, what is known of the weights, where the step is saved, and what to do.
        """
        model = unwrap(model)
        self.count += 1
        folder = broadcast_object(self.folder)  # the others do not know the number of a new run's folder
        mine = not math.isfinite(sum(value.item() for value in losses.values()))
        anyones = agree(mine)
        text = None
        if mine or not anyones:  # finite on each process: their sum is too large
            text = f"{message}. {_weights_and_rate(model, optimizer)}{_save(folder, model, batch, losses, step)}"
        text = _of_all(text)
        self._stop_if_hopeless(text, agree(bool(not_finite_names(model.state_dict()))))
        done = "Step left out"
        if self.policy == "rollback":
            self.restore()
            if agree(bool(not_finite_names(model.state_dict()))):
                raise LossNotFinite(f"{text}. The last checkpoint is not finite either: give --resume an older one")
            done = "Back to the weights of the last checkpoint"
        say(f"{text}. {done}, {self.count} of at most {self.limit} times")

    def _stop_if_hopeless(self, text: str, poisoned: bool) -> None:
        """Raise where the policy ends; the arguments are equal on all processes."""
        if self.policy == "stop":
            raise LossNotFinite(f"{text}. To go on without such steps give --on-nonfinite skip or rollback")
        if self.count > self.limit:
            raise LossNotFinite(f"{text}. That makes {self.count} such steps, more than the {self.limit} a run may have: "
                                "lower --lr, or mend the files named here")
        if self.policy == "skip" and poisoned:
            raise LossNotFinite(f"{text}. Weights or BatchNorm statistics are not finite any more, which leaving steps out "
                                "cannot heal: continue with --resume auto --on-nonfinite rollback")
        if self.policy == "rollback" and self.restore is None:
            raise LossNotFinite(f"{text}. There is no checkpoint yet to go back to: lower --lr, or mend the files named here")

    def state_dict(self) -> dict:
        """The counts, so that a resumed run keeps counting."""
        return {"count": self.count, "overflows": self.overflows}

    def load_state_dict(self, state: dict) -> None:
        """Take over the counts of the run that goes on."""
        self.count, self.overflows = state["count"], state["overflows"]


def not_finite_names(state: dict[str, Tensor]) -> list[str]:
    """Names of the tensors of a state dict that hold a value that is not finite."""
    return [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]


def _weights_and_rate(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """The learning rate, the largest weight and the largest gradient of the accumulated ones, in words."""
    rates = dict.fromkeys(f"{group['lr']:.4g}" for group in optimizer.param_groups)
    words = f"Learning rate {', '.join(rates)}"
    parameters = dict(model.named_parameters())
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    for kind, tensors in (("parameter", parameters), ("gradient", gradients)):
        largest = _largest(tensors.items())
        words += f", largest {kind} {largest[1]:.4g} ({largest[0]})" if largest else ""
    bad = [name for name in not_finite_names(model.state_dict()) if name in parameters]
    if bad:
        words += f"; the weights themselves are not finite since an earlier step ({len(bad)} of them, first {bad[0]})"
    return words


def _largest(named: Iterable[tuple[str, Tensor]]) -> tuple[str, float] | None:
    """Name and value of the largest magnitude, what is not finite before all others; None for no value at all."""
    sizes = [(name, float(tensor.detach().abs().max())) for name, tensor in named if tensor.numel()]
    return max(sizes, key=lambda pair: (not math.isfinite(pair[1]), pair[1]), default=None)


def _save(folder: Path | None, model: nn.Module, batch: tuple, losses: dict[str, Tensor], step: int) -> str:
    """Save what shows the step again, and tell where. `torch.manual_seed` of "seed" repeats its random choices."""
    if folder is None:
        return ""
    rank = get_rank()
    if len(list(folder.glob(f"nonfinite-step*-rank{rank}.pth"))) >= MAX_FILES:
        return f"; not saved for inspection, {folder} has {MAX_FILES} such files"
    path = folder / f"nonfinite-step{step}-rank{rank}.pth"
    images, targets = batch
    state = {
        "model": model.state_dict(),
        "images": list(images),
        "targets": list(targets),
        "losses": {name: value.detach() for name, value in losses.items()},
        "step": step,
        "seed": torch.initial_seed(),  # the loop seeds torch anew for every step
    }
    try:
        save_checkpoint(state, path)
    except OSError as error:  # a full disk is no reason to end a run that may go on
        return f"; not saved for inspection: {error}"
    return f"; saved for inspection: {path}"


def _of_all(text: str | None) -> str:
    """The text of the first process that has one, on every process; how many others have one too."""
    texts = [text for text in broadcast_object(gather_objects(text)) if text]
    return texts[0] + (f"; the same on {len(texts) - 1} more processes" if len(texts) > 1 else "")
