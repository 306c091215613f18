import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

from datasets import InputError, JoinedDataset, TrainingSamples, UnreadableImage, VOCDataSet, summarise_faults

OBJECT = ("<object><name>{0}</name>"
          "<bndbox><xmin>{1}</xmin><ymin>{2}</ymin><xmax>{3}</xmax><ymax>{4}</ymax></bndbox>{5}</object>")
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def _object(name="cat", box=(1, 2, 11, 22), extra=""):
    return OBJECT.format(name, *box, extra)


def _write(folder, stem, *objects, size=SIZE, head="", suffix=".png", shape=(30, 40), filename=None):
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    (folder / "JPEGImages").mkdir(exist_ok=True)
    name = f"<filename>{filename or stem + suffix}</filename>"
    (folder / "Annotations" / f"{stem}.xml").write_text(
        f"{head}<annotation>{name}{size}{''.join(objects)}</annotation>", encoding="utf-8")
    Image.fromarray(np.full((*shape, 3), 90, dtype=np.uint8)).save(folder / "JPEGImages" / f"{stem}{suffix}")


def _split(folder, name, *stems, place="ImageSets/Main"):
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place / f"{name}.txt").write_text("\n".join(stems))


@pytest.fixture
def voc(tmp_path):
    """A bare folder: train a, b; val c. Image b has no object."""
    _write(tmp_path, "a", _object(), _object("dog", (0.5, 0, 40, 30), "<difficult>1</difficult>"), suffix=".JPG")
    _write(tmp_path, "b")
    _write(tmp_path, "c", _object("bird"), suffix=".bmp")
    _split(tmp_path, "train", "a", "b")
    _split(tmp_path, "val", "c")
    return tmp_path


def test_samples(voc):
    dataset = VOCDataSet(voc)
    assert len(dataset) == 2 and dataset.class_names == ["bird", "cat", "dog"] and dataset.faults == []
    image, target = dataset[0]
    assert image.shape == (3, 30, 40) and image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[1, 2, 11, 22], [0.5, 0, 40, 30]] and target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [2, 3] and target["labels"].dtype == torch.int64
    assert target["area"].tolist() == [200, 39.5 * 30] and target["area"].dtype == torch.float32
    assert target["iscrowd"].tolist() == [0, 0] and target["difficult"].tolist() == [0, 1]
    assert target["image_id"] == 0
    assert dataset.get_height_and_width(1) == (30, 40) and dataset.image_path(1).endswith("b.png")
    assert len([item for item in dataset]) == 2


def test_image_without_objects(voc):
    target = VOCDataSet(voc)[1][1]
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,) and target["difficult"].shape == (0,)
    dataset = VOCDataSet(voc, drop_empty=True)
    assert len(dataset) == 1 and dataset.image_path(0).endswith("a.JPG") and dataset.ground_truth()["num_images"] == 1
    _write(voc, "b", _object(extra="<difficult>1</difficult>"), _object("dog", extra="<difficult>1</difficult>"))
    _split(voc, "both", "b", "a")
    dataset = VOCDataSet(voc, txt_name="both", drop_empty=True, skip_difficult=True)
    assert len(dataset) == 1 and dataset[0][1]["labels"].tolist() == [2]
    _write(voc, "b")
    _split(voc, "none", "b")
    with pytest.raises(InputError, match="no image is left"):
        VOCDataSet(voc, txt_name="none", drop_empty=True)


def test_ground_truth_needs_no_image(voc):
    shutil.rmtree(voc / "JPEGImages")
    (voc / "JPEGImages").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (voc / "JPEGImages" / name).touch()
    dataset = VOCDataSet(voc, skip_difficult=True)
    truth = dataset.ground_truth()
    assert truth["boxes"].tolist() == [[1, 2, 11, 22], [0.5, 0, 40, 30]] and truth["boxes"].dtype == np.float64
    assert truth["difficult"].tolist() == [False, True] and truth["iscrowd"].tolist() == [False, False]
    assert truth["image_index"].tolist() == [0, 0] and truth["labels"].tolist() == [2, 3]
    assert truth["source_image_ids"].tolist() == [1, 2] and truth["category_ids"].tolist() == [1, 2, 3]
    assert truth["heights"].tolist() == [30, 30] and truth["widths"].tolist() == [40, 40]
    assert dataset.coco_index(0)[1]["labels"].tolist() == [2]  # the difficult one is not trained on
    with pytest.raises(UnreadableImage, match=r"a\.jpg"):
        dataset[0]


