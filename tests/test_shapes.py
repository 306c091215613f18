import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from datasets import InputError, VOCDataSet, make_shapes
from datasets.shapes import MIN_SIDE, SHAPE_CLASSES, draw_picture, is_shapes_folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=60, num_val=12)


def test_the_voc_reader_reads_it(shapes):
    train, val = VOCDataSet(shapes), VOCDataSet(shapes, txt_name="val")
    assert len(train) == 60 and len(val) == 12 and train.faults == val.faults == []
    assert set(train.class_names) == set(SHAPE_CLASSES)
    image, target = train[0]
    assert tuple(image.shape[1:]) == train.get_height_and_width(0) and len(target["boxes"]) >= 1


def test_variety(shapes):
    truth = VOCDataSet(shapes, class_names=SHAPE_CLASSES).ground_truth()
    counts = np.bincount(truth["image_index"], minlength=60)
    assert (counts == 0).sum() == 3 and counts.max() <= 8 and len(np.unique(counts)) >= 6
    assert np.bincount(truth["labels"])[1:].min() >= 30
    heights, widths = truth["heights"], truth["widths"]
    assert (heights > widths).any() and (heights < widths).any() and len(set(zip(heights, widths))) >= 5
    boxes, image = truth["boxes"], truth["image_index"]
    sides = np.concatenate([(boxes[:, 2] - boxes[:, 0]) / widths[image], (boxes[:, 3] - boxes[:, 1]) / heights[image]])
    assert sides.min() >= MIN_SIDE and sides.max() <= 0.6 and sides.max() > 0.45
    overlaps = 0
    for i in range(60):
        a = boxes[image == i]
        low, high = np.maximum(a[:, None, :2], a[None, :, :2]), np.minimum(a[:, None, 2:], a[None, :, 2:])
        overlaps += ((high - low).clip(0).prod(-1) > 0).sum() - len(a)
    assert overlaps > 10


def test_boxes_are_tight_around_what_is_seen():
    """Without noise and ground an object is the only thing that differs from the ground's colour."""
    checked = 0
    for number in range(80):
        pixels, objects = draw_picture(np.random.default_rng(number), empty=False)
        if len(objects) != 1:
            continue
        _, (x1, y1, x2, y2), hidden = objects[0]
        assert not hidden
        colour = pixels[(y1 + y2) // 2, (x1 + x2) // 2].astype(float)
        mask = np.linalg.norm(pixels - colour, axis=2) < 45  # the ground is at least 110 away, plus texture
        rows, columns = np.flatnonzero(mask[y1:y2, x1:x2].any(1)), np.flatnonzero(mask[y1:y2, x1:x2].any(0))
        height, width = y2 - y1, x2 - x1
        # The colour starts within 2 pixels of each side of the box ...
        assert rows[0] <= 2 and columns[0] <= 2 and rows[-1] >= height - 3 and columns[-1] >= width - 3
        outside = mask.copy()
        outside[y1 - 1 if y1 else 0 : y2 + 1, x1 - 1 if x1 else 0 : x2 + 1] = False
        assert outside.mean() < 0.002  # ... and does not occur outside of it
        checked += 1
    assert checked >= 5


def test_same_seed_same_pictures_whatever_the_number(tmp_path, shapes):
    small = make_shapes(tmp_path / "small", num_train=11, num_val=10)
    for name in ("JPEGImages/train_00003.jpg", "Annotations/train_00003.xml"):
        assert (small / name).read_bytes() == (shapes / name).read_bytes()
    other = make_shapes(tmp_path / "other", seed=1, num_train=11, num_val=10)
    assert (small / "JPEGImages/train_00003.jpg").read_bytes() != (other / "JPEGImages/train_00003.jpg").read_bytes()
    assert (small / "JPEGImages/train_00003.jpg").read_bytes() != (small / "JPEGImages/val_00003.jpg").read_bytes()


def test_drawing_has_not_changed():
    """Drawn boxes by hand-recorded values: a change of the drawing must raise FORMAT in shapes.py."""
    _, objects = draw_picture(np.random.default_rng([0, 0, 0]), empty=False)
    assert [(SHAPE_CLASSES[label], box) for label, box, _ in objects][:2] == [
        ("circle", [74, 65, 135, 125]), ("triangle", [102, 105, 123, 124])]


def test_made_once(tmp_path):
    root = make_shapes(tmp_path / "s", num_train=2, num_val=1)
    before = (root / "shapes.json").stat().st_mtime_ns
    assert make_shapes(root, num_train=2, num_val=1) == root and (root / "shapes.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="shapes made with"):
        make_shapes(root, num_train=3, num_val=1)
    with pytest.raises(InputError, match="is not a set of drawn shapes"):
        make_shapes(tmp_path, num_train=2)
    (tmp_path / "empty").mkdir()
    assert is_shapes_folder(make_shapes(tmp_path / "empty", num_train=1, num_val=1))


def test_race(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(make_shapes, tmp_path / "s", 0, 3, 1) for _ in range(4)]
    assert all(job.result() == tmp_path / "s" for job in jobs)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]  # nothing temporary is left
    assert len(list((tmp_path / "s" / "JPEGImages").iterdir())) == 4


def test_command_line(tmp_path, root):
    command = [sys.executable, "-m", "datasets.shapes", tmp_path / "s", "--num-train", "2", "--num-val", "1"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "2 + 1 images" in done.stdout and is_shapes_folder(tmp_path / "s")
