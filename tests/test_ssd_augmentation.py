import colorsys
import copy
import pickle

import pytest
import torch

from datasets.errors import InputError
from datasets.ssd_augmentation import (
    ANY_RESAMPLING,
    CROP_OPTIONS,
    RECIPES,
    IoUCrop,
    PaperColours,
    ResizedWindow,
    SSDCropping,
    Window,
    ZoomOut,
    centres_inside,
    crop_target,
    draw_free_windows,
    draw_windows,
)
from datasets.transforms import Compose, RandomHorizontalFlip
from network_files import boxes as box_ops

MEAN = (0.4, 0.5, 0.6)
FILL = [102, 128, 153]  # 255 times the mean, rounded
NO_BOXES = torch.zeros(0, 4)


class Look:
    """A step that always chooses the same window."""

    def __init__(self, *window):
        self.window = Window(*window)

    def __call__(self, boxes, height, width, generator):
        return self.window


def _target(boxes):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    return {"boxes": boxes, "labels": torch.arange(1, count + 1), "image_id": 3, "area": box_ops.area(boxes) / 2,
            "iscrowd": torch.zeros(count, dtype=torch.int64), "difficult": torch.zeros(count, dtype=torch.int64)}


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _many_boxes():
    """300 boxes of all sizes in a picture of 100 x 200: every option can be met."""
    size, place = torch.rand(2, 300, 2, generator=_generator(1)).unbind(0)
    size = 0.2 + 0.8 * size
    corners = torch.cat([place * (1 - size), place * (1 - size) + size], dim=1)
    return corners * torch.tensor([200.0, 100.0, 200.0, 100.0])


def _crops(crop, boxes, count, seed=0):
    """Windows [count, 4] xyxy of a picture of 100 x 200."""
    generator = _generator(seed)
    windows = torch.tensor([crop(boxes, 100, 200, generator) for _ in range(count)], dtype=torch.float32)
    return box_ops.xywh_to_xyxy(windows)


def test_a_window_by_hand():
    target = crop_target(_target([[10, 10, 30, 30], [0, 0, 24, 60], [60, 30, 80, 50], [20, 0, 40, 40]]), Window(20, 20, 50, 40))
    # The centres: (20, 20) on the corner is out, (12, 30) is out, (70, 40) on the edge is out, (30, 20) on the edge too.
    assert target["boxes"].shape == (0, 4) and len(target["difficult"]) == len(target["area"]) == 0
    target = crop_target(_target([[10, 10, 32, 34], [0, 0, 1, 1], [50, 40, 80, 70]]), Window(20, 20, 50, 40))
    assert target["boxes"].tolist() == [[0, 0, 12, 14], [30, 20, 50, 40]] and target["labels"].tolist() == [1, 3]
    # Areas were half of the boxes' and stay half of what is left of them.
    assert target["area"].tolist() == pytest.approx([84, 200]) and target["image_id"] == 3
    # Looking beyond the image moves the boxes and cuts nothing.
    target = crop_target(_target([[0, 0, 10, 10]]), Window(-5, -7, 40, 40))
    assert target["boxes"].tolist() == [[5, 7, 15, 17]] and target["area"].tolist() == [50]


def test_resize_by_hand():
    image = torch.arange(8, dtype=torch.uint8).reshape(1, 2, 4).repeat(3, 1, 1) * 30
    out, target = ResizedWindow(4)(image, _target([[1, 0, 3, 2], [0, 1, 1, 2]]), _generator())
    assert out.shape == (3, 4, 4) and out.dtype == torch.uint8
    assert target["boxes"].tolist() == [[1, 0, 3, 4], [0, 2, 1, 4]] and target["area"].tolist() == [4, 1]
    small = ResizedWindow(2, resamplings=[("bilinear", True)])(image, _target([]), _generator())[0]
    # The tent over 4 pixels in a row is 3/7, 3/7, 1/7 at the border: row 0 gives (0 + 30 * 3 + 60) / 7 = 21.4.
    assert small[0, 0].tolist() == [21, 69]