def test_train_and_val_agree_and_split_names(voc):
    assert VOCDataSet(voc, txt_name="val").class_names == VOCDataSet(voc, train_set="train.txt").class_names
    _split(voc, "cat_train", "a  1", "b -1", "b -1")
    assert len(VOCDataSet(voc, txt_name="cat_train.txt")) == 2
    _split(voc, "other", "c", place="ImageSets")
    assert len(VOCDataSet(voc, txt_name="other")) == 1


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_all_roots(voc, tmp_path_factory, below):
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(voc, root / below, dirs_exist_ok=True)
    folder = root
    for part in ["", *below.split("/")]:
        folder = folder / part
        assert len(VOCDataSet(folder)) == 2
    assert len(VOCDataSet(root, year="2007")) == 2  # no choice, so the year does not matter


def test_years(voc, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    for year in ("2007", "2012"):
        shutil.copytree(voc, root / "VOCdevkit" / f"VOC{year}")
    assert "VOC2007" in VOCDataSet(root, "2007").image_path(0)
    with pytest.raises(FileNotFoundError, match="no VOC year 2010; found are the years 2007, 2012"):
        VOCDataSet(root, "2010")


def test_wrong_path_shows_the_tree(voc):
    with pytest.raises(FileNotFoundError, match=r"(?s)does not exist.*Annotations/\*\.xml.*ImageSets/Main"):
        VOCDataSet(voc / "nothing")
    with pytest.raises(FileNotFoundError, match=r"is not a VOC data set"):
        VOCDataSet(voc / "JPEGImages")
    with pytest.raises(FileNotFoundError, match=r"test\.txt does not exist; splits found: train, val"):
        VOCDataSet(voc, txt_name="test")
    _split(voc, "blank", "")
    with pytest.raises(InputError, match=r"blank\.txt lists no image"):
        VOCDataSet(voc, txt_name="blank")


def test_defaults_of_cvat_are_shared_out(voc):
    for stem in "abcdefghij":
        _write(voc, stem, _object())
    _split(voc, "default", *"jihgfedcba", "", "a")
    with pytest.raises(FileNotFoundError, match=r"trainval\.txt does not exist; splits found: default, train, val"):
        VOCDataSet(voc, txt_name="trainval")  # beside splits of the user's own it could overlap with them
    for name in ("train", "val"):
        (voc / "ImageSets" / "Main" / f"{name}.txt").unlink()
    sets = {name: VOCDataSet(voc, txt_name=name) for name in ("train", "trainval.txt", "val", "test")}
    stems = {name: [data.image_path(i)[-5] for i in range(len(data))] for name, data in sets.items()}
    assert len(stems["train"]) == 8 and sorted(stems["train"] + stems["val"]) == list("abcdefghij")
    assert stems["trainval.txt"] == stems["train"] and stems["test"] == stems["val"]
    assert summarise_faults(sets["test"].faults) == ["fixed: 1 x split test missing, 20 % of default.txt taken (default.txt)"]
    _split(voc, "default", *"abcdefghij")  # the order of the lines is no matter
    assert VOCDataSet(voc, txt_name="val").image_path(0) == sets["val"].image_path(0)
    with pytest.raises(FileNotFoundError, match=r"holdout\.txt does not exist; splits found: default"):
        VOCDataSet(voc, txt_name="holdout")
    _split(voc, "default", "a", "b")
    assert len(VOCDataSet(voc)) == len(VOCDataSet(voc, txt_name="val")) == 1
    for stems in (["a"], [""]):
        _split(voc, "default", *stems)
        with pytest.raises(InputError, match=rf"default\.txt lists {int(stems[0] == 'a')} images?, too few"):
            VOCDataSet(voc, txt_name="val")


def test_missing_splits_of_jetson_are_not_guessed(voc):
    for old, new in (("train", "trainval"), ("val", "test")):
        (voc / "ImageSets" / "Main" / f"{old}.txt").rename(voc / "ImageSets" / "Main" / f"{new}.txt")
    with pytest.raises(FileNotFoundError, match=r"train\.txt does not exist; splits found: test, trainval"):
        VOCDataSet(voc)


def test_unknown_classes_can_be_skipped(voc):
    with pytest.raises(InputError, match=r'a\.xml, object 2: unknown class "dog"'):
        VOCDataSet(voc, class_names=["cat"])
    dataset = VOCDataSet(voc, class_names=["cat"], skip_unknown=True)
    assert len(dataset) == 2 and dataset[0][1]["labels"].tolist() == [1]
    assert summarise_faults(dataset.faults) == ["objects dropped: 1 x unknown class (a.xml object 2)"]
    assert len(VOCDataSet(voc, txt_name="val", class_names=["cat"], skip_unknown=True)[0][1]["labels"]) == 0


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".BMP", ".PNG"])
def test_other_kinds_of_image(voc, suffix):
    (voc / "JPEGImages" / "b.png").unlink()
    _write(voc, "b", _object(), suffix=suffix)
    assert VOCDataSet(voc).image_path(1).endswith(f"b{suffix}") and VOCDataSet(voc)[1][0].shape == (3, 30, 40)


