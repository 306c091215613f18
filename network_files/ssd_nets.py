"""SSD by the name of a net: one row of `NETS` holds all that is particular to it.

To add a net, write its base in ssd_bases.py and a row here; `small-ssd` shows what a row needs at least.

Shapes: L levels (source maps), C classes with background
Words:  resolution = side of the square network input in pixels; table = one published choice of default box sizes;
        stage = a run of layers of the base that is frozen as a whole
"""

import copy
import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation

from network_files import ssd_bases
from network_files.default_boxes import DefaultBoxSpec
from network_files.errors import InputError
from network_files.resize import IMAGENET_MEAN, IMAGENET_STD
from network_files.ssd import SSD, SSDLayers
from network_files.ssd_bases import LITE_NORM, Base, InvertedResidual, L2Norm, SEBlock, conv_bn_relu, normal, xavier

MIN_RESOLUTION, MAX_RESOLUTION = 32, 2048


class Extra(NamedTuple):
    """A block behind the base: 1x1 convolution to `hidden` channels, then one with this kernel to `out` channels."""

    hidden: int
    out: int
    stride: int = 2
    padding: int = 1
    kernel: int = 3


# Blocks of the extras: (channels of the map before, Extra) -> module.
def _relu_extra(in_channels: int, extra: Extra) -> nn.Module:
    conv = nn.Conv2d(extra.hidden, extra.out, extra.kernel, extra.stride, extra.padding)
    narrow = nn.Conv2d(in_channels, extra.hidden, 1)
    return xavier(nn.Sequential(narrow, nn.ReLU(inplace=True), conv, nn.ReLU(inplace=True)))


def _separable_extra(in_channels: int, extra: Extra) -> nn.Module:
    narrow = nn.Conv2d(in_channels, extra.hidden, 1)
    separable = _separable(extra.hidden, extra.out, extra.stride, extra.padding)
    return xavier(nn.Sequential(narrow, nn.ReLU(inplace=True), separable))  # no ReLU at the end, as published


def _inverted_residual_extra(in_channels: int, extra: Extra) -> nn.Module:
    return xavier(InvertedResidual(in_channels, extra.hidden, extra.out, extra.stride))


def _mobilenet_v3_extra(in_channels: int, extra: Extra) -> nn.Module:
    return xavier(SEBlock(in_channels, extra.hidden, extra.out, extra.stride))


def _batch_norm_extra(in_channels: int, extra: Extra) -> nn.Module:
    narrow = nn.Conv2d(in_channels, extra.hidden, 1, bias=False), nn.BatchNorm2d(extra.hidden), nn.ReLU(inplace=True)
    conv = nn.Conv2d(extra.hidden, extra.out, extra.kernel, extra.stride, extra.padding, bias=False)
    return xavier(nn.Sequential(*narrow, conv, nn.BatchNorm2d(extra.out), nn.ReLU(inplace=True)))


def _lite_extra(in_channels: int, extra: Extra) -> nn.Module:
    layer = partial(Conv2dNormActivation, norm_layer=LITE_NORM, activation_layer=nn.ReLU6)
    depthwise = layer(extra.hidden, extra.hidden, 3, extra.stride, groups=extra.hidden)
    return normal(nn.Sequential(layer(in_channels, extra.hidden, 1), depthwise, layer(extra.hidden, extra.out, 1)))


def _small_extra(in_channels: int, extra: Extra) -> nn.Module:
    return nn.Sequential(conv_bn_relu(in_channels, extra.hidden, 1), conv_bn_relu(extra.hidden, extra.out, 3, extra.stride))


# Heads: (channels of the source, outputs per cell) -> module.
def _conv_head(in_channels: int, outputs: int) -> nn.Module:
    return xavier(nn.Conv2d(in_channels, outputs, 3, padding=1))


def _pointwise_head(in_channels: int, outputs: int) -> nn.Module:
    return xavier(nn.Conv2d(in_channels, outputs, 1))


def _separable_head(in_channels: int, outputs: int) -> nn.Module:
    return xavier(_separable(in_channels, outputs))


