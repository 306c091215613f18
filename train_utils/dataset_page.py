"""One picture of a data set to look at before training on it: images with their boxes, classes, sizes, positions.

    save_dataset_page("page.png", samples, dataset.class_names, dataset.ground_truth())

Shapes: n images, K boxes of all images, M boxes of one image, C classes.
"""

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure  # not pyplot: no display, no window, no state shared with the caller
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from train_utils.box_labels import readable_name
from train_utils.draw import class_colour, draw_boxes, to_picture
from train_utils.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf")
DPI = 128  # a power of 2: a size in inches gives the whole number of pixels that it was made from
WIDTH, HEADING, PLOTS = 1200, 44, 860  # pixels: the page, the line above the images, the plots below them
COLUMNS, GAP = 4, 8
TILE = (WIDTH - GAP) // COLUMNS - GAP  # longest side of a picture
MIN_TILE = 40  # a picture thinner than this is stretched, so that a name has room in it
MAX_CLASSES, MIN_CLASSES = 30, 12  # bars drawn; bars that there is always room for, so that a single one is no wall
MAX_NAME = 24  # letters
MAX_POINTS = 5000  # more boxes than this are counted in cells instead of drawn one by one
SMALL, LARGE = 32**2, 96**2  # COCO's bounds between small, medium and large, areas in pixels
LETTERS = 7.5  # points: 13 pixels
GREY = "0.45"


