"""Files whole or not at all: the new content, or the old one and no remains."""

import pytest

from train_utils.whole_file import whole_file


def test_the_content_takes_the_name_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one" and [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_what_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_place_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    message = r"file/a\.txt: cannot be written .*choose another place"
    with pytest.raises(OSError, match=message), whole_file(tmp_path / "file" / "a.txt"):
        pass
