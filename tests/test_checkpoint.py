"""Checkpoints: round trips, damage, files of other projects, code refused, failed writes."""

import argparse
import errno
import hashlib
import os
import shutil
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch

from train_utils import checkpoint
from train_utils.checkpoint import fetch_url, load_checkpoint, plain, save_checkpoint
from train_utils.errors import InputError


def state():
    return {"model": torch.nn.BatchNorm1d(3).state_dict(), "epoch": 4, "rows": [{"stats": [0.5] * 12}]}


def test_round_trip(tmp_path):
    path = tmp_path / "last.pth"
    save_checkpoint(state(), path)
    loaded = load_checkpoint(path)
    assert loaded["epoch"] == 4 and loaded["rows"] == state()["rows"]
    assert torch.equal(loaded["model"]["weight"], torch.ones(3))
    assert loaded["model"]._metadata[""]["version"] == 2  # else BatchNorm takes the file for an old one
    assert os.listdir(tmp_path) == ["last.pth"]


def test_plain_values_load_weights_only(tmp_path):
    odd = {
        "namespace": argparse.Namespace(lr=np.float32(0.5), path=Path("a/b")),
        "stats": np.array([0.25, 1.0]),
        "count": np.int64(3),
        "numbers": [range(3), deque([1, 2]), (np.bool_(True), None), {np.int64(1)}],
        "default": defaultdict(list, {1: [2]}),
        "scheduler": {"milestones": Counter({3: 1})},
    }
    path = tmp_path / "odd.pth"
    save_checkpoint(odd, path)
    assert torch.load(path, weights_only=True) == {
        "namespace": {"lr": 0.5, "path": str(Path("a/b"))},
        "stats": [0.25, 1.0],
        "count": 3,
        "numbers": [[0, 1, 2], [1, 2], (True, None), {1}],
        "default": {1: [2]},
        "scheduler": {"milestones": {3: 1}},
    }
    assert type(plain(np.float64(1))) is float and plain({}) == {}
    with pytest.raises(TypeError, match="Sequential"):
        plain({"model": torch.nn.Sequential(torch.nn.Linear(1, 1))})


def test_files_of_other_projects(tmp_path):
    weights = OrderedDict(weight=torch.arange(3.0))
    old_args = argparse.Namespace(lr=0.02, lr_steps=[7, 12], device="cuda")
    for name, legacy in (("new.pth", False), ("old.pth", True)):
        path = tmp_path / name
        torch.save({"model": weights, "args": old_args}, path, _use_new_zipfile_serialization=not legacy)
        assert zipfile.is_zipfile(path) is not legacy
        loaded = load_checkpoint(path)
        assert loaded["args"] == {"lr": 0.02, "lr_steps": [7, 12], "device": "cuda"}
        assert torch.equal(loaded["model"]["weight"], torch.arange(3.0))
        torch.save(weights, path, _use_new_zipfile_serialization=not legacy)  # a bare state dict
        assert torch.equal(load_checkpoint(path)["weight"], torch.arange(3.0))


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_of_numpy_load_as_plain_numbers(tmp_path, legacy):
    """The YOLO trainers of 2019 and 2020 store their best score as a NumPy number, or an array of one."""
    odd = {
        "best_fitness": np.float64(0.25),
        "as_array": np.array([0.5]),
        "whole": np.int64(3),
        "true": np.bool_(True),
        "half": np.float16(0.5),
        "training_results": "  0/99  1.5 ...\n",
        "model": {"module_list.0.conv_0.weight": torch.ones(2)},
    }
    torch.save(odd, tmp_path / "last.pt", _use_new_zipfile_serialization=not legacy)
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(loaded.pop("model")["module_list.0.conv_0.weight"], torch.ones(2))
    assert loaded == {"best_fitness": 0.25, "as_array": [0.5], "whole": 3, "true": True, "half": 0.5,
                      "training_results": "  0/99  1.5 ...\n"}
    assert {type(value) for value in loaded.values()} == {float, list, int, bool, str}


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_written_by_either_numpy(tmp_path, core):
    """NumPy 1 and 2 call the module of the functions that rebuild numbers differently."""
    torch.save({"score": np.float64(0.25), "scores": np.array([0.5])}, tmp_path / "here.pt")
    with zipfile.ZipFile(tmp_path / "here.pt") as here, zipfile.ZipFile(tmp_path / "there.pt", "w") as there:
        for name in here.namelist():
            data = here.read(name)
            if name.endswith("data.pkl"):
                assert b"core.multiarray" in data
                data = data.replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", f"numpy.{core}.".encode())
            there.writestr(name, data)
    assert load_checkpoint(tmp_path / "there.pt") == {"score": 0.25, "scores": [0.5]}


