import colorsys
import copy
import pickle

import pytest
import torch

from datasets.transforms import Compose, PhotometricDistort, RandomHorizontalFlip, adjust_colours, keep_boxes


def _target(boxes):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    return {"boxes": boxes, "labels": torch.arange(1, count + 1), "image_id": 3, "area": torch.arange(count).float(),
            "iscrowd": torch.zeros(count, dtype=torch.int64), "difficult": torch.zeros(count, dtype=torch.int64)}


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_keep_boxes_filters_all_fields_together():
    target = keep_boxes(_target([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]]), torch.tensor([True, False, True]))
    assert target["boxes"][:, 2].tolist() == [1, 3] and target["labels"].tolist() == [1, 3]
    assert target["area"].tolist() == [0, 2] and len(target["iscrowd"]) == len(target["difficult"]) == 2
    assert target["image_id"] == 3
    assert keep_boxes(_target([]), torch.zeros(0, dtype=torch.bool))["boxes"].shape == (0, 4)


def test_flip():
    image = torch.arange(3 * 2 * 5, dtype=torch.uint8).reshape(3, 2, 5)
    target = _target([[0, 0, 1, 2], [1, 1, 5, 2]])
    kept = image.clone(), copy.deepcopy(target)
    flipped, new = RandomHorizontalFlip(1.0)(image, target, _generator())
    assert flipped[0, 0].tolist() == [4, 3, 2, 1, 0]
    assert new["boxes"].tolist() == [[4, 0, 5, 2], [0, 1, 4, 2]]
    assert torch.equal(image, kept[0]) and torch.equal(target["boxes"], kept[1]["boxes"])  # input unchanged
    again, back = RandomHorizontalFlip(1.0)(flipped, new, _generator())
    assert torch.equal(again, image) and torch.equal(back["boxes"], target["boxes"])
    same, _ = RandomHorizontalFlip(0.0)(image, target, _generator())
    assert torch.equal(same, image)
    assert RandomHorizontalFlip(1.0)(image, _target([]), _generator())[1]["boxes"].shape == (0, 4)


def test_colours_by_hand():
    image = torch.tensor([[10, 200], [50, 100], [90, 40]], dtype=torch.uint8).reshape(3, 1, 2)
    assert torch.equal(adjust_colours(image), image)
    assert adjust_colours(image, brightness=1.5).flatten(1).tolist() == [[15, 255], [75, 150], [135, 60]]
    grey = [round(0.299 * 10 + 0.587 * 50 + 0.114 * 90), round(0.299 * 200 + 0.587 * 100 + 0.114 * 40)]
    assert adjust_colours(image, saturation=0.0).flatten(1).tolist() == [grey] * 3
    # The mean grey value is (42.6 + 123.06) / 2 = 82.83; contrast 0.5 halves the distance to it.
    assert adjust_colours(image, contrast=0.5).flatten(1).tolist() == [[46, 141], [66, 91], [86, 61]]


@pytest.mark.parametrize(("turn", "tolerance"), [(-0.05, 0.03), (0.05, 0.03), (1 / 3, 0.08)])
def test_hue_turns_colours_the_usual_way(turn, tolerance):
    colour = (0.6, 0.4, 0.35)
    image = (torch.tensor(colour) * 255).round().to(torch.uint8).reshape(3, 1, 1)
    out = adjust_colours(image, hue=turn).flatten().float() / 255
    wanted = (colorsys.rgb_to_hsv(*colour)[0] + turn) % 1
    found = colorsys.rgb_to_hsv(*out.tolist())[0]
    assert min(abs(found - wanted), 1 - abs(found - wanted)) < tolerance
    weights = torch.tensor([0.299, 0.587, 0.114])
    assert abs(weights @ out - weights @ torch.tensor(colour)) < 0.01  # the grey value stays


def test_distortion_follows_the_generator_only():
    image = torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8)
    kept, target, distort = image.clone(), _target([[0, 0, 1, 1]]), PhotometricDistort(p=1.0)
    one, new = distort(image, target, _generator(5))
    torch.rand(7)  # global state is of no account
    assert torch.equal(one, distort(image, target, _generator(5))[0]) and new is target
    assert not torch.equal(one, distort(image, target, _generator(6))[0])
    assert torch.equal(image, kept) and one.dtype == torch.uint8 and one.shape == image.shape
    assert PhotometricDistort(p=0.0)(image, target, _generator())[0] is image


def test_compose():
    both = pickle.loads(pickle.dumps(Compose([RandomHorizontalFlip(1.0), PhotometricDistort(p=1.0)])))
    image = torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8)
    out, target = both(image, _target([[0, 0, 1, 1]]), _generator())
    assert target["boxes"].tolist() == [[8, 0, 9, 1]] and not torch.equal(out, image.flip(2))
    assert Compose([])(image, {}, _generator()) == (image, {})
