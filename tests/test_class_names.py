import json
from collections import Counter

import pytest

from datasets import InputError, read_class_file, read_labels, read_names, translate_old_names
from datasets.class_names import COCO_IDS, COCO_NAMES, COCO_OLD_NAMES, without_case_variants


@pytest.mark.parametrize("text", [
    "cat\ndog", "cat\ndog\n", "cat\r\ndog\r\n\r\n \n", "\ufeffcat \n dog\n", "BACKGROUND\ncat\ndog", "background\ncat\ndog\n\n",
    "__background__\ncat\ndog\n", "cat,dog", "cat, dog\n", "BACKGROUND,cat,dog,\n"])
def test_both_habits_of_jetson(tmp_path, text):
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert read_labels(path) == read_class_file(path) == ["cat", "dog"]


def test_a_comma_in_a_list_of_lines_is_part_of_the_name(tmp_path):
    (tmp_path / "labels.txt").write_text("tench, Tinca tinca\ngoldfish\nN/A\nN/A\n")
    assert read_labels(tmp_path / "labels.txt") == ["tench, Tinca tinca", "goldfish", "N/A", "N/A"]


@pytest.mark.parametrize(("text", "message"), [
    ("cat\n\ndog\n", r"labels\.txt, line 2 is blank"), ("\ncat\n", "line 1 is blank"),
    ("BACKGROUND\n\ncat\n", "line 2 is blank"), ("BACKGROUND\ncat\ndog\ncat\n", 'line 4: the class "cat" stands there twice'),
    ("cat,,dog", "name 2 is blank"), ("cat,dog,cat", 'name 3: the class "cat" stands there twice'),
    ("cat\nBACKGROUND\n", "line 2: BACKGROUND may only stand first"), ("BACKGROUND\nBACKGROUND\ncat", "line 2: BACKGROUND may"),
    ("", "holds no class name"), ("BACKGROUND\n", "holds no class name"), ("\n\n", "holds no class name"),
    (",", "is blank")])
def test_bad_labels(tmp_path, text, message):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / "labels.txt")


def test_no_text_and_no_file(tmp_path):
    (tmp_path / "labels.txt").write_bytes("größe".encode("latin-1"))
    with pytest.raises(InputError, match=r"labels\.txt cannot be read .*save it as UTF-8"):
        read_labels(tmp_path / "labels.txt")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_labels(tmp_path / "none.txt")


def test_background_in_json_is_a_class_as_written(tmp_path):
    (tmp_path / "c.json").write_text('["background", "cat"]')
    assert read_class_file(tmp_path / "c.json") == ["background", "cat"]


@pytest.mark.parametrize("text", ["cat\nhot dog", "\ufeffcat\r\n hot dog \r\n", "cat\nhot dog\n \n\n"])
def test_names_files_may_end_in_blank_lines(tmp_path, text):
    (tmp_path / "x.NAMES").write_bytes(text.encode())
    assert read_names(tmp_path / "x.NAMES") == read_class_file(tmp_path / "x.NAMES") == ["cat", "hot dog"]


def test_names_files_know_no_background_and_no_commas(tmp_path):
    (tmp_path / "x.names").write_text("background\ncat, tabby\n")
    assert read_class_file(tmp_path / "x.names") == ["background", "cat, tabby"]
    (tmp_path / "x.names").write_text("cat\ndog\ncat\n")
    with pytest.raises(InputError, match=r'x\.names, line 3: the class "cat" stands there twice'):
        read_names(tmp_path / "x.names")
    for text, line in (("cat\n\ndog\n", 2), ("\n\ncat\n", 1), ("cat\ndog\n \r\ncow\n\n", 3)):  # it would shift the ids behind it
        (tmp_path / "x.names").write_text(text)
        with pytest.raises(InputError, match=rf"x\.names, line {line} is blank; remove"):
            read_names(tmp_path / "x.names")
    (tmp_path / "x.names").write_text(" \n")
    with pytest.raises(InputError, match="holds no class name"):
        read_names(tmp_path / "x.names")
    with pytest.raises(FileNotFoundError, match=r"none\.names does not exist"):
        read_names(tmp_path / "none.names")


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5000, '{"a": {"b": 1}}', '["\\ud800"]', '["a\\nb"]', '["a\\u0000"]'])
def test_damaged_class_files(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(InputError, match=r"c\.json") as caught:
        read_class_file(tmp_path / "c.json")
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()


def test_variants_by_case():
    assert without_case_variants(Counter({"Car": 1, "car": 9, "cat": 2})) == {"car", "cat"}
    assert without_case_variants(Counter({"b": 3, "B": 3})) == {"B"} and without_case_variants(Counter()) == set()


def test_old_names():
    old = ["person", "sofa", "tvmonitor", "my sofa"]
    assert translate_old_names(old, COCO_NAMES) == ["person", "couch", "tv", "my sofa"]
    assert translate_old_names(["couch", "tv", "zebra"], old) == ["sofa", "tvmonitor", "zebra"]
    assert translate_old_names(["sofa"], ["sofa", "couch"]) == ["sofa"] and translate_old_names([], COCO_NAMES) == []
    assert translate_old_names(["sofa", "couch"], ["couch"]) == ["sofa", "couch"]  # two classes: never one name twice
    assert translate_old_names(["sofa"], ["cat"]) == ["sofa"]


def test_coco_table(shared_data):
    categories = json.loads((shared_data / "tiny_coco" / "annotations" / "instances_val2017.json").read_text())["categories"]
    assert [(c["id"], c["name"]) for c in categories] == list(zip(COCO_IDS, COCO_NAMES)) and len(COCO_OLD_NAMES) == 6
    assert translate_old_names(read_names(shared_data / "yolo" / "coco.names"), COCO_NAMES) == list(COCO_NAMES)
