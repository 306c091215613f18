"""Darknet's files: a cfg text becomes a network, the bytes of a `.weights` file become its state, and back.

The way of a cfg: parse_cfg (text -> sections) -> Darknet (sections -> layers). Only text and bytes come in here: opening
files is the caller's business.

Shapes: N images, C classes (no background), A anchors of one head, H, W height and width of a map
Words:  section = `[name]` and the `key=value` lines under it; layer = a section other than [net], numbered from 0
        head = the raw map that a [yolo] layer gets, [N, A * (5 + C), H, W], channel a * (5 + C) + {x, y, w, h, obj, classes}
        mask = the numbers of those anchors in the cfg's list that a head uses
        cut-off file = weights of the first layers only, e.g. darknet53.conv.74 with those of the layers 0 to 73
"""

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from network_files.errors import InputError

Number = TypeVar("Number", int, float)
ALIASES = {"network": "net", "conv": "convolutional", "max": "maxpool"}


# cfg text -> sections
class Option(NamedTuple):
    """The value of one key, without blanks and comment, and where it stands."""

    value: str
    line: int  # the first line of a cfg is 1


@dataclass
class Section:
    """One section of a cfg. The methods read its options; the keys that nobody read remain in `unread`."""

    kind: str  # aliases resolved
    line: int
    layer: int  # number of the layer, -1 for [net]
    options: dict[str, Option] = field(default_factory=dict)
    repeated: list[int] = field(default_factory=list)  # lines of keys that the section already has
    read: set[str] = field(default_factory=set)

    @property
    def unread(self) -> dict[str, Option]:
        """The options that had no effect so far."""
        return {key: option for key, option in self.options.items() if key not in self.read}

    def error(self, message: str, key: str | None = None) -> InputError:
        """An InputError that names the line of the key if the section has it, else the line of the section."""
        line = self.options[key].line if key in self.options else self.line
        return InputError(f"cfg line {line}, [{self.kind}]: {message}")

    def text(self, key: str, default: str) -> str:
        """The value as it stands."""
        self.read.add(key)
        return self.options[key].value if key in self.options else default

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        """The value as a whole number; a key without default must be there. Raises InputError below `least`."""
        number = self._number(key, self._required(key, default), int)
        if number < least:
            raise self.error(f"{key} must be at least {least}, not {number}", key)
        return number

    def real(self, key: str, default: float) -> float:
        """The value as a finite number."""
        return self._number(key, self.text(key, str(default)), float)

    def integers(self, key: str, default: Sequence[int] | None = None) -> list[int]:
        """The comma-separated whole numbers of a key."""
        return self._numbers(key, default, int)

    def reals(self, key: str) -> list[float]:
        """The comma-separated numbers of a key that must be there."""
        return self._numbers(key, None, float)

    def _numbers(self, key: str, default: Sequence[Number] | None, kind: type[Number]) -> list[Number]:
        joined = None if default is None else ",".join(map(str, default))
        return [self._number(key, item, kind) for item in self._required(key, joined).split(",")]

    def _required(self, key: str, default: object | None) -> str:
        if key not in self.options and default is None:
            raise self.error(f"the key {key} is missing")
        return self.text(key, str(default))

    def _number(self, key: str, value: str, kind: type[Number]) -> Number:
        try:
            number = kind(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self.error(f"{key} must hold {'whole ' if kind is int else ''}numbers, not {value!r}", key)
        return number


def parse_cfg(text: str) -> list[Section]:
    """The sections of a cfg in their order, [net] first.

    Blanks, empty lines, comments (# anywhere, ; at the start of a line) and a carriage return at the end do not count.
    Of a key that stands twice in a section the first counts, as in Darknet. Raises InputError, with the line, for a line
    that is neither a section nor `key=value`, and for a text that does not begin with [net].
    """
    sections: list[Section] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = re.sub(r"\s", "", line.partition("#")[0])
        if not line or line.startswith(";"):
            continue
        if line.startswith("[") and line.endswith("]"):
            kind = line[1:-1]
            sections.append(Section(ALIASES.get(kind, kind), number, len(sections) - 1))
            continue
        key, equals, value = line.partition("=")
        if not (key and equals and value):
            raise InputError(f"cfg line {number}: {line!r} is neither [section] nor key=value")
        if not sections:
            raise InputError(f"cfg line {number}: {line!r} stands before the first [section]")
        if sections[-1].options.setdefault(key, Option(value, number)).line != number:
            sections[-1].repeated.append(number)
    if not sections:
        raise InputError("this cfg is empty")
    if sections[0].kind != "net":
        raise InputError(f"cfg line {sections[0].line}: the first section must be [net], not [{sections[0].kind}]")
    return sections


# cfg text -> cfg text
def set_num_classes(text: str, num_classes: int) -> str:
    """The same cfg for another number of classes (without background).

    In each [yolo] section `classes`, in the convolution before it `filters` = (5 + classes) * masks; every other
    character stays. Raises InputError if a [yolo] section does not follow a convolution, or if there is none.
    """
    if num_classes < 1:
        raise InputError(f"a network needs at least 1 class, not {num_classes}")
    sections = parse_cfg(text)
    heads = [(before, section) for before, section in zip(sections, sections[1:]) if section.kind == "yolo"]
    if not heads:
        raise InputError("this cfg has no [yolo] section, so there is no class count to set")
    lines = text.split("\n")
    for before, yolo in heads:
        if before.kind != "convolutional":
            raise yolo.error(f"the layer before must be a convolution, whose filters follow the classes, not [{before.kind}]")
        _set_option(lines, yolo, "classes", num_classes)
        _set_option(lines, before, "filters", (5 + num_classes) * len(_mask(yolo, _anchors(yolo))))
    return "\n".join(lines)


def _set_option(lines: list[str], section: Section, key: str, value: int) -> None:
    """Changes the value where it stands in the lines of the cfg, or adds `key=value` to the line of the section."""
    if key not in section.options:
        ending = "\r" if lines[section.line - 1].endswith("\r") else ""
        lines[section.line - 1] += f"\n{key}={value}{ending}"
    else:
        # group 1: up to the value; the value itself may have blanks in it; group 2: what follows it
        at = section.options[key].line - 1
        lines[at] = re.sub(r"^([^=]*=\s*)[^#]*?(\s*(?:#.*)?)$", rf"\g<1>{value}\g<2>", lines[at], flags=re.DOTALL)


# the layers
class Map(NamedTuple):
    """The output of a layer for one image of the size that the cfg gives."""

    channels: int
    height: int
    width: int
    stride: int  # pixels of the network input per cell


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": partial(nn.LeakyReLU, 0.1, inplace=True),
    "linear": nn.Identity,
    "logistic": nn.Sigmoid,
    "mish": nn.Mish,
    "relu": partial(nn.ReLU, inplace=True),
    "swish": nn.SiLU,
}

