"""Darknet's `.weights` files: their bytes become the state of a network, and back.

Only bytes come in here: opening files is the caller's business.

Words:  layer = a section of the cfg other than [net], numbered from 0; only convolutions have weights
        cut-off file = weights of the first layers only, e.g. darknet53.conv.74 with those of the layers 0 to 73
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import NamedTuple

import torch
from torch import Tensor

from network_files.darknet import Convolutional, Darknet
from network_files.darknet_cfg import set_num_classes
from network_files.errors import InputError


class Header(NamedTuple):
    """What a `.weights` file begins with."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0  # images the network was trained on

    @property
    def format(self) -> str:
        """As `struct` wants it: from version 0.2 on `seen` has 8 bytes, before it 4."""
        return _header_format(self.major, self.minor)


@dataclass(frozen=True)
class WeightsFile:
    """The contents of a `.weights` file."""

    header: Header
    state: dict[str, Tensor]  # of the network's keys those that the file has; BatchNorm counters are in no file
    layers: int  # the file holds the layers 0 to layers - 1
    complete: bool  # False for a cut-off file


def is_darknet(first_bytes: bytes) -> bool:
    """Whether a file with these first bytes, 16 or more, begins like a `.weights` file: with a version below 1000.1000.

    torch.save's files, zip archives or pickles, and pictures are far above: their bytes 2 and 3 are not both 0.
    """
    return len(first_bytes) >= 16 and all(0 <= number < 1000 for number in struct.unpack_from("<ii", first_bytes))


def read_weights(data: bytes, network: Darknet) -> WeightsFile:
    """Takes a `.weights` file apart: float32 tensors by the network's keys, for `load_state_dict(state, strict=complete)`.

    A cut-off file is one that ends behind some convolution. Raises InputError, with the numbers of bytes, for a file that
    ends anywhere else: then the weights belong to another cfg, or the file is damaged.
    """
    header, start = _read_header(data)
    blocks, shapes = _blocks(network), _shapes(network)
    totals = list(accumulate(sum(shapes[key].numel() for key in keys) for keys in blocks.values()))  # floats
    sizes = [start + 4 * total for total in totals]  # bytes
    if len(data) not in sizes:
        raise InputError(_wrong_size(len(data), sizes, list(blocks)))
    number = sizes.index(len(data))
    keys = list(chain.from_iterable(list(blocks.values())[: number + 1]))
    values = torch.frombuffer(bytearray(data), dtype=torch.float32, offset=start)
    parts = values.split([shapes[key].numel() for key in keys])
    # Clones: a view would keep, and on saving write, the whole file with every tensor.
    state = {key: part.view(shapes[key]).clone() for key, part in zip(keys, parts)}
    return WeightsFile(header, state, list(blocks)[number] + 1, complete=number == len(sizes) - 1)


def classes_by_size(data: bytes, cfg: str) -> int | None:
    """The class count for which the network of this cfg has exactly the weights of this file; None if there is none.

    A file holds no class count, but its size grows by the same number of bytes with every class: so a file can be read by
    `Darknet(set_num_classes(cfg, classes_by_size(data, cfg)))`. None for cut-off files, which may not depend on it.
    """
    _, start = _read_header(data)
    sizes = []
    for num_classes in (1, 2):
        with torch.device("meta"):  # shapes only
            network = Darknet(set_num_classes(cfg, num_classes))
        sizes.append(start + 4 * sum(_shapes(network)[key].numel() for key in chain.from_iterable(_blocks(network).values())))
    more, rest = divmod(len(data) - sizes[0], sizes[1] - sizes[0])
    return 1 + more if more >= 0 and rest == 0 else None


def write_weights(
    state: Mapping[str, Tensor], network: Darknet, header: Header | None = None, layers: int | None = None
) -> bytes:
    """The `.weights` file of a state that has the network's keys.

    header: None is version 0.2.5, 0 images seen. layers: for a cut-off file of the layers 0 to layers - 1, None for all.
    Raises InputError for a state that lacks a tensor or has one of another shape.
    """
    header, shapes = header or Header(), _shapes(network)
    parts = [struct.pack(header.format, *header)]
    for number, keys in _blocks(network).items():
        if layers is not None and number >= layers:
            break
        for key in keys:
            if key not in state or state[key].shape != shapes[key]:
                found = list(state[key].shape) if key in state else "missing"
                raise InputError(f"the tensor {key} must have the shape {list(shapes[key])}, but it is {found}")
            parts.append(state[key].detach().to("cpu", torch.float32).numpy().tobytes())
    return b"".join(parts)


def _header_format(major: int, minor: int) -> str:
    return "<iiiq" if major * 10 + minor >= 2 and major < 1000 and minor < 1000 else "<iiii"


def _read_header(data: bytes) -> tuple[Header, int]:
    """The header and its number of bytes."""
    if len(data) < 16:
        raise InputError(f"this is no Darknet weights file: it has {len(data)} bytes, the shortest header 16")
    form = _header_format(*struct.unpack_from("<ii", data))
    if len(data) < struct.calcsize(form):
        raise InputError(f"this weights file is damaged: it has {len(data)} bytes, its header alone {struct.calcsize(form)}")
    return Header(*struct.unpack_from(form, data)), struct.calcsize(form)


def _blocks(network: Darknet) -> dict[int, list[str]]:
    """Number of each convolution -> its keys in the order of the file."""
    blocks = {}
    for number, layer in enumerate(network.module_list):
        if isinstance(layer, Convolutional):
            normed = ["norm.bias", "norm.weight", "norm.running_mean", "norm.running_var"]
            keys = [*(["conv.bias"] if layer.norm is None else normed), "conv.weight"]
            blocks[number] = [f"module_list.{number}.{key}" for key in keys]
    return blocks


def _shapes(network: Darknet) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in network.state_dict().items()}


def _wrong_size(found: int, sizes: list[int], layers: list[int]) -> str:
    """The message for a file of `found` bytes where a file up to layers[i] has sizes[i]."""
    if not sizes:
        return f"the weights file has {found:,} bytes, but this cfg has no convolution"
    message = f"the weights file has {found:,} bytes, but this cfg needs {sizes[-1]:,}"
    shorter = [(size, layer) for size, layer in zip(sizes, layers) if size < found]
    if found < sizes[-1] and shorter:
        size, layer = shorter[-1]
        message += f" (or, cut off behind layer {layer}, {size:,})"
    return f"{message}: the weights belong to another cfg or class count, or the file is damaged"
