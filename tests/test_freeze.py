"""Freezing: weights, gradients, BatchNorm statistics, dropout."""

import copy

import torch
from torch import nn

from train_utils.freeze import freeze, frozen_stay_in_eval, unfreeze


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)),
        )
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))

    def forward(self, x):
        return self.head(self.body(x))


def train(net, optimizer, steps=3):
    for _ in range(steps):
        net.train()
        frozen_stay_in_eval(net)
        net(torch.randn(2, 3, 4, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_frozen_part_is_bit_equal_and_the_rest_learns():
    net = Net()
    freeze(net.body)
    before = copy.deepcopy(net.state_dict())
    train(net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1))
    moved = changed(before, net.state_dict())
    assert not [name for name in moved if name.startswith("body")]
    assert {"head.0.weight", "head.1.running_mean", "head.1.num_batches_tracked", "head.3.weight"} <= moved


def test_freezing_in_mid_run_stops_momentum_and_weight_decay():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    train(net, optimizer)  # leaves zero gradients and momentum behind
    freeze(net.body)
    before = copy.deepcopy(net.body.state_dict())
    train(net, optimizer)
    assert not changed(before, net.body.state_dict())


def test_unfrozen_part_learns_again():
    net = Net()
    freeze(net)
    unfreeze(net.body[1])
    before = copy.deepcopy(net.state_dict())
    train(net, torch.optim.SGD(net.parameters(), lr=0.1))
    moved = changed(before, net.state_dict())
    assert {"body.1.0.weight", "body.1.1.running_mean"} <= moved
    assert not [name for name in moved if not name.startswith("body.1")]


def test_modes():
    net = Net().train()
    freeze(net.body[0])
    frozen_stay_in_eval(net)
    assert not net.body[0][1].training and not net.body[0][2].training  # norm and dropout of the frozen part
    assert net.body[1][1].training and net.head[2].training
    assert net.training and net.body.training and net.body[0].training  # containers keep their mode
    freeze(net.body)
    frozen_stay_in_eval(net)
    assert not net.body[1][1].training  # no parameters of its own: goes with its parent
    half = nn.Sequential(nn.BatchNorm2d(4)).train()
    half[0].weight.requires_grad_(False)  # the bias still learns
    frozen_stay_in_eval(half)
    assert half[0].training


def test_nothing_frozen_and_nothing_to_freeze():
    net = Net().train()
    frozen_stay_in_eval(net)
    assert all(module.training for module in net.modules())
    bare = nn.Sequential(nn.Dropout(0.5)).train()
    freeze(bare)
    frozen_stay_in_eval(bare)
    assert bare[0].training
