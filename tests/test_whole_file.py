"""Files whole or not at all: the new content, or the old one and no remains."""

import os
import subprocess
import sys

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
    message = r"file/a\.txt: not written .*choose another place"
    with pytest.raises(OSError, match=message), whole_file(tmp_path / "file" / "a.txt"):
        pass


def test_the_disk_has_the_content_before_the_name_changes_hands(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("folder" if os.path.isdir(f"/dev/fd/{handle}") else "file")
                        or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replace") or replace(*names))
    for flush_folder, expected in ((False, ["file", "replace"]), (True, ["file", "replace", "folder"])):
        with whole_file(tmp_path / "a.txt", flush_folder=flush_folder) as temporary:
            temporary.write_text("one")
        if os.path.isdir("/dev/fd"):
            assert done == expected
        done.clear()


def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path, monkeypatch):
    """The file is there, whole; only how soon its name outlives a power cut is unknown."""
    fsync, calls = os.fsync, []

    def second_fails(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(22, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", second_fails)
    with whole_file(tmp_path / "a.txt", flush_folder=True) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="processes are not asked there")
def test_what_killed_processes_left_is_removed(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    gone, alive = tmp_path / f".a.txt.{child.pid}.tmp", tmp_path / f".a.txt.{os.getppid()}.tmp"
    others = [tmp_path / f".b.txt.{child.pid}.tmp", tmp_path / f".a.txt.{child.pid}.tmp2", tmp_path / ".a.txt.x.tmp"]
    for file in (gone, alive, *others):
        file.touch()
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert {*tmp_path.iterdir()} == {tmp_path / "a.txt", alive, *others}
