"""python -m pytest tests/test_resize.py"""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from network_files.resize import IMAGENET_MEAN, IMAGENET_STD, LetterboxResize, ShortSideResize, SquashResize


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


def test_squashed_to_other_shapes():
    transform = squash((20, 40))
    target = {"boxes": torch.tensor([[6.0, 4.0, 30.0, 20.0]]), "labels": torch.tensor([1])}
    batch = transform([torch.rand(3, 40, 60)], [target])
    assert batch.images.shape == (1, 3, 20, 40) and transform.padded_size(7, 9) == (20, 40)
    torch.testing.assert_close(batch.targets[0]["boxes"], torch.tensor([[4.0, 2.0, 20.0, 10.0]]))
    assert transform([torch.rand(3, 40, 60)], size=(32, 16)).images.shape == (1, 3, 32, 16)
    assert transform([torch.rand(3, 40, 60)]).images.shape == (1, 3, 20, 40)  # the size was for one batch only


def test_neutral_mean_and_std_leave_the_values():
    image = torch.rand(3, 30, 30)
    assert torch.equal(SquashResize(30, (0, 0, 0), (1, 1, 1))([image]).images[0], image)
    assert torch.equal(SquashResize(30, (0, 0, 0), (1, 1, 0.5))([image]).images[0, 2], image[2] / 0.5)
    assert torch.equal(SquashResize(30, (0, 0, 0.5), (1, 1, 1))([image]).images[0, 2], image[2] - 0.5)


# LetterboxResize


@pytest.mark.parametrize(
    "given, resized, offset",
    [
        ((480, 640), (312, 416), (52, 0)),
        ((640, 480), (416, 312), (0, 52)),
        ((427, 640), (277, 416), (69, 0)),  # 427 * 416 / 640 = 277.55; (416 - 277) // 2 = 69
        ((50, 50), (416, 416), (0, 0)),
        ((1, 5000), (1, 416), (207, 0)),
    ],
)
def test_letterboxed_as_darknet_does(given, resized, offset):
    batch = LetterboxResize(416)([torch.zeros(3, *given)])
    assert batch.images.shape == (1, 3, 416, 416)
    assert batch.image_sizes == [resized] and batch.original_sizes == [given] and batch.offsets == [offset]
    (height, width), (top, left) = resized, offset
    assert (batch.images[..., top : top + height, left : left + width] == 0).all()
    assert (batch.images == 0.5).sum() == 3 * (416 * 416 - height * width)


def test_letterboxed_pixels_are_those_of_a_plain_resize():
    image = torch.randint(256, (3, 30, 60), dtype=torch.uint8)
    plain = F.interpolate(image[None] / 255, size=(20, 40), mode="bilinear", align_corners=False)
    batch = LetterboxResize(40, fill=0.25)([image])
    assert torch.equal(batch.images[:, :, 10:30], plain)
    assert (batch.images[:, :, :10] == 0.25).all() and (batch.images[:, :, 30:] == 0.25).all()


@pytest.mark.parametrize("rect", [False, True])
def test_letterboxed_boxes_there_and_back(rect):
    transform = LetterboxResize(64, rect)
    boxes = torch.tensor([[0.0, 0.0, 100.0, 51.0], [10.0, 20.0, 30.0, 40.0]])
    target = {"boxes": boxes, "labels": torch.tensor([2, 1], dtype=torch.int32)}
    batch = transform([torch.zeros(3, 51, 100)], [target])
    assert batch.image_sizes == [(32, 64)]  # 51 * 64 // 100
    top = 0 if rect else 16
    expected = [[0, top, 64, top + 32], [6.4, top + 20 * 32 / 51, 19.2, top + 40 * 32 / 51]]
    torch.testing.assert_close(batch.targets[0]["boxes"], torch.tensor(expected))
    assert batch.targets[0]["labels"].dtype == torch.int64
    back = transform.boxes_to_original(batch.targets[0]["boxes"], *(batch[i][0] for i in (1, 2, 4)))
    torch.testing.assert_close(back, boxes)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    assert transform([torch.zeros(3, 51, 100)], [empty]).targets[0]["boxes"].shape == (0, 4)
    assert boxes[0].tolist() == [0, 0, 100, 51]


