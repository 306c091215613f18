"""Batch normalisation whose weights and statistics never change, for fine-tuning with few images per step.

Shapes: N images, C channels, H, W height and width
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    """y = (x - running_mean) / sqrt(running_var + eps) * weight + bias, with all four of shape [C] held as buffers.

    Equal to `nn.BatchNorm2d` in evaluation mode, in either mode. x: float [N, C, H, W]; the output has the same shape
    and dtype. State-dict keys are those of BatchNorm2d without `num_batches_tracked`, which is ignored on loading.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self._cached_for = None  # (buffers, their version counters) that the cached scale and shift belong to
        self._cached = None

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm2d, eps: float) -> "FrozenBatchNorm2d":
        """A frozen copy of `norm` with its weights and statistics, and the given eps."""
        frozen = cls(norm.num_features, eps).to(norm.weight.device, norm.weight.dtype)
        state = {key: value for key, value in norm.state_dict().items() if key != "num_batches_tracked"}
        frozen.load_state_dict(state)
        return frozen

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in (torch.float16, torch.bfloat16):
            # under autocast: float32 inside the kernel, half precision out (x * scale would promote x to float32)
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        scale, shift = self._scale_and_shift()
        return (x * scale).add_(shift)  # in place: backward needs the scale only, neither x nor the product

    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The two factors [1, C, 1, 1], computed again only after a buffer was replaced or written to."""
        if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
            return self._compute()  # a tensor made in inference mode could not be used in a later training step
        buffers = (self.weight, self.bias, self.running_mean, self.running_var)
        if any(buffer.is_inference() for buffer in buffers):
            return self._compute()  # such tensors do not count their versions
        versions = [buffer._version for buffer in buffers]
        fresh = self._cached_for is not None and versions == self._cached_for[1]
        if not fresh or any(new is not old for new, old in zip(buffers, self._cached_for[0])):
            self._cached = self._compute()
            self._cached_for = (buffers, versions)
        return self._cached

    def _compute(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return scale[None, :, None, None], shift[None, :, None, None]

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"
