import json
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import CocoDetection, InputError, summarise_faults
from datasets.annotations import FaultError
from datasets.coco_json import load_json
from datasets.tally import Tally

MASK = {"segmentation": []}
MORE = {"area": 4, "iscrowd": 0, **MASK}


def _content():
    """Three images of 40 x 30; ids unsorted and with gaps."""
    return {
        "images": [{"id": 20, "file_name": "b.png", "width": 40, "height": 30},
                   {"id": 10, "file_name": "a.png", "width": 40, "height": 30},
                   {"id": 30, "file_name": "c.png", "width": 40, "height": 30}],
        "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 20, "category_id": 90, "bbox": [1, 2, 10, 20], "area": 55.5, "iscrowd": 0, **MASK},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [5, 5, 2.5, 4], "area": 10, "iscrowd": 0, **MASK},
            {"id": 3, "image_id": 20, "category_id": 3, "bbox": [0, 0, 40, 30], "area": 9, "iscrowd": 1, **MASK}],
    }


def _write(root, content, split="train"):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / f"{split}2017").mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "annotations" / f"instances_{split}2017.json").write_text(text, encoding="utf-8")
    for name in "abc":
        Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(root / f"{split}2017" / f"{name}.png")
    return root


def test_samples(tmp_path):
    dataset = CocoDetection(_write(tmp_path, _content()))
    assert dataset.ids == [10, 20, 30] and dataset.class_names == ["cat", "dog"] and dataset.faults == []
    assert dataset.coco_classes == {3: "cat", 90: "dog"}
    image, target = dataset[1]
    assert image.shape == (3, 30, 40) and image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[1, 2, 11, 22]] and target["labels"].tolist() == [2]  # the crowd is left out
    assert target["area"].tolist() == [55.5] and target["iscrowd"].tolist() == [0] and target["image_id"] == 1
    assert "difficult" not in target
    assert dataset[0][1]["boxes"].tolist() == [[5, 5, 7.5, 9]] and dataset[0][1]["area"].tolist() == [10]  # w * h
    assert dataset[2][1]["boxes"].shape == (0, 4)
    assert len(CocoDetection(tmp_path, drop_empty=True)) == 2
    assert pickle.loads(pickle.dumps(dataset)).coco_index(1)[1]["labels"].tolist() == [2]


def test_ground_truth_keeps_crowd_and_ids(tmp_path):
    content = _content()
    content["annotations"][1]["bbox"] = [30, 5, 12, 4]  # 2 pixels too wide
    dataset = CocoDetection(_write(tmp_path, content))
    truth = dataset.ground_truth()
    assert truth["image_index"].tolist() == [0, 1, 1] and truth["iscrowd"].tolist() == [False, False, True]
    assert truth["area"].tolist() == [10, 55.5, 9] and truth["labels"].tolist() == [1, 2, 1]
    assert truth["source_image_ids"].tolist() == [10, 20, 30] and truth["category_ids"].tolist() == [3, 90]
    assert truth["boxes"][0].tolist() == [30, 5, 42, 9]  # as in the file ...
    assert dataset.coco_index(0)[1]["boxes"].tolist() == [[30, 5, 40, 9]]  # ... but clipped for training
    assert [fault.kind for fault in dataset.faults] == ["box clipped to the image"]


def test_val_is_mapped_by_name(tmp_path):
    content = _content()
    content["categories"] = [{"id": 1, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 8, "name": "unused"}]
    for annotation, category in zip(content["annotations"], (1, 7, 7)):
        annotation["category_id"] = category
    val = CocoDetection(_write(tmp_path, content, "val"), "val", class_names=["bird", "cat", "dog"])
    assert val.class_names == ["bird", "cat", "dog"]
    assert val.ground_truth()["labels"].tolist() == [2, 3, 2]
    ids = val.ground_truth()["category_ids"].tolist()
    assert ids[1:] == [7, 1] and ids[0] not in (1, 7, 8)  # an id for writing detections of the class the file lacks
    content["annotations"][0]["category_id"] = 8
    with pytest.raises(InputError, match='annotation 1: unknown class "unused"; known are bird, cat'):
        CocoDetection(_write(tmp_path, content, "val"), "val", class_names=["bird", "cat", "dog"])


