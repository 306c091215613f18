"""Which weights exist for Faster R-CNN, and how a state_dict of any known spelling goes into a model.

Everything here works on dicts: downloading and opening files is the caller's business.

Shapes: C classes, background (index 0) included; F features of the box head
Words:  predictor = the last two layers, `cls_score` [C, F] and `bbox_pred` [4 C, F], the only ones that depend on C
        spelling = the names that one author gives to the same tensors
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from network_files.backbones import BACKBONES, build_backbone
from network_files.errors import InputError
from network_files.state_dicts import LoadReport, checked_names, detector_family, shapes, unwrap

PREDICTOR = "roi_heads.box_predictor."


@dataclass(frozen=True)
class PublishedWeights:
    """A detector torchvision publishes, with the norm and eps that it needs and that its file does not carry."""

    backbone: str
    norm: str
    norm_eps: float
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
        """Keywords of `build_faster_rcnn` that rebuild the published model, its class count with background."""
        return {
            "backbone_name": self.backbone,
            "num_classes": len(self.class_names) + 1,
            "norm": self.norm,
            "norm_eps": self.norm_eps,
        }


def _published(backbone: str, norm: str, norm_eps: float) -> PublishedWeights:
    weights = torchvision.models.get_model_weights(f"fasterrcnn_{backbone}")
    return PublishedWeights(backbone, norm, norm_eps, weights.COCO_V1)


PUBLISHED: dict[str, PublishedWeights] = {
    published.backbone: published
    for published in (
        _published("resnet50_fpn", "frozen_bn", 0.0),  # trained with the frozen norm of old, which had no eps
        _published("resnet50_fpn_v2", "bn", 1e-5),
        _published("mobilenet_v3_large_fpn", "frozen_bn", 1e-5),
        _published("mobilenet_v3_large_320_fpn", "frozen_bn", 1e-5),
    )
}


def published_weights(name: str) -> PublishedWeights:
    """The published detector of that name, upper or lower case: "fasterrcnn_resnet50_fpn", "resnet50_fpn",
    "FasterRCNN_ResNet50_FPN_Weights.COCO_V1", "....DEFAULT". Raises InputError, with all names, for any other."""
    short, _, version = name.lower().partition(".")
    short = short.removeprefix("fasterrcnn_").removesuffix("_weights")
    if short not in PUBLISHED or version not in ("", "coco_v1", "default"):
        choices = ", ".join(f"fasterrcnn_{known}" for known in PUBLISHED)
        raise InputError(f"{name!r} is neither a weights file nor a published Faster R-CNN (choose from {choices})")
    return PUBLISHED[short]


def published_by_file(name: str) -> PublishedWeights | None:
    """The published detector whose downloaded file has this name, None for any other name."""
    return next((entry for entry in PUBLISHED.values() if entry.url.endswith(f"/{name}")), None)


def rename_old_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Today's spelling of the keys of torchvision's files before 0.14 and of the course repository; others stay.

    `rpn.head.conv.bias` -> `rpn.head.conv.0.0.bias`, `backbone.fpn.inner_blocks.1.bias` -> `....inner_blocks.1.0.bias`.
    """
    rules = (
        (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
        (r"\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$", r".fpn.\1_blocks.\2.0.\3"),
    )
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def _spell_like(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with today's keys, and with `features.` in the backbone's keys where `wanted` has it and nowhere else."""
    respelled = {}
    for key, value in rename_old_keys(state).items():
        variants = (
            key,
            re.sub(r"^backbone\.(body\.)?features\.", r"backbone.\1", key),
            re.sub(r"^backbone\.(body\.)?(?=\d)", r"backbone.\1features.", key),
        )
        respelled[next((variant for variant in variants if variant in wanted), key)] = value
    return respelled


def infer_backbone(state: Mapping[str, Tensor]) -> str | None:
    """The row of `BACKBONES` whose keys and shapes are those of the state's `backbone.*`; None if there is none.

    `mobilenet_v3_large_320_fpn` differs from `mobilenet_v3_large_fpn` in no tensor, so the latter is returned.
    """
    state = rename_old_keys(state)
    for name in BACKBONES:
        fpn = state.get("backbone.fpn.layer_blocks.0.0.weight")
        backbone_keys = _empty_backbone(name, 256 if fpn is None else fpn.shape[0]).state_dict()
        wanted = shapes({f"backbone.{key}": value for key, value in backbone_keys.items()})
        found = shapes(_spell_like(state, wanted))
        if {key: shape for key, shape in found.items() if key.startswith("backbone.")} == wanted:
            return name
    return None


def _empty_backbone(name: str, fpn_channels: int) -> nn.Module:
    try:
        with torch.device("meta"):  # no memory, no initialisation: milliseconds instead of seconds
            return build_backbone(name, fpn_channels=fpn_channels)
    except NotImplementedError:  # a network that computes its widths with tensors, such as RegNet
        return build_backbone(name, fpn_channels=fpn_channels)


def describe(state: Mapping[str, Tensor]) -> str:
    """The family and, for a Faster R-CNN, the backbone of a state_dict, for messages."""
    family = detector_family(state)
    if "Faster R-CNN" not in family:
        return family
    return f"{family} on {infer_backbone(state) or 'an unknown backbone'}"


def load_detector_weights(
    model: nn.Module,
    state: Mapping,
    class_names: Sequence[str] | None = None,
    source_class_names: Sequence[str] | None = None,
    partial: bool = False,
) -> LoadReport:
    """Copies the weights of a Faster R-CNN file into a model of the same structure, in whatever spelling they are.

    state: a state_dict or a checkpoint that has one under "model". class_names, source_class_names: foreground names of
    the model and of the file, in label order. If the class counts differ, or both lists are known and differ, the
    predictor keeps its fresh weights but for the rows of classes named in both lists (upper and lower case matter), and
    of the background if there are such classes. Every other tensor must be there and fit, else one InputError lists
    all that do not and the model is untouched; `partial=True` skips them and reports them.
    """
    state = unwrap(state)
    wanted = model.state_dict()
    state = _spell_like(state, wanted)
    if f"{PREDICTOR}cls_score.weight" not in state and not partial:
        raise InputError(f"this file holds {describe(state)}, the model is {describe(wanted)}")

    report = LoadReport()
    predictor = {key: state.pop(key) for key in list(state) if key.startswith(PREDICTOR)}
    rows = _predictor_rows(model, predictor, class_names, source_class_names, report)
    if rows is None:
        state.update(predictor)
    replaced = set() if rows is None else {key for key in wanted if key.startswith(PREDICTOR)}

    needed = [key for key in wanted if key not in replaced]
    report.compare(state, wanted, needed)
    if any(report.faults().values()) and not partial:
        raise InputError(_mismatch_sentence(report, {**state, **predictor}, wanted))

    fitting = {key: state[key] for key in needed if key in state and key not in report.misshapen}
    model.load_state_dict(fitting, strict=False)
    if rows is not None:
        _copy_rows(model, predictor, rows)
    report.loaded = len(fitting)
    return report


def _mismatch_sentence(report: LoadReport, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Names both networks if they differ, and at most five keys of each kind."""
    source, target = describe(state), describe(wanted)
    start = f"this file holds {source}, the model is {target}"
    if source == target:
        start = f"this file does not fit the model, {target}"
    return report.fault_sentence(start)


def _predictor_rows(model, predictor, class_names, source_class_names, report: LoadReport) -> dict[int, int] | None:
    """{row here: row in the file} if the predictor is to be replaced, None if it can be loaded whole."""
    weight, boxes = (predictor.get(f"{PREDICTOR}{layer}.weight") for layer in ("cls_score", "bbox_pred"))
    own = model.state_dict()[f"{PREDICTOR}cls_score.weight"]
    if weight is None or boxes is None or weight.shape[1:] != own.shape[1:]:
        return None  # something else than the class count is wrong: the comparison of shapes will tell
    if boxes.shape[0] != 4 * weight.shape[0]:
        raise InputError(f"damaged predictor: bbox_pred has {len(boxes)} rows for {len(weight)} classes, not four each")
    names = checked_names(class_names, len(own), "the model")
    source_names = checked_names(source_class_names, len(weight), "the file")
    if len(weight) == len(own) and (names is None or source_names is None or names == source_names):
        return None
    return report.keep_classes(names, source_names)


def _copy_rows(model: nn.Module, predictor: Mapping[str, Tensor], rows: Mapping[int, int]) -> None:
    """Copies whole classes: one row of cls_score and four of bbox_pred each."""
    own = model.state_dict()
    for key, value in predictor.items():
        per_class = 4 if ".bbox_pred." in key else 1
        target, source = own[key].unflatten(0, (-1, per_class)), value.unflatten(0, (-1, per_class))
        for row, source_row in rows.items():
            target[row] = source[source_row]  # state_dict tensors share the parameters' memory, without gradients
