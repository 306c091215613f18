"""What words stand for, and videos there and back."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train_utils.errors import InputError
from train_utils.picture_sources import (
    FRAME_RATE,
    VideoReader,
    VideoWriter,
    Window,
    find_sources,
    import_opencv,
    source_name,
)

SUFFIXES = (".jpg", ".png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a few empty files."""
    there = "b c/2.jpg", "b c/10.JPG", "b c/.hidden.jpg", "b c/film.MP4", "b c/notes.md", "b c/deep/x.png", "a.jpg", "odd.name"
    for name in there:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*words):
    """Images and videos as strings."""
    found = find_sources(words, SUFFIXES)
    return [str(path) for path in found.images], [source_name(source) for source in found.videos]


def refused(*words):
    with pytest.raises(InputError) as error:
        find_sources(words, SUFFIXES)
    return str(error.value)


# words
def test_files_folders_patterns(folder):
    assert names("a.jpg") == (["a.jpg"], [])
    assert names("odd.name") == (["odd.name"], [])  # a named file is taken as it is
    assert names("b c") == (["b c/10.JPG", "b c/2.jpg"], ["b c/film.MP4"])
    assert names("b c/*") == (["b c/10.JPG", "b c/2.jpg"], ["b c/film.MP4"])
    assert names("**/*.png") == (["b c/deep/x.png"], [])
    (folder / "[1].jpg").touch()
    assert names("[1].jpg") == (["[1].jpg"], [])  # a file that is there is no pattern


def test_each_once_in_the_order_of_the_words(folder):
    assert names("b c/2.jpg", "a.jpg", "b c", str(folder / "a.jpg"), "./a.jpg") == (
        ["b c/2.jpg", "a.jpg", "b c/10.JPG"], ["b c/film.MP4"]
    )


def test_nothing_named():
    assert names() == ([], [])


def test_cameras(folder):
    assert find_sources(["webcam:1", "0", "webcam", "00"], SUFFIXES).videos == [1, 0]
    assert names("3") == ([], ["webcam:3"])
    (folder / "3").mkdir()
    (folder / "3" / "x.png").touch()
    assert names("3") == (["3/x.png"], [])  # what is there goes first
    assert "no such file" in refused("webcam:front")


def test_list_files(folder):
    (folder / "b c" / "list.TXT").write_text("\ufeff2.jpg\r\n\n  a.jpg  \nfilm.MP4\nmissing.jpg\n", encoding="utf-8")
    images, videos = names("b c/list.TXT")
    assert images == ["b c/2.jpg", "a.jpg", "b c/missing.jpg"] and videos == ["b c/film.MP4"]
    (folder / "absolute.txt").write_text(str(folder / "a.jpg"))
    assert names("absolute.txt") == ([str(folder / "a.jpg")], [])


def test_comments_in_a_list_file(folder):
    (folder / "# 1.jpg").touch()
    (folder / "list.txt").write_text("# mine\na.jpg\n#b c/2.jpg\n# 1.jpg\n")
    assert names("list.txt") == (["a.jpg", "# 1.jpg"], [])
    (folder / "list.txt").write_text("# mine\n")
    assert "list.txt: this list is empty" in refused("list.txt")


def test_what_stands_for_nothing(folder):
    assert "nix.jpg: there is no such file or folder; give images, videos, folders" in refused("nix.jpg")
    assert "*.tif: no image or video matches this pattern" in refused("*.tif")
    (folder / "b c" / "notes").mkdir()
    assert "this folder holds no image and no video; give a pattern like 'b c/notes/**/*.jpg'" in refused("a.jpg", "b c/notes")
    (folder / "list.txt").write_text(" \n\n")
    assert "list.txt: this list is empty" in refused("list.txt")
    (folder / "list.txt").write_text("x.jpg\ny.jpg\n")
    message = refused("list.txt")
    assert "none of its files is there, neither relative to . nor to the working directory; the first is x.jpg" in message
    (folder / "list.txt").write_text(f"# mine\n{folder / 'x.jpg'}\n")
    assert f"the first is {folder / 'x.jpg'}" in refused("list.txt")
    (folder / "list.txt").write_bytes(b"\xff\xfe\x00")
    assert "list.txt: not a list of files" in refused("list.txt")


