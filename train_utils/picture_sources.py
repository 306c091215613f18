"""What the words of a command line stand for (images, lists of them, videos, cameras), and videos read, written and shown.

Videos, cameras and windows need OpenCV, which nothing else here does: it is imported when first asked for.
"""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from train_utils.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
LIST_SUFFIX = ".txt"
FRAME_RATE = 25.0  # of a video that does not say its own
SCREEN = (1600, 900)  # width and height that a window does not exceed


@dataclass
class Sources:
    """What was named, each once. videos: files, and numbers of cameras."""

    images: list[Path] = field(default_factory=list)
    videos: list[Path | int] = field(default_factory=list)


def find_sources(words: Sequence[str], image_suffixes: Sequence[str]) -> Sources:
    """The images and videos that the words stand for, in the order of the words, sorted by name within a folder or pattern.

    A word is an image or video, a folder (without the folders in it), a pattern (`**` for folders in folders), a list file
    (*.txt: a path per line, relative to the file or to the working directory, or a # comment), a bare number or `webcam:0` for
    a camera.
    Of folders and patterns only files with an image's or video's suffix count; a file that is named is taken as it is.

    Raises:
        InputError: a word that stands for nothing.
    """
    images, videos, seen = [], [], set()
    for word in words:
        for source in _stand_for(word, tuple(image_suffixes)):
            key = source if isinstance(source, int) else os.path.abspath(source)
            if key in seen:
                continue
            seen.add(key)
            is_video = isinstance(source, int) or source.suffix.lower() in VIDEO_SUFFIXES
            (videos if is_video else images).append(source)
    return Sources(images, videos)


def source_name(source: Path | int) -> str:
    """What a file or a camera is called in results and messages."""
    return f"webcam:{source}" if isinstance(source, int) else str(source)


def _stand_for(word: str, image_suffixes: tuple[str, ...]) -> list[Path] | list[int]:
    path, usable = Path(word), (*image_suffixes, *VIDEO_SUFFIXES)
    if path.is_dir():
        found = [p for p in sorted(path.iterdir()) if p.suffix.lower() in usable and p.name[0] != "." and not p.is_dir()]
        if not found:
            raise InputError(f"{word}: this folder holds no image and no video; give a pattern like '{path / '**' / '*.jpg'}' "
                             "for those in its folders")
        return found
    if path.is_file():
        return _read_list(path) if path.suffix.lower() == LIST_SUFFIX else [path]
    camera = word.removeprefix("webcam:") if word != "webcam" else "0"
    if camera.isascii() and camera.isdigit():
        return [int(camera)]
    found = [Path(p) for p in sorted(glob.glob(word, recursive=True)) if p.lower().endswith(usable) and not Path(p).is_dir()]
    if not found:
        what = "no image or video matches this pattern" if glob.has_magic(word) else "there is no such file or folder"
        raise InputError(f"{word}: {what}; give images, videos, folders, quoted patterns, list files (.txt) or webcam:0")
    return found


def _read_list(path: Path) -> list[Path]:
    """The files that a list file names; those that are missing too, as long as one is there."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a list of files, one path per line, in UTF-8 ({error.reason})") from None
    found = {line: _find_listed(path.parent, line) for line in lines if line}
    files = {line: file for line, file in found.items() if line[0] != "#" or file.is_file()}  # without comments
    if not files:
        raise InputError(f"{path}: this list is empty; write the path of an image or video in each line")
    if not any(file.is_file() for file in files.values()):
        raise InputError(f"{path}: none of its files is there, neither relative to {path.parent} nor to the working directory; "
                         f"the first is {next(iter(files))}")
    return list(files.values())


def _find_listed(folder: Path, line: str) -> Path:
    """Beside the list, which goes first, or in the working directory."""
    beside = folder / line
    return beside if beside.is_file() or not Path(line).is_file() else Path(line)


def import_opencv() -> ModuleType:
    """The module cv2.

    Raises:
        InputError: it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise InputError("videos, cameras and --show need OpenCV: pip install opencv-python") from None
    return cv2


class VideoReader:
    """The frames of a video file or a camera, one at a time, upright, as uint8 [3, H, W] RGB; a context manager.

    Attributes:
        frame_rate: frames per second.
        frames: how many were read so far.

    Raises:
        InputError: OpenCV is missing, or cannot open it.
    """

    def __init__(self, source: Path | int):
        cv2 = import_opencv()
        is_camera = isinstance(source, int)
        self.capture = cv2.VideoCapture(source if is_camera else str(source))
        if not self.capture.isOpened():
            self.capture.release()
            reason = "there is no such camera, or another program uses it" if is_camera else "cannot read this video"
            raise InputError(f"{source_name(source)}: {reason}")
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if 0 < rate <= 1000 else FRAME_RATE  # false for NaN
        self.frames = 0

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            there, frame = self.capture.read()  # [H, W, 3] BGR
            if not there:
                return
            self.frames += 1
            yield torch.from_numpy(np.ascontiguousarray(frame[:, :, ::-1].transpose(2, 0, 1)))

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.capture.release()


class VideoWriter:
    """An mp4 file of RGB pictures of one size, playable once `close` was called; the codec drops a last odd row or column.

    Raises:
        InputError: OpenCV is missing, or cannot write there.
    """

    def __init__(self, path: Path, frame_rate: float, size: tuple[int, int]):
        self.cv2 = import_opencv()
        self.size = size  # (width, height)
        self.writer = self.cv2.VideoWriter(str(path), self.cv2.VideoWriter_fourcc(*"mp4v"), frame_rate, size)
        if not self.writer.isOpened():
            raise InputError(f"{path}: OpenCV cannot write a video of {size[0]}x{size[1]} pixels here")

    def write(self, picture: Image.Image) -> None:
        """Append a frame; one of another size is brought to that of the video."""
        picture = picture if picture.size == self.size else picture.resize(self.size)
        self.writer.write(_bgr(picture))

    def close(self) -> None:
        """Write what makes the file playable."""
        self.writer.release()


class Window:
    """A window that shows pictures, no larger than the screen.

    Raises:
        InputError: OpenCV is missing or comes without windows, or there is no display.
    """

    NAME = "predict: q or Esc ends"

    def __init__(self):
        self.cv2 = import_opencv()
        # Qt, in the packages of Linux, ends the process where it finds no display.
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise InputError("--show needs a display, and this session has none: look at the pictures in --output-dir")
        try:
            self.cv2.namedWindow(self.NAME, self.cv2.WINDOW_AUTOSIZE)
        except self.cv2.error:
            raise InputError("--show needs an OpenCV with windows, this one has none: "
                             "pip uninstall opencv-python-headless, then pip install opencv-python") from None

    def show(self, picture: Image.Image, wait: bool) -> bool:
        """Show a picture, until a key is pressed if told to wait; whether to go on."""
        picture = picture.copy()
        picture.thumbnail(SCREEN)
        self.cv2.imshow(self.NAME, _bgr(picture))
        while True:
            key = self.cv2.waitKey(50 if wait else 1) & 0xFF
            closed = self.cv2.getWindowProperty(self.NAME, self.cv2.WND_PROP_VISIBLE) < 1
            if closed or key in (ord("q"), 27):
                return False
            if not wait or key != 0xFF:  # 0xFF: no key
                return True

    def close(self) -> None:
        """Take the window away."""
        self.cv2.destroyAllWindows()


def _bgr(picture: Image.Image) -> np.ndarray:
    """The pixels [H, W, 3] as OpenCV orders them."""
    return np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
