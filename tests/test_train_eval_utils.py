"""The epoch loop and the evaluation on a toy detector that keeps the model contract."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from train_utils.bad_samples import BadSamples
from train_utils.errors import InputError
from train_utils.lr_schedule import set_lr
from train_utils.metric_logger import MetricLogger
from train_utils.nonfinite import NonFiniteGuard
from train_utils.train_eval_utils import (
    EMPTY_ROW,
    detect,
    eval_mode,
    evaluate,
    label_map,
    merge_detections,
    train_one_epoch,
    validation_losses,
    warmup_factor,
)

CPU = torch.device("cpu")


class Toy(nn.Module):
    """Loss: mean over the images of (w * mean brightness - number of boxes)^2; detection: one fixed box per image."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.norm = nn.BatchNorm1d(1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images, targets=None):
        brightness = torch.stack([image.float().mean() for image in images])
        self.norm(torch.cat((brightness, brightness))[:, None])  # moves statistics in training mode only
        if targets is None:
            box = torch.tensor([[1.0, 1.0, 9.0, 9.0]])
            return [{"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.9])} for _ in images]
        counts = torch.tensor([float(len(t["boxes"])) for t in targets])
        error = (self.dropout(self.weight * brightness) - counts).square().mean()
        return {"loss_count": error, "loss_zero": self.weight * 0, "note": torch.tensor(5.0)}


class Loader(list):
    """Batches with a data set that knows its ground truth and its paths."""

    def __init__(self, batches, num_images):
        super().__init__(batches)
        self.num_images = num_images
        self.dataset = self

    def image_path(self, index):
        return f"picture_{index}.jpg"

    def ground_truth(self):
        n = self.num_images
        return {
            "num_images": n, "heights": np.full(n, 10), "widths": np.full(n, 10), "image_index": np.arange(n),
            "boxes": np.tile([[1.0, 1.0, 9.0, 9.0]], (n, 1)), "labels": np.ones(n, dtype=np.int64),
            "area": np.full(n, 64.0), "iscrowd": np.zeros(n, bool), "difficult": np.zeros(n, bool),
            "class_names": ["thing"], "source_image_ids": np.arange(n) + 1, "category_ids": np.array([1]),
        }


def sample(index, brightness=1.0, boxes=1):
    target = {"boxes": torch.tensor([[1.0, 1.0, 9.0, 9.0]] * boxes).reshape(-1, 4), "image_id": index,
              "labels": torch.ones(boxes, dtype=torch.int64)}
    return torch.full((3, 10, 10), brightness), target


def loader(batch_sizes, **options):
    samples = iter(sample(i, **options) for i in range(sum(batch_sizes)))
    return Loader([tuple(zip(*(next(samples) for _ in range(size)))) for size in batch_sizes], sum(batch_sizes))


def train(model, batches, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return train_one_epoch(model, optimizer, batches, CPU, epoch=options.pop("epoch", 0), **options), optimizer


def test_one_step_by_hand():
    model = Toy()
    (mean_loss, lr), _ = train(model, loader([1]))
    assert mean_loss.item() == pytest.approx(1.0) and lr == 0.1  # (2 * 1 - 1)^2
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * 2)  # gradient 2 (w - 1) = 2


def test_mean_over_the_steps():
    model = Toy()
    (mean_loss, _), _ = train(model, loader([1, 1]))
    assert mean_loss.item() == pytest.approx((1.0 + 0.8**2) / 2)


def test_accumulation_equals_the_large_batch_also_in_a_short_last_window():
    one, other = Toy(), Toy()
    batches = loader([2, 2, 2])
    train(one, batches, accumulate=2)
    large = Loader([(batches[0][0] + batches[1][0], batches[0][1] + batches[1][1]), batches[2]], 6)
    train(other, large)
    assert one.weight.item() == pytest.approx(other.weight.item(), abs=1e-7)


def test_warm_up_and_a_single_batch():
    factor = warmup_factor(4)
    assert [factor(step) for step in (0, 2, 4, 9)] == pytest.approx([0.001, 0.5005, 1.0, 1.0])
    assert warmup_factor(0)(0) == 1.0
    (_, lr), _ = train(Toy(), loader([1]), warmup=True)
    assert lr == 0.1  # not 0.001 for ever
    (_, lr), _ = train(Toy(), loader([1, 1, 1]), warmup=True)
    assert lr == pytest.approx(0.1)


def test_the_rate_is_a_function_of_the_optimiser_step():
    seen = []
    train(Toy(), loader([1] * 5), epoch=3, accumulate=2, lr_factor=lambda step: seen.append(step) or 0.5)
    assert seen == [9, 9, 10, 10, 11]  # three optimiser steps an epoch
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.2}], lr=0.1)
    set_lr(optimizer, 0.5)
    set_lr(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_loss_that_is_not_finite_names_parts_and_images_and_leaves_the_weights_alone():
    model = Toy()
    batches = Loader([tuple(zip(sample(0, math.nan)))], 1)
    with pytest.raises(InputError, match=r"loss_count nan.*picture_0\.jpg"):
        train(model, batches)
    assert model.weight.item() == 2.0


class Bursting(Toy):
    """Its loss is not a number at the given calls."""

    def __init__(self, *calls):
        super().__init__()
        self.calls, self.bursting = 0, calls

    def forward(self, images, targets=None):
        losses = super().forward(images, targets)
        self.calls += 1
        return {**losses, "loss_zero": losses["loss_zero"] * (math.nan if self.calls - 1 in self.bursting else 1)}


def test_a_step_left_out_changes_nothing_and_counts_nothing(capsys):
    expected, model = Toy(), Bursting(1)
    train(expected, loader([1, 1]))
    (mean_loss, _), _ = train(model, loader([1, 1, 1]), guard=NonFiniteGuard("skip"))
    assert model.weight.item() == expected.weight.item()
    assert mean_loss.item() == pytest.approx((1.0 + 0.8**2) / 2) and "picture_1.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("call", [0, 1])
def test_a_step_left_out_takes_its_whole_window_along(call):
    expected, model = Toy(), Bursting(call)
    train(expected, loader([1, 1]), accumulate=2)
    train(model, loader([1, 1, 1, 1]), accumulate=2, guard=NonFiniteGuard("skip"))
    assert model.weight.item() == pytest.approx(expected.weight.item())


def test_rolling_back_takes_the_weights_saved_last():
    model, saved, seen = Bursting(2), {}, []

    def after_step(done):
        seen.append(model.weight.item())
        if done == 1:
            saved.update({name: value.clone() for name, value in model.state_dict().items()})

    guard = NonFiniteGuard("rollback", restore=lambda: model.load_state_dict(saved))
    train(model, loader([1] * 4), after_step=after_step, guard=guard)
    after_1 = 2.0 - 0.1 * 2
    after_2 = after_1 - 0.1 * 2 * (after_1 - 1)
    assert seen == pytest.approx([after_1, after_2, after_1, after_2])  # back, and on with the next batch


class Rest(Loader):
    """A loader that begins within its epoch, as one with `TrainBatchSampler` does."""

    def __init__(self, whole, first):
        super().__init__(whole[first:], whole.num_images)
        self.whole = whole

    def __len__(self):
        return len(self.whole)


@pytest.mark.parametrize("done", [2, 4, 5])
def test_an_epoch_in_two_parts_is_the_epoch(done):
    def logger():
        return MetricLogger(enabled=False)

    options = {"accumulate": 2, "seed": 3, "epoch": 1, "lr_factor": lambda step: 1 / (1 + step)}
    batches, saved = loader([1, 2, 1, 2, 1]), {}
    whole, whole_logger = Toy(dropout=0.5), logger()

    def after_step(batches_done):
        if batches_done == done:
            saved.update(model=copy.deepcopy(whole.state_dict()), meters=copy.deepcopy(whole_logger.state_dict()))

    expected, optimizer = train(whole, batches, after_step=after_step, logger=whole_logger, **options)
    rest, rest_logger = Toy(dropout=0.5), logger()
    rest.load_state_dict(saved["model"])
    rest_logger.load_state_dict(saved["meters"])
    got, rest_optimizer = train(rest, Rest(batches, done), first_batch=done, logger=rest_logger, **options)
    assert got == expected and rest.weight.item() == whole.weight.item()
    assert rest_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert rest_logger.means() == whole_logger.means() and str(rest_logger) == str(whole_logger)


def test_an_empty_loader_says_what_to_do():
    with pytest.raises(InputError, match="--batch-size"):
        train(Toy(), Loader([], 0))


def test_clipping():
    model = Toy()
    train(model, loader([1]), clip_grad_norm=0.5)
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * 0.5, abs=1e-5)


