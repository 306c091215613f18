"""Darknet's networks: the sections of a cfg become layers, the layers a network.

Shapes: N images, C classes (no background), A anchors of one head, H, W height and width of a map
Words:  layer = a section of the cfg other than [net], numbered from 0
        head = the raw map that a [yolo] layer gets, [N, A * (5 + C), H, W], channel a * (5 + C) + {x, y, w, h, obj, classes}
        mask = the numbers of those anchors in the cfg's list that a head uses
        base = the first layers, which do not depend on what is detected: trained last, or not at all, in two-stage training
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from network_files.darknet_cfg import Section, anchors_of, mask_of, parse_cfg
from network_files.errors import InputError


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
    anchors = anchors_of(section)
    mask, num_classes = mask_of(section, anchors), section.integer("classes", 20)
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


def head_convolutions(network: Darknet) -> list[int]:
    """The number of the convolution before each [yolo] layer, whose filters follow the class count.

    Raises InputError if some [yolo] layer follows another kind of layer.
    """
    numbers = [head.layer - 1 for head in network.heads]
    for number in numbers:
        if number < 0 or not isinstance(network.module_list[number], Convolutional):
            raise InputError(f"layer {number + 1} of this cfg is a [yolo] layer that follows no convolution")
    return numbers


def base_layers(network: Darknet) -> int:
    """How many of the first layers are the base: 75 of yolov3 and yolov3-spp, 15 of yolov3-tiny.

    All up to the last shortcut before the first head's convolution; without shortcuts all before that convolution.
    """
    first_head = min(head_convolutions(network))
    shortcuts = [number for number in range(first_head) if isinstance(network.module_list[number], Shortcut)]
    return shortcuts[-1] + 1 if shortcuts else first_head


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
