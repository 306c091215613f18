"""The random choice of anchors or proposals to train on (Faster R-CNN, arXiv 1506.01497, section 3.1.3)."""

import torch
from torch import Tensor


def subsample(labels: Tensor, num_samples: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """A random choice of at most num_samples anchors of one image, at most positive_fraction of them objects.

    labels [P]: -1 ignore, 0 background, > 0 object. Returns the indices of the sampled objects and of the sampled
    background, each ascending. Too few objects are made up for by background, never the other way round.
    """
    positives, negatives = (labels > 0).nonzero().flatten(), (labels == 0).nonzero().flatten()
    num_positives = min(int(num_samples * positive_fraction), len(positives))
    # Objects are drawn before background: the order fixes which random numbers each gets.
    return _pick(positives, num_positives), _pick(negatives, num_samples - num_positives)


def _pick(idxs: Tensor, number: int) -> Tensor:
    """At most `number` of idxs, drawn without replacement, ascending."""
    return idxs[torch.randperm(len(idxs), device=idxs.device)[:number].sort().values]