def test_random_choices_depend_on_seed_and_step_only():
    weights = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model = Toy(dropout=0.5)
        train(model, loader([2, 2]), seed=7)
        weights.append(model.weight.item())
    assert weights[0] == weights[1]


def test_bf16_autocast_trains():
    (mean_loss, _), _ = train(Toy(), loader([1]), amp_dtype=torch.bfloat16)
    assert mean_loss.item() == pytest.approx(1.0, abs=0.02)


def test_bad_samples_stop_above_the_limit():
    bad = BadSamples(limit=1)
    bad.count([{"unreadable": "a.jpg"}, {}])
    bad.count([{"unreadable": "a.jpg"}])  # the same file again is one file
    bad.check()
    with pytest.raises(InputError, match=r"--max-bad-samples 1: a\.jpg, b\.jpg"):
        bad.count([{"unreadable": "b.jpg"}])


def test_evaluate_gives_the_twelve_numbers():
    stats = evaluate(Toy(), loader([2, 1]), CPU)
    assert len(stats) == 12 and stats[0] == pytest.approx(1.0) and stats[4] == -1


def test_detections_of_unreadable_images_are_left_out_and_named(capsys):
    batches = loader([2])
    batches[0][1][0]["unreadable"] = "picture_0.jpg"
    assert detect(Toy(), batches, CPU)["image_index"].tolist() == [1]
    assert "count as missed: picture_0.jpg" in capsys.readouterr().out


