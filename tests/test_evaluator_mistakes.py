"""What wrong evaluators do, and that ours does not: each mistake by hand, and by its known wrong figure on reference data."""

import contextlib
import inspect
import io
import json
from collections import namedtuple

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_coco_eval import ENGINES, make_detections, make_truth
from test_voc_eval import read_padilla

from datasets.open_dataset import open_dataset
from network_files.faster_rcnn import FasterRCNN
from network_files.ssd import SSD
from network_files.yolov3 import YOLOv3
from train_utils.any_dataset import PER_OBJECT, ground_truth_of
from train_utils.coco_eval import STAT_NAMES, CocoScorer, to_coco_json
from train_utils.detection_files import read_coco_results, read_voc_results
from train_utils.errors import InputError
from train_utils.samplers import evaluation_batches
from train_utils.voc_eval import score_voc

BOX, FAR = [10.0, 10.0, 50.0, 50.0], [200.0, 200.0, 60.0, 60.0]  # x, y, width, height
ONE_OF_TWO = 51 / 101  # recall .5 reaches 51 of the 101 points
BY_SIZE = ["AP", "APs", "APm", "APl"]

def open_truth(folder, content):
    """The ground truth of a COCO file, by the data set's reader; its images are empty files."""
    folder.mkdir(exist_ok=True)
    for image in content["images"]:
        (folder / image["file_name"]).touch()
    (folder / "truth.json").write_text(json.dumps(content))
    return ground_truth_of(open_dataset("coco", None, "val", json_path=folder / "truth.json", image_dir=folder))


def read_results(folder, rows, truth):
    (folder / "results.json").write_text(json.dumps(rows))
    return read_coco_results(folder / "results.json", truth)[0]


def small_set(objects, num_images=1):
    """A COCO file of (image id, category id, bbox) with the further fields of an annotation; categories 5 and 90."""
    return {
        "images": [{"id": 7 + k, "file_name": f"{7 + k}.jpg", "width": 500, "height": 400} for k in range(num_images)],
        "categories": [{"id": 5, "name": "cat"}, {"id": 90, "name": "dog"}],
        "annotations": [
            {"id": k + 1, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, **more}
            for k, (image, category, box, more) in enumerate(objects)
        ],
    }


def results_of(*rows):
    """COCO results of (image id, category id, bbox, score)."""
    return [dict(zip(("image_id", "category_id", "bbox", "score"), row)) for row in rows]


def stats_of(truth, detections, engine=None):
    return dict(zip(STAT_NAMES, CocoScorer(truth, engine).score(detections).stats))


def score_files(folder, content, rows, engine=None):
    truth = open_truth(folder, content)
    return stats_of(truth, read_results(folder, rows, truth), engine)


