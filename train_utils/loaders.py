"""DataLoaders of the scripts: workers that stay, memory that a GPU can copy from, batches as the samplers say."""

from collections.abc import Callable, Iterable

import torch
from torch.utils.data import DataLoader, Dataset

from train_utils.any_dataset import height_and_width
from train_utils.distributed_utils import get_rank, get_world_size
from train_utils.samplers import collate_fn, evaluation_batches


def make_loader(data: Dataset, batches: Iterable, device: torch.device, workers: int) -> DataLoader:
    """A loader of (images, targets) that keeps its workers from epoch to epoch.

    Args:
        batches: lists of keys of `data`, a batch each, e.g. a `TrainBatchSampler`.
    """
    return DataLoader(data, batch_sampler=batches, collate_fn=collate_fn, num_workers=workers,
                      pin_memory=device.type == "cuda", persistent_workers=workers > 0)


def evaluation_loader(
    val_set: Dataset, padded_size: Callable[[int, int], tuple[int, int]], batch_size: int, device: torch.device, workers: int
) -> DataLoader:
    """This process's share of the validation data, in batches of one padded size each.

    Args:
        padded_size: (height, width) of an image -> those of its network input, the model's `transform.padded_size`.
    """
    sizes = [padded_size(*height_and_width(val_set, i)) for i in range(len(val_set))]
    batches = evaluation_batches(sizes, batch_size, get_rank(), get_world_size())
    return make_loader(val_set, batches, device, workers)
