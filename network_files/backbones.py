"""The backbones Faster R-CNN can be built on: one row of `BACKBONES` each.

A backbone is a module with `out_channels` that returns a tensor [N, C, H, W] or {level name: tensor}. To add one, write
a function that builds it from a torchvision network (`create_feature_extractor` taps any of them), and a row that says
how to freeze it and which anchors suit it:

    def _regnet_fpn(fpn_channels):
        net = torchvision.models.regnet_y_400mf()
        nodes = {"trunk_output.block2": "0", "trunk_output.block3": "1", "trunk_output.block4": "2"}
        return BackboneWithFPN(create_feature_extractor(net, nodes), None, [104, 208, 440], fpn_channels)

    BACKBONES["regnet_fpn"] = BackboneSpec(
        _regnet_fpn, "regnet_y_400mf", ("", "body."),
        stages=_stages("body.", "stem", *(f"trunk_output.block{i}" for i in (1, 2, 3, 4))),
        anchor_sizes=((64,), (128,), (256,), (512,)), featmap_names=("0", "1", "2"))

Words: stage = a run of layers that is frozen as a whole; body = the part that exists in the ImageNet classifier
"""

import difflib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torchvision
from torch import Tensor, nn

from network_files.errors import InputError
from network_files.fpn import BackboneWithFPN, LayerTaps
from network_files.frozen_batch_norm import FrozenBatchNorm2d

NORMS = ("bn", "frozen_bn")


@dataclass(frozen=True)
class BackboneSpec:
    """What has to be known about a backbone beside the module itself. Sizes in pixels of the resized image."""

    build: Callable[[int], nn.Module]  # channels of the pyramid (unused without one) -> the module, BatchNorm2d inside
    classifier: str | None  # torchvision's classification network of which the body is a part; None: no weights exist
    renaming: tuple[str, str]  # key prefix in the classifier -> key prefix here
    stages: tuple[tuple[str, ...], ...]  # from the image on: key prefixes of each stage
    anchor_sizes: tuple[tuple[int, ...], ...]  # per level, the pool level included
    featmap_names: tuple[str, ...]  # levels that RoIs are pooled from: never "pool"
    trainable_stages: int = 3  # how many stages learn, counted from the last, when the weights are pretrained
    pretrained_norm: str = "frozen_bn"  # norm that suits pretrained weights and small batches
    norm_eps: float = 1e-5
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width, the same on every level
    rpn_conv_depth: int = 1
    box_head: str = "two_mlp"  # or "conv_fc": four convolutions before the linear layer
    box_head_size: int = 1024
    min_size: int = 800
    max_size: int = 1333
    rpn_score_thresh: float = 0.0
    rpn_top_n_test: int = 1000  # proposals kept per image at test time, before and after NMS


def _stages(prefix: str, *stages) -> tuple[tuple[str, ...], ...]:
    """_stages("body.", ("conv1", "bn1"), 2) -> (("body.conv1.", "body.bn1."), ("body.2.",))"""
    names = [stage if isinstance(stage, tuple) else (stage,) for stage in stages]
    return tuple(tuple(f"{prefix}{name}." for name in stage) for stage in names)


# One builder per way of cutting a network.
def _resnet_fpn(name: str, channels: tuple[int, ...], fpn_channels: int, norm_layer=None) -> nn.Module:
    layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
    return BackboneWithFPN(torchvision.models.get_model(name), layers, channels, fpn_channels, norm_layer=norm_layer)


def _mobilenet_v3_fpn(fpn_channels: int) -> nn.Module:
    # norm_layer: torchvision's detector does not use the eps 1e-3 and momentum 0.01 of its classifier
    features = torchvision.models.mobilenet_v3_large(norm_layer=nn.BatchNorm2d).features
    return BackboneWithFPN(features, {"13": "0", "16": "1"}, (160, 960), fpn_channels)


def _features_fpn(name: str, layers: tuple[str, ...], channels: tuple[int, ...], fpn_channels: int) -> nn.Module:
    """A pyramid on some of `network.features`; keys `body.features.*`."""
    taps = LayerTaps(torchvision.models.get_model(name).features, {layer: str(i) for i, layer in enumerate(layers)})
    return BackboneWithFPN(nn.Sequential(OrderedDict(features=taps)), None, channels, fpn_channels)


