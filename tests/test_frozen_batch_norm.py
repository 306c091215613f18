"""Frozen BatchNorm: equal to BatchNorm2d in evaluation, bit-equal to torchvision; its cache never goes stale."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from network_files.frozen_batch_norm import FrozenBatchNorm2d


def random_norm(channels: int, eps: float = 1e-5) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=eps).eval()
    for tensor in (norm.weight.data, norm.running_var):
        tensor.uniform_(0.5, 1.5)
    for tensor in (norm.bias.data, norm.running_mean):
        tensor.normal_()
    return norm


@pytest.mark.parametrize("seed", range(10))
def test_frozen_norm_is_batch_norm_in_evaluation(seed):
    torch.manual_seed(seed)
    norm = random_norm(7, eps=1e-4)
    frozen = FrozenBatchNorm2d.from_batch_norm(norm, 1e-4).train()
    oracle = torchvision.ops.FrozenBatchNorm2d(7, eps=1e-4)
    oracle.load_state_dict(norm.state_dict())
    x = torch.randn(3, 7, 5, 4)
    x.requires_grad_()
    torch.testing.assert_close(frozen(x), norm(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(frozen(x), oracle(x))
    ours, theirs = (torch.autograd.grad(layer(x).square().sum(), x)[0] for layer in (frozen, oracle))
    assert torch.equal(ours, theirs)


def test_frozen_norm_has_buffers_only_and_ignores_the_counter():
    frozen = FrozenBatchNorm2d(4)
    assert list(frozen.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    assert not list(frozen.parameters())
    assert frozen.load_state_dict(nn.BatchNorm2d(4).state_dict()).unexpected_keys == []


def test_frozen_norm_sees_every_change_of_its_buffers():
    frozen, x = FrozenBatchNorm2d(2, eps=0.0), torch.ones(1, 2, 1, 1)
    assert frozen(x).flatten().tolist() == [1, 1]
    frozen.running_mean.fill_(3)  # in place
    assert frozen(x).flatten().tolist() == [-2, -2]
    frozen.load_state_dict({**frozen.state_dict(), "weight": torch.tensor([2.0, 4.0])})
    assert frozen(x).flatten().tolist() == [-4, -8]
    for bias in (0.0, 0.0), (10.0, 20.0):  # other tensors, each of them as new as the one before
        frozen.bias = torch.tensor(bias)
        assert frozen(x).flatten().tolist() == [bias[0] - 4, bias[1] - 8]
    assert frozen.double()(x.double()).dtype == torch.float64
    assert copy.deepcopy(frozen)(x.double()).flatten().tolist() == [6, 12]


def test_frozen_norm_trains_after_inference_mode():
    frozen = FrozenBatchNorm2d(2)
    with torch.inference_mode():
        frozen(torch.rand(1, 2, 3, 3))
    x = torch.rand(1, 2, 3, 3, requires_grad=True)
    frozen(x).sum().backward()
    assert x.grad is not None


def test_frozen_norm_keeps_half_precision():
    norm = random_norm(8)
    frozen, x = FrozenBatchNorm2d.from_batch_norm(norm, norm.eps), torch.randn(2, 8, 6, 6)
    half = frozen(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), norm(x), rtol=0.02, atol=0.02)


def test_frozen_norm_of_an_empty_batch():
    assert FrozenBatchNorm2d(3)(torch.rand(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_frozen_norm_compiles_without_a_graph_break():
    frozen = FrozenBatchNorm2d.from_batch_norm(random_norm(3), 1e-5)
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(torch.compile(frozen, backend="eager", fullgraph=True)(x), frozen(x))
