"""Detect objects in pictures with a trained checkpoint: drawn pictures and one JSON file come out.

    python predict.py runs/fasterrcnn/best.pth photo.jpg
    python predict.py runs/fasterrcnn/best.pth folder/ 'more/*.png' --score-thresh 0.7
    python predict.py fasterrcnn_resnet50_fpn photo.jpg          a detector published by torchvision (downloaded once)
    python predict.py --weights mb1-ssd.pth --net mb1-ssd --labels labels.txt photo.jpg      an SSD file of another project
    python predict.py yolov3.weights --cfg cfg/yolov3.cfg --names coco.names photo.jpg       Darknet's weights, or a .pt of a cfg

SSD files of pytorch-ssd, torchvision, NVIDIA, the course repository and ssd.pytorch are recognised, also without `--net`.
They do not say what their classes are called nor which resolution they were trained at: give `--labels` and, unless it is
the net's customary one, `--resolution`. YOLOv3 files do not say their network either: give its `--cfg`.

The JSON file holds COCO results (image_id, category_id, bbox as x, y, width, height, score) with each entry's file and
class name beside them; every detection of the model is in it, `--score-thresh` only decides what is drawn.
"""

import argparse
import glob
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import datasets
import network_files
from datasets.class_names import PLACEHOLDER, VOC_CLASS_FILE, read_class_file
from datasets.image_io import UnreadableImage, read_image
from datasets.yolo_txt import coco_category_ids
from network_files import faster_rcnn_weights, ssd_weights
from network_files.darknet_weights import is_darknet
from network_files.faster_rcnn_weights import PublishedWeights, load_detector_weights
from network_files.ssd_nets import build_ssd
from network_files.ssd_weights import PublishedSSD, identify, load_ssd_weights
from network_files.state_dicts import detector_family, unwrap
from network_files.yolo_checkpoints import load_yolo_weights
from train_utils.checkpoint import fetch_url, load_checkpoint
from train_utils.device import choose_amp, choose_device
from train_utils.draw import draw_boxes
from train_utils.errors import InputError, one_sentence_errors
from train_utils.rebuild import find_script, import_script, rebuild_model
from train_utils.run_folder import unused_folder
from train_utils.train_eval_utils import autocast

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def get_args_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("words", nargs="+", metavar="WEIGHTS_OR_IMAGE",
                        help="first the weights, unless --weights names them; then image files, folders, or quoted patterns")
    parser.add_argument("--weights", help="checkpoint of a training script, the name of a published detector, or an SSD file")
    parser.add_argument("--net", help="net of an SSD file of another project; default: what its tensors tell")
    parser.add_argument("--cfg", help="Darknet cfg of a .weights file, or of a .pt of another YOLOv3 trainer")
    parser.add_argument("--labels", "--names", metavar="FILE",
                        help="class names of such a file, one per line, BACKGROUND first or left out")
    parser.add_argument("--resolution", "--img-size", type=int,
                        help="side of the network input of such a file; default by net or cfg")
    parser.add_argument("--resize", choices=["letterbox", "stretch"], default="letterbox",
                        help="how an image becomes the input of such a YOLOv3")
    parser.add_argument("--output-dir", default="runs/predict", help="where pictures and predictions.json go (a fresh folder)")
    parser.add_argument("--score-thresh", type=float, default=0.5, help="draw detections from this score on")
    parser.add_argument("--batch-size", type=int, default=1, help="images at once")
    parser.add_argument("--device", help="cuda, cuda:1, mps or cpu; default: the best there is")
    parser.add_argument("--amp", choices=["off", "auto", "bf16", "fp16"], nargs="?", const="auto", default="off",
                        help="mixed precision")
    parser.add_argument("--script", help="path of the training script, if it is not beside this file")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of a command line, with `weights` and `images`; images may stand before and after the flags."""
    parser = get_args_parser()
    args = parser.parse_intermixed_args(argv)
    args.images = args.words
    if args.weights is None:
        args.weights, *args.images = args.words
    if not args.images:
        parser.error(f"nothing to look at beside the weights {args.weights}: name an image, a folder or a quoted pattern")
    return args


def find_images(words: list[str]) -> list[Path]:
    """The image files that the words of the command line stand for, sorted within each word.

    Raises:
        InputError: a word matches no image.
    """
    found = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            matches = [p for p in sorted(path.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."]
        elif path.is_file():
            matches = [path]
        else:
            matches = [Path(p) for p in sorted(glob.glob(word, recursive=True)) if Path(p).suffix.lower() in IMAGE_SUFFIXES]
        if not matches:
            raise InputError(f"{word}: no image there; give an image file, a folder of images, or a quoted pattern")
        found += matches
    return list(dict.fromkeys(found))  # an image named twice is one image


Loaded = tuple[nn.Module, list[str], list[int]]  # model in evaluation mode, class names, category ids


def load_model(args: argparse.Namespace) -> Loaded:
    """The model of a checkpoint of ours, of a published detector by name or file, or of an SSD file of another project."""
    path = Path(args.weights)
    if path.suffix == ".weights" or path.is_file() and is_darknet_file(path):
        return load_foreign_yolo(path, args)
    is_file = path.is_file() or path.suffix in (".pth", ".pt")
    entry = find_published(path.name if is_file else args.weights, is_file)
    file = load_checkpoint(path) if is_file else fetch_url(entry.url, "give its path instead of the name")
    if "model_args" not in file and not entry and detector_family(unwrap(file)) == "a YOLOv3":
        return load_foreign_yolo(path, args)
    if isinstance(entry, PublishedSSD) or entry is None and is_bare_ssd(file, args.net):
        return load_foreign_ssd(file, args)
    given = [f"--{name}" for name in ("net", "cfg", "labels", "resolution") if getattr(args, name) is not None]
    if given:
        raise InputError(f"only files of other projects take {' and '.join(given)}, and {args.weights} is none: leave it out")
    return load_published(entry, file) if entry else load_own(file, args.script)


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


def load_own(checkpoint: dict, script: str | None) -> Loaded:
    """From a checkpoint of a training script."""
    model, class_names, warnings = rebuild_model(checkpoint, script)
    for warning in warnings:
        print(f"warning: {warning}")
    return model, class_names, checkpoint.get("category_ids") or list(range(1, len(class_names) + 1))


def load_published(entry: PublishedWeights, state: dict) -> Loaded:
    """A Faster R-CNN of torchvision."""
    model = import_script(find_script("train_fasterrcnn")).create_model(
        {"backbone": entry.backbone, "norm": entry.norm, "norm_eps": entry.norm_eps}, entry.class_names
    )
    load_detector_weights(model, state)
    return model.eval(), entry.class_names, list(range(1, len(entry.class_names) + 1))


def is_bare_ssd(file: dict, net: str | None) -> bool:
    """Whether a file holds an SSD, or is said to hold one, without the entries of our checkpoints."""
    return "model_args" not in file and (net is not None or detector_family(unwrap(file)) == "an SSD")


def load_foreign_ssd(file: dict, args: argparse.Namespace) -> Loaded:
    """From an SSD file of any known layout, which says neither its class names nor its resolution."""
    found = identify(file, args.net)
    class_names, category_ids, source = name_classes(found.num_classes - 1, args.labels)
    model = build_ssd(**found.model_args(args.resolution))
    load_ssd_weights(model, file)
    print(f"{found.net} in the layout of {found.family}, {model.resolution} pixels, {len(class_names)} classes: {source}")
    if found.options.get("vgg_norm") == "l2" and args.net is None:
        print("note: ssd300-vgg16 has the same tensors and other default boxes; if the file is one, give --net ssd300-vgg16")
    return model.eval(), class_names, category_ids


def is_darknet_file(path: Path) -> bool:
    """Whether a file is one of Darknet's, by its first bytes."""
    with open(path, "rb") as file:
        return is_darknet(file.read(16))


