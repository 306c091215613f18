"""Which weights exist for SSD, and how a state_dict of any known spelling goes into a model.

Everything here works on dicts: downloading and opening files is the caller's business.

Shapes: C classes, background (index 0) included; B boxes per cell of one level
Words:  layout = the names and the channel order that one author gives to the same tensors. Ours has the groups of
            `SSDLayers`; the pytorch-ssd project's files have it already
        output layer = the last convolution of a head, [B * C, ., ., .] or [B * 4, ., ., .]: only its size depends on C
        box-major = channel b * C + c of an output layer is class c of box b (ours); class-major = c * B + b (NVIDIA)
        fold = change a network's first convolution such that it takes images normalised in another way
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from network_files.errors import InputError
from network_files.resize import IMAGENET_MEAN, IMAGENET_STD
from network_files.ssd_nets import NETS, default_box_spec, net_spec
from network_files.state_dicts import LoadReport, checked_names, detector_family, shapes, unwrap

CLASS_HEADS, BOX_HEADS = "classification_headers", "regression_headers"
Rule = tuple[str, str | Callable[[re.Match], str]]  # pattern at the start of a key, what to put in its place


# published by torchvision
@dataclass(frozen=True)
class PublishedSSD:
    """A detector torchvision publishes, and which of our nets it is."""

    name: str
    net: str
    options: dict[str, Any]  # keywords of build_ssd that the file needs
    entry: torchvision.models.WeightsEnum

    @property
    def url(self) -> str:
        """Where the file is; the 8 digits before `.pth` are the start of its SHA-256."""
        return self.entry.url

    @property
    def class_names(self) -> list[str]:
        """The 90 foreground names by COCO category id - 1, with "N/A" for the ids COCO does not use."""
        return list(self.entry.meta["categories"][1:])

    @property
    def model_args(self) -> dict[str, Any]:
        """Keywords of `build_ssd` that rebuild the published model, its class count with background."""
        return {"net": self.net, "num_classes": len(self.class_names) + 1, **self.options}


def _published(name: str, net: str, **options: Any) -> PublishedSSD:
    return PublishedSSD(name, net, options, torchvision.models.get_model_weights(name).COCO_V1)


PUBLISHED: dict[str, PublishedSSD] = {
    published.name: published
    for published in (
        _published("ssd300_vgg16", "ssd300-vgg16"),
        _published("ssdlite320_mobilenet_v3_large", "ssdlite320-mobilenet-v3-large", reduced_tail=True),
    )
}


def published_weights(name: str) -> PublishedSSD:
    """The published detector of that name, upper or lower case: "ssd300_vgg16", "SSD300_VGG16_Weights.COCO_V1",
    "....DEFAULT". Raises InputError, with all names, for any other."""
    short, _, version = name.lower().partition(".")
    short = short.removesuffix("_weights")
    if short not in PUBLISHED or version not in ("", "coco_v1", "default"):
        raise InputError(f"{name!r} is neither a weights file nor a published SSD (choose from {', '.join(PUBLISHED)})")
    return PUBLISHED[short]


def published_by_file(name: str) -> PublishedSSD | None:
    """The published detector whose downloaded file has this name, None for any other name."""
    return next((entry for entry in PUBLISHED.values() if entry.url.endswith(f"/{name}")), None)


# telling files apart
@dataclass(frozen=True)
class SSDFile:
    """What the tensors of an SSD tell about it. They do not tell the resolution."""

    family: str  # whose layout: "pytorch-ssd" (also ours), "torchvision", "nvidia" (also the course's), "amdegroot"
    net: str  # our name
    num_classes: int  # background included
    options: dict[str, Any] = field(default_factory=dict)  # keywords of build_ssd
    table: str = ""  # of default box sizes, where the file needs another than the net's own

    def model_args(self, resolution: int | None = None) -> dict[str, Any]:
        """Keywords of `build_ssd` that give the model of this file. resolution: None is the net's native one."""
        args = {"net": self.net, "num_classes": self.num_classes, "resolution": resolution, **self.options}
        if self.table:
            args["default_boxes"] = default_box_spec(self.net, resolution, self.table).to_dict()
        return args