def test_sparse_class_table_keeps_the_official_ids(tmp_path):
    names = ["N/A"] * 90
    names[2], names[89] = "cat", "dog"
    dataset = CocoDetection(_write(tmp_path, _content()), class_names=names)
    assert dataset.table.category_ids.tolist() == list(range(1, 91)) and dataset[1][1]["labels"].tolist() == [90]


def test_fixable_files(tmp_path):
    content = _content()
    content["images"][0].update(id="20", file_name="elsewhere\\b.png")
    del content["images"][1]["width"]
    content["annotations"][0].update(image_id=20.0, category_id="90", bbox=["1", 2, 10.0, "20"])
    dataset = CocoDetection(_write(tmp_path, "\ufeff" + json.dumps(content)))
    assert dataset.ids == [10, 20, 30] and dataset[1][1]["boxes"].tolist() == [[1, 2, 11, 22]]
    assert dataset.get_height_and_width(0) == (30, 40)
    name = "instances_train2017.json"
    assert summarise_faults(dataset.faults) == [
        f"fixed: 1 x image found under another path ({name} image 20)", f"fixed: 1 x byte order mark, left out ({name} line 1)",
        f"fixed: 1 x category_id as text or float, read as an integer ({name} annotation 1)",
        f"fixed: 1 x id as text or float, read as an integer ({name} image 1)",
        f"fixed: 1 x no image size, taken from the image ({name} image 10)",
        f"fixed: 1 x image_id as text or float, read as an integer ({name} annotation 1)"]


def test_what_annotations_lack_is_counted(tmp_path):
    content = _content()
    for annotation in content["annotations"][:2]:
        del annotation["area"], annotation["segmentation"], annotation["iscrowd"]
    content["annotations"][2].update(area="wide", iscrowd=True)
    content["annotations"][0]["id"], content["annotations"][1]["id"] = 0, 3
    dataset = CocoDetection(_write(tmp_path, content))
    assert dataset.ground_truth()["area"].tolist() == [10, 200, 1200] and dataset.table.iscrowd.tolist() == [False, False, True]
    counted = " (2 such cases, this is the first)"
    assert [(f.where, f.kind, f.detail, f.action) for f in dataset.faults] == [
        ("annotation 1 of the list", "annotation id missing, 0 or twice, not used", "the id is 0" + counted, "fix"),
        ("annotation 0", "no area, that of the box taken", "there is no area" + counted, "fix"),
        ("annotation 0", "no iscrowd, 0 taken", "there is no iscrowd" + counted, "fix"),
        ("annotation 0", "no segmentation, not needed", "there is no segmentation" + counted, "fix")]
    for annotation in content["annotations"]:
        del annotation["id"]
    assert "the id is None (3 such cases" in CocoDetection(_write(tmp_path, content)).faults[0].detail


def test_keys_twice_and_files_under_two_ids_are_warned_of(tmp_path):
    text = json.dumps(_content()).replace('"id": 1,', '"id": 5, "id": 1, "id": 1,')
    text = text.replace('"name": "dog"', '"name": "x", "name": "dog"')
    dataset = CocoDetection(_write(tmp_path, text))
    assert dataset.class_names == ["cat", "dog"] and [(f.kind, f.action) for f in dataset.faults] == [
        ("key twice in a JSON object, the last one taken", "warn")]
    assert dataset.faults[0].detail.startswith("'name' in an object") and "(2 such" in dataset.faults[0].detail
    content = _content()
    content["images"][2]["file_name"] = "a.png"
    dataset = CocoDetection(_write(tmp_path, content))
    assert len(dataset) == 3 and [(f.where, f.kind, f.action) for f in dataset.faults] == [
        ("image 30", "image file under two ids", "warn")]


