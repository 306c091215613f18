"""COCO numbers against plain pycocotools and against published figures, and the two engines against each other."""

import contextlib
import copy
import dataclasses
import importlib.util
import io
import json
import pickle
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from train_utils.coco_eval import STAT_NAMES, CocoScorer, explain_zero, score_coco, to_coco_json
from train_utils.errors import InputError

HAS_HOTCOCO = importlib.util.find_spec("hotcoco") is not None
needs_hotcoco = pytest.mark.skipif(not HAS_HOTCOCO, reason="needs hotcoco")
ENGINES = ["pycocotools", pytest.param("hotcoco", marks=needs_hotcoco)]


def make_truth(image_index, boxes, labels, num_images, category_ids, iscrowd=None, difficult=None, area=None, ids=None):
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    none = np.zeros(len(boxes), bool)
    return {
        "num_images": num_images,
        "heights": np.full(num_images, 400, np.int32),
        "widths": np.full(num_images, 500, np.int32),
        "image_index": np.asarray(image_index, np.int64),
        "boxes": boxes,
        "labels": np.asarray(labels, np.int64),
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) if area is None else np.asarray(area, np.float64),
        "iscrowd": none if iscrowd is None else np.asarray(iscrowd, bool),
        "difficult": none if difficult is None else np.asarray(difficult, bool),
        "class_names": [f"class {i}" for i in category_ids],
        "source_image_ids": np.arange(1, num_images + 1) if ids is None else np.asarray(ids, np.int64),
        "category_ids": np.asarray(category_ids, np.int64),
    }


def make_detections(image_index, boxes, labels, scores):
    return {
        "image_index": np.asarray(image_index, np.int64),
        "boxes": np.asarray(boxes, np.float32).reshape(-1, 4),
        "labels": np.asarray(labels, np.int64),
        "scores": np.asarray(scores, np.float32),
    }


def nothing():
    return make_detections([], [], [], [])


def random_case(seed, category_ids=(7, 2, 90), num_images=6, num_dets=400):
    """Objects of all sizes, crowds, an empty image, one image with more than 100 detections of a class, tied scores."""
    rng = np.random.default_rng(seed)
    num_gt = 40
    top_left = rng.uniform(0, 300, (num_gt, 2))
    boxes = np.concatenate([top_left, top_left + rng.uniform(4, 190, (num_gt, 2))], axis=1)
    images = rng.integers(0, num_images - 1, num_gt)  # the last image has no object
    labels = rng.integers(1, len(category_ids) + 1, num_gt)
    ids = rng.permutation(num_images) * 10 + 3  # not in index order
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * rng.uniform(0.3, 1, num_gt)
    truth = make_truth(images, boxes, labels, num_images, category_ids, rng.random(num_gt) < 0.15, None, area, ids)
    source = rng.integers(0, num_gt, num_dets)
    det_images = np.where(rng.random(num_dets) < 0.9, images[source], rng.integers(0, num_images, num_dets))
    det_boxes = boxes[source] + rng.normal(0, 6, (num_dets, 4))
    det_boxes = np.concatenate([det_boxes[:, :2], np.maximum(det_boxes[:, 2:], det_boxes[:, :2] + 1)], axis=1)
    det_labels = np.where(rng.random(num_dets) < 0.8, labels[source], rng.integers(1, 4, num_dets))
    det_images[:130], det_labels[:130] = 0, 1
    scores = np.round(rng.random(num_dets), 1)  # many ties
    return truth, make_detections(det_images, det_boxes, det_labels, scores)


