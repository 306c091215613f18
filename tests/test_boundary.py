"""Which paths a data set may name."""

import os

import pytest

from datasets.annotations import STOP, FaultError
from datasets.boundary import KIND, Boundary


@pytest.fixture
def tree(tmp_path):
    """data/{a.jpg, inner/, out -> ../secret, out.jpg -> ../secret/s.jpg, back.jpg -> a.jpg}, secret/s.jpg, data2/b.jpg"""
    for folder in ("data/inner", "secret", "data2"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("data/a.jpg", "secret/s.jpg", "data2/b.jpg"):
        (tmp_path / file).touch()
    (tmp_path / "data/out").symlink_to("../secret")
    (tmp_path / "data/out.jpg").symlink_to(tmp_path / "secret/s.jpg")
    (tmp_path / "data/back.jpg").symlink_to("a.jpg")
    return tmp_path


@pytest.mark.parametrize("path, inside", [
    ("data/a.jpg", True), ("data/missing.jpg", True), ("data/inner/../a.jpg", True), ("data/back.jpg", True), ("data", True),
    ("data/out/../inner", False),  # a link is resolved before ..
    ("data/out.jpg", False), ("data/out/s.jpg", False), ("data/../secret/s.jpg", False), ("data2/b.jpg", False),
    ("data/inner/..", True), ("data/..", False), ("data/\0/a.jpg", False), ("data/" + "x" * 5000 + "/a.jpg", True)])
def test_only_what_really_lies_below_the_root_is_inside(tree, path, inside):
    boundary = Boundary(tree / "data")
    assert boundary.contains(tree / path) == boundary.contains(str(tree / path)) == inside
    assert Boundary(tree / "data", allow_outside=True).contains(tree / path)


def test_several_roots_a_linked_root_and_relative_paths(tree, monkeypatch):
    boundary = Boundary(tree / "data", tree / "data2")
    assert boundary.contains(tree / "data2/b.jpg") and not boundary.contains(tree / "secret/s.jpg")
    assert Boundary(tree / "data/out").contains(tree / "secret/s.jpg")  # the user named the link
    monkeypatch.chdir(tree / "data")
    assert Boundary(os.curdir).contains("a.jpg") and Boundary("").contains("inner/x.txt")
    assert not Boundary(os.curdir).contains("../secret/s.jpg")


def test_check_names_the_place_and_the_remedy(tree):
    boundary = Boundary(tree / "data")
    boundary.check(tree / "data/a.jpg", "list.txt", "line 1")
    with pytest.raises(FaultError) as caught:
        boundary.check(tree / "data/out.jpg", "list.txt", "line 2")
    fault = caught.value.fault
    assert (fault.file, fault.where, fault.kind, fault.action) == ("list.txt", "line 2", KIND, STOP)
    assert "out.jpg" in fault.detail and "--allow-outside" in fault.detail
