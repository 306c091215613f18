import pytest

from datasets import InputError, read_class_file, read_labels


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
