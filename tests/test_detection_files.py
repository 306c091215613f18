"""Detections from COCO's results and VOC's text files: by hand, round trips, odd and broken files."""

import json

import numpy as np
import pytest
from test_coco_eval import make_detections, make_truth, nothing

from train_utils.coco_eval import to_coco_json
from train_utils.detection_files import read_coco_results, read_voc_results, write_voc_results
from train_utils.errors import InputError

NAMES = ["2007_000027", "a b", "000005"]  # of the images


@pytest.fixture
def truth():
    """Images 17, 4, 2**53 + 1; classes cat (category 90), Hair Drier (5) and cow (7)."""
    truth = make_truth([0], [[10, 10, 60, 60]], [1], 3, [90, 5, 7], ids=[17, 4, 2**53 + 1])
    return {**truth, "class_names": ["cat", "Hair Drier", "cow"]}


def entry(image_id=17, category_id=90, bbox=(1, 2, 3, 4), score=0.5, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score, **more}


def write(folder, content):
    path = folder / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def columns(detections):
    return [detections[name].tolist() for name in ("image_index", "labels", "scores", "boxes")]


def test_coco_by_hand(truth, tmp_path):
    rows = [entry(4, 7, (0.5, 1, 10, 20.25), 0.5), entry(17, 90, (1, 2, 3, 4), 1, area=7, id=0), entry(4, 90, (0, 0, 0, 0), 0.5)]
    expected = [[1, 0, 1], [3, 1, 1], [0.5, 1, 0.5], [[0.5, 1, 10.5, 21.25], [1, 2, 4, 6], [0, 0, 0, 0]]]
    for content in (rows, {"info": {}, "annotations": rows}, "\ufeff" + json.dumps(rows)):
        detections, notes = read_coco_results(write(tmp_path, content), truth)
        assert columns(detections) == expected and notes == []
    assert [detections[name].dtype for name in ("image_index", "labels", "boxes")] == [np.int64, np.int64, np.float64]


def test_coco_without_a_detection(truth, tmp_path):
    for content in ([], {"annotations": []}):
        detections, notes = read_coco_results(write(tmp_path, content), truth)
        assert columns(detections) == [[], [], [], []] and detections["boxes"].shape == (0, 4) and notes == []


def test_coco_ids_may_be_text_or_floats(truth, tmp_path):
    rows = [entry("000017", "90"), entry(4.0, 5.0), entry("4.0", " 7 "), entry(str(2**53 + 1))]
    detections, notes = read_coco_results(write(tmp_path, rows), truth)
    assert columns(detections)[:2] == [[0, 1, 1, 2], [1, 2, 3, 1]] and notes == []


def test_coco_unknown_ids_are_left_out_and_said(truth, tmp_path):
    rows = [entry(), entry(18), entry("x"), entry(17.5), entry(18), entry("1" * 5000), entry(category_id=1), entry(4)]
    path = write(tmp_path, rows)
    detections, (images, categories) = read_coco_results(path, truth)
    assert columns(detections)[0] == [0, 1]
    assert images == (f"{path}: 5 of 8 detections left out, as the data set does not have their image ids "
                      "(18, x, 17.5, ... (4)); it has 17, 4, 9007199254740993")
    assert "1 of 8 detections left out" in categories and "category ids (1); it has 90, 5, 7" in categories


def test_coco_nothing_known_is_refused(truth, tmp_path):
    for rows, words in (
        ([entry(1), entry(2)], r"none of its image ids \(1, 2\) is in the data set, which has 17, 4, 9007199254740993"),
        ([entry(category_id=0)], r"none of its category ids \(0\) is in the data set, which has 90, 5, 7"),
        ([entry(1), entry(category_id=0)], "no detection has both"),
    ):
        with pytest.raises(InputError, match=words):
            read_coco_results(write(tmp_path, rows), truth)
    with pytest.raises(InputError, match="two images of the data set are called 4"):
        read_coco_results(write(tmp_path, []), {**truth, "source_image_ids": np.array([4, 4, 1])})