def _batch_norm_head(in_channels: int, outputs: int) -> nn.Module:
    depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels)
    pointwise = nn.Conv2d(in_channels, outputs, 1)
    return xavier(nn.Sequential(depthwise, nn.BatchNorm2d(in_channels), nn.ReLU6(inplace=True), pointwise))


def _lite_head(in_channels: int, outputs: int) -> nn.Module:
    depthwise = Conv2dNormActivation(
        in_channels, in_channels, 3, groups=in_channels, norm_layer=LITE_NORM, activation_layer=nn.ReLU6
    )
    return normal(nn.Sequential(depthwise, nn.Conv2d(in_channels, outputs, 1)))


def _separable(in_channels: int, out_channels: int, stride: int = 1, padding: int = 1) -> nn.Sequential:
    depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, padding, groups=in_channels)
    return nn.Sequential(depthwise, nn.ReLU(inplace=True), nn.Conv2d(in_channels, out_channels, 1))


# Add-ons of the sources.
def _vgg_add_ons(vgg_norm: str = "bn") -> nn.ModuleList:
    """vgg_norm: what tames conv4_3: "bn" as in today's pytorch-ssd files, "l2" as in the paper and in early files."""
    if vgg_norm not in ("bn", "l2"):
        raise InputError(f"vgg_norm must be bn or l2, not {vgg_norm!r}")
    return nn.ModuleList([nn.BatchNorm2d(512) if vgg_norm == "bn" else L2Norm(512)])


# Default boxes at another resolution than the published one: (spec, resolution, grid sides) -> spec.
def _scaled_boxes(spec: DefaultBoxSpec, resolution: int, grids: list[int]) -> DefaultBoxSpec:
    """Sizes grow with the resolution; steps are those of the grid, if there are any."""
    factor = resolution / spec.resolution
    sizes = tuple((smallest * factor, largest * factor) for smallest, largest in spec.sizes)
    steps = None if spec.steps is None else _grid_steps(resolution, grids)
    return replace(spec, resolution=resolution, sizes=sizes, steps=steps)


def _jetson_boxes(spec: DefaultBoxSpec, resolution: int, grids: list[int]) -> DefaultBoxSpec:
    """Jetson's formula for the MobileNets. Its boxes at 300 would not be the published ones, so 300 keeps the table."""
    ratios = (0.10, 0.20, 0.37, 0.54, 0.71, 0.88, 1.05)
    sizes = tuple((resolution * smallest, resolution * largest) for smallest, largest in zip(ratios, ratios[1:]))
    return replace(spec, resolution=resolution, sizes=sizes, steps=_grid_steps(resolution, grids))


def _grid_steps(resolution: int, grids: list[int]) -> tuple[int, ...]:
    return tuple(math.ceil(resolution / cells) for cells in grids)


# Tables of default boxes; sizes: L + 1 sides in pixels, each level goes from one to the next.
def _table(resolution: int, sizes: tuple, ratios: tuple, steps: tuple | None, clip: str = "all") -> DefaultBoxSpec:
    return DefaultBoxSpec(resolution, tuple(zip(sizes, sizes[1:])), ratios, steps, clip)


_TWO, _TWO_THREE = (2.0,), (2.0, 3.0)
_VGG_RATIOS, _VGG_STEPS = (_TWO, *(_TWO_THREE,) * 3, _TWO, _TWO), (8, 16, 32, 64, 100, 300)
_VGG_TABLES = {
    "voc": _table(300, (30, 60, 111, 162, 213, 264, 315), _VGG_RATIOS, _VGG_STEPS),
    "coco": _table(300, (21, 45, 99, 153, 207, 261, 315), _VGG_RATIOS, _VGG_STEPS),
}
_TORCHVISION_TABLES = {"torchvision": replace(_VGG_TABLES["coco"], clip="sides"), **_VGG_TABLES}
_512_RATIOS, _512_STEPS = (_TWO, *(_TWO_THREE,) * 4, _TWO, _TWO), (8, 16, 32, 64, 128, 256, 512)
_512_TABLES = {
    "voc": _table(512, (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6), _512_RATIOS, _512_STEPS),
    "coco": _table(512, (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72), _512_RATIOS, _512_STEPS),
}
_SIX = (_TWO_THREE,) * 6
_MOBILENET_TABLES = {"jetson": _table(300, (60, 105, 150, 195, 240, 285, 330), _SIX, (16, 32, 64, 100, 150, 300))}
_LITE_TABLES = {"torchvision": _table(320, (64, 112, 160, 208, 256, 304, 320), _SIX, None, clip="sides")}
_SMALL_TABLES = {"small": _table(160, (16, 32, 56, 84, 120), (_TWO,) * 4, None)}