# videos
def frame(number, height=48, width=64):
    """A picture of an even colour with a red left half."""
    pixels = np.full((height, width, 3), 20 * number, dtype=np.uint8)
    pixels[:, : width // 2] = (200, 30, 30)
    return Image.fromarray(pixels)


def write(path, count, **size):
    writer = VideoWriter(path, 10.0, frame(0, **size).size)
    for number in range(count):
        writer.write(frame(number, **size))
    writer.close()


@pytest.mark.parametrize("height, width", [(48, 64), (49, 65)])
def test_a_video_there_and_back(height, width, tmp_path):
    pytest.importorskip("cv2")
    write(tmp_path / "film.mp4", 5, height=height, width=width)
    with VideoReader(tmp_path / "film.mp4") as reader:
        assert reader.frame_rate == pytest.approx(10.0)
        frames = list(reader)
        assert len(frames) == reader.frames == 5
    for number, image in enumerate(frames):
        assert image.dtype == torch.uint8 and image.shape == (3, 48, 64)
        assert (image[:, 5:40, 5:25].float().mean(dim=(1, 2)) - torch.tensor([200.0, 30, 30])).abs().max() < 25  # RGB
        assert (image[:, 5:40, 45:60].float().mean() - 20 * number).abs() < 12


def test_a_frame_of_another_size_is_brought_to_that_of_the_video(tmp_path):
    pytest.importorskip("cv2")
    writer = VideoWriter(tmp_path / "film.mp4", 10.0, (64, 48))
    writer.write(frame(1))
    writer.write(frame(1, height=96, width=128))
    writer.close()
    with VideoReader(tmp_path / "film.mp4") as reader:
        assert [tuple(image.shape) for image in reader] == [(3, 48, 64)] * 2


def test_videos_that_cannot_be_read_or_written(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "film.mp4").write_bytes(b"no video" * 50)
    with pytest.raises(InputError, match="film.mp4: cannot read this video"):
        VideoReader(tmp_path / "film.mp4")
    with pytest.raises(InputError, match="webcam:97: there is no such camera"):
        VideoReader(97)
    with pytest.raises(InputError, match="cannot write a video of 64x48 pixels here"):
        VideoWriter(tmp_path / "none" / "film.mp4", 10.0, (64, 48))


class FakeOpenCV:
    """A capture that says nonsense about its rate, and a window system that says which keys are pressed."""

    CAP_PROP_FPS = WINDOW_AUTOSIZE = WND_PROP_VISIBLE = 0

    class error(Exception):  # noqa: N801 (the name that OpenCV gives it)
        pass

    def __init__(self, rate=0.0, keys=(), has_windows=True):
        self.rate, self.keys, self.has_windows, self.shown, self.visible = rate, iter(keys), has_windows, [], 1

    def VideoCapture(self, source):  # noqa: N802
        return self

    def isOpened(self):  # noqa: N802
        return True

    def get(self, what):
        return self.rate

    def namedWindow(self, name, mode):  # noqa: N802
        if not self.has_windows:
            raise self.error("not implemented")

    def imshow(self, name, pixels):
        self.shown.append(pixels)

    def waitKey(self, milliseconds):  # noqa: N802
        return next(self.keys)

    def getWindowProperty(self, name, what):  # noqa: N802
        return self.visible


@pytest.mark.parametrize("rate", [0.0, float("nan"), -1.0, 1e6])
def test_a_video_without_a_frame_rate(rate, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", FakeOpenCV(rate))
    assert VideoReader(Path("film.mp4")).frame_rate == FRAME_RATE


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match="need OpenCV: pip install opencv-python$"):
        import_opencv()


# windows
def test_a_window_waits_for_keys_and_fits_the_screen(monkeypatch):
    fake = FakeOpenCV(keys=[-1, -1, ord(" "), -1, ord("q"), 27, -1])
    monkeypatch.setitem(sys.modules, "cv2", fake)
    monkeypatch.setenv("DISPLAY", ":0")
    window = Window()
    large = Image.new("RGB", (4000, 3000), (1, 2, 3))
    assert window.show(large, wait=True) and fake.shown[0].shape == (900, 1200, 3)
    assert fake.shown[0][0, 0].tolist() == [3, 2, 1] and large.size == (4000, 3000)
    assert window.show(frame(1), wait=False) and fake.shown[1].shape == (48, 64, 3)
    assert not window.show(frame(1), wait=False) and not window.show(frame(1), wait=True)
    fake.visible = 0  # closed with the mouse
    assert not window.show(frame(1), wait=True)


def test_no_window(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", FakeOpenCV(has_windows=False))
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(InputError, match="this one has none: pip uninstall opencv-python-headless, then pip install opencv-py"):
        Window()
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="--show needs a display"):
        Window()
