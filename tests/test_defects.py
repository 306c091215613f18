"""Every defect of a data set, in every format: what the check says of it, what training sees of the data, and that it trains.

DETECTION_ALL_DEFECTS=1 also trains each script on every defect by itself (minutes), and compares datasets/FAULTS.md with what
comes out; DETECTION_DEFECT_TABLE=datasets/FAULTS.md writes that file anew.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest
from conftest import ROOT
from defects import DEFECTS, NOT_A_DEFECT, Defect, expected_objects
from format_data import FORMATS, Objects, make_scenes, write_set
from runs import expect_one_sentence

import check_dataset
import train_fasterrcnn
import train_ssd
import train_yolov3
from datasets import InputError
from datasets.annotations import DROP_IMAGE, DROP_OBJECT, FIX, STOP, WARN
from datasets.open_dataset import open_dataset
from datasets.samples import TrainingSamples

TABLE_HEAD = """\
# What is wrong with data, and what happens

`check_dataset.py` names each defect by file and line, object or record; training does what the action says. Written by
`DETECTION_ALL_DEFECTS=1 DETECTION_DEFECT_TABLE=datasets/FAULTS.md python -m pytest tests/test_defects.py -k table`.

* warn: the data are used as they are. fix: they are mended while reading, the files stay as they are.
* drop object, drop image: training goes on without it. Images that cannot be decoded are replaced by others, up to
  `--max-bad-samples`.
* stop: one sentence and exit code 2 before the first step.

An empty cell: the format cannot hold the defect, or it is the same as in the first column that is filled.

