"""Boxes drawn into pictures, for a look at data and results."""

import colorsys
import os
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TILE, GAP, COLUMNS = 300, 8, 4  # of `prediction_grid`: longest side of a picture, distance, pictures per row


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
) -> Image.Image:
    """A copy of the image with boxes and their names, one colour per class; line and letters grow with the image.

    Args:
        image: [3, H, W] tensor, uint8 0..255 or float 0..1, or a PIL image.
        boxes: [D, 4] xyxy pixels.
        labels: [D], 1..C.
        scores: [D], written after the name; of boxes that hide each other the best is drawn on top.
        class_names: without background, so that label k is `class_names[k - 1]`; a label beyond has its number.
        score_threshold: boxes below are left out.
    """
    picture = to_picture(image)
    order = range(len(boxes))
    if scores is not None:
        order = [int(i) for i in torch.as_tensor(scores).argsort() if float(scores[i]) >= score_threshold]
    side = min(picture.size)
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(11, round(side / 28)))
    width = max(2, round(side / 200))
    boxes = torch.as_tensor(boxes).tolist()
    labels = [int(label) for label in labels]
    for i in order:
        canvas.rectangle(_inside(boxes[i], picture.size), outline=class_colour(labels[i]), width=width)
    for i in order:  # after all boxes, so that no line crosses a name
        name = class_names[labels[i] - 1] if 0 < labels[i] <= len(class_names) else str(labels[i])
        text = name if scores is None else f"{name} {float(scores[i]):.2f}"
        _write_label(canvas, picture.size, boxes[i], text, class_colour(labels[i]), font)
    return picture


def _inside(box: list[float], size: tuple[int, int]) -> list[float]:
    """The box within the picture, with x1 <= x2 and y1 <= y2, as drawing demands."""
    (x1, y1, x2, y2), (width, height) = box, size
    x1, y1 = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return [x1, y1, min(max(x2, x1), width - 1), min(max(y2, y1), height - 1)]


def _write_label(canvas, size, box, text, colour, font) -> None:
    """The name on a ground of its class's colour: above the box, inside where there is no room, always in view."""
    left, top, right, bottom = font.getbbox(text)
    pad = max(1, round(font.size / 6))
    width, height = right - left + 2 * pad, font.size + 2 * pad
    x1, y1, _, _ = _inside(box, size)
    x = max(0, min(x1, size[0] - width))
    y = y1 - height if y1 >= height else min(y1, max(0, size[1] - height))
    canvas.rectangle([x, y, x + width, y + height], fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    middle = (x + pad - left, y + height / 2)
    canvas.text(middle, text, fill="black" if bright else "white", font=font, anchor="lm")


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
    font = ImageFont.load_default(size=16)
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
    picture = to_picture(sample["image"])
    scale = TILE / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    shown = sample[kind]
    boxes = torch.as_tensor(shown["boxes"], dtype=torch.float32).cpu() * scale
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    return draw_boxes(picture, boxes, shown["labels"], shown.get("scores"), class_names, score_threshold)
