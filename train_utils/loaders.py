"""DataLoaders of the scripts: workers that stay, memory that a GPU can copy from, batches as the samplers say."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import util
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from train_utils.any_dataset import height_and_width
from train_utils.distributed_utils import get_rank, get_world_size
from train_utils.failures import end_on_lost_batch
from train_utils.samplers import collate_fn, evaluation_batches
from train_utils.signals import end_workers, leave_signals_to_parent, signals_held


def prepare_worker(worker_id: int) -> None:
    """The `worker_init_fn` of a `Loader`."""
    end_on_lost_batch()
    leave_signals_to_parent(worker_id)


class Loader(DataLoader):
    """A DataLoader whose workers leave requests to stop to their parent, which still wants their batches, and never keep it
    waiting for a batch that cannot come.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, worker_init_fn=prepare_worker, **options)
        if self.num_workers > 0:
            util.Finalize(None, end_workers, exitpriority=0)  # called before multiprocessing's own clean-up

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers == 0:
            return super().__iter__()
        with signals_held((self.multiprocessing_context or multiprocessing).get_start_method()):
            return super().__iter__()


def make_loader(data: Dataset, batches: Iterable, device: torch.device, workers: int) -> Loader:
    """A loader of (images, targets) that keeps its workers from epoch to epoch.

    Args:
        batches: lists of keys of `data`, a batch each, e.g. a `TrainBatchSampler`.
    """
    return Loader(data, batch_sampler=batches, collate_fn=collate_fn, num_workers=workers,
                  pin_memory=device.type == "cuda", persistent_workers=workers > 0)


def evaluation_loader(
    val_set: Dataset, padded_size: Callable[[int, int], tuple[int, int]], batch_size: int, device: torch.device, workers: int
) -> Loader:
    """This process's share of the validation data, in batches of one padded size each.

    Args:
        padded_size: (height, width) of an image -> those of its network input, the model's `transform.padded_size`.
    """
    sizes = [padded_size(*height_and_width(val_set, i)) for i in range(len(val_set))]
    batches = evaluation_batches(sizes, batch_size, get_rank(), get_world_size())
    return make_loader(val_set, batches, device, workers)