def save_dataset_page(
    path: str | os.PathLike,
    samples: Sequence[tuple[Tensor, dict]],
    class_names: Sequence[str],
    ground_truth: dict,
) -> None:
    """Draw the page and write it.

    Args:
        path: a .png, .jpg or .pdf file.
        samples: (image uint8 [3, H, W], target with "boxes" [M, 4] xyxy pixels and "labels" [M] in 1..C) each, of any size; about
            12 fill the page. M may be 0, and there may be no sample.
        class_names: [C], without background.
        ground_truth: arrays of `dataset.ground_truth()`; K may be 0.

    Raises:
        InputError: a file name of another kind.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a page is written as {', '.join(SUFFIXES)}; give a file name with such an ending")
    names = [readable_name(name, label, MAX_NAME) for label, name in enumerate(class_names, start=1)]
    sheet = _sheet(samples, names)
    height = HEADING + sheet.height + PLOTS
    layout = ConstrainedLayoutEngine(rect=(0.005, 0.005, 0.985, PLOTS / height - 0.01), hspace=0.04, wspace=0.02)
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), layout=layout)
    total = [(ground_truth["num_images"], "image"), (len(ground_truth["labels"]), "box"), (len(names), "class")]
    figure.text(0.5, 1 - HEADING / 2 / height, ", ".join(_count(*part) for part in total), ha="center", va="center", fontsize=13)
    axes = figure.add_axes((0, PLOTS / height, 1, sheet.height / height))
    axes.axis("off")
    axes.imshow(np.asarray(sheet), aspect="auto", interpolation="none")  # pixel on pixel: its letters stay sharp
    grid = figure.add_gridspec(2, 3, width_ratios=(1.25, 1, 1))
    _plot_classes(figure.add_subplot(grid[:, 0]), names, ground_truth)
    _plot_box_sizes(figure.add_subplot(grid[0, 1]), ground_truth)
    _plot_positions(figure.add_subplot(grid[0, 2]), ground_truth)
    _plot_image_sizes(figure.add_subplot(grid[1, 1]), ground_truth)
    _plot_boxes_per_image(figure.add_subplot(grid[1, 2]), ground_truth)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a frame stands in its place
        figure.savefig(path, dpi=DPI)


def _count(number: int, word: str) -> str:
    plural = word if number == 1 else word + ("s" if word == "image" else "es")
    return f"{number:,} {plural}"


def _sheet(samples: Sequence[tuple[Tensor, dict]], names: Sequence[str]) -> Image.Image:
    """The pictures with their boxes, `COLUMNS` side by side, a row as high as its highest picture."""
    tiles = [_tile(image, target, names) for image, target in samples]
    rows = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
    heights = [max(tile.height for tile in row) for row in rows]
    sheet = Image.new("RGB", (WIDTH, sum(heights) + GAP * (len(rows) + 1)), "white")
    y = GAP
    for row, height in zip(rows, heights):
        for column, tile in enumerate(row):
            x = GAP + (TILE + GAP) * column + (TILE - tile.width) // 2
            sheet.paste(tile, (x, y + (height - tile.height) // 2))
        y += height + GAP
    return sheet


def _tile(image: Tensor, target: dict, names: Sequence[str]) -> Image.Image:
    """The image at the size of the page first, drawn into after: names stay readable whatever the size of the image."""
    picture = to_picture(image)
    scale = TILE / max(picture.size)
    size = [max(MIN_TILE, round(side * scale)) for side in picture.size]
    stretch = torch.tensor([new / old for new, old in zip(size, picture.size)] * 2)
    boxes = torch.as_tensor(target["boxes"], dtype=torch.float32).cpu().reshape(-1, 4) * stretch
    return draw_boxes(picture.resize(size, Image.Resampling.BICUBIC), boxes, target["labels"], class_names=names)


def _plot_classes(axes, names: Sequence[str], truth: dict) -> None:
    """Bars of boxes per class, the commonest first; the paler part of a bar is crowd regions and difficult objects."""
    apart = truth["iscrowd"] | truth["difficult"]
    total = np.bincount(truth["labels"], minlength=len(names) + 1)[1:]
    pale = np.bincount(truth["labels"][apart], minlength=len(names) + 1)[1:]
    order = np.argsort(-total, kind="stable")
    shown, others = (order, []) if len(order) <= MAX_CLASSES + 1 else (order[:MAX_CLASSES], order[MAX_CLASSES:])
    bars = [(names[k], total[k], pale[k], np.array(class_colour(int(k) + 1)) / 255) for k in shown]
    if len(others):
        bars.append((f"{len(others):,} others", total[others].sum(), pale[others].sum(), np.full(3, 0.5)))
    for y, (_, count, few, colour) in enumerate(bars):
        axes.barh(y, count - few, color=colour)
        axes.barh(y, few, left=count - few, color=0.35 * colour + 0.65)
    missing = int((total == 0).sum())
    _label(axes, "Boxes per class", f"{missing:,} of {len(names):,} without a box" if missing else "", "boxes", "")
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars], parse_math=False)  # a name may hold a $
    axes.set_ylim(max(len(bars), MIN_CLASSES) - 0.5, -0.5)
    axes.set_xlim(0, 1.05 * max([1, *(count for _, count, *_ in bars)]))
    _count_axis(axes.xaxis, 4)
    axes.grid(axis="y", visible=False)
    right = axes.twinx()
    numbers = [f"{count - few:,} + {few:,}" if few else f"{count:,}" for _, count, few, _ in bars]
    right.set_yticks(range(len(bars)), numbers, fontsize=LETTERS)
    right.set_ylim(axes.get_ylim())
    right.tick_params(length=0)
    right.set_frame_on(False)
    if apart.any():
        handles = [Patch(color="0.4"), Patch(color="0.79")]
        axes.legend(handles, ["ordinary", "+ crowd or difficult"], loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=2,
                    frameon=False, fontsize=LETTERS)


def _plot_box_sizes(axes, truth: dict) -> None:
    """Width against height, with the lines of equal area that part small, medium and large boxes.

    The area is that of the box. COCO's metrics go by the area of the annotation, which is smaller where it has an outline.
    """
    sides = truth["boxes"][:, 2:] - truth["boxes"][:, :2]
    seen = (sides > 0).all(axis=1)  # a logarithm has no place for others
    sides, labels = sides[seen], truth["labels"][seen]
    if len(sides) == 0:
        return _label(axes, "Box sizes", "", "width [px]", "height [px]", empty=True)
    low, high = min(16, sides.min()), max(256, sides.max())  # room for both lines
    low, high = 2 ** np.floor(np.log2(low)), 2 ** np.ceil(np.log2(high))
    if len(sides) <= MAX_POINTS:
        palette = np.array([class_colour(label) for label in range(labels.max() + 1)]) / 255
        axes.scatter(*sides.T, s=8, c=palette[labels], alpha=0.6, linewidths=0)
    else:
        cells = np.geomspace(low, high, 65)
        counts, _, _ = np.histogram2d(*sides.T, bins=(cells, cells))
        drawn = np.ma.masked_equal(counts.T, 0)
        mesh = axes.pcolormesh(cells, cells, drawn, norm=LogNorm(1, max(2, counts.max())), cmap="viridis_r", rasterized=True)
        _colour_bar(axes, mesh)
    ends = np.array([low, high])
    for area, style in ((SMALL, "--"), (LARGE, "-")):
        axes.plot(ends, area / ends, style, color="black", linewidth=0.8)
    area = sides.prod(axis=1)
    parts = [(area < SMALL).mean(), ((area >= SMALL) & (area <= LARGE)).mean(), (area > LARGE).mean()]
    share = ", ".join(f"{word} {100 * part:.0f} %" for word, part in zip(("small", "medium", "large"), parts))
    _label(axes, "Box sizes", share, "width [px] (lines: area 32², 96² px)", "height [px]")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlim=(low, high), ylim=(low, high))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")


def _plot_positions(axes, truth: dict) -> None:
    """Counts of box centres in a 20 x 20 grid over the image, its upper edge above."""
    boxes, index = truth["boxes"], truth["image_index"]
    labels = ("centre x / image width", "centre y / image height")
    if len(boxes) == 0:
        return _label(axes, "Positions of the boxes", "", *labels, empty=True)
    x = (boxes[:, 0] + boxes[:, 2]) / 2 / truth["widths"][index]
    y = (boxes[:, 1] + boxes[:, 3]) / 2 / truth["heights"][index]
    counts, _, _ = np.histogram2d(y, x, bins=20, range=((0, 1), (0, 1)))
    mesh = axes.imshow(counts, extent=(0, 1, 1, 0), cmap="Blues", vmin=0, vmax=max(1, counts.max()), aspect="auto")
    _colour_bar(axes, mesh, MaxNLocator(6, integer=True))
    _label(axes, "Positions of the boxes", "boxes per cell of 1/20 x 1/20", *labels)
    axes.grid(visible=False)


def _plot_image_sizes(axes, truth: dict) -> None:
    """Width against height, a disc per size, its area by the number of images."""
    sizes, counts = np.unique(np.stack([truth["widths"], truth["heights"]], axis=1), axis=0, return_counts=True)
    commonest = int(counts.argmax())
    text = f"{_count(int(counts[commonest]), 'image')} of {sizes[commonest][0]} x {sizes[commonest][1]} px"
    if len(sizes) > 1:
        text = f"{len(sizes):,} sizes; {text}"
    axes.scatter(*sizes.T, s=5 + 245 * counts / counts.max(), color="tab:blue", alpha=0.5, linewidths=0, zorder=2)
    _label(axes, "Image sizes", text, "width [px]", "height [px]")
    axes.set_xlim(0, 1.15 * sizes[:, 0].max())
    axes.set_ylim(0, 1.15 * sizes[:, 1].max())


def _plot_boxes_per_image(axes, truth: dict) -> None:
    """Images by their number of boxes, crowd and difficult ones included."""
    counts = np.bincount(truth["image_index"], minlength=truth["num_images"])
    most = max(5, int(counts.max()))  # an axis of whole numbers needs a few
    step = math.ceil((most + 1) / 40)  # numbers of boxes to a bar
    edges = np.arange(0, most + step + 1, step)
    images, _ = np.histogram(counts, edges)
    axes.bar(edges[:-1] - 0.5, images, width=step, align="edge", color="tab:blue", edgecolor="white", linewidth=0.5)
    text = f"mean {counts.mean():.1f}, most {counts.max():,}; {_count(int((counts == 0).sum()), 'image')} without"
    _label(axes, "Boxes per image", text, "boxes", "images")
    _count_axis(axes.xaxis, 3)
    _count_axis(axes.yaxis, 6)


def _count_axis(axis, ticks: int) -> None:
    axis.set_major_locator(MaxNLocator(ticks, integer=True))
    axis.set_major_formatter("{x:,.0f}")


def _colour_bar(axes, mesh, ticks: MaxNLocator | None = None) -> None:
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02, aspect=30, ticks=ticks)
    bar.ax.tick_params(labelsize=LETTERS - 1)


def _label(axes, title: str, text: str, xlabel: str, ylabel: str, empty: bool = False) -> None:
    """What every plot has: title, a second line of numbers, names of the axes with their units."""
    axes.set_title(title + (f"\n{text}" if text else ""), fontsize=LETTERS)
    axes.set_xlabel(xlabel, fontsize=LETTERS)
    axes.set_ylabel(ylabel, fontsize=LETTERS)
    axes.tick_params(labelsize=LETTERS)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    if empty:
        axes.text(0.5, 0.5, "no boxes", transform=axes.transAxes, ha="center", color=GREY)
