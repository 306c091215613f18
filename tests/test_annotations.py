import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

from datasets.annotations import (
    Fault,
    PackedStrings,
    RawAnnotations,
    build_table,
    parse_integer,
    parse_number,
    stop_on_faults,
    stop_on_lost_images,
    summarise_faults,
)
from datasets.class_names import (
    VOC_CLASS_FILE,
    as_class_names,
    describe_unknown_class,
    order_class_names,
    read_class_file,
)
from datasets.errors import InputError


@pytest.mark.parametrize(("text", "value"), [
    ("45.7", 45.7), (" 3 ", 3.0), ("-1", -1.0), ("1e2", 100.0), (".5", 0.5), (7, 7.0), (2.5, 2.5)])
def test_numbers_are_read(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "1_0", "４２", "nan", "inf", "1e999", "0x10", "1,5", None, True, [1], 10**400])
def test_what_is_no_number_becomes_nan(text):
    assert math.isnan(parse_number(text))


def test_integers_keep_all_their_digits():
    assert parse_integer(2**53 + 1) == 2**53 + 1 and parse_integer(str(2**53 + 1)) == 2**53 + 1
    assert parse_integer("7.0") == 7 and parse_integer(7.0) == 7
    assert parse_integer(7.5) is None and parse_integer("a") is None and parse_integer(2**70) is None


def test_packed_strings():
    words = ["a.jpg", "", "ü b.png", "c"]
    packed = pickle.loads(pickle.dumps(PackedStrings(words)))
    assert [packed[i] for i in range(len(packed))] == words
    assert len(PackedStrings([])) == 0


def _table(boxes, labels=None, size=(100, 200)):
    """One image of height 100, width 200."""
    raw = RawAnnotations()
    raw.add_image("x.jpg", *size, 1, "x.xml")
    for k, box in enumerate(boxes):
        raw.add_object(0, box, labels[k] if labels else 1, k + 1)
    return build_table(raw, ["one", "two"])


@pytest.mark.parametrize(("box", "kind"), [
    ((5, 5, math.nan, 9), "coordinate that is not a number"),
    ((5, 5, math.inf, 9), "coordinate that is not a number"),
    ((9, 5, 5, 9), "box with swapped corners"),
    ((5, 9, 9, 5), "box with swapped corners"),
    ((5, 5, 5, 9), "box of zero size"),
    ((5, 5, 9, 5), "box of zero size"),
    ((90, 5, 90.000001, 9), "box of zero size"),  # vanishes in float32
    ((200, 5, 220, 9), "box outside the image"),
    ((-9, 5, 0, 9), "box outside the image"),
])
def test_bad_boxes_are_dropped_and_named(box, kind):
    table, faults = _table([(1, 2, 3, 4), box])
    assert table.boxes.tolist() == [[1, 2, 3, 4]] and table.offsets.tolist() == [0, 1]
    assert [(f.file, f.where, f.kind, f.action) for f in faults] == [("x.xml", "object 2", kind, "drop object")]


def test_overhang_is_reported_and_area_is_that_of_the_clipped_box():
    table, faults = _table([(-10, 20, 30, 120.5)])
    assert [(f.kind, f.action) for f in faults] == [("box clipped to the image", "fix")]
    assert table.boxes.tolist() == [[-10, 20, 30, 120.5]]  # clipped where it is used
    assert table.area.tolist() == [30 * 80]


def test_of_equal_objects_the_first_stays():
    boxes = [(1, 1, 5, 5), (2, 2, 6, 6), (1, 1, 5, 5), (1, 1, 5, 5), (2, 2, 6, 6)]
    table, faults = _table(boxes, labels=[1, 1, 2, 1, 1])
    assert table.boxes[:, 0].tolist() == [1, 2, 1] and table.labels.tolist() == [1, 1, 2]
    assert [(f.where, f.action) for f in faults] == [("object 4", "fix"), ("object 5", "fix")]


def test_objects_are_gathered_by_image():
    raw = RawAnnotations()
    for name in "abc":
        raw.add_image(f"{name}.jpg", 50, 60, ord(name), f"{name}.xml")
    for image, left in ((2, 1), (0, 2), (2, 3)):
        raw.add_object(image, (left, 0, 9, 9), 1, left)
    table, faults = build_table(raw, ["one"])
    assert not faults and table.offsets.tolist() == [0, 1, 1, 3] and table.boxes[:, 0].tolist() == [2, 1, 3]
    assert table.image_index.tolist() == [0, 2, 2]
    part = table.select_images(np.array([1, 2]))
    assert part.offsets.tolist() == [0, 0, 2] and part.paths[1] == "c.jpg" and part.boxes[:, 0].tolist() == [1, 3]
    assert part.source_image_ids.tolist() == [98, 99]


