"""Export a detector, ours or published, as a file that runs without this repository, and compare that file with it.

    python export_onnx.py runs/ssd/best.pth                                  ONNX: every decoded box and its scores, before NMS
    python export_onnx.py runs/yolov3/best.pth --contract nms                ONNX: the detections of one image
    python export_onnx.py runs/ssd/best.pth --contract detectnet             ONNX for jetson-inference, labels.txt beside it
    python export_onnx.py runs/fasterrcnn/best.pth --static --size 480 640   one size, one image
    python export_onnx.py runs/ssd/best.pth --format pt2                     a program of torch.export
    python export_onnx.py runs/yolov3/best.pth --format darknet              model.weights and model.cfg
    python export_onnx.py runs/ssd/best.pth --format safetensors             weights and class names, which can run no code

A graph takes `images`, float32 [N, 3, H, W], RGB 0..1, resized already as the file's metadata say (`preprocessing`), and
normalises them itself. Boxes are xyxy pixels of that input, column k of scores is the class k + 1, without background.

    raw: boxes [N, P, 4], scores [N, P, C]; Faster R-CNN: boxes [R, C, 4], scores [R, C], image_index [R] of its R proposals
    nms: boxes [S, 4], labels [S] from 1, scores [S] of one image, by the thresholds and limits of the model
    detectnet: input_0 [1, 3, S, S], normalised to -1..1; scores [1, P, 1 + C] with background, boxes [1, P, 4] in 0..1

The number of images is free with `raw`, height and width with YOLOv3 and Faster R-CNN, unless `--static`. The written file is
run on images of the validation data (or `--images`); with more than `--tolerance` of difference the exit code is 1.
"""

import argparse
import importlib
import io
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

import datasets
import network_files
from datasets.image_files import IMAGE_SUFFIXES
from datasets.image_io import read_image
from datasets.open_dataset import open_dataset
from datasets.shapes import draw_picture
from load_detector import Detector, add_detector_flags, detection_limits, load_detector
from network_files.darknet_cfg import set_input_size
from network_files.darknet_weights import read_weights, write_weights
from network_files.export_check import Difference, Run, compare, network_inputs, worst
from network_files.export_graphs import RawYOLOv3
from network_files.export_inputs import describe_input
from network_files.export_plan import OUTPUTS, Plan, make_plan
from network_files.yolov3 import YOLOv3
from train_utils.errors import InputError, one_sentence_errors
from train_utils.safetensors_file import save_safetensors
from train_utils.whole_file import whole_file

OPSET, DETECTNET_OPSET = 17, 11  # the latter for the TensorRT of the Jetson Nano
OPSETS = range(11, 21)  # from what NonMaxSuppression needs to what the tracing exporter has
IMAGES = 3  # to compare on
TIES = 0.01  # of the proposals
USER_ERRORS = (network_files.InputError, datasets.InputError)
MODEL_FILES = {"darknet": "model.weights", "safetensors": "model.safetensors"}


