"""What is to be exported: the graph of a detector by a contract, its input and its outputs (see export_graphs.py)."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from network_files.errors import InputError
from network_files.export_faster_rcnn import FasterRCNNWithNMS, RawFasterRCNN
from network_files.export_graphs import DenseNMS, DetectNetSSD, RawSSD, RawYOLOv3
from network_files.export_inputs import input_size
from network_files.faster_rcnn import FasterRCNN
from network_files.ssd import SSD
from network_files.yolov3 import YOLOv3

KINDS = {SSD: "ssd", YOLOv3: "yolov3", FasterRCNN: "fasterrcnn"}
OUTPUTS = {"raw": ("boxes", "scores"), "nms": ("boxes", "labels", "scores"), "detectnet": ("scores", "boxes")}


class Plan(NamedTuple):
    """A detector in evaluation mode as a graph.

    contract: "raw" is everything before the last NMS, "nms" the detections of one image, "detectnet" what jetson-inference
    expects of an SSD. size: (height, width) of the network input, an example of it where they are free. free: axes of the
    input that are no fixed number, and their names.
    """

    model: nn.Module
    contract: str
    graph: nn.Module
    input_name: str
    output_names: tuple[str, ...]
    size: tuple[int, int]
    free: dict[int, str]

    @property
    def kind(self) -> str:
        """ssd, yolov3 or fasterrcnn."""
        return kind_of(self.model)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Of one image."""
        return 1, len(self.model.transform.image_mean), *self.size

    @property
    def free_outputs(self) -> dict[str, dict[int, str]]:
        """Of each output the axes that are no fixed number; empty if there are none."""
        if self.contract == "nms":
            axes = {0: "detections"}
        elif self.kind == "fasterrcnn":
            axes = {0: "proposals"}
        else:
            axes = {0: "batch"} if 0 in self.free else {}
            axes |= {1: "boxes"} if 2 in self.free else {}
        return {name: axes for name in self.output_names} if axes else {}


def kind_of(model: nn.Module) -> str:
    """ssd, yolov3 or fasterrcnn. Raises InputError for anything else."""
    for known, name in KINDS.items():
        if isinstance(model, known):
            return name
    raise InputError(f"a {type(model).__name__} cannot be exported, only {', '.join(known.__name__ for known in KINDS)}")


def make_plan(
    model: nn.Module, contract: str, size: Sequence[int] = (), static: bool = False, free_sides: bool = True
) -> Plan:
    """See Plan. Left free is what can be, unless it is to be static; height and width only with free_sides.

    size: see input_size. Raises InputError for a contract or a size that is not for this detector.
    """
    kind, outputs = kind_of(model), OUTPUTS[contract]
    if kind == "fasterrcnn" and contract == "raw":
        outputs += ("image_index",)
    free = {0: "batch"} if contract == "raw" and not static else {}
    if kind != "ssd" and not static and free_sides:
        free |= {2: "height", 3: "width"}
    name = "input_0" if contract == "detectnet" else "images"
    return Plan(model, contract, _graph(model, kind, contract).eval(), name, outputs, input_size(model, size), free)


def _graph(model: nn.Module, kind: str, contract: str) -> nn.Module:
    if contract == "detectnet":
        if kind != "ssd":
            raise InputError(f"the detectnet contract is for an SSD, and this is a {type(model).__name__}: take raw or nms")
        return DetectNetSSD(model)
    if kind == "fasterrcnn":
        return RawFasterRCNN(model) if contract == "raw" else FasterRCNNWithNMS(model)
    raw = RawSSD(model) if kind == "ssd" else RawYOLOv3(model)
    return raw if contract == "raw" else DenseNMS(raw)