@dataclass(frozen=True)
class NetSpec:
    """What has to be known about a net. The thresholds, mean and std are SSD's keywords of these names."""

    base: Callable[..., Base]
    extra: Callable[[int, Extra], nn.Module]
    extras: tuple[Extra, ...]
    head: Callable[[int, int], nn.Module]
    tables: Mapping[str, DefaultBoxSpec]  # by name; the first is the default, all have the same levels
    stages: tuple[int, ...]  # index in base_net where each stage begins, and where the last one ends
    last_head: Callable[[int, int], nn.Module] | None = None  # of the coarsest map; None: as the others
    add_ons: Callable[..., nn.ModuleList] = nn.ModuleList
    boxes_at: Callable[[DefaultBoxSpec, int, list[int]], DefaultBoxSpec] = _scaled_boxes
    base_options: tuple[str, ...] = ()  # keywords of `base` that build_ssd passes on
    add_on_options: tuple[str, ...] = ()  # keywords of `add_ons` that build_ssd passes on
    classifier: str | None = None  # torchvision's network whose ImageNet weights fit the base; None: there is none
    image_mean: tuple[float, float, float] = (127 / 255,) * 3  # for RGB in 0..1
    image_std: tuple[float, float, float] = (128 / 255,) * 3
    antialias: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)  # those that differ from SSD's defaults

    @property
    def resolution(self) -> int:
        """The published side of the network input in pixels."""
        return next(iter(self.tables.values())).resolution

    @property
    def num_stages(self) -> int:
        """How many stages of the base can be frozen or trained."""
        return len(self.stages) - 1

    @property
    def num_levels(self) -> int:
        """How many source maps there are."""
        return len(next(iter(self.tables.values())).sizes)


_PYTORCH_SSD = {"candidates_per_class": 200}
_TWO_OF_128 = (Extra(128, 256), Extra(128, 256))
_VGG_EXTRAS = (Extra(256, 512), Extra(128, 256), Extra(128, 256, 1, 0), Extra(128, 256, 1, 0))
_512_EXTRAS = (Extra(256, 512), Extra(128, 256), *_TWO_OF_128, Extra(128, 256, 1, 1, kernel=4))
_MOBILENET_V1_EXTRAS = (Extra(256, 512), Extra(128, 256), *_TWO_OF_128)
_MOBILENET_V2_EXTRAS = (Extra(256, 512), Extra(128, 256), Extra(128, 256), Extra(64, 64))
_SQUEEZENET_EXTRAS = (Extra(256, 512, padding=2), Extra(256, 512), Extra(128, 256), *_TWO_OF_128)
_RESNET_EXTRAS = (Extra(256, 512), Extra(256, 512), Extra(128, 256), Extra(128, 256, 1, 0), Extra(128, 256, 1, 0))
_LITE_EXTRAS = (Extra(256, 512), Extra(128, 256), Extra(128, 256), Extra(64, 128))

_VGG16 = NetSpec(
    ssd_bases.vgg16_base, _relu_extra, _VGG_EXTRAS, _conv_head, _VGG_TABLES,
    stages=(0, 5, 10, 17, 24, 31),  # fc6 and fc7 always learn
    classifier="vgg16", image_mean=(123 / 255, 117 / 255, 104 / 255), image_std=(1 / 255,) * 3,
)
_MOBILENET_V1 = NetSpec(
    ssd_bases.mobilenet_v1_base, _relu_extra, _MOBILENET_V1_EXTRAS, _conv_head, _MOBILENET_TABLES,
    stages=(0, 2, 4, 6, 12, 14), boxes_at=_jetson_boxes, thresholds=_PYTORCH_SSD,
)
_MOBILENET_V3 = NetSpec(
    ssd_bases.mobilenet_v3_large_base, _mobilenet_v3_extra, _MOBILENET_V2_EXTRAS, _batch_norm_head, _MOBILENET_TABLES,
    stages=(0, 4, 6, 9, 16, 18, 21), last_head=_pointwise_head, boxes_at=_jetson_boxes, thresholds=_PYTORCH_SSD,
)
_TORCHVISION_MEAN = (0.48235, 0.45882, 0.40784)