def test_blank_lines_of_a_split_are_no_images(voc):
    _split(voc, "gaps", "a", "", "  ", "b", "")
    assert len(VOCDataSet(voc, txt_name="gaps")) == 2


def _plant(voc, content):
    (voc / "Annotations" / "a.xml").write_bytes(content if isinstance(content, bytes) else content.encode())


def _broken(voc, content):
    _plant(voc, content)
    with pytest.raises(InputError) as caught:
        VOCDataSet(voc, class_names=["cat", "dog", "bird"])
    assert "a.xml" in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_annotations_that_stop(voc):
    assert 'object 2: unknown class "Cat"; did you mean "cat"?' in _broken(
        voc, f"<annotation>{SIZE}{_object()}{_object('Cat')}</annotation>")
    assert "object 1: the object has no <name>" in _broken(voc, f"<annotation>{SIZE}{_object('')}</annotation>")
    doctype = '<!DOCTYPE a [<!ENTITY n "cat">]>'
    assert "DOCTYPE" in _broken(voc, f"{doctype}<annotation>{SIZE}{_object('&n;')}</annotation>")
    assert "DOCTYPE" in _broken(voc, f"{doctype}<annotation>{SIZE}{_object('&n;')}")
    dataset = VOCDataSet(voc, class_names=["cat"], strict=False)
    assert len(dataset) == 1 and [(f.where, f.kind, f.action) for f in dataset.faults] == [("line 1", "XML with DOCTYPE", "stop")]


@pytest.mark.parametrize(("content", "where", "kind"), [
    ("<annotation>\n<object>\n</annotation>", "line 3", "XML that does not parse"), (b"", "line 1", "XML that does not parse"),
    ("<html/>", "line 1", "not a VOC annotation"), ("<a>" * 5000, "line 1", "XML that does not parse"),
    ("<annotation>\0</annotation>", "line 1", "XML that does not parse"), (b"\xff\xfe", "line 1", "XML that does not parse"),
    ("<?xml version='1.0' encoding='nonsense'?>\n<annotation/>", "line 1", "XML that does not parse"),
    ("<annotation>\n<object><name>类</name></object></annotation>".encode("gbk"), "line 2", "XML that does not parse")])
