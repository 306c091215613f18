"""Data sets written in another format: the same boxes, classes and images come back, and what a format cannot say is counted."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from lxml import etree
from PIL import Image
from yolo_data import make_yolo

from datasets.annotations import clip_to_images
from datasets.errors import InputError
from datasets.open_dataset import guess_sources
from datasets.open_dataset import open_dataset as open_strictly

open_dataset = partial(open_strictly, allow_outside=True)  # images are links unless copied
SCRIPT = ROOT / "tools" / "convert_dataset.py"
SPEC = importlib.util.spec_from_file_location("convert_dataset", SCRIPT)
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

KINDS = ("voc", "coco", "yolo")


def convert(data, to, output, *flags):
    words = [str(data), "--to", to, "--output", str(output), "--allow-outside", *map(str, flags)]  # outputs are inputs too here
    tool.main(tool.get_args_parser().parse_args(words))
    return output


def test_links_out_of_the_data_need_a_flag(tmp_path, capsys):
    first = convert(write_voc(tmp_path / "data", {"a": [("x", (1, 2, 30, 20), 0)]}), "yolo", tmp_path / "yolo")
    assert f"open with --data-path {first} --allow-outside" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"a\.jpg' leads out of .*--allow-outside"):
        open_strictly("yolo", first, "train")
    with pytest.raises(InputError, match=r"a\.jpg' leads out of .*--allow-outside"):
        convert(first, "coco", tmp_path / "coco", "--no-allow-outside")
    assert not (tmp_path / "coco").exists()
    copied = convert(first, "coco", tmp_path / "coco", "--images", "copy")
    assert len(open_strictly("coco", copied, "train")) == 1 and "open with" not in capsys.readouterr().out


def content(dataset):
    """Size and rows (label, x1, y1, x2, y2, crowd) of every image, by its file name."""
    truth = dataset.ground_truth()
    index = truth["image_index"]
    boxes = clip_to_images(truth["boxes"], truth["heights"][index], truth["widths"][index])
    rows = np.column_stack([truth["labels"], boxes, truth["iscrowd"]])
    sizes = zip(truth["heights"].tolist(), truth["widths"].tolist())
    names = [Path(dataset.image_path(i)).name for i in range(len(dataset))]
    assert len(set(names)) == len(names)
    return {name: (size, rows[index == i]) for i, (name, size) in enumerate(zip(names, sizes))}


def assert_same(one, other):
    one, other = content(one), content(other)
    assert one.keys() == other.keys()
    for name, (size, rows) in one.items():
        assert other[name][0] == size and other[name][1].shape == rows.shape, name
        np.testing.assert_allclose(other[name][1], rows, atol=0.01, rtol=0, err_msg=name)


def write_voc(root, images, labels=None):
    """`images`: stem -> list of (class, box, difficult), all 60 pixels wide and 40 high, in the split train."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for k, (stem, objects) in enumerate(images.items()):
        for folder in ("Annotations", "JPEGImages"):
            (root / folder / stem).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (k, 0, 0)).save(root / "JPEGImages" / f"{stem}.jpg")
        xml = "".join(f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
                      f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>" for name, (x1, y1, x2, y2), difficult in objects)
        size = "<size><width>60</width><height>40</height><depth>3</depth></size>"
        (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{size}{xml}</annotation>", encoding="utf-8")
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{stem} 1\n" for stem in images), encoding="utf-8")
    if labels:
        (root / "labels.txt").write_text("\n".join(labels), encoding="utf-8")
    return root


def write_coco(root, annotations, images=("a.jpg",), categories=((3, "b"), (7, "a"))):
    """`annotations`: (image number from 0, category id, bbox, area, iscrowd)."""
    (root / "annotations").mkdir(parents=True)
    for k, name in enumerate(images):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (k, 0, 0)).save(root / "train" / name)
    file = {"images": [{"id": 10 + k, "file_name": name, "width": 60, "height": 40} for k, name in enumerate(images)],
            "annotations": [{"id": n, "image_id": 10 + k, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
                            for n, (k, category, box, area, crowd) in enumerate(annotations, start=1)],
            "categories": [{"id": number, "name": name} for number, name in categories]}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(file))
    return root


# The same data in every format


@pytest.mark.parametrize("to", KINDS)
def test_drawn_shapes(shapes, tmp_path, to, capsys):
    output = convert(shapes, to, tmp_path / "new" / to)
    for split in ("train", "val"):
        source, result = (open_dataset(kind, path, split) for kind, path in (("shapes", shapes), (to, output)))
        assert result.class_names == source.class_names == ["circle", "square", "triangle", "star"]
        assert len(result) == len(source) and result.faults == []
        assert_same(source, result)
        assert any(len(rows) == 0 for _, rows in content(source).values()) or split == "val"
    assert guess_sources(output)[0].kind == to
    said = capsys.readouterr().out
    assert "test: left out" in said and f"train: 16 images, {len(open_dataset(to, output, 'train').table.boxes)} objects" in said
    assert os.listdir(tmp_path / "new") == [to]  # nothing temporary is left


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("style", ["data", "yaml", "folder"])
def test_yolo_styles(tmp_path, to, style):
    data = make_yolo(tmp_path / "data", images=4, style=style)
    output = convert(data, to, tmp_path / "out")
    for split in ("train", "val"):
        assert_same(open_dataset("yolo", data, split), open_dataset(to, output, split))


def test_an_image_list_is_one_split(tmp_path, capsys):
    make_yolo(tmp_path / "data", images=4)
    output = convert(tmp_path / "data" / "valid.txt", "coco", tmp_path / "out")
    assert sorted(os.listdir(output / "annotations")) == ["instances_train.json"]
    assert "val: left out, its images are those of train" in capsys.readouterr().out


def test_round_trip_of_hand_made_boxes(tmp_path):
    """Thirds of a pixel, a sliver, a box over the edge; whole numbers come back as whole numbers."""
    boxes = [(1, 2, 59, 39), (0, 0, 60, 40), (10.333, 5.667, 20.25, 30.1), (30, 10, 30.02, 10.5), (40, 20, 70, 50)]
    data = write_voc(tmp_path / "data", {"ü": [("b", box, 0) for box in boxes], "leer 1": []}, labels=["b", "a"])
    coco = convert(data, "coco", tmp_path / "coco")
    yolo = convert(coco, "yolo", tmp_path / "yolo")
    voc = convert(yolo, "voc", tmp_path / "voc")
    result = open_dataset("voc", voc, "train")
    assert result.class_names == ["b", "a"]
    assert_same(open_dataset("voc", data, "train"), result)
    found = etree.parse(voc / "Annotations" / "ü.xml").findall("object/bndbox")
    texts = [" ".join(cell.text for cell in box) for box in found]
    assert texts == ["1 2 59 39", "0 0 60 40", "10.333 5.667 20.25 30.1", "30 10 30.02 10.5", "40 20 60 40"]
    links = sorted(path.readlink() for path in (voc / "JPEGImages").iterdir())
    assert links == sorted((data / "JPEGImages").iterdir())  # not to the folders between


def test_splits_that_number_the_classes_differently(tmp_path):
    data = write_coco(tmp_path / "data", [(0, 3, [1, 2, 10, 20], 200, 0)], categories=((3, "b"), (7, "a")))
    val = write_coco(tmp_path / "val", [(0, 1, [1, 2, 10, 20], 200, 0), (0, 2, [3, 2, 10, 20], 200, 0)],
                     categories=((1, "a"), (2, "b")))
    (val / "annotations/instances_train.json").rename(data / "annotations/instances_val.json")
    (val / "train").rename(data / "val")
    for to in KINDS:
        output = convert(data, to, tmp_path / to)
        result = open_dataset(to, output, "val")
        assert result.class_names == ["b", "a"] and result.ground_truth()["labels"].tolist() == [2, 1]


# What a format cannot say


@pytest.mark.parametrize("to", KINDS)
def test_crowd_and_areas(tmp_path, to, capsys):
    annotations = [(0, 3, [1, 2, 10, 20], 200, 0), (0, 7, [0, 0, 60, 40], 500, 1), (1, 7, [5, 5, 10, 10], 31.5, 0)]
    output = convert(write_coco(tmp_path / "data", annotations, ("a.jpg", "b.jpg", "c.jpg")), to, tmp_path / "out")
    result, said = open_dataset(to, output, "train"), capsys.readouterr().out
    truth = result.ground_truth()
    assert result.class_names == ["b", "a"] and len(result) == 3
    if to == "coco":
        assert truth["iscrowd"].tolist() == [False, True, False] and truth["area"].tolist() == [200, 500, 31.5]
        assert result.ids == [10, 11, 12] and result.coco_classes == {3: "b", 7: "a"} and "lost" not in said
    else:
        assert truth["labels"].tolist() == [1, 2] and truth["boxes"][1].round(6).tolist() == [5, 5, 15, 15]
        assert f"train: 1 crowd regions left out: {to} has none" in said
        assert "train: 1 areas lost, which were not the box's" in said  # the crowd region's is no loss of its own


@pytest.mark.parametrize("to", KINDS)
def test_difficult_objects(tmp_path, to, capsys):
    data = write_voc(tmp_path / "data", {"a": [("x", (1, 2, 30, 20), 1), ("x", (5, 5, 50, 30), 0)]})
    truth = open_dataset(to, convert(data, to, tmp_path / "out"), "train").ground_truth()
    assert len(truth["boxes"]) == 2 and truth["difficult"].tolist() == [to == "voc", False]
    assert ("train: 1 difficult flags lost" in capsys.readouterr().out) == (to != "voc")


def test_faults_of_the_data_are_told(tmp_path, capsys):
    boxes = [(1, 1, 1, 9), (-5, 1, 9, 9), (-7, 1, 9, 9), (2, 2, 8, 8)]
    data = write_voc(tmp_path / "data", {"a": [("x", box, 0) for box in boxes]})
    output = convert(data, "yolo", tmp_path / "out")
    said = capsys.readouterr().out
    assert "train: objects dropped: 1 x box of zero size (a.xml object 1)" in said
    assert "train: fixed: 2 x box clipped to the image" in said
    assert "train: after clipping, fixed: 1 x same box and class twice, one kept" in said  # two boxes differed outside only
    assert open_dataset("yolo", output, "train").ground_truth()["boxes"].round(6).tolist() == [[0, 1, 9, 9], [2, 2, 8, 8]]


def test_yolo_needs_the_sizes_of_the_files(tmp_path, capsys):
    data = write_voc(tmp_path / "data", {"a": [("x", (1, 2, 30, 20), 0)], "b": [("x", (1, 2, 30, 20), 0)]})
    Image.new("RGB", (80, 40)).save(data / "JPEGImages" / "a.jpg")
    (data / "JPEGImages" / "b.jpg").write_bytes(b"")
    result = open_dataset("yolo", convert(data, "yolo", tmp_path / "out"), "train")
    assert result.ground_truth()["boxes"].round(6).tolist() == [[1, 2, 30, 20]]
    said = capsys.readouterr().out
    assert "images dropped: 1 (" in said and "images of another size, boxes used as they stand: 1 (" in said
    Image.new("RGB", (40, 60)).save(data / "JPEGImages" / "a.jpg")  # lying, as an EXIF orientation may say
    with pytest.raises(InputError, match="a.jpg: the image has 40x60 pixels, its annotation says 60x40"):
        convert(data, "yolo", tmp_path / "other")


# Names


@pytest.mark.parametrize("to", KINDS)
def test_names_with_blanks_umlauts_and_what_formats_reserve(tmp_path, to, capsys):
    names = ["Größe 1.jpg", "zwei  Wörter.JPG", "photo -1.png", "a & <b>.jpg", "a.b.jpg", "yes.jpg", "#1.jpg", "tab\tname.jpg"]
    boxes = [(k, 3, [k, 2, 10 + k, 20], 20 * (10 + k), 0) for k in range(len(names))]
    categories = ((3, "Käse & <Brot>"), (7, "no"), (8, "a, b"), (9, "1"))
    data = write_coco(tmp_path / "data", boxes, names, categories)
    output = convert(data, to, tmp_path / "out")
    result = open_dataset(to, output, "train")
    assert result.class_names == ["Käse & <Brot>", "no", "a, b", "1"] and result.faults == []
    expected, found = content(open_dataset("coco", data, "train")), content(result)
    expected["tab_name.jpg"] = expected.pop("tab\tname.jpg")
    assert expected.keys() == found.keys() and "1 images get another name" in capsys.readouterr().out
    assert all(np.abs(expected[name][1] - found[name][1]).max() < 0.01 for name in names if name in found)


@pytest.mark.parametrize("to", KINDS)
def test_equal_names_in_different_folders(tmp_path, to):
    names = ["x/1.jpg", "y/1.jpg", "y/1.png", "z/2.jpg"]
    data = write_coco(tmp_path / "data", [(k, 3, [k, 2, 10, 20], 200, 0) for k in range(3)], names)
    result = open_dataset(to, convert(data, to, tmp_path / "out"), "train")
    found = content(result)
    assert {name: rows[:, 1].round(6).tolist() for name, (_, rows) in found.items()} == {
        "1.jpg": [0], "y_1.jpg": [1], "y_1_2.png": [2], "2.jpg": []}
    sources = {Path(result.image_path(i)).name: os.path.realpath(result.image_path(i)) for i in range(4)}
    assert sources["y_1_2.png"].endswith("data/train/y/1.png")


def test_voc_keeps_equal_names_of_two_splits_apart(tmp_path):
    make_yolo(tmp_path / "data", images=4, style="folder")
    for part in ("images", "labels"):
        for file in sorted((tmp_path / "data" / part / "val").iterdir()):
            file.rename(file.with_name(file.name.replace("valid", "train")))
    output = convert(tmp_path / "data", "voc", tmp_path / "out")
    assert sorted(os.listdir(output / "JPEGImages")) == [
        "train_000.jpg", "train_001.jpg", "train_002.png", "train_003.jpg", "val_train_000.jpg", "val_train_001.jpg"]
    for split in ("train", "val"):
        source = content(open_dataset("yolo", tmp_path / "data", split))
        result = content(open_dataset("voc", output, split))
        assert len(source) == len(result)
        for (_, rows), (_, other) in zip(source.values(), result.values()):
            np.testing.assert_allclose(other, rows, atol=1e-5)


def test_splits_of_any_name_may_share_images(tmp_path):
    data = write_voc(tmp_path / "data", {"a": [("x", (1, 2, 30, 20), 0)], "b": []})
    (data / "ImageSets/Main/mine.txt").write_text("b\na\n")
    for to in KINDS:
        output = convert(data, to, tmp_path / to, "--splits", "train", "mine.txt")
        for split in ("train", "mine"):
            assert_same(open_dataset("voc", data, split), open_dataset(to, output, split))
    assert len(os.listdir(tmp_path / "voc" / "JPEGImages")) == 2
    with pytest.raises(FileNotFoundError, match="test"):
        convert(data, "coco", tmp_path / "none", "--splits", "train", "test")


def test_one_voc_file_for_an_image_annotated_in_two_ways(tmp_path):
    data = write_coco(tmp_path / "data", [(0, 3, [1, 2, 10, 20], 200, 0)])
    file = json.loads((data / "annotations/instances_train.json").read_text())
    file["annotations"][0]["bbox"][0] = 5
    (data / "annotations/instances_val.json").write_text(json.dumps(file))
    (data / "val").symlink_to(data / "train")
    with pytest.raises(InputError, match="a.jpg has other annotations in another split"):
        convert(data, "voc", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["data"]


def test_coco_lists_a_file_twice(tmp_path):
    data = write_coco(tmp_path / "data", [(0, 3, [1, 2, 10, 20], 200, 0), (1, 3, [5, 5, 10, 20], 200, 0)], ("a.jpg", "a.jpg"))
    for to in ("voc", "yolo", "coco"):
        found = content(open_dataset(to, convert(data, to, tmp_path / to), "train"))
        assert {name: round(rows[0, 1], 6) for name, (_, rows) in found.items()} == {"a.jpg": 1, "train_a.jpg": 5}


# Images


@pytest.mark.parametrize("to", KINDS)
def test_copies(tmp_path, to):
    data = write_voc(tmp_path / "data", {"a": [("x", (1, 2, 30, 20), 0)]})
    result = open_dataset(to, convert(data, to, tmp_path / "out", "--images", "copy"), "train")
    assert not os.path.islink(result.image_path(0))
    shutil.rmtree(data)
    assert result[0][0].shape == (3, 40, 60)


def test_paths(tmp_path, capsys):
    data = write_voc(tmp_path / "data", {"s/a": [("x", (1, 2, 30, 20), 0)], "t/a": []})
    output = convert(data, "coco", tmp_path / "out", "--images", "path")
    folder = data / "JPEGImages"
    assert f"images in {folder}" in capsys.readouterr().out and os.listdir(output) == ["annotations"]
    result = open_dataset("coco", None, "train", json_path=output / "annotations/instances_train.json", image_dir=folder)
    assert [result.image_path(i) for i in range(2)] == [str(folder / "s/a.jpg"), str(folder / "t/a.jpg")]
    for to in ("voc", "yolo"):
        with pytest.raises(InputError, match=f"--images path does not work with --to {to}"):
            convert(data, to, tmp_path / "other", "--images", "path")


# Refusals


def test_a_used_folder_is_refused(tmp_path):
    data = write_voc(tmp_path / "data", {"a": [("x", (1, 2, 30, 20), 0)]})
    (tmp_path / "out").mkdir()
    convert(data, "coco", tmp_path / "out")  # empty: free
    before = sorted(tmp_path.rglob("*"))
    for output, words in (("out", "is in use"), ("data/coco", "lies in the data set")):
        with pytest.raises(InputError, match=words):
            convert(data, "coco", tmp_path / output)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("to,categories,words", [
    ("voc", ((1, "x"), (2, "background")), "labels.txt cannot hold"),
    ("voc", ((1, "cup, red"),), "labels.txt cannot hold"),
    ("yolo", ((1, "a\nb"),), "line end"),
])
def test_class_names_that_a_format_cannot_hold(tmp_path, to, categories, words):
    data = write_coco(tmp_path / "data", [(0, 1, [1, 2, 10, 20], 200, 0)], categories=categories)
    with pytest.raises(InputError, match=words):
        convert(data, to, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["data"]


def test_a_given_class_list_sets_the_order(tmp_path):
    data = write_coco(tmp_path / "data", [(0, 3, [1, 2, 10, 20], 200, 0)])
    (tmp_path / "classes.txt").write_text("a\nb\n")
    result = open_dataset("coco", convert(data, "coco", tmp_path / "out", "--classes", tmp_path / "classes.txt"), "train")
    assert result.class_names == ["a", "b"] and result.ground_truth()["labels"].tolist() == [2]


def test_images_that_no_reader_would_find(tmp_path):
    data = write_coco(tmp_path / "data", [], ("a.gif",))
    with pytest.raises(InputError, match="a.gif: yolo knows images by their suffix"):
        convert(data, "yolo", tmp_path / "out")
    assert len(open_dataset("coco", convert(data, "coco", tmp_path / "out"), "train")) == 1


def test_the_command_from_another_folder(tmp_path):
    write_voc(tmp_path / "data", {"a": [("x", (1, 2, 30, 20), 0)]})
    command = [sys.executable, str(SCRIPT), "data", "--to", "yolo", "--output", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "out/labels/train/a.txt").read_text() == "0 0.258333333333 0.275 0.483333333333 0.45\n"
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr == "error: --output out is in use; give a new folder: nothing is overwritten\n"


# Real data


@pytest.fixture(scope="module")
def voc100(shared_data, tmp_path_factory):
    """The pictures of voc100_multiformat as a VOC folder with the split train and the classes of voc.names."""
    source, root = shared_data / "voc100_multiformat", tmp_path_factory.mktemp("voc100")
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "train.txt").write_text("\n".join(sorted(path.stem for path in (source / "images").iterdir())))
    (root / "Annotations").symlink_to(source / "gts" / "pascalvoc_format")
    (root / "JPEGImages").symlink_to(source / "images")
    shutil.copy(source / "voc.names", root / "labels.txt")
    return root


@pytest.fixture(scope="module")
def bccd(shared_data):
    return shared_data / "bccd" / "BCCD"


@pytest.mark.parametrize("name,images,boxes,difficult", [("voc100", 100, 273, 38), ("bccd", 364, 4886, 0)])
def test_round_trip_of_real_data(request, tmp_path, name, images, boxes, difficult, capsys):
    data = request.getfixturevalue(name)
    coco = convert(data, "coco", tmp_path / "coco")
    yolo = convert(coco, "yolo", tmp_path / "yolo")
    voc = convert(yolo, "voc", tmp_path / "voc")
    said, splits = capsys.readouterr().out, ["train"] if name == "voc100" else ["train", "val", "test"]
    pairs = [[open_dataset("voc", path, split) for path in (data, voc)] for split in splits]
    for source, result in pairs:
        assert result.class_names == source.class_names
        assert_same(source, result)
        assert np.array_equal(source.ground_truth()["boxes"], result.ground_truth()["boxes"])  # whole numbers, exactly
    assert sum(len(result) for _, result in pairs) == images
    assert sum(len(result.ground_truth()["boxes"]) for _, result in pairs) == boxes
    assert sum(result.ground_truth()["difficult"].sum() for _, result in pairs) == 0
    assert (f"train: {difficult} difficult flags lost" in said) == (difficult > 0)
    assert said.count("1 x box of zero size") == (2 if name == "bccd" else 0)