def _features(name: str, num_layers: int, out_channels: int, fpn_channels: int, nested: bool = False) -> nn.Module:
    """The first layers of `network.features`, one map; keys `{i}.*`, or `features.{i}.*` if nested."""
    backbone = torchvision.models.get_model(name).features[:num_layers]
    if nested:
        backbone = nn.Sequential(OrderedDict(features=backbone))
    backbone.out_channels = out_channels
    return backbone


def _resnet_c4(name: str, out_channels: int, fpn_channels: int) -> nn.Module:
    backbone = LayerTaps(torchvision.models.get_model(name), {"layer3": "0"})
    backbone.out_channels = out_channels
    return backbone


def _small_cnn(fpn_channels: int) -> nn.Module:
    """Seven 3x3 convolutions, stride 8, 128 channels, 0.43 million parameters; learns from scratch on a CPU.

    GroupNorm does not mind batches of two; the growing dilation lets a cell see 123 pixels, enough for large boxes.
    """
    layers, channels = [], 3
    widths, strides, dilations = (32, 32, 64, 64, 128, 128, 128), (2, 1, 2, 1, 2, 1, 1), (1, 1, 1, 1, 1, 2, 4)
    for width, stride, dilation in zip(widths, strides, dilations):
        conv = nn.Conv2d(channels, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers.append(nn.Sequential(conv, nn.GroupNorm(8, width), nn.ReLU(inplace=True)))
        channels = width
    backbone = nn.Sequential(*layers)
    backbone.out_channels = channels
    return backbone



_ONE_SIZE_PER_LEVEL = ((32,), (64,), (128,), (256,), (512,))
_ALL_SIZES = (32, 64, 128, 256, 512)
_RESNET_STAGES = (("conv1", "bn1"), "layer1", "layer2", "layer3", "layer4")
_MOBILENET_V3_STAGES = ((0, 1), (2, 3), (4, 5, 6), (7, 8, 9, 10, 11, 12), (13, 14, 15), 16)


def _resnet_fpn_spec(name: str, channels: tuple[int, ...], norm_layer=None, **differences) -> BackboneSpec:
    return BackboneSpec(
        partial(_resnet_fpn, name, channels, norm_layer=norm_layer), name, ("", "body."),
        stages=_stages("body.", *_RESNET_STAGES), anchor_sizes=_ONE_SIZE_PER_LEVEL, featmap_names=("0", "1", "2", "3"),
        **differences,
    )


def _mobilenet_v3_fpn_spec(**differences) -> BackboneSpec:
    # both levels have stride 32, so each gets every size
    return BackboneSpec(
        _mobilenet_v3_fpn, "mobilenet_v3_large", ("features.", "body."),
        stages=_stages("body.", *_MOBILENET_V3_STAGES), anchor_sizes=(_ALL_SIZES,) * 3, featmap_names=("0", "1"),
        rpn_score_thresh=0.05, **differences,
    )


def _features_fpn_spec(name, layers, channels, stages, **differences) -> BackboneSpec:
    return BackboneSpec(
        partial(_features_fpn, name, layers, channels), name, ("", "body."), stages=_stages("body.features.", *stages),
        anchor_sizes=((64,), (128,), (256,), (512,)), featmap_names=("0", "1", "2"), **differences,
    )


def _features_spec(name, num_layers, out_channels, stages, nested=False, **differences) -> BackboneSpec:
    return BackboneSpec(
        partial(_features, name, num_layers, out_channels, nested=nested), name,
        renaming=("", "") if nested else ("features.", ""), stages=_stages("features." if nested else "", *stages),
        anchor_sizes=(_ALL_SIZES,), featmap_names=("0",), **differences,
    )


BACKBONES: dict[str, BackboneSpec] = {
    "resnet18_fpn": _resnet_fpn_spec("resnet18", (64, 128, 256, 512)),
    "resnet34_fpn": _resnet_fpn_spec("resnet34", (64, 128, 256, 512)),
    "resnet50_fpn": _resnet_fpn_spec("resnet50", (256, 512, 1024, 2048)),
    "resnet101_fpn": _resnet_fpn_spec("resnet101", (256, 512, 1024, 2048)),
    "resnet50_fpn_v2": _resnet_fpn_spec(
        "resnet50", (256, 512, 1024, 2048), nn.BatchNorm2d, pretrained_norm="bn", rpn_conv_depth=2, box_head="conv_fc"
    ),
    "mobilenet_v3_large_fpn": _mobilenet_v3_fpn_spec(),
    "mobilenet_v3_large_320_fpn": _mobilenet_v3_fpn_spec(min_size=320, max_size=640, rpn_top_n_test=150),
    # strides 8, 16, 32; eps 1e-3 is what the classifier was trained with
    "mobilenet_v3_large_fpn_3maps": _features_fpn_spec(
        "mobilenet_v3_large", ("6", "12", "16"), (40, 112, 960), _MOBILENET_V3_STAGES, norm_eps=1e-3
    ),
    "efficientnet_b0_fpn": _features_fpn_spec(
        "efficientnet_b0", ("3", "4", "8"), (40, 80, 1280), ((0, 1), 2, 3, (4, 5), (6, 7), 8)
    ),
    "mobilenet_v2": _features_spec(
        "mobilenet_v2", 19, 1280, ((0, 1), (2, 3), (4, 5, 6), (7, 8, 9, 10, 11, 12, 13), (14, 15, 16, 17), 18)
    ),
    "vgg16": _features_spec("vgg16", 30, 512, ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))),
    "vgg16_bn": _features_spec(
        "vgg16_bn", 43, 512,
        ((0, 1, 3, 4), (7, 8, 10, 11), (14, 15, 17, 18, 20, 21), (24, 25, 27, 28, 30, 31), (34, 35, 37, 38, 40, 41)),
        nested=True,
    ),
    "resnet50_c4": BackboneSpec(
        partial(_resnet_c4, "resnet50", 1024), "resnet50", ("", ""), stages=_stages("", *_RESNET_STAGES[:4]),
        anchor_sizes=(_ALL_SIZES,), featmap_names=("0",), trainable_stages=2,
    ),
    "efficientnet_b0": _features_spec("efficientnet_b0", 6, 112, ((0, 1), 2, 3, 4, 5), nested=True),
    "squeezenet1_1": _features_spec("squeezenet1_1", 13, 512, (0, (3, 4), (6, 7), (9, 10, 11, 12))),
    "small_cnn": BackboneSpec(
        _small_cnn, None, ("", ""), stages=_stages("", (0, 1), (2, 3), (4, 5, 6)), anchor_sizes=((16, 32, 64, 128),),
        featmap_names=("0",), box_head_size=256, min_size=256, max_size=426,
    ),
}


