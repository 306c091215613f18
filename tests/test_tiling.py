"""Tiles: where they lie, boxes moved back and joined, objects on borders found once."""

import pytest
import torch

from network_files.errors import InputError
from network_files.tiling import detect_in_tiles, merge_tiles, tile_boxes


def found(*rows):
    """A detection dict of rows (x1, y1, x2, y2, label, score)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), "scores": table[:, 5]}


def rows_of(detection):
    """[x1, y1, x2, y2, label, score] per detection, to 1e-5."""
    columns = detection["boxes"], detection["labels"][:, None].float(), detection["scores"][:, None]
    return [[round(value, 5) for value in row] for row in torch.cat(columns, dim=1).tolist()]


def fake_model(objects):
    """A detector that knows an object by the brightness of its pixels and sees as much of it as its image shows."""

    def detect(images):
        results = []
        for image in images:
            rows = []
            for brightness, (label, score) in objects.items():
                ys, xs = (image[0] == brightness).nonzero(as_tuple=True)
                if len(xs):
                    box = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
                    rows.append((*(int(side) for side in box), label, score))
            results.append(found(*rows))
        return results

    return detect


# where the tiles lie
def test_hand_worked():
    assert tile_boxes(100, 180, 100, 0.2) == [(0, 0, 100, 100), (80, 0, 180, 100)]
    assert tile_boxes(150, 100, 100, 0.0) == [(0, 0, 100, 100), (0, 50, 100, 150)]
    # 250 - 100 pixels to go in steps of at most 80: two, spread evenly; rows first
    assert tile_boxes(101, 250, 100, 0.2) == [
        (0, 0, 100, 100), (75, 0, 175, 100), (150, 0, 250, 100), (0, 1, 100, 101), (75, 1, 175, 101), (150, 1, 250, 101)
    ]


def test_small_images_are_one_tile():
    assert tile_boxes(60, 80, 100, 0.2) == [(0, 0, 80, 60)]
    assert tile_boxes(100, 100, 100, 0.9) == [(0, 0, 100, 100)]
    assert tile_boxes(20, 150, 100, 0.0) == [(0, 0, 100, 20), (50, 0, 150, 20)]  # nothing is padded


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("size", [10, 33, 100])
def test_everything_is_covered_with_the_overlap(size, overlap):
    for length in range(size, 4 * size, 7):
        tiles = tile_boxes(5, length, size, overlap)
        assert tiles[0][0] == 0 and tiles[-1][2] == length
        assert all(x2 - x1 == size and (y1, y2) == (0, 5) for x1, y1, x2, y2 in tiles)
        shared = [before[2] - after[0] for before, after in zip(tiles, tiles[1:])]
        assert all(pixels >= overlap * size - 1e-6 for pixels in shared)
        assert len(tiles) == 1 or (length - size) / (len(tiles) - 1) <= size * (1 - overlap) + 1e-6


def test_wrong_numbers():
    with pytest.raises(InputError, match="tiles of 0 pixels"):
        tile_boxes(10, 10, 0, 0.2)
    for overlap in (1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="it must be in 0..0.9"):
            tile_boxes(10, 10, 5, overlap)


# one result
TWO = [(0, 0, 100, 100), (80, 0, 180, 100)]


def test_boxes_are_moved_back_and_sorted():
    merged = merge_tiles([found((10, 10, 20, 30, 2, 0.5)), found((60, 40, 75, 50, 1, 0.75))], TWO, 0.5, 100)
    assert rows_of(merged) == [[140, 40, 155, 50, 1, 0.75], [10, 10, 20, 30, 2, 0.5]]
    assert merged["labels"].dtype == torch.int64
    assert rows_of(merge_tiles([found((10, 10, 20, 30, 2, 0.5)), found((60, 40, 75, 50, 1, 0.75))], TWO, 0.5, 1)) == [
        [140, 40, 155, 50, 1, 0.75]
    ]


def test_nothing_found():
    merged = merge_tiles([found(), found()], TWO, 0.5, 100)
    assert merged["boxes"].shape == (0, 4) and len(merged["labels"]) == len(merged["scores"]) == 0


def test_an_object_in_the_overlap_is_found_once_per_class():
    left, right = found((84, 10, 96, 30, 1, 0.5), (84, 10, 96, 30, 2, 0.25)), found((4, 10, 16, 30, 1, 0.75))
    assert rows_of(merge_tiles([left, right], TWO, 0.5, 100)) == [[84, 10, 96, 30, 1, 0.75], [84, 10, 96, 30, 2, 0.25]]


def test_a_piece_gives_way_to_the_whole_object():
    whole = found((0, 10, 40, 50, 1, 0.5))  # begins at the border of its own tile, ends at 120
    piece = found((82, 10, 99, 50, 1, 0.75))  # 17 of the 40 pixels: IoU .43, which NMS at .5 would keep
    assert rows_of(merge_tiles([piece, whole], TWO, 0.5, 100)) == [[80, 10, 120, 50, 1, 0.5]]


@pytest.mark.parametrize(
    "piece",
    [
        (82, 10, 97, 50, 1, 0.75),  # ends 3 pixels before the border, which is not 2 % of the tile
        (82, 10, 99, 50, 2, 0.75),  # of another class
        (69, 10, 99, 50, 1, 0.75),  # 19 of its 30 pixels inside
        (82, 10, 99, 50, 1, 1.0),  # more than twice as sure
    ],
)
def test_other_boxes_stay(piece):
    whole = found((0, 10, 40, 50, 1, 0.45))
    assert len(merge_tiles([found(piece), whole], TWO, 0.5, 100)["scores"]) == 2


def test_the_border_of_the_image_cuts_nothing():
    tiles = [(0, 0, 100, 100), (0, 80, 100, 180)]
    small = found((50, 0, 60, 10, 1, 0.75))  # at the top of the image, within a larger one of another tile
    large = found((40, -80, 100, 20, 1, 0.5))
    assert len(merge_tiles([small, large], tiles, 0.5, 100)["scores"]) == 2
    for side in ((0, 50, 10, 60), (90, 50, 100, 60)):  # left and right
        around = found((0, -80, 100, 20, 1, 0.5))
        assert len(merge_tiles([found((*side, 1, 0.75)), around], tiles, 0.5, 100)["scores"]) == 2


def test_boxes_of_the_same_tile_and_equal_boxes():
    both = found((80, 10, 100, 50, 1, 0.5), (60, 10, 100, 60, 1, 0.5))
    assert len(merge_tiles([both, found()], TWO, 0.5, 100)["scores"]) == 2  # a tile's own boxes are its NMS's business
    left, right = found((80, 10, 100, 50, 1, 0.5)), found((0, 10, 20, 50, 1, 0.5))  # the overlap itself, cut in both
    assert rows_of(merge_tiles([left, right], TWO, 0.5, 100)) == [[80, 10, 100, 50, 1, 0.5]]


def test_many_boxes_are_compared_in_parts(monkeypatch):
    monkeypatch.setattr("network_files.tiling.ROWS_AT_ONCE", 3)
    pieces = [(82, 10 * k, 99, 10 * k + 8, 1, 0.5) for k in range(10)]
    wholes = [(0, 10 * k, 40, 10 * k + 8, 1, 0.5) for k in range(10)]
    merged = merge_tiles([found(*pieces), found(*wholes)], TWO, 0.5, 100)
    assert sorted(row[1] for row in rows_of(merged)) == [10.0 * k for k in range(10)]
    assert all(row[0] == 80 and row[2] == 120 for row in rows_of(merged))


# a detector on tiles
def test_an_object_across_four_tiles_appears_once():
    image = torch.zeros(3, 180, 180, dtype=torch.uint8)
    image[:, 60:120, 70:110] = 1  # larger than the overlap of 20 pixels: no tile shows all of it
    image[:, 20:30, 20:30] = 2
    image[:, 82:98, 165:175] = 2  # the same kind in the overlap of two tiles, which both show it whole
    detect = fake_model({1: (1, 0.75)})
    tiles = tile_boxes(180, 180, 100, 0.2)
    assert len(tiles) == 4
    assert rows_of(detect_in_tiles(detect, image, tiles, 3, 0.5, 100)) == [[70, 60, 110, 120, 1, 0.75]]
    merged = merge_tiles(detect([image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in tiles]), tiles, 0.5, 100)
    assert len(merged["scores"]) == 4  # what the look at the whole image is for


def test_batches_and_the_whole_image():
    sizes, image = [], torch.zeros(3, 100, 250, dtype=torch.uint8)

    def detect(images):
        sizes.append([tuple(image.shape[1:]) for image in images])
        return [found() for _ in images]

    assert len(detect_in_tiles(detect, image, tile_boxes(100, 250, 100, 0.2), 2, 0.5, 100)["scores"]) == 0
    assert sizes == [[(100, 250)], [(100, 100)] * 2, [(100, 100)]]
