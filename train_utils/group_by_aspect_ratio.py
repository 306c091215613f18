"""Batches of images of similar shape: less padding, hence less time, in detectors that pad to the batch.

`create_aspect_ratio_groups` gives every image a group by its width / height; `GroupedBatchSampler` makes batches
that never mix groups.
"""

import bisect
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from train_utils.any_dataset import height_and_width


def aspect_ratio_bins(k: int) -> list[float]:
    """Borders between the groups: 2 ** linspace(-1, 1, 2 k + 1), or the single border 1.0 for k = 0."""
    return (2 ** np.linspace(-1, 1, 2 * k + 1)).tolist() if k > 0 else [1.0]


def create_aspect_ratio_groups(dataset, k: int = 0) -> list[int]:
    """The group of every image of `dataset`: the number of borders at or below its width / height.

    Args:
        dataset: anything with `len()` and `get_height_and_width(index) -> (height, width)`, or a `Subset` of it: no image is
            decoded; or else a list of samples, or any data set: every image is read once.
        k: detail; 2 k + 1 borders between 0.5 and 2, or portrait / landscape only for 0.
    """
    borders = aspect_ratio_bins(k)
    sizes = (height_and_width(dataset, index) for index in range(len(dataset)))
    return [bisect.bisect_right(borders, width / height) for height, width in sizes]


class GroupedBatchSampler(Sampler):
    """Batches of one group each, of constant size, in the order in which the groups' buffers fill up.

    The number of batches is `len(sampler) // batch_size`. What is left in the buffers at the end is completed, the
    fullest buffer first, with images of the same group seen earlier in the epoch; the rest waits for another epoch.

    Args:
        sampler: yields indices, for instance a `DistributedSampler`.
        group_ids: group of every index of the data set.
        batch_size: images per batch.

    Raises:
        ValueError: `sampler` is not a `torch.utils.data.Sampler`.
    """

    def __init__(self, sampler: Sampler, group_ids: list[int], batch_size: int):
        if not isinstance(sampler, Sampler):
            raise ValueError(f"sampler must be a torch.utils.data.Sampler, not {type(sampler).__name__}")
        self.sampler = sampler
        self.group_ids = group_ids
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        buffers: OrderedDict[int, list[int]] = OrderedDict()  # group -> indices waiting, oldest buffer first
        seen: dict[int, list[int]] = {}  # group -> indices of this epoch, in order
        made = 0
        for index in self.sampler:
            group = self.group_ids[index]
            buffers.setdefault(group, []).append(index)
            seen.setdefault(group, []).append(index)
            if len(buffers[group]) == self.batch_size:
                yield buffers.pop(group)
                buffers[group] = []  # re-created behind the others at once: that order decides ties below
                made += 1
        yield from self._completed(buffers, seen, len(self) - made)

    def _completed(self, buffers, seen, missing: int) -> Iterator[list[int]]:
        fullest_first = sorted(buffers, key=lambda group: len(buffers[group]), reverse=True)
        for group in fullest_first[: max(0, missing)]:
            batch = buffers[group]
            lacking = self.batch_size - len(batch)
            again = [seen[group][i % len(seen[group])] for i in range(lacking)]
            yield batch + again