def test_rectangular_batches():
    transform = LetterboxResize(96, rect=True)
    wide, tall = torch.rand(3, 30, 96), torch.rand(3, 96, 40)
    assert transform.padded_size(30, 96) == (32, 96) and transform.padded_size(96, 40) == (96, 64)
    assert transform([wide]).images.shape[2:] == (32, 96) and transform([tall]).images.shape[2:] == (96, 64)
    both = transform([wide, tall])
    assert both.images.shape[2:] == (96, 96) and both.offsets == [(33, 0), (0, 28)]
    assert torch.equal(both.images[0, :, 33:63], wide) and torch.equal(both.images[1, :, :, 28:68], tall)
    other = torch.rand(3, 31, 96)
    assert transform.padded_size(31, 96) == (32, 96)
    together, alone = transform([wide, other]), transform([other])  # images of one padded size do not disturb each other
    assert torch.equal(together.images[1], alone.images[0]) and together.offsets[1] == alone.offsets[0]
    assert LetterboxResize(96, rect=True, divisible=8).padded_size(30, 96) == (32, 96)
    assert LetterboxResize(96, rect=True, divisible=8).padded_size(96, 41) == (96, 48)


@pytest.mark.parametrize(
    "given, resized, padded",
    [((100, 100), (64, 64), (64, 64)), ((50, 100), (48, 96), (64, 96)), ((10, 100), (9, 96), (32, 96)),
     ((100, 120), (64, 76), (64, 96)), ((200, 100), (64, 32), (64, 32)), ((64, 96), (64, 96), (64, 96))],
)
def test_letterboxed_to_an_input_that_is_no_square(given, resized, padded):
    batch = LetterboxResize((64, 96))([torch.rand(3, *given)])
    assert batch.image_sizes == [resized] and batch.images.shape[2:] == (64, 96)
    assert LetterboxResize((64, 96)).padded_size(*given) == (64, 96)
    assert LetterboxResize((64, 96), rect=True).padded_size(*given) == padded
    assert LetterboxResize((64, 96), rect=True)([torch.rand(3, *given)]).images.shape[2:] == padded


@pytest.mark.parametrize("rect", [False, True])
def test_an_image_of_the_canvas_size_passes(rect, monkeypatch):
    monkeypatch.setattr(F, "interpolate", None)
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    batch = LetterboxResize(64, rect)([image])
    assert torch.equal(batch.images[0], image / 255) and batch.offsets == [(0, 0)]
    assert torch.equal(LetterboxResize((32, 64), rect)([image[:, :32]]).images[0], image[:, :32] / 255)


def test_a_size_for_one_letterboxed_batch():
    transform = LetterboxResize(64)
    assert transform([torch.rand(3, 40, 60)], size=(96, 96)).images.shape[2:] == (96, 96)
    assert transform([torch.rand(3, 40, 60)]).images.shape[2:] == (64, 64) and transform.padded_size(1, 1) == (64, 64)


def test_letterboxing_equal_images_in_one_piece(monkeypatch):
    images = list(torch.randint(256, (3, 3, 50, 70), dtype=torch.uint8))
    transform = LetterboxResize(64)
    apart = transform(images).images
    monkeypatch.setattr(transform, "_pieces", lambda images, device: [torch.stack(images)])
    torch.testing.assert_close(transform(images).images, apart)


def test_letterbox_changes_nothing_given_and_takes_other_dtypes():
    images = torch.rand(2, 3, 16, 16)
    before = images.clone()
    transform = LetterboxResize(16)
    batch = transform(images).images
    batch.zero_()
    assert torch.equal(images, before)
    assert transform(images, dtype=torch.float64).images.dtype == torch.float64
    assert transform(images.half(), dtype=torch.bfloat16).images.dtype == torch.bfloat16
    images.requires_grad_()
    LetterboxResize(32)(images).images.sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("images, message", [([], "empty"), ([torch.zeros(1, 4, 4)], r"image 0 must be \[3, H, W\]")])
def test_letterbox_wrong_images(images, message):
    with pytest.raises(ValueError, match=message):
        LetterboxResize(32)(images)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        LetterboxResize((32, 0))