def get_args_parser() -> argparse.ArgumentParser:
    """All flags of the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("weights", help="a checkpoint, a weights file of another project, or the name of a published detector")
    parser.add_argument("--output", metavar="FILE", help="file to write; default: beside the weights")
    parser.add_argument("--format", choices=["onnx", "pt2", "darknet", "safetensors"], default="onnx", help="kind of file")
    parser.add_argument("--contract", choices=list(OUTPUTS), default="raw",
                        help="what comes out: boxes before NMS, detections, or what jetson-inference expects")
    parser.add_argument("--size", type=int, nargs="+", default=[], metavar="PX",
                        help="height and width of the network input, or its side; default: that of the model")
    free = parser.add_mutually_exclusive_group()
    free.add_argument("--dynamic", dest="static", action="store_false", default=None,
                      help="leave free what can be: the number of images, height and width (default but for detectnet)")
    free.add_argument("--static", action="store_true", default=None, help="fixed sizes, one image")
    parser.add_argument("--opset", type=int, help=f"of ONNX; default {OPSET}, detectnet {DETECTNET_OPSET}")
    parser.add_argument("--images", nargs="+", default=[], metavar="PATH",
                        help=f"images or folders to compare on, the first {IMAGES}; default: validation data of the run")
    parser.add_argument("--tolerance", type=float, nargs=2, default=(1e-4, 0.05), metavar=("SCORE", "PX"),
                        help="largest difference to torch that is let through, of scores and of boxes in pixels")
    add_detector_flags(parser)
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of a command line; what does not go together is refused before anything is read."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.format != "onnx" and (args.contract != "raw" or args.opset is not None):
        parser.error(f"--contract and --opset go with --format onnx, not {args.format}: leave them out")
    if args.contract == "detectnet" and args.static is False:
        parser.error("--contract detectnet has fixed sizes: leave --dynamic out")
    if args.opset is not None and args.opset not in OPSETS:
        parser.error(f"--opset {args.opset}: choose one from {OPSETS[0]} to {OPSETS[-1]}")
    if len(args.size) > 2:
        parser.error("--size takes one side, or height and width")
    if not min(args.tolerance) > 0:
        parser.error("--tolerance needs two numbers above 0")
    args.static = bool(args.static) or args.contract == "detectnet"
    return args


def metadata_of(plan: Plan, detector: Detector, source: str) -> dict[str, str]:
    """What the file says about itself; all but words as JSON."""
    columns = ["BACKGROUND", *detector.class_names] if plan.contract == "detectnet" else detector.class_names
    description = describe_input(plan.model, 2 in plan.free)
    if plan.contract == "detectnet":
        description = {"colour": "RGB", "layout": "NCHW", "range": [-1, 1], "resize": "stretch"}
    facts = {
        "class_names": detector.class_names, "category_ids": [int(number) for number in detector.category_ids],
        "score_columns": columns, "input_size": plan.size, "free_axes": list(plan.free.values()),
        "preprocessing": description, **detection_limits(plan.model),
    }
    words = {"detector": plan.kind, "contract": plan.contract, "source": Path(source).name}
    return words | {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}


# writing: each writes a file and returns how to run it
def write_onnx(plan: Plan, path: Path, metadata: dict[str, str], opset: int) -> Run:
    """The graph as ONNX, run by onnxruntime; for detectNet with labels.txt beside it."""
    onnx, runtime = (need(name, "--format onnx") for name in ("onnx", "onnxruntime"))
    axes = plan.free_outputs | ({plan.input_name: plan.free} if plan.free else {})
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # The tracing exporter is deprecated, but the new one cannot follow a detector's NMS, takes several times as long for
        # the rest and needs one more package. What else it warns of, numbers that become constants, is meant so here.
        warnings.simplefilter("ignore")
        torch.onnx.export(plan.graph, (torch.rand(plan.input_shape),), buffer, dynamo=False, opset_version=opset,
                          input_names=[plan.input_name], output_names=list(plan.output_names), dynamic_axes=axes)
    proto = onnx.load_from_string(buffer.getvalue())
    for name, value in metadata.items():
        proto.metadata_props.add(key=name, value=value)
    onnx.checker.check_model(proto)
    replace_file(path, proto.SerializeToString())
    if plan.contract == "detectnet":
        replace_file(path.with_name("labels.txt"), "\n".join(json.loads(metadata["score_columns"])).encode())
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(output) for output in session.run(None, {plan.input_name: images.numpy()})]


def write_pt2(plan: Plan, path: Path, metadata: dict[str, str]) -> Run:
    """The graph as a program of torch.export, with the metadata as metadata.json in it."""
    if plan.kind == "fasterrcnn":
        raise InputError("torch.export cannot follow the first stage's NMS of a Faster R-CNN: take --format onnx")
    shapes = {0: torch.export.Dim("batch", min=1)} if plan.free else {}
    example = torch.rand(2 if plan.free else 1, *plan.input_shape[1:])  # 1 would be taken for a fixed number
    with torch.no_grad():
        program = torch.export.export(plan.graph, (example,), dynamic_shapes=(shapes,))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(metadata, ensure_ascii=False)})
    replace_file(path, buffer.getvalue())
    return torch.export.load(path).module()


def write_darknet(plan: Plan, detector: Detector, path: Path) -> Run:
    """The weights of a YOLOv3, and a .cfg of the same name with the size of the network input in it."""
    model = plan.model
    if plan.kind != "yolov3":
        raise InputError(f"--format darknet is for a YOLOv3, and this is a {type(model).__name__}: take --format onnx")
    cfg_path = path.with_suffix(".cfg")
    replace_file(path, write_weights(model.darknet.state_dict(), model.darknet))
    replace_file(cfg_path, set_input_size(detector.model_args["cfg"], *plan.size).encode())
    eps = {layer.eps for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)}
    if eps - {1e-5}:
        print(f"note: made with an eps of {max(eps):g} in BatchNorm, which such files do not hold: Darknet takes 1e-5 on a GPU, "
              "so its scores may differ")
    copy = YOLOv3(cfg_path.read_text(encoding="utf-8"), norm_eps=max(eps, default=1e-5)).eval()
    copy.darknet.load_state_dict(read_weights(path.read_bytes(), copy.darknet).state, strict=False)  # no file has the counters
    return RawYOLOv3(copy)


def write_safetensors(detector: Detector, path: Path) -> Run:
    """Weights, class names and what the model is made of."""
    if not (detector.script and detector.model_args):
        raise InputError("this weights file of another project does not say all that goes into model.safetensors: train from it "
                         "with --weights first, or take --format onnx")
    save_safetensors(path, detector.model.state_dict(), class_names=detector.class_names, script=detector.script,
                     category_ids=[int(number) for number in detector.category_ids], model_args=detector.model_args)
    return make_plan(load_detector(str(path)).model, "raw").graph


def need(package: str, what: str) -> ModuleType:
    """An optional package.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"{what} needs the package {package}: pip install {package}") from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


