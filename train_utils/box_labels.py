"""Boxes with names that can be read, painted into a picture of any size."""

import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_FILE = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # Pillow's own font ends at ASCII

MAX_LABELS = 300  # in a picture: more hide all of it, and finding their places would take seconds

Box = Sequence[float]  # xyxy pixels
Colour = tuple[int, int, int]


def paint_boxes(
    picture: Image.Image, boxes: Sequence[Box], names: Sequence[str], tails: Sequence[str], colours: Sequence[Colour]
) -> None:
    """Boxes into a picture, each with its name and what follows it; later ones lie on top and have their label placed first.

    A name that is wider than the picture is cut; where not even a letter of it has room, boxes are drawn alone. Of more than
    `MAX_LABELS` names the last are written.
    """
    canvas = ImageDraw.Draw(picture)
    side = min(picture.size)
    height = max(11.0, side / 28 if side <= 1000 else 36 * (side / 1000) ** 0.6)  # large pictures are looked at in parts, too
    font, line = letter_font(round(height)), max(2, round(height / 7))
    pad = max(1, round(font.size / 6))
    boxes = [_inside(box, picture.size) for box in boxes]
    for box, colour in zip(boxes, colours):
        canvas.rectangle(box, outline=colour, width=line)
    named = [k for k in range(len(boxes)) if names[k] + tails[k] and font.size + 2 * pad <= picture.height][-MAX_LABELS:]
    texts = {k: fit_text(names[k], tails[k], font, picture.width - 2 * pad) for k in named}
    labels = [k for k, text in texts.items() if text]
    widths = [font.getlength(texts[k]) + 2 * pad for k in labels]
    places = _label_places([boxes[k] for k in labels], widths, font.size + 2 * pad, picture.size)
    for k, (x1, y1, x2, y2) in zip(labels, places.tolist()):  # after all boxes: no line crosses a name
        canvas.rectangle([x1, y1, x2, y2], fill=colours[k])
        bright = 0.299 * colours[k][0] + 0.587 * colours[k][1] + 0.114 * colours[k][2] > 140
        canvas.text((x1 + pad, (y1 + y2) / 2), texts[k], fill="black" if bright else "white", font=font, anchor="lm")


def _inside(box: Box, size: tuple[int, int]) -> list[float]:
    """The box within the picture, with x1 <= x2 and y1 <= y2, as drawing demands."""
    (x1, y1, x2, y2), (width, height) = box, size
    x1, y1 = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return [x1, y1, min(max(x2, x1), width - 1), min(max(y2, y1), height - 1)]


def fit_text(name: str, tail: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Name and tail, the name cut to the width; nothing if not even one letter of it has room."""
    if font.getlength(name + tail) <= width:
        return name + tail
    for length in range(len(name) - 1, 0, -1):
        text = f"{name[:length].rstrip()}…{tail}"
        if font.getlength(text) <= width:
            return text
    return ""


def _label_places(boxes: Sequence[Box], widths: Sequence[float], height: int, size: tuple[int, int]) -> np.ndarray:
    """[D, 4] xyxy: above the box, in its top or bottom, below, at its right end: the first of these that hides no other label.

    The last box chooses first. Where every place hides some, it is the one that hides least. All are wholly in view.
    """
    places = np.zeros((len(boxes), 4))
    for k in reversed(range(len(boxes))):
        (x1, y1, x2, y2), width = boxes[k], widths[k]
        tops = [y1 - height, y1, y2 - height, y2, y1 - height, y2]
        tried = np.array([*zip([x1, x1, x1, x1, x2 - width, x2 - width], tops)])  # [6, 2]
        tried[:, 0] = tried[:, 0].clip(0, max(0, size[0] - 1 - width))
        in_view = (tried[:, 1] >= 0) & (tried[:, 1] <= size[1] - height)
        tried = tried[in_view] if in_view.any() else tried[:1].clip(0)
        tried = np.hstack([tried, tried + [width, height]]).round()
        overlap = np.minimum(tried[:, None, 2:], places[k + 1 :, 2:]) - np.maximum(tried[:, None, :2], places[k + 1 :, :2])
        places[k] = tried[overlap.clip(min=0).prod(axis=2).sum(axis=1).argmin()]
    return places


def readable_name(name: str, label: int, max_letters: int = 60) -> str:
    """A class name on one line and short; with its number where the font lacks a letter, as such names would look alike."""
    name = " ".join(name.encode(errors="replace").decode().split())  # half a character, as JSON may hold, stops drawing
    if not name or not all(map(_has_letter, name)):
        name = f"{label} {name}".rstrip()
    return name if len(name) <= max_letters else f"{name[: max_letters - 9]}…{name[-8:]}"


@functools.lru_cache(maxsize=4096)
def _has_letter(letter: str) -> bool:
    unknown = bytes(letter_font(16).getmask("\uffff"))  # the frame that stands for every letter that the font lacks
    return letter.isspace() or bytes(letter_font(16).getmask(letter)) != unknown


@functools.lru_cache(maxsize=64)
def letter_font(size: int) -> ImageFont.FreeTypeFont:
    """Letters of that many pixels: Latin, Greek, Cyrillic and more, but neither Chinese, Japanese nor Korean."""
    return ImageFont.truetype(str(FONT_FILE), size)
