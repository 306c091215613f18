"""The moving average by hand, its buffers, and going on from a saved state."""

import copy
import math

import pytest
import torch
from torch import nn

from train_utils.ema import ModelEma


def small_model():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def step(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        model.train()(torch.randn(5, 2, generator=generator))


def test_average_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema = ModelEma(model, decay=0.25)
    nn.init.constant_(model.weight, 3.0)
    ema.update(model)  # d = min(.25, 2 / 11) = 2 / 11
    expected = 1 * 2 / 11 + 3 * 9 / 11
    assert ema.module.weight.item() == pytest.approx(expected)
    ema.update(model)  # d = min(.25, 3 / 12) = .25
    expected = expected * 0.25 + 3 * 0.75
    assert ema.module.weight.item() == pytest.approx(expected)
    ema.update(model)  # d = min(.25, 4 / 13) = .25
    assert ema.module.weight.item() == pytest.approx(expected * 0.25 + 3 * 0.75)
    assert model.weight.item() == 3.0 and model.weight.requires_grad


def test_buffers_and_mode():
    model = small_model()
    ema = ModelEma(model)
    before = model[1].running_mean.clone()
    step(model, 0)
    ema.update(model)
    assert not ema.module.training and not any(p.requires_grad for p in ema.module.parameters())
    assert torch.allclose(ema.module[1].running_mean, before * 2 / 11 + model[1].running_mean * 9 / 11)
    assert ema.module[1].num_batches_tracked.item() == 1 and ema.module[1].num_batches_tracked.dtype == torch.int64
    assert not torch.equal(ema.module[0].weight, model[0].weight)


def test_what_does_not_move_stays_bit_for_bit():
    model = small_model()
    ema = ModelEma(model)
    for _ in range(5):
        ema.update(model)
    assert all(torch.equal(a, b) for a, b in zip(ema.module.state_dict().values(), model.state_dict().values()))


def test_saved_and_continued():
    model = small_model()
    whole, half = ModelEma(model), ModelEma(model)
    step(model, 0)
    whole.update(model)
    half.update(model)
    saved = copy.deepcopy(half.state_dict())
    step(model, 1)
    whole.update(model)
    rest = ModelEma(small_model())
    rest.load_state_dict(saved)
    rest.update(model)
    assert rest.updates == whole.updates == 2
    assert all(torch.equal(a, b) for a, b in zip(rest.module.state_dict().values(), whole.module.state_dict().values()))


def test_exponential_ramp_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema = ModelEma(model, decay=0.5, ramp=2)
    nn.init.constant_(model.weight, 3.0)
    ema.update(model)
    first = 0.5 * (1 - math.exp(-0.5))  # 0.19673
    expected = 1 * first + 3 * (1 - first)
    assert ema.module.weight.item() == pytest.approx(expected)
    ema.update(model)
    second = 0.5 * (1 - math.exp(-1))
    assert ema.module.weight.item() == pytest.approx(expected * second + 3 * (1 - second))
    ema.updates = 10**6
    ema.update(nn.Linear(1, 1, bias=False))  # long after: the decay itself, and no overflow
    assert ema._decay(10**6) == 0.5
