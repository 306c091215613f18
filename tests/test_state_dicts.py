"""Taking tensors out of files, telling detectors apart, and the comparison that says what does not fit."""

import pytest
import torch

from network_files.state_dicts import LoadReport, checked_names, detector_family, shapes, unwrap

ONE = torch.zeros(1)


@pytest.mark.parametrize(
    "container",
    [
        {"a.weight": ONE},  # a bare state_dict
        {"module.a.weight": ONE},  # of a model under DataParallel
        {"model": {"a.weight": ONE}, "optimizer": {"state": {}}, "lr_scheduler": {}, "epoch": 4},  # the course's
        {"model": {"module.a.weight": ONE}, "script": "train_ssd", "model_args": {}, "class_names": ["a"]},  # ours
        {"model": {"a.weight": ONE, "step": 3}},  # not a tensor: no weight
    ],
)
def test_unwrap_finds_the_tensors(container):
    assert list(unwrap(container)) == ["a.weight"]


def test_a_module_called_model_is_not_a_container():
    assert list(unwrap({"model.0.weight": ONE})) == ["model.0.weight"]


@pytest.mark.parametrize("empty", [{}, {"epoch": 3}, {"model": {}}, {"model": {"step": 3}}])
def test_unwrap_of_nothing(empty):
    with pytest.raises(ValueError, match="holds no model weights"):
        unwrap(empty)


def test_families():
    keys = {
        "roi_heads.box_predictor.cls_score.weight": "a Faster R-CNN",
        "classification_headers.0.weight": "an SSD",
        "conf.0.weight": "an SSD",
        "head.classification_head.module_list.0.weight": "an SSD",
        "module_list.0.Conv2d.weight": "a YOLOv3",
        "layer4.0.fc.weight": "an image classifier",
        "layer.weight": "an unknown network",
    }
    assert {key: detector_family({key: ONE}) for key in keys} == keys
    assert detector_family({}) == "an unknown network"


def test_counters_have_no_shape_and_are_never_missed():
    state = {"a.weight": torch.zeros(2, 3), "a.num_batches_tracked": torch.tensor(0)}
    assert shapes(state) == {"a.weight": (2, 3)}
    report = LoadReport()
    report.compare({"a.weight": torch.zeros(2, 3)}, state, state)
    assert not any(report.faults().values())
    report.compare(state, {"a.weight": torch.zeros(2, 3)}, ["a.weight"])
    assert not any(report.faults().values())


def test_comparison_lists_each_kind_of_fault_and_five_keys_at_most():
    wanted = {**{f"m.{i}": ONE for i in range(7)}, "same": ONE, "other": torch.zeros(4), "not_needed": ONE}
    state = {"same": ONE, "other": torch.zeros(2, 2), "more": ONE}
    report = LoadReport()
    report.compare(state, wanted, [key for key in wanted if key != "not_needed"])
    assert report.missing == [f"m.{i}" for i in range(7)]
    assert report.unexpected == ["more"] and report.misshapen == ["other"]
    assert report.fault_sentence("it does not fit") == (
        "it does not fit (7 keys missing: m.0, m.1, m.2, m.3, m.4, ...; 1 keys unexpected: more; 1 keys of another shape: other)"
    )


def test_classes_kept_by_name():
    report = LoadReport(loaded=7, predictor="class heads")
    assert report.keep_classes(["dog", "Cat", "bus", "N/A"], ["cat", "bus", "N/A", "dog"]) == {0: 0, 1: 4, 3: 2}
    assert report.kept_classes == ["dog", "bus"] and report.new_classes == ["Cat", "N/A"]
    assert report.summary() == "7 tensors loaded; class heads replaced, classes kept: dog, bus, new: Cat, N/A"
    assert LoadReport().keep_classes(["a"], ["b"]) == {}  # no class in common: no background either
    assert LoadReport().keep_classes(None, ["b"]) == {}


def test_names_must_be_as_many_as_classes():
    assert checked_names(None, 3, "the model") is None
    assert checked_names([" a", "b "], 3, "the model") == ["a", "b"]
    with pytest.raises(ValueError, match="the file has 2 classes besides background, but 3 names are given"):
        checked_names("abc", 3, "the file")


def test_keys_that_are_no_strings_are_no_tensors_names():
    assert unwrap({"w": torch.zeros(1), 3: torch.zeros(1)}).keys() == {"w"}
    with pytest.raises(ValueError, match="no model weights"):
        unwrap({1: torch.zeros(1)})
