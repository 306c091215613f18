"""record_mAP.txt to the letter, and the table of the classes."""

from test_coco_eval import make_detections, make_truth, nothing

from train_utils.coco_eval import score_coco
from train_utils.record_map import class_table, record_map_text
from train_utils.score_curves import score_curves

BOX, FAR = [10, 10, 60, 60], [200, 200, 300, 300]


def case(detected=True):
    truth = make_truth([0, 0, 1], [BOX, FAR, BOX], [1, 1, 2], 2, [7, 90, 3])
    truth["class_names"] = ["cat", "a name of many letters", "Größe"]
    found = make_detections([0, 1, 1], [BOX, FAR, BOX], [1, 2, 2], [0.9, 0.8, 0.7]) if detected else nothing()
    return score_coco(truth, found), score_curves(truth, found)


def test_record_map():
    result, _ = case()
    lines = record_map_text(result).split("\n")
    assert lines[0] == "COCO results:" and lines[1:13] == result.lines
    assert lines[1] == f" Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = {result.stats[0]:0.3f}"
    assert lines[13:15] == ["", "mAP(IoU=0.5) for each category:"]
    # cat: precision 1 up to recall 1/2, 51 of 101 recalls; the long name: a miss, then the hit; no object
    assert [line.split(":")[0] for line in lines[15:]] == [" cat            ", " a name of many letters", " Größe          "]
    values = [line.split(": ")[1] for line in lines[15:]]
    assert [float(value) for value in values] == [entry["AP50"] for entry in result.per_class]
    assert values[0].startswith("0.50495049") and len(values[0]) > 12 and values[2] == "-1"


def test_class_table():
    assert class_table(*case()) == [
        "id  class                   objects     AP   AP50     AR  best F1 at confidence",
        " 7  cat                           2  0.505  0.505  0.500    0.667 at 0.900",
        "90  a name of many letters        1  0.500  0.500  1.000    0.667 at 0.700",
        " 3  Größe                         0  no ground truth",
    ]
    assert class_table(*case(detected=False))[1] == " 7  cat                           2  0.000  0.000  0.000    n/a"
