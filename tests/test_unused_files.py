"""Images in no split and annotations without image, by format."""

import shutil

import pytest
from PIL import Image

from datasets import make_shapes
from datasets.unused_files import Claim, claim_files, unused_files

SPLITS = ("train", "val", "test")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return str(path)


def told(claims):
    return {fault.file.rpartition("/")[2]: fault.kind for fault in unused_files(claims)}


@pytest.fixture
def voc(tmp_path):
    return make_shapes(tmp_path / "voc", num_train=2, num_val=1)


def test_voc(voc):
    assert told(claim_files("voc", voc, SPLITS, "2012")) == {}
    picture(voc / "JPEGImages" / "lonely.PNG")
    picture(voc / "JPEGImages" / "listed_nowhere.jpg")
    xml = (voc / "Annotations" / "train_00000.xml").read_text()
    for name in ("listed_nowhere", "no_image", ".hidden"):
        (voc / "Annotations" / f"{name}.xml").write_text(xml)
    for junk in ("Thumbs.db", ".DS_Store", "._train_00000.jpg"):
        (voc / "JPEGImages" / junk).write_bytes(b"x")
    expected = {"lonely.PNG": "image without annotation", "listed_nowhere.jpg": "image in no split",
                "no_image.xml": "annotation without image"}
    assert told(claim_files("voc", voc, SPLITS, "2012")) == expected
    assert {fault.action for fault in unused_files(claim_files("voc", voc, SPLITS, "2012"))} == {"warn"}
    (voc / "ImageSets" / "Main" / "holdout.txt").write_text("listed_nowhere\n")  # a split that nobody asked for counts
    del expected["listed_nowhere.jpg"]
    assert told(claim_files("voc", voc, SPLITS, "2012")) == expected
    assert claim_files("voc", voc / "JPEGImages", SPLITS, "2012") == []


def test_paths_with_dots(voc, monkeypatch, tmp_path):
    """Claims of the reader and of the lists are compared, however the data path is spelt."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    claims = claim_files("voc", "../voc", SPLITS, "2012")
    assert claims[0].images == {str(voc / "JPEGImages" / f"{name}.jpg") for name in ("train_00000", "train_00001", "val_00000")}
    assert told([*claims, Claim({str(voc / "JPEGImages" / "train_00000.jpg")})]) == {}
    (voc / "Annotations" / "lonely.xml").write_text("<annotation/>")
    fault, = unused_files(claims)
    assert fault.file == str(voc / "Annotations" / "lonely.xml")


def test_voc_paths_out_of_the_data_folder(voc, tmp_path):
    outside = tmp_path / "private"
    for name in ("secret.jpg", "other.jpg"):
        picture(outside / name)
    (outside / "secret.xml").write_text("<annotation/>")
    (voc / "JPEGImages" / "link.jpg").symlink_to(outside / "other.jpg")
    (voc / "Annotations" / "link.xml").write_text("<annotation/>")
    (voc / "ImageSets" / "Main" / "holdout.txt").write_text("train_00000\n../../private/secret\nlink\n")
    faults = unused_files(claim_files("voc", voc, SPLITS, "2012"))
    assert [(fault.file, fault.where, fault.kind, fault.action) for fault in faults] == [
        (str(voc / "ImageSets" / "Main" / "holdout.txt"), "line 2", "path leads out of the data folder", "warn"),
        (str(voc / "Annotations" / "link.xml"), "", "path leads out of the data folder", "warn")]
    allowed = told(claim_files("voc", voc, SPLITS, "2012", allow_outside=True))
    assert allowed == {"other.jpg": "image without annotation"}  # of the folder of secret.jpg
    shutil.move(voc / "ImageSets" / "Main" / "holdout.txt", outside)
    (voc / "ImageSets" / "Main" / "test.txt").symlink_to(outside / "holdout.txt")
    fault, unnamed = unused_files(claim_files("voc", voc, SPLITS, "2012"))
    assert (fault.file, fault.kind) == (str(voc / "ImageSets" / "Main" / "test.txt"), "path leads out of the data folder")
    assert unnamed.file.endswith("link.jpg")


def test_yolo_paths_out_of_the_data_folder(tmp_path):
    root, outside = tmp_path / "yolo", picture(tmp_path / "private" / "images" / "secret.jpg")
    picture(tmp_path / "private" / "images" / "other.jpg")
    inside = picture(root / "images" / "test" / "a.jpg")
    (root / "images" / "test" / "link.jpg").symlink_to(outside)
    (root / "classes.txt").write_text("cat\n")
    claim, = claim_files("yolo", root, SPLITS, "")
    assert [(fault.file, fault.kind, fault.action) for fault in unused_files([claim])] == [
        (str(root / "images" / "test" / "link.jpg"), "path leads out of the data folder", "warn")]
    (root / "test.txt").write_text(f"{inside}\n{outside}\n")
    (root / "images" / "test" / "link.jpg").unlink()
    (root / "obj.data").write_text("test = test.txt\n")
    fault, *others = unused_files(claim_files("yolo", root, SPLITS, ""))
    assert (fault.file, fault.where, fault.action) == (str(root / "test.txt"), "line 2", "warn") and others == []
    assert told(claim_files("yolo", root, SPLITS, "", allow_outside=True)) == {"other.jpg": "image without annotation"}


def test_voc_with_a_folder_for_each_split(voc, tmp_path):
    root = tmp_path / "export"
    for split, name in (("train", "train_00000"), ("valid", "val_00000")):
        (root / split).mkdir(parents=True)
        for source in (voc / "JPEGImages" / f"{name}.jpg", voc / "Annotations" / f"{name}.xml"):
            shutil.copy(source, root / split)
    assert told(claim_files("voc", root, SPLITS, "2012")) == {}
    picture(root / "valid" / "lonely.jpg")
    assert told(claim_files("voc", root, SPLITS, "2012")) == {"lonely.jpg": "image without annotation"}


def test_yolo_with_lists(tmp_path):
    images = [picture(tmp_path / "images" / f"{name}.jpg") for name in "abcd"]
    (tmp_path / "labels").mkdir()
    for name in ("a", "b", "c", "gone", "classes"):
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "obj.names").write_text("cat\n")
    for split, image in (("train", images[0]), ("val", images[1])):
        (tmp_path / f"{split}.txt").write_text(f"{image}\n")
    expected = {"c.jpg": "image in no split", "d.jpg": "image without annotation", "gone.txt": "annotation without image"}
    # Two lists are two data sets, which share their folders.
    claims = [claim for split in ("train", "val") for claim in claim_files("yolo", tmp_path / f"{split}.txt", SPLITS, "")]
    assert told(claims) == expected
    (tmp_path / "obj.data").write_text("classes = 1\ntrain = train.txt\nvalid = val.txt\nnames = obj.names\n")
    assert told(claim_files("yolo", tmp_path, SPLITS, "")) == expected


def test_yolo_with_whole_folders(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / "images" / split / "a.jpg")
    (tmp_path / "classes.txt").write_text("cat\n")
    assert told(claim_files("yolo", tmp_path, SPLITS, "")) == {}


def test_one_annotation_file_for_all(tmp_path):
    used, other = picture(tmp_path / "train" / "a.jpg"), picture(tmp_path / "train" / "b.jpg")
    (tmp_path / "train" / "notes.txt").write_text("nothing")
    assert told([Claim({used})]) == {"b.jpg": "image in no split"}
    assert told([Claim({used}), Claim({other})]) == {}
    assert told([]) == told([Claim(set())]) == told([Claim({str(tmp_path / "nowhere" / "a.jpg")})]) == {}