def identify(state: Mapping, net: str | None = None) -> SSDFile:
    """Recognises an SSD by the names and shapes of its tensors, in any of the known layouts.

    state: a state_dict or a checkpoint that has one under "model". net: what the user says it is; it decides where the
    tensors leave a choice (ssd300-vgg16 and the vgg16-ssd of before 2018, which has the L2 norm, differ in their default
    boxes only; without `net` such a file is taken for the latter if its layout is pytorch-ssd's). Raises InputError if
    the state holds no SSD or another one than `net`, and for output layers that contradict each other.
    """
    state = unwrap(state)
    if net is not None:
        net_spec(net)  # raises for a name that does not exist
    family = _family(state)
    renamed = rename_to_ours(state)
    structure = _structure(renamed)
    if structure is None:
        raise InputError(f"this file holds {describe(state)}, not one of the SSDs known here ({', '.join(NETS)})")
    found, options = structure
    if not _output_layers(renamed, CLASS_HEADS) or not _output_layers(renamed, BOX_HEADS):
        raise InputError(f"this file holds {found} without its heads: a whole detector is needed")
    num_classes = _count_classes(renamed)
    table = ("voc" if num_classes == 21 else "coco") if family == "amdegroot" else ""
    twin = {"pytorch-ssd": net != "ssd300-vgg16", "amdegroot": net == "vgg16-ssd"}  # torchvision's has other default boxes
    if found == "ssd300-vgg16" and twin.get(family):
        found, options = "vgg16-ssd", {"vgg_norm": "l2"}
    if net is not None and net != found:
        raise InputError(f"this file holds {found}, not {net}: give --net {found}")
    return SSDFile(family, found, num_classes, options, table)


def describe(state: Mapping[str, Tensor]) -> str:
    """What a state_dict of any kind is, for messages: the name of an SSD, "the base of" one, or a family."""
    for prefix, words in (("", ""), ("base_net.", "the base of ")):
        structure = _structure(rename_to_ours({prefix + key: value for key, value in state.items()}))
        if structure:
            return words + structure[0]
    classifier = _classifier_of(state)
    return f"a {classifier} classifier" if classifier else detector_family(state)


def _family(state: Mapping[str, Tensor]) -> str:
    if "L2Norm.weight" in state:
        return "amdegroot"
    if "additional_blocks.0.0.weight" in state:
        return "nvidia"
    if "backbone.scale_weight" in state or "backbone.features.0.13.0.weight" in state:
        return "torchvision"
    return "pytorch-ssd"


def _structure(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]] | None:
    """(net, options) of a state in our layout, or None. Nets with the same tensors have one structure: ssd300-vgg16."""
    if "base_net.31.weight" in state:
        if "extras.4.0.weight" in state:
            return "ssd512-vgg16", {}
        return ("ssd300-vgg16", {}) if "source_layer_add_ons.0.scale" in state else ("vgg16-ssd", {"vgg_norm": "bn"})
    if "base_net.3.squeeze.weight" in state:
        return "sq-ssd-lite", {}
    if "base_net.1.conv.0.weight" in state:
        return "mb2-ssd-lite", {"mb2_width_mult": _mb2_width(state)}
    if "base_net.3.conv1.weight" in state:
        return ("mb3-large-ssd-lite" if "base_net.18.weight" in state else "mb3-small-ssd-lite"), {}
    if "base_net.13.block.0.0.weight" in state and "base_net.16.0.weight" in state:
        return "ssdlite320-mobilenet-v3-large", {"reduced_tail": state["base_net.16.0.weight"].shape[0] == 480}
    if "base_net.4.0.conv1.weight" in state:
        return "ssd300-resnet50", {}
    if "base_net.13.4.weight" in state:
        return ("mb1-ssd-lite" if "extras.0.2.0.weight" in state else "mb1-ssd"), {}
    if "base_net.8.0.weight" in state and "base_net.9.0.weight" not in state:
        return "small-ssd", {}
    return None


def _mb2_width(state: Mapping[str, Tensor]) -> float:
    """The number with the fewest decimals that, as width factor, gives the base's channels int(c * width)."""
    channels = {1: 16, 2: 24, 4: 32, 7: 64, 11: 96, 14: 160, 17: 320}  # block -> channels at width 1
    keys = {c: f"base_net.{i}.conv.{3 if i == 1 else 6}.weight" for i, c in channels.items()}
    missing = [key for key in keys.values() if key not in state]
    if missing:
        raise InputError(f"damaged file: it begins as a MobileNetV2, but lacks {missing[0]}; fetch it again")
    found = {c: state[key].shape[0] for c, key in keys.items()}
    low = max(n / c for c, n in found.items())
    for decimals in range(6):
        width = math.ceil(round(low * 10**decimals, 6)) / 10**decimals
        if all(int(c * width) == n for c, n in found.items()):
            return width
    raise InputError(f"the widths {list(found.values())} of these MobileNetV2 blocks come from no common width factor")