@pytest.mark.parametrize(
    "wrong, words",
    [
        (entry(score=float("nan")), "score nan"),
        (entry(score="0.5"), "score '0.5'"),
        (entry(score=None), "score None"),
        (entry(bbox=(1, 2, 3)), "bbox"),
        (entry(bbox=(1, 2, 3, float("inf"))), "bbox"),
        (entry(bbox=(1, 2, 3, "4")), "bbox"),
        (entry(bbox=(1, 2, 3, 10**400)), "bbox"),
        ({**entry(), "bbox": None}, "bbox None"),
        ({**entry(), "bbox": [[1, 2], [3, 4]]}, "bbox"),
        (entry(image_id=None), "image_id None"),
        (entry(image_id=[17]), "image_id"),
        (entry(category_id=True), "category_id True"),
        ({"image_id": 17, "category_id": 90, "bbox": [1, 2, 3, 4]}, "no score; this looks like ground truth"),
        ({"image_id": 17, "category_id": 90, "score": 0.5, "segmentation": []}, "no bbox"),
        ("17", "expected is an object"),
        ([17, 90], "expected is an object"),
    ],
)
def test_coco_malformed_entries_are_named(truth, tmp_path, wrong, words):
    for rows, number in (([entry(), wrong, entry()], 2), ([wrong], 1)):
        path = write(tmp_path, rows)
        with pytest.raises(InputError, match=f"^{path}, entry {number}: .*{words}"):
            read_coco_results(path, truth)


@pytest.mark.parametrize("content", ["", "[", "{}", '{"annotations": 3}', "3", "[" * 100_000, '{"images": []}'])
def test_coco_files_that_are_none_are_refused(truth, tmp_path, content):
    with pytest.raises(InputError, match="^.*results.json: "):
        read_coco_results(write(tmp_path, content), truth)
    (tmp_path / "results.json").write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(InputError, match="not a JSON text file"):
        read_coco_results(tmp_path / "results.json", truth)
    with pytest.raises(FileNotFoundError):
        read_coco_results(tmp_path / "missing.json", truth)


def test_voc_by_hand(truth, tmp_path):
    text = "\ufeffa b 0.25 1 2 3 4\n\n  2007_000027\t.5\t1.5  2 3 1e1 \r\n000005 0.25 0 0 9 9"
    (tmp_path / "comp4_det_val_cat.txt").write_text(text)
    (tmp_path / "det_test_hair drier.txt").write_text("a b\t1\t5\t6\t7\t8\n")
    (tmp_path / "comp3_1f-2e_det_test_cow.txt").write_text("")
    (tmp_path / "det_test_sheep.txt").write_text("no line of this is read\n")
    (tmp_path / "readme.txt").write_text("nor of this")
    detections, (note,) = read_voc_results(tmp_path, truth, NAMES)
    assert columns(detections) == [
        [1, 0, 2, 1], [1, 1, 1, 2], [0.25, 0.5, 0.25, 1], [[1, 2, 3, 4], [1.5, 2, 3, 10], [0, 0, 9, 9], [5, 6, 7, 8]]
    ]  # fmt: skip
    assert "classes that the data set does not have (sheep)" in note


def test_voc_exact_names_go_before_others(truth, tmp_path):
    truth["class_names"] = ["Cat", "cat", "Dog"]
    for name, score in (("Cat", 0.1), ("cat", 0.2), ("dog", 0.3)):
        (tmp_path / f"det_test_{name}.txt").write_text(f"a b {score} 1 2 3 4\n")
    detections, notes = read_voc_results(tmp_path, truth, NAMES)
    assert columns(detections)[1:3] == [[1, 2, 3], [0.1, 0.2, 0.3]] and notes == []


def test_voc_unknown_and_missing_are_said(truth, tmp_path):
    (tmp_path / "det_test_cat.txt").write_text("a b 0.5 1 2 3 4\nnobody 0.5 1 2 3 4\n")
    detections, (missing, unknown) = read_voc_results(tmp_path, truth, NAMES)
    assert columns(detections)[0] == [1]
    assert "no file of Hair Drier, cow: nothing detected of them" in missing
    assert "1 of 2 detections left out" in unknown and "images (nobody); it has 2007_000027, a b, 000005" in unknown
    (tmp_path / "det_test_cat.txt").write_text("5 0.5 1 2 3 4\n")  # not 000005
    with pytest.raises(InputError, match=r"none of its images \(5\) is in the data set"):
        read_voc_results(tmp_path, truth, NAMES)