def load_foreign_yolo(path: Path, args: argparse.Namespace) -> Loaded:
    """From Darknet's `.weights` or a `.pt` of another trainer, which say neither network nor class names.

    Raises:
        InputError: no cfg, or one of another network.
    """
    if args.cfg is None:
        raise InputError(f"{path} does not say which network it belongs to: give its Darknet cfg with --cfg, e.g. cfg/yolov3.cfg")
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    script = import_script(find_script("train_yolov3"))
    cfg = script.find_cfg(args.cfg)
    start = script.read_foreign_file(path, cfg)
    num_classes = script.outline(start.model_args["cfg"]).heads[0].num_classes
    class_names, category_ids, source = name_classes(num_classes, args.labels)
    model = script.create_model({**start.model_args, "img_size": args.resolution, "resize": args.resize}, class_names)
    report = load_yolo_weights(model.darknet, start.state)
    if report.part:
        raise InputError(f"{path} has the {report.part}: there is nothing to detect with; train from it with --weights")
    print(f"{cfg}, {len(class_names)} classes: {source}")
    return model.eval(), class_names, category_ids


def name_classes(count: int, labels: str | None) -> tuple[list[str], list[int], str]:
    """(class names, category ids, where they are from) of an SSD with that many classes besides the background.

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


def read_batch(paths: list[Path], unreadable: list[str]) -> list[tuple[Path, Tensor]]:
    """The images that can be read; the others are named at once and remembered."""
    batch = []
    for path in paths:
        try:
            batch.append((path, read_image(path)))
        except (UnreadableImage, OSError) as error:
            print(f"skipped: {error}", file=sys.stderr)
            unreadable.append(str(path))
    return batch


def coco_results(
    path: Path, image_id: int, detection: dict[str, Tensor], class_names: list[str], category_ids: list[int]
) -> list[dict]:
    """One image's detections as COCO results, in the data's own category ids, with file and class names; not rounded."""
    results = []
    for box, label, score in zip(*(detection[name].tolist() for name in ("boxes", "labels", "scores"))):
        x1, y1, x2, y2 = box
        results.append({"image_id": image_id, "category_id": category_ids[label - 1], "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": score, "file_name": str(path), "class_name": class_names[label - 1]})
    return results


def picture_path(folder: Path, source: Path) -> Path:
    """A fresh name in the output folder: two sources may have the same name in different folders."""
    path, number = folder / f"{source.stem}.jpg", 2
    while path.exists():
        path, number = folder / f"{source.stem}-{number}.jpg", number + 1
    return path


@torch.inference_mode()
def main(args: argparse.Namespace) -> None:
    """Detect, draw and write."""
    device = choose_device(args.device)
    amp_dtype = choose_amp(args.amp, device)
    if args.batch_size < 1:
        raise InputError(f"--batch-size must be at least 1, not {args.batch_size}")
    paths = find_images(args.images)
    model, class_names, category_ids = load_model(args)
    model.to(device)
    folder = unused_folder(args.output_dir)
    folder.mkdir(parents=True)
    results, unreadable, seconds, done = [], [], 0.0, 0
    for first in range(0, len(paths), args.batch_size):
        batch = read_batch(paths[first : first + args.batch_size], unreadable)
        if not batch:
            continue
        start = time.perf_counter()
        with autocast(device, amp_dtype):
            detections = [{k: v.cpu() for k, v in d.items()} for d in model([image.to(device) for _, image in batch])]
        seconds += time.perf_counter() - start
        for (path, image), detection in zip(batch, detections):
            done += 1
            results += coco_results(path, done, detection, class_names, category_ids)
            shown = detection["scores"] >= args.score_thresh
            picture = draw_boxes(image, detection["boxes"][shown], detection["labels"][shown],
                                 detection["scores"][shown], class_names=class_names)
            picture.save(picture_path(folder, path), quality=92)
    (folder / "predictions.json").write_text(json.dumps(results))
    per_image = 1000 * seconds / max(1, done)
    print(f"{done} images, {len(results)} detections, {per_image:.0f} ms per image in the network: {folder}")
    if unreadable:
        raise InputError(f"{len(unreadable)} images could not be read: {', '.join(unreadable[:5])}; the others are done")


if __name__ == "__main__":
    with one_sentence_errors(network_files.InputError, datasets.InputError):
        main(parse_args())