def backbone_spec(name: str) -> BackboneSpec:
    """The row of a backbone. Raises InputError, with the nearest name, for one that is not in the table."""
    if name not in BACKBONES:
        nearest = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f", did you mean {nearest[0]}?" if nearest else ""
        raise InputError(f"unknown backbone {name!r}{hint} (choose from {', '.join(BACKBONES)})")
    return BACKBONES[name]


def build_backbone(name: str, norm: str = "bn", norm_eps: float | None = None, fpn_channels: int = 256) -> nn.Module:
    """A backbone with random weights, every parameter trainable.

    norm: "bn" (trainable BatchNorm2d) or "frozen_bn", in the body; networks without BatchNorm have no use for it.
    norm_eps: of the body's norms; None takes the row's. fpn_channels: `out_channels` where there is a pyramid.
    """
    spec = backbone_spec(name)
    if norm not in NORMS:
        raise InputError(f"unknown norm {norm!r} (choose from {', '.join(NORMS)})")
    backbone = spec.build(fpn_channels)
    body = backbone.body if isinstance(backbone, BackboneWithFPN) else backbone
    _set_norm(body, norm, spec.norm_eps if norm_eps is None else norm_eps)
    return backbone


def _set_norm(module: nn.Module, norm: str, eps: float) -> None:
    """Gives every BatchNorm2d below the module this eps, and replaces it by a frozen one if asked to."""
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            _set_norm(child, norm, eps)
        elif norm == "frozen_bn":
            setattr(module, name, FrozenBatchNorm2d.from_batch_norm(child, eps))
        else:
            child.eps = eps


