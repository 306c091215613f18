"""python -m pytest tests/test_resize.py"""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from network_files.resize import IMAGENET_MEAN, IMAGENET_STD, ShortSideResize, SquashResize


@pytest.mark.parametrize(
    "given, resized",
    [((375, 500), (800, 1066)), ((427, 640), (800, 1199)), ((300, 1000), (399, 1333)), ((335, 335), (799, 799))],
)
def test_sides(given, resized):
    assert ShortSideResize().resized_size(*given, 800) == resized


def test_cut_to_whole_pixels_loses_one_for_85_sides():
    sides = [ShortSideResize().resized_size(side, side, 800)[0] for side in range(32, 2000)]
    assert sides.count(799) == 85 and sides.count(800) == len(sides) - 85


def test_a_very_thin_image_keeps_a_pixel():
    assert ShortSideResize().resized_size(1, 5000, 800) == (1, 1333)


@pytest.mark.parametrize("dtype", ["uint8", "float"])
def test_same_batch_as_torchvision(dtype):
    images = [torch.randint(256, (3, h, w), dtype=torch.uint8) for h, w in [(50, 70), (64, 40), (33, 33)]]
    floats = [image.float() / 255 for image in images]
    theirs = GeneralizedRCNNTransform(64, 100, list(IMAGENET_MEAN), list(IMAGENET_STD)).eval()
    expected, _ = theirs(floats)
    batch = ShortSideResize(64, 100).eval()(images if dtype == "uint8" else floats)
    assert torch.equal(batch.images, expected.tensors)
    assert batch.image_sizes == expected.image_sizes
    assert batch.original_sizes == [(50, 70), (64, 40), (33, 33)]


def test_padding_is_zero_and_a_multiple():
    batch = ShortSideResize(40, 100).eval()([torch.ones(3, 40, 50)])
    assert batch.images.shape == (1, 3, 64, 64) and batch.image_sizes == [(40, 50)]
    assert (batch.images[..., :40, :50] != 0).all()
    assert (batch.images[..., 40:, :] == 0).all() and (batch.images[..., 50:] == 0).all()
    assert ShortSideResize(40, 100, size_divisible=1).eval()([torch.ones(3, 40, 50)]).images.shape[2:] == (40, 50)


@pytest.mark.parametrize("size", [(17, 23), (375, 500), (33, 1333), (800, 800)])
def test_padded_size_is_that_of_the_image_alone(size):
    transform = ShortSideResize((64, 96), 160).eval()
    assert transform([torch.zeros(3, *size)]).images.shape[2:] == transform.padded_size(*size)


def test_boxes_there_and_back():
    transform = ShortSideResize(64, 100).eval()
    boxes = torch.tensor([[3.0, 4.0, 30.0, 20.0]])
    target = {"boxes": boxes, "labels": torch.tensor([2], dtype=torch.int32)}
    batch = transform([torch.zeros(3, 32, 50)], [target])
    assert batch.image_sizes == [(64, 100)]
    assert batch.targets[0]["boxes"].tolist() == [[6, 8, 60, 40]] and batch.targets[0]["labels"].dtype == torch.int64
    assert torch.equal(transform.boxes_to_original(batch.targets[0]["boxes"], (64, 100), (32, 50)), boxes)


def test_image_without_objects():
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    batch = ShortSideResize(64, 100).eval()([torch.zeros(3, 32, 50)], [target])
    assert batch.targets[0]["boxes"].shape == (0, 4)


def test_nothing_given_is_changed():
    images = [torch.rand(3, 64, 64), torch.rand(3, 20, 30)]
    targets = [{"boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "labels": torch.tensor([1])} for _ in images]
    before = [image.clone() for image in images]
    list_before = list(images)
    ShortSideResize(64, 100)(images, targets)
    assert all(a is b for a, b in zip(images, list_before)) and all(torch.equal(a, b) for a, b in zip(images, before))
    assert targets[1]["boxes"].tolist() == [[1, 2, 3, 4]]


def test_an_image_of_the_right_size_is_not_resized():
    image = torch.rand(3, 64, 96)
    batch = ShortSideResize(64, 96, image_mean=(0, 0, 0), image_std=(1, 1, 1)).eval()([image])
    assert torch.equal(batch.images[0], image)


def test_keep_in_range():
    transform = ShortSideResize((60, 80), 100, keep_in_range=True)
    assert transform.resized_size(70, 90, 80) == (70, 90)
    assert transform.resized_size(59, 90, 80) == (65, 100)
    assert transform.resized_size(80, 101, 80) == (79, 100)
    assert ShortSideResize((60, 80), 100).resized_size(70, 90, 80) == (77, 100)


def test_several_sizes_are_drawn_in_training_only():
    sizes, images = (32, 48, 64), [torch.zeros(3, 100, 100)] * 20
    transform = ShortSideResize(sizes, 200)
    torch.manual_seed(1)
    expected = [sizes[int(torch.empty(1).uniform_(0.0, 3.0))] for _ in images]
    torch.manual_seed(1)
    assert [height for height, _ in transform(images).image_sizes] == expected and len(set(expected)) == 3
    assert {height for height, _ in transform.eval()(images).image_sizes} == {64}


def test_one_random_number_per_image_in_training_none_in_evaluation():
    images = [torch.zeros(3, 8, 8)] * 3
    torch.manual_seed(1)
    for _ in images:
        torch.empty(1).uniform_(0.0, 1.0)
    expected = torch.rand(1)
    torch.manual_seed(1)
    transform = ShortSideResize(8, 8)
    transform(images)
    transform.eval()(images)
    assert torch.rand(1) == expected


def test_a_batch_in_one_tensor_and_other_dtypes():
    images = torch.rand(2, 3, 16, 16)
    transform = ShortSideResize(32, 32).eval()
    assert torch.equal(transform(images).images, transform(list(images)).images)
    assert transform(images, dtype=torch.float64).images.dtype == torch.float64
    assert transform(images.half(), dtype=torch.bfloat16).images.dtype == torch.bfloat16


def test_gradient_reaches_the_image():
    image = torch.rand(3, 16, 16, requires_grad=True)
    ShortSideResize(32, 32)([image]).images.sum().backward()
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "empty"),
        ([torch.zeros(3, 4, 4), torch.zeros(4, 4)], "image 1 must be"),
        ([torch.zeros(1, 4, 4)], r"\[1, 4, 4\]"),
        ([torch.zeros(3, 0, 4)], r"\[3, 0, 4\]"),
        ([torch.zeros(3, 4, 4, dtype=torch.int64)], "int64"),
    ],
)
def test_wrong_images(images, message):
    with pytest.raises(ValueError, match=message):
        ShortSideResize()(images)