class Scaler:
    """Stands in for torch's GradScaler: one overflow is skipped, not fatal."""

    skipped = 0

    def is_enabled(self):
        return True

    def scale(self, loss):
        return loss

    def step(self, optimizer):
        finite = all(p.grad is None or p.grad.isfinite().all() for group in optimizer.param_groups for p in group["params"])
        optimizer.step() if finite else None
        self.skipped += not finite

    def update(self):
        pass


def test_an_fp16_overflow_is_skipped_but_not_for_ever():
    model, scaler = Toy(), Scaler()
    bad, good = sample(0, math.nan), sample(1)
    train(model, Loader([tuple(zip(bad)), tuple(zip(good))], 2), scaler=scaler, amp_dtype=torch.bfloat16)
    assert scaler.skipped == 1 and model.weight.item() == pytest.approx(1.8, abs=0.02)
    with pytest.raises(InputError, match="not finite"):
        train(Toy(), Loader([tuple(zip(bad))] * 12, 12), scaler=Scaler(), amp_dtype=torch.bfloat16)


def test_merging_nothing():
    merged = merge_detections([EMPTY_ROW, EMPTY_ROW])
    assert merged["boxes"].shape == (0, 4) and merged["labels"].dtype == np.int64


def test_merging_puts_images_in_order_and_maps_labels():
    def row(index, label):
        return np.array([index]), np.array([label]), np.array([0.5], np.float32), np.zeros((1, 4), np.float32)

    merged = merge_detections([row(2, 1), row(0, 2), row(1, 3)], label_map(["a", "b", "c"], ["b", "a"]))
    assert merged["image_index"].tolist() == [0, 2] and merged["labels"].tolist() == [1, 2]  # "c" is dropped


def test_label_map():
    assert label_map(["a", "b"], ["a", "b"]) is None
    assert label_map(["a", "b"], ["b"]).tolist() == [0, 0, 1]
    with pytest.raises(InputError, match="no name in common"):
        label_map(["a"], ["b"])


def test_validation_loss_changes_nothing():
    model = Toy(dropout=0.5).train()
    statistics, state = model.norm.running_mean.clone(), torch.get_rng_state()
    losses = validation_losses(model, loader([2, 1]), CPU)
    assert losses == {"loss_count": pytest.approx(1.0), "loss_zero": 0.0}
    assert torch.equal(model.norm.running_mean, statistics) and torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_eval_mode_restores_every_module():
    model = Toy()
    model.norm.eval()
    with eval_mode(model):
        assert not model.training
    assert model.training and not model.norm.training
