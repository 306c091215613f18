"""model.safetensors: weights, class names and what the model is made of, in a format that holds no code.

The tensors stand under the names of the state dict. The file's metadata have `class_names`, `category_ids`, `model_args` and
`script`, each as JSON; that is all that publishing a detector needs, and all that goes in. The package `safetensors` is optional.
"""

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from train_utils.errors import InputError
from train_utils.whole_file import whole_file

KEYS = {"class_names": list, "category_ids": list, "model_args": dict, "script": str}  # of the metadata, and what they hold


def save_safetensors(path: str | os.PathLike, state: Mapping[str, Tensor], *, class_names: list[str], category_ids: list[int],
                     model_args: dict, script: str) -> None:
    """Write a detector such that a whole file is there at every moment.

    Args:
        state: the state dict of the model, averaged weights if there are such.
        model_args, script: as in a checkpoint.

    Raises:
        InputError: the package is missing.
        OSError: it cannot be written.
        TypeError: model_args hold something without a form in JSON.
    """
    package = _package("safetensors.torch")
    values = {"class_names": class_names, "category_ids": category_ids, "model_args": model_args, "script": script}
    metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    # Copies: the format refuses tensors that share memory, or that are not laid out row by row.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with whole_file(path) as temporary:
        package.save_file(tensors, temporary, metadata=metadata)


def load_safetensors(path: str | os.PathLike) -> dict[str, Any]:
    """{"model": state dict on the CPU, "model_args", "class_names", "category_ids", "script"}, as in a checkpoint.

    Raises:
        FileNotFoundError: no such file.
        InputError: it is damaged, cut short or of another program, or the package is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file; check the path")
    package = _package("safetensors")
    try:
        with package.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
    except package.SafetensorError as error:
        raise InputError(f"{path}: no readable safetensors file ({error}); it may be cut short or of another kind") from error
    return {"model": state} | {name: _entry(path, metadata, name) for name in KEYS}


def _entry(path: Path, metadata: Mapping[str, str], name: str) -> Any:
    """One value of the metadata."""
    if name not in metadata:
        raise InputError(f"{path}: its header has no {name}, so export_onnx.py --format safetensors did not write it: give a "
                         "checkpoint, or a weights file of a known layout")
    try:
        value = json.loads(metadata[name])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, KEYS[name]):
        raise InputError(f"{path}: {name} in its header is no JSON {KEYS[name].__name__}; export the file anew")
    return value


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError("files named .safetensors need the package safetensors: pip install safetensors") from error