# Keys of later Darknets that change what a layer computes: only the value that changes nothing is accepted.
NEUTRAL = {
    "convolutional": {"dilation": "1", "flipped": "0", "binary": "0", "xnor": "0", "antialiasing": "0"},
    "maxpool": {"antialiasing": "0", "maxpool_depth": "0"},
    "shortcut": {"weights_type": "none"},
    "upsample": {"scale": "1"},
    "yolo": {"new_coords": "0"},
}


class Convolutional(nn.Module):
    """[N, C_in, H, W] -> [N, C_out, H', W']: convolution, BatchNorm or bias, activation."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module):
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels) if conv.bias is None else None
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.activation(x if self.norm is None else self.norm(x))


class MaxPool(nn.Module):
    """[N, C, H, W] -> [N, C, (H + padding - size) // stride + 1, likewise W].

    padding: total of both sides, half of it (rounded down) on the left and on top; what lies outside never wins.
    """

    def __init__(self, size: int, stride: int, padding: int):
        super().__init__()
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        before = self.padding // 2
        if self.padding % 2 == 0 and before <= self.size // 2:
            return F.max_pool2d(x, self.size, self.stride, before)
        bottom, right = (max(self._reach(length) - before - length, 0) for length in x.shape[-2:])
        if before or bottom or right:
            # Not 0: behind a leaky ReLU most values are negative.
            x = F.pad(x, (before, right, before, bottom), value=-math.inf)
        return F.max_pool2d(x, self.size, self.stride)

    def _reach(self, length: int) -> int:
        """Where the last window ends, counted from the padded start."""
        return (length + self.padding - self.size) // self.stride * self.stride + self.size


class Route(nn.Module):
    """Maps [N, C_i, H, W] -> [N, sum of C_i / groups, H, W]: joined in their order, of each its group_id-th slice."""

    def __init__(self, groups: int, group_id: int):
        super().__init__()
        self.groups, self.group_id = groups, group_id

    def forward(self, *maps: Tensor) -> Tensor:
        if self.groups > 1:
            maps = tuple(x.chunk(self.groups, dim=1)[self.group_id] for x in maps)
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


class Shortcut(nn.Module):
    """Maps [N, C, H, W] -> their sum, through the activation."""

    def __init__(self, activation: nn.Module):
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            x = x + other
        return self.activation(x)


@dataclass(frozen=True)
class YoloHead:
    """What a [yolo] section says, for the one who decodes and trains its head."""

    layer: int  # number of the [yolo] layer
    num_classes: int
    mask: tuple[int, ...]
    anchors: tuple[tuple[float, float], ...]  # all of the cfg: (width, height) in pixels of the network input
    stride: int  # pixels of the network input per cell
    ignore_thresh: float
    truth_thresh: float
    scale_x_y: float

    @property
    def own_anchors(self) -> tuple[tuple[float, float], ...]:
        """The A anchors of this head."""
        return tuple(self.anchors[number] for number in self.mask)


class Yolo(nn.Identity):
    """Hands the head on as it is; what to do with it stands in `head`."""

    def __init__(self, head: YoloHead):
        super().__init__()
        self.head = head


# sections -> layers: every builder takes the section and the outputs of its sources, and gives the layer and its output
def _convolutional(section: Section, inputs: list[Map]) -> tuple[nn.Module, Map]:
    (source,) = inputs
    filters, size, stride = section.integer("filters", 1), section.integer("size", 1), _stride(section)
    groups, padding = section.integer("groups", 1), section.integer("padding", 0, least=0)
    if section.integer("pad", 0, least=0):
        padding = size // 2
    normalize = section.integer("batch_normalize", 0, least=0)
    if source.channels % groups or filters % groups:
        raise section.error(f"{source.channels} input channels and {filters} filters cannot form {groups} groups", "groups")
    conv = nn.Conv2d(source.channels, filters, size, stride, padding, groups=groups, bias=not normalize)
    return Convolutional(conv, _activation(section, "logistic")), _slide(section, source, filters, size, stride, 2 * padding)


def _maxpool(section: Section, inputs: list[Map]) -> tuple[nn.Module, Map]:
    (source,) = inputs
    stride = _stride(section)
    size = section.integer("size", stride)
    padding = section.integer("padding", size - 1, least=0)
    if padding > 2 * (size - 1):
        raise section.error(f"with padding {padding} some windows of size {size} would lie outside the map", "padding")
    return MaxPool(size, stride, padding), _slide(section, source, source.channels, size, stride, padding)


def _upsample(section: Section, inputs: list[Map]) -> tuple[nn.Module, Map]:
    (source,) = inputs
    factor = section.integer("stride", 2)
    if source.stride % factor:
        raise section.error(f"upsampling by {factor} a map of stride {source.stride} leaves no whole stride", "stride")
    larger = Map(source.channels, source.height * factor, source.width * factor, source.stride // factor)
    return nn.Upsample(scale_factor=factor, mode="nearest"), larger


def _dropout(section: Section, inputs: list[Map]) -> tuple[nn.Module, Map]:
    probability = section.real("probability", 0.5)
    if not 0 <= probability < 1:
        raise section.error(f"probability must be at least 0 and below 1, not {probability}", "probability")
    return nn.Dropout(probability), inputs[0]


def _route(section: Section, inputs: list[Map]) -> tuple[nn.Module, Map]:
    groups, group_id = section.integer("groups", 1), section.integer("group_id", 0, least=0)
    channels = [source.channels for source in inputs]
    _check_sizes(section, inputs)
    if group_id >= groups or any(count % groups for count in channels):
        raise section.error(f"no group {group_id} among {groups} equal groups of {channels} channels", "groups")
    return Route(groups, group_id), inputs[0]._replace(channels=sum(channels) // groups)


def _shortcut(section: Section, inputs: list[Map]) -> tuple[nn.Module, Map]:
    _check_sizes(section, inputs)
    channels = [source.channels for source in inputs]
    if len(set(channels)) > 1:
        raise section.error(f"maps of {' and '.join(map(str, channels))} channels cannot be added", "from")
    return Shortcut(_activation(section, "linear")), inputs[0]


def _yolo(section: Section, inputs: list[Map]) -> tuple[nn.Module, Map]:
    (source,) = inputs
    anchors = _anchors(section)
    mask, num_classes = _mask(section, anchors), section.integer("classes", 20)
    needed = (5 + num_classes) * len(mask)
    if source.channels != needed:
        raise section.error(
            f"{num_classes} classes and {len(mask)} masks need (5 + {num_classes}) * {len(mask)} = {needed} channels, "
            f"but the layer before has {source.channels}: set its filters to {needed}"
        )
    head = YoloHead(
        section.layer, num_classes, mask, anchors, source.stride, section.real("ignore_thresh", 0.5),
        section.real("truth_thresh", 1.0), section.real("scale_x_y", 1.0),
    )
    return Yolo(head), source


BUILDERS = {
    "convolutional": _convolutional,
    "dropout": _dropout,
    "maxpool": _maxpool,
    "route": _route,
    "shortcut": _shortcut,
    "upsample": _upsample,
    "yolo": _yolo,
}


def _activation(section: Section, default: str) -> nn.Module:
    name = section.text("activation", default)
    if name not in ACTIVATIONS:
        raise section.error(f"unknown activation {name!r} (known: {', '.join(ACTIVATIONS)})", "activation")
    return ACTIVATIONS[name]()


def _stride(section: Section) -> int:
    stride = section.integer("stride", 1)
    stride_x, stride_y = section.integer("stride_x", stride), section.integer("stride_y", stride)
    if stride_x != stride_y:
        raise section.error(f"stride_x {stride_x} and stride_y {stride_y} must be equal", "stride_x")
    return stride_x


def _slide(section: Section, source: Map, channels: int, size: int, stride: int, padding: int) -> Map:
    """The output of a window that moves over a map; padding: total of both sides."""
    height, width = ((length + padding - size) // stride + 1 for length in (source.height, source.width))
    if height < 1 or width < 1:
        raise section.error(f"a window of size {size} is larger than the map of {source.width} x {source.height} cells", "size")
    return Map(channels, height, width, source.stride * stride)


def _check_sizes(section: Section, inputs: list[Map]) -> None:
    sizes = {f"{source.width} x {source.height}" for source in inputs}
    if len(sizes) > 1:
        raise section.error(
            f"its sources differ in size ({', '.join(sorted(sizes))} cells): wrong layer numbers, or width and height of "
            f"[net] are no multiples of the largest stride"
        )


def _anchors(section: Section) -> tuple[tuple[float, float], ...]:
    numbers = section.reals("anchors")
    count = section.integer("num", (len(numbers) + 1) // 2)
    if len(numbers) != 2 * count:
        raise section.error(f"anchors holds {len(numbers)} numbers, but num={count} anchors need {2 * count}", "anchors")
    if min(numbers) <= 0:
        raise section.error("anchors must be widths and heights above 0", "anchors")
    return tuple(zip(numbers[::2], numbers[1::2]))


def _mask(section: Section, anchors: Sequence) -> tuple[int, ...]:
    mask = tuple(section.integers("mask", range(len(anchors))))
    if not all(0 <= number < len(anchors) for number in mask) or len(set(mask)) < len(mask):
        raise section.error(f"mask must name different anchors by their numbers 0 to {len(anchors) - 1}", "mask")
    return mask


def _sources(section: Section) -> tuple[int, ...]:
    """The numbers of the layers whose outputs this layer takes; -1 is the image, which only layer 0 takes."""
    before = section.layer - 1
    if section.kind == "route":
        return _layer_numbers(section, "layers")
    return (before, *_layer_numbers(section, "from")) if section.kind == "shortcut" else (before,)


def _layer_numbers(section: Section, key: str) -> tuple[int, ...]:
    """Negative numbers count back from this layer, all others are the layers' own: 0 is the first layer, not the image."""
    numbers = section.integers(key)
    layers = tuple(number if number >= 0 else section.layer + number for number in numbers)
    for number, layer in zip(numbers, layers):
        if not 0 <= layer < section.layer:
            raise section.error(f"{key} {number} names layer {layer}, but this is layer {section.layer}", key)
    return layers


def _refuse_unsupported(section: Section) -> None:
    if section.kind not in BUILDERS:
        raise section.error(f"unknown kind of layer (known: {', '.join(BUILDERS)})")
    for key, neutral in NEUTRAL.get(section.kind, {}).items():
        if section.text(key, neutral) != neutral:
            raise section.error(f"{key}={section.options[key].value} is not supported, only {neutral}", key)


class Darknet(nn.Module):
    """The network of a cfg: images [N, channels, H, W] -> the head [N, A * (5 + C), H / stride, W / stride] of each [yolo].

    cfg: its text. norm_eps, norm_momentum: of every BatchNorm; no file holds them. Darknet on a GPU uses 1e-5, OpenCV
    1e-6. Raises InputError, with the line of the cfg, for unknown layers, for values out of range and for layers that do
    not fit together.

    width, height, channels: of the network input, as [net] gives them; H and W may be other multiples of the largest
    stride. heads: a YoloHead per [yolo] layer, in the order of the outputs. notes: lines for the log on what has no effect,
    one per kind of section and one per key that stands twice in a section.
    """

    def __init__(self, cfg: str, *, norm_eps: float = 1e-5, norm_momentum: float = 0.1):
        super().__init__()
        net, *sections = parse_cfg(cfg)
        self.width, self.height, self.channels = net.integer("width"), net.integer("height"), net.integer("channels", 3)
        self.module_list = nn.ModuleList()
        self.sources: list[tuple[int, ...]] = []  # of each layer: the layers whose outputs it takes
        maps = {-1: Map(self.channels, self.height, self.width, 1)}
        for section in sections:
            _refuse_unsupported(section)
            sources = _sources(section)
            for source in sources:
                if source >= 0 and sections[source].kind == "yolo":
                    raise section.error(f"takes the output of layer {source}, but nothing may follow a [yolo] layer directly")
            layer, maps[section.layer] = BUILDERS[section.kind](section, [maps[source] for source in sources])
            self.module_list.append(layer)
            self.sources.append(sources)
        self.heads = tuple(layer.head for layer in self.module_list if isinstance(layer, Yolo))
        if not self.heads:
            raise InputError("this cfg has no [yolo] section, so it is no detector")
        self.notes = _notes([net, *sections])
        self._done_with = _last_uses(self.sources)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = norm_eps, norm_momentum

    def forward(self, images: Tensor) -> list[Tensor]:
        heads = []
        outputs = {-1: images}  # of the layers that a later one needs
        for number, (layer, sources) in enumerate(zip(self.module_list, self.sources)):
            outputs[number] = layer(*(outputs[source] for source in sources))
            if isinstance(layer, Yolo):
                heads.append(outputs[number])
            for finished in self._done_with[number]:
                del outputs[finished]
        return heads


def _last_uses(sources: Sequence[Sequence[int]]) -> list[list[int]]:
    """Of each layer: the layers whose outputs nobody needs once it has run, itself included if nobody takes its output."""
    last = {layer: layer for layer in range(len(sources))}
    last |= {source: user for user, used in enumerate(sources) for source in used}
    return [[layer for layer, user in last.items() if user == number] for number in range(len(sources))]


def _notes(sections: Sequence[Section]) -> list[str]:
    unread: dict[str, dict[str, None]] = {}  # kind of section -> keys, as an ordered set
    for section in sections:
        unread.setdefault(section.kind, {}).update(dict.fromkeys(section.unread))
    return [
        *(f"cfg [{kind}]: keys without effect here: {', '.join(keys)}" for kind, keys in unread.items() if keys),
        *(f"cfg line {line}, [{section.kind}]: this key stands there a second time, only the first counts"
          for section in sections for line in section.repeated),
    ]


# weights bytes <-> state
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