def test_heading_of_an_export_is_no_class(tmp_path):
    content = _content()
    content["categories"] = [{"id": 0, "name": "pets", "supercategory": "none"},
                             {"id": 90, "name": "dog", "supercategory": "pets"},
                             {"id": 3, "name": "cat", "supercategory": "pets"}]
    dataset = CocoDetection(_write(tmp_path, content))
    assert dataset.coco_classes == {3: "cat", 90: "dog"}
    assert [(f.kind, f.action) for f in dataset.faults] == [("heading among the categories, left out", "fix")]
    for change in ({"supercategory": "pets"}, {"id": 1}, {"name": "animals"}):
        other = {**content, "categories": [{**content["categories"][0], **change}, *content["categories"][1:]]}
        assert len(CocoDetection(_write(tmp_path, other)).class_names) == 3
    content["annotations"][0]["category_id"] = 0
    assert len(CocoDetection(_write(tmp_path, content)).class_names) == 3


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_exports_with_a_folder_per_split(tmp_path, val):
    for split in ("train", val):
        (tmp_path / split).mkdir()
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(_content()))
        for name in "abc":
            Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(tmp_path / split / f"{name}.png")
    (tmp_path / "train2017").mkdir()  # not the folder of this file
    assert CocoDetection(tmp_path).image_path(0) == str(tmp_path / "train" / "a.png")
    assert CocoDetection(tmp_path, "val").image_path(0) == str(tmp_path / val / "a.png")
    assert CocoDetection(tmp_path, "val").faults == []


