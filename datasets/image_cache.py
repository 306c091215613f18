"""Decoded pictures kept in memory, for sets that fit there: after the first epoch no file is read any more."""

import mmap
import os

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.concat import JoinedDataset
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError


class CachedImages(Dataset):
    """A data set that decodes every picture once; everything else is passed through.

    It takes `num_bytes` of memory: three for each pixel of each picture at its full size (640x480: 0.9 MB), as they are read. The
    memory is shared with worker processes that are forked (the usual way on Linux), so that all of them together fill and use one
    copy; a worker that is started otherwise, and each process of a distributed run, has a copy of its own.

    The image handed out is a copy, since an augmentation may write into it: a tenth of a millisecond for 640x480, where decoding
    takes several. A picture that is not of the size that its annotation says is decoded anew each time.

    Args:
        dataset: a data set without transforms of its own.

    Raises:
        InputError: the system refuses so much memory.
    """

    def __init__(self, dataset: DetectionDataset | JoinedDataset):
        parts = dataset.datasets if isinstance(dataset, JoinedDataset) else [dataset]
        if any(part.transforms is not None for part in parts):
            raise ValueError("a data set with transforms cannot be cached: they would be applied once, not at every reading")
        self.dataset = dataset
        self._allocate()

    def _allocate(self) -> None:
        sizes = np.array([self.get_height_and_width(i) for i in range(len(self))], dtype=np.int64)  # [n, 2]
        self._ends = np.cumsum(3 * sizes.prod(axis=1))
        try:
            # Anonymous shared memory rather than a tensor's: small containers have next to nothing of /dev/shm.
            self._pixels = np.frombuffer(mmap.mmap(-1, self.num_bytes), dtype=np.uint8)
            self._is_filled = np.frombuffer(mmap.mmap(-1, len(self)), dtype=np.bool_)
        except OSError as error:
            raise InputError(f"the pictures need {self.num_bytes / 2**30:.1f} GiB of memory, which cannot be had "
                             f"({os.strerror(error.errno)}); train without keeping them (--cache-images)") from error

    @property
    def num_bytes(self) -> int:
        """The memory that all pictures take."""
        return int(self._ends[-1])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        """One sample; raises `UnreadableImage` as the data set does."""
        index = range(len(self))[index]
        place = self._place(index)  # [3, H, W]
        if self._is_filled[index]:
            return torch.from_numpy(place.copy()), self.dataset.coco_index(index)[1]
        image, target = self.dataset[index]
        if tuple(image.shape) == place.shape:
            place[:] = image.numpy()
            self._is_filled[index] = True  # last: another process may be reading
        return image, target

    def _place(self, index: int) -> np.ndarray:
        shape = (3, *self.get_height_and_width(index))
        end = self._ends[index]
        return self._pixels[end - np.prod(shape) : end].reshape(shape)

    def __getstate__(self) -> dict:
        """Without the pictures: a process that is not forked begins with an empty memory."""
        return {"dataset": self.dataset}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._allocate()

    @property
    def class_names(self) -> list[str]:
        """As of the data set."""
        return self.dataset.class_names

    @property
    def faults(self) -> list:
        """As of the data set."""
        return self.dataset.faults

    @property
    def has_difficult(self) -> bool:
        """As of the data set."""
        return self.dataset.has_difficult

    def coco_index(self, index: int) -> tuple[tuple[int, int], dict]:
        """((height, width), target) without the image."""
        return self.dataset.coco_index(index)

    def get_height_and_width(self, index: int) -> tuple[int, int]:
        """(height, width) as annotated."""
        return self.dataset.get_height_and_width(index)

    def image_path(self, index: int) -> str:
        """Path of the image, for messages."""
        return self.dataset.image_path(index)

    def ground_truth(self) -> dict:
        """As of the data set."""
        return self.dataset.ground_truth()