def test_broken_annotations_drop_their_image(voc, content, where, kind):
    _plant(voc, content)
    dataset = VOCDataSet(voc)
    assert len(dataset) == 1 and dataset.image_path(0).endswith("b.png") and dataset.class_names == ["bird"]
    assert [(f.file, f.where, f.kind, f.action) for f in dataset.faults] == [
        (str(voc / "Annotations" / "a.xml"), where, kind, "drop image")]
    _split(voc, "train", "a")
    with pytest.raises(InputError, match=r"none of the 1 images of .*train\.txt can be used; .*a\.xml, line"):
        VOCDataSet(voc)


def test_missing_files_stop_or_are_skipped(voc):
    (voc / "JPEGImages" / "a.JPG").unlink()
    with pytest.raises(InputError, match=r"a\.xml: there is no image .*a \(\.jpg, \.jpeg, \.png"):
        VOCDataSet(voc)
    dataset = VOCDataSet(voc, skip_missing=True)
    assert len(dataset) == 1 and [(f.kind, f.action) for f in dataset.faults] == [("image missing", "drop image")]
    (voc / "Annotations" / "a.xml").unlink()
    with pytest.raises(InputError, match=r"a\.xml: there is no such annotation, but .*train\.txt, line 1, lists it"):
        VOCDataSet(voc)
    dataset = VOCDataSet(voc, skip_missing=True)
    assert len(dataset) == 1 and [(f.kind, f.action) for f in dataset.faults] == [("annotation file missing", "drop image")]
    (voc / "Annotations" / "a.xml").mkdir()
    with pytest.raises(InputError, match=r"a\.xml: cannot open this annotation \(Is a directory"):
        VOCDataSet(voc, skip_missing=True)