def test_zoom_out_and_crop_by_hand():
    """The pixels of the visible part and its boxes land in the same whole pixels, the rest has the mean colour."""
    image = torch.full((3, 40, 80), 255, dtype=torch.uint8)
    image[:, 10:20, 20:60] = 0
    view = ResizedWindow(40, [Look(-40, -20, 160, 80)], MEAN)
    out, target = view(image, _target([[20, 10, 60, 20]]), _generator())
    # 160 x 80 becomes 40 x 40: x / 4, y / 2 after the shift by 40, 20; the object's 400 pixels become 10 * 5.
    assert target["boxes"].tolist() == [[15, 15, 25, 20]] and target["area"].tolist() == [25]
    assert (out[:, 11:13, 11:13] == 255).all() and (out[:, 16:19, 17:23] == 0).all()
    assert [out[:, y, x].tolist() for y, x in [(0, 0), (9, 20), (39, 39), (20, 9), (20, 30)]] == [FILL] * 5
    assert out[:, 20, 10].tolist() == out[:, 29, 29].tolist() == [255] * 3
    # A crop of the zoomed-out view: its pixels 60..100 x 30..50 are the image's 20..60 x 10..30.
    out, target = ResizedWindow(80, [Look(-40, -20, 160, 80), Look(60, 30, 40, 20)], MEAN)(
        image, _target([[20, 10, 60, 20], [62, 2, 70, 8]]), _generator())
    assert target["boxes"].tolist() == [[0, 0, 80, 40]] and target["labels"].tolist() == [1]
    assert (out[:, :38] == 0).all() and (out[:, 42:] == 255).all()


def test_boxes_go_where_the_whole_pixels_of_the_window_go():
    """An image of 10 x 10 in a view of 34 x 34 shown at 20 x 20 goes from 8 * 20 / 34 = 4.7 to 10.6: the pixels 5..11."""
    image = torch.zeros(3, 10, 10, dtype=torch.uint8)
    out, target = ResizedWindow(20, [Look(-8, -8, 34, 34)], MEAN)(image, _target([[0, 0, 10, 10]]), _generator())
    dark = (out[0] == 0).nonzero()
    assert target["boxes"].tolist() == [[5, 5, 11, 11]]
    assert dark.amin(0).tolist() == [5, 5] and dark.amax(0).tolist() == [10, 10]
    assert target["area"].tolist() == pytest.approx([18])
    for left in (-90, -45):  # a tenth of a pixel, at the end and around a pixel's border, is still one pixel
        out, target = ResizedWindow(2, [Look(left, 0, 100, 10)], MEAN)(image, _target([[0, 0, 10, 10]]), _generator())
        assert (out[0, :, 1] == 0).all() and (out[0, :, 0] == FILL[0]).all()
        assert target["boxes"].tolist() == [[1, 0, 2, 2]]