def test_nothing_outside_the_data_folder(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    content = _content()
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(tmp_path / "s.png")
    for name in ("../../s.png", str(tmp_path / "s.png"), "x/../../../s.png"):
        content["images"][0]["file_name"] = name
        _write(root, content)
        dataset = CocoDetection(root, strict=False)
        assert len(dataset) == 2 and [(f.where, f.kind, f.action) for f in dataset.faults] == [
            ("image 20", "path leads out of the data folder", "stop")]
        with pytest.raises(InputError, match=r"json, image 20: .*leads out of .*; move it there, or add --allow-outside if that"):
            CocoDetection(root)
        assert len(CocoDetection(root, allow_outside="x/" not in name, strict=False)) == 3 - ("x/" in name)
    content["images"][0]["file_name"] = "/home/somebody/pictures/b.png"  # of another machine, and here under its name
    assert [f.kind for f in CocoDetection(_write(root, content)).faults] == ["image found under another path"]
    content["images"][0]["file_name"] = "../val2017/b.png"  # another folder of the data set
    _write(root, content, "val")
    assert CocoDetection(_write(root, content)).image_path(1).endswith("val2017/b.png")
    _write(root, _content())
    (root / "train2017" / "b.png").unlink()
    (root / "train2017" / "b.png").symlink_to(tmp_path / "s.png")
    with pytest.raises(InputError, match="image 20: .*b.png' leads out of"):
        CocoDetection(root)
    assert len(CocoDetection(root, allow_outside=True)) == 3
    (root / "train2017" / "deep").mkdir()
    (root / "train2017" / "b.png").rename(root / "train2017" / "deep" / "b.png")
    with pytest.raises(InputError, match="image 20: .*deep/b.png' leads out of"):
        CocoDetection(root)
    (root / "train2017").rename(tmp_path / "moved")
    (root / "train2017").symlink_to(tmp_path / "moved")
    with pytest.raises(InputError, match="train2017' leads out of"):
        CocoDetection(root)
    assert len(CocoDetection(root, image_dir=tmp_path / "moved", allow_outside=True)) == 3


def test_image_names_that_lost_something(tmp_path):
    content = _content()
    for image, name in zip(content["images"], ("./b.png", "http://host/dir/a.png", "c.JPG")):
        image["file_name"] = name
    dataset = CocoDetection(_write(tmp_path, content))
    assert [dataset.image_path(k)[-5:] for k in range(3)] == ["a.png", "b.png", "c.png"]
    assert [f.where for f in dataset.faults] == ["image 10", "image 30"]
    (tmp_path / "train2017" / "deep").mkdir()
    for name in ("a.png", "c.png"):
        (tmp_path / "train2017" / "deep" / name).write_bytes((tmp_path / "train2017" / name).read_bytes())
    content["images"][0]["file_name"] = "a\0.png"
    content["images"].append({"id": 40, "file_name": "\ud800", "width": 4, "height": 3})
    content["images"].append({"id": 50, "file_name": "x" * 5000, "width": 4, "height": 3})
    content["images"].append({"id": 60, "file_name": "b.png", "width": 4, "height": 3})
    dataset = CocoDetection(_write(tmp_path, content))
    assert dataset.ids == [60] and [(f.where, f.kind) for f in dataset.faults] == [
        ("image 10", "image missing"), ("image 20", "image missing"), ("image 30", "image missing"),
        ("image 40", "image missing"), ("image 50", "image missing")]
    assert all(len(f.detail) < 400 and f.detail.isprintable() for f in dataset.faults)


def test_absurd_numbers(tmp_path):
    content = _content()
    content["images"][0].update(width=10**12, height=1e300)
    content["annotations"][1].update(id=10**400, bbox=[5, 5, 10**400, 4], area=1e300)
    content["annotations"].append({"id": 4, "image_id": 10**30, "category_id": 10**30, "bbox": [1, 1, 2, 2], **MORE})
    content["annotations"].append({"id": 5, "image_id": 10, "category_id": 3, "bbox": [1e308, 1, 1e308, 2], **MORE})
    content["annotations"].append({"id": 6, "image_id": 10, "category_id": 3, "bbox": [1, 1, 2, 2], **MORE, "area": 1e300})
    dataset = CocoDetection(_write(tmp_path, content))
    assert dataset.get_height_and_width(1) == (30, 40) and dataset[0][1]["area"].tolist() == [4]
    assert [f.kind for f in dataset.faults if f.action == "drop object"] == [
        "annotation of an unknown image"] + ["coordinate that is not a number"] * 2
    content["categories"].append({"id": 2**62, "name": "bird"})
    dataset = CocoDetection(_write(tmp_path, content), class_names=["cow", "cat", "pig", "dog", "bird"])
    assert dataset.table.category_ids.tolist() == [1, 3, 6, 90, 2**62]
    content["images"][0]["id"] = 10**30
    with pytest.raises(InputError, match="image 1: the id 1000000000000000000000000000000 is no integer"):
        CocoDetection(_write(tmp_path, content))


def test_objects_and_images_that_are_dropped(tmp_path):
    content = _content()
    content["images"].append({"id": 40, "file_name": "none.png", "width": 40, "height": 30})
    add = content["annotations"].append
    add({"id": 4, "image_id": 99, "category_id": 3, "bbox": [1, 1, 2, 2], **MORE})
    add({"id": 5, "image_id": 10, "category_id": 4, "bbox": [1, 1, 2, 2], **MORE})
    add({"id": 6, "image_id": 10, "category_id": 3, "bbox": [1, 1, 0, 2], **MORE})
    add({"id": 7, "image_id": 10, "category_id": 3, "bbox": [], **MORE})
    add({"id": 8, "image_id": 10, "category_id": 3, "bbox": [1, 1, -3, 2], **MORE})
    add({"id": 9, "image_id": 40, "category_id": 3, "bbox": [1, 1, 3, 2], **MORE})  # goes with its image
    add({"id": 10, "image_id": 10, "category_id": 3, "bbox": [1, True, 3, 2], **MORE})
    dataset = CocoDetection(_write(tmp_path, content))
    assert len(dataset) == 3 and len(dataset.table.labels) == 3
    assert [(f.where, f.kind, f.action) for f in dataset.faults] == [
        ("image 40", "image missing", "drop image"),
        ("annotation 4", "annotation of an unknown image", "drop object"),
        ("annotation 5", "annotation of an unknown category", "drop object"),
        ("annotation 7", "annotation without box", "drop object"),
        ("annotation 10", "coordinate that is not a number", "drop object"),
        ("annotation 8", "box with swapped corners", "drop object"),
        ("annotation 6", "box of zero size", "drop object")]


def _stops(tmp_path, content, match):
    with pytest.raises(InputError, match=match) as caught:
        CocoDetection(_write(tmp_path, content))
    assert "instances_train2017.json" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_stop(tmp_path):
    _stops(tmp_path, '{"images": [],\n oops}', "line 2: the JSON does not parse")
    _stops(tmp_path, '{"images": NaN}', "holds NaN")
    _stops(tmp_path, '{"images": []}', 'no list "annotations"')
    _stops(tmp_path, "[]", 'no list "images"')
    _stops(tmp_path, {**_content(), "categories": []}, '"categories" is empty')
    twice = [{"id": 1, "name": "a"}, {"id": 2, "name": "a "}]
    _stops(tmp_path, '{"images": ' + "9" * 5000 + "}", "this is not a JSON text file")
    _stops(tmp_path, "[" * 100_000, "this is not a JSON text file")
    _stops(tmp_path, {**_content(), "categories": [{"id": 1, "name": "\ud800"}]}, "category 1: the name .* control character")
    _stops(tmp_path, {**_content(), "categories": twice}, "category 2: .*twice")
    _stops(tmp_path, {**_content(), "categories": [{"id": "x", "name": "a"}]}, "category 1: needs an integer id")
    content = _content()
    content["images"][1]["id"] = 20
    _stops(tmp_path, content, "image 20: two images have this id")
    content["images"][1].update(id=10, file_name="../../secret.png")
    _stops(tmp_path, content, "image 10: .*leads out of")
    content["images"][1].update(id="ten", file_name="a.png")
    _stops(tmp_path, content, "image 2: the id 'ten' is no integer")


def test_other_box_conventions(tmp_path):
    content = _content()
    corners = [[20 + k, 10, 30 + k, 25] for k in range(9)]
    content["annotations"] = [{"id": k, "image_id": 10, "category_id": 3, "bbox": b} for k, b in enumerate(corners)]
    _stops(tmp_path, content, "not two corners")
    for annotation in content["annotations"]:
        annotation["bbox"] = [v / 100 for v in annotation["bbox"]]
    _stops(tmp_path, content, "fractions")


def test_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)does not exist; expected is.*instances_val2017"):
        CocoDetection(tmp_path)
    _write(tmp_path, _content())
    json_file = tmp_path / "annotations" / "instances_train2017.json"
    assert len(CocoDetection(None, json_path=json_file, image_dir=tmp_path / "train2017")) == 3
    with pytest.raises(FileNotFoundError, match="image folder .*none does not exist"):
        CocoDetection(None, json_path=json_file, image_dir=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="needs a data path"):
        CocoDetection(None, json_path=json_file)
    with pytest.raises(FileNotFoundError, match="none of the 3 images"):
        CocoDetection(None, json_path=json_file, image_dir=tmp_path / "annotations")
    json_file.rename(tmp_path / "train.json")
    (tmp_path / "train2017").rename(tmp_path / "train")
    assert len(CocoDetection(tmp_path, "train")) == 3


