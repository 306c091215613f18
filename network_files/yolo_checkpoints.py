"""How the weights of any YOLOv3, by the keys of our models, of `.weights` files or of other trainers, go into a network.

Everything here works on dicts: opening files is the caller's business.

Shapes: C classes (no background); A anchors of one head
Words:  layout = the names that one author gives to the same tensors; in all of them a layer has its number in the cfg
        head = the convolution before a [yolo] layer, A * (5 + C) channels, channel a * (5 + C) + {x, y, w, h, obj, classes}
        class channels = the last C of each 5 + C: the only ones whose meaning depends on the classes
        cut-off state = weights of the first layers only, e.g. of darknet53.conv.74
"""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from network_files.darknet import Convolutional, Darknet, head_convolutions
from network_files.errors import InputError
from network_files.state_dicts import LoadReport, checked_names, detector_family, unwrap

# family -> what its keys are like, with the groups (number of the layer, part of the layer, rest)
LAYOUTS: dict[str, str] = {
    "ours": r"darknet\.module_list\.(\d+)\.(conv|norm)\.(\w+)",
    "weights": r"module_list\.(\d+)\.(conv|norm)\.(\w+)",  # as read_weights gives them
    "2019": r"module_list\.(\d+)\.(conv|batch_norm)_\1\.(\w+)",  # the 2019 trainer's
    "2020": r"module_list\.(\d+)\.(Conv2d|BatchNorm2d)\.(\w+)",  # its later versions' and the course repository's
}
_PARTS = {"conv": "conv", "norm": "norm", "batch_norm": "norm", "Conv2d": "conv", "BatchNorm2d": "norm"}
_VALUES = 5  # x, y, w, h, obj: what precedes the class channels of an anchor
_NO_ONE_CLASS_LOSS = ("2019", "2020")  # of a single class these train x, y, w, h and obj only, and take its score as 1
_SURE = 10.0  # a class logit: sigmoid 0.99995


def identify(state: Mapping) -> str | None:
    """The family in `LAYOUTS` whose layout a YOLOv3's tensors have, or None if this is no YOLOv3.

    state: a state_dict or a checkpoint that has one under "model". Raises InputError if it holds no tensor at all.
    """
    keys = list(unwrap(state))
    return next((family for family, layout in LAYOUTS.items() if any(re.fullmatch(layout, key) for key in keys)), None)