"""
EXIT_CODES = {WARN: 0, FIX: 0, DROP_OBJECT: 1, DROP_IMAGE: 1, STOP: 2}
PICTURE = "train_03"  # what a defect by itself is planted into
FIRST_FREE = 3  # pictures before this one stay clean
TRAINED = [defect for defect in DEFECTS if defect.action != STOP]
REFUSED = [defect for defect in DEFECTS if defect.action == STOP]
TOGETHER = [defect for defect in TRAINED if defect.action != WARN]
COMMON = ["--batch-size", "4", "--lr", "0.001", "--print-freq", "100", "--device", "cpu", "--workers", "0", "--opt", "sgd",
          "--epochs", "1"]
SCRIPTS = {
    "faster rcnn": (train_fasterrcnn, ["--backbone", "small_cnn", "--min-size", "64", "--max-size", "96", "--roi-samples", "8",
                                       "--rpn-top-n", "20", "--weights-backbone", "none"]),
    "ssd": (train_ssd, ["--net", "small-ssd", "--resolution", "96", "--weights-backbone", "none"]),
    "yolo": (train_yolov3, ["--cfg", "cfg/yolov3-small.cfg", "--img-size", "96"]),
}
ALL = os.environ.get("DETECTION_ALL_DEFECTS") == "1"
needs_time = pytest.mark.skipif(not ALL, reason="trains on every defect by itself, for minutes; set DETECTION_ALL_DEFECTS=1")


@pytest.fixture(scope="session")
def clean(tmp_path_factory) -> Path:
    """A folder with a clean data set for each format."""
    folder = tmp_path_factory.mktemp("clean")
    for kind in FORMATS:
        write_set(kind, folder / kind, make_scenes())
    return folder


@pytest.fixture
def damage(clean, tmp_path):
    """Make a data set with a defect; returns its folder."""
    def plant(defect: Defect) -> Path:
        folder = tmp_path / "data"
        shutil.copytree(clean / defect.format, folder)
        defect.plant(folder, PICTURE)
        return folder

    return plant


def by_name(defects: list[Defect]) -> list:
    return [pytest.param(defect, id=str(defect)) for defect in defects]


def words_for(kind: str, folder: Path, options: tuple[str, ...]) -> list[str]:
    """The data flags of a command line."""
    return ["--dataset", kind, "--data-path", str(folder), *(f"--{name.replace('_', '-')}" for name in options)]


def check(kind: str, folder: Path, options: tuple[str, ...]) -> tuple[int, list[dict]]:
    """(exit code, faults of the report) of check_dataset.py, which must leave the folder alone."""
    report, before = folder.parent / "report.json", listing(folder)
    words = [*words_for(kind, folder, options), "--workers", "0", "--num-anchors", "2", "--preview", "none", "--report", report]
    code = check_dataset.main(check_dataset.parse_args(list(map(str, words))))
    assert listing(folder) == before
    return code, json.loads(report.read_text())["faults"]


def in_words(fault: dict) -> str:
    return f"{fault['kind']}: {fault['detail']} ({Path(fault['file']).name} {fault['where']})"


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything in a folder."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def open_splits(kind: str, folder: Path, options: tuple[str, ...] = ()) -> list:
    """The training and the validation split as the scripts open them."""
    switches = dict.fromkeys(options, True)
    train_set = open_dataset(kind, folder, "train", **switches)
    return [train_set, open_dataset(kind, folder, "val", class_names=train_set.class_names, **switches)]


def seen_objects(splits: list) -> dict[str, Objects]:
    """Stem -> objects of every image that training or evaluation gets."""
    found: dict[str, Objects] = {}
    for dataset in splits:
        samples = TrainingSamples(dataset)
        for image, target in map(samples.__getitem__, range(len(samples))):
            if "unreadable" in target:
                continue
            height, width = image.shape[-2:]
            names = [samples.class_names[label - 1] for label in target["labels"]]
            objects = found.setdefault(Path(samples.image_path(target["image_id"])).stem, [])
            objects += zip(names, map(tuple, target["boxes"].tolist()))
            assert all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for _, (x1, y1, x2, y2) in objects)
    return found


def assert_equal(found: dict[str, Objects], expected: dict[str, Objects]) -> None:
    """The same images and classes, and boxes to 0.01 px, in any order."""
    assert sorted(found) == sorted(expected)
    for stem, objects in expected.items():
        ordered = [sorted(some, key=lambda item: (item[0], *map(round, item[1]))) for some in (found[stem], objects)]
        assert [name for name, _ in ordered[0]] == [name for name, _ in ordered[1]], stem
        for (_, box), (_, other) in zip(*ordered):
            assert box == pytest.approx(other, abs=0.01), stem


def scenes_of(kind: str, num_train: int = 8) -> list:
    return [scene for scene in make_scenes(num_train) if scene.objects or kind != "openimages"]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_clean_set_is_clean(kind, clean):
    assert check(kind, clean / kind, ()) == (0, [])
    assert_equal(seen_objects(open_splits(kind, clean / kind)), expected_objects(scenes_of(kind), []))


@pytest.mark.parametrize("defect", by_name(DEFECTS))
def test_the_check_names_every_defect(defect, damage, capsys):
    folder = damage(defect)
    code, faults = check(defect.format, folder, defect.options)
    named = [fault for fault in faults if fault["action"] == defect.action and re.search(defect.says, in_words(fault))]
    assert named, [(fault["action"], in_words(fault)) for fault in faults]
    assert all(Path(fault["file"]).is_relative_to(folder) for fault in named)
    assert code == EXIT_CODES[defect.action]
    out = capsys.readouterr().out
    assert named[0]["kind"] in out and named[0]["detail"] in out


@pytest.mark.parametrize("defect", by_name(TRAINED))
def test_training_sees_everything_else(defect, damage):
    found = seen_objects(open_splits(defect.format, damage(defect), defect.options))
    assert_equal(found, expected_objects(scenes_of(defect.format), [(defect, PICTURE)]))


@pytest.mark.parametrize("defect", by_name(NOT_A_DEFECT))
def test_what_is_no_defect_passes_in_silence(defect, damage):
    folder = damage(defect)
    assert check(defect.format, folder, defect.options) == (0, [])
    found = seen_objects(open_splits(defect.format, folder, defect.options))
    assert_equal(found, expected_objects(scenes_of(defect.format), [(defect, PICTURE)]))


@pytest.mark.parametrize("defect", by_name(REFUSED))
def test_training_refuses_in_one_sentence(defect, damage):
    folder = damage(defect)
    with pytest.raises((InputError, FileNotFoundError)) as caught:
        open_splits(defect.format, folder, defect.options)
    sentence = str(caught.value)
    assert str(folder) in sentence and ("\n" not in sentence or "expected is\n" in sentence), sentence


@pytest.fixture(scope="session")
def together(tmp_path_factory) -> dict[str, tuple[Path, dict[str, Objects], tuple[str, ...]]]:
    """Format -> a set with all defects that training lives with, each in its own picture; what is left of it; its options."""
    sets = {}
    for kind in FORMATS:
        defects = [defect for defect in TOGETHER if defect.format == kind]
        planted = [(defect, f"train_{number:02d}") for number, defect in enumerate(defects, start=FIRST_FREE)]
        scenes = scenes_of(kind, FIRST_FREE + len(defects))
        folder = write_set(kind, tmp_path_factory.mktemp(kind) / "data", scenes)
        for defect, stem in planted:
            defect.plant(folder, stem)
        sets[kind] = (folder, expected_objects(scenes, planted), tuple({name for defect in defects for name in defect.options}))
    return sets


@pytest.mark.parametrize("kind", FORMATS)
def test_many_defects_at_once_drop_no_more(kind, together):
    folder, expected, options = together[kind]
    assert_equal(seen_objects(open_splits(kind, folder, options)), expected)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("kind", FORMATS)
def test_an_epoch_with_many_defects(kind, script, together, tmp_path, monkeypatch):
    folder, _, options = together[kind]
    train(script, words_for(kind, folder, options), tmp_path, monkeypatch)


def train(script: str, words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch, which must leave a checkpoint in the folder."""
    monkeypatch.chdir(folder)
    module, own = SCRIPTS[script]
    module.main(module.parse_args([*words, *COMMON, *own, "--output-dir", "out"]))
    assert (folder / "out" / "last.pth").is_file()