# comparing
def find_images(words: Sequence[str], settings: dict) -> tuple[list[Tensor], str]:
    """(images uint8 [3, H, W] to compare on, what they are): the given ones, or of a run's validation data, or drawn.

    Raises:
        InputError (of train_utils or datasets): a given path holds no image.
    """
    if words:
        paths = [path for word in words for path in images_in(Path(word))][:IMAGES]
        return [read_image(path) for path in paths], "given images"
    roots = settings.get("val_data_path") or settings.get("data_path") or []
    if settings.get("val_images") or roots and all(Path(root).exists() for root in roots):
        try:
            data = open_dataset(settings["dataset"], roots or None, settings["val_split"], year=settings["year"],
                                json_path=settings["val_json"], image_dir=settings["val_images"], merge_classes=True,
                                allow_outside=settings["allow_outside"], strict=False)
            chosen = np.linspace(0, len(data) - 1, min(IMAGES, len(data))).astype(int).tolist()
            return [read_image(data.image_path(index)) for index in chosen], "images of the validation data"
        except (datasets.InputError, OSError) as error:
            print(f"note: the validation data of the run cannot be read ({error}): comparing on drawn pictures", file=sys.stderr)
    rng = np.random.default_rng(0)
    pictures = [draw_picture(rng, empty=False)[0] for _ in range(IMAGES)]
    return [torch.from_numpy(picture).permute(2, 0, 1).contiguous() for picture in pictures], "drawn pictures"


def images_in(path: Path) -> list[Path]:
    """An image file, or those of a folder.

    Raises:
        InputError: there is none.
    """
    if path.is_file():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else []
    if not found:
        raise InputError(f"--images {path}: no image there; give an image file or a folder of images")
    return found


def check(plan: Plan, run: Run, images: Sequence[Tensor], what: str, tolerance: Difference) -> int:
    """Compare the written file on images, print the result, return the exit code."""
    inputs = network_inputs(plan, images)
    outputs, found = (worst(list(parts)) for parts in zip(*(compare(plan, run, batch, tolerance) for batch in inputs)))
    sizes = ", ".join(dict.fromkeys("x".join(map(str, batch.shape)) for batch in inputs))
    print(f"compared on {len(images)} {what} ({sizes}), largest differences to torch:")
    print(f"  {outputs.rows} rows of the outputs: {in_words(outputs)}")
    print(f"  {found.rows} detections of the model, each found among them: {in_words(found)}")
    # Of two proposals of nearly equal objectness the first stage's NMS may keep the other one.
    ties = int(TIES * outputs.rows) if "image_index" in plan.output_names else 0
    if outputs.within(tolerance._replace(lost=ties)) and found.within(tolerance):
        return 0
    why = " (NMS may keep another box where scores are nearly equal)" * bool(found.lost and plan.contract == "nms")
    print(f"error: the written file differs from the model by more than {tolerance.scores:g} in scores or {tolerance.boxes:g} "
          f"pixels in boxes{why}: do not use it, or allow more with --tolerance", file=sys.stderr)
    return 1


def in_words(difference: Difference) -> str:
    """The largest differences, and how many rows have no counterpart."""
    lost = f", {difference.lost} without counterpart" * bool(difference.lost)
    return f"scores {difference.scores:.1e}, boxes {difference.boxes:.1e} px{lost}"


def output_path(args: argparse.Namespace) -> Path:
    """The file to write: the given one, or beside the weights, or here for a published detector."""
    if args.output:
        return Path(args.output)
    weights = Path(args.weights)
    if args.format in MODEL_FILES:
        return (weights.parent if weights.is_file() else Path()) / MODEL_FILES[args.format]
    return weights.with_suffix(f".{args.format}") if weights.is_file() else Path(f"{args.weights}.{args.format}")


def main(args: argparse.Namespace) -> int:
    """Export and compare; returns the exit code: 1 if the file differs from the model."""
    detector = load_detector(args.weights, net=args.net, cfg=args.cfg, labels=args.labels, resolution=args.resolution,
                             resize=args.resize, script=args.script)
    for note in detector.notes:
        print(note)
    images, what = find_images(args.images, detector.settings)
    plan = make_plan(detector.model, args.contract, args.size, args.static, free_sides=args.format != "pt2")
    path, metadata = output_path(args), metadata_of(plan, detector, args.weights)
    if args.format == "onnx":
        run = write_onnx(plan, path, metadata, args.opset or (DETECTNET_OPSET if args.contract == "detectnet" else OPSET))
    elif args.format == "pt2":
        run = write_pt2(plan, path, metadata)
    else:
        run = write_darknet(plan, detector, path) if args.format == "darknet" else write_safetensors(detector, path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {plan.kind}, {len(detector.class_names)} classes")
    if args.format in ("onnx", "pt2"):
        shape = ", ".join(str(plan.free.get(axis, side)) for axis, side in enumerate(plan.input_shape))
        print(f"{args.contract}: {plan.input_name} [{shape}] -> {', '.join(plan.output_names)}")
    return check(plan, run, images, what, Difference(*args.tolerance))


if __name__ == "__main__":
    with one_sentence_errors(*USER_ERRORS):
        sys.exit(main(parse_args()))
