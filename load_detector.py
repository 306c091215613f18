"""Any weights file of the three families, ours or of another project, as a detector that is ready to detect.

    detector = load_detector("runs/ssd/best.pth")                                # a checkpoint of a training script
    detector = load_detector("fasterrcnn_resnet50_fpn")                          # published by torchvision, downloaded once
    detector = load_detector("mb1-ssd.pth", labels="labels.txt")                 # an SSD of another project
    detector = load_detector("yolov3.weights", cfg="cfg/yolov3.cfg")             # Darknet's weights, or a .pt of a cfg
    detections = detector.model([image])

predict.py, evaluate.py and export_onnx.py share this. Files of other projects do not say what their classes are called, nor the
size of the network input; what their tensors tell is taken, and `detector.notes` says what was taken for what.
"""

import argparse
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

import network_files
from datasets.class_names import PLACEHOLDER, VOC_CLASS_FILE, read_class_file
from datasets.yolo_txt import coco_category_ids
from network_files import faster_rcnn_weights, ssd_weights
from network_files.darknet_weights import is_darknet
from network_files.faster_rcnn_weights import PublishedWeights, load_detector_weights
from network_files.ssd_nets import build_ssd
from network_files.ssd_weights import PublishedSSD, identify, load_ssd_weights
from network_files.state_dicts import detector_family, unwrap
from network_files.yolo_checkpoints import load_yolo_weights
from train_utils.checkpoint import fetch_url, load_checkpoint
from train_utils.errors import InputError
from train_utils.rebuild import find_script, import_script, rebuild_model


@dataclass
class Detector:
    """A model in evaluation mode, and what its file says.

    Attributes:
        class_names: without background; index k is label k + 1.
        category_ids: the data set's own id of each class, for JSON.
        settings: the flags of the run that wrote the file; empty for files of other projects.
        model_args: what `create_model` of its script was called with; empty where no script of ours made the model.
        script: name of that script, e.g. "train_ssd".
        epoch: whole epochs done; None where the file does not say.
        notes: what was guessed, and warnings, to be shown.
    """

    model: nn.Module
    class_names: list[str]
    category_ids: list[int]
    settings: dict = field(default_factory=dict)
    model_args: dict = field(default_factory=dict)
    script: str | None = None
    epoch: int | None = None
    notes: list[str] = field(default_factory=list)