@needs_time
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("defect", by_name(TRAINED if ALL else TRAINED[:1]))
def test_an_epoch_with_each_defect(defect, script, damage, tmp_path, monkeypatch):
    train(script, words_for(defect.format, damage(defect), defect.options), tmp_path, monkeypatch)


@needs_time
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("defect", by_name(REFUSED if ALL else REFUSED[:1]))
def test_each_script_refuses(defect, script, damage, tmp_path, monkeypatch, capsys):
    folder = damage(defect)
    monkeypatch.chdir(tmp_path)
    module, own = SCRIPTS[script]
    words = [*words_for(defect.format, folder, defect.options), *COMMON, *own, "--output-dir", "out"]
    message = expect_one_sentence(module, capsys, str(folder), *words)
    assert message.count("\n") == 0 or "expected is\n" in message
    assert not (tmp_path / "out").exists()


def table_rows(clean: Path, folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """(format, defect, what check says, what training does) of every defect."""
    for number, defect in enumerate(DEFECTS):
        data = folder / str(number) / "data"
        shutil.copytree(clean / defect.format, data)
        defect.plant(data, PICTURE)
        code, faults = check(defect.format, data, defect.options)
        fault = next(fault for fault in faults if re.search(defect.says, in_words(fault)))
        yield (defect.format, defect.name, f"exit code {code}, {fault['action']}: {fault['kind']}", outcome(defect, data))


def outcome(defect: Defect, folder: Path) -> str:
    """What opening the data as a training does, and reading all of it, comes to."""
    try:
        found = seen_objects(open_splits(defect.format, folder, defect.options))
    except (InputError, FileNotFoundError) as error:
        return f"stops: {str(error).splitlines()[0].replace(str(folder), 'DATA')}"
    scenes = scenes_of(defect.format)
    lost = [scene.stem for scene in scenes if scene.stem not in found]
    images, objects = len(lost), sum(len(scene.objects) - len(found[scene.stem]) for scene in scenes if scene.stem not in lost)
    parts = [f"{count} {word}{'s' * (count > 1)}" for count, word in ((images, "image"), (objects, "object")) if count]
    return f"trains without {' and '.join(parts)}" if parts else "trains on everything"


def as_markdown(rows: list[tuple[str, str, str, str]]) -> str:
    """A line per defect with a column per format."""
    cells: dict[str, dict[str, str]] = {}
    for kind, name, said, _ in rows:
        cells.setdefault(name, {})[kind] = said.partition(", ")[2]
    lines = [[name, *(by_format.get(kind, "") for kind in FORMATS)] for name, by_format in cells.items()]
    head = [["defect", *FORMATS], ["---"] * (1 + len(FORMATS))]
    return TABLE_HEAD + "".join(f"| {' | '.join(escape(cell, quote=False) for cell in line)} |\n" for line in [*head, *lines])


@needs_time
def test_the_table(clean, tmp_path):
    rows = list(table_rows(clean, tmp_path))
    assert len(rows) == len(DEFECTS)
    assert all(done.startswith("stops") == (said.partition(", ")[2].startswith(STOP)) for _, _, said, done in rows)
    if os.environ.get("DETECTION_DEFECT_TABLE"):
        Path(os.environ["DETECTION_DEFECT_TABLE"]).write_text(as_markdown(rows), encoding="utf-8")
    assert (ROOT / "datasets" / "FAULTS.md").read_text(encoding="utf-8") == as_markdown(rows)
