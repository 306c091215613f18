"""Files that hold a training: written whole or not at all, read without running code from them."""

import os
import pickle
import urllib.error
import zipfile
from argparse import Namespace
from collections import OrderedDict, deque
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train_utils.errors import InputError
from train_utils.safetensors_file import load_safetensors

# What NumPy's numbers and arrays are stored with, e.g. the best score in files of the 2019 YOLO trainer: the functions that
# rebuild them, in the modules of NumPy 1 and 2, and the types of numbers. None of it runs code from the file.
_NUMPY = [
    np.ndarray,
    np.dtype,
    *((rebuild, f"numpy.{core}.multiarray.{rebuild.__name__}")
      for rebuild in (np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]) for core in ("core", "_core")),
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
]
_PLAIN = (type(None), bool, int, float, complex, str, bytes, Tensor, torch.dtype, torch.device, torch.Size)


def plain(value: Any) -> Any:
    """The value in terms that `torch.load(weights_only=True)` and, tensors apart, JSON accept.

    Namespace becomes a dict, Path a string, NumPy scalars and arrays become numbers and lists, other mappings and
    sequences dicts and lists; tensors and plain values stay as they are.

    Raises:
        TypeError: something without a plain form, such as a module or a function.
    """
    if isinstance(value, np.generic):  # before float: np.float64 is one
        return value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Namespace):
        return plain(vars(value))
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, OrderedDict):  # a state_dict: keeps its _metadata, the versions of its modules
        copy = OrderedDict((plain(key), plain(entry)) for key, entry in value.items())
        copy.__dict__.update(value.__dict__)
        return copy
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, set)):
        kind = tuple if isinstance(value, tuple) else set
        return kind(plain(entry) for entry in value)
    if isinstance(value, (list, range, deque, frozenset)):
        return [plain(entry) for entry in value]
    raise TypeError(f"a {type(value).__name__} cannot be stored as plain data: {value!r}")


def save_checkpoint(state: dict, path: str | os.PathLike) -> None:
    """Write `plain(state)` to `path` such that a good file is there at every moment.

    The data goes to a temporary file in the same folder, reaches the disk, is read back, and only then takes the name.

    Raises:
        OSError: the disk is full or refuses; the file that was there before is untouched, nothing is left over.
        TypeError: the state holds something without a plain form.
    """
    path = Path(path)
    state = plain(state)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        damaged = damaged_entry(temporary)
        if damaged:
            raise OSError(f"what was written does not read back ({damaged})")
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise OSError(f"{path}: not written ({error}); free some space or choose another --output-dir") from error
    finally:
        temporary.unlink(missing_ok=True)


def damaged_entry(path: str | os.PathLike) -> str | None:
    """What is wrong with a checkpoint as a zip file, or None if every byte matches its check sum.

    torch itself reads a file with a flipped bit without a word.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (OSError, zipfile.BadZipFile, EOFError, ValueError) as error:
        return str(error) or type(error).__name__
    return f"check sum of {bad}" if bad else None


def load_checkpoint(path: str | os.PathLike) -> dict:
    """The dict in a checkpoint, on the CPU, as plain data: at its top level a stored argparse.Namespace comes back as a
    dict, a number or an array of NumPy as a number or a list.

    Files of `torch.save` old and new are read, bare state dicts too, and a file named .safetensors (see safetensors_file).

    Raises:
        FileNotFoundError: no such file.
        InputError: the file is damaged or cut short, is no checkpoint, or holds Python objects other than plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file; check the path")
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    damaged = damaged_entry(path) if is_zip else None
    if damaged:
        raise InputError(f"{path}: the file is damaged or cut short ({damaged}); copy it again or take another one")
    try:
        with torch.serialization.safe_globals([Namespace, *_NUMPY]):  # the course repository's and torchvision's files have one
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise a dozen types for files that are something else
        raise InputError(f"{path}: {_why_not_loaded(error)}") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: not a checkpoint but a {type(loaded).__name__}; a dict of tensors is needed")
    # only the top level holds them; the rest is left alone, so that state dicts stay what they are
    return {key: _plain_entry(entry) for key, entry in loaded.items()}


def _plain_entry(entry: Any) -> Any:
    return vars(entry) if isinstance(entry, Namespace) else plain(entry) if isinstance(entry, (np.generic, np.ndarray)) else entry


def _why_not_loaded(error: Exception) -> str:
    text = str(error)
    for mark in ("GLOBAL ", "Unsupported global: ", "Unsupported class "):
        if isinstance(error, pickle.UnpicklingError) and mark in text:
            name = text.split(mark, 1)[1].split()[0].strip("'\",.")
            return f"holds a Python object ({name}), which could run code when read; save tensors and plain values only"
    return f"not a readable PyTorch checkpoint ({type(error).__name__}); the file may be cut short or of another kind"


def fetch_url(url: str, offline_hint: str) -> dict:
    """The state dict behind a torchvision download address, from the local cache if it was fetched before.

    The SHA-256 in the file name is checked on download, and the file is read without running code.

    Args:
        offline_hint: what to do without a network, e.g. "give --weights a local copy".

    Raises:
        InputError: no network, a file that does not match its check sum, or one that is no checkpoint.
    """
    name = url.rsplit("/", 1)[-1]
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True, check_hash=True)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"cannot fetch {name} ({reason}): download {url} by hand, then {offline_hint}") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        cached = Path(torch.hub.get_dir(), "checkpoints", name)
        raise InputError(f"{name} is damaged ({error}): delete {cached} and try again, or {offline_hint}") from error


def _flush_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut; Windows cannot open folders and does not need it."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
