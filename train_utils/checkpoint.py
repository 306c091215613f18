"""Files that hold a training: written whole or not at all, read without running code from them."""

import errno
import os
import pickle
import shutil
import urllib.error
import warnings
from argparse import Namespace
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train_utils.checkpoint_archive import LEGACY_MAGIC, ZIP_MAGIC, damaged_entry, kind_of
from train_utils.errors import InputError
from train_utils.numpy_pickles import NUMPY_GLOBALS
from train_utils.safetensors_file import load_safetensors
from train_utils.whole_file import not_written, whole_file

# besides torch's own list: the Namespace of many trainers' settings; bytes, since torch writes empty ones as a call
SAFE_GLOBALS = [Namespace, (bytes, "builtins.bytes"), *NUMPY_GLOBALS]
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

    Where there is room for it, the data goes to a temporary file in the same folder, is read back, reaches the disk, and
    only then takes the name.

    Raises:
        OSError: the disk is full or refuses; the file that was there before is untouched, nothing is left over.
        TypeError: the state holds something without a plain form.
    """
    path = Path(path)
    state = plain(state)
    try:
        with whole_file(path, flush_folder=True) as temporary:
            _check_room(state, path.parent)
            with open(temporary, "wb") as file:  # by Python: torch's own writer takes ASCII names only
                torch.save(state, file)
            damaged = damaged_entry(temporary)
            if damaged:
                raise OSError(f"what was written does not read back: {damaged}")
    except RuntimeError as error:
        reason, number = _failed_write(error)
        if reason is None:
            raise
        raise not_written(path, reason, number) from error


def _check_room(state: dict, folder: Path) -> None:
    """Raise OSError if the disk cannot hold the state: sooner, and without filling it to the brim for others."""
    storages = {(storage.device, storage.data_ptr()): storage.nbytes() for storage in _storages(state)}
    needed = sum(storages.values()) + 512 * len(storages) + (1 << 20)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"the file needs {needed / 1e6:.1f} MB and the disk has {free / 1e6:.1f} MB left")


def _storages(value: Any) -> Iterator[torch.UntypedStorage]:
    if isinstance(value, Tensor):
        yield value.untyped_storage()
    elif isinstance(value, (Mapping, list, tuple, set)):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _storages(entry)


def _failed_write(error: BaseException) -> tuple[str | None, int | None]:
    """Why a file could not be written and the system's number of it, if a RuntimeError of torch's says that; else None."""
    link = error
    while link is not None:
        if isinstance(link, OSError):
            return link.strerror or str(link), link.errno
        link = link.__cause__ or link.__context__
    text = str(error).partition("\n")[0]
    return (text if "PytorchStreamWriter" in text or "inline_container" in text else None), None


def load_checkpoint(path: str | os.PathLike) -> dict:
    """The dict in a checkpoint, on the CPU, as plain data: at its top level a stored argparse.Namespace comes back as a
    dict, and everywhere a number of NumPy as a number; an array of NumPy at the top level as a list.

    Files of `torch.save` old and new are read, bare state dicts too, and a file named .safetensors (see safetensors_file).
    Whoever made the file, no code of it runs.

    Raises:
        FileNotFoundError: no such file.
        InputError: the file is damaged or cut short, is no checkpoint, or holds Python objects other than plain data; or
            this PyTorch is older than 2.10.
    """
    path = Path(path)
    if torch.__version__ < (2, 10):
        raise InputError(f"{path}: PyTorch {torch.__version__} does not read files of others safely; install 2.10 or newer")
    _check_is_file(path)
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    try:
        _check_format(path)
        with torch.serialization.safe_globals(SAFE_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch thinks of the file: it is said below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions and the disk") from error
    except Exception as error:  # the readers raise a dozen types for files that are something else
        raise InputError(f"{path}: {_why_not_loaded(error)}") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: not a checkpoint but a {type(loaded).__name__}; a dict of tensors is needed")
    # only the top level holds them; the rest is left alone, so that state dicts stay what they are
    return {key: _plain_entry(entry) for key, entry in loaded.items()}


def _plain_entry(entry: Any) -> Any:
    return vars(entry) if isinstance(entry, Namespace) else entry.tolist() if isinstance(entry, np.ndarray) else entry


def _check_format(path: Path) -> None:
    """Raise InputError for a file that was not written by `torch.save`, or that is not as it was written."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith(ZIP_MAGIC):
        damaged = damaged_entry(path)
        if damaged:
            raise InputError(f"{path}: the file is damaged or cut short ({damaged}); copy it again or take another one")
    elif not head.startswith(LEGACY_MAGIC):
        raise InputError(f"{path}: not a readable PyTorch checkpoint but {kind_of(head)}; give a file that torch.save wrote")


def _check_is_file(path: Path) -> None:
    try:
        if path.is_file():
            return
        found = "is a folder; name the checkpoint file in it" if path.is_dir() else "no such checkpoint file; check the path"
    except OSError as error:  # a folder that must not be looked into
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    raise FileNotFoundError(f"{path}: {found}")


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
