import colorsys
import copy
import math
import pickle

import pytest
import torch

from datasets.errors import InputError
from datasets.yolo_augmentation import (
    GREY,
    LARGEST,
    MIN_AREA,
    HSVJitter,
    RandomAffine,
    WarpedLetterbox,
    adjust_hsv,
    fitted_size,
    placement,
    plain_recipe,
    render,
    warp_target,
    yolo_recipe,
)
from network_files import boxes as box_ops

STRONG = {"degrees": 20, "translate": 0.1, "scale": 0.5, "shear": 8, "hsv_h": 0.0138, "hsv_s": 0.678, "hsv_v": 0.36}
GEOMETRY = {key: STRONG[key] for key in ("degrees", "translate", "scale", "shear")}


def _target(boxes):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    return {"boxes": boxes, "labels": torch.arange(1, count + 1), "image_id": 3, "area": box_ops.area(boxes) / 2,
            "iscrowd": torch.zeros(count, dtype=torch.int64), "difficult": torch.zeros(count, dtype=torch.int64)}


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _no_colours(image, target, generator):
    return image, target


def _matrix(*rows):
    return torch.tensor([*rows, (0, 0, 1)], dtype=torch.float64)


@pytest.mark.parametrize(("picture", "wanted"), [
    ((375, 500), (312, 416)), ((334, 500), (278, 416)), ((500, 375), (416, 312)), ((416, 416), (416, 416)),
    ((1, 900), (1, 416)), ((50, 100), (208, 416))])
def test_the_long_side_becomes_the_size(picture, wanted):
    assert fitted_size(*picture, 416) == wanted


def test_without_amounts_the_picture_is_letterboxed():
    image = torch.randint(0, 256, (3, 60, 96), dtype=torch.uint8)
    out, target = yolo_recipe(96, {}, hflip=0.0)(image, _target([[10, 20, 40, 50]]), _generator())
    assert torch.equal(out[:, 18:78], image)  # (96 - 60) // 2 above, to the byte
    assert (out[:, :18] == GREY).all() and (out[:, 78:] == GREY).all() and GREY == 128
    assert target["boxes"].tolist() == [[10, 38, 40, 68]] and target["area"].tolist() == [450]
    out, target = yolo_recipe(96, {}, hflip=1.0, rect=True)(image, _target([[10, 20, 40, 50]]), _generator())
    assert torch.equal(out, image.flip(2)) and target["boxes"].tolist() == [[56, 20, 86, 50]]


def test_resized_boxes_by_hand():
    """200 x 100 at size 50: a quarter, and (50 - 25) // 2 = 12 rows above."""
    image = torch.full((3, 100, 200), 9, dtype=torch.uint8)
    out, target = WarpedLetterbox(50, {})(image, _target([[40, 20, 120, 60]]), _generator())
    assert target["boxes"].tolist() == [[10, 17, 30, 27]] and target["area"].tolist() == [100]
    assert (out[:, 12:37] == 9).all() and (out[:, :12] == GREY).all() and (out[:, 37:] == GREY).all()


def test_plain_recipe_mirrors_only():
    image = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8)
    out, target = plain_recipe(1.0)(image, _target([[1, 2, 5, 6]]), _generator())
    assert torch.equal(out, image.flip(2)) and target["boxes"].tolist() == [[3, 2, 7, 6]]
    assert plain_recipe(0.0)(image, _target([]), _generator())[0] is image


def test_quarter_turn_of_pixels_and_boxes():
    """x' = 8 - y, y' = x: the picture turned clockwise."""
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    matrix = _matrix((0, -1, 8), (1, 0, 0))
    out, target = render([(image, _target([[0, 1, 5, 7]]), matrix)], (8, 8), 0.1, _no_colours, _generator())
    assert torch.equal(out, image.rot90(-1, (1, 2)))
    assert target["boxes"].tolist() == [[1, 0, 7, 5]] and target["area"].tolist() == [15]


