"""The page of a data set: what each plot shows, boxes at their place, odd sizes and names, empty cases."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from train_utils import dataset_page
from train_utils.dataset_page import save_dataset_page
from train_utils.draw import class_colour
from train_utils.errors import InputError

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # what the page warns of would stand between the checker's lines
CLASSES, SIZES, POSITIONS, IMAGES, COUNTS = "Boxes per class", "Box sizes", "Positions", "Image sizes", "Boxes per image"


@pytest.fixture
def figures(monkeypatch):
    """The figures drawn during a test, which writes none: that would take a second each."""
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: drawn.append(figure))
    return drawn


def truth(sizes, boxes, labels=None, image_index=None, iscrowd=(), difficult=(), classes=3):
    """Ground truth of images of the given (width, height)."""
    total = len(boxes)
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    flags = np.zeros((2, total), dtype=bool)
    for row, rows in zip(flags, (iscrowd, difficult)):
        row[list(rows)] = True
    widths, heights = np.array(sizes, dtype=np.int32).T
    return {
        "num_images": len(sizes), "widths": widths, "heights": heights,
        "image_index": np.array([0] * total if image_index is None else image_index, dtype=np.int64), "boxes": boxes,
        "labels": np.array([1] * total if labels is None else labels, dtype=np.int64),
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), "iscrowd": flags[0], "difficult": flags[1],
        "class_names": [f"class {k}" for k in range(1, classes + 1)],
    }


def sample(width, height, boxes=(), labels=()):
    target = {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
    return torch.zeros(3, height, width, dtype=torch.uint8), target


def plot(figure, title):
    """The axes whose title begins so."""
    return next(axes for axes in figure.axes if axes.get_title().startswith(title))


def bars(axes):
    """Per row of the class plot: name, numbers as written, (ordinary, crowd or difficult), colour of the ordinary part."""
    names = [text.get_text() for text in axes.get_yticklabels()]
    right = next(other for other in axes.figure.axes if other is not axes and other.bbox.bounds == axes.bbox.bounds)
    numbers = [text.get_text() for text in right.get_yticklabels()]
    pairs = [(axes.patches[k], axes.patches[k + 1]) for k in range(0, len(axes.patches), 2)]
    assert all(pale.get_x() == plain.get_width() for plain, pale in pairs)
    widths = [(plain.get_width(), pale.get_width()) for plain, pale in pairs]
    colours = [tuple(round(255 * part) for part in plain.get_facecolor()[:3]) for plain, _ in pairs]
    return list(zip(names, numbers, widths, colours, strict=True))


def test_page(tmp_path):
    samples = [sample(200, 100), sample(200, 100, [[40, 20, 160, 80]], [2]), sample(100, 50)] + [sample(50, 100)] * 2
    backend = matplotlib.get_backend()
    save_dataset_page(tmp_path / "page.png", samples, ["cat", "dog", "cow"], truth([(200, 100)] * 5, [[40, 20, 160, 80]], [2]))
    assert matplotlib.get_backend() == backend
    assert all(int(side / dataset_page.DPI * dataset_page.DPI) == side for side in range(5000))  # no pixel is lost on the way
    page = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    # tiles of 290 pixels, 8 between them, below a line of 44: the first row is as high as the fourth image, 290
    assert page.shape == (44 + (8 + 290) * 2 + 8 + 860, 1200, 3)
    left, top = 8 + 298, 44 + 8 + (290 - 145) // 2  # the second image, 290 x 145: scale 1.45, box [58, 29, 232, 116]
    for x, y in ((58, 70), (232, 70), (145, 29), (145, 116)):
        assert tuple(page[top + y, left + x]) == class_colour(2)
    assert (page[top : top + 145, 8 : 8 + 290] == 0).all()  # the first one, without objects
    assert (page[top - 1, 8 : 1190 - 298] == 255).all() and (page[top + 145, 8 : 1190 - 298] == 255).all()
    assert (page[44 + 8 : 44 + 298, 8 + 298 * 3 + 72 : 8 + 298 * 3 + 217] == 0).all()  # the fourth, 145 wide
    for edge in (page[:4], page[-4:], page[:, :4], page[:, -4:]):
        assert (edge == 255).all()  # nothing is cut off
    plots = page[44 + 596 + 8 :]
    assert (plots == class_colour(2)).all(axis=2).sum() > 1000  # the bar


@pytest.mark.parametrize("name, start", [("page.JPG", b"\xff\xd8\xff"), ("page.pdf", b"%PDF")])
def test_other_kinds_of_file_and_names_that_fonts_lack(tmp_path, name, start):
    names = ["汽车", "a$\\frac$", "\ud800"]
    data = truth([(100, 100)], [[10, 10, 90, 90]] * 3, [1, 2, 3])
    save_dataset_page(tmp_path / name, [sample(100, 100, [[10, 10, 90, 90]] * 3, [1, 2, 3])], names, data)
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["page", "page.txt", "page.png.gz"])
def test_other_kinds_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"page.*: a page is written as \.png, \.jpg, \.jpeg, \.pdf; give"):
        save_dataset_page(tmp_path / name, [], ["cat"], truth([(20, 10)], []))
    assert not list(tmp_path.iterdir())


def test_boxes_per_class(figures):
    data = truth([(100, 100)], [[0, 0, 9, 9]] * 7, [3, 1, 3, 3, 3, 3, 1], iscrowd=[2], difficult=[2, 3])
    save_dataset_page("page.png", [], ["cat", "dog", "cow"], data)
    axes = plot(figures[0], CLASSES)
    assert axes.get_title() == "Boxes per class\n1 of 3 without a box"
    assert bars(axes) == [
        ("cow", "3 + 2", (3, 2), class_colour(3)), ("cat", "2", (2, 0), class_colour(1)), ("dog", "0", (0, 0), class_colour(2))
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ordinary", "+ crowd or difficult"]
    assert figures[0].texts[0].get_text() == "1 image, 7 boxes, 3 classes"
    save_dataset_page("page.png", [], ["cat"], truth([(9, 9)], [[0, 0, 9, 9]]))
    assert plot(figures[1], CLASSES).get_legend() is None and plot(figures[1], CLASSES).get_title() == "Boxes per class"


def test_many_classes(figures):
    labels = [label for label in range(1, 41) for _ in range(label)]  # class k has k boxes: 40 is the commonest
    names = [f"c{k}" for k in range(1, 41)]
    data = truth([(100, 100)], [[0, 0, 9, 9]] * 820, labels, iscrowd=[0])
    save_dataset_page("page.png", [], names, data)
    drawn = bars(plot(figures[0], CLASSES))
    assert [name for name, *_ in drawn] == [f"c{k}" for k in range(40, 10, -1)] + ["10 others"]
    assert drawn[-1][1:3] == ("54 + 1", (54, 1)) and drawn[0][1:] == ("40", (40, 0), class_colour(40))
    assert sum(sum(widths) for _, _, widths, _ in drawn) == 820
    few = truth([(100, 100)], [[0, 0, 9, 9]] * 496, labels[:496])
    save_dataset_page("page.png", [], names[:31], few)  # "1 others" would take the room of the one
    assert [name for name, *_ in bars(plot(figures[1], CLASSES))] == [f"c{k}" for k in range(31, 0, -1)]


def test_box_sizes(figures):
    boxes = [[0, 0, 31, 33], [10, 10, 42, 42], [0, 0, 96, 96], [0, 0, 96, 97], [5, 5, 5, 50]]
    save_dataset_page("page.png", [], ["cat", "dog"], truth([(600, 600)], boxes, [1, 2, 1, 2, 1]))
    axes = plot(figures[0], SIZES)
    assert axes.get_title() == "Box sizes\nsmall 25 %, medium 50 %, large 25 %"  # of four: the last has no area
    (points,) = axes.collections
    assert points.get_offsets().tolist() == [[31, 33], [32, 32], [96, 96], [96, 97]]
    expected = [class_colour(label) for label in (1, 2, 1, 2)]
    assert np.round(255 * points.get_facecolor()[:, :3]).tolist() == [list(colour) for colour in expected]
    small, large = (line.get_xydata() for line in axes.lines)
    assert small.prod(axis=1).tolist() == [1024, 1024] and large.prod(axis=1).tolist() == [9216, 9216]
    assert axes.get_xscale() == axes.get_yscale() == "log" and axes.get_xlim() == axes.get_ylim() == (16, 256)
    save_dataset_page("page.png", [], ["cat"], truth([(600, 600)], [[0, 0, 0.75, 300]]))
    assert plot(figures[1], SIZES).get_ylim() == (0.5, 512)


def test_many_boxes_are_counted_in_cells(figures):
    sides = np.array([[17.0, 20]] * 4000 + [[200, 100]] * 2000)
    boxes = np.concatenate([np.zeros((6000, 2)), sides], axis=1)
    save_dataset_page("page.png", [], ["cat"], truth([(640, 480)], boxes))
    (mesh,) = plot(figures[0], SIZES).collections
    counts = mesh.get_array().reshape(64, 64)  # 64 cells over 4 octaves; row: height
    assert counts.sum() == 6000 and counts[5, 1] == 4000  # log2(20 / 16) * 16 = 5.2; log2(17 / 16) * 16 = 1.4
    assert counts[42, 58] == 2000 and counts.count() == 2  # log2(100 / 16) * 16 = 42.3; log2(200 / 16) * 16 = 58.3


def test_positions(figures):
    data = truth([(200, 100), (100, 1000)], [[22, 0, 42, 9], *[[4, 940, 100, 1000]] * 2], image_index=[0, 1, 1])
    save_dataset_page("page.png", [], ["cat"], data)
    (image,) = plot(figures[0], POSITIONS).images
    counts = image.get_array()  # rows from the upper edge down
    assert counts.shape == (20, 20) and counts.sum() == 3
    assert counts[0, 3] == 1 and counts[19, 10] == 2  # centres (0.16, 0.045) and (0.52, 0.97)
    assert list(image.get_extent()) == [0, 1, 1, 0] and image.origin == "upper"


def test_image_sizes(figures):
    save_dataset_page("page.png", [], ["cat"], truth([(640, 480), (480, 640), (640, 480), (640, 480), (1, 1)], []))
    axes = plot(figures[0], IMAGES)
    assert axes.get_title() == "Image sizes\n3 sizes; 3 images of 640 x 480 px"
    (points,) = axes.collections
    areas = dict(zip(map(tuple, points.get_offsets().tolist()), points.get_sizes().tolist()))
    assert areas.keys() == {(1, 1), (480, 640), (640, 480)}
    assert areas[640, 480] == 250 and areas[1, 1] == areas[480, 640] == pytest.approx(5 + 245 / 3)
    assert axes.get_xlim()[0] == 0 and axes.get_xlim()[1] > 640 and axes.get_ylim()[1] > 640


def test_boxes_per_image(figures):
    box = [[0, 0, 9, 9]]
    data = truth([(10, 10)] * 4, box * 8, image_index=[0, 2, 2, 2, 2, 2, 2, 2], iscrowd=[0])
    save_dataset_page("page.png", [], ["cat"], data)
    axes = plot(figures[0], COUNTS)
    assert axes.get_title() == "Boxes per image\nmean 2.0, most 7; 2 images without"
    found = {bar.get_x() + 0.5: bar.get_height() for bar in axes.patches}
    assert found == {0: 2, 1: 1, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 1}
    many = truth([(10, 10)] * 2, box * 100, image_index=[0] * 100)  # 0..100 in bars of three numbers
    save_dataset_page("page.png", [], ["cat"], many)
    found = {bar.get_x() + 0.5: bar.get_height() for bar in plot(figures[1], COUNTS).patches}
    assert found[0] == 1 and found[99] == 1 and sum(found.values()) == 2 and len(found) == 34


def test_no_boxes_no_samples_no_classes(tmp_path):
    save_dataset_page(tmp_path / "page.png", [], [], truth([(10, 10)], []))
    assert Image.open(tmp_path / "page.png").size == (1200, 44 + 8 + 860)


def test_no_boxes_says_so(figures):
    save_dataset_page("page.png", [sample(10, 10)], ["cat"], truth([(10, 10)] * 3, []))
    (figure,) = figures
    for title in (SIZES, POSITIONS):
        assert [text.get_text() for text in plot(figure, title).texts] == ["no boxes"]
    assert plot(figure, COUNTS).get_title().endswith("mean 0.0, most 0; 3 images without")
    assert [bar.get_height() for bar in plot(figure, COUNTS).patches] == [3, 0, 0, 0, 0, 0]
    assert bars(plot(figure, CLASSES)) == [("cat", "0", (0, 0), class_colour(1))]


@pytest.mark.parametrize("width, height", [(1, 1), (8000, 1), (8000, 60), (3, 4000), (2, 1)])
def test_images_of_any_size(width, height):
    names = ["cat", "dog"]
    tile = dataset_page._tile(*sample(width, height, [[0, 0, width, height], [-5, -5, 9000, 9000]], [1, 2]), names)
    assert max(tile.size) == 290 and min(tile.size) >= 40
    assert (np.asarray(tile) == class_colour(2)).all(axis=2).sum() > 300  # its name has room


def test_boxes_of_a_stretched_image():
    tile = dataset_page._tile(*sample(2900, 100, [[1000, 50, 2000, 100]], [1]), [""])  # 290 x 40: scales 0.1 and 0.4
    found = (np.asarray(tile) == class_colour(1)).all(axis=2)
    assert found[30, 100] and found[30, 200] and found[39, 150] and not found[30, 150] and not found[:, 210:].any()


def test_names_of_any_kind(figures):
    names = ["a" * 40, "汽车", "собака", "Größe", "a$\\frac$", "two\n lines", "\ud800", "", "😀"]
    labels = [label for label in range(1, 10) for _ in range(10 - label)]  # in order of the names
    data = truth([(100, 100)], [[10, 10, 90, 90]] * 45, labels)
    picture = sample(100, 100, [[10, 10, 90, 90]] * 9, range(1, 10))
    save_dataset_page("page.png", [picture], names, data)
    assert [name for name, *_ in bars(plot(figures[0], CLASSES))] == [
        "a" * 15 + "…" + "a" * 8, "2 汽车", "собака", "Größe", "a$\\frac$", "two lines", "?", "8", "😀"
    ]


def test_the_shade_of_crowd_is_paler(figures):
    save_dataset_page("page.png", [], ["cat"], truth([(9, 9)], [[0, 0, 9, 9]] * 2, iscrowd=[1]))
    plain, pale = (np.array(to_rgb(bar.get_facecolor())) for bar in plot(figures[0], CLASSES).patches)
    assert (pale > plain).all() and np.allclose(pale, 0.35 * plain + 0.65)


def test_a_real_data_set(shapes, figures):
    from datasets.voc import VOCDataSet

    dataset = VOCDataSet(shapes, "2012", txt_name="train")
    data = dataset.ground_truth()
    save_dataset_page("page.png", [dataset[k] for k in range(0, 16, 2)], dataset.class_names, data)
    found = bars(plot(figures[0], CLASSES))
    assert {name: sum(widths) for name, _, widths, _ in found} == {
        name: int((data["labels"] == k).sum()) for k, name in enumerate(dataset.class_names, start=1)
    }