def test_tiny_coco(shared_data):
    counts = {"train": (470, 5, 1), "val": (382, 5, 2)}
    for split, (annotations, crowds, without) in counts.items():
        dataset = CocoDetection(shared_data / "tiny_coco", split)
        truth = dataset.ground_truth()
        assert len(dataset) == 50 and len(truth["labels"]) == annotations and truth["iscrowd"].sum() == crowds
        assert len(dataset.class_names) == 80 and truth["category_ids"].max() == 90
        assert 50 - len(np.unique(truth["image_index"])) == without
        assert sum(len(dataset.coco_index(i)[1]["labels"]) for i in range(50)) == annotations - crowds


def test_one_file_for_all_images_is_to_be_divided(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_default.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"one annotation file for all .*instances_default\.json.*split_dataset"):
        CocoDetection(tmp_path, "train")


def test_images_in_linked_folders(tmp_path):
    """Of an image whose folder is not named, those behind links count if they lie in the data folder."""
    root = _write(tmp_path / "set", _content())
    (root / "store").mkdir()
    (root / "train2017" / "a.png").rename(root / "store" / "a.png")
    (root / "train2017" / "more").symlink_to(root / "store")
    (root / "train2017" / "round").symlink_to(root / "train2017")
    dataset = CocoDetection(root)
    assert len(dataset) == 3 and f"{root}/train2017/more/a.png" in [dataset.image_path(k) for k in range(3)]
    (root / "store").rename(tmp_path / "store")
    (root / "train2017" / "more").unlink()
    (root / "train2017" / "more").symlink_to(tmp_path / "store")
    with pytest.raises(InputError, match="train2017/more' leads out of"):
        CocoDetection(root)
    assert len(CocoDetection(root, allow_outside=True)) == 3


def test_a_pipe_is_no_json(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(FaultError, match=r"x\.json: cannot open this file \(it is a pipe or a device, not an ordinary file\)"):
        load_json(tmp_path / "x.json", Tally())