# SquashResize

HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def squash(size=30, **settings):
    return SquashResize(size, *HALVES, **settings)


@pytest.mark.parametrize("dtype", ["uint8", "float"])
def test_squashed_as_torchvision_does(dtype):
    images = [torch.randint(256, (3, h, w), dtype=torch.uint8) for h, w in [(50, 70), (64, 40), (30, 30), (20, 21)]]
    floats = [image / 255 for image in images]
    theirs = GeneralizedRCNNTransform(30, 30, *map(list, HALVES), size_divisible=1, fixed_size=(30, 30))
    batch = squash()(images if dtype == "uint8" else floats)
    assert torch.equal(batch.images, theirs(floats)[0].tensors)
    assert batch.image_sizes == [(30, 30)] * 4 and batch.original_sizes == [(50, 70), (64, 40), (30, 30), (20, 21)]


def test_each_axis_of_the_boxes_is_scaled_for_itself():
    target = {"boxes": torch.tensor([[3.0, 4.0, 30.0, 20.0]]), "labels": torch.tensor([2], dtype=torch.int32)}
    transform = squash()
    batch = transform([torch.zeros(3, 40, 60)], [target])
    torch.testing.assert_close(batch.targets[0]["boxes"], torch.tensor([[1.5, 3.0, 15.0, 15.0]]))
    assert batch.targets[0]["labels"].dtype == torch.int64
    back = transform.boxes_to_original(batch.targets[0]["boxes"], batch.image_sizes[0], batch.original_sizes[0])
    torch.testing.assert_close(back, target["boxes"])
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    assert transform([torch.zeros(3, 40, 60)], [empty]).targets[0]["boxes"].shape == (0, 4)


def test_an_image_of_the_right_size_is_only_normalised(monkeypatch):
    monkeypatch.setattr(F, "interpolate", None)
    image = torch.rand(3, 30, 30)
    assert torch.equal(squash()([image]).images[0], (image - 0.5) / 0.5)
    assert torch.equal(squash(antialias=True)([image]).images[0], (image - 0.5) / 0.5)


def test_all_images_may_share_a_batch():
    assert squash().padded_size(7, 5000) == (30, 30)


@pytest.mark.parametrize("size", [(375, 500), (31, 29), (20, 90), (1, 1)])
def test_antialias_is_pillow(size):
    blocks = torch.randint(256, (1, 3, 12, 16)).float()  # edges, but not noise only
    image = (F.interpolate(blocks, size=size) * 0.8 + torch.rand(1, 3, *size) * 50)[0].to(torch.uint8)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((30, 30), Image.Resampling.BILINEAR)
    expected = torch.frombuffer(bytearray(pillow.tobytes()), dtype=torch.uint8).reshape(30, 30, 3).permute(2, 0, 1)
    for given in (image, image / 255):
        pixels = (squash(antialias=True)([given]).images[0] * 0.5 + 0.5) * 255
        assert (pixels - expected).abs().max() <= 1.01  # Pillow rounds after each of its two passes
    if size == (375, 500):
        assert ((squash()([image]).images[0] * 0.5 + 0.5) * 255 - expected).abs().max() > 10


def test_one_piece_or_image_after_image():
    images = list(torch.randint(256, (3, 3, 50, 70), dtype=torch.uint8))
    transform = squash()
    apart = transform._pieces(images, torch.device("cpu"))
    together = transform._pieces(images, torch.device("cuda"))
    assert [piece.shape[0] for piece in apart] == [1, 1, 1] and [piece.shape[0] for piece in together] == [3]
    assert len(transform._pieces([*images, torch.zeros(3, 50, 70)], torch.device("cuda"))) == 4
    resized = [transform._normalise_and_resize(piece, (30, 30), torch.float32) for piece in together]
    torch.testing.assert_close(resized[0], transform(images).images)


def test_squash_changes_nothing_given_and_takes_other_dtypes():
    images = torch.rand(2, 3, 16, 16)
    before = images.clone()
    assert squash()(images, dtype=torch.float64).images.dtype == torch.float64
    assert squash(16)(images.half(), dtype=torch.bfloat16).images.dtype == torch.bfloat16
    squash(16)(images)
    assert torch.equal(images, before)
    images.requires_grad_()
    squash()(images).images.sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("images, message", [([], "empty"), ([torch.zeros(1, 4, 4)], r"image 0 must be \[3, H, W\]")])
def test_squash_wrong_images(images, message):
    with pytest.raises(ValueError, match=message):
        squash()(images)


def test_squash_to_nothing():
    with pytest.raises(ValueError, match="at least 1 pixel"):
        squash(0)
