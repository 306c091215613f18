"""Damaged annotation files of every format: they open, or one sentence names the file; no traceback, no hang."""

import contextlib
import json
import signal
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from format_data import CLASSES, make_scenes, write_set
from fuzz import mutate

from datasets.annotations import STOP, summarise_faults
from datasets.errors import InputError
from datasets.image_io import UnreadableImage
from datasets.open_dataset import open_dataset

MAX_SECONDS = 5


class Case(NamedTuple):
    """A file to damage: its format, where it is in the data set, how many damaged copies, whether it lists names or files.

    What such a list says wrongly comes to light where it is used: then another file below the data set's folder may be named.
    """

    kind: str
    file: str
    count: int
    is_list: bool = False


CASES = [
    Case("voc", "Annotations/train_01.xml", 110),
    Case("voc", "ImageSets/Main/train.txt", 30, True),
    Case("voc", "labels.txt", 25, True),
    Case("coco", "annotations/instances_train.json", 120),
    Case("openimages", "train-annotations-bbox.csv", 70),
    Case("openimages", "class-descriptions-boxable.csv", 25, True),
    Case("yolo", "labels/train/train_01.txt", 40),
    Case("yolo", "train.txt", 20, True),
    Case("yolo", "obj.names", 15, True),
    Case("yolo", "obj.data", 20, True),
    Case("yolo", "data.yaml", 25, True),
]


class Hang(BaseException):
    """Not an Exception: nothing between here and the test may catch it."""


@contextlib.contextmanager
def watchdog(seconds: float):
    """Raises Hang if the block takes more CPU seconds, or twelve times as many of the clock: other programs may be busy, too."""
    def bark(*_):
        raise Hang(f"still busy after {seconds} s")

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 12 * seconds)}
    before = {number: signal.signal(number, bark) for number in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def make_clean(root: Path, case: Case) -> Path:
    """The data set of the case without any damage; returns the folder to open."""
    write_set(case.kind, root, make_scenes(4, 1))
    path = root / case.file
    if case.kind == "coco":  # in lines, as the other formats are
        path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    elif case.file == "labels.txt":
        path.write_text("".join(f"{name}\n" for name in CLASSES))
    elif case.file == "data.yaml":
        path.write_text(f"path: .\ntrain: images/train\nval: images/val\n\nnc: 3\nnames: [{', '.join(CLASSES)}]\n")
    elif case.file == "train.txt":
        path.write_text("".join(f"./images/train/train_{k:02d}.jpg\n" for k in range(4)))
        (root / "obj.data").write_text("train = train.txt\nnames = obj.names\n")
    return root


def check_damaged(case: Case, root: Path, seed: int) -> str:
    """Damages the case's file in its otherwise clean data set, opens that, and puts the file back.

    Returns:
        "refused", "faults" or "opened".

    Raises:
        AssertionError: with the seed; anything but a data set in order or one sentence that names the file.
    """
    path = root / case.file
    clean = path.read_bytes()
    path.write_bytes(mutate(clean, path.suffix, seed))
    try:
        with watchdog(MAX_SECONDS), np.errstate(all="raise"):
            return _check_both(case, root)
    except (Exception, Hang) as error:
        raise AssertionError(f"{case.kind} {case.file}, seed {seed}: {''.join(traceback.format_exception(error))}") from None
    finally:
        path.write_bytes(clean)


def _check_both(case: Case, root: Path) -> str:
    """Inspection and training meet the same file: they agree on whether it can be used."""
    listed, strict = _open(case, root, strict=False), _open(case, root, strict=True)
    if isinstance(listed, str):
        assert isinstance(strict, str), f"an inspection says {listed}, training opens it"
        return "refused"
    check_samples(listed)
    stops = [fault for fault in listed.faults if fault.action == STOP]
    assert isinstance(strict, str) == bool(stops), f"training says {strict!r}, an inspection {stops}"
    if not stops:
        assert [str(fault) for fault in strict.faults] == [str(fault) for fault in listed.faults]
        assert np.array_equal(strict.table.boxes, listed.table.boxes)
    return "refused" if stops else "faults" if listed.faults else "opened"


def _open(case: Case, root: Path, strict: bool):
    """The data set, or the sentence of its refusal."""
    try:
        dataset = open_dataset(case.kind, root, "train", strict=strict)
    except (InputError, FileNotFoundError) as error:
        named = Path(case.file).name in str(error) or case.is_list and f"{root}/" in str(error)
        assert named, f"no file is named: {error}"
        str(error).encode()  # can be printed
        return str(error)
    return dataset


def check_samples(dataset) -> None:
    """All boxes are finite and inside the image, all labels are classes, and what was found can be printed."""
    "\n".join([*dataset.class_names, *map(str, dataset.faults), *summarise_faults(dataset.faults)]).encode()
    for index in range(len(dataset)):
        (height, width), target = dataset.coco_index(index)
        boxes, labels = target["boxes"], target["labels"]
        assert boxes.shape == (len(labels), 4) and torch.isfinite(boxes).all() and torch.isfinite(target["area"]).all()
        assert (boxes >= 0).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert ((labels >= 1) & (labels <= len(dataset.class_names))).all()
        with contextlib.suppress(UnreadableImage):  # as where boxes of another size lie outside
            assert dataset[index][0].dtype == torch.uint8
    truth = dataset.ground_truth()
    assert np.isfinite(truth["boxes"]).all() and truth["num_images"] == len(dataset) > 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: Path(case.file).name)
@pytest.mark.filterwarnings("error::RuntimeWarning", "ignore:.*its boxes are used as they stand")
def test_damaged_file(case, tmp_path):
    root = make_clean(tmp_path / "data", case)
    clean = open_dataset(case.kind, root, "train", strict=False)
    assert len(clean.table.boxes) > 4 and not [fault for fault in clean.faults if fault.file.endswith(case.file)]
    outcomes = [check_damaged(case, root, seed) for seed in range(case.count)]
    # The damage is neither so coarse that nothing is read nor so fine that nothing is found.
    assert len(set(outcomes)) > 1, outcomes


def test_number_of_damaged_files():
    assert sum(case.count for case in CASES) == 500


def test_mutations_are_seeded():
    data = b'{"id": 17, "name": "cat"}'
    assert [mutate(data, ".json", seed) for seed in range(50)] == [mutate(data, ".json", seed) for seed in range(50)]
    assert len({mutate(data, ".json", seed) for seed in range(50)}) > 35
    for suffix in (".xml", ".json", ".csv", ".txt", ".yaml"):
        assert all(isinstance(mutate(b"", suffix, seed), bytes) for seed in range(50))


@pytest.mark.parametrize("wait", [lambda: None, lambda: time.sleep(0.01)], ids=["busy", "asleep"])
def test_watchdog_barks(wait):
    with pytest.raises(Hang), watchdog(0.05):
        while True:
            wait()