def test_nothing_outside_the_data_folder(voc, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    shutil.copytree(voc, outside / "set")
    up = f"../../{outside.name}/set"
    _split(voc, "evil", f"../{up}/Annotations/a", str(outside / "set" / "Annotations" / "a"), "b")
    dataset = VOCDataSet(voc, txt_name="evil", strict=False)
    assert [(f.file.rsplit("/", 1)[-1], f.where, f.kind, f.action) for f in dataset.faults] == [
        ("evil.txt", f"line {k}", "path leads out of the data folder", "stop") for k in (1, 2)]
    with pytest.raises(InputError, match=r"evil\.txt, line 1: .*leads out of .*; move it there, or add --allow-outside if that"):
        VOCDataSet(voc, txt_name="evil")
    for place, suffix in (("JPEGImages", "JPG"), ("Annotations", "xml")):
        path = voc / place / f"a.{suffix}"
        path.unlink()
        path.symlink_to(outside / "set" / place / f"a.{suffix}")
        with pytest.raises(InputError, match=rf"a\.{suffix}' leads out of .*"):
            VOCDataSet(voc)
        assert len(VOCDataSet(voc, allow_outside=True)[0][1]["boxes"]) == 2
    shutil.rmtree(voc / "JPEGImages")
    (voc / "JPEGImages").symlink_to(outside / "set" / "JPEGImages")
    with pytest.raises(InputError, match="JPEGImages' leads out of"):  # once, not for every image
        VOCDataSet(voc)
    assert len(VOCDataSet(voc, allow_outside=True)) == 2
    (tmp_path_factory.mktemp("links") / "set").symlink_to(outside / "set")
    assert len(VOCDataSet(tmp_path_factory.getbasetemp() / "links0" / "set")) == 2  # the root itself may be a link
    _split(voc, "nul", "a", "b\0")
    with pytest.raises(InputError, match=r"nul\.txt, line 2: .*can be no file"):
        VOCDataSet(voc, txt_name="nul")


def test_suffixes_in_capitals_and_hidden_files(voc):
    (voc / "Annotations" / "a.xml").rename(voc / "Annotations" / "a.XML")
    for name in (".DS_Store", "Thumbs.db", "._a.jpg"):
        (voc / "JPEGImages" / name).write_bytes(b"x")
    (voc / "Annotations" / "._a.xml").write_bytes(b"x")
    (voc / "ImageSets" / "Main" / "._train.txt").write_bytes(b"\xff")
    dataset = VOCDataSet(voc)
    assert len(dataset[0][1]["boxes"]) == 2 and dataset.faults == []


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_a_folder_per_split(voc, tmp_path, val):
    """XML beside the images, and no list: all of a folder is the split, the classes are those of all folders."""
    root = tmp_path / "export"
    for split, stems in (("train", "ab"), (val, "c")):
        (root / split).mkdir(parents=True)
        for stem in stems:
            for path in voc.glob(f"*/{stem}.*"):
                shutil.copy(path, root / split)
    train, valid = VOCDataSet(root), VOCDataSet(root, txt_name="val.txt")
    assert len(train) == 2 and len(valid) == 1 and train.class_names == valid.class_names == ["bird", "cat", "dog"]
    assert train.image_path(0) == str(root / "train" / "a.JPG") and train.faults == []
    with pytest.raises(FileNotFoundError, match=rf"test\.txt does not exist; splits found: train, {val}"):
        VOCDataSet(root, txt_name="test")
    (root / "train" / "a.xml").write_text("<!DOCTYPE x>")
    with pytest.raises(InputError, match="DOCTYPE"):
        VOCDataSet(root)


@pytest.mark.parametrize("folders", ["flat", "Annotations", "images"])
def test_sets_without_splits_are_shared_out(voc, tmp_path, folders):
    root = tmp_path / "plain"
    xml, images = {"flat": (root, root), "Annotations": (root / "Annotations",) * 2,
                   "images": (root / "Annotations", root / "images")}[folders]
    for place, pattern in ((xml, "Annotations/*"), (images, "JPEGImages/*")):
        place.mkdir(parents=True, exist_ok=True)
        for path in voc.glob(pattern):
            shutil.copy(path, place)
    (xml / "._a.xml").write_bytes(b"hidden")
    train, val = VOCDataSet(root), VOCDataSet(root, txt_name="val")
    assert len(train) == 2 and len(val) == 1 and len({val.image_path(0), train.image_path(0), train.image_path(1)}) == 3
    assert train.class_names == val.class_names == ["bird", "cat", "dog"]
    assert [f.kind for f in val.faults] == ["split val missing, 20 % of all annotations taken"] and len(train.faults) == 1
    _split(root, "train", "c")
    assert VOCDataSet(root).image_path(0).endswith("c.bmp") and VOCDataSet(root).faults == []


def test_names_that_differ_by_case(voc):
    """Without a class list the rarer spelling stops; with one that has both they are two classes."""
    _write(voc, "b", _object("Cat"), _object("cat", box=(5, 5, 9, 9)))
    with pytest.raises(InputError, match=r'b\.xml, object 1: unknown class "Cat"; did you mean "cat"\?; if both are classes'):
        VOCDataSet(voc)
    assert VOCDataSet(voc, class_names=["cat", "Cat", "dog"])[1][1]["labels"].tolist() == [2, 1]
    assert len(VOCDataSet(voc, skip_unknown=True)[1][1]["labels"]) == 1
    _write(voc, "b", _object(" cat\n"), _object("hot\n  dog"))
    assert VOCDataSet(voc).class_names == ["bird", "cat", "dog", "hot dog"]


def test_absurd_numbers(voc):
    size = "<size><width>1e300</width><height>99999999999</height></size>"
    _write(voc, "a", _object(box=(1, 2, "1e308", 22)), _object(box=("9" * 500, 1, 2, 3)), size=size, suffix=".JPG")
    dataset = VOCDataSet(voc)
    assert dataset.get_height_and_width(0) == (30, 40) and dataset[0][1]["boxes"].tolist() == [[1, 2, 40, 22]]


def test_bad_boxes_are_dropped_and_named(voc):
    _write(voc, "b", _object(box=(5, 5, 5, 5)), _object(box=(1, 1, "nan", 5)), _object(box=(9, 9, 99, 20)))
    dataset = VOCDataSet(voc)
    assert dataset[1][1]["boxes"].tolist() == [[9, 9, 40, 20]]
    assert dataset.ground_truth()["boxes"][-1].tolist() == [9, 9, 40, 20]
    assert summarise_faults(dataset.faults) == [
        "objects dropped: 1 x coordinate that is not a number (b.xml object 2)",
        "objects dropped: 1 x box of zero size (b.xml object 1)",
        "fixed: 1 x box clipped to the image (b.xml object 3)"]


def test_tags_are_read_by_name_and_from_direct_children(voc):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    box = "<bndbox><ymax>9</ymax><xmin>1</xmin><xmax>7.5</xmax><ymin>3</ymin></bndbox>"
    _write(voc, "a", f"<object>{part}<name> cat </name><difficult>Unspecified</difficult>{box}</object>",
           "<object><name>cat</name><!-- no box --></object>", filename="a.JPG")
    dataset = VOCDataSet(voc)
    assert dataset.class_names == ["bird", "cat"]
    assert dataset.coco_index(0)[1]["boxes"].tolist() == [[1, 3, 7.5, 9]]
    assert [f.kind for f in dataset.faults] == ["object without box"]


def test_declared_encoding(voc):
    text = f"<?xml version='1.0' encoding='GBK'?><annotation>{SIZE}{_object('猫')}</annotation>"
    (voc / "Annotations" / "a.xml").write_bytes(text.encode("gbk"))
    assert VOCDataSet(voc).class_names == ["bird", "猫"]


def test_size_from_the_image_and_wrong_filename(voc):
    _write(voc, "a", _object(), size="<size><width>0</width></size>", filename="zzz.jpg", suffix=".JPG")
    _write(voc, "b", size="", filename="b.jpeg")
    dataset = VOCDataSet(voc)
    assert dataset.get_height_and_width(0) == dataset.get_height_and_width(1) == (30, 40)
    assert [(f.kind, f.detail) for f in dataset.faults] == [
        ("no image size, taken from the image", "the size is 40x30 (2 such cases, this is the first)"),
        ("<filename> is not the image's, ignored",
         "<filename> is 'zzz.jpg', the image of this name is a.JPG (2 such cases, this is the first)")]
    (voc / "JPEGImages" / "a.JPG").write_bytes(b"broken")
    dataset = VOCDataSet(voc)
    assert len(dataset) == 1 and dataset.faults[0].action == "drop image"
    text = (voc / "Annotations" / "b.xml").read_text()
    for name in ("", "<filename>b</filename>", "<filename>c.bmp</filename>"):
        (voc / "Annotations" / "b.xml").write_text(text.replace("<filename>b.jpeg</filename>", name))
        assert dataset.faults[-1].kind in {f.kind for f in VOCDataSet(voc).faults}
    (voc / "Annotations" / "b.xml").write_text(text.replace("b.jpeg", "C:\\data\\b.png"))
    assert [f.kind for f in VOCDataSet(voc).faults] == ["unreadable image", "no image size, taken from the image"]


def test_image_of_another_size_than_annotated(voc):
    _write(voc, "a", _object(), shape=(25, 50), suffix=".JPG")
    with pytest.warns(UserWarning, match="50x25 pixels, its annotation says 40x30"):
        assert VOCDataSet(voc)[0][0].shape == (3, 25, 50)
    _write(voc, "a", _object(box=(1, 1, 30, 29)), shape=(25, 50), suffix=".JPG")
    with pytest.raises(UnreadableImage, match="boxes lie outside"):
        VOCDataSet(voc)[0]


def test_explicit_classes_and_old_transforms(voc, tmp_path):
    (tmp_path / "classes.txt").write_text("dog\nbird\ncat\n")
    dataset = VOCDataSet(voc, "2012", lambda image, target: (image[:, :5], {**target, "seen": 1}), "train.txt",
                         class_names=tmp_path / "classes.txt")
    image, target = dataset[0]
    assert target["labels"].tolist() == [3, 1] and image.shape == (3, 5, 40) and target["seen"] == 1


def test_voc_names_keep_their_order(voc):
    _write(voc, "a", _object("person"), _object("aeroplane"), suffix=".JPG")
    _write(voc, "c", _object("car"), suffix=".bmp")
    assert VOCDataSet(voc).class_names == ["aeroplane", "car", "person"]


def test_no_objects_anywhere(voc):
    _write(voc, "a", suffix=".JPG")
    _write(voc, "c", suffix=".bmp")
    with pytest.raises(InputError, match="no classes to learn"):
        VOCDataSet(voc)
    assert len(VOCDataSet(voc, class_names=["cat"])) == 2


def test_pickle(voc):
    dataset = pickle.loads(pickle.dumps(VOCDataSet(voc)))
    assert torch.equal(dataset[0][1]["boxes"], VOCDataSet(voc)[0][1]["boxes"])
    assert dataset.image_path(1).endswith("b.png")


def test_blood_cells(shared_data):
    sets = {split: VOCDataSet(shared_data / "bccd" / "BCCD", txt_name=split) for split in ("train", "val", "test")}
    assert [len(dataset) for dataset in sets.values()] == [205, 87, 72]
    assert sum(len(dataset.table.labels) for dataset in sets.values()) == 4888 - 2
    assert all(dataset.class_names == ["Platelets", "RBC", "WBC"] for dataset in sets.values())
    dropped = [(fault.file.split("/")[-1], fault.kind) for dataset in sets.values() for fault in dataset.faults]
    assert dropped == [("BloodImage_00343.xml", "box of zero size"), ("BloodImage_00338.xml", "box of zero size")]
    assert sets["train"][0][0].shape == (3, 480, 640)


def test_large_jpegs_may_be_decoded_smaller_with_their_boxes(tmp_path):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\nc\n")
    for stem, (width, height) in {"a": (801, 600), "b": (300, 400), "c": (400, 300)}.items():
        Image.new("RGB", (width, height), (9, 9, 9)).save(tmp_path / "JPEGImages" / f"{stem}.jpg")
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size><object><name>x</name><bndbox><xmin>80</xmin>"
            "<ymin>60</ymin><xmax>240</xmax><ymax>120</ymax></bndbox></object></annotation>")
    dataset = VOCDataSet(tmp_path)
    assert dataset[0][0].shape == (3, 600, 801)
    dataset.decode_side = 150
    image, target = dataset[0]
    assert image.shape == (3, 150, 201) and dataset.get_height_and_width(0) == (600, 801)  # 600 / 4 is 150 still
    assert target["boxes"].tolist() == [[20, 15, 60, 30]] and target["area"].item() == 160 * 60 / 16
    assert [tuple(dataset[i][0].shape[1:]) for i in (1, 2)] == [(200, 150), (150, 200)]
    # An image that was made smaller on the disk is told from one that was decoded smaller.
    Image.new("RGB", (400, 300)).save(tmp_path / "JPEGImages" / "a.jpg")
    with pytest.warns(UserWarning, match="has 400x300 pixels, its annotation says 801x600"):
        assert dataset[0][1]["boxes"].tolist() == [[40, 30, 120, 60]]
    dataset.decode_side = None
    assert dataset[0][1]["boxes"].tolist() == [[80, 60, 240, 120]]


