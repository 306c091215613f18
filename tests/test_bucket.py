"""Copies to fsspec places: what arrives, what fails in one line."""

import fsspec
import pytest

from train_utils import bucket
from train_utils.bucket import bucket_url, upload


@pytest.fixture
def files(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "last.pth").write_bytes(b"first")
    (run / "results.txt").write_text("epoch:0")
    return [run / "last.pth", str(run / "results.txt"), run / "best.pth"]  # the last is not there yet


def test_memory(files, capsys):
    assert upload("memory://bucket/mine/", files)
    files[0].write_bytes(b"second")
    assert upload("memory://bucket/mine", files)
    memory = fsspec.filesystem("memory")
    try:
        assert sorted(memory.ls("/bucket/mine", detail=False)) == ["/bucket/mine/last.pth", "/bucket/mine/results.txt"]
        assert memory.cat("/bucket/mine/last.pth") == b"second" and memory.cat("/bucket/mine/results.txt") == b"epoch:0"
    finally:
        memory.rm("/bucket", recursive=True)
    assert capsys.readouterr().out == ""


def test_folders(files, tmp_path):
    for place, folder in ((f"file://{tmp_path}/far/away", "far/away"), (f"{tmp_path}/near", "near")):
        assert upload(place, files) and upload(place, files)
        assert {f.name for f in (tmp_path / folder).iterdir()} == {"last.pth", "results.txt"}
        assert (tmp_path / folder / "last.pth").read_bytes() == b"first"
    assert upload(f"file://{tmp_path}/none", [])


def test_bare_names_are_googles():
    assert bucket_url("mine") == "gs://mine" and bucket_url("mine/yolo") == "gs://mine/yolo"
    for place in ("gs://mine", "s3://a/b", "memory://x", "file:///tmp/x", "/tmp/x", "./x", "~/x"):
        assert bucket_url(place) == place


def test_failures_are_one_line_each_and_nothing_is_raised(files, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    assert upload(f"file://{tmp_path}/file/under", files) is False
    assert upload(f"file://{tmp_path}/file/under", files) is False  # every epoch says it
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0] == said[1]
    assert said[0].startswith(f"warning: --bucket file://{tmp_path}/file/under: last.pth could not be copied (")
    assert upload("nosuch://x", files) is False
    said = capsys.readouterr().out
    assert said.startswith("warning: --bucket nosuch://x: the first file could not be copied (") and said.count("\n") == 1

    def broken(*args, **kwargs):
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(bucket, "_put", broken)
    assert upload("memory://x", files) is False
    assert "last.pth could not be copied (no network); the training goes on" in capsys.readouterr().out


def test_a_missing_driver_is_named(files, capsys, monkeypatch):
    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(bucket.fsspec.core, "url_to_fs", missing)
    assert upload("s3://mine", files) is False
    line = "warning: --bucket s3://mine: a driver is missing (Install s3fs to access S3); nothing was copied\n"
    assert capsys.readouterr().out == line