@pytest.mark.parametrize(
    "line", ["a b 0.5 1 2 3", "0.5 1 2 3 4", "a b x 1 2 3 4", "a b nan 1 2 3 4", "a b 0.5 1 2 3 inf", "a", "a b 0,5 1 2 3 4"]
)
def test_voc_wrong_lines_are_named(truth, tmp_path, line):
    path = tmp_path / "det_test_cat.txt"
    for text, number in ((f"a b 0.5 1 2 3 4\n\n{line}\n", 3), (line, 1)):
        path.write_text(text)
        with pytest.raises(InputError, match=f"^{path}:{number}: .*is not image, score"):
            read_voc_results(tmp_path, truth, NAMES)


def test_voc_folders_that_are_none_are_refused(truth, tmp_path):
    with pytest.raises(InputError, match="no det_test_<class>.txt"):
        read_voc_results(tmp_path, truth, NAMES)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_voc_results(tmp_path / "missing", truth, NAMES)
    (tmp_path / "det_test_sheep.txt").write_text("")
    with pytest.raises(InputError, match=r"none of its classes \(sheep\) is in the data set, which has cat, Hair Drier, cow"):
        read_voc_results(tmp_path, truth, NAMES)
    (tmp_path / "det_test_cat.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_voc_results(tmp_path, truth, NAMES)
    (tmp_path / "comp4_det_test_Cat.txt").write_text("")
    with pytest.raises(InputError, match="comp4_det_test_Cat.txt and det_test_cat.txt are both of the class cat"):
        read_voc_results(tmp_path, truth, NAMES)
    with pytest.raises(InputError, match="two images of the data set are called a"):
        write_voc_results(tmp_path, truth, nothing(), ["a", "a", "b"])


def test_voc_files_by_hand(truth, tmp_path):
    found = make_detections([1, 2, 1], [[0, 1, 2.5, 3], [4, 5, 6, 7], [0, 0, 1, 1]], [2, 1, 2], [0.5, 0.25, 0.75])
    write_voc_results(tmp_path / "new", truth, found, NAMES)
    texts = {path.name: path.read_text() for path in (tmp_path / "new").iterdir()}
    assert texts == {
        "det_test_cat.txt": "000005\t0.25\t4.0\t5.0\t6.0\t7.0\n",
        "det_test_Hair Drier.txt": "a b\t0.5\t0.0\t1.0\t2.5\t3.0\na b\t0.75\t0.0\t0.0\t1.0\t1.0\n",
        "det_test_cow.txt": "",
    }
    with pytest.raises(InputError, match="'w/o mask' cannot be part"):
        write_voc_results(tmp_path / "other", {**truth, "class_names": ["cat", "w/o mask", "cow"]}, found, NAMES)
    with pytest.raises(InputError, match="image index 3"):
        write_voc_results(tmp_path / "other", truth, make_detections([3], [[0, 0, 1, 1]], [1], [1]), NAMES)
    assert not (tmp_path / "other").exists()


def test_round_trips_are_exact(truth, tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.uniform(-5, 300, (300, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 300, (300, 2))], axis=1)
    found = make_detections(rng.integers(0, 3, 300), boxes, np.sort(rng.integers(1, 4, 300)), rng.random(300))
    write_voc_results(tmp_path, truth, found, NAMES)
    from_voc, notes = read_voc_results(tmp_path, truth, NAMES)
    from_coco, other_notes = read_coco_results(write(tmp_path, to_coco_json(truth, found)), truth)
    assert notes == other_notes == []
    for name, column in found.items():  # by class already, as VOC's files are
        assert np.array_equal(from_voc[name], column), name
        assert np.array_equal(from_coco[name].astype(column.dtype), column), name
    write_voc_results(tmp_path, truth, nothing(), NAMES)
    detections, notes = read_voc_results(tmp_path, truth, NAMES)
    assert columns(detections) == [[], [], [], []] and detections["boxes"].shape == (0, 4) and notes == []
