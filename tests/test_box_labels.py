"""Names on boxes: where they stand, cut to the picture, letters that the font lacks."""

import numpy as np
import pytest
from PIL import Image

from train_utils import box_labels
from train_utils.box_labels import _label_places, fit_text, letter_font, paint_boxes, readable_name

RED, BLUE = (250, 0, 0), (0, 0, 250)


def painted(size, boxes, names, tails=None, colours=(RED, BLUE)):
    picture = Image.new("RGB", size)
    paint_boxes(picture, boxes, names, tails or [""] * len(names), colours[: len(boxes)])
    return np.asarray(picture)


def filled(pixels, colour):
    """(left, top, right, bottom) of the ground of a name: where rows of that colour are thicker than a line."""
    is_colour = (pixels == colour).all(axis=2)
    thick = is_colour[:-4] & is_colour[1:-3] & is_colour[2:-2] & is_colour[3:-1]
    thick &= np.roll(thick, 4, axis=1)
    rows, columns = np.nonzero(thick)
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_places_by_hand():
    size = (200, 100)
    assert _label_places([[20, 50, 60, 90]], [30], 15, size).tolist() == [[20, 35, 50, 50]]  # above
    assert _label_places([[20, 5, 60, 90]], [30], 15, size).tolist() == [[20, 5, 50, 20]]  # no room above: inside
    assert _label_places([[190, 50, 199, 90]], [30], 15, size).tolist() == [[169, 35, 199, 50]]  # not beyond the right border
    two = _label_places([[20, 50, 60, 90], [20, 50, 60, 90]], [30, 30], 15, size)
    assert two.tolist() == [[20, 50, 50, 65], [20, 35, 50, 50]]  # the last one chooses first
    five = _label_places([[20, 50, 60, 80]] * 4, [30] * 4, 15, size)
    assert len(np.unique(five, axis=0)) == 4 and five[0].tolist() == [20, 80, 50, 95]
    assert _label_places([[0, 0, 5, 5]], [30], 15, (40, 12)).tolist() == [[0, 0, 30, 15]]  # too low a picture
    assert _label_places([], [], 15, size).shape == (0, 4)


def test_a_name_does_not_hide_another():
    pixels = painted((300, 200), [[100, 100, 200, 180], [102, 101, 202, 181]], ["below", "best"])
    left, top, right, bottom = filled(pixels, BLUE)
    assert bottom < 102 and left >= 100
    _, other_top, _, _ = filled(pixels, RED)
    assert other_top >= bottom


def test_of_very_many_boxes_the_last_have_a_name(monkeypatch):
    placed = []
    monkeypatch.setattr(box_labels, "_label_places", lambda boxes, *words: placed.extend(boxes) or _label_places(boxes, *words))
    boxes = [[k, k, k + 9, k + 9] for k in range(box_labels.MAX_LABELS + 50)]
    pixels = painted((500, 500), boxes, ["name"] * (len(boxes) - 1) + [""], colours=[RED] * len(boxes))
    assert placed == boxes[-box_labels.MAX_LABELS - 1 : -1]  # the last one has no name
    assert (pixels[0, :9] == RED).all()  # the first is drawn all the same


def test_letters_grow_with_the_picture_but_slower_than_a_large_one(monkeypatch):
    sizes = []
    monkeypatch.setattr(box_labels, "letter_font", lambda size: sizes.append(size) or letter_font(size))
    for side in (16, 300, 560, 1000, 4000):
        painted((side, side), [[1, side // 2, side // 2, side - 2]], ["cat"])
    assert sizes == [11, 11, 20, 36, 83]


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (64, 48), (8, 300), (300, 8)])
def test_pictures_too_small_for_names_have_boxes(size):
    pixels = painted(size, [[1, 1, size[0] - 2, size[1] - 2]], ["a long name of a class"], [" 0.50"])
    assert (pixels == RED).all(axis=2).any()


def test_names_are_cut_to_the_width():
    font = letter_font(11)
    assert fit_text("cat", " 0.50", font, 200) == "cat 0.50"
    cut = fit_text("a long name of a class", " 0.50", font, 100)
    assert cut.endswith("… 0.50") and cut.startswith("a l") and font.getlength(cut) <= 100
    assert fit_text("cat", " 0.50", font, 20) == "" and fit_text("", "", font, 20) == ""


def test_readable_name():
    assert readable_name("traffic  light\n", 1) == "traffic light"
    for name in ("Größe", "żółć", "кошка", "γάτα"):
        assert readable_name(name, 3) == name
    assert readable_name("猫", 3) == "3 猫" and readable_name("", 4) == "4"
    assert readable_name("half \ud800 letter", 5) == "half ? letter"
    assert readable_name("x" * 30 + "the end", 1, 20) == "x" * 11 + "…" + "xthe end"
    assert len(readable_name("x" * 500, 1)) == 60