def test_decode_side_reaches_through_wrappers(shapes):
    inner = [VOCDataSet(shapes, txt_name=name) for name in ("train", "val")]
    samples = TrainingSamples(Subset(JoinedDataset(inner), [0, 1]))
    samples.decode_side = 64
    assert samples.decode_side == 64 and [dataset.decode_side for dataset in inner] == [64, 64]
    plain = TrainingSamples([(torch.zeros(3, 4, 4, dtype=torch.uint8), {})])
    plain.decode_side = 64
    assert plain.decode_side is None


def test_paths_in_place_of_stems(voc):
    _split(voc, "train", "a.JPG", "JPEGImages/b.png", "./JPEGImages/c.jpg", "/home/bob/set/JPEGImages/b.png", "C:\\set\\a.xml 1")
    dataset = VOCDataSet(voc)
    assert [dataset.image_path(k).rsplit("/", 1)[-1] for k in range(len(dataset))] == ["a.JPG", "b.png", "c.bmp"]
    fault, = dataset.faults
    assert (fault.where, fault.kind, fault.action, fault.count) == ("line 1", "file in place of a stem, its stem taken", "fix", 5)
    _write(voc, "d.jpg", _object())  # a stem that only looks like a file
    (voc / "Annotations" / "deeper").mkdir()
    for name in ("Annotations/a.xml", "JPEGImages/a.JPG"):
        (voc / name).parent.joinpath("deeper").mkdir(exist_ok=True)
        shutil.copy(voc / name, (voc / name).parent / "deeper")
    _split(voc, "train", "d.jpg", "JPEGImages/deeper/a.JPG")
    dataset = VOCDataSet(voc)
    assert [dataset.image_path(k)[len(str(voc)) :] for k in (0, 1)] == ["/JPEGImages/d.jpg.png", "/JPEGImages/deeper/a.JPG"]
    _split(voc, "train", "a", "x.jpg")
    with pytest.raises(InputError, match=r"x\.jpg\.xml: there is no such annotation, but .*, line 2, lists it"):
        VOCDataSet(voc)
    _split(voc, "default", "JPEGImages/a.JPG", "JPEGImages/b.png", "c.bmp")
    for name in ("train", "val"):
        (voc / "ImageSets" / "Main" / f"{name}.txt").unlink()
    parts = [VOCDataSet(voc, txt_name=name) for name in ("train", "val")]
    assert sorted(map(len, parts)) == [1, 2] and {fault.count for fault in parts[0].faults} == {3, 1}