def test_affine_draws_what_it_says():
    def draws(**hyp):
        return torch.stack([RandomAffine(hyp)((60, 80), (60, 80), _generator(seed)) for seed in range(300)])

    centre = torch.tensor([40, 30, 1.0], dtype=torch.float64)
    assert torch.equal(RandomAffine({})((60, 80), (60, 80), _generator()), torch.eye(3, dtype=torch.float64))
    grown = draws(scale=0.5)
    assert (grown[:, 0, 1] == 0).all() and 0.5 <= grown[:, 0, 0].min() < 0.52 and 1.48 < grown[:, 0, 0].max() <= 1.5
    assert torch.allclose(grown @ centre, centre.expand(300, 3))
    turned = draws(degrees=10)
    angles = torch.atan2(turned[:, 1, 0], turned[:, 0, 0]).rad2deg()
    assert -10 <= angles.min() < -9.5 and 9.5 < angles.max() <= 10
    assert torch.allclose(turned @ centre, centre.expand(300, 3))
    assert torch.allclose(torch.linalg.det(turned), torch.ones(300, dtype=torch.float64))
    sheared = draws(shear=10)
    limit = math.tan(math.radians(10))
    for row, column in ((0, 1), (1, 0)):
        assert -limit <= sheared[:, row, column].min() < -0.95 * limit and 0.95 * limit < sheared[:, row, column].max() <= limit
    assert (sheared[:, 0, 1] != sheared[:, 1, 0]).all() and (sheared[:, 0, 0] == 1).all()
    shifted = draws(translate=0.25)[:, :2, 2]  # x by the width, y by the height
    for column, most in ((0, 20), (1, 15)):
        assert -most <= shifted[:, column].min() < -0.95 * most and 0.95 * most < shifted[:, column].max() <= most


def test_the_middle_of_a_larger_canvas_comes_to_the_middle():
    matrix = RandomAffine({})((200, 200), (100, 100), _generator())
    assert (matrix @ torch.tensor([100, 100, 1.0], dtype=torch.float64)).tolist() == [50, 50, 1]
    assert (matrix @ torch.tensor([50, 150, 1.0], dtype=torch.float64)).tolist() == [0, 100, 1]


def test_which_boxes_are_kept():
    identity = torch.eye(3, dtype=torch.float64)

    def kept(*boxes, matrix=identity, min_area=MIN_AREA):
        return [label - 1 for label in warp_target(_target(boxes), matrix, (100, 100), min_area)["labels"].tolist()]

    assert kept([0, 0, 4, 30], [0, 0, 4.1, 30], [0, 0, 30, 4]) == [1]  # above 4 pixels
    assert kept([0, 0, 50, 5], [0, 0, 49.9, 5], [0, 0, 5, 49.9]) == [1, 2]  # below 10 : 1
    # 20 of 200 and 21 of 200 pixels of width are left, then beside the picture.
    assert kept([-180, 0, 20, 100], [-179, 0, 21, 100], [100, 0, 120, 50]) == [1]
    assert kept([-180, 0, 20, 100], min_area=0.0) == [0]
    # Scaling alone drops nothing: a quarter of the side is 1/16 of the area.
    assert kept([0, 0, 100, 80], matrix=placement(1, 1, (0.25, 0.25), 0, 0)) == [0]
    # Grown fourfold, only 1/16 of the box is left in view; its pixels are as many as before.
    assert kept([0, 0, 100, 100], matrix=placement(1, 1, (4, 4), 0, 0)) == []
    # The same with a whole side left: 1/4.
    assert kept([0, 0, 25, 100], matrix=placement(1, 1, (4, 4), 0, 0)) == [0]


def test_fields_are_filtered_together_and_area_follows_the_cut():
    target = _target([[-50, 0, 50, 100], [0, 0, 1, 1], [20, 20, 60, 60]])
    target = warp_target(target, torch.eye(3, dtype=torch.float64), (100, 100))
    assert target["boxes"].tolist() == [[0, 0, 50, 100], [20, 20, 60, 60]] and target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1, 3] and target["area"].tolist() == [2500, 800] and target["image_id"] == 3
    assert len(target["iscrowd"]) == len(target["difficult"]) == 2


@pytest.mark.parametrize("recipe", [yolo_recipe(200, GEOMETRY), yolo_recipe(200, GEOMETRY, rect=True),
                                    yolo_recipe(80, GEOMETRY)])
