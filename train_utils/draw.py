"""Boxes drawn into pictures, for a look at data and results."""

import colorsys
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from train_utils.box_labels import fit_text, letter_font, paint_boxes, readable_name
from train_utils.error_analysis import CORRECT, DUPLICATE, KINDS, MISSED, WRONG_CLASS, ErrorReport

TILE, GAP, COLUMNS = 300, 8, 4  # of `prediction_grid`: longest side of a picture, distance, pictures per row
WORST_TILE, MAX_FULL_LABELS = 440, 8  # of `draw_worst`
KIND_COLOURS = {
    "correct": (60, 180, 75), "duplicate": (0, 190, 255), "wrong class": (240, 50, 230), "badly placed": (255, 225, 25),
    "background": (230, 25, 75), "missed": (255, 140, 0),
}


def class_colour(label: int) -> tuple[int, int, int]:
    """A fixed RGB colour per label; neighbouring labels are far apart in hue."""
    hue = (label * 0.618034) % 1.0  # the golden ratio never comes back close to an earlier hue
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.95 if label % 2 else 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)


def to_picture(image: Tensor | Image.Image) -> Image.Image:
    """A [3, H, W] tensor, uint8 0..255 or float 0..1, or a PIL image, as a new RGB PIL image."""
    if isinstance(image, Image.Image):
        return image.convert("RGB").copy()
    image = image.detach().cpu()
    if image.is_floating_point():
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def draw_boxes(
    image: Tensor | Image.Image,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor | None = None,
    class_names: Sequence[str] = (),
    score_threshold: float = 0.0,
    min_side: int = 0,
) -> Image.Image:
    """A copy of the image with boxes and their names, one colour per class; line and letters grow with the image.

    Args:
        image: [3, H, W] tensor, uint8 0..255 or float 0..1, or a PIL image.
        boxes: [D, 4] xyxy pixels.
        labels: [D], 1..C.
        scores: [D], written after the name; of boxes that hide each other the best is drawn on top.
        class_names: without background, so that label k is `class_names[k - 1]`; a label beyond has its number.
        score_threshold: boxes below are left out.
        min_side: if the longer side is below, the copy is a whole number of times larger, so that there is room for a name.
    """
    picture = to_picture(image)
    boxes = torch.as_tensor(boxes).detach().cpu()
    times = math.ceil(min_side / max(picture.size))
    if times > 1:
        picture, boxes = picture.resize([times * side for side in picture.size], Image.Resampling.NEAREST), boxes * times
    order = range(len(boxes))
    if scores is not None:
        order = [int(i) for i in torch.as_tensor(scores).argsort() if float(scores[i]) >= score_threshold]
    labels = [int(label) for label in labels]
    names = {label: readable_name(class_names[label - 1], label) if 0 < label <= len(class_names) else str(label)
             for label in set(labels)}
    tails = ["" if scores is None else f" {float(scores[i]):.2f}" for i in order]
    paint_boxes(picture, [boxes[i].tolist() for i in order], [names[labels[i]] for i in order], tails,
                [class_colour(labels[i]) for i in order])
    return picture