def rename_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a bare state_dict of a known family under the keys of a `Darknet`; other keys stay."""
    layout = LAYOUTS.get(identify(state) or "")
    renamed = {}
    for key, value in state.items():
        match = re.fullmatch(layout, key) if layout else None
        renamed[f"module_list.{match[1]}.{_PARTS[match[2]]}.{match[3]}" if match else key] = value
    return renamed


def count_classes(state: Mapping, network: Darknet) -> int | None:
    """C of a YOLOv3 file of the network's cfg, whatever C the network has, by the channels of its heads.

    state: a state_dict or a checkpoint that has one under "model". None if it has no head, as one of a base alone, or if
    the heads do not agree on a whole number, so that the file is one of another cfg.
    """
    state = rename_to_ours(unwrap(state))
    heads = {f"{start}conv.weight": anchors for start, anchors in _head_anchors(network).items()}
    counts = {len(state[key]) / anchors - _VALUES for key, anchors in heads.items() if key in state}
    count = counts.pop() if len(counts) == 1 else 0.0
    return int(count) if count.is_integer() and count >= 1 else None


def norm_settings(container: Mapping) -> dict[str, float]:
    """{norm_eps, norm_momentum} of the network for a file whose trainer had others than torch's 1e-5 and 0.1, else {}.

    container: a whole checkpoint. Only the later trainers' layout "2020" has others; the course repository, which has torch's,
    uses that layout too, but it alone saves `best_map` or `scaler`.
    """
    if identify(container) != "2020" or "best_map" in container or "scaler" in container:
        return {}
    return {"norm_eps": 1e-4, "norm_momentum": 0.03}


def load_yolo_weights(
    network: Darknet,
    state: Mapping,
    *,
    class_names: Sequence[str] | None = None,
    source_names: Sequence[str] | None = None,
) -> LoadReport:
    """Copies the weights of a YOLOv3 file into a network of the same cfg, in whatever layout they are.

    state: a state_dict or a checkpoint that has one under "model"; of a cut-off state its layers are loaded, and the
    others stay as they are. class_names, source_names: names of the network's and of the file's classes, in the order of
    the labels. If the class counts differ, or both lists are known and differ, the class channels keep their fresh
    weights but for those of classes named in both lists (upper and lower case matter); box and objectness channels do not
    depend on the classes and are loaded. Trainers of the layouts "2019" and "2020" leave the class channels of a single
    class untrained: for the same single class here they are set to a score of 1. Every other tensor must be there with
    its shape, and none may be left over: else one InputError lists what does not fit, and the network is untouched.
    """
    state = unwrap(state)
    family = identify(state)
    if family is None:
        found = detector_family(state)
        raise InputError(f"this file holds {found} without a key such as module_list.0.conv.weight, not a YOLOv3 of a cfg")
    state, own = rename_to_ours(state), network.state_dict()
    layers = _layers_in(state, network)
    wanted = {key: value for key, value in own.items() if int(key.split(".")[1]) < layers}
    report = LoadReport(predictor="class channels of the heads")
    if layers < len(network.module_list):
        report.part = f"layers 0 to {layers - 1} only, the others stay as they were"

    split, rows = _split_heads(network, state, wanted, (class_names, source_names), report)
    needed = [key for key in wanted if key not in split]
    report.compare(state, wanted, needed)
    if any(report.faults().values()):
        raise InputError(report.fault_sentence("this file does not fit the cfg"))
    fitting = {key: state[key] for key in needed if key in state}
    network.load_state_dict(fitting, strict=False)
    for key, anchors in split.items():
        _copy_channels(own[key], state[key], anchors, rows)
    report.loaded = len(fitting)
    if family in _NO_ONE_CLASS_LOSS and network.heads[0].num_classes == 1:
        _set_class_channels(own, fitting, _head_anchors(network), report)
    return report


def _head_anchors(network: Darknet) -> dict[str, int]:
    """{start of the keys of a head: A}."""
    return {f"module_list.{number}.": len(head.mask) for number, head in zip(head_convolutions(network), network.heads)}


def _layers_in(state: Mapping[str, Tensor], network: Darknet) -> int:
    """n of a state cut off behind layer n - 1, the number of all layers of any other; gaps before are not looked for."""
    convolutions = [number for number, layer in enumerate(network.module_list) if isinstance(layer, Convolutional)]
    present = [number for number in convolutions if f"module_list.{number}.conv.weight" in state]
    return present[-1] + 1 if present and present[-1] < convolutions[-1] else len(network.module_list)


def _split_heads(
    network: Darknet,
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    report: LoadReport,
) -> tuple[dict[str, int], dict[int, int]]:
    """What to copy channel by channel: {key: A} of the heads' tensors, {class index here: class index in the file}.

    Both are empty where the heads are to be loaded whole, and where they differ from the network's in more than their
    class count, which the comparison of shapes will tell.
    """
    anchors, count, source_count = _head_anchors(network), network.heads[0].num_classes, count_classes(state, network)
    if source_count is None:
        return {}, {}
    own_names = checked_names(names[0], count + 1, "the model")
    source_names = checked_names(names[1], source_count + 1, "the file")
    known_to_differ = own_names is not None and source_names is not None and own_names != source_names
    if count == source_count and not known_to_differ:
        return {}, {}
    split = {}
    for key, value in wanted.items():
        start = next((start for start in anchors if key.startswith(start)), None)
        if start and key in state and state[key].shape == (anchors[start] * (_VALUES + source_count), *value.shape[1:]):
            split[key] = anchors[start]
    labels = report.keep_classes(own_names, source_names)  # with 0 for a background, which a head here does not have
    return split, {label - 1: source_label - 1 for label, source_label in labels.items() if label > 0}


def _copy_channels(target: Tensor, source: Tensor, anchors: int, rows: Mapping[int, int]) -> None:
    """Copies box, objectness and the named class channels of every anchor; rows = {class index here: index there}."""
    target, source = target.unflatten(0, (anchors, -1)), source.unflatten(0, (anchors, -1))  # [A, 5 + C, ...]
    here = [*range(_VALUES), *(_VALUES + row for row in rows)]
    there = [*range(_VALUES), *(_VALUES + row for row in rows.values())]
    target[:, here] = source[:, there].to(target)  # state_dict tensors share the parameters' memory


def _set_class_channels(
    own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], anchors: Mapping[str, int], report: LoadReport
) -> None:
    """The class scores of the heads among the tensors loaded whole become 1, whatever the image; the report says so."""
    for key in loaded:
        start, kind = key.rsplit(".", 2)[0] + ".", key.rpartition(".")[2]
        if start in anchors and kind in ("weight", "bias"):
            channels = own[key].unflatten(0, (anchors[start], -1))[:, _VALUES:]
            channels.fill_(_SURE if kind == "bias" else 0.0)  # state_dict tensors share the parameters' memory
            report.note = "class scores set to 1: the file's trainer does not train them for a single class"