# into our layout
_HEAD_RULES: tuple[Rule, ...] = (
    (r"head\.classification_head\.module_list\.", f"{CLASS_HEADS}."),
    (r"head\.regression_head\.module_list\.", f"{BOX_HEADS}."),
)
_LOC_CONF_RULES: tuple[Rule, ...] = ((r"conf\.", f"{CLASS_HEADS}."), (r"loc\.", f"{BOX_HEADS}."))
_TORCHVISION_VGG: tuple[Rule, ...] = (
    (r"backbone\.scale_weight$", "source_layer_add_ons.0.scale"),
    (r"backbone\.features\.", "base_net."),
    (r"backbone\.extra\.0\.7\.([13])\.", lambda m: f"base_net.{30 + int(m[1])}."),  # fc6, fc7
    (r"backbone\.extra\.0\.([135])\.", lambda m: f"base_net.{23 + int(m[1])}."),  # conv5
    (r"backbone\.extra\.(\d+)\.", lambda m: f"extras.{int(m[1]) - 1}."),
    *_HEAD_RULES,
)
_TORCHVISION_LITE: tuple[Rule, ...] = (
    (r"backbone\.features\.0\.13\.", "base_net.13.block.0."),
    (r"backbone\.features\.0\.", "base_net."),
    (r"backbone\.features\.1\.0\.", "base_net.13.block."),
    (r"backbone\.features\.1\.([123])\.", lambda m: f"base_net.{13 + int(m[1])}."),
    (r"backbone\.extra\.", "extras."),
    *_HEAD_RULES,
)
_NVIDIA: tuple[Rule, ...] = (
    (r"feature_extractor\.feature_extractor\.", "base_net."),
    (r"additional_blocks\.", "extras."),
    *_LOC_CONF_RULES,
)
_AMDEGROOT: tuple[Rule, ...] = (
    (r"L2Norm\.weight$", "source_layer_add_ons.0.scale"),
    (r"vgg\.", "base_net."),
    (r"extras\.(\d+)\.", lambda m: f"extras.{int(m[1]) // 2}.{int(m[1]) % 2 * 2}."),  # their list leaves the ReLUs out
    *_LOC_CONF_RULES,
)
_NVIDIA_CONSTANTS = ("compute_loss.dboxes", "postprocess.dboxes_xywh")  # default boxes stored as parameters


def rename_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a bare state_dict of a known family under our keys and in our channel order; other keys stay."""
    family = _family(state)
    if family == "amdegroot":
        return _rename(state, _AMDEGROOT)
    if family == "nvidia":
        weights = {key: value for key, value in state.items() if key not in _NVIDIA_CONSTANTS}
        return _to_box_major(_rename(weights, _NVIDIA))
    if family == "torchvision":
        return _rename(state, _TORCHVISION_VGG if "backbone.scale_weight" in state else _TORCHVISION_LITE)
    return dict(state)


def _rename(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Each key after the first rule whose pattern it starts with; a key that no rule fits stays."""
    renamed = {}
    for key, value in state.items():
        fitting = next((rule for rule in rules if re.match(rule[0], key)), None)
        renamed[re.sub(f"^{fitting[0]}", fitting[1], key) if fitting else key] = value
    return renamed