def add_detector_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `load_detector` but for the weights themselves, as one group."""
    group = parser.add_argument_group("files of other projects, which do not say everything about themselves")
    group.add_argument("--net", help="net of an SSD file of another project; default: what its tensors tell")
    group.add_argument("--cfg", help="Darknet cfg of a .weights file, or of a .pt of another YOLOv3 trainer")
    group.add_argument("--labels", "--names", metavar="FILE",
                       help="class names of such a file, one per line, BACKGROUND first or left out")
    group.add_argument("--resolution", "--img-size", type=int,
                       help="side of the network input of such a file; default by net or cfg")
    group.add_argument("--resize", choices=["letterbox", "stretch"], default="letterbox",
                       help="how an image becomes the input of such a YOLOv3")
    group.add_argument("--script", help="path of the training script of a checkpoint, if it is not beside this file")


def load_detector(
    weights: str,
    *,
    net: str | None = None,
    cfg: str | None = None,
    labels: str | None = None,
    resolution: int | None = None,
    resize: str = "letterbox",
    script: str | None = None,
) -> Detector:
    """The detector of a checkpoint of ours, of a published one by name or file, or of a file of another project.

    The options are the flags of `add_detector_flags`.

    Raises:
        FileNotFoundError, InputError (of train_utils, datasets or network_files): no such file or name, a damaged or foreign
            file, an option that does not fit it.
    """
    path = Path(weights)
    if path.is_dir():
        raise InputError(f"{weights} is a folder: give the file of the weights, e.g. {path / 'best.pth'}")
    if path.suffix == ".weights" or path.is_file() and _is_darknet_file(path):
        return _load_foreign_yolo(path, cfg, labels, resolution, resize)
    is_file = path.is_file() or path.suffix in (".pth", ".pt", ".safetensors")
    entry = find_published(path.name if is_file else weights, is_file)
    file = load_checkpoint(path) if is_file else fetch_url(entry.url, "give its path instead of the name")
    if "model_args" not in file and not entry and detector_family(unwrap(file)) == "a YOLOv3":
        return _load_foreign_yolo(path, cfg, labels, resolution, resize)
    if isinstance(entry, PublishedSSD) or entry is None and _is_bare_ssd(file, net):
        return _load_foreign_ssd(file, net, labels, resolution)
    options = {"net": net, "cfg": cfg, "labels": labels, "resolution": resolution}
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"only files of other projects take {' and '.join(given)}, and {weights} is none: leave it out")
    return _load_published(entry, file) if entry else _load_own(file, script)


def set_detection_limits(
    model: nn.Module, score_thresh: float | None = None, nms_thresh: float | None = None, max_detections: int | None = None
) -> None:
    """Change what a detector lets through: lowest score, highest IoU of two boxes of a class, boxes of an image; None: as it is.

    Raises:
        InputError: a threshold outside 0..1, or less than one detection.
    """
    for name, value in (("--score-thresh", score_thresh), ("--nms-thresh", nms_thresh)):
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{name} {value:g}: it must be in 0..1")
    if max_detections is not None and max_detections < 1:
        raise InputError(f"--max-detections {max_detections}: it must be at least 1")
    part = getattr(model, "roi_heads", model)  # Faster R-CNN decides in its second stage, the others in the model itself
    limits = {"score_thresh": score_thresh, "nms_thresh": nms_thresh, "detections_per_img": max_detections}
    for name, value in limits.items():
        if value is not None:
            setattr(part, name, value)


def detection_limits(model: nn.Module) -> dict[str, float]:
    """{"score_thresh", "nms_thresh", "max_detections"} as they stand, for the protocol line of a result."""
    part = getattr(model, "roi_heads", model)
    return {"score_thresh": part.score_thresh, "nms_thresh": part.nms_thresh, "max_detections": part.detections_per_img}


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_published(name: str, is_file: bool) -> PublishedWeights | PublishedSSD | None:
    """The published detector whose downloaded file, or which itself, has this name; None for other files.

    Raises:
        InputError: not a file, and no detector of that name.
    """
    if is_file:
        return faster_rcnn_weights.published_by_file(name) or ssd_weights.published_by_file(name)
    for module in (faster_rcnn_weights, ssd_weights):
        try:
            return module.published_weights(name)
        except network_files.InputError:
            pass  # the other kind of detector may have it
    known = ", ".join([*(f"fasterrcnn_{name}" for name in faster_rcnn_weights.PUBLISHED), *ssd_weights.PUBLISHED])
    raise InputError(f"{name!r} is neither a weights file nor a published detector (choose from {known})")


def name_classes(count: int, labels: str | None) -> tuple[list[str], list[int], str]:
    """(class names, category ids, where they are from) of a foreign file with that many classes besides the background.

    Without a labels file the count has to tell: 20 are VOC's, 90 COCO's by category id, 80 COCO's without the unused ids.

    Raises:
        InputError: the labels file has another number of names.
    """
    ids = list(range(1, count + 1))
    if labels is not None:
        names = read_class_file(labels)
        if len(names) != count:
            raise InputError(f"{labels} names {len(names)} classes (without background), the weights have {count}: "
                             "give the labels.txt of these weights")
        return names, coco_category_ids(names) or ids, f"names from {labels}"
    coco = ssd_weights.PUBLISHED["ssd300_vgg16"].class_names
    used = [number for number, name in enumerate(coco, start=1) if name != PLACEHOLDER]
    if count == 20:
        return read_class_file(VOC_CLASS_FILE), ids, "taken for VOC's (--labels gives others)"
    if count == len(coco):
        return coco, ids, "taken for COCO's by category id (--labels gives others)"
    if count == len(used):
        return [coco[number - 1] for number in used], used, "taken for COCO's (--labels gives others)"
    return [f"class {number}" for number in ids], ids, "without names (--labels gives them)"


def _load_own(checkpoint: dict, script: str | None) -> Detector:
    """From a checkpoint of a training script."""
    model, class_names, warnings = rebuild_model(checkpoint, script)
    epoch, is_whole = checkpoint.get("epoch"), checkpoint.get("step_in_epoch") is None
    return Detector(
        model, class_names, checkpoint.get("category_ids") or list(range(1, len(class_names) + 1)),
        checkpoint.get("args") or {}, checkpoint["model_args"], checkpoint["script"], None if epoch is None else epoch + is_whole,
        [f"warning: {warning}" for warning in warnings],
    )


def _load_published(entry: PublishedWeights, state: dict) -> Detector:
    """A Faster R-CNN of torchvision."""
    model_args = {"backbone": entry.backbone, "norm": entry.norm, "norm_eps": entry.norm_eps}
    model = import_script(find_script("train_fasterrcnn")).create_model(model_args, entry.class_names)
    load_detector_weights(model, state)
    ids = list(range(1, len(entry.class_names) + 1))
    return Detector(model.eval(), entry.class_names, ids, model_args=model_args, script="train_fasterrcnn")


def _is_bare_ssd(file: dict, net: str | None) -> bool:
    """Whether a file holds an SSD, or is said to hold one, without the entries of our checkpoints."""
    return "model_args" not in file and (net is not None or detector_family(unwrap(file)) == "an SSD")


def _load_foreign_ssd(file: dict, net: str | None, labels: str | None, resolution: int | None) -> Detector:
    """From an SSD file of any known layout, which says neither its class names nor its resolution."""
    found = identify(file, net)
    class_names, category_ids, source = name_classes(found.num_classes - 1, labels)
    model_args = found.model_args(resolution)
    model = build_ssd(**model_args)
    load_ssd_weights(model, file)
    notes = [f"{found.net} in the layout of {found.family}, {model.resolution} pixels, {len(class_names)} classes: {source}"]
    if found.options.get("vgg_norm") == "l2" and net is None:
        notes.append("note: ssd300-vgg16 has the same tensors and other default boxes; if the file is one, "
                     "give --net ssd300-vgg16")
    del model_args["num_classes"]  # `create_model` takes it from the names
    return Detector(model.eval(), class_names, category_ids, model_args=model_args, script="train_ssd", notes=notes)


def _is_darknet_file(path: Path) -> bool:
    """Whether a file is one of Darknet's, by its first bytes."""
    with open(path, "rb") as file:
        return is_darknet(file.read(16))


def _load_foreign_yolo(path: Path, cfg: str | None, labels: str | None, resolution: int | None, resize: str) -> Detector:
    """From Darknet's `.weights` or a `.pt` of another trainer, which say neither network nor class names.

    Raises:
        InputError: no cfg, or one of another network.
    """
    if cfg is None:
        raise InputError(f"{path} does not say which network it belongs to: give its Darknet cfg with --cfg, e.g. cfg/yolov3.cfg")
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    script = import_script(find_script("train_yolov3"))
    cfg_path = script.find_cfg(cfg)
    start = script.read_foreign_file(path, cfg_path)
    num_classes = script.outline(start.model_args["cfg"]).heads[0].num_classes
    class_names, category_ids, source = name_classes(num_classes, labels)
    model_args = {**start.model_args, "img_size": resolution, "resize": resize}
    model = script.create_model(model_args, class_names)
    report = load_yolo_weights(model.darknet, start.state)
    if report.part:
        raise InputError(f"{path} has the {report.part}: there is nothing to detect with; train from it with --weights")
    notes = [f"{cfg_path}, {len(class_names)} classes: {source}"]
    return Detector(model.eval(), class_names, category_ids, model_args=model_args, script="train_yolov3", notes=notes)
