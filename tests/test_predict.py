"""predict.py as a user calls it: what is looked at, what is written where, and the sentence when something is wrong."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn

import datasets
import network_files
import predict
from load_detector import Detector
from network_files.ssd_nets import build_ssd
from train_utils import picture_sources
from train_utils.draw import class_colour
from train_utils.errors import InputError, one_sentence_errors

# what the model below knows: grey level -> label and score
KNOWN = {250: (1, 0.9), 200: (2, 0.6), 150: (3, 0.3), 100: (2, 0.02)}
NAMES = ["cat", "../dog", "cow"]
IDS = [11, 22, 33]
JSON = {"predictions.json", "images.json"}


class GreyLevels(nn.Module):
    """A detector that finds rectangles by their grey level, within its limits."""

    def __init__(self):
        super().__init__()
        self.score_thresh, self.nms_thresh, self.detections_per_img = 0.05, 0.5, 100
        self.calls = []
        self.first_call_takes = 0.0
        self.stops_at_call = None

    def forward(self, images):
        self.calls.append([tuple(image.shape[1:]) for image in images])
        if len(self.calls) == self.stops_at_call:
            raise KeyboardInterrupt
        if len(self.calls) == 1:
            time.sleep(self.first_call_takes)
        return [self._find(image) for image in images]

    def _find(self, image):
        rows = []
        for level, (label, score) in KNOWN.items():
            ys, xs = ((image[0].int() - level).abs() <= 8).nonzero(as_tuple=True)
            if len(xs) > 20 and score > self.score_thresh:
                rows.append((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1, label, score))
        table = torch.tensor(rows[: self.detections_per_img], dtype=torch.float64).reshape(-1, 6)
        return {"boxes": table[:, :4].float(), "labels": table[:, 4].long(), "scores": table[:, 5].float()}


@pytest.fixture
def model(monkeypatch):
    """The model that the script loads, whatever weights are named."""
    model = GreyLevels()
    monkeypatch.setattr(predict, "load_detector", lambda *a, **k: Detector(model, NAMES, IDS, notes=["a note"]))
    return model


def draw(path, *rectangles, size=(200, 100)):
    """A black picture of (width, height) with rectangles (x1, y1, x2, y2, grey level)."""
    pixels = np.zeros(size[::-1], dtype=np.uint8)
    for x1, y1, x2, y2, level in rectangles:
        pixels[y1:y2, x1:x2] = level
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert("RGB").save(path)
    return str(path)


@pytest.fixture
def photo(tmp_path):
    return draw(tmp_path / "photo.png", (20, 10, 60, 90, 250), (100, 40, 160, 60, 200), (170, 70, 190, 80, 150))


@pytest.fixture
def run(tmp_path):
    """Calls the script; returns its output folder."""

    def call(*words):
        before = set(tmp_path.glob("out*"))
        words = ["best.pth", *map(str, words), "--output-dir", str(tmp_path / "out"), "--device", "cpu"]
        predict.main(predict.parse_args(words))
        (folder,) = set(tmp_path.glob("out*")) - before
        return folder

    return call


@pytest.fixture
def complaint(run, capsys):
    """Calls the script, which has to refuse; returns its sentence."""

    def call(*words):
        with pytest.raises(SystemExit) as left, one_sentence_errors(network_files.InputError, datasets.InputError):
            run(*words)
        error = capsys.readouterr().err
        assert left.value.code == 2 and error.splitlines()[-1].startswith("error: ") and "Traceback" not in error, error
        return error

    return call


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def entries(folder, name="predictions"):
    return json.loads((folder / f"{name}.json").read_text())


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


# what comes out
def test_the_json_file_and_the_picture(model, photo, run, capsys):
    folder = run(photo)
    assert files(folder) == {"photo.jpg", *JSON}
    assert entries(folder) == [
        {"image_id": 1, "category_id": 11, "bbox": [20, 10, 40, 80], "score": pytest.approx(0.9), "file_name": photo,
         "class_name": "cat"},
        {"image_id": 1, "category_id": 22, "bbox": [100, 40, 60, 20], "score": pytest.approx(0.6), "file_name": photo,
         "class_name": "../dog"},
        {"image_id": 1, "category_id": 33, "bbox": [170, 70, 20, 10], "score": pytest.approx(0.3), "file_name": photo,
         "class_name": "cow"},
    ]
    drawn = pixels(folder / "photo.jpg")
    assert drawn.shape == (100, 200, 3)
    assert np.abs(drawn[70, 20] - class_colour(1)).max() < 90 and np.abs(drawn[59, 130] - class_colour(2)).max() < 90
    assert np.abs(drawn[75, 170] - 150).max() < 30  # below --score-thresh: not drawn
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a note" and lines[1] == f"1 images, 3 detections, 2 of them from score 0.5 on: {folder}"
    assert lines[2].startswith("after warm-up: ") and lines[2].count("images/s") == 2 and len(lines) == 3


def test_without_anything_to_find(model, run, tmp_path):
    folder = run(draw(tmp_path / "black.png"), "--save-txt", "--save-crops")
    assert files(folder) == {"black.jpg", *JSON, "labels/black.txt"} and entries(folder) == []
    black = {"image_id": 1, "file_name": str(tmp_path / "black.png"), "picture": "black.jpg", "height": 100, "width": 200}
    assert entries(folder, "images") == [black]
    assert (folder / "labels/black.txt").read_text() == ""


def test_a_low_score_threshold_lowers_the_models(model, photo, run, tmp_path):
    faint = draw(tmp_path / "faint.png", (10, 10, 50, 50, 100))
    assert entries(run(faint)) == [] and model.score_thresh == 0.05
    entry, = entries(run(faint, "--score-thresh", "0.01", "--save-txt"))
    assert entry["score"] == pytest.approx(0.02) and model.score_thresh == 0.01
    assert (tmp_path / "out-2" / "labels" / "faint.txt").read_text().startswith("1 0.15")
    model.score_thresh = 0.4
    assert len(entries(run(photo, "--score-thresh", "0.8"))) == 2 and model.score_thresh == 0.4  # not raised


def test_the_models_other_limits(model, photo, run):
    assert len(entries(run(photo, "--nms-thresh", "0.3", "--max-detections", "2"))) == 2
    assert (model.nms_thresh, model.detections_per_img) == (0.3, 2)


def test_chosen_classes(model, photo, run):
    folder = run(photo, "--classes", "cow", "1", "--save-txt", "--score-thresh", "0.25")
    assert [entry["class_name"] for entry in entries(folder)] == ["cat", "cow"]
    assert [line[0] for line in (folder / "labels/photo.txt").read_text().splitlines()] == ["0", "2"]
    assert np.abs(pixels(folder / "photo.jpg")[59, 130] - 200).max() < 30  # the dog is not drawn


def test_labels_of_classes():
    assert predict.chosen_labels(None, NAMES) is None
    assert predict.chosen_labels(["2", "cat"], NAMES).tolist() == [2, 1]
    assert predict.chosen_labels(["3"], ["a", "3", "b"]).tolist() == [2]  # a name goes before a number
    assert predict.chosen_labels(["N/A"], ["N/A", "b", "N/A"]).tolist() == [1, 3]


def test_txt(model, photo, run):
    folder = run(photo, "--save-txt", "--no-save-json")
    assert files(folder) == {"photo.jpg", "labels/photo.txt"}
    assert (folder / "labels/photo.txt").read_text() == (
        "0 0.200000 0.500000 0.200000 0.800000 0.900000\n1 0.650000 0.500000 0.300000 0.200000 0.600000\n"
    )


def test_txt_of_boxes_outside_the_image():
    found = {"boxes": torch.tensor([[-10.0, 20, 30, 70]]), "labels": torch.tensor([4]), "scores": torch.tensor([0.5])}
    assert predict.yolo_lines(found, 50, 100) == "3 0.150000 0.700000 0.300000 0.600000 0.500000\n"


def test_crops(model, photo, run):
    folder = run(photo, "--save-crops")
    assert files(folder) == {"photo.jpg", *JSON, "crops/cat/photo-1.jpg", "crops/_dog/photo-2.jpg"}
    crop = pixels(folder / "crops/cat/photo-1.jpg")
    assert crop.shape == (80, 40, 3) and np.abs(crop - 250).max() < 10  # no line is drawn into it


def test_crops_are_clipped_and_never_empty(tmp_path):
    image = torch.arange(20 * 30).reshape(1, 20, 30).repeat(3, 1, 1).to(torch.uint8)
    boxes = torch.tensor([[-5.0, -5, 3.2, 4.5], [10.2, 5.0, 10.4, 5.3], [8.0, 3, 8.0, 9], [40.0, 40, 50, 50]])
    found = {"boxes": boxes, "labels": torch.tensor([1, 2, 3, 1]), "scores": torch.ones(4)}
    predict.save_crops(tmp_path, "x", image, found, ["a/b", "..", "c"])
    assert files(tmp_path) == {"a_b/x-1.jpg", "_/x-2.jpg"}
    assert Image.open(tmp_path / "a_b/x-1.jpg").size == (4, 5) and Image.open(tmp_path / "_/x-2.jpg").size == (1, 1)


def test_pictures_of_the_same_name_are_all_kept(model, run, tmp_path):
    paths = [draw(tmp_path / folder / name, (10, 10, 50, 50, level)) for folder, name, level in
             (("a", "x.png", 250), ("b", "x.png", 200), ("b", "X.bmp", 250), ("b", "x-2.png", 150))]
    folder = run(*paths, "--save-crops", "--save-txt", "--score-thresh", "0.1")
    beside = {name for name in files(folder) if "/" not in name}
    assert beside == {"x.jpg", "x-2.jpg", "X-3.jpg", "x-2-2.jpg", *JSON}
    assert len(files(folder)) == 6 + 4 + 4
    assert [(entry["file_name"], entry["image_id"]) for entry in entries(folder)] == list(zip(paths, (1, 2, 3, 4)))
    listed = [(entry["file_name"], entry["picture"]) for entry in entries(folder, "images")]
    assert listed == list(zip(paths, ("x.jpg", "x-2.jpg", "X-3.jpg", "x-2-2.jpg")))
    assert (folder / "labels/x-2.txt").read_text()[0] == "1" and (folder / "labels/x-2-2.txt").read_text()[0] == "2"


def test_a_picture_too_long_for_jpeg(model, photo, run, monkeypatch):
    monkeypatch.setattr(predict, "MAX_JPEG_SIDE", 150)
    folder = run(photo)
    assert files(folder) == {"photo.png", *JSON} and entries(folder, "images")[0]["picture"] == "photo.png"


def test_an_empty_output_folder_is_used(model, photo, tmp_path):
    (tmp_path / "out").mkdir()
    predict.main(predict.parse_args(["best.pth", photo, "--output-dir", str(tmp_path / "out"), "--device", "cpu"]))
    assert (tmp_path / "out" / "photo.jpg").exists()


@pytest.mark.parametrize("place", ["photo.png", "photo.png/out"])
def test_an_output_folder_that_cannot_be_made(place, model, photo, tmp_path, capsys):
    with pytest.raises(InputError, match="photo.png.*: cannot write there .*; choose another one"):
        predict.main(predict.parse_args(["best.pth", photo, "--output-dir", str(tmp_path / place), "--device", "cpu"]))


# what goes in
def test_images_of_all_kinds(model, run, tmp_path):
    """Grey, alpha, palette, 16 bit, turned by EXIF: the box is where one sees it."""
    source = Image.open(draw(tmp_path / "source.png", (20, 10, 60, 90, 250)))
    folder = tmp_path / "images of all kinds"
    folder.mkdir()
    source.convert("L").save(folder / "grey.png")
    source.convert("RGBA").save(folder / "alpha.png")
    source.quantize(4).save(folder / "palette.png")
    Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257).save(folder / "deep.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    source.rotate(90, expand=True).save(folder / "turned.webp", exif=exif, lossless=True)
    (folder / "notes.md").touch()
    found = entries(run(folder, "--batch-size", "3"))
    names = [Path(entry["file_name"]).name for entry in found]
    assert names == ["alpha.png", "deep.tif", "grey.png", "palette.png", "turned.webp"]
    assert [entry["bbox"] for entry in found] == [[20, 10, 40, 80]] * 5


def test_batches_of_mixed_sizes(model, run, tmp_path):
    for number in range(5):
        size = (60 + 30 * number, 100)
        draw(tmp_path / "in" / f"{number}.png", (10 + number, 10, 40, 50, 250), size=size)
    one = entries(run(tmp_path / "in"))
    model.calls.clear()
    assert entries(run(tmp_path / "in", "--batch-size", "2")) == one and len(one) == 5
    assert [len(call) for call in model.calls] == [2, 2, 2, 1]  # the first twice: warm-up


def test_broken_images_are_named_and_the_others_done(model, photo, complaint, tmp_path):
    for name in ("a.jpg", "z.png"):
        (tmp_path / name).write_bytes(Path(photo).read_bytes()[:150])
    (tmp_path / "list.txt").write_text("photo.png\nmissing.jpg\n")
    message = complaint(tmp_path / "*.jpg", photo, tmp_path / "z.png", tmp_path / "list.txt")
    assert message.count("skipped: ") == 3 and "3 of the images and videos could not be read: " in message
    assert all(name in message for name in ("a.jpg", "z.png", "missing.jpg")) and "; 1 images are done" in message
    assert files(tmp_path / "out") == {"photo.jpg", *JSON} and len(entries(tmp_path / "out")) == 3


def test_nothing_could_be_read(model, complaint, tmp_path, capsys):
    (tmp_path / "a.jpg").touch()
    assert "0 images are done" in complaint(tmp_path / "a.jpg")
    assert entries(tmp_path / "out") == [] and model.calls == []


# tiles
def test_tiles(model, run, tmp_path):
    large = draw(tmp_path / "large.png", (10, 10, 20, 20, 250), (90, 20, 190, 90, 200), (230, 80, 240, 95, 150), size=(250, 100))
    whole = entries(run(large))
    model.calls.clear()
    assert entries(run(large, "--tile", "100", "--batch-size", "2")) == whole and len(whole) == 3
    assert model.calls == [[(100, 250)], [(100, 250)], [(100, 100)] * 2, [(100, 100)]]  # first twice: warm-up


def test_tiles_have_the_models_limit_each(model, run, tmp_path):
    """Three rectangles in three tiles, of which the model gives one at a time."""
    large = draw(tmp_path / "large.png", (10, 10, 20, 20, 250), (120, 20, 140, 90, 200), (230, 80, 240, 95, 150), size=(250, 100))
    model.detections_per_img = 1
    assert len(entries(run(large))) == 1 and len(entries(run(large, "--tile", "100"))) == 3
    for number in (1, 2):
        folder = run(large, "--tile", "100", "--max-detections", number)
        assert [entry["class_name"] for entry in entries(folder)] == NAMES[:number]


def test_tiles_larger_than_the_image_change_nothing(tmp_path, run, monkeypatch, photo):
    net = build_ssd("small-ssd", 4).eval()
    monkeypatch.setattr(predict, "load_detector", lambda *a, **k: Detector(net, NAMES, IDS))
    other = draw(tmp_path / "other.png", (10, 10, 60, 60, 250), size=(90, 200))
    plain = entries(run(photo, other, "--batch-size", "2"))
    assert len(plain) > 10 and entries(run(photo, other, "--batch-size", "2", "--tile", "200")) == plain


def test_large_and_small_images_in_one_batch(model, photo, run, tmp_path):
    small = [draw(tmp_path / f"{k}.png", (10, 10, 50, 50, 250), size=(90, 80)) for k in range(2)]
    found = entries(run(small[0], photo, small[1], "--tile", "100", "--batch-size", "3", "--classes", "cat"))
    assert [(entry["image_id"], entry["bbox"]) for entry in found] == [
        (1, [10, 10, 40, 40]), (2, [20, 10, 40, 80]), (3, [10, 10, 40, 40])
    ]


# videos
@pytest.fixture
def film(tmp_path):
    """Five frames, a rectangle that moves by 10 pixels."""
    pytest.importorskip("cv2")
    writer = picture_sources.VideoWriter(tmp_path / "film.mp4", 10.0, (200, 100))
    for number in range(5):
        writer.write(Image.open(draw(tmp_path / "frame.png", (20 + 10 * number, 20, 60 + 10 * number, 80, 250))))
    writer.close()
    return tmp_path / "film.mp4"


def frames_of(path):
    with picture_sources.VideoReader(path) as reader:
        return list(reader)


def test_a_video_becomes_a_video(model, film, photo, run):
    folder = run(film, photo, "--batch-size", "2", "--save-txt", "--save-crops", "--classes", "cat")
    assert files(folder) == {
        "photo.jpg", "film.mp4", *JSON, "labels/photo.txt", "crops/cat/photo-1.jpg",
        *(f"labels/film/{k:06}.txt" for k in range(5)), *(f"crops/cat/film/{k:06}-1.jpg" for k in range(5)),
    }
    still, *moving = entries(folder)
    assert "frame" not in still and [entry["frame"] for entry in moving] == [0, 1, 2, 3, 4]
    assert [entry["image_id"] for entry in moving] == [2, 3, 4, 5, 6]
    for entry in moving:
        assert entry["file_name"] == str(film)
        assert entry["bbox"] == pytest.approx([20 + 10 * entry["frame"], 20, 40, 60], abs=3)
    looked_at = entries(folder, "images")
    assert [entry.get("frame") for entry in looked_at] == [None, 0, 1, 2, 3, 4]
    assert looked_at[5] == {"image_id": 6, "file_name": str(film), "frame": 4, "picture": "film.mp4", "height": 100, "width": 200}
    drawn = frames_of(folder / "film.mp4")
    assert len(drawn) == 5 and drawn[0].shape == (3, 100, 200)
    for number, frame in enumerate(drawn):  # the box's line moves with it
        left = frame[:, 60, 18 + 10 * number : 24 + 10 * number].float()
        assert (left - torch.tensor(class_colour(1))[:, None]).abs().max(dim=0).values.min() < 80
    assert [len(call) for call in model.calls] == [1, 1, 2, 2, 1]


def test_videos_of_the_same_name(model, film, run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "film.mp4").write_bytes(film.read_bytes())
    folder = run(film, tmp_path / "other")
    assert files(folder) == {"film.mp4", "film-2.mp4", *JSON}
    assert len(frames_of(folder / "film.mp4")) == len(frames_of(folder / "film-2.mp4")) == 5


def test_a_broken_video_is_named(model, film, photo, complaint, tmp_path):
    film.write_bytes(b"no video" * 50)
    message = complaint(film, photo)
    assert "film.mp4: cannot read this video" in message and "1 images are done" in message


def test_a_video_without_frames_is_named(model, photo, complaint, tmp_path, monkeypatch):
    class Nothing(picture_sources.VideoReader):
        def __init__(self, source):
            self.frame_rate, self.frames = 10.0, 0

        def __iter__(self):
            return iter(())

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(predict, "VideoReader", Nothing)
    (tmp_path / "film.mp4").touch()
    assert "film.mp4: no frame of this video can be read" in complaint(photo, tmp_path / "film.mp4")
    assert files(tmp_path / "out") == {"photo.jpg", *JSON}


def test_without_opencv(model, complaint, tmp_path, photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "film.mp4").touch()
    assert "videos, cameras and --show need OpenCV: pip install opencv-python" in complaint(photo, tmp_path / "film.mp4")
    assert "pip install opencv-python" in complaint(photo, "--show")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_whole_files(model, film, run, tmp_path, capsys):
    model.stops_at_call = 4  # warm-up and three frames before
    with pytest.raises(SystemExit) as left:
        run(film)
    assert left.value.code == 130 and "stopped by Ctrl-C" in capsys.readouterr().err
    assert [entry["frame"] for entry in entries(tmp_path / "out")] == [0, 1]
    assert len(frames_of(tmp_path / "out" / "film.mp4")) == 2


# time, progress, window
def test_the_warm_up_does_not_count(model, photo):
    model.first_call_takes = 0.3
    cpu = torch.device("cpu")
    spotter = predict.Spotter(model, cpu, None, batch_size=1, tile=None, overlap=0.2, labels=None, max_detections=None)
    image = datasets.image_io.read_image(photo)
    for _ in range(2):
        spotter([image])
    assert spotter.warm_up >= 0.3 and 0 < spotter.seconds < 0.3 and len(model.calls) == 3
    assert spotter([]) == [] and len(model.calls) == 3


def test_progress_in_a_log(model, photo, film, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "SECONDS_PER_LINE", 0)
    other = draw(tmp_path / "other.png")
    run(photo, other)
    assert capsys.readouterr().out.splitlines()[1:3] == ["1 of 2 images", "2 of 2 images"]
    run(film, "--batch-size", "3")
    assert capsys.readouterr().out.splitlines()[1:3] == ["3 images", "5 images"]


class FakeWindow:
    """Goes on until so many pictures were shown."""

    def __init__(self, count):
        self.count, self.waits, self.closed = count, [], False

    def show(self, picture, wait):
        self.waits.append(wait)
        return len(self.waits) < self.count

    def close(self):
        self.closed = True


def test_show(model, photo, film, run, monkeypatch):
    window = FakeWindow(3)
    monkeypatch.setattr(predict, "Window", lambda: window)
    folder = run(photo, film, "--show")
    assert window.waits == [True, False, False] and window.closed  # q at the second frame
    assert len(frames_of(folder / "film.mp4")) == 2


# what cannot be done
def test_unknown_classes(model, photo, complaint):
    message = complaint(photo, "--classes", "cta")
    assert "unknown class 'cta', did you mean 'cat'?; there are cat, ../dog, cow, or labels from 1 to 3" in message
    for word in ("0", "4", "Cat "):
        assert f"unknown class {word!r}" in complaint(photo, "--classes", word)
    assert "name images and weights before --classes" in complaint(photo, "--classes", "cat", photo)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--batch-size", "0"], "--batch-size must be at least 1, not 0"),
        (["--tile", "31"], "--tile 31: tiles must have at least 32 pixels"),
        (["--overlap", "0.95"], "--overlap 0.95: it must be in 0..0.9"),
        (["--score-thresh", "nan"], "--score-thresh nan: it must be in 0..1"),
        (["--nms-thresh", "2"], "--nms-thresh 2: it must be in 0..1"),
        (["--max-detections", "0"], "--max-detections 0: it must be at least 1"),
        (["--device", "cuda:77"], "this machine has no such device"),
        (["nothing.jpg"], "nothing.jpg: there is no such file or folder"),
    ],
)
def test_values_that_cannot_be(words, sentence, model, photo, tmp_path, capsys):
    words = ["best.pth", photo, "--output-dir", str(tmp_path / "out"), "--device", "cpu", *words]
    with pytest.raises(SystemExit) as left, one_sentence_errors(network_files.InputError, datasets.InputError):
        predict.main(predict.parse_args(words))
    assert left.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_stand_before_and_after_the_flags(capsys):
    args = predict.parse_args(["best.pth", "a.jpg", "--score-thresh", "0.3", "b.jpg"])
    assert (args.weights, args.images) == ("best.pth", ["a.jpg", "b.jpg"])
    args = predict.parse_args(["a.jpg", "--weights", "best.pth", "b.jpg"])
    assert (args.weights, args.images) == ("best.pth", ["a.jpg", "b.jpg"])
    with pytest.raises(SystemExit):
        predict.parse_args(["best.pth"])
    assert "--classes" not in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        predict.parse_args(["best.pth", "--classes", "cat", "a.jpg"])
    assert "before --classes, which takes all the words behind it" in capsys.readouterr().err


def test_as_a_command(photo, tmp_path):
    torch.save(build_ssd("small-ssd", 4).state_dict(), tmp_path / "bare.pth")
    (tmp_path / "broken.jpg").touch()
    words = ["--weights", "bare.pth", "--net", "small-ssd", photo, "broken.jpg", "--device", "cpu", "--output-dir", "out"]
    done = subprocess.run([sys.executable, ROOT / "predict.py", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: 1 of the images and videos"), done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("small-ssd in the layout of pytorch-ssd, 160 pixels, 3 classes: without names")
    assert lines[1].startswith("1 images, ") and "Traceback" not in done.stderr
    assert files(tmp_path / "out") == {"photo.jpg", *JSON}