def test_no_object_at_all():
    table, faults = _table([])
    assert table.boxes.shape == (0, 4) and table.offsets.tolist() == [0, 0] and faults == []


def test_summary_has_a_line_per_kind():
    faults = [Fault(f"/data/{k}.xml", "object 1", "box of zero size", "", "drop object") for k in range(5)]
    faults.append(Fault("/data/9.xml", "", "no image size", "", "fix"))
    assert summarise_faults(faults) == [
        "objects dropped: 5 x box of zero size (0.xml object 1, 1.xml object 1, 2.xml object 1, ...)",
        "fixed: 1 x no image size (9.xml)"]
    assert summarise_faults([]) == []


def test_only_faults_that_stop_are_raised():
    fine = Fault("a.xml", "object 1", "k", "d", "drop object")
    stop_on_faults([fine])
    with pytest.raises(InputError, match=r"^b\.xml, line 3: does not parse \(and 1 more faults that stop\)$"):
        stop_on_faults([fine, Fault("b.xml", "line 3", "k", "does not parse", "stop"), replace(fine, action="stop")])


def test_class_files(tmp_path):
    text, listed, mapped = tmp_path / "c.txt", tmp_path / "l.json", tmp_path / "m.json"
    text.write_bytes("\ufeffcat \r\ndog\r\n\r\n".encode())
    listed.write_text('["cat", "dog"]')
    mapped.write_text('{"dog": 2, "cat": 1}')
    assert read_class_file(text) == read_class_file(listed) == as_class_names(str(mapped)) == ["cat", "dog"]
    assert as_class_names(("cat", " dog")) == ["cat", "dog"]
    assert as_class_names(["cat", "N/A", "N/A"])[2] == "N/A"  # gaps of published class tables


@pytest.mark.parametrize(("name", "content", "message"), [
    ("c.txt", "cat\n\ndog\n", "line 2 is blank"), ("c.txt", "cat\ncat\n", "stands there twice"),
    ("c.txt", "", "holds no class name"), ("c.json", '{"cat": 0, "dog": 1}', r"must be 1\.\.2"),
    ("c.json", "[1, 2]", "must be a string"), ("c.json", "3", "must hold a list"), ("c.json", "{", "cannot be read")])
def test_bad_class_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_class_file(tmp_path / name)


def test_missing_class_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_class_file(tmp_path / "none.txt")


def test_order_of_found_names():
    voc = read_class_file(VOC_CLASS_FILE)
    assert len(voc) == 20 and voc[0] == "aeroplane" and voc[14] == "person" and voc[19] == "tvmonitor"
    assert order_class_names(reversed(voc)) == voc
    assert order_class_names({"person", "car"}) == ["car", "person"]
    assert order_class_names({"zebra", "person", "Car"}) == ["Car", "person", "zebra"]


def test_nearest_known_name():
    assert describe_unknown_class("Car", ["cat", "car"]) == 'unknown class "Car"; did you mean "car"?'
    assert "did you mean \"Platelets\"" in describe_unknown_class("platlet", ["RBC", "Platelets"])
    assert describe_unknown_class("xyz", ["cat"]) == 'unknown class "xyz"; known are cat'


def test_counted_faults_count_in_summaries_and_against_the_limit():
    tallied = Fault("a.csv", "line 3", "decimal comma, read as a point", "x", "fix", count=273)
    lost = [Fault("a.json", f"image {k}", "image missing", "no such file", "drop image", count=k) for k in (1, 2)]
    assert summarise_faults([tallied]) == ["fixed: 273 x decimal comma, read as a point (a.csv line 3, ...)"]
    assert summarise_faults(lost) == ["images dropped: 3 x image missing (a.json image 1, a.json image 2, ...)"]
    stop_on_lost_images([tallied, *lost], 3)
    stop_on_lost_images([], 0)
    with pytest.raises(InputError, match=r"3 images cannot be used, more than --max-bad-samples 2; .*a\.json, image 1"):
        stop_on_lost_images([tallied, *lost], 2)