def test_objects_stay_under_their_boxes(recipe):
    """Drawn in its own colour, each object is found again where its box says: the box encloses it and is no larger than
    the enclosing box of its corners, which for rectangles is exact."""
    colours = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250]], dtype=torch.uint8)
    boxes = torch.tensor([[20, 30, 90, 120], [150, 20, 310, 60], [130, 110, 200, 230]])
    image = torch.full((3, 240, 320), 128, dtype=torch.uint8)
    for (x1, y1, x2, y2), colour in zip(boxes.tolist(), colours):
        image[:, y1:y2, x1:x2] = colour[:, None, None]
    checked = 0
    for seed in range(60):
        out, target = recipe(image, _target(boxes), _generator(seed))
        for box, label in zip(target["boxes"], target["labels"].tolist()):
            if box.amin() < 1 or box[2] > out.shape[2] - 1 or box[3] > out.shape[1] - 1:
                continue  # what is cut may have lost the corner that the box was spanned by
            found = ((out.float() - colours[label - 1, :, None, None]).abs().amax(dim=0) < 100).nonzero()
            edges = torch.cat([found.amin(dim=0).flip(0), found.amax(dim=0).flip(0) + 1]).float()
            assert (edges - box).abs().max() < 2.1, (seed, label, box, edges)  # the tips of corners are blurred
            checked += 1
    assert checked > 60


def test_shrinking_looks_at_all_pixels():
    """A fine chequer becomes its mean; the nearest pixels of 49 would leave it black and white."""
    image = ((torch.arange(700)[:, None] + torch.arange(700)) % 2 * 200).to(torch.uint8).expand(3, 700, 700)
    out, target = yolo_recipe(100, {}, 0.0)(image, _target([[70, 140, 210, 350]]), _generator())
    assert (out[:, 2:-2, 2:-2].float() - 100).abs().max() <= 2
    assert torch.allclose(target["boxes"], torch.tensor([[10.0, 20, 30, 50]]))


def test_shrinking_moves_nothing():
    """25 columns, no multiple of the factor 2: the edge at 13 comes to 13 / 25 of the output."""
    image = torch.full((3, 25, 25), 200, dtype=torch.uint8)
    image[:, :, 13:] = 0
    out = yolo_recipe(10, {}, 0.0)(image, _target([]), _generator())[0].float()
    assert (out[0].mean(dim=0) / 200).sum().item() == pytest.approx(13 / 25 * 10, abs=0.06)


def test_hsv_against_colorsys():
    image = torch.randint(0, 256, (3, 9, 11), dtype=torch.uint8, generator=_generator())
    image[:, 0, 0], image[:, 0, 1], image[:, 0, 2] = 0, 255, 77
    for hue, saturation, value in [(0.0, 1.0, 1.0), (0.1, 1.0, 1.0), (-0.4, 0.3, 1.7), (0.5, 1.9, 0.4), (0.013, 0.0, 1.0)]:
        out = adjust_hsv(image, hue, saturation, value).float()
        for row in range(9):
            for column in range(11):
                h, s, v = colorsys.rgb_to_hsv(*(image[:, row, column].double() / 255).tolist())
                wanted = colorsys.hsv_to_rgb((h + hue) % 1, min(1, s * saturation), min(1, v * value))
                assert (out[:, row, column] / 255 - torch.tensor(wanted)).abs().max() < 0.502 / 255
    assert torch.equal(adjust_hsv(image, 0.0, 1.0, 1.0), image)


def test_hsv_in_strips_shows_no_seams():
    image = torch.randint(0, 256, (3, 150, 20), dtype=torch.uint8, generator=_generator())  # strips are of 64 rows
    for change in [(0.0, 1.3, 0.7), (0.2, 0.5, 1.0)]:
        whole = adjust_hsv(image, *change)
        pieces = [adjust_hsv(image[:, start : start + 50], *change) for start in (0, 50, 100)]
        assert torch.equal(whole, torch.cat(pieces, dim=1))