def pycocotools_itself(content, rows):
    """The numbers with the annotation ids as they are."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(STAT_NAMES, evaluation.stats.tolist()))


def with_ids(content, new_id):
    """A copy with `new_id(k)` for the id of annotation k."""
    return {**content, "annotations": [{**row, "id": new_id(k)} for k, row in enumerate(content["annotations"])]}


def without_crowd(truth):
    return {**truth, **{name: truth[name][~truth["iscrowd"]] for name in PER_OBJECT}, "image_index":
            truth["image_index"][~truth["iscrowd"]]}


def without_crowd_flag(truth):
    return {**truth, "iscrowd": np.zeros_like(truth["iscrowd"])}


def box_areas(truth):
    return {**truth, "area": (truth["boxes"][:, 2:] - truth["boxes"][:, :2]).prod(axis=1)}


def twice(detections, rows):
    return {name: np.concatenate([column, column[rows]]) for name, column in detections.items()}


def only(detections, keep):
    return {name: column[keep] for name, column in detections.items()}


def one_class(boxes):
    return {**boxes, "labels": np.ones_like(boxes["labels"])}


@pytest.mark.parametrize("engine", ENGINES)
def test_annotation_ids_do_not_matter(engine, tmp_path):
    content = small_set([(7, 5, BOX, {}), (7, 5, FAR, {})])
    rows = results_of((7, 5, BOX, 0.9), (7, 5, FAR, 0.8))
    for new_id in (lambda k: k, lambda k: 3, lambda k: 2**53 - 1 - k):  # from 0; all equal; the largest
        assert score_files(tmp_path, with_ids(content, new_id), rows, engine)["AP"] == pytest.approx(1)
    # id 0 means "unmatched": the first detection is wrong, the second is right
    assert pycocotools_itself(with_ids(content, lambda k: k), rows)["AP"] == pytest.approx(ONE_OF_TWO / 2)
    assert pycocotools_itself(with_ids(content, lambda k: 3), rows)["AP"] < 1


@pytest.mark.parametrize("engine", ENGINES)
def test_crowd_is_neither_ordinary_nor_removed(engine, tmp_path):
    crowd, inside = [200.0, 200.0, 100.0, 100.0], [210.0, 210.0, 50.0, 50.0]
    content = small_set([(7, 5, BOX, {}), (7, 5, crowd, {"iscrowd": 1})])
    rows = results_of((7, 5, inside, 0.9), (7, 5, inside, 0.8), (7, 5, BOX, 0.7))
    truth = open_truth(tmp_path, content)
    found = read_results(tmp_path, rows, truth)
    assert stats_of(truth, found, engine)["AP"] == pytest.approx(1)
    assert stats_of(without_crowd(truth), found, engine)["AP"] == pytest.approx(1 / 3)
    assert stats_of(without_crowd_flag(truth), found, engine)["AP"] == pytest.approx(ONE_OF_TWO / 3)


@pytest.mark.parametrize("engine", ENGINES)
def test_sizes_go_by_the_area_of_the_mask(engine, tmp_path):
    content = small_set([(7, 5, BOX, {"area": 900.0})])  # small; the box of 2500 pixels is medium
    truth = open_truth(tmp_path, content)
    found = read_results(tmp_path, results_of((7, 5, BOX, 0.9)), truth)
    ours, wrong = stats_of(truth, found, engine), stats_of(box_areas(truth), found, engine)
    assert [ours[name] for name in BY_SIZE] == pytest.approx([1, 1, -1, -1])
    assert [wrong[name] for name in BY_SIZE] == pytest.approx([1, -1, 1, -1])


@pytest.mark.parametrize("engine", ENGINES)
def test_exported_boxes_are_not_rounded(engine, tmp_path):
    truth = open_truth(tmp_path, small_set([(7, 5, [10.5, 10.5, 9.5, 9.5], {})]))
    found = make_detections([0], [[10.5, 10.5, 20, 20]], [1], [0.9])
    rows = to_coco_json(truth, found)
    assert stats_of(truth, read_results(tmp_path, rows, truth), engine)["AP"] == pytest.approx(1)
    rounded = [{**row, "bbox": [round(value) for value in row["bbox"]]} for row in rows]  # IoU .9025: 9 of 10 thresholds
    assert stats_of(truth, read_results(tmp_path, rounded, truth), engine)["AP"] == pytest.approx(0.9)


def test_an_export_comes_back_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.uniform(-5, 300, (200, 2))
    found = make_detections(rng.integers(0, 9, 200), np.concatenate([corners, corners + rng.uniform(0, 300, (200, 2))], axis=1),
                            rng.integers(1, 4, 200), rng.random(200))
    truth = make_truth([0], [[1, 1, 9, 9]], [1], 9, [44, 3, 17], ids=rng.permutation(9) * 2**45)
    back = read_results(tmp_path, to_coco_json(truth, found), truth)
    for name, column in found.items():
        assert np.array_equal(back[name].astype(column.dtype), column), name


@pytest.mark.parametrize("engine", ENGINES)
def test_no_image_counts_twice_with_several_processes(engine, tmp_path):
    truth = open_truth(tmp_path, small_set([(7 + k, 5, BOX, {}) for k in range(5)], num_images=5))
    found = read_results(tmp_path, results_of(*((7 + k, 5, BOX, 0.9 - k / 10) for k in range(5))), truth)
    dealt = [index for rank in range(2) for batch in evaluation_batches([(64, 64)] * 5, 1, rank, 2) for index in batch]
    assert stats_of(truth, only(found, dealt), engine)["AP"] == pytest.approx(1)
    # a sampler that pads 5 images to 6 gives the first one twice: precision 5/6 beyond recall .2
    padded = stats_of(truth, twice(found, [0]), engine)
    assert padded["AP"] == pytest.approx((21 + 80 * 5 / 6) / 101) and padded["AR100"] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_low_scores_count(engine, tmp_path):
    truth = open_truth(tmp_path, small_set([(7, 5, BOX, {}), (7, 5, FAR, {})]))
    found = read_results(tmp_path, results_of((7, 5, BOX, 0.9), (7, 5, FAR, 0.01)), truth)
    assert stats_of(truth, found, engine)["AP"] == pytest.approx(1)
    assert stats_of(truth, only(found, found["scores"] >= 0.5), engine)["AP"] == pytest.approx(ONE_OF_TWO)


@pytest.mark.parametrize("detector, name", [(FasterRCNN, "box_score_thresh"), (SSD, "score_thresh"), (YOLOv3, "score_thresh")])
def test_detectors_keep_low_scores_by_default(detector, name):
    assert 0 < inspect.signature(detector).parameters[name].default <= 0.05


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_become_category_ids(engine, tmp_path):
    truth = open_truth(tmp_path, small_set([(7, 90, BOX, {}), (8, 5, FAR, {})], num_images=2))
    rows = to_coco_json(truth, make_detections([0, 1], [[10, 10, 60, 60], [200, 200, 260, 260]], [2, 1], [0.9, 0.8]))
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(7, 90), (8, 5)]
    assert stats_of(truth, read_results(tmp_path, rows, truth), engine)["AP"] == pytest.approx(1)
    contiguous = [{**row, "category_id": {5: 0, 90: 1}[row["category_id"]]} for row in rows]
    with pytest.raises(InputError, match=r"none of its category ids \(1, 0\) is in the data set, which has 5, 90"):
        read_results(tmp_path, contiguous, truth)


@pytest.mark.parametrize("engine", ENGINES)
def test_classes_are_kept_apart(engine, tmp_path):
    truth = open_truth(tmp_path, small_set([(7, 5, BOX, {})]))
    found = read_results(tmp_path, results_of((7, 90, BOX, 0.9)), truth)
    assert stats_of(truth, found, engine)["AP"] == 0
    assert stats_of(one_class(truth), one_class(found), engine)["AP"] == pytest.approx(1)


Fake100 = namedtuple("Fake100", "content, rows, truth, detections, expected, folder")


@pytest.fixture(scope="module")
def fake100(shared_data, tmp_path_factory):
    """A published evaluation, read from its files as ours are read."""
    source, folder = shared_data / "eval_refs/cocoapi_fake100", tmp_path_factory.mktemp("fake100")
    content = json.loads((source / "instances_val2014_100.json").read_text())
    rows = json.loads((source / "instances_val2014_fakebbox100_results.json").read_text())
    truth = open_truth(folder, content)
    expected = json.loads((shared_data / "eval_refs/EXPECTED.json").read_text())["cocoapi_fake100"]["expected"]
    return Fake100(content, rows, truth, read_results(folder, rows, truth), expected, folder)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_published_figures(engine, fake100):
    assert (len(fake100.truth["labels"]), fake100.truth["iscrowd"].sum(), len(fake100.detections["labels"])) == (839, 9, 734)
    assert stats_of(fake100.truth, fake100.detections, engine) == pytest.approx(fake100.expected, abs=1e-6)


@pytest.mark.parametrize("new_id", [lambda k: k, lambda k: 1])
def test_the_published_figures_with_any_annotation_ids(new_id, fake100, tmp_path):
    truth = open_truth(tmp_path / "other", with_ids(fake100.content, new_id))
    assert stats_of(truth, fake100.detections) == pytest.approx(fake100.expected, abs=1e-6)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_published_figures_by_several_processes(ranks, fake100):
    batches = [evaluation_batches([(64, 64)] * 100, 4, rank, ranks) for rank in range(ranks)]
    images = [index for share in batches for batch in share for index in batch]
    rows = np.concatenate([np.flatnonzero(fake100.detections["image_index"] == index) for index in images])
    assert stats_of(fake100.truth, only(fake100.detections, rows)) == pytest.approx(fake100.expected, abs=1e-6)


def test_the_published_figures_after_an_export(fake100, tmp_path):
    back = read_results(tmp_path, to_coco_json(fake100.truth, fake100.detections), fake100.truth)
    assert stats_of(fake100.truth, back) == pytest.approx(fake100.expected, abs=1e-6)


def test_wrong_annotation_ids_have_their_known_figures(fake100):
    from_zero = pycocotools_itself(with_ids(fake100.content, lambda k: k), fake100.rows)
    assert (from_zero["AP"], from_zero["APl"]) == pytest.approx((0.499319, 0.490309), abs=1e-6)
    assert set(pycocotools_itself(with_ids(fake100.content, lambda k: 1), fake100.rows).values()) == {-1}


def rounded(case):
    rows = [{**row, "bbox": [round(value) for value in row["bbox"]]} for row in case.rows]
    return case.truth, read_results(case.folder, rows, case.truth)


def contiguous(case):
    ids = sorted(category["id"] for category in case.content["categories"])
    rows = [{**row, "category_id": ids.index(row["category_id"])} for row in case.rows]
    return case.truth, read_results(case.folder, rows, case.truth)


def cut(case):
    return case.truth, only(case.detections, case.detections["scores"] >= 0.5)


WRONG = {
    "crowd as ordinary": (lambda case: (without_crowd_flag(case.truth), case.detections), {"AP": 0.502346, "APl": 0.487940}),
    "crowd removed": (lambda case: (without_crowd(case.truth), case.detections), {"AP": 0.503647, "AP75": 0.571667}),
    "box areas": (lambda case: (box_areas(case.truth), case.detections),
                  {"AP": 0.504581, "APs": 0.593789, "APm": 0.559493, "APl": 0.489367}),
    "box areas, no crowd": (lambda case: (box_areas(without_crowd(case.truth)), case.detections),
                            {"AP": 0.503647, "APs": 0.593252, "APm": 0.557991, "APl": 0.489363}),
    "rounded": (rounded, {"AP": 0.484905, "APs": 0.539700}),
    "a tenth twice": (lambda case: (case.truth, twice(case.detections, np.arange(73))), {"AP": 0.488621, "AR100": 0.595353}),
    "score of .5 or more": (cut, {"AP": 0.254624}),
    "contiguous labels": (contiguous, {"AP": 0.0}),
    "no classes": (lambda case: (one_class(case.truth), one_class(case.detections)), {"AP": 0.595238}),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_have_their_known_figures(mistake, fake100):
    make, figures = WRONG[mistake]
    stats = stats_of(*make(fake100))
    assert {name: stats[name] for name in figures} == pytest.approx(figures, abs=1e-6)


PADILLA = {  # IoU: all-point and 11-point with widths x2 - x1 + 1, then both with x2 - x1
    0.1: (0.3371980676, 0.3333333333, 0.280133, 0.302454),
    0.3: (0.2456866804, 0.2683982683, 0.225397, 0.268398),
    0.5: (0.0222222222, 0.0303030303, 0.022222, 0.030303),
    0.75: (0, 0, 0, 0),
}


@pytest.mark.parametrize("iou", PADILLA)
def test_the_published_voc_figures(iou, shared_data, tmp_path):
    truth, found = read_padilla(shared_data / "eval_refs/padilla_test_case_1")
    lines = [f"image {index} {score} {' '.join(map(str, box))}\n" for index, score, box in
             zip(found["image_index"], found["scores"].tolist(), found["boxes"].tolist())]
    (tmp_path / "det_test_object.txt").write_text("".join(lines))
    back, notes = read_voc_results(tmp_path, truth, [f"image {index}" for index in range(7)])
    figures = [score_voc(truth, back, iou, use_07, plus_one)["mAP"] for plus_one in (True, False) for use_07 in (False, True)]
    assert figures == pytest.approx(PADILLA[iou], abs=1e-6) and notes == []