NETS: dict[str, NetSpec] = {
    "small-ssd": NetSpec(
        ssd_bases.small_base, _small_extra, (Extra(64, 128), Extra(64, 128)), _conv_head, _SMALL_TABLES,
        stages=(0, 1, 3, 6, 9), antialias=True,
    ),
    "mb1-ssd": _MOBILENET_V1,
    "mb1-ssd-lite": replace(_MOBILENET_V1, extra=_separable_extra, head=_separable_head, last_head=_pointwise_head),
    "mb2-ssd-lite": NetSpec(
        ssd_bases.mobilenet_v2_base, _inverted_residual_extra, _MOBILENET_V2_EXTRAS, _batch_norm_head, _MOBILENET_TABLES,
        stages=(0, 2, 4, 7, 14, 18, 19), last_head=_pointwise_head, boxes_at=_jetson_boxes,
        base_options=("mb2_width_mult",), classifier="mobilenet_v2", thresholds=_PYTORCH_SSD,
    ),
    "mb3-large-ssd-lite": _MOBILENET_V3,
    "mb3-small-ssd-lite": replace(
        _MOBILENET_V3, base=ssd_bases.mobilenet_v3_small_base, stages=(0, 3, 4, 6, 11, 14, 17)
    ),
    "sq-ssd-lite": NetSpec(
        ssd_bases.squeezenet_base, _separable_extra, _SQUEEZENET_EXTRAS, _separable_head, _MOBILENET_TABLES,
        stages=(0, 3, 6, 9, 13), last_head=_pointwise_head, classifier="squeezenet1_1", thresholds=_PYTORCH_SSD,
    ),
    "vgg16-ssd": replace(_VGG16, add_ons=_vgg_add_ons, add_on_options=("vgg_norm",), thresholds=_PYTORCH_SSD),
    "ssd300-vgg16": replace(
        _VGG16, add_ons=partial(_vgg_add_ons, "l2"), tables=_TORCHVISION_TABLES, image_mean=_TORCHVISION_MEAN
    ),
    "ssd512-vgg16": replace(
        _VGG16, add_ons=partial(_vgg_add_ons, "l2"), tables=_512_TABLES, image_mean=_TORCHVISION_MEAN,
        extras=_512_EXTRAS,
    ),
    "ssdlite320-mobilenet-v3-large": NetSpec(
        ssd_bases.mobilenet_v3_large_tv_base, _lite_extra, _LITE_EXTRAS, _lite_head, _LITE_TABLES,
        stages=(0, 2, 4, 7, 13, 16, 17), base_options=("reduced_tail",), classifier="mobilenet_v3_large",
        image_mean=(0.5,) * 3, image_std=(0.5,) * 3,
        thresholds={"score_thresh": 0.001, "nms_thresh": 0.55, "candidates_per_class": 300, "detections_per_img": 300},
    ),
    "ssd300-resnet50": NetSpec(
        ssd_bases.resnet50_base, _batch_norm_extra, _RESNET_EXTRAS, _conv_head, {"coco": _VGG_TABLES["coco"]},
        stages=(0, 4, 5, 6, 7), classifier="resnet50",
        image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD, antialias=True,
        thresholds={"score_thresh": 0.05, "nms_thresh": 0.5, "detections_per_img": 100},
    ),
}


_LAYER_OPTIONS = sorted({name for spec in NETS.values() for name in (*spec.base_options, *spec.add_on_options)})


