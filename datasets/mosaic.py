"""Training samples of four pictures each, which meet at a random point.

Words:  canvas = a square of twice the output's side, of which the output shows the middle; it exists only as
        coordinates: each picture is drawn straight into the output.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from datasets.errors import InputError
from datasets.samples import TrainingSamples, sample_generator
from datasets.transforms import RandomHorizontalFlip
from datasets.yolo_augmentation import HSVJitter, RandomAffine, fitted_size, placement, render, yolo_recipe

MOSAIC_MIN_AREA = 0.2  # share of the scaled box that must be left: many are cut here, and slivers teach nothing


class Mosaic(TrainingSamples):
    """`TrainingSamples` of which a part are mosaics: this picture and three others, drawn from the sample's generator.

    Each picture is resized to a long side of `size`. On a canvas of 2 size x 2 size they meet at a point uniform in
    size / 2..3 size / 2 along both sides: this one is top left, the others top right, bottom left and bottom right.
    The random affine acts on the canvas, and the output is its middle: uint8 [3, size, size], grey where no picture is.
    HSV and mirror come last. The other samples get `yolo_recipe`.

    `image_id` is that of the first picture. If pictures had to be replaced, `unreadable` is the path of the first that
    was: one path, so that counting the different paths counts the broken files.

    Args:
        dataset, seed: as of `TrainingSamples`.
        size: pixels of the network's input.
        hyp: hyper-parameters as of `yolo_recipe`.
        probability: share of mosaics, 0..1.
        hflip: probability of mirroring.

    Raises:
        InputError: a size, probability or hyper-parameter that cannot be used.
    """

    def __init__(self, dataset: Dataset | Sequence, size: int, hyp: Mapping[str, float], probability: float = 1.0,
                 hflip: float = 0.5, seed: int = 0):
        super().__init__(dataset, yolo_recipe(size, hyp, hflip), seed)
        if not 0 <= probability <= 1:
            raise InputError(f"the probability of a mosaic is {probability:g}; give a value in 0..1")
        self.size = size
        self.probability = probability
        self.affine = RandomAffine(hyp)
        self.colours = HSVJitter(hyp)
        self.flip = RandomHorizontalFlip(hflip)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, dict]:
        """One sample; raises as `TrainingSamples` does."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]
        generator = sample_generator(self.seed, epoch, index)
        first = self._read(index)
        if torch.rand(1, generator=generator).item() >= self.probability:
            return self.transform(*first, generator)
        others = torch.randint(len(self), (3,), generator=generator).tolist()
        samples = [first, *(self._read(other) for other in others)]
        image, target = self._join(samples, generator)
        replaced = [target["unreadable"] for _, target in samples if "unreadable" in target]
        if replaced:
            target["unreadable"] = replaced[0]
        return self.flip(image, target, generator)

    def _join(self, samples: Sequence[tuple[Tensor, dict]], generator: Generator) -> tuple[Tensor, dict]:
        """Four samples in one, without the mirror."""
        # Whole pixels: without rotation and scale the seams lie between pixels.
        x, y = (self.size * (0.5 + torch.rand(2, generator=generator))).round().int().tolist()
        affine = self.affine((2 * self.size, 2 * self.size), (self.size, self.size), generator)
        parts = []
        for number, (image, target) in enumerate(samples):
            height, width = image.shape[1:]
            new_height, new_width = fitted_size(height, width, self.size)
            left = x if number % 2 else x - new_width
            top = y if number >= 2 else y - new_height
            parts.append((image, target, affine @ placement(height, width, (new_height, new_width), left, top)))
        return render(parts, (self.size, self.size), MOSAIC_MIN_AREA, self.colours, generator)