def _to_box_major(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """NVIDIA's channels coordinate * B + box and class * B + box as box * 4 + coordinate and box * C + class."""
    reordered = dict(state)
    for level, layer in _output_layers(state, BOX_HEADS).items():
        boxes = state[f"{layer}.weight"].shape[0] // 4
        for name in (f"{group}.{level}.{part}" for group in (BOX_HEADS, CLASS_HEADS) for part in ("weight", "bias")):
            if name in state and boxes and len(state[name]) % boxes == 0:
                reordered[name] = state[name].unflatten(0, (-1, boxes)).transpose(0, 1).flatten(0, 1)
    return reordered


def _output_layers(state: Mapping[str, Tensor], group: str) -> dict[int, str]:
    """{level: key prefix of the head's last convolution}, by level."""
    last: dict[int, str] = {}
    for key in sorted(state):  # within a head the last convolution has the greatest key
        if key.startswith(f"{group}.") and key.endswith(".weight") and state[key].ndim == 4:
            last[int(key.split(".")[1])] = key.removesuffix(".weight")
    return dict(sorted(last.items()))


def _count_classes(state: Mapping[str, Tensor]) -> int:
    """C, background included, from the output layers of a state in our layout; all levels must agree."""
    class_layers, box_layers = _output_layers(state, CLASS_HEADS), _output_layers(state, BOX_HEADS)
    counts = set()
    for level, layer in class_layers.items():
        rows = state[f"{layer}.weight"].shape[0]
        box_rows = state[f"{box_layers[level]}.weight"].shape[0] if level in box_layers else 0
        counts.add(rows * 4 / box_rows if box_rows else 0)
    if len(counts) != 1 or counts != {int(max(counts))} or max(counts) < 2 or set(class_layers) != set(box_layers):
        raise InputError("damaged heads: their output layers do not have the same number of classes on every level")
    return int(counts.pop())


# whole detectors
def load_ssd_weights(
    model: nn.Module,
    state: Mapping,
    class_names: Sequence[str] | None = None,
    source_class_names: Sequence[str] | None = None,
) -> LoadReport:
    """Copies the weights of an SSD file into a model of the same net, in whatever layout they are.

    state: a state_dict or a checkpoint that has one under "model". class_names, source_class_names: foreground names of
    the model and of the file, in label order. If the class counts differ, or both lists are known and differ, the class
    heads' output layers keep their fresh weights but for the rows of classes named in both lists (upper and lower case
    matter), and of the background if there are such classes; regression does not depend on the classes and is loaded.
    If the boxes per cell differ, the output layers of both kinds of heads stay fresh. Every other tensor must be there
    and fit, else one InputError says which net the file holds or lists what does not fit, and the model is untouched.
    """
    state = unwrap(state)
    source = identify(state)
    state, wanted = rename_to_ours(state), model.state_dict()
    _check_same_net(_structure(state), _structure(wanted))

    report = LoadReport(predictor="class heads")
    fresh, rows = _fresh_keys(state, wanted), {}
    names = checked_names(class_names, model.num_classes, "the model")
    source_names = checked_names(source_class_names, source.num_classes, "the file")
    known_to_differ = names is not None and source_names is not None and names != source_names
    if fresh:
        report.predictor = "class and regression heads"
        report.keep_classes(names, None)
    elif source.num_classes != model.num_classes or known_to_differ:
        fresh = _output_keys(wanted, CLASS_HEADS)
        rows = report.keep_classes(names, source_names)

    needed = [key for key in wanted if key not in fresh]
    report.compare(state, wanted, needed)
    if any(report.faults().values()):
        raise InputError(report.fault_sentence(f"this file does not fit the model, {_structure(wanted)[0]}"))
    fitting = {key: state[key] for key in needed if key in state}
    model.load_state_dict(fitting, strict=False)
    for key in fresh if rows else ():
        _copy_classes(wanted[key], state[key], model.num_classes, source.num_classes, rows)
    report.loaded = len(fitting)
    return report


def _check_same_net(source: tuple[str, dict], target: tuple[str, dict]) -> None:
    if source == target:
        return
    if source[0] != target[0]:
        raise InputError(f"this file holds {source[0]}, the model is {target[0]}: add --net {source[0]}")
    differing = {key: value for key, value in source[1].items() if target[1].get(key) != value}
    here = ", ".join(f"{key}={target[1].get(key)}" for key in differing)
    there = ", ".join(f"{key}={value}" for key, value in differing.items())
    flag = f" (--mb2-width-mult {differing['mb2_width_mult']})" if "mb2_width_mult" in differing else ""
    raise InputError(f"this file holds {source[0]} with {there}, the model has {here}: build it with {there}{flag}")


def _output_keys(state: Mapping[str, Tensor], group: str) -> set[str]:
    return {f"{layer}.{part}" for layer in _output_layers(state, group).values() for part in ("weight", "bias")}


def _fresh_keys(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> set[str]:
    """The keys of all output layers if the file has other numbers of boxes per cell than the model, else none."""
    box_keys = _output_keys(wanted, BOX_HEADS)
    if all(len(state[key]) == len(wanted[key]) for key in box_keys if key in state):
        return set()
    return box_keys | _output_keys(wanted, CLASS_HEADS)


def _copy_classes(target: Tensor, source: Tensor, num_classes: int, source_num_classes: int, rows: Mapping[int, int]):
    """Copies whole classes of every box between class output layers [B * C, ...]; rows = {class here: class there}."""
    target, source = target.unflatten(0, (-1, num_classes)), source.unflatten(0, (-1, source_num_classes))  # [B, C, ...]
    target[:, list(rows)] = source[:, list(rows.values())].to(target)  # state_dict tensors share the parameters' memory


# bases
# How torchvision's classifiers are spelt in a base_net: keys that no rule fits (the classifier's head) are left out.
_SAME_INDICES: tuple[Rule, ...] = ((r"features\.", ""),)
CLASSIFIERS: dict[str, tuple[Rule, ...]] = {
    "squeezenet1_1": _SAME_INDICES,
    "vgg16": _SAME_INDICES,
    "mobilenet_v3_large": _SAME_INDICES,
    "mobilenet_v2": (
        (r"features\.(0|18)\.", r"\1."),
        (r"features\.1\.conv\.0\.", "1.conv."),
        (r"features\.1\.conv\.([12])\.", lambda m: f"1.conv.{2 + int(m[1])}."),
        (r"features\.(\d+)\.conv\.([01])\.([01])\.", lambda m: f"{m[1]}.conv.{3 * int(m[2]) + int(m[3])}."),
        (r"features\.(\d+)\.conv\.([23])\.", lambda m: f"{m[1]}.conv.{4 + int(m[2])}."),
    ),
    "resnet50": (
        (r"conv1\.", "0."),
        (r"bn1\.", "1."),
        (r"layer([123])\.", lambda m: f"{3 + int(m[1])}."),
    ),
}
_FRESH_IN_VGG = ("31.", "33.")  # fc6 and fc7 as convolutions: no classifier of torchvision has them in this form
_PIXEL_MEAN = (0.48235, 0.45882, 0.40784)  # (123, 117, 104) / 255, with std 1 / 255: images as Caffe's VGG16 takes them


def imagenet_weights(net: str, weights_name: str | None = None) -> torchvision.models.WeightsEnum | None:
    """The torchvision weights entry (its url, checksum and metadata; nothing is downloaded) for the base of a net.

    weights_name: "IMAGENET1K_V1", "DEFAULT" or with the class before it, "ResNet50_Weights.IMAGENET1K_V2"; None is what
    such detectors customarily start from. None is returned for a net that torchvision has no weights for. Raises
    InputError for a name that torchvision does not have for this network.
    """
    classifier = net_spec(net).classifier
    if classifier is None:
        return None
    weights = torchvision.models.get_model_weights(classifier)
    customary = next(name for name in ("IMAGENET1K_FEATURES", "IMAGENET1K_V1") if name in weights.__members__)
    enum_name, _, member = (weights_name or customary).rpartition(".")
    if enum_name not in ("", weights.__name__) or member not in weights.__members__:
        choices = ", ".join(weights.__members__)
        raise InputError(f"{net} has no weights {weights_name!r} (choose from {choices}, of {weights.__name__})")
    return weights[member]


def load_base_weights(model: nn.Module, net: str, state: Mapping) -> LoadReport:
    """Copies ImageNet weights into the base of a model; extras and heads, and VGG's fc6 and fc7, stay as they are.

    state: a base file of the pytorch-ssd project (keys begin with a layer's number), or a torchvision classifier of
    `CLASSIFIERS`, as a state_dict or in a checkpoint that has one under "model". A classifier's head and the layers
    behind the base are left out, and its normalisation of images is folded into the first convolution: exact but for the
    pixels whose window reaches over the border, where the padding's zeros stand for another colour than before
    (SqueezeNet's first convolution has no padding, so there it is exact everywhere). The full MobileNetV3 fits
    ssdlite320-mobilenet-v3-large with reduced_tail=False only. Raises InputError, naming the net that the file fits if
    there is one, unless every tensor of the base is there and fits; the model is then untouched.
    """
    state = unwrap(state)
    wanted = model.base_net.state_dict()
    classifier = _classifier_of(state)
    if classifier:
        found = _base_of(classifier, state)
        wanted = {key: value for key, value in wanted.items() if key in found or not key.startswith(_FRESH_IN_VGG)}
    else:
        found = state
    report = LoadReport()
    report.compare(found, wanted, wanted)
    if any(report.faults().values()):
        raise InputError(report.fault_sentence(_misfit_sentence(state, classifier, net)))
    if classifier:
        found = fold_normalisation(found, *_normalisation_of(classifier, state), *_normalisation_in(model))
    fitting = {key: found[key] for key in wanted if key in found}
    model.base_net.load_state_dict(fitting, strict=False)
    report.loaded = len(fitting)
    return report


def fold_normalisation(
    state: Mapping[str, Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    new_mean: Sequence[float],
    new_std: Sequence[float],
) -> dict[str, Tensor]:
    """The weights of a base for images normalised by new_mean, new_std that were made for mean, std (of values in 0..1).

    state: keys of a base_net, its first convolution first. With u = (x - mean) / std and t = (x - new_mean) / new_std,
    u = t * new_std / std + (new_mean - mean) / std: the factor goes into the convolution's weight, the sum into its bias
    or, where it has none, into the running mean of the BatchNorm behind it.
    """
    mean, std, new_mean, new_std = (torch.tensor(v, dtype=torch.float64) for v in (mean, std, new_mean, new_std))
    folded = dict(state)
    if torch.equal(mean, new_mean) and torch.equal(std, new_std):
        return folded
    name = next(key for key, value in state.items() if value.ndim == 4)
    weight = state[name].double()
    shift = torch.einsum("oihw,i->o", weight, (new_mean - mean) / std)
    folded[name] = (weight * (new_std / std)[:, None, None]).to(state[name].dtype)
    bias = name.removesuffix("weight") + "bias"
    if bias in state:
        folded[bias] = (state[bias].double() + shift).to(state[bias].dtype)
    else:
        norm = next(key for key in state if key.endswith("running_mean"))
        folded[norm] = (state[norm].double() - shift).to(state[norm].dtype)
    return folded


def _classifier_of(state: Mapping[str, Tensor]) -> str | None:
    """The row of `CLASSIFIERS` whose keys and shapes a state has, but for the classifier's head; None if there is none."""
    return next((name for name in CLASSIFIERS if shapes(_base_of(name, state)) == _shapes_of_base(name)), None)


@cache
def _shapes_of_base(classifier: str) -> dict[str, torch.Size]:
    with torch.device("meta"):  # no memory, no initialisation
        return shapes(_base_of(classifier, torchvision.models.get_model(classifier).state_dict()))


def _base_of(classifier: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a classifier that a base_net has, under the base_net's keys."""
    rules = CLASSIFIERS[classifier]
    known = {key: value for key, value in state.items() if any(re.match(pattern, key) for pattern, _ in rules)}
    return _rename(known, rules)


def _normalisation_of(classifier: str, state: Mapping[str, Tensor]) -> tuple[Sequence[float], Sequence[float]]:
    """(mean, std), for values in 0..1, of the images that a classifier file was trained with.

    torchvision's VGG16 file that has valid features only (IMAGENET1K_FEATURES, for SSD) has NaN in its classifier.
    """
    if classifier == "vgg16" and "classifier.0.weight" in state and state["classifier.0.weight"].isnan().any():
        return _PIXEL_MEAN, (1 / 255,) * 3
    return IMAGENET_MEAN, IMAGENET_STD


def _normalisation_in(model: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    return model.transform.image_mean, model.transform.image_std


def _misfit_sentence(state: Mapping[str, Tensor], classifier: str | None, net: str) -> str:
    what = describe(state)
    if what in NETS:
        return f"this file holds the whole detector {what}, not a base alone: give it as weights of the whole model"
    base = _structure({f"base_net.{key}": value for key, value in (_base_of(classifier, state) if classifier else state).items()})
    if classifier:
        fitting = [name for name, spec in NETS.items() if spec.classifier == classifier]
    else:
        fitting = [base[0]] if base else []
    if net in fitting:
        options = ", ".join(f"{key}={value}" for key, value in base[1].items())
        return f"this file holds {what}, which fits {net} only in one piece" + (f" and with {options}" if options else "")
    hint = f"it fits --net {' or '.join(fitting)}" if fitting else "it fits none of our nets"
    return f"this file holds {what}, which does not fit the base of {net}; {hint}"
