"""tools/split_dataset.py: exact and repeatable division, each format opened by its reader afterwards, what is refused."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from yolo_data import make_yolo

from datasets import CocoDetection, VOCDataSet, YoloTxtDataset
from datasets.errors import InputError
from datasets.open_dataset import open_dataset

SCRIPT = ROOT / "tools" / "split_dataset.py"
spec = importlib.util.spec_from_file_location("split_dataset", SCRIPT)
split_dataset = importlib.util.module_from_spec(spec)
spec.loader.exec_module(split_dataset)

HALVES = ["train=0.5", "val=0.5"]


def run(*words, parts=HALVES):
    split_dataset.main(split_dataset.get_args_parser().parse_args([*map(str, words), "--parts", *parts]))


def files_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def file_names(dataset):
    return sorted(os.path.basename(dataset.image_path(k)) for k in range(len(dataset)))


def box_list(datasets):
    """(file name, class, box) of every object of some data sets, sorted."""
    rows = []
    for dataset in datasets:
        table = dataset.table
        rows += [(os.path.basename(table.paths[image]), dataset.class_names[label - 1], *box.tolist())
                 for image, label, box in zip(table.image_index, table.labels, table.boxes)]
    return sorted(rows)


def write_voc(root, objects_of):
    """A VOC folder without split files; objects_of: stem -> class names of its objects. All pictures differ."""
    for number, (stem, names) in enumerate(objects_of.items()):
        for folder, suffix in (("Annotations", "xml"), ("JPEGImages", "png")):
            (root / folder / f"{stem}.{suffix}").parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (number % 256, number // 256, 7)).save(root / "JPEGImages" / f"{stem}.png")
        objects = "".join(f"<object><name>{name}</name><bndbox><xmin>{k}</xmin><ymin>1</ymin><xmax>{k + 5}</xmax><ymax>6</ymax>"
                          "</bndbox></object>" for k, name in enumerate(names))
        (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{objects}</annotation>", encoding="utf-8")
    return root


def write_coco(root, json_name, image_folder, first_id, count):
    """`count` pictures with one or two boxes each (the last has none) and their file; ids from `first_id`, categories 3 and 7."""
    folder = root / image_folder
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for k in range(first_id, first_id + count):
        Image.new("RGB", (40, 30), (k, len(json_name), 50)).save(folder / f"{k:03d}.png")
        images.append({"id": k, "file_name": f"{k:03d}.png", "width": 40, "height": 30, "licence": 5})
        for n in range(0 if k == first_id + count - 1 else 1 + k % 2):
            annotations.append({"id": 10 * k + n, "image_id": k, "category_id": (3, 7)[n], "bbox": [n, 2, 5.25, 6], "area": 9,
                                "iscrowd": int(n == 1 and k % 4 == 1), "segmentation": [[1, 2, 3, 4, 5, 6]]})
    content = {"info": {"year": 2000}, "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a", "supercategory": "x"}],
               "images": images, "annotations": annotations}
    (root / json_name).parent.mkdir(parents=True, exist_ok=True)
    (root / json_name).write_text(json.dumps(content))
    return content


def test_the_shares_become_whole_numbers():
    assert split_dataset.part_sizes({"a": 0.7, "b": 0.2, "c": 0.1}, 10).tolist() == [7, 2, 1]
    assert split_dataset.part_sizes({"a": 0.8, "b": 0.1, "c": 0.1}, 364).tolist() == [291, 37, 36]  # of 291.2, 36.4, 36.4
    assert split_dataset.part_sizes({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 10).tolist() == [4, 3, 3]
    assert split_dataset.part_sizes({"a": 6, "b": 4}, 10).tolist() == [6, 4]
    assert split_dataset.part_sizes({"all": 1}, 10).tolist() == [10]


@pytest.mark.parametrize(("words", "complaint"), [
    (["a=0.5", "b=0.6"], "have the sum 1.1"), (["a=5", "b=6"], "are 11 images together, but the data set has 10"),
    (["a=0.96", "b=0.04"], "b=0.04 of 10 images is less than one"), (["a=1.5", "b=0"], "--parts b=0: write NAME=SHARE"),
    (["a=nan"], "a=nan"), (["a"], "--parts a: write"), (["../a=1"], "write NAME"), (["a=0.5", "a=0.5"], "names a twice"),
    (["a=inf", "b=1"], "a=inf"), (["a=-1", "b=2"], "a=-1"),
])
def test_unusable_parts(words, complaint):
    with pytest.raises(InputError, match=complaint):
        split_dataset.part_sizes(split_dataset.parse_parts(words), 10)


def test_the_rarest_class_first():
    # Classes: 0 in all 8 groups, 1 in the first 4, 2 in groups 0 and 4. Halves must get 4, 2 and 1 of them, whatever the seed.
    labels = np.zeros((8, 3), dtype=bool)
    labels[:, 0], labels[:4, 1], labels[[0, 4], 2] = True, True, True
    seen = set()
    for seed in range(6):
        part = split_dataset.stratify(labels, np.ones(8, dtype=np.int64), np.array([4, 4]), seed)
        assert [labels[part == p].sum(axis=0).tolist() for p in (0, 1)] == [[4, 2, 1], [4, 2, 1]]
        assert (part == split_dataset.stratify(labels, np.ones(8, dtype=np.int64), np.array([4, 4]), seed)).all()
        seen.add(tuple(part))
    assert len(seen) > 1


def test_groups_stay_whole_and_sizes_exact():
    labels, weights = np.ones((5, 1), dtype=bool), np.array([1, 3, 1, 2, 1])
    for seed in range(4):
        part = split_dataset.stratify(labels, weights, np.array([5, 3]), seed)
        assert np.bincount(part, weights).tolist() == [5, 3]
    # The two images of class 1 find no room beside the pair of class 0, although each part is owed one of them.
    labels = np.array([[True, False], [False, True], [False, True]])
    part = split_dataset.stratify(labels, np.array([2, 1, 1]), np.array([2, 2]), 0)
    assert part[1] == part[2] != part[0]
    # No part has room for all of it: the part with the largest share takes it.
    assert split_dataset.stratify(labels[:1, :1], np.array([8]), np.array([3, 5]), 0).tolist() == [1]


def test_random_sets_keep_their_proportions():
    rng = np.random.default_rng(3)
    labels = rng.random((600, 6)) < [0.5, 0.3, 0.1, 0.05, 0.03, 0]
    labels[:, 5] = ~labels.any(axis=1)
    sizes = np.array([420, 120, 60])
    part = split_dataset.stratify(labels, np.ones(600, dtype=np.int64), sizes, seed=0)
    assert np.bincount(part).tolist() == sizes.tolist()
    counts = np.array([labels[part == p].sum(axis=0) for p in range(3)])
    error = np.abs(counts - labels.sum(axis=0) * sizes[:, None] / 600).max(axis=0)
    assert error[2:5].max() < 1 and error.max() < 4.5  # rare classes to the image; by chance some are 10 images off


def test_voc(shapes, tmp_path, capsys):
    root = shutil.copytree(shapes, tmp_path / "shapes")
    before, whole = files_below(root), [VOCDataSet(root, txt_name=name) for name in ("train", "val")]
    run(root, parts=["a=0.6", "b=0.2", "c=0.2"])
    printed = capsys.readouterr().out
    after = files_below(root)
    assert {path.name for path in after.keys() - before.keys()} == {"a.txt", "b.txt", "c.txt"}
    assert before.items() <= after.items()
    parts = [VOCDataSet(root, txt_name=name) for name in "abc"]
    assert [len(part) for part in parts] == [13, 5, 4] and box_list(parts) == box_list(whole)
    last = next(line for line in printed.splitlines() if line.startswith("all "))
    assert list(map(int, last.split()[1:])) == [n for part in parts for n in (len(part), len(part.table.labels))]
    lists = {name: (root / "ImageSets" / "Main" / f"{name}.txt").read_text() for name in "abc"}
    with pytest.raises(InputError, match=r"Main/b\.txt exists already and nothing is overwritten"):
        run(root, parts=["b=0.5", "d=0.5"])
    assert not (root / "ImageSets" / "Main" / "d.txt").exists()
    run(root, "--output", root, parts=["d=0.5", "e=0.5"])
    assert not any(path.is_symlink() for path in root.iterdir()) and len(VOCDataSet(root, txt_name="d")) == 11
    for seed, same in (("0", True), ("1", False)):
        run(root, "--seed", seed, "--output", tmp_path / seed, parts=["a=0.6", "b=0.2", "c=0.2"])
        found = {name: (tmp_path / seed / "ImageSets" / "Main" / f"{name}.txt").read_text() for name in "abc"}
        assert (found == lists) == same
        parts = [open_dataset("voc", tmp_path / seed, name, allow_outside=True) for name in "abc"]
        assert box_list(parts) == box_list(whole)


def test_voc_names_classes_and_faults(tmp_path, capsys):
    stems = ["photo 1", "süß 2", "day/x", "night/x", "e0", "e1", "broken", "alone"]
    root = write_voc(tmp_path / "set", {stem: [] if stem[0] == "e" else ["cat", "dog"] for stem in stems})
    (root / "Annotations" / "broken.xml").write_text("<annotation><object>")
    (root / "JPEGImages" / "alone.png").unlink()
    (root / "labels.txt").write_text("dog\ncat\n")
    run(root, "--output", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "images dropped: 1 x XML that does not parse (broken.xml line 1)" in printed and "alone.xml" in printed
    assert f"open with --data-path {tmp_path / 'out'} --allow-outside" in printed
    parts = [open_dataset("voc", tmp_path / "out", name, allow_outside=True) for name in ("train", "val")]
    assert sorted(file_names(parts[0]) + file_names(parts[1])) == sorted(["photo 1.png", "süß 2.png", "x.png", "x.png", "e0.png",
                                                                          "e1.png"])
    for part in parts:
        assert part.class_names == ["dog", "cat"] and len(part) == 3 and part.table.labels.tolist() == [2, 1, 2, 1]
        assert sum(name[0] == "e" for name in file_names(part)) == 1
    assert not (root / "ImageSets").exists()


@pytest.mark.parametrize(("annotations", "images"), [("Annotations", "images"), ("Annotations", "Annotations"), (".", "."),
                                                     (".", "JPEGImages")])
@pytest.mark.parametrize("output", [None, "set/out", "out"])
def test_voc_without_the_usual_folders(tmp_path, annotations, images, output):
    usual = write_voc(tmp_path / "usual", {f"{k}.rf": ["cat", "dog"][: k % 3] for k in range(9)})
    root = tmp_path / "set"
    for source, place in (("Annotations", annotations), ("JPEGImages", images)):
        shutil.copytree(usual / source, root / place, dirs_exist_ok=True)
    (root / "old").mkdir()
    (root / "old" / "0.rf.xml").write_text("<annotation></annotation>")
    before = files_below(root)
    run(root, *([] if output is None else ["--output", tmp_path / output]), parts=["train=6", "val=3"])
    lists, after = {"train.txt", "val.txt"} if output != "out" else set(), files_below(root)
    assert {path.name for path in after.keys() - before.keys()} == lists and before.items() <= after.items()
    place = tmp_path / (output or "set")
    parts = [VOCDataSet(place, txt_name=name, allow_outside=output is not None) for name in ("train", "val")]
    names = [file_names(part) for part in parts]
    assert [len(part) for part in parts] == [6, 3] and sorted(names[0] + names[1]) == [f"{k}.rf.png" for k in range(9)]
    # Objects: k % 3 = 1 has a cat, 2 has both. Each triple has a part of its own size.
    assert [sum(row[1] == label for row in box_list(parts)) for label in ("cat", "dog")] == [6, 3]
    assert [np.bincount([int(name[0]) % 3 for name in some]).tolist() for some in names] == [[2, 2, 2], [1, 1, 1]]


def test_voc_in_a_folder_for_each_split(tmp_path, capsys):
    root = tmp_path / "set"
    for number, (split, stems) in enumerate({"Train": "abcde", "valid": "fg", "test": "h"}.items()):
        write_voc(tmp_path / split, {stem: ["cat", "dog"][: 1 + number % 2] for stem in stems})
        for folder in ("Annotations", "JPEGImages"):  # test keeps them apart, the others have them side by side
            shutil.copytree(tmp_path / split / folder, root / split / (folder if split == "test" else ""), dirs_exist_ok=True)
    (root / "Train" / "e.xml").write_text("<annotation>")
    before = files_below(root)
    for words in ([], ["--output", tmp_path / "." / "set" / ".." / "set"]):
        with pytest.raises(InputError, match=rf"the folders {root}/Train, {root}/test/Annotations, {root}/valid, and .*--output"):
            run(root, *words)
    assert files_below(root) == before and len(before) == 16
    for place in (root / "out" / "deep", tmp_path / "out"):
        run(root, "--output", place, parts=["train=4", "val=3"])
        assert "images dropped: 1 x XML that does not parse (e.xml line 1)" in capsys.readouterr().out
        parts = [VOCDataSet(place, txt_name=name, allow_outside=True) for name in ("train", "val")]
        names = [name for part in parts for name in file_names(part)]
        assert [len(part) for part in parts] == [4, 3] and sorted(names) == [f"{stem}.png" for stem in "abcdfgh"]
        assert [sum(row[1] == label for row in box_list(parts)) for label in ("cat", "dog")] == [7, 2]
        assert all((place / kind / f"f.{suffix}").resolve() == root / "valid" / f"f.{suffix}"
                   for kind, suffix in (("Annotations", "xml"), ("JPEGImages", "png")))
    root.rename(tmp_path / "moved")
    assert len(VOCDataSet(tmp_path / "moved" / "out" / "deep", txt_name="train", allow_outside=True)) == 4


def test_one_name_in_two_folders(tmp_path):
    for split, stems in (("train", "abc"), ("val", "cd")):
        source = write_voc(tmp_path / split, {stem: ["cat"] for stem in stems})
        for folder in ("Annotations", "JPEGImages"):
            shutil.copytree(source / folder, tmp_path / "set" / split, dirs_exist_ok=True)
    with pytest.raises(InputError, match=r"set/train/c\.xml and .*set/val/c\.xml have the same name"):
        run(tmp_path / "set", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.rmtree(tmp_path / "set" / "val")
    with pytest.raises(InputError, match="set is divided already, by the folders .*set/train, and"):
        run(tmp_path / "set")
    run(tmp_path / "set", "--output", tmp_path / "out", parts=["train=2", "val=1"])  # links to the one folder itself
    assert [len(VOCDataSet(tmp_path / "out", txt_name=name, allow_outside=True)) for name in ("train", "val")] == [2, 1]


def test_a_class_that_a_part_lacks_and_a_set_without_objects(tmp_path, capsys):
    root = write_voc(tmp_path / "one", {"a": ["cat"], "b": ["dog"], "c": ["dog"], "d": []})
    run(root)
    assert "has no image of cat" in capsys.readouterr().out
    run(write_voc(tmp_path / "none", {"a": [], "b": []}))
    assert "(no object)" in capsys.readouterr().out
    assert sorted((tmp_path / "none" / "ImageSets" / "Main" / f"{n}.txt").read_text() for n in ("train", "val")) == ["a\n", "b\n"]


def test_identical_images_share_a_part(tmp_path, capsys):
    root = write_voc(tmp_path / "set", {f"{k}": ["cat"] for k in range(12)})
    for k in (3, 7):
        shutil.copy(root / "JPEGImages" / "0.png", root / "JPEGImages" / f"{k}.png")
    for seed in range(4):
        run(root, "--seed", seed, "--output", tmp_path / f"{seed}")
        assert "3 images are byte-identical to others (1 pictures)" in capsys.readouterr().out
        train = (tmp_path / f"{seed}" / "ImageSets" / "Main" / "train.txt").read_text().split()
        assert len(train) == 6 and len({"0", "3", "7"} & set(train)) in (0, 3)


def test_what_is_stratified(tmp_path, monkeypatch):
    paths = [tmp_path / f"{k}.jpg" for k in range(4)]
    for path, text in zip(paths, ("one", "two", "one", "three")):
        path.write_text(text)
    seen = []
    monkeypatch.setattr(split_dataset, "stratify", lambda *some: seen.append(some) or np.array([2, 1, 0]))
    boxes = np.array([[0, 3], [0, 0], [1, 0], [0, 2]])  # images 0 and 2 are one picture, annotated differently
    images = split_dataset.Images(list("abcd"), list(map(str, paths)), ["x", "y"], boxes, [])
    part, group = split_dataset.divide(images, np.array([1, 1, 2]), 5)
    (labels, weights, sizes, seed), = seen
    assert labels.tolist() == [[True, True, False], [False, False, True], [False, True, False]] and weights.tolist() == [2, 1, 1]
    assert part.tolist() == [2, 1, 2, 0] and group.tolist() == [0, 1, 0, 2] and sizes.tolist() == [1, 1, 2] and seed == 5


def test_coco_file(tmp_path):
    content = write_coco(tmp_path, "any.json", "photos", 1, 9)
    run("--json", tmp_path / "any.json", "--images", tmp_path / "photos", parts=["train=4", "val=3", "mine=2"])
    output = tmp_path / "split"
    parts = {name: json.loads((output / "annotations" / f"{name}.json").read_text()) for name in ("train", "val", "mine")}
    assert [len(part["images"]) for part in parts.values()] == [4, 3, 2]
    for key in ("images", "annotations"):
        assert sorted([r for part in parts.values() for r in part[key]], key=lambda r: r["id"]) == content[key]
    for name, part in parts.items():
        assert part["categories"] == content["categories"] and part["info"] == content["info"]
        assert {r["image_id"] for r in part["annotations"]} <= {r["id"] for r in part["images"]}
        assert open_dataset("coco", output, name, allow_outside=True).faults == []
    (tmp_path / "moved").mkdir()
    for name in ("photos", "split", "any.json"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert len(CocoDetection(tmp_path / "moved" / "split", "mine", allow_outside=True)) == 2


def test_coco_tree_of_two_splits_with_the_same_ids(tmp_path):
    write_coco(tmp_path, "annotations/instances_train2017.json", "train2017", 0, 8)
    write_coco(tmp_path, "annotations/instances_val2017.json", "val2017", 0, 4)
    whole = [CocoDetection(tmp_path, name) for name in ("train", "val")]
    run(tmp_path, parts=["train=0.75", "val=0.25"])
    parts = [open_dataset("coco", tmp_path / "split", name, allow_outside=True) for name in ("train", "val")]
    assert [len(part) for part in parts] == [9, 3] and box_list(parts) == box_list(whole)
    assert all(part.faults == [] and part.coco_classes == {3: "a", 7: "b"} for part in parts)
    ids = [json.loads((tmp_path / "split" / "annotations" / f"{n}.json").read_text()) for n in ("train", "val")]
    for key, count in (("images", 12), ("annotations", len(box_list(whole)))):
        assert len({record["id"] for content in ids for record in content[key]}) == count
    write_coco(tmp_path, "annotations/instances_val2017.json", "val2017", 0, 4)
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text().replace('"name": "b"', '"name": "c"'))
    with pytest.raises(InputError, match=r"instances_val2017\.json has other categories"):
        run(tmp_path, "--output", tmp_path / "other")


@pytest.mark.parametrize("style", ["data", "yaml", "folder"])
def test_yolo(tmp_path, style):
    root = tmp_path / "set"
    source = make_yolo(root, images=12, style=style)
    before, whole = files_below(root), [YoloTxtDataset(source, name) for name in ("train", "val")]
    run(source, parts=["train=0.5", "val=0.25", "rest=0.25"])
    assert before.items() <= files_below(root).items()
    assert (root / "split" / "train.txt").read_text().startswith("./../images/")
    root = root.rename(tmp_path / "moved")
    parts = [YoloTxtDataset(root / "split", "train", allow_outside=True),
             YoloTxtDataset(root / "split" / "data.yaml", "val", allow_outside=True),
             YoloTxtDataset(root / "split" / "rest.txt", allow_outside=True)]
    assert [len(part) for part in parts] == [9, 5, 4] and box_list(parts) == box_list(whole)
    assert all(part.class_names == ["circle", "square"] for part in parts)
    run(root if style == "folder" else root / source.name, "--output", tmp_path / "out")
    parts = [open_dataset("yolo", tmp_path / "out", name, allow_outside=True) for name in ("train", "val")]
    assert box_list(parts) == box_list(whole)


def test_yolo_folder_that_was_never_divided(tmp_path):
    root = make_yolo(tmp_path / "set", images=9, style="folder")
    whole = box_list([YoloTxtDataset(root, name) for name in ("train", "val")])
    for kind in ("images", "labels"):
        for folder in ("train", "val"):
            for path in (root / kind / folder).iterdir():
                path.rename(root / kind / path.name)
            (root / kind / folder).rmdir()
    run(root)
    parts = [YoloTxtDataset(root / "split", name, allow_outside=True) for name in ("train", "val")]
    assert [len(part) for part in parts] == [7, 6] and box_list(parts) == whole
    for path in (root / "labels").iterdir():
        path.rename(path.with_suffix(".old"))
    with pytest.raises(FileNotFoundError, match=f"none of the 13 images of {root / 'images'} has a label file"):
        run(root, "--output", tmp_path / "out")
    (root / "classes.txt").unlink()
    with pytest.raises(InputError, match="nothing says the class names"):
        run(root, "--output", tmp_path / "out")


def test_what_is_refused(tmp_path, shapes):
    for words, complaint in (([], "give the folder"), ([shapes, "--json", shapes / "x.json", "--dataset", "voc"], "are for COCO"),
                             ([shapes, "--dataset", "open_images"], None), ([shapes, "--seed", "-1"], "must not be negative")):
        with pytest.raises(SystemExit if complaint is None else InputError, match=complaint):
            run(*words)
    for kind in ("voc", "yolo", "coco"):
        with pytest.raises(FileNotFoundError):
            run(tmp_path / "absent", "--dataset", kind)
    (tmp_path / "empty" / "Annotations").mkdir(parents=True)
    with pytest.raises((InputError, FileNotFoundError), match=f"{tmp_path}/empty"):
        run(tmp_path / "empty")
    for place in ("Annotations", "images"):
        (tmp_path / "set" / place).mkdir(parents=True)
    (tmp_path / "set" / "Annotations" / "a.xml").write_text("<annotation></annotation>")
    with pytest.raises(InputError, match=f"no annotation in {tmp_path}/set/Annotations has its image in {tmp_path}/set/images; "):
        run(tmp_path / "set")
    with pytest.raises(InputError, match="no UTF-8"):
        split_dataset.write(split_dataset.Plan({tmp_path / "a.txt": "good\n" + os.fsdecode(b"bad\xff\n")}, {}))
    assert not (tmp_path / "a.txt").exists()


def test_from_another_folder(tmp_path):
    root = write_voc(tmp_path / "set", {f"{k}": ["cat"] for k in range(4)})
    command = [sys.executable, SCRIPT, "set", "--parts", *HALVES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "open with --data-path set\n" in done.stdout and len(VOCDataSet(root)) == 2
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.startswith("error: set/ImageSets/Main/train.txt, ")


def test_images_behind_links_need_a_flag(tmp_path):
    root = write_voc(tmp_path / "set", {stem: ["cat"] for stem in "abcd"})
    for stem in "ab":
        (root / "JPEGImages" / f"{stem}.png").rename(tmp_path / f"{stem}.png")
        (root / "JPEGImages" / f"{stem}.png").symlink_to(tmp_path / f"{stem}.png")
    run(root, parts=["train=1", "val=1"])
    assert sum(len(VOCDataSet(root, txt_name=name)) for name in ("train", "val")) == 2
    run(root, "--allow-outside", parts=["one=2", "two=2"])
    assert sum(len(VOCDataSet(root, txt_name=name, allow_outside=True)) for name in ("one", "two")) == 4


def test_real_sets(shared_data, tmp_path, capsys):
    source = shared_data / "bccd" / "BCCD"
    run(source, "--output", tmp_path / "bccd", parts=["train=0.8", "val=0.1", "test=0.1"])
    printed = capsys.readouterr().out
    assert "2 x box of zero size" in printed
    parts = [VOCDataSet(tmp_path / "bccd", txt_name=name, allow_outside=True) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [291, 37, 36] and len(box_list(parts)) == 4886
    share = np.array([[np.unique(p.table.image_index[p.table.labels == k]).size / len(p) for k in (1, 2, 3)] for p in parts])
    assert np.ptp(share, axis=0).max() < 0.03  # images with a class, by part: one image
    run(shared_data / "tiny_coco", "--output", tmp_path / "coco", parts=["train=0.5", "val=0.3", "test=0.2"])
    parts = [CocoDetection(tmp_path / "coco", name, allow_outside=True) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [50, 30, 20] and sum(part.table.iscrowd.sum() for part in parts) == 10
    assert len(box_list(parts)) == 852 and all(len(part.class_names) == 80 for part in parts)