def plain_pycocotools(truth, detections):
    """The usual way: JSON-like dictionaries with original ids, `loadRes`, `COCOeval`. Returns (stats, printed text)."""
    boxes = truth["boxes"]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": int(i)} for i in truth["source_image_ids"]],
        "categories": [{"id": int(i), "name": n} for i, n in zip(truth["category_ids"], truth["class_names"])],
        "annotations": [
            {
                "id": k + 1,
                "image_id": int(truth["source_image_ids"][truth["image_index"][k]]),
                "category_id": int(truth["category_ids"][truth["labels"][k] - 1]),
                "bbox": [*boxes[k, :2].tolist(), *(boxes[k, 2:] - boxes[k, :2]).tolist()],
                "area": float(truth["area"][k]),
                "iscrowd": int(truth["iscrowd"][k] or truth["difficult"][k]),
            }
            for k in range(len(boxes))
        ],
    }
    text = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(to_coco_json(truth, detections)))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        with contextlib.redirect_stdout(text):
            evaluation.summarize()
    return evaluation.stats.tolist(), text.getvalue()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_plain_pycocotools(seed, engine):
    truth, detections = random_case(seed)
    before = copy.deepcopy((truth, detections))
    expected, printed = plain_pycocotools(truth, detections)
    scorer = CocoScorer(truth, engine)
    result = scorer.score(detections)
    assert result.stats == pytest.approx(expected, abs=1e-12) and 0.05 < result.stats[0] < 1
    assert result.lines == printed.splitlines()
    assert scorer.score(detections) == result  # prepared once, used again
    for old, new in zip(before, (truth, detections)):  # the caller's arrays are untouched
        assert all(np.array_equal(old[name], new[name]) for name in old)


def varied_case(seed):
    """Anything legal: one image or several, none or many detections, sizes on a grid (IoUs that equal a threshold), odd ids."""
    rng = np.random.default_rng(seed)
    num_images, num_classes = (int(n) for n in rng.integers(1, 6, 2))
    num_gt, num_dets = int(rng.choice([0, 8, 50])), int(rng.choice([0, 30, 500]))
    step = rng.choice([0.01, 1, 10])

    def make_boxes(count):
        top_left, size = rng.uniform(0, 100, (count, 2)), rng.uniform(-5, 150, (count, 2))
        return np.round(np.concatenate([top_left, top_left + size], axis=1) / step) * step

    boxes, images, labels = make_boxes(num_gt), rng.integers(0, num_images, num_gt), rng.integers(1, num_classes + 1, num_gt)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * rng.choice([1, 0.6])
    truth = make_truth(images, boxes, labels, num_images, rng.permutation(num_classes) * 7 - 3,
                       rng.random(num_gt) < rng.choice([0, 0.3, 1]), rng.random(num_gt) < 0.1, area,
                       rng.permutation(num_images) * 2**50 - 5)
    det_boxes, det_images = make_boxes(num_dets), rng.integers(0, num_images, num_dets)
    det_labels = rng.integers(1, num_classes + 1, num_dets)
    if num_gt:
        near, source = rng.random(num_dets) < 0.7, rng.integers(0, num_gt, num_dets)
        moved = boxes[source] + np.round(rng.normal(0, 4, (num_dets, 4)) / step) * step
        det_boxes[near], det_images[near], det_labels[near] = moved[near], images[source][near], labels[source][near]
    if rng.random() < 0.3:
        det_images[:], det_labels[:] = 0, 1  # more than 100 of a class in an image
    return truth, make_detections(det_images, det_boxes, det_labels, rng.random(num_dets).round(int(rng.integers(1, 4))))


@needs_hotcoco
@pytest.mark.parametrize("seed", range(40))
def test_the_engines_agree(seed):
    truth, detections = varied_case(seed)
    limit = [10, 100, 300][seed % 3]
    fast, slow = (CocoScorer(truth, engine, limit).score(detections) for engine in ("hotcoco", "pycocotools"))
    assert fast.stats == pytest.approx(slow.stats, abs=1e-12)
    for ours, theirs in zip(fast.per_class, slow.per_class):
        assert ours == pytest.approx(theirs, abs=1e-12) and len(ours) == 9