def net_spec(net: str) -> NetSpec:
    """The row of a net. Raises InputError, with all names, for one that is not in the table."""
    if net not in NETS:
        nearest = difflib.get_close_matches(str(net), NETS, n=1)
        hint = f", did you mean {nearest[0]}?" if nearest else ""
        raise InputError(f"unknown net {net!r}{hint} (choose from {', '.join(NETS)})")
    return NETS[net]


def default_box_spec(net: str, resolution: int | None = None, table: str = "") -> DefaultBoxSpec:
    """The default boxes of a net; at its published resolution exactly the published ones.

    resolution: of the network input in pixels; None takes the published one. table: "" takes the net's own, "voc" or
    "coco" the other one of the vgg nets. Raises InputError for a resolution or table that the net does not have.
    """
    spec = net_spec(net)
    if table and table not in spec.tables:
        raise InputError(f"{net} has no default boxes {table!r} (choose from {', '.join(spec.tables)})")
    published = spec.tables[table or next(iter(spec.tables))]
    if resolution in (None, published.resolution):
        return published
    return spec.boxes_at(published, resolution, grid_sides(net, resolution))


def rescaled_boxes(net: str, default_boxes: Mapping, resolution: int) -> DefaultBoxSpec:
    """The default boxes of a checkpoint at another resolution: those of the same table, or scaled if they are of none."""
    stored = DefaultBoxSpec.from_dict(default_boxes)
    for table in net_spec(net).tables:
        if stored == default_box_spec(net, stored.resolution, table):
            return default_box_spec(net, resolution, table)
    return _scaled_boxes(stored, resolution, grid_sides(net, resolution))


def build_ssd(
    net: str,
    num_classes: int,
    resolution: int | None = None,
    default_boxes: Mapping | None = None,
    mb2_width_mult: float = 1.0,
    **options: Any,
) -> SSD:
    """An SSD with random weights. Whatever is None or left out takes the value of the net's row.

    num_classes: background included. resolution: side of the network input in pixels. default_boxes: a
    DefaultBoxSpec as `to_dict` gives it, from a checkpoint; it brings its resolution. mb2_width_mult: factor on the
    widths of mb2-ssd-lite's base. options: vgg_norm ("bn" or "l2", vgg16-ssd only), reduced_tail (ssdlite320 only; False
    has room for ImageNet weights), and keywords of SSD (score_thresh, nms_thresh, ...).
    With the defaults the state-dict keys are those of pytorch-ssd for the nets that it has. Raises InputError for an
    unknown net, a resolution that it cannot take, an option that it does not have, default boxes of other levels.
    """
    spec = net_spec(net)
    boxes = _checked_boxes(net, resolution, default_boxes)
    if mb2_width_mult != 1.0:
        options["mb2_width_mult"] = mb2_width_mult
    layer_options = {name: options.pop(name) for name in _LAYER_OPTIONS if name in options}
    for name in layer_options:
        if name not in (*spec.base_options, *spec.add_on_options):
            owners = [key for key, row in NETS.items() if name in (*row.base_options, *row.add_on_options)]
            raise InputError(f"{net} has no option {name}: it belongs to {', '.join(owners)}")
    layers = _layers(spec, num_classes, boxes.boxes_per_cell, layer_options)
    return SSD(layers, boxes, num_classes, **{**net_settings(net), **options})


def net_settings(net: str) -> dict[str, Any]:
    """Every keyword of SSD with the value that it has for a net, in plain Python, to be stored in a checkpoint."""
    spec = net_spec(net)
    keywords = inspect.signature(SSD).parameters.values()
    settings = {word.name: word.default for word in keywords if word.kind is word.KEYWORD_ONLY}
    settings |= {name: getattr(spec, name) for name in ("image_mean", "image_std", "antialias")} | dict(spec.thresholds)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _checked_boxes(net: str, resolution: int | None, default_boxes: Mapping | None) -> DefaultBoxSpec:
    if default_boxes is None:
        return default_box_spec(net, resolution)
    boxes, levels = DefaultBoxSpec.from_dict(default_boxes), net_spec(net).num_levels
    if resolution not in (None, boxes.resolution):
        raise InputError(f"the default boxes are for a resolution of {boxes.resolution}, not {resolution}: give one of the two")
    if len(boxes.sizes) != levels:
        raise InputError(f"{net} has {levels} source maps, but the default boxes are given for {len(boxes.sizes)} levels")
    if boxes.resolution != net_spec(net).resolution:
        grid_sides(net, boxes.resolution)  # raises for one that the net cannot take
    return boxes


