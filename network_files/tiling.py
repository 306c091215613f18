"""Large images in overlapping tiles, so that small objects keep their pixels: where the tiles lie, and one result of all.

Shapes: T tiles, K detections of an image
Words:  tile = (x1, y1, x2, y2), whole pixels of the image; inner border = a side of a tile that is none of the image
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from network_files import boxes as box_ops
from network_files.errors import InputError

CONTAINED = 0.8  # part of its own area that a cut box must have inside another one to be taken for a piece of it
NEAR_BORDER = 0.02  # of a tile's side: a box that ends so near to an inner border is taken for cut by it
ROWS_AT_ONCE = 512  # of the matrix of intersections, which thousands of boxes would make too large

Tile = tuple[int, int, int, int]
Detection = dict[str, Tensor]


def tile_boxes(height: int, width: int, size: int, overlap: float) -> list[Tile]:
    """The fewest tiles (x1, y1, x2, y2) of `size` pixels that cover an image, row by row, evenly spread.

    Neighbours share at least `overlap` (0..0.9) of their side. A side of the image that is shorter than `size` is taken whole.

    Raises:
        InputError: no size, or an overlap outside 0..0.9.
    """
    if size < 1:
        raise InputError(f"tiles of {size} pixels: they must have at least 1")
    if not 0 <= overlap <= 0.9:
        raise InputError(f"an overlap of {overlap:g}: it must be in 0..0.9")
    rows, columns = _spans(height, size, overlap), _spans(width, size, overlap)
    return [(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]


def detect_in_tiles(
    detect: Callable[[list[Tensor]], list[Detection]],
    image: Tensor,
    tiles: Sequence[Tile],
    batch_size: int,
    nms_thresh: float,
    max_detections: int,
) -> Detection:
    """Detections of an image [3, H, W] in each tile and in the whole of it, which shows the objects larger than a tile.

    `detect` gives "boxes", "labels" and "scores" of each of a list of images, and gets at most `batch_size` tiles at once.
    """
    found = detect([image])
    for first in range(0, len(tiles), batch_size):
        found += detect([image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in tiles[first : first + batch_size]])
    whole = (0, 0, image.shape[2], image.shape[1])
    return merge_tiles(found, [whole, *tiles], nms_thresh, max_detections)


def merge_tiles(detections: Sequence[Detection], tiles: Sequence[Tile], nms_thresh: float, max_detections: int) -> Detection:
    """One detection dict of the image from those of its T tiles, whose boxes are in pixels of their tile; sorted by score.

    A box cut by an inner border is dropped where another tile shows the object whole: a larger box of the same class with
    at least half its score, CONTAINED of it inside. What is left goes through NMS per class.
    """
    assert len(detections) == len(tiles) > 0, f"{len(detections)} detections of {len(tiles)} tiles"
    labels, scores = (torch.cat([found[name] for found in detections]) for name in ("labels", "scores"))
    shifts = [found["boxes"].new_tensor((x1, y1, x1, y1)) for found, (x1, y1, _, _) in zip(detections, tiles)]
    boxes = torch.cat([found["boxes"] + shift for found, shift in zip(detections, shifts)])
    corner = max(tile[2] for tile in tiles), max(tile[3] for tile in tiles)  # the tiles cover the image
    is_cut = torch.cat([_cut_at_border(found["boxes"], tile, corner) for found, tile in zip(detections, tiles)])
    tile_of = torch.cat([torch.full_like(found["labels"], number) for number, found in enumerate(detections)])
    stays = ~_pieces(boxes, labels, scores, is_cut, tile_of)
    boxes, labels, scores = boxes[stays], labels[stays], scores[stays]
    keep = box_ops.batched_nms(boxes, scores, labels, nms_thresh, max_detections)
    return {"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]}


def _spans(length: int, size: int, overlap: float) -> list[tuple[int, int]]:
    """(first, last + 1) of the tiles along a side of the image."""
    if length <= size:
        return [(0, length)]
    step = max(1, math.floor(size * (1 - overlap) + 1e-9))  # 100 * (1 - 0.9) is a little less than 10
    gaps = math.ceil((length - size) / step)
    starts = [number * (length - size) // gaps for number in range(gaps + 1)]
    return [(start, start + size) for start in starts]


def _cut_at_border(boxes: Tensor, tile: Tile, corner: tuple[int, int]) -> Tensor:
    """Mask [K] of the boxes, in pixels of the tile, that reach an inner border; corner: the image's (width, height)."""
    x1, y1, x2, y2 = tile
    near_x, near_y = NEAR_BORDER * (x2 - x1), NEAR_BORDER * (y2 - y1)
    is_cut = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if x1 > 0:
        is_cut |= boxes[:, 0] <= near_x
    if y1 > 0:
        is_cut |= boxes[:, 1] <= near_y
    if x2 < corner[0]:
        is_cut |= boxes[:, 2] >= x2 - x1 - near_x
    if y2 < corner[1]:
        is_cut |= boxes[:, 3] >= y2 - y1 - near_y
    return is_cut


def _pieces(boxes: Tensor, labels: Tensor, scores: Tensor, is_cut: Tensor, tile_of: Tensor) -> Tensor:
    """Mask [K] of the cut boxes that another tile's box of their class contains.

    A doubtful box takes nothing away from a sure one, and of two equal boxes neither goes: NMS keeps the better.
    """
    areas = box_ops.area(boxes)
    pieces = torch.zeros_like(is_cut)
    for label in labels[is_cut].unique():
        members = (labels == label).nonzero().flatten()
        for rows in members[is_cut[members]].split(ROWS_AT_ONCE):
            top_left = torch.maximum(boxes[rows, None, :2], boxes[None, members, :2])
            bottom_right = torch.minimum(boxes[rows, None, 2:], boxes[None, members, 2:])
            shared = (bottom_right - top_left).clamp(min=0).prod(dim=2)  # [rows, members]
            holds = shared > CONTAINED * areas[rows, None]
            holds &= areas[None, members] > areas[rows, None]
            holds &= scores[None, members] >= scores[rows, None] / 2
            holds &= tile_of[None, members] != tile_of[rows, None]
            pieces[rows] = holds.any(dim=1)
    return pieces
