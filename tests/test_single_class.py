import numpy as np
import torch
from yolo_data import make_yolo

from datasets import JoinedDataset, YoloTxtDataset, as_single_class


def test_every_label_becomes_one(tmp_path):
    dataset = YoloTxtDataset(make_yolo(tmp_path / "set"))
    before = dataset.ground_truth()
    single = as_single_class(dataset)
    truth = single.ground_truth()
    assert single.class_names == truth["class_names"] == ["object"] and truth["category_ids"].tolist() == [1]
    assert set(truth["labels"].tolist()) == {1} and set(before["labels"].tolist()) == {1, 2}
    assert truth["labels"].dtype == before["labels"].dtype and np.array_equal(truth["boxes"], before["boxes"])
    for i in range(len(dataset)):
        (image, target), (same, others) = single[i], dataset[i]
        assert torch.equal(image, same) and torch.equal(target["boxes"], others["boxes"])
        assert target["labels"].tolist() == [1] * len(others["labels"]) == single.coco_index(i)[1]["labels"].tolist()


def test_the_original_stays(tmp_path):
    dataset = YoloTxtDataset(make_yolo(tmp_path / "set"))
    as_single_class(dataset)
    assert dataset.class_names == ["circle", "square"] and set(dataset.table.labels.tolist()) == {1, 2}


def test_joined_sets_of_different_classes(tmp_path):
    parts = [YoloTxtDataset(make_yolo(tmp_path / name, images=4, classes=classes))
             for name, classes in (("a", ("circle", "square")), ("b", ("triangle",)))]
    joined = JoinedDataset([as_single_class(part) for part in parts])
    assert joined.class_names == ["object"] and joined.faults == parts[0].faults + parts[1].faults
    again = as_single_class(JoinedDataset([parts[0], parts[0]]))
    assert len(again) == 8 and again.class_names == ["object"] and set(again.ground_truth()["labels"].tolist()) == {1}


def test_no_objects_at_all(tmp_path):
    source = make_yolo(tmp_path / "set", images=2)
    for path in (tmp_path / "set" / "labels" / "train").iterdir():
        path.write_text("")
    single = as_single_class(YoloTxtDataset(source))
    assert single.class_names == ["object"] and single[0][1]["labels"].shape == (0,)