def test_hsv_jitter_draws_what_it_says():
    image = torch.tensor([150, 100, 50], dtype=torch.uint8).reshape(3, 1, 1)
    kept = image.clone()

    def draws(**hyp):
        outs = torch.stack([HSVJitter(hyp)(image, {}, _generator(seed))[0].flatten() for seed in range(300)])
        return torch.tensor([colorsys.rgb_to_hsv(*(out / 255).tolist()) for out in outs])

    hue, saturation, value = colorsys.rgb_to_hsv(150 / 255, 100 / 255, 50 / 255)
    turned, faded, lit = draws(hsv_h=0.05), draws(hsv_s=0.4), draws(hsv_v=0.3)
    assert (turned[:, 0] - hue).min() == pytest.approx(-0.05, abs=0.006)
    assert (turned[:, 0] - hue).max() == pytest.approx(0.05, abs=0.006)
    assert turned[:, 1:].std(dim=0).max() < 1e-6
    assert faded[:, 1].min() / saturation == pytest.approx(0.6, abs=0.02) and (faded[:, 2] - value).abs().max() < 1e-6
    assert faded[:, 1].max() / saturation == pytest.approx(1.4, abs=0.02)
    assert lit[:, 2].min() / value == pytest.approx(0.7, abs=0.02) and lit[:, 2].max() / value == pytest.approx(1.3, abs=0.02)
    assert torch.equal(image, kept) and HSVJitter({})(image, {}, _generator())[0] is image


def test_recipes_keep_their_word():
    recipe = pickle.loads(pickle.dumps(yolo_recipe(96, STRONG)))
    image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
    target = _target([[0, 0, 80, 60], [3, 3, 30, 40], [50, 10, 51, 11], [79, 59, 80, 60]])
    kept = image.clone(), copy.deepcopy(target)
    for seed in range(100):
        out, new = recipe(image, target, _generator(seed))
        assert out.shape == (3, 96, 96) and out.dtype == torch.uint8
        assert out.contiguous().untyped_storage().nbytes() == 3 * 96 * 96
        boxes = new["boxes"]
        assert (boxes >= 0).all() and (boxes <= 96).all() and ((boxes[:, 2:] - boxes[:, :2]) > 4).all()
        assert all(len(new[key]) == len(boxes) for key in ("labels", "area", "iscrowd", "difficult"))
        assert set(new["labels"].tolist()) <= {1, 2} and new["image_id"] == 3
    assert torch.equal(image, kept[0]) and all(
        torch.equal(target[key], kept[1][key]) for key in ("boxes", "labels", "area", "iscrowd", "difficult"))
    torch.rand(7)  # global state is of no account
    again, same = recipe(image, target, _generator(99))
    assert torch.equal(again, out) and torch.equal(same["boxes"], new["boxes"])
    outs = [recipe(image, target, _generator(seed))[0] for seed in range(8)]
    assert all(not torch.equal(outs[0], other) for other in outs[1:])
    empty = recipe(image, _target([]), _generator())
    assert empty[0].shape == (3, 96, 96) and empty[1]["boxes"].shape == (0, 4) and empty[1]["labels"].shape == (0,)


def test_the_fill_stays_grey_under_all_colours():
    recipe = yolo_recipe(64, {"hsv_s": 0.5, "hsv_v": 0.9}, 0.0)
    image = torch.full((3, 32, 64), 60, dtype=torch.uint8)
    outs = [recipe(image, _target([]), _generator(seed))[0] for seed in range(20)]
    assert all((out[:, :16] == GREY).all() and (out[:, 48:] == GREY).all() for out in outs)
    assert len({out[0, 30, 30].item() for out in outs}) > 5


def test_images_of_any_size():
    for height, width in [(1, 1), (1, 50), (300, 2), (7, 900)]:
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        for rect in (False, True):
            recipe = yolo_recipe(32, STRONG, rect=rect)
            for seed in range(10):
                out, new = recipe(image, _target([[0, 0, width, height]]), _generator(seed))
                assert out.shape[1:] == (fitted_size(height, width, 32) if rect else (32, 32))
                assert len(new["boxes"]) == len(new["labels"])


@pytest.mark.parametrize("key", LARGEST)
def test_bad_hyper_parameters(key):
    yolo_recipe(32, {key: LARGEST[key], "giou": 3.54, "lr0": 0.01})
    for value in (-0.1, float("nan"), float("inf"), LARGEST[key] * 1.01):
        with pytest.raises(InputError, match=f"{key} is .*0..{LARGEST[key]:g}"):
            yolo_recipe(32, {key: value})


def test_bad_size():
    with pytest.raises(InputError, match="must be positive"):
        yolo_recipe(0, {})