@needs_hotcoco
def test_the_varied_cases_are_varied():
    cases = [varied_case(seed) for seed in range(40)]
    results = [CocoScorer(truth).score(detections).stats for truth, detections in cases]
    assert sum(stats[0] > 0.02 for stats in results) > 10 and [-1] * 12 in results
    assert min(truth["num_images"] for truth, _ in cases) == 1
    assert any(not len(detections["scores"]) and len(truth["labels"]) for truth, detections in cases)
    assert any(truth["iscrowd"].any() and not truth["iscrowd"].all() for truth, _ in cases)
    assert any(-1 in [entry["AP"] for entry in CocoScorer(truth).score(detections).per_class] for truth, detections in cases)


def test_the_choice_of_engine(monkeypatch):
    truth, detections = random_case(0)
    slow = CocoScorer(truth, "pycocotools").score(detections)
    assert slow.evaluator.startswith("pycocotools 2")
    assert CocoScorer(truth).evaluator.startswith("hotcoco" if HAS_HOTCOCO else "pycocotools")
    assert pickle.loads(pickle.dumps(slow)) == slow  # other processes get a copy
    assert dataclasses.replace(slow, evaluator="another") == slow
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # as if it were not installed
    assert CocoScorer(truth).evaluator == slow.evaluator
    with pytest.raises(InputError, match="pip install hotcoco"):
        CocoScorer(truth, "hotcoco")
    with pytest.raises(InputError, match="choose from hotcoco, pycocotools"):
        CocoScorer(truth, "matlab")


@pytest.mark.parametrize("engine", ENGINES)
def test_neither_engine_prints(engine, capfd, recwarn):
    for truth, detections in (random_case(0), varied_case(0), (make_truth([], [], [], 0, []), nothing())):
        CocoScorer(truth, engine, 500).score(detections)
    assert capfd.readouterr() == ("", "") and not recwarn.list


@pytest.mark.parametrize("engine", ENGINES)
def test_more_than_a_hundred_objects_in_an_image(engine):
    corners = np.stack(np.meshgrid(np.arange(15) * 20, np.arange(10) * 20), axis=-1).reshape(-1, 2)  # 150 objects
    boxes = np.concatenate([corners, corners + 10], axis=1)
    truth = make_truth(np.zeros(150), boxes, np.ones(150), 1, [1])
    found = make_detections(np.zeros(150), boxes, np.ones(150), np.linspace(1, 0.5, 150))
    usual, more = CocoScorer(truth, engine).score(found), CocoScorer(truth, engine, 200).score(found)
    assert usual.stats[8] == pytest.approx(100 / 150) and usual.stats[0] == pytest.approx(67 / 101)  # recall 0, .01, ..., .66
    assert more.stats[6:9] == pytest.approx([1 / 150, 10 / 150, 1]) and more.stats[0] == pytest.approx(1)
    assert more.per_class[0]["AR100"] == 1 and more.per_class[0]["AP"] == more.stats[0]
    assert [line.count("maxDets=200") for line in more.lines] == [1] * 6 + [0, 0] + [1] * 4
    assert more.lines[8] == usual.lines[8].replace("100", "200").replace("0.667", "1.000")
    fewer = CocoScorer(truth, engine, 10).score(found)
    assert fewer.stats[7] == fewer.stats[8] == pytest.approx(10 / 150)
    with pytest.raises(InputError, match="at least 10"):
        CocoScorer(truth, engine, 9)


def test_published_figures(shared_data):
    folder = shared_data / "eval_refs"
    expected = json.loads((folder / "EXPECTED.json").read_text())["cocoapi_fake100"]["expected"]
    truth, detections = read_coco(folder / "cocoapi_fake100")
    assert len(truth["labels"]) == 839 and len(detections["labels"]) == 734
    result = score_coco(truth, detections)
    assert result.stats == pytest.approx([expected[name] for name in STAT_NAMES], abs=1e-6)
    defined = [entry["AP"] for entry in result.per_class if entry["AP"] >= 0]
    assert len(defined) == 70 and np.mean(defined) == pytest.approx(expected["AP"], abs=1e-9)
    assert sum(entry["num_gt"] for entry in result.per_class) == 830


