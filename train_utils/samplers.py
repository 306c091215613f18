"""Which images make which batch, for training and for evaluation.

The whole list of an epoch's batches is built first, from (seed, epoch) alone, then dealt to the processes. So a
restart can skip what was seen without loading it, `len` is exact, and no random state needs saving.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from train_utils.batch import Batch
from train_utils.errors import InputError
from train_utils.group_by_aspect_ratio import GroupedBatchSampler


def collate_fn(samples: Sequence[tuple[Any, Any]]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """[(image, target), ...] -> ((image, ...), (target, ...)): images keep their own sizes, the model batches them."""
    return Batch(zip(*samples))


class _Order(Sampler):
    """A fixed list of indices as a Sampler."""

    def __init__(self, indices: list[int]):
        self.indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class TrainBatchSampler(Sampler):
    """This process's batches of `(epoch, index)` pairs; the pair tells the data set which augmentation to draw.

    One process keeps a short last batch of at least `smallest_batch` images; several drop what does not fill a batch
    on each, since every process must take the same number of steps. With `group_ids` every batch is full and of one
    group.

    Args:
        num_images: size of the data set.
        batch_size: images per batch and process.
        group_ids: group of every image (see `create_aspect_ratio_groups`), or None for no grouping.
        seed: with the epoch, decides the order.
        rank, world_size: this process's share is every `world_size`-th batch from `rank` on.
        smallest_batch: 2 for a network whose BatchNorm cannot learn from one image.

    Raises:
        InputError: the data set does not fill one batch on every process (one process without grouping may be short).
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        group_ids: list[int] | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        smallest_batch: int = 1,
    ):
        self.smallest_batch = smallest_batch
        self.num_images, self.batch_size, self.group_ids = num_images, batch_size, group_ids
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch, self.first_batch = 0, 0
        may_be_short = world_size == 1 and group_ids is None
        needed = smallest_batch if may_be_short else batch_size * world_size
        if num_images < needed:
            remedy = "add images" if may_be_short else "lower --batch-size"
            raise InputError(
                f"{world_size} process(es) with a batch of {batch_size} need {needed} training images "
                f"at least, the data set has {num_images}: {remedy}"
            )

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch, and how many of its batches to leave out because they were seen before a restart."""
        self.epoch, self.first_batch = epoch, first_batch

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of this process for an epoch, as image indices."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.num_images, generator=generator).tolist()
        if self.group_ids is None:
            everything = [order[i : i + self.batch_size] for i in range(0, self.num_images, self.batch_size)]
            everything = [batch for batch in everything if len(batch) >= self.smallest_batch]
        else:
            everything = list(GroupedBatchSampler(_Order(order), self.group_ids, self.batch_size))
        if self.world_size > 1:
            full = self.num_images // self.batch_size
            everything = everything[: full - full % self.world_size]
        return everything[self.rank :: self.world_size]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches(self.epoch)[self.first_batch :]:
            yield [(self.epoch, index) for index in batch]

    def __len__(self) -> int:
        full = self.num_images // self.batch_size
        if self.world_size == 1 and self.group_ids is None:
            return full + (self.num_images % self.batch_size >= self.smallest_batch)
        return full // self.world_size


def evaluation_batches(
    padded_sizes: Sequence[tuple[int, int]], batch_size: int, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """This process's evaluation batches: images of equal padded size only, each image exactly once over all processes.

    The padding of a batch moves scores a little. With equal sizes an image gets the padding it would get alone, so
    neither the batch size nor the number of processes changes a metric.

    Args:
        padded_sizes: (height, width) of the network input of every image.
        batch_size: images per batch at most.
    """
    waiting: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(padded_sizes):
        waiting.setdefault(size, []).append(index)
    everything = [
        indices[i : i + batch_size] for indices in waiting.values() for i in range(0, len(indices), batch_size)
    ]
    return everything[rank::world_size]
