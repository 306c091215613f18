"""check_dataset.py: every fault in one list, the exit code, the report, and nothing written into the data set."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image
from runs import expect_one_sentence
from test_architecture import flags

import check_dataset
from datasets import make_shapes

DATA_FLAGS = ("--dataset --data-path --val-data-path --year --train-split --val-split --train-json --train-images --val-json "
              "--val-images --classes --num-classes --skip-difficult --drop-empty --skip-unknown --skip-missing --group-boxes "
              "--polygon-boxes --merge-classes --allow-outside --max-bad-samples").split()


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("clean") / "shapes", num_train=12, num_val=4)


@pytest.fixture
def voc(clean, tmp_path):
    """A drawn set as an ordinary VOC folder, to be damaged."""
    folder = tmp_path / "data"
    shutil.copytree(clean, folder)
    (folder / "shapes.json").unlink()
    return folder


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def listing(folder):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def check(tmp_path, *words):
    """(exit code, report) of a run in this process."""
    report = tmp_path / "report.json"
    words = [*words, "--workers", "0", "--num-anchors", "2", "--report", report]
    if "--preview" not in words:
        words += ["--preview", "none"]
    code = check_dataset.main(check_dataset.parse_args([str(word) for word in words]))
    content = json.loads(report.read_text())
    assert content["exit_code"] == code
    return code, content


def kinds(report, action=None):
    return [fault["kind"] for fault in report["faults"] if action in (None, fault["action"])]


def test_data_flags_are_those_of_the_training_scripts():
    own, others, with_single_class = flags("check_dataset"), flags("train_ssd"), flags("train_yolov3")
    for name in [*DATA_FLAGS, "--single-cls"]:
        one, other = own[name], (with_single_class if name == "--single-cls" else others)[name]
        assert [getattr(one, key) == getattr(other, key) for key in ("type", "nargs", "dest", "help", "default", "choices")] == [
            True] * 6, name
        assert type(one) is type(other)


def test_clean_set(voc, tmp_path, capsys):
    before = listing(voc)
    code, report = check(tmp_path, "--data_path", voc, "--preview", tmp_path / "page.png")
    assert code == 0 and report["faults"] == report["counts"] == report["same_pictures"] == [] and listing(voc) == before
    assert Image.open(tmp_path / "page.png").width > 500
    assert report["splits"]["training"]["images"] == 12 and report["splits"]["validation"]["images"] == 4
    rows = report["classes"]["training"]
    assert [row["name"] for row in rows] == ["circle", "square", "star", "triangle"]
    assert sum(row["boxes"] for row in rows) == report["splits"]["training"]["boxes"] > 0
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert len(report["anchors"]["anchors"]) == 2 and report["versions"]["torch"] and report["date"] and report["command"]
    printed = capsys.readouterr().out
    assert "taken as voc" in printed and "training would use everything; written: " in printed and "2 anchors" in printed


def test_every_fault_is_told_with_its_place_and_action(voc, tmp_path, capsys):
    annotations, images = voc / "Annotations", voc / "JPEGImages"
    text = (annotations / "train_00002.xml").read_text()
    box = text[text.index("<bndbox>") : text.index("</bndbox>")]
    edit(annotations / "train_00002.xml", box, "<bndbox><xmin>7</xmin><ymin>5</ymin><xmax>7</xmax><ymax>9</ymax>")
    cut = (images / "train_00003.jpg").read_bytes()
    (images / "train_00003.jpg").write_bytes(cut[:-20])
    shutil.copy(images / "train_00004.jpg", images / "val_00001.jpg")
    Image.open(images / "train_00005.jpg").save(images / "train_00005.jpg", "PNG")
    (annotations / "val_00001.xml").write_text((annotations / "train_00004.xml").read_text().replace("train_00004", "val_00001"))
    (images / "stray.jpg").write_bytes(cut)
    code, report = check(tmp_path, "--data-path", voc)
    assert code == 1
    assert [(fault["split"], fault["kind"], fault["action"]) for fault in report["faults"]] == [
        ("training", "box of zero size", "drop object"), ("training", "unreadable image", "drop image"),
        ("training", "content of another kind than the suffix", "fix"),
        ("validation", "same picture in training and validation", "warn"), ("other files", "image without annotation", "warn")]
    assert [row["count"] for row in report["counts"]] == [1] * 5
    assert [row["action"] for row in report["counts"]] == ["drop image", "drop object", "fix", "warn", "warn"]
    pair, = report["same_pictures"]
    assert pair["path"].endswith("val_00001.jpg") and pair["other_path"].endswith("train_00004.jpg")
    printed = capsys.readouterr().out
    assert f"{annotations / 'train_00002.xml'}, object 1: the box [7.0, 5.0, 7.0, 9.0]" in printed
    assert "[box of zero size: drop object]" in printed and "training would leave something out" in printed


def test_faults_that_stop_are_all_told_and_the_rest_is_checked(voc, tmp_path):
    (voc / "labels.txt").write_text("circle\nsquare\nstar\n")
    image = voc / "JPEGImages" / "val_00002.jpg"
    whole = image.read_bytes()
    image.write_bytes(b"")
    code, report = check(tmp_path, "--data-path", voc)
    stops = [fault for fault in report["faults"] if fault["action"] == "stop"]
    assert code == 2 and len(stops) > 1 and {fault["kind"] for fault in stops} == {"unknown class"}
    assert {fault["split"] for fault in stops} == {"training", "validation"}
    assert "unreadable image" in kinds(report, "drop image")
    image.write_bytes(whole)
    code, report = check(tmp_path, "--data-path", voc, "--skip-unknown")
    assert code == 1 and set(kinds(report, "drop object")) == {"unknown class"} and kinds(report, "drop image") == []


def test_a_split_that_cannot_be_opened(voc, tmp_path):
    (voc / "ImageSets" / "Main" / "train.txt").unlink()
    (voc / "JPEGImages" / "val_00002.jpg").write_bytes(b"")
    code, report = check(tmp_path, "--data-path", voc, "--preview", tmp_path / "page.png")
    assert code == 2 and kinds(report, "stop") == ["split that cannot be opened"]
    assert "train.txt does not exist" in report["faults"][0]["detail"]
    assert "unreadable image" in kinds(report) and list(report["splits"]) == ["validation"] and report["anchors"] is None
    assert (tmp_path / "page.png").is_file()
    code, report = check(tmp_path, "--data-path", tmp_path / "nowhere", "--preview", tmp_path / "none.png")
    assert code == 2 and kinds(report) == ["split that cannot be opened"] * 2 and report["splits"] == {}
    assert not (tmp_path / "none.png").exists()


def test_a_file_that_does_not_parse_is_named_with_its_line(tmp_path):
    coco = tmp_path / "coco"
    for split in ("train", "val"):
        (coco / split).mkdir(parents=True)
        Image.new("RGB", (20, 10), split and (5, 5, len(split))).save(coco / split / "a.png")
    (coco / "annotations").mkdir()
    content = {"images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}], "categories": [{"id": 3, "name": "cat"}],
               "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 8, 8], "area": 64, "iscrowd": 0,
                                "segmentation": []}]}
    (coco / "annotations" / "train.json").write_text(json.dumps(content))
    (coco / "annotations" / "val.json").write_text('{"images":\n[}')
    code, report = check(tmp_path, "--data-path", coco)
    fault, = report["faults"]
    assert code == 2 and (fault["kind"], fault["where"], fault["split"]) == ("JSON that does not parse", "line 2", "validation")
    # Other ids and more categories: training's classes count.
    content["categories"] = [{"id": 1, "name": "dog"}, *content["categories"]]
    (coco / "annotations" / "val.json").write_text(json.dumps(content))
    code, report = check(tmp_path, "--data-path", coco)
    assert code == 0 and [row["name"] for row in report["classes"]["validation"]] == ["cat"] and report["faults"] == []
    Image.new("RGB", (20, 10)).save(coco / "train" / "extra.png")
    pairs = [word for split in ("train", "val") for word in (f"--{split}-json", coco / "annotations" / f"{split}.json",
                                                             f"--{split}-images", coco / split)]
    for words in (["--data-path", coco], ["--data-path", coco, "--drop-empty"], pairs):
        code, report = check(tmp_path, *words)
        fault, = report["faults"]
        assert code == 0 and fault["kind"] == "image in no split" and fault["file"].endswith("extra.png")
    content["images"][0]["file_name"] = "extra.png"
    (coco / "annotations" / "val.json").write_text(json.dumps(content))
    assert check(tmp_path, *pairs[:-1], coco / "train")[1]["faults"] == []  # both splits have their images in one folder


def test_number_of_classes(voc, tmp_path):
    assert check(tmp_path, "--data-path", voc, "--num-classes", "4")[0] == 0
    code, report = check(tmp_path, "--data-path", voc, "--num-classes", "5")
    assert code == 2 and kinds(report) == ["other number of classes"]


def test_too_many_unusable_images_stop(voc, tmp_path):
    for k in range(3):
        (voc / "JPEGImages" / f"train_{k:05d}.jpg").write_bytes(b"")
    assert check(tmp_path, "--data-path", voc, "--max-bad-samples", "3")[0] == 1
    code, report = check(tmp_path, "--data-path", voc, "--max-bad-samples", "2")
    assert code == 2 and kinds(report, "stop") == ["too many unusable images"]
    for name in ("train_00005", "train_00006", "val_00001"):  # dropped by the reader: counted apart, and for each split
        (voc / "Annotations" / f"{name}.xml").write_text("<annotation")
    assert check(tmp_path, "--data-path", voc, "--max-bad-samples", "3")[0] == 1
    code, report = check(tmp_path, "--data-path", voc, "--max-bad-samples", "1")
    stops = [fault["detail"] for fault in report["faults"] if fault["action"] == "stop"]
    assert code == 2 and [detail.partition(" images")[0] for detail in stops] == ["2", "3"]


def test_faults_that_stand_for_many_records_are_counted(voc, tmp_path, capsys):
    for path in (voc / "Annotations").glob("train_*.xml"):
        edit(path, f"<filename>{path.stem}.jpg", "<filename>other.jpg")
    code, report = check(tmp_path, "--data-path", voc)
    fault, = report["faults"]
    assert code == 0 and fault["count"] == 12 and [row["count"] for row in report["counts"]] == [12]
    printed = capsys.readouterr().out
    assert "training: 12 faults\n" in printed and "     12 x <filename> is not the image's, ignored: fix" in printed


def test_one_class_for_all(voc, tmp_path):
    code, report = check(tmp_path, "--data-path", voc, "--single-cls", "--num-classes", "1")
    assert code == 0 and [[row["name"] for row in rows] for rows in report["classes"].values()] == [["object"]] * 2
    (voc / "classes.txt").write_text("circle\nsquare\nstar\n")  # those of the data before that
    code, report = check(tmp_path, "--data-path", voc, "--single-cls", "--classes", voc / "classes.txt")
    assert code == 2 and {fault["split"] for fault in report["faults"]} == {"training", "validation"}
    assert set(kinds(report)) == {"unknown class"}


def test_paths_to_outside_that_training_does_not_meet(voc, tmp_path):
    for name in ("secret", "other"):
        (tmp_path / "private").mkdir(exist_ok=True)
        shutil.copy(voc / "JPEGImages" / "val_00001.jpg", tmp_path / "private" / f"{name}.jpg")
    (tmp_path / "private" / "secret.xml").write_text("<annotation")
    (voc / "ImageSets" / "Main" / "test.txt").write_text("../../private/secret\n")
    code, report = check(tmp_path, "--data-path", voc)
    fault, = report["faults"]
    assert code == 0 and (fault["split"], fault["kind"]) == ("other files", "path leads out of the data folder")
    assert fault["file"].endswith("test.txt") and fault["where"] == "line 1"
    code, report = check(tmp_path, "--data-path", voc, "--allow-outside")
    fault, = report["faults"]
    assert code == 0 and fault["file"].endswith("other.jpg")
    (voc / "ImageSets" / "Main" / "test.txt").rename(voc / "ImageSets" / "Main" / "train.txt")
    edit(voc / "ImageSets" / "Main" / "train.txt", "../", "train_00000\n../")
    code, report = check(tmp_path, "--data-path", voc)  # told once, by the reader
    assert code == 2 and kinds(report).count("path leads out of the data folder") == 1
    # COCO: only reading another split tells what it names.
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    for split in ("train", "val", "test"):
        shutil.copytree(voc / "JPEGImages", tmp_path / "coco" / split)
        images = [{"id": k, "file_name": f"{split if split == 'val' else 'train'}_{k:05d}.jpg"} for k in range(2)]
        if split == "test":
            images[1]["file_name"] = "../../private/secret.jpg"
        content = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": []}
        (tmp_path / "coco" / "annotations" / f"{split}.json").write_text(json.dumps(content))
    report = check(tmp_path, "--data-path", tmp_path / "coco")[1]
    fault, = [fault for fault in report["faults"] if fault["kind"] == "path leads out of the data folder"]
    assert (fault["split"], fault["action"]) == ("other files", "warn") and fault["file"].endswith("test.json")


def test_data_path_with_dots(voc, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert check(tmp_path, "--data-path", "../data")[1]["faults"] == []


def test_several_roots(voc, clean, tmp_path):
    code, report = check(tmp_path, "--data-path", voc, clean, "--val-data-path", voc)
    assert report["splits"]["training"]["images"] == 24 and report["splits"]["validation"]["images"] == 4
    assert set(kinds(report)) == {"same picture twice in a split"} and len(report["faults"]) == 12 and code == 0
    code, report = check(tmp_path, "--data-path", voc, voc, "--val-data-path", voc)
    assert set(kinds(report)) == {"same picture twice in a split"} and len(report["faults"]) == 12 and code == 0
    assert all("has this file twice" in fault["detail"] for fault in report["faults"])


def test_images_without_objects_and_nothing_to_fit_anchors_to(voc, tmp_path, capsys):
    (voc / "labels.txt").write_text("circle\nsquare\nstar\ntriangle\n")
    for path in (voc / "Annotations").glob("train_*.xml"):
        path.write_text("<annotation><size><width>0</width></size></annotation>")
    code, report = check(tmp_path, "--data-path", voc, "--preview", tmp_path / "page.pdf")
    assert code == 0 and report["splits"]["training"]["without_objects"] == 12 and report["anchors"] is None
    assert kinds(report, "warn") == ["class not in training"] * 4 and (tmp_path / "page.pdf").is_file()
    assert "no anchors: anchors need boxes" in capsys.readouterr().out
    taken, no_anchors = report["notes"]
    assert "taken as voc" in taken and no_anchors.startswith("no anchors: anchors need boxes")
    code, report = check(tmp_path, "--data-path", voc, "--drop-empty")
    stops = [fault["detail"] for fault in report["faults"] if fault["action"] == "stop"]
    assert code == 2 and len(stops) == 1 and stops[0].startswith("no image is left")
    assert "no image size, taken from the image" in kinds(report, "fix")  # what was found before is told too


def test_names_that_no_terminal_shows(voc, tmp_path, capsys):
    (voc / "JPEGImages" / "caf\udce9.jpg").write_bytes(b"")
    assert check(tmp_path, "--data-path", voc)[0] == 0
    assert "caf\\udce9.jpg" in capsys.readouterr().out


def test_nothing_is_written_into_the_data_set(voc, tmp_path, capsys):
    link = tmp_path / "link"
    link.symlink_to(voc)
    for words in (["--report", voc / "r.json"], ["--report", voc / "Annotations" / "r.json"], ["--preview", link / "p.png"]):
        expect_one_sentence(check_dataset, capsys, "lies in the data set", "--data-path", voc, *words)
    expect_one_sentence(check_dataset, capsys, "there is no folder", "--data-path", voc, "--report", tmp_path / "no" / "r.json")


def test_the_folder_of_a_file_that_describes_data_is_the_data_set(tmp_path, capsys):
    for source in ("obj.data", "train.txt"):
        (tmp_path / source).write_text("\n")
        expect_one_sentence(check_dataset, capsys, "lies in the data set", "--data-path", tmp_path / source, "--report",
                            tmp_path / "r.json")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "images").mkdir()
    for place in (tmp_path / "p.png", tmp_path / "images" / "p.png"):
        expect_one_sentence(check_dataset, capsys, "lies in the data set", "--val-json", tmp_path / "a.json", "--val-images",
                            tmp_path / "images", "--train-json", "none.json", "--train-images", "none", "--preview", place)
    # A path that does not exist has no folder: saying so is for the one who opens it.
    check_dataset.parse_args(["--data-path", str(tmp_path / "gone"), "--report", str(tmp_path / "r.json")])


def test_default_preview_is_left_out_where_the_command_stands_in_the_data(voc, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(voc)
    before = listing(voc)
    code = check_dataset.main(check_dataset.parse_args(["--data-path", ".", "--workers", "0", "--report", "../r.json"]))
    note = "no preview page: dataset_preview.png would lie in the data set (.); give --preview PATH to get one"
    assert code == 0 and listing(voc) == before and note in capsys.readouterr().out
    assert note in json.loads((tmp_path / "r.json").read_text())["notes"]


@pytest.mark.parametrize("words, match", [
    (["--workers", "-1"], "--workers must not be negative"), (["--img-size", "0"], "--img-size must be at least 1"),
    (["--num-anchors", "0"], "--num-anchors"), (["--train-json", "a.json"], "--train-json and --train-images belong together"),
    (["--preview", "page.txt"], "page.txt")])
def test_flags_that_cannot_be_used(words, match, voc, capsys):
    expect_one_sentence(check_dataset, capsys, match, "--data-path", voc, "--workers", "0", *words)


def test_command_line_without_data_flags(tmp_path):
    """The drawn set is made as for training; exit code 0, two processes, the page in the working directory."""
    make_shapes(tmp_path / "data" / "shapes", num_train=4, num_val=2)
    command = [sys.executable, ROOT / "check_dataset.py", "--workers", "2", "--num-anchors", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and "training would use everything" in done.stdout
    assert (tmp_path / "dataset_preview.png").is_file()


def test_blood_cells(shared_data, tmp_path):
    code, report = check(tmp_path, "--data-path", shared_data / "bccd" / "BCCD")
    assert code == 1 and kinds(report) == ["box of zero size"] * 2
    assert [fault["file"].rpartition("/")[2] for fault in report["faults"]] == ["BloodImage_00343.xml", "BloodImage_00338.xml"]
    assert report["splits"]["training"]["boxes"] + report["splits"]["validation"]["boxes"] == 3941


def test_tiny_coco(shared_data, tmp_path):
    code, report = check(tmp_path, "--data-path", shared_data / "tiny_coco")
    counts = report["splits"]
    assert code == 0 and set(kinds(report)) == {"class without a box", "class not in training"}
    assert [counts[name]["without_objects"] for name in counts] == [1, 2] and [counts[name]["crowd"] for name in counts] == [5, 5]
    assert [counts[name]["boxes"] for name in counts] == [465, 377]
    assert min(row["smallest"] for row in report["classes"]["validation"] if row["boxes"]) == pytest.approx(1.85, abs=0.05)