def read_coco(folder):
    truth_json = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    ids = [image["id"] for image in truth_json["images"]]
    category_ids = [category["id"] for category in truth_json["categories"]]
    index, label = {v: i for i, v in enumerate(ids)}, {v: i + 1 for i, v in enumerate(category_ids)}

    def columns(rows):
        boxes = np.array([row["bbox"] for row in rows])
        boxes[:, 2:] += boxes[:, :2]
        return [index[row["image_id"]] for row in rows], boxes, [label[row["category_id"]] for row in rows]

    rows = truth_json["annotations"]
    truth = make_truth(*columns(rows), len(ids), category_ids, [row["iscrowd"] for row in rows], ids=ids)
    truth["area"] = np.array([row["area"] for row in rows])
    found = make_detections(*columns(results), [row["score"] for row in results])
    found["boxes"] = columns(results)[1]  # float64: in float32 one IoU that equals its threshold falls below it
    return truth, found


def test_per_class_by_hand_and_independent_of_the_order_of_categories():
    box, far = [10, 10, 60, 60], [200, 200, 300, 300]
    for category_ids in ([3, 1, 8], [1, 3, 8], [8, 3, 1]):
        truth = make_truth([0, 1, 1], [box, box, far], [1, 1, 2], 2, category_ids)
        found = make_detections([0, 1, 1], [box, box, box], [1, 1, 2], [0.9, 0.8, 0.7])
        first, second, third = score_coco(truth, found).per_class
        assert first == {
            "name": f"class {category_ids[0]}", "category_id": category_ids[0],
            "AP": pytest.approx(1), "AP50": pytest.approx(1), "AR100": 1.0, "num_gt": 2,
            "APs": -1.0, "APm": pytest.approx(1), "APl": -1.0,  # 2500 pixels
        }  # fmt: skip
        assert (second["AP"], second["AR100"], second["num_gt"]) == (0.0, 0.0, 1)
        assert (third["AP"], third["AP50"], third["AR100"], third["num_gt"]) == (-1.0, -1.0, -1.0, 0)


def test_ap50_is_the_first_threshold():
    truth = make_truth([0], [[0, 0, 100, 100]], [1], 1, [1])
    (entry,) = score_coco(truth, make_detections([0], [[0, 0, 52, 100]], [1], [0.9])).per_class  # IoU .52
    assert entry["AP50"] == pytest.approx(1) and entry["AP"] == pytest.approx(0.1) and entry["AR100"] == 0.1


def test_difficult_and_crowd_count_neither_way():
    box, far = [10, 10, 60, 60], [200, 200, 300, 300]
    found = make_detections([0, 0, 0], [far, far, box], [1, 1, 1], [0.9, 0.8, 0.7])
    for name in ("difficult", "iscrowd"):
        truth = make_truth([0, 0], [box, far], [1, 1], 1, [1], **{name: [False, True]})
        result = score_coco(truth, found)
        assert result.stats[1] == pytest.approx(1) and result.per_class[0]["num_gt"] == 1
    assert score_coco(make_truth([0, 0], [box, far], [1, 1], 1, [1]), found).stats[1] < 1


def test_nothing_detected_and_nothing_to_detect():
    truth = make_truth([0], [[10, 10, 60, 60]], [1], 2, [5, 9])  # 2500 pixels: medium
    stats = score_coco(truth, nothing()).stats
    assert stats == [0, 0, 0, -1, 0, -1, 0, 0, 0, -1, 0, -1]
    empty = make_truth([], [], [], 2, [5, 9])
    assert score_coco(empty, nothing()).stats == [-1] * 12
    assert score_coco(empty, make_detections([0], [[1, 1, 5, 5]], [1], [0.5])).stats == [-1] * 12
    assert score_coco(make_truth([], [], [], 0, [5]), nothing()).stats == [-1] * 12
    assert to_coco_json(truth, nothing()) == []