@pytest.mark.parametrize("above", ["", "VOCdevkit", "VOC2012"])
def test_folders_in_lower_case(voc, tmp_path_factory, above):
    """annotations/ and images/; of two spellings the usual one, and a folder of that name without XML is none."""
    root = tmp_path_factory.mktemp("small")
    shutil.copytree(voc, root / above, dirs_exist_ok=True)
    shutil.rmtree(root / above / "ImageSets")
    (root / above / "Annotations").rename(root / above / "annotations")
    (root / above / "JPEGImages").rename(root / above / "Images")
    parts = [VOCDataSet(root, txt_name=name) for name in ("train", "val")]
    assert [len(part) for part in parts] == [2, 1] and parts[0].class_names == ["bird", "cat", "dog"]
    assert "/Images/" in parts[0].image_path(0)
    for path in (root / above / "annotations").iterdir():
        path.rename(path.with_suffix(".json"))
    with pytest.raises(FileNotFoundError, match="is not a VOC data set"):
        VOCDataSet(root)
    (root / above / "Annotations").mkdir()
    with pytest.raises(InputError, match="Annotations holds annotations of 0 images"):
        VOCDataSet(root)


def test_pipes_are_no_files(voc, monkeypatch):
    os.mkfifo(voc / "Annotations" / "p.xml")
    _split(voc, "train", "a", "p")
    with pytest.raises(InputError, match=r"p\.xml: cannot open this annotation \(it is a pipe or a device, not an ordinary"):
        VOCDataSet(voc)
    os.mkfifo(voc / "ImageSets" / "Main" / "cat_val.txt")
    _split(voc, "train", "a")
    with pytest.raises(InputError, match=r"cat_val\.txt: cannot open this file \(it is a pipe"):
        VOCDataSet(voc)
    (voc / "ImageSets" / "Main" / "cat_val.txt").unlink()
    assert len(VOCDataSet(voc)) == 1
    monkeypatch.setattr("datasets.voc.MAX_XML_BYTES", 9)
    with pytest.raises(InputError, match=r"a\.xml: \d{3} bytes are too many, 9 are allowed for one image"):
        VOCDataSet(voc)