def _layers(spec: NetSpec, num_classes: int, boxes_per_cell: list[int], options: Mapping[str, Any]) -> SSDLayers:
    base = spec.base(**{name: options[name] for name in spec.base_options if name in options})
    add_ons = spec.add_ons(**{name: options[name] for name in spec.add_on_options if name in options})
    inputs = [base.out_channels, *(extra.out for extra in spec.extras)]
    extras = nn.ModuleList(spec.extra(channels, extra) for channels, extra in zip(inputs, spec.extras))
    sources = [*base.channels, *inputs[1:]]
    makers = [spec.head] * (len(sources) - 1) + [spec.last_head or spec.head]
    classification, regression = (
        nn.ModuleList(make(source, count * size) for make, source, count in zip(makers, sources, boxes_per_cell))
        for size in (num_classes, 4)
    )
    return SSDLayers(base.layers, base.taps, extras, classification, regression, add_ons)


def grid_sides(net: str, resolution: int) -> list[int]:
    """Cells along a side of every source map at a resolution, from fine to coarse; found by a run without numbers.

    Raises InputError, with the range that works, where a map would vanish or the input be above 2048 pixels.
    """
    sides = _grid_sides(net, resolution) if resolution <= MAX_RESOLUTION else None
    if sides is None:
        low, high = MIN_RESOLUTION - 1, MAX_RESOLUTION  # low does not work, high does; maps only grow with the resolution
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _grid_sides(net, middle) else (middle, high)
        raise InputError(f"{net} takes resolutions from {high} to {MAX_RESOLUTION} pixels, not {resolution}")
    return list(sides)


def takes_resolution(net: str, resolution: int) -> bool:
    """Whether a net can run at a resolution (see `grid_sides`)."""
    return resolution <= MAX_RESOLUTION and _grid_sides(net, resolution) is not None


@lru_cache(maxsize=256)
def _grid_sides(net: str, resolution: int) -> tuple[int, ...] | None:
    """None where the net cannot run."""
    if resolution < MIN_RESOLUTION:
        return None
    try:
        with torch.no_grad():
            sources = _shapes_only(net).sources(torch.empty(1, 3, resolution, resolution, device="meta"))
    except RuntimeError:  # a kernel is larger than its map
        return None
    return tuple(source.shape[-1] for source in sources)


@cache
def _shapes_only(net: str) -> SSD:
    with torch.device("meta"):
        return build_ssd(net, num_classes=2).eval()


def min_train_batch(model: SSD) -> int:
    """The fewest images that the model can be trained on at once: 2 where a BatchNorm sees maps of one cell, else 1.

    BatchNorm has no variance to take over a single number per channel. Frozen ones count as well.
    """
    shapes_only = copy.deepcopy(model).to("meta").eval()
    seen: list[torch.Size] = []
    for module in shapes_only.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2:]))
    dtype = next(shapes_only.parameters()).dtype
    with torch.no_grad():
        shapes_only.forward_heads(torch.empty(1, 3, model.resolution, model.resolution, dtype=dtype, device="meta"))
    return 2 if (1, 1) in seen else 1


def set_trainable_layers(model: SSD, net: str, layers: int) -> None:
    """Lets the last stages of the base learn and freezes those before; what is not of a stage keeps learning.

    layers: how many, 0..`net_spec(net).num_stages`, else InputError. Sets `requires_grad` of base_net only: BatchNorm
    statistics of frozen stages move on in training mode unless they are put into eval mode too.
    """
    spec = net_spec(net)
    if not 0 <= layers <= spec.num_stages:
        raise InputError(f"{net} has {spec.num_stages} stages, so 0 to {spec.num_stages} of them can be trainable, not {layers}")
    first_trainable = spec.stages[spec.num_stages - layers]
    for index, layer in enumerate(model.base_net):
        layer.requires_grad_(index >= first_trainable)