def test_bad_arrays_are_refused():
    truth = make_truth([0], [[10, 10, 60, 60]], [1], 1, [5])
    for image, label, score in ((1, 1, 0.5), (0, 2, 0.5), (0, 1, np.nan)):
        with pytest.raises(ValueError, match="detections"):
            score_coco(truth, make_detections([image], [[0, 0, 5, 5]], [label], [score]))
    with pytest.raises(ValueError, match="different lengths"):
        score_coco(truth, make_detections([0, 0], [[0, 0, 5, 5]], [1], [0.5]))
    with pytest.raises(ValueError, match="category ids"):
        CocoScorer(make_truth([0], [[10, 10, 60, 60]], [1], 1, [5, 5]))
    with pytest.raises(ValueError, match="label"):
        CocoScorer(make_truth([0], [[10, 10, 60, 60]], [2], 1, [5]))


def test_json_has_original_ids_and_unrounded_boxes():
    truth = make_truth([0], [[0, 0, 9, 9]], [1], 2, [5, 90], ids=[17, 4])
    found = make_detections([1], [[0.1, 0.2, 10.3, 20.4]], [2], [0.123456789])
    before = found["boxes"].copy()
    (row,) = to_coco_json(truth, found)
    assert (row["image_id"], row["category_id"]) == (4, 90)
    assert row["bbox"] == pytest.approx([0.1, 0.2, 10.2, 20.2], abs=1e-6)
    assert np.float32(row["score"]) == np.float32(0.123456789)
    assert np.array_equal(found["boxes"], before) and json.dumps(row)


def test_explain_zero():
    rng = np.random.default_rng(0)
    top_left = rng.uniform(20, 150, (12, 2))
    boxes = np.concatenate([top_left, top_left + rng.uniform([30, 60], [60, 120], (12, 2))], axis=1)
    images = np.arange(12) // 2
    truth = make_truth(images, boxes, [1, 2] * 6, 8, [1, 2, 3])

    def explain(boxes=boxes, labels=truth["labels"], images=images, **fields):
        return explain_zero({**truth, **fields}, make_detections(images, boxes, labels, np.ones(len(boxes))))

    assert explain() is None
    assert "no detection:" in explain(boxes[:0], [], [])
    assert "crowd or difficult" in explain(difficult=np.ones(12, bool))
    assert "no object at all" in explain_zero(make_truth([], [], [], 8, [1, 2, 3]), nothing())
    assert "no image has both" in explain(images=np.full(12, 7))
    assert "one too high" in explain(labels=truth["labels"] + 1)
    assert "no label does" in explain(labels=np.full(12, 3), images=images)
    assert "relative" in explain(boxes / [500, 400, 500, 400])
    assert "swapped" in explain(boxes[:, [1, 0, 3, 2]] + [0, 0, 0, 0])
    assert "width, height" in explain(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1))
    assert "another image size" in explain(boxes * 2.5)
    assert "too little yet" in explain(boxes + [0, 230, 0, 230])


def test_explain_zero_by_the_score_threshold():
    box, far = [10, 10, 60, 60], [200, 200, 300, 300]
    truth = make_truth([0], [box], [1], 1, [1])
    found = make_detections([0, 0], [box, far], [1, 1], [0.03, 0.6])
    assert explain_zero(truth, found) is None and explain_zero(truth, found, 0.03) is None
    assert "threshold of 0.7 (best 0.6)" in explain_zero(truth, found, 0.7)
    assert "too little yet" in explain_zero(truth, found, 0.5)  # the right one is below it
    assert "threshold of 0.5 is above every score" in explain_zero(truth, nothing(), 0.5)