def draw_validation(
    dataset, ground_truth: dict, detections: dict, path: str | os.PathLike, count: int = 8, score_threshold: float = 0.5
) -> None:
    """`prediction_grid` of `count` images spread evenly over a data set.

    Args:
        dataset: gives (image [3, H, W], target) by index; images marked "unreadable" are left out.
        ground_truth: arrays of `dataset.ground_truth()`.
        detections: "image_index", "labels", "scores" [K] and "boxes" [K, 4] xyxy pixels of the whole data set.
    """
    total = len(dataset)
    samples = []
    for index in sorted({k * total // count for k in range(count) if total}):
        image, target = dataset[index]
        if "unreadable" in target:
            continue
        own = detections["image_index"] == index
        found = {name: torch.as_tensor(detections[name][own]) for name in ("boxes", "labels", "scores")}
        truth = ground_truth["image_index"] == index
        objects = {name: torch.as_tensor(ground_truth[name][truth]) for name in ("boxes", "labels")}
        samples.append({"image": image, "target": objects, "detections": found})
    prediction_grid(samples, ground_truth["class_names"], path, score_threshold)


def draw_training_batch(images: Sequence[Tensor] | Tensor, targets: Sequence[dict], class_names: Sequence[str]) -> Image.Image:
    """The first images of a batch with their boxes, as the network sees them: the look that finds wrong labels.

    Args:
        images: [3, H, W] each, uint8 0..255 or float 0..1; at most the first 16 are shown.
        targets: "boxes" [M, 4] xyxy pixels of the image and "labels" [M] of each.
        class_names: without background.
    """
    samples = [{"image": image, "target": target} for image, target in zip(images, targets)]
    tiles = [_tile(sample, "target", class_names, 0) for sample in samples[: COLUMNS * COLUMNS]]
    rows = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
    side = TILE + GAP
    sheet = Image.new("RGB", (side * max(1, len(tiles[:COLUMNS])) + GAP, side * max(1, len(rows)) + GAP), "white")
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            sheet.paste(tile, (GAP + side * x + (TILE - tile.width) // 2, GAP + side * y + (TILE - tile.height) // 2))
    return sheet


def prediction_grid(
    samples: Sequence[dict],
    class_names: Sequence[str],
    path: str | os.PathLike,
    score_threshold: float = 0.5,
) -> None:
    """Save a picture of a few images, up to four side by side: ground truth above, detections below.

    Args:
        samples: {"image": [3, H, W], "target": {"boxes", "labels"}, "detections": {"boxes", "labels", "scores"}}
            each; without samples nothing is written.
        class_names: without background.
        path: a png or jpg file.
        score_threshold: detections below are left out.
    """
    if not samples:
        return
    blocks = [samples[i : i + COLUMNS] for i in range(0, len(samples), COLUMNS)]
    found_title = f"detections (score at least {score_threshold:g})"
    rows = []
    for block in blocks:
        rows.append(("ground truth", [_tile(sample, "target", class_names, 0) for sample in block]))
        rows.append((found_title, [_tile(sample, "detections", class_names, score_threshold) for sample in block]))
    font = letter_font(16)
    title_height = 26
    heights = [max(tile.height for tile in tiles) + title_height + GAP for _, tiles in rows]
    widths = [max(tiles[k].width for _, tiles in rows if k < len(tiles)) for k in range(len(blocks[0]))]
    minimum = round(font.getlength(found_title)) + 2 * GAP  # the title of one narrow image is still whole
    sheet = Image.new("RGB", (max(minimum, sum(widths) + GAP * (len(widths) + 1)), sum(heights) + GAP), "white")
    canvas, y = ImageDraw.Draw(sheet), 0
    for (title, tiles), height in zip(rows, heights):
        canvas.text((GAP, y + GAP + title_height / 2 - 4), title, fill="black", font=font, anchor="lm")
        x = GAP
        for tile, width in zip(tiles, widths):
            sheet.paste(tile, (x + (width - tile.width) // 2, y + GAP + title_height - 4))
            x += width + GAP
        y += height
    sheet.save(path)


def _tile(sample: dict, kind: str, class_names: Sequence[str], score_threshold: float) -> Image.Image:
    """The image at tile size first, drawn into after: names stay readable whatever the size of the image."""
    shown = sample[kind]
    picture, boxes = _at_size(sample["image"], shown["boxes"], TILE)
    return draw_boxes(picture, boxes, shown["labels"], shown.get("scores"), class_names, score_threshold)


def _at_size(image: Tensor | Image.Image, boxes: Tensor, longest: int) -> tuple[Image.Image, Tensor]:
    """The image with its longer side of that many pixels, and its boxes in it."""
    picture = to_picture(image)
    scale = longest / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    boxes = torch.as_tensor(boxes, dtype=torch.float32).cpu().reshape(-1, 4) * scale
    return picture.resize(size, Image.Resampling.BICUBIC), boxes


def draw_worst(
    dataset,
    ground_truth: dict,
    detections: dict,
    report: ErrorReport,
    path: str | os.PathLike,
    count: int = 8,
) -> None:
    """Save a page of the images with most errors: what is missed, and of each wrong detection the kind.

    In an image of more than `MAX_FULL_LABELS` errors a box has the name of its class alone; its colour says the kind.

    Args:
        dataset: gives (image [3, H, W], target) by index; images marked "unreadable" are left out. Its `image_path(index)`, if
            it has one, names the images.
        ground_truth: arrays of `dataset.ground_truth()`.
        detections, report: of the whole data set, and `classify_errors` of them.
        path: a png or jpg file; without any error nothing is written.
        count: most images.
    """
    tiles = []
    for index in report.worst_images(ground_truth["num_images"]):
        if len(tiles) == count:
            break
        image, target = dataset[index]
        if "unreadable" not in target:
            tiles.append((_caption(dataset, report, index), _marked(image, _marks(ground_truth, detections, report, index))))
    if tiles:
        _error_page(tiles, report).save(path)


def _caption(dataset, report: ErrorReport, index: int) -> str:
    """Name of the image, and how many errors of which kind it has, missed objects first."""
    name = Path(dataset.image_path(index)).name if hasattr(dataset, "image_path") else f"image {index}"
    kinds = [MISSED, *range(DUPLICATE, MISSED)]
    return f"{name}: " + ", ".join(f"{report.by_image[index, k]} {KINDS[k]}" for k in kinds if report.by_image[index, k])


class _Mark(NamedTuple):
    """A box on the page of errors: its kind of `KINDS`, xyxy pixels of the image, what is written."""

    kind: int
    box: Sequence[float]
    name: str
    tail: str


def _marks(truth: dict, detections: dict, report: ErrorReport, index: int) -> list[_Mark]:
    """What is right, then what is missed, then what is wrong, the best last: later ones are drawn on top."""
    names = [readable_name(name, label, 20) for label, name in enumerate(truth["class_names"], start=1)]
    missed = report.missed[np.flatnonzero(np.asarray(truth["image_index"])[report.missed] == index)]
    marks = [_Mark(MISSED, truth["boxes"][row], names[int(truth["labels"][row]) - 1], " missed") for row in missed]
    own = detections["image_index"][report.rows] == index
    for row, kind, thing in sorted(zip(report.rows[own], report.kinds[own], report.objects[own]),
                                   key=lambda found: detections["scores"][found[0]]):
        name, score = names[int(detections["labels"][row]) - 1], float(detections["scores"][row])
        word = f"is {names[int(truth['labels'][thing]) - 1]}" if kind == WRONG_CLASS else KINDS[kind]
        name, tail = ("", "") if kind == CORRECT else (name, f" {score:.2f} {word}")
        marks.append(_Mark(int(kind), detections["boxes"][row], name, tail))
    if report.by_image[index, CORRECT + 1 :].sum() > MAX_FULL_LABELS:
        marks = [mark._replace(tail="") for mark in marks]
    return sorted(marks, key=lambda mark: mark.kind != CORRECT)


def _marked(image: Tensor | Image.Image, marks: list[_Mark]) -> Image.Image:
    """The image at the size of the page with its marks."""
    picture, boxes = _at_size(image, torch.tensor([list(map(float, mark.box)) for mark in marks]), WORST_TILE)
    paint_boxes(picture, boxes.tolist(), [mark.name for mark in marks], [mark.tail for mark in marks],
                [KIND_COLOURS[KINDS[mark.kind]] for mark in marks])
    return picture


def _error_page(tiles: list[tuple[str, Image.Image]], report: ErrorReport) -> Image.Image:
    """The pictures below each other in rows, each with its caption, under a line that explains the colours."""
    font, small, line = letter_font(15), letter_font(13), 26
    rows = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
    heights = [max(tile.height for _, tile in row) + line + GAP for row in rows]
    width = max(2, len(rows[0])) * (WORST_TILE + GAP) + GAP
    title = f"images with most errors (score at least {report.score_threshold:g}, IoU {report.iou_threshold:g})"
    page = Image.new("RGB", (width, sum(heights) + 2 * line + 2 * GAP), "white")
    canvas = ImageDraw.Draw(page)
    canvas.text((GAP, GAP + line / 2), title, fill="black", font=font, anchor="lm")
    x = GAP
    for kind, colour in KIND_COLOURS.items():
        canvas.rectangle([x, GAP + line + 5, x + 16, GAP + line + 21], fill=colour)
        canvas.text((x + 22, GAP + 1.5 * line), kind, fill="black", font=font, anchor="lm")
        x += 22 + round(font.getlength(kind)) + 2 * GAP
    y = 2 * line + GAP
    for row, height in zip(rows, heights):
        for column, (caption, tile) in enumerate(row):
            x = GAP + column * (WORST_TILE + GAP)
            canvas.text((x, y + line / 2 + 2), fit_text(caption, "", small, WORST_TILE), fill="black", font=small, anchor="lm")
            page.paste(tile, (x + (WORST_TILE - tile.width) // 2, y + line))
        y += height
    return page
