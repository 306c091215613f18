"""Workers that inherit no memory (spawn, forkserver): everything the scripts load travels to them and gives the same batches."""

import pickle

import pytest
import torch
from format_data import CLASSES, FORMATS, make_scenes, write_set
from torch.utils.data import Dataset, Subset

from datasets.balance import balanced_subset
from datasets.image_cache import CachedImages
from datasets.mosaic import Mosaic
from datasets.open_dataset import open_dataset
from datasets.samples import TrainingSamples
from datasets.ssd_augmentation import RECIPES
from datasets.transforms import Compose, PhotometricDistort, RandomHorizontalFlip
from datasets.yolo_augmentation import plain_recipe, yolo_recipe
from train_utils.loaders import make_loader
from train_utils.samplers import TrainBatchSampler

MEAN = (0.48235, 0.45882, 0.40784)
HYP = {"degrees": 5, "translate": 0.1, "scale": 0.1, "shear": 2, "hsv_h": 0.0138, "hsv_s": 0.678, "hsv_v": 0.36}
RECIPES_OF_SCRIPTS = {
    "fasterrcnn": Compose([RandomHorizontalFlip(0.5), PhotometricDistort()]),
    **{f"ssd {name}": recipe(96, MEAN, 0.5) for name, recipe in RECIPES.items()},
    "yolo": yolo_recipe(96, HYP), "yolo rect": yolo_recipe(96, HYP, rect=True), "yolo plain": plain_recipe(0.5),
}


class Several(Dataset):
    """Many data sets in one loader, since starting a process takes seconds: keys are (name of the data set, its key)."""

    def __init__(self, parts: dict[str, Dataset]):
        self.parts = parts

    def __getitem__(self, key):
        name, inner = key
        return self.parts[name][inner]

    def batches(self, epoch: int) -> list[list]:
        """What the scripts' sampler makes of each part."""
        batches = []
        for name, part in self.parts.items():
            sampler = TrainBatchSampler(len(part), 3, seed=1)
            sampler.set_epoch(epoch)
            batches += [[(name, key) for key in batch] for batch in sampler]
        return batches


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same pictures in every format."""
    return {kind: write_set(kind, tmp_path_factory.mktemp("data") / kind, make_scenes()) for kind in FORMATS}


@pytest.fixture(scope="module")
def sets(folders):
    """What `open_dataset` gives: each format, several joined, one class of all, and parts of a data set."""
    found = {kind: open_dataset(kind, folder, "train") for kind, folder in folders.items()}
    found["joined"] = open_dataset("auto", [folders["yolo"], folders["voc"]], "train")
    found["single class"] = open_dataset("coco", folders["coco"], "train", single_class=True)
    found["difficult"] = open_dataset("voc", folders["voc"], "train", skip_difficult=True, drop_empty=True)
    found["subset"] = Subset(Subset(found["joined"], list(range(3, 13))), [9, 0, 4, 2])
    found["balanced"] = balanced_subset(found["coco"], 0)[0]
    return found


def as_scripts_load(sets: dict) -> dict[str, Dataset]:
    """A training set for every recipe, over different data sets."""
    names = list(sets)
    parts = {recipe: TrainingSamples(sets[names[k % len(names)]], transform, seed=k)
             for k, (recipe, transform) in enumerate(RECIPES_OF_SCRIPTS.items())}
    parts["mosaic"] = Mosaic(CachedImages(sets["yolo"]), 96, HYP, seed=3)
    parts["mosaic joined"] = Mosaic(CachedImages(sets["joined"]), 96, HYP, probability=0.5)
    parts["cached"] = TrainingSamples(CachedImages(sets["voc"]), RECIPES_OF_SCRIPTS["ssd ssd"])
    parts["as it is"] = TrainingSamples(sets["subset"])
    parts["reduced"] = TrainingSamples(open_reduced(sets["coco"]))
    return parts


def open_reduced(dataset) -> Dataset:
    """A copy that decodes JPEGs smaller."""
    copy = pickle.loads(pickle.dumps(dataset))
    copy.decode_side = 36
    return copy


def assert_same(one: tuple, other: tuple) -> None:
    """Two samples are equal, bit for bit."""
    (image, target), (other_image, other_target) = one, other
    assert image.dtype == other_image.dtype == torch.uint8 and torch.equal(image, other_image)
    assert target.keys() == other_target.keys()
    for key, value in target.items():
        assert type(value) is type(other_target[key])
        if isinstance(value, torch.Tensor):
            assert value.dtype == other_target[key].dtype and torch.equal(value, other_target[key]), key
        else:
            assert value == other_target[key], key


@pytest.mark.parametrize("method, workers", [("spawn", 1), ("forkserver", 2)])
def test_batches_are_equal(sets, method, workers):
    several = Several(as_scripts_load(sets))
    batches = several.batches(5)
    loader = make_loader(several, batches, torch.device("cpu"), workers)
    loader.multiprocessing_context = method
    expected = list(make_loader(several, batches, torch.device("cpu"), 0))
    assert len(expected) > 30 and any(len(target["boxes"]) == 0 for _, targets in expected for target in targets)
    for _ in range(2):  # the second time cached pictures are those that the worker keeps
        found = list(loader)
        assert len(found) == len(expected)
        for (images, targets), (other_images, other_targets) in zip(found, expected):
            assert len(images) == len(other_images)
            for one, other in zip(zip(images, targets), zip(other_images, other_targets)):
                assert_same(one, other)


def test_every_data_set_can_be_sent(sets):
    for name, dataset in sets.items():
        copy = pickle.loads(pickle.dumps(dataset))
        assert len(copy) == len(dataset) > 0, name
        for index in range(len(dataset)):
            assert_same(copy[index], dataset[index])
        if not isinstance(dataset, Subset):
            truth, other = dataset.ground_truth(), copy.ground_truth()
            assert truth["boxes"].tolist() == other["boxes"].tolist() and copy.class_names == dataset.class_names
            assert copy.class_names == (["object"] if name == "single class" else list(CLASSES))
            assert [str(fault) for fault in copy.faults] == [str(fault) for fault in dataset.faults]


def test_every_recipe_can_be_sent(sets):
    for transform in RECIPES_OF_SCRIPTS.values():
        samples = TrainingSamples(sets["voc"], transform, seed=9)
        copy = TrainingSamples(sets["voc"], pickle.loads(pickle.dumps(transform)), seed=9)
        for index in range(3):  # the last one has no objects
            assert_same(copy[(2, index)], samples[(2, index)])