@pytest.mark.parametrize("resampling", ANY_RESAMPLING)
def test_every_resampling_keeps_an_edge(resampling):
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image[:, :, 20:] = 255
    for size in (17, 90):
        out = ResizedWindow(size, resamplings=[resampling])(image, _target([]), _generator())[0].float()
        assert (out[:, :, : size // 2 - 1] < 30).all() and (out[:, :, size // 2 + 2 :] > 225).all()  # no wrap-around


def test_zoom_out_windows():
    generator = _generator()
    windows = torch.tensor([ZoomOut()(NO_BOXES, 100, 200, generator) for _ in range(2000)]).float()
    left, top, width, height = windows.unbind(1)
    zoomed = width > 200
    assert 0.46 < zoomed.float().mean() < 0.54 and (windows[~zoomed] == torch.tensor([0.0, 0, 200, 100])).all()
    ratio = width[zoomed] / 200
    assert (height[zoomed] / 100 - ratio).abs().max() < 0.01 and 1 < ratio.min() < 1.05 and 3.95 < ratio.max() <= 4
    assert 2.4 < ratio.mean() < 2.6
    assert (left <= 0).all() and (left + width >= 200).all() and (top <= 0).all() and (top + height >= 100).all()
    place = -left[zoomed] / (width[zoomed] - 200)
    assert 0.45 < place.mean() < 0.55 and place.min() < 0.02 and place.max() > 0.98
    assert ZoomOut(p=0.0)(NO_BOXES, 100, 200, generator) == (0, 0, 200, 100)


def test_drawn_windows_follow_the_paper():
    windows = draw_windows(20_000, 1000, 2000, _generator())
    assert (windows == windows.round()).all() and (windows[:, :2] >= 0).all()
    assert (windows[:, 2] <= 2000).all() and (windows[:, 3] <= 1000).all()
    wide, high = (windows[:, 2] - windows[:, 0]) / 2000, (windows[:, 3] - windows[:, 1]) / 1000
    scale, ratio = (wide * high).sqrt(), wide / high
    assert 0.299 < scale.min() < 0.31 and 0.99 < scale.max() <= 1.0 and abs(scale.mean() - 0.65) < 0.005
    assert 0.497 < ratio.min() < 0.51 and 1.95 < ratio.max() < 2.01
    small = scale < 0.7  # here any ratio fits, and it is uniform in 0.5..2
    assert abs(ratio[small].mean() - 1.25) < 0.01 and abs(ratio[small].std() - 1.5 / 12**0.5) < 0.01
    assert (ratio >= scale**2 - 0.005).all() and (ratio <= 1 / scale**2 + 0.005).all()
    free, allowed = draw_free_windows(20_000, 1000, 2000, _generator())
    wide, high = (free[:, 2] - free[:, 0]) / 2000, (free[:, 3] - free[:, 1]) / 1000
    assert abs(wide.mean() - 0.65) < 0.005 and abs(high.mean() - 0.65) < 0.005 and abs(wide.std() - 0.7 / 12**0.5) < 0.005
    ratio = wide / high
    assert 0.497 < ratio[allowed].min() and ratio[allowed].max() < 2.01 and abs(allowed.float().mean() - 0.837) < 0.01
    assert (ratio[~allowed] < 0.503).logical_or(ratio[~allowed] > 1.99).all()


@pytest.mark.parametrize("option", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_the_constraint_of_the_crop_holds(option):
    boxes = torch.tensor([[20.0, 10.0, 170.0, 90.0], [150.0, 60.0, 190.0, 95.0]])
    windows = _crops(IoUCrop([option]), boxes, 2000)
    whole = (windows == torch.tensor([0.0, 0.0, 200.0, 100.0])).all(dim=1)
    best = box_ops.iou(boxes, windows).amax(dim=0)
    assert (best[~whole] >= option).all() and (~whole).sum() > 50
    assert best[~whole].min() < option + 0.2  # and asks for no more
    assert centres_inside(boxes, windows).any(dim=0).all()


@pytest.mark.parametrize("option", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_nvidias_crop_holds_for_all_boxes(option):
    boxes = torch.tensor([[5.0, 4.0, 190.0, 99.0], [15.0, 2.0, 196.0, 95.0]])
    windows = _crops(SSDCropping([option], trials=50, rounds=2), boxes, 2000)
    whole = (windows == torch.tensor([0.0, 0.0, 200.0, 100.0])).all(dim=1)
    worst = box_ops.iou(boxes, windows).amin(dim=0)
    assert (worst[~whole] >= option).all() and (~whole).sum() > 50
    assert worst[~whole].min() < option + 0.2
    ratio = (windows[:, 2] - windows[:, 0]) / (windows[:, 3] - windows[:, 1])  # of a picture twice as wide as high
    assert (ratio > 0.98).all() and (ratio < 4.08).all()


def test_the_two_crops_differ_in_one_and_all():
    apart = torch.tensor([[0.0, 0.0, 50.0, 50.0], [150.0, 50.0, 200.0, 100.0]])
    whole = torch.tensor([0.0, 0.0, 200.0, 100.0])
    assert (_crops(SSDCropping([0.3]), apart, 20) == whole).all()  # cannot be met: ends, and stays whole
    assert (_crops(IoUCrop([0.3]), apart, 100) != whole).any(dim=1).float().mean() > 0.6


@pytest.mark.parametrize("crop", [IoUCrop, SSDCropping])
def test_free_crops_keep_an_object_and_nothing_more(crop):
    windows = _crops(crop([0.0]), torch.tensor([[90.0, 40.0, 94.0, 44.0]]), 300)
    assert centres_inside(torch.tensor([[90.0, 40.0, 94.0, 44.0]]), windows).all()
    assert (windows[:, 2] - windows[:, 0]).min() < 80  # 0.3 * sqrt(2) of the side and less


def _options_used(crop, boxes, count, monkeypatch):
    """The option behind each of `count` crops; None where the picture stayed whole."""
    allows, tried = crop.allows, []
    monkeypatch.setattr(crop, "allows", lambda windows, boxes, option: tried.append(option) or allows(windows, boxes, option))
    generator, used = _generator(3), []
    for _ in range(count):
        window = crop(boxes, 100, 200, generator)
        used.append(None if window == (0, 0, 200, 100) else tried[-1])
    return used


def test_the_mix_of_the_papers_crops_is_uniform(monkeypatch):
    """With boxes for which every option succeeds: a seventh of the crops each, 0.5 among them."""
    used = _options_used(IoUCrop(), _many_boxes(), 2100, monkeypatch)
    assert set(used) == {None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0}
    assert all(236 < used.count(option) < 364 for option in CROP_OPTIONS)  # 300 +- 4 standard deviations


def test_the_mix_of_nvidias_crops(monkeypatch):
    """An option that fails gives way to a new draw, so the easy ones come oftener."""
    used = _options_used(SSDCropping(), torch.tensor([[0.0, 0.0, 200.0, 100.0]]), 2000, monkeypatch)
    assert set(used) == set(CROP_OPTIONS)
    counts = [used.count(option) for option in (None, 0.0, 0.3, 0.5, 0.7, 0.9)]
    assert counts[0] == pytest.approx(counts[1], abs=90) and counts[2] == pytest.approx(counts[3], abs=110)
    assert counts[3] > counts[4] > counts[5] > 3


def test_failed_options_give_way_to_the_others(monkeypatch):
    """A tiny object: 0.1 and more cannot be met, whole and free share the crops."""
    tiny = torch.tensor([[99.0, 49.0, 100.0, 50.0]])
    used = _options_used(IoUCrop(), tiny, 400, monkeypatch)
    assert set(used) == {None, 0.0} and 150 < used.count(0.0) < 250


@pytest.mark.parametrize("crop", [IoUCrop(), SSDCropping()])
def test_pictures_without_objects_stay_whole(crop):
    assert all(crop(NO_BOXES, 100, 200, _generator(seed)) == (0, 0, 200, 100) for seed in range(20))


def _only(chosen, image):
    """300 pictures [300, 3, pixels] of which one of the four amounts varies, in the full range."""
    colours = PaperColours(p=1.0)
    colours.RANGES = PaperColours.RANGES * torch.eye(4)[chosen]
    return torch.stack([colours(image, {}, _generator(seed))[0].flatten(1).float() for seed in range(300)])


def test_the_papers_colours_by_hand():
    image = torch.tensor([[40, 200], [60, 100], [90, 40]], dtype=torch.uint8).reshape(3, 1, 2)
    pixels = image.flatten(1).float()
    shift = _only(0, image) - pixels
    assert (shift == shift[:, :1, :1]).all() and shift.min() in (-32, -31) and shift.max() in (31, 32)
    factor = _only(1, image)[:, :, 0] / pixels[:, 0]  # black stays: all channels are multiplied alike
    assert (factor.amax(1) - factor.amin(1)).max() < 0.025  # a level of 40
    assert 0.48 < factor.min() < 0.52 and 1.48 < factor.max() < 1.52
    assert _only(1, image).max() == 255
    grey = 0.299 * 40 + 0.587 * 60 + 0.114 * 90
    from_grey = (_only(2, image)[:, :, 0] - grey) / (pixels[:, 0] - grey)  # grey stays, what differs is multiplied
    assert 0.47 < from_grey[:, 2].min() < 0.53 and 1.47 < from_grey[:, 2].max() < 1.53
    assert (from_grey[:, 0] - from_grey[:, 2]).abs().max() < 0.06
    hues = torch.tensor([colorsys.rgb_to_hsv(*colour)[0] for colour in (_only(3, image)[:, :, 1] / 255).tolist()])
    turned = (hues - colorsys.rgb_to_hsv(200, 100, 40)[0] + 0.5) % 1 - 0.5
    assert -0.07 < turned.min() < -0.035 and 0.035 < turned.max() < 0.07  # 18 degrees of 360 are 0.05


def test_colours_come_each_with_half_chance_and_together():
    image = torch.randint(60, 190, (3, 4, 4), dtype=torch.uint8)
    kept, target = image.clone(), _target([[0, 0, 1, 1]])
    outs = [PaperColours()(image, target, _generator(seed)) for seed in range(800)]
    same = sum(out is image for out, _ in outs)
    assert 30 < same < 70 and all(new is target for _, new in outs)  # 1/16 of 800
    assert torch.equal(image, kept) and outs[0][0].dtype == torch.uint8
    assert PaperColours(0.0)(image, target, _generator())[0] is image
    # Contrast 1.5 after brightness +32: the shift is multiplied as well.
    colours = PaperColours(1.0)
    colours.RANGES = torch.tensor([32.0, 0.5, 0.0, 0.0])
    grey = torch.full((3, 1, 1), 100, dtype=torch.uint8)
    _, amounts = torch.rand(4, generator=(g := _generator(4))), torch.rand(4, generator=g) * 2 - 1
    wanted = (100 + 32 * amounts[0].item()) * (1 + 0.5 * amounts[1].item())
    assert abs(colours(grey, {}, _generator(4))[0][0].item() - wanted) <= 0.51


def _geometry(name, size, hflip=0.5):
    """A recipe without its colours."""
    steps = RECIPES[name](size, MEAN, hflip).transforms
    steps[0].colours = None
    return Compose([step for step in steps if isinstance(step, (ResizedWindow, RandomHorizontalFlip))])


@pytest.mark.parametrize("name", RECIPES)
def test_objects_stay_under_their_boxes(name):
    """Drawn in its own colour, each object is found again exactly where its box says, to a pixel."""
    colours = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250]], dtype=torch.uint8)
    boxes = torch.tensor([[20, 30, 90, 120], [150, 20, 310, 60], [130, 110, 200, 230]])
    image = torch.full((3, 240, 320), 128, dtype=torch.uint8)
    for (x1, y1, x2, y2), colour in zip(boxes.tolist(), colours):
        image[:, y1:y2, x1:x2] = colour[:, None, None]
    transform, checked = _geometry(name, 200), 0
    for seed in range(80):
        out, target = transform(image, _target(boxes), _generator(seed))
        for box, label in zip(target["boxes"], target["labels"].tolist()):
            of_object = (out.float() - colours[label - 1, :, None, None]).abs().amax(dim=0) < 60
            found = of_object.nonzero()
            edges = torch.cat([found.amin(dim=0).flip(0), found.amax(dim=0).flip(0) + 1]).float()
            assert (edges - box).abs().max() < 1.6, (seed, label, box, edges)
            x, y = ((box[:2] + box[2:]) / 2).long().tolist()
            assert of_object[y, x]
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_keep_their_word(name):
    recipe = pickle.loads(pickle.dumps(RECIPES[name](96, MEAN, 0.5)))
    image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
    target = _target([[0, 0, 80, 60], [3, 3, 30, 40], [50, 10, 51, 11], [79, 59, 80, 60]])
    kept = image.clone(), copy.deepcopy(target)
    for seed in range(100):
        out, new = recipe(image, target, _generator(seed))
        assert out.shape == (3, 96, 96) and out.dtype == torch.uint8 and out.is_contiguous()
        boxes = new["boxes"]
        assert len(boxes) >= 1 and (boxes >= 0).all() and (boxes <= 96).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        assert all(len(new[key]) == len(boxes) for key in ("labels", "area", "iscrowd", "difficult"))
        assert torch.allclose(new["area"], box_ops.area(boxes) / 2, rtol=1e-3) and new["image_id"] == 3
    assert torch.equal(image, kept[0]) and all(
        torch.equal(target[key], kept[1][key]) for key in ("boxes", "labels", "area", "iscrowd", "difficult"))
    torch.rand(7)  # global state is of no account
    again, same = recipe(image, target, _generator(99))
    assert torch.equal(again, out) and torch.equal(same["boxes"], new["boxes"])
    outs = [recipe(image, target, _generator(seed))[0] for seed in range(8)]
    assert any(not torch.equal(outs[0], other) for other in outs[1:])
    empty = recipe(image, _target([]), _generator())
    assert empty[0].shape == (3, 96, 96) and empty[1]["boxes"].shape == (0, 4) and empty[1]["labels"].shape == (0,)


@pytest.mark.parametrize(("name", "crops", "zooms_out", "colours"), [
    ("ssd", True, True, True), ("nvidia", True, False, True), ("ssdlite", True, False, False), ("hflip", False, False, False)])
def test_what_the_recipes_do(name, crops, zooms_out, colours):
    image = torch.full((3, 90, 90), 100, dtype=torch.uint8)
    recipe, target = RECIPES[name](90, (100 / 255,) * 3, 0.0), _target([[30, 30, 60, 60]])
    results = [recipe(image, target, _generator(seed)) for seed in range(60)]
    widths = torch.stack([new["boxes"][0, 2] - new["boxes"][0, 0] for _, new in results])
    assert (widths > 31).any() == crops and (widths < 29).any() == zooms_out
    assert any((out != 100).any() for out, _ in results) == colours
    assert [RECIPES[name](90, MEAN, p).transforms[-1].p for p in (0.0, 0.7)] == [0.0, 0.7]


def test_a_crop_that_needs_no_resizing_carries_no_more_than_itself():
    """A worker would send the whole image along with a view of it."""
    image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
    out = ResizedWindow(20, [Look(5, 7, 20, 20)])(image, _target([]), _generator())[0]
    assert torch.equal(out, image[:, 7:27, 5:25]) and out.untyped_storage().nbytes() == 3 * 20 * 20


def test_recipes_take_images_of_any_size():
    for height, width in [(1, 1), (1, 50), (300, 2), (7, 900)]:
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        for make in RECIPES.values():
            for seed in range(20):
                out, new = make(32, MEAN, 0.5)(image, _target([[0, 0, width, height]]), _generator(seed))
                assert out.shape == (3, 32, 32) and len(new["boxes"]) == 1


def test_the_plain_recipe_changes_nothing_that_it_need_not():
    image = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)
    target = _target([[3, 3, 30, 40]])
    out, new = RECIPES["hflip"](96, MEAN, 0.0)(image, target, _generator())
    assert torch.equal(out, image) and torch.equal(new["boxes"], target["boxes"])
    out, new = RECIPES["hflip"](96, MEAN, 1.0)(image, target, _generator())
    assert torch.equal(out, image.flip(2)) and new["boxes"].tolist() == [[66, 3, 93, 40]]


def test_the_fill_keeps_the_mean_colour_under_all_colours():
    image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
    recipe = RECIPES["ssd"](64, MEAN, 0.5)
    recipe.transforms[0].steps = [Look(-80, -60, 240, 180)]
    for seed in range(30):
        out = recipe(image, _target([[0, 0, 80, 60]]), _generator(seed))[0]
        assert (out[:, :20].flatten(1) == torch.tensor(FILL)[:, None]).all()
        assert (out[:, :, :20].flatten(1) == torch.tensor(FILL)[:, None]).all()


@pytest.mark.parametrize(("size", "mean"), [(0, MEAN), (300, (123, 117, 104)), (300, (0.5,))])
def test_bad_arguments(size, mean):
    with pytest.raises(InputError, match="three values"):
        RECIPES["ssd"](size, mean, 0.5)
