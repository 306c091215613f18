"""model.safetensors: what goes in, what comes out, what is refused; and that nothing here reads a file that could run code."""

import ast
import json
import struct
import sys

import pytest
import torch
from conftest import ROOT
from exports import NAMES, detect, same_detections, small_checkpoint

import export_onnx
from train_utils.checkpoint import load_checkpoint
from train_utils.errors import InputError
from train_utils.rebuild import find_script, import_script
from train_utils.safetensors_file import load_safetensors, save_safetensors

FACTS = {"class_names": ["cat", "dög"], "category_ids": [3, 7], "model_args": {"net": "x", "sizes": [1.5, None]},
         "script": "train_x"}


@pytest.fixture
def file(tmp_path):
    """A written file and its tensors, two of which share memory and one of which is transposed."""
    pytest.importorskip("safetensors")
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"a": weight, "b": weight, "c": weight.t(), "count": torch.tensor(5), "half": torch.ones(2, dtype=torch.bfloat16)}
    save_safetensors(tmp_path / "model.safetensors", state, **FACTS)
    return tmp_path / "model.safetensors", state


def rewrite(path, header=None, change=lambda header: None):
    """Writes the file anew with another header, given or changed."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    if header is None:
        parsed = json.loads(data[8 : 8 + length])
        change(parsed)
        header = json.dumps(parsed).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


def test_round_trip(file):
    path, state = file
    loaded = load_checkpoint(path)
    assert {name: loaded[name] for name in FACTS} == FACTS and loaded.keys() == {*FACTS, "model"}
    assert loaded["model"].keys() == state.keys()
    for name, tensor in state.items():
        assert loaded["model"][name].dtype == tensor.dtype and torch.equal(loaded["model"][name], tensor)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_header_holds_nothing_else(file):
    data = file[0].read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack_from("<Q", data)[0]])
    assert header.pop("__metadata__").keys() == FACTS.keys() and header.keys() == file[1].keys()
    assert all(entry.keys() == {"dtype", "shape", "data_offsets"} for entry in header.values())


@pytest.mark.parametrize("damage", [
    lambda data: data[:-3],
    lambda data: data[:5],
    lambda data: b"",
    lambda data: struct.pack("<Q", 1 << 40) + data[8:],  # a header of a terabyte
    lambda data: struct.pack("<Q", 4) + b"{{{{",
    lambda data: b"PK\x03\x04" + data,
])
def test_damaged_files_are_refused(file, damage):
    path = file[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="model.safetensors: no readable safetensors file") as raised:
        load_checkpoint(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("change", "match"), [
    (lambda header: header.pop("__metadata__"), "its header has no class_names, so export_onnx.py"),
    (lambda header: header["__metadata__"].pop("script"), "its header has no script"),
    (lambda header: header["__metadata__"].update(model_args="[1]"), "model_args in its header is no JSON dict"),
    (lambda header: header["__metadata__"].update(class_names="[" * 100_000), "class_names in its header is no JSON list"),
    (lambda header: header["a"].update(data_offsets=[0, 1 << 50]), "no readable safetensors file"),
])
def test_foreign_headers_are_refused(file, change, match):
    rewrite(file[0], change=change)
    with pytest.raises(InputError, match=match):
        load_safetensors(file[0])


def test_missing_file_and_missing_package(file, monkeypatch):
    with pytest.raises(FileNotFoundError, match="other.safetensors: no such"):
        load_checkpoint(file[0].with_name("other.safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match="pip install safetensors"):
        load_checkpoint(file[0])


@pytest.mark.parametrize("script", ["train_ssd", "train_fasterrcnn", "train_yolov3"])
def test_published_detector_is_the_same(script, tmp_path, capsys):
    """export_onnx.py writes it, load_detector and `--weights` of the training script take it."""
    pytest.importorskip("safetensors")
    source = small_checkpoint(tmp_path, script)
    assert export_onnx.main(export_onnx.parse_args([str(source), "--format", "safetensors"])) == 0
    assert "scores 0.0e+00, boxes 0.0e+00 px" in capsys.readouterr().out
    images = [torch.rand(3, 90, 120), torch.rand(3, 70, 60)]
    first, expected = detect(source, images)
    second, found = detect(tmp_path / "model.safetensors", images)
    same_detections(expected, found)
    assert second.class_names == NAMES and second.category_ids == [3, 5, 8] and second.script == script
    assert second.model_args == json.loads(json.dumps(first.model_args)) and second.epoch is None
    module = import_script(find_script(script))
    start = module.read_start(module.parse_args(["--weights", str(tmp_path / "model.safetensors"), *data_of(script)]))
    assert start.class_names == NAMES and start.model_args == second.model_args


def data_of(script):
    """Flags that the parser of a script wants beside --weights."""
    return {"train_ssd": ["--net", "small-ssd"], "train_fasterrcnn": ["--backbone", "small_cnn"], "train_yolov3": []}[script]


def calls_in(path):
    """(function as it is written, names and constant values of its keywords) of every call in a file that loads something."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text if "load" in text.lower() or "pickle" in text else "")):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func), {word.arg: getattr(word.value, "value", None) for word in node.keywords}


def test_no_file_of_unknown_origin_can_run_code():
    """Every torch.load is weights_only, every download is checked, nothing is unpickled."""
    folders = (".", "datasets", "network_files", "train_utils", "tools", "benchmarks", "tests")
    sources = [path for folder in folders for path in (ROOT / folder).glob("*.py")]
    calls = [(path, name, words) for path in sources for name, words in calls_in(path)]
    loads = [call for call in calls if call[1] in ("torch.load", "torch.jit.load")]
    assert len(loads) > 5 and all(words.get("weights_only") is True for _, _, words in loads), loads
    fetched = [words for _, name, words in calls if name.endswith("load_state_dict_from_url")]
    assert fetched and all(words.get("weights_only") is True and words.get("check_hash") is True for words in fetched)
    unsafe = [(path, name) for path, name, words in calls if path.parent.name != "tests"  # which unpickle what they pickled
              and (name in ("pickle.load", "pickle.loads", "pickle.Unpickler") or words.get("allow_pickle") is True)]
    assert not unsafe, unsafe