def set_trainable_layers(backbone: nn.Module, name: str, n: int) -> None:
    """Lets the last n stages of the body learn and freezes those before; the pyramid always learns.

    n: 0..number of stages of `backbone_spec(name)`, else InputError. Sets `requires_grad` only: BatchNorm statistics of
    frozen stages move on in training mode unless the norm is frozen too.
    """
    stages = backbone_spec(name).stages
    if not 0 <= n <= len(stages):
        raise InputError(f"{name} has {len(stages)} stages, so 0 to {len(stages)} of them can be trainable, not {n}")
    frozen = tuple(prefix for stage in stages[: len(stages) - n] for prefix in stage)
    for key, parameter in backbone.named_parameters():
        parameter.requires_grad_(not key.startswith(frozen))


def imagenet_weights(name: str, weights_name: str) -> torchvision.models.WeightsEnum:
    """The torchvision weights entry (its url, checksum and metadata; nothing is downloaded) for a backbone.

    weights_name: "IMAGENET1K_V1", "DEFAULT" or with the class before it, "ResNet50_Weights.IMAGENET1K_V2". Raises
    InputError for a name torchvision does not have for this network.
    """
    classifier = backbone_spec(name).classifier
    if classifier is None:
        raise InputError(f"there are no ImageNet weights for {name}: it is trained from scratch")
    weights = torchvision.models.get_model_weights(classifier)
    # other entries (VGG16's IMAGENET1K_FEATURES) expect images normalised in another way
    usable = {key: weight for key, weight in weights.__members__.items() if key.startswith(("IMAGENET1K_V", "DEFAULT"))}
    enum_name, _, member = weights_name.rpartition(".")
    if enum_name not in ("", weights.__name__) or member not in usable:
        choices = ", ".join(usable)
        raise InputError(f"{name} has no weights {weights_name!r} (choose from {choices}, of {weights.__name__})")
    return usable[member]


def load_imagenet(backbone: nn.Module, name: str, state: Mapping) -> None:
    """Copies the weights of torchvision's classification network into the body of a backbone; a pyramid stays as it is.

    state: the classifier's state_dict, also with `module.` before the keys or inside {"model": ...}; the classifier's
    own head and layers beyond the body are left out. Raises InputError unless the file is of exactly that network.
    """
    spec = backbone_spec(name)
    if spec.classifier is None:
        raise InputError(f"there are no ImageNet weights for {name}: it is trained from scratch")
    state = state["model"] if isinstance(state.get("model"), Mapping) else state
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    wanted = {key: value for key, value in backbone.state_dict().items() if not key.startswith("fpn.")}

    source, target = spec.renaming
    renamed = {target + key.removeprefix(source): value for key, value in state.items() if key.startswith(source)}
    counters = "num_batches_tracked"  # absent from old files, and from frozen norms
    missing = [key for key in wanted if key not in renamed and not key.endswith(counters)]
    misshapen = [key for key in wanted if key in renamed and renamed[key].shape != wanted[key].shape]
    body = tuple(prefix for stage in spec.stages for prefix in stage)
    # a deeper network of the same kind has all the keys, and more of them within the stages
    unexpected = [k for k in renamed if k.startswith(body) and k not in wanted and not k.endswith(counters)]
    faults = {"missing": missing, "of another shape": misshapen, "unexpected": unexpected}
    if any(faults.values()):
        listed = "; ".join(f"{what}: {', '.join(keys[:5])}" for what, keys in faults.items() if keys)
        raise InputError(f"these are not the weights of a {spec.classifier} classifier ({listed})")
    backbone.load_state_dict({key: renamed[key] for key in wanted if key in renamed}, strict=False)