class Payload:
    def __reduce__(self):
        return os.mkdir, ("was_run",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Payload()}, "evil.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="evil.pth: holds a Python object .*mkdir"):
        load_checkpoint("evil.pth")
    assert not Path("was_run").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_arrays_of_objects_are_refused(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    for entry in (Payload(), None):
        torch.save({"model": np.array([entry], dtype=object)}, "odd.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match="odd.pth: "):
            load_checkpoint("odd.pth")
    assert not Path("was_run").exists()


def test_damage_is_found(tmp_path):
    path = tmp_path / "last.pth"
    save_checkpoint({"model": {"weight": torch.full((1000,), 2.0)}}, path)
    good = path.read_bytes()
    tensor_at = good.index(torch.full((4,), 2.0).numpy().tobytes())
    flipped = bytearray(good)
    flipped[tensor_at + 43] ^= 0x40  # a 2 becomes a 0
    path.write_bytes(flipped)
    assert torch.load(path, weights_only=True)["model"]["weight"].sum() == 1998  # torch alone does not notice
    with pytest.raises(ValueError, match="last.pth: the file is damaged"):
        load_checkpoint(path)
    for content in (good[: len(good) // 2], good[:10]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="last.pth: the file is damaged or cut short"):
            load_checkpoint(path)


def test_not_a_checkpoint(tmp_path):
    for content in (b"", b"plain text, no weights", b"\x89PNG\r\n\x1a\n" + b"0" * 100):
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(ValueError, match="x.pth: not a readable"):
            load_checkpoint(tmp_path / "x.pth")
    torch.save(torch.zeros(3), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="not a checkpoint but a Tensor"):
        load_checkpoint(tmp_path / "x.pth")
    torch.save({"model": torch.zeros(300)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:-200])  # an old file cut short
    with pytest.raises(ValueError, match="cut short"):
        load_checkpoint(tmp_path / "x.pth")
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match="is a folder; name the checkpoint file in it"):
        load_checkpoint(tmp_path)


def refusing(stage, monkeypatch):
    """Makes one stage of writing fail as a full or broken disk does."""
    def full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def torch_on_a_full_disk(value, file):
        try:
            full_disk()
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 4 vs 3\n stack ...")

    def cut_short(value, file):
        file.write(b"PK\x03\x04 half a file")

    where, name, failing = {
        "room": (shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0)),
        "write": (torch, "save", torch_on_a_full_disk),
        "verify": (torch, "save", cut_short),
        "fsync": (os, "fsync", full_disk),
        "replace": (os, "replace", full_disk),
    }[stage]
    monkeypatch.setattr(where, name, failing)


@pytest.mark.parametrize(("stage", "reason"), [
    ("room", "the file needs 1.0 MB and the disk has 0.0 MB left"),
    ("write", os.strerror(errno.ENOSPC)),
    ("verify", "what was written does not read back: File is not a zip file"),
    ("fsync", os.strerror(errno.ENOSPC)),
    ("replace", os.strerror(errno.ENOSPC)),
])
def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch, stage, reason):
    path = tmp_path / "last.pth"
    save_checkpoint(state(), path)
    before = path.read_bytes()
    refusing(stage, monkeypatch)
    with pytest.raises(OSError) as raised:
        save_checkpoint({"epoch": 5}, path)
    assert str(raised.value) == f"{path}: not written ({reason}); free some space or choose another place"
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.pth"]
    assert load_checkpoint(path)["epoch"] == 4


def test_a_limit_on_the_size_of_files(tmp_path):
    """The system stops torch in the middle of writing."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "last.pth"
    save_checkpoint(state(), path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError, match=r"last.pth: not written \(File too large\); free some space") as raised:
            save_checkpoint({"model": {f"{i}": torch.rand(10_000) for i in range(5)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(raised.value) and os.listdir(tmp_path) == ["last.pth"] and load_checkpoint(path)["epoch"] == 4


def test_room_is_counted_once_for_shared_memory(tmp_path, monkeypatch):
    weight = torch.zeros(1_000_000)  # 4 MB
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 6_000_000))
    save_checkpoint({"model": {"a": weight, "b": weight[:500].reshape(5, 100)}, "ema": [(weight,)]}, tmp_path / "a.pth")
    with pytest.raises(OSError, match="the file needs 9.0 MB and the disk has 6.0 MB left"):
        save_checkpoint({"model": {"a": weight, "b": weight.clone()}}, tmp_path / "a.pth")


def test_other_trouble_of_torch_is_not_called_a_full_disk(tmp_path, monkeypatch):
    def broken(value, file):
        raise RuntimeError("an accelerator is lost")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="^an accelerator is lost$"):
        save_checkpoint(state(), tmp_path / "last.pth")
    assert os.listdir(tmp_path) == []


def test_an_old_torch_is_named(tmp_path, monkeypatch):
    save_checkpoint(state(), tmp_path / "last.pth")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1+cpu"))
    with pytest.raises(InputError, match=r"last.pth: PyTorch 2.9.1\+cpu does not read .* safely; install 2.10 or newer"):
        load_checkpoint(tmp_path / "last.pth")


def test_a_file_that_must_not_be_read(tmp_path, monkeypatch):
    save_checkpoint(state(), tmp_path / "last.pth")

    def forbidden(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoint, "open", forbidden, raising=False)
    with pytest.raises(InputError, match=r"last.pth: cannot be read \(Permission denied\); check its permissions"):
        load_checkpoint(tmp_path / "last.pth")
    monkeypatch.setattr(Path, "is_file", forbidden)
    with pytest.raises(InputError, match=r"last.pth: cannot be read \(Permission denied\); check its permissions"):
        load_checkpoint(tmp_path / "last.pth")


def test_fetch_url(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    source = tmp_path / "net.pth"
    torch.save({"weight": torch.ones(2)}, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    good, wrong = tmp_path / f"net-{digest}.pth", tmp_path / "net-00000000.pth"
    for copy in (good, wrong):
        copy.write_bytes(source.read_bytes())
    assert torch.equal(fetch_url(good.as_uri(), "use --weights")["weight"], torch.ones(2))
    with pytest.raises(ValueError, match="net-00000000.pth is damaged .*use --weights"):
        fetch_url(wrong.as_uri(), "use --weights")
    with pytest.raises(ValueError, match="cannot fetch none-12345678.pth .* by hand, then use --weights"):
        fetch_url((tmp_path / "none-12345678.pth").as_uri(), "use --weights")
