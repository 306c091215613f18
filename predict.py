"""Detect objects in pictures with a trained checkpoint: drawn pictures and one JSON file come out.

    python predict.py runs/fasterrcnn/best.pth photo.jpg
    python predict.py runs/fasterrcnn/best.pth folder/ 'more/*.png' --score-thresh 0.7
    python predict.py fasterrcnn_resnet50_fpn photo.jpg          a detector published by torchvision (downloaded once)

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
from datasets.image_io import UnreadableImage, read_image
from network_files.faster_rcnn_weights import load_detector_weights, published_by_file, published_weights
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
    parser.add_argument("weights", help="checkpoint of a training script, or the name of a published detector")
    parser.add_argument("images", nargs="+", help="image files, folders, or quoted glob patterns")
    parser.add_argument("--output-dir", default="runs/predict", help="where pictures and predictions.json go (a fresh folder)")
    parser.add_argument("--score-thresh", type=float, default=0.5, help="draw detections from this score on")
    parser.add_argument("--batch-size", type=int, default=1, help="images at once")
    parser.add_argument("--device", help="cuda, cuda:1, mps or cpu; default: the best there is")
    parser.add_argument("--amp", choices=["off", "auto", "bf16", "fp16"], nargs="?", const="auto", default="off",
                        help="mixed precision")
    parser.add_argument("--script", help="path of the training script, if it is not beside this file")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of a command line; images may stand before and after them."""
    return get_args_parser().parse_intermixed_args(argv)


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


def load_model(weights: str, script: str | None) -> tuple[nn.Module, list[str], list[int]]:
    """(model in evaluation mode, class names, category ids) of a checkpoint, or of a published detector by name or file."""
    path = Path(weights)
    is_file = path.is_file() or path.suffix in (".pth", ".pt")
    entry = published_by_file(path.name) if is_file else published_weights(weights)
    if entry is None:
        checkpoint = load_checkpoint(path)
        model, class_names, warnings = rebuild_model(checkpoint, script)
        for warning in warnings:
            print(f"warning: {warning}")
        return model, class_names, checkpoint.get("category_ids") or list(range(1, len(class_names) + 1))
    state = load_checkpoint(path) if is_file else fetch_url(entry.url, "give its path instead of the name")
    model = import_script(find_script("train_fasterrcnn")).create_model(
        {"backbone": entry.backbone, "norm": entry.norm, "norm_eps": entry.norm_eps}, entry.class_names
    )
    load_detector_weights(model, state)
    return model.eval(), entry.class_names, list(range(1, len(entry.class_names) + 1))


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
    model, class_names, category_ids = load_model(args.weights, args.script)
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
