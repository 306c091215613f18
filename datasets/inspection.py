"""Every image of a data set looked at as training will see it: decoded fully, on all cores.

    facts = examine_images(paths, sizes, workers)     what is in each file; the only slow part
    faults = image_faults(dataset, facts)             what is wrong with it, and what training does about that
    pairs = same_pictures(splits)                     pictures that are there twice, by their pixels, not by their names

Files that no split uses are looked for in unused_files.py.
A header tells nothing of a file that was cut off, and `PIL.Image.verify` passes it: only decoding finds it.
"""

import hashlib
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from datasets.annotations import DROP_IMAGE, FIX, WARN, Fault
from datasets.detection_dataset import size_fault
from datasets.errors import InputError
from datasets.image_io import ORIENTATION_TAG, DecompressionBomb, UnreadableImage, open_image, read_image

Size = tuple[int, int]  # (height, width)

_at_work, _slot = [-1], 0  # of a decoding process: the image that each has in hand, and which of the processes this is

MAX_CHUNK = 16  # images that a process takes at once
MAX_NAMES = 4  # images named in a message
HEAD = 16  # bytes of a file that is no image, shown to tell what it is
PILLOW = f"{os.sep}PIL{os.sep}"  # in the path of a module whose warnings are about the file
EXIF_FORMATS = ("JPEG", "MPO", "WEBP", "TIFF")  # asking another kind for EXIF that is not in its header would decode it
SAME_FORMATS = {"MPO": "JPEG"}  # several JPEGs in one file, as telephones write them
# What reading does to pixels that are not three channels of 8 bits, by Pillow's word for them.
CONVERSIONS = {
    "1": ("1-bit image", "black and white become 0 and 255"),
    "L": ("grey image", "its channel is taken three times"),
    "LA": ("grey image with transparency", "its transparency is dropped"),
    "P": ("palette image", "its colours are looked up"),
    "PA": ("palette image with transparency", "its colours are looked up, transparency is dropped"),
    "RGBA": ("image with transparency", "its transparency is dropped, so hidden colours appear"),
    "CMYK": ("CMYK image", "it is converted to RGB"),
}


class ImageFacts(NamedTuple):
    """What an image file holds.

    size: of the decoded, upright picture, None if it cannot be read, then `error` says why and `is_bomb` whether it is refused
    for its number of pixels; format, mode: Pillow's words ("JPEG", "RGB"), blank if the header cannot be read; is_deep: more
    than 8 bits per channel; stored: size without regard to EXIF; orientation: as in the file, 1 where it has none; remarks: of
    the decoder; digest: of the decoded pixels.
    """

    size: Size | None
    error: str = ""
    is_bomb: bool = False
    format: str = ""
    mode: str = ""
    is_deep: bool = False
    stored: Size = (0, 0)
    orientation: int = 1
    remarks: tuple[str, ...] = ()
    digest: bytes = b""


class SamePicture(NamedTuple):
    """Two files that hold the same pixels, each with the split that it is in."""

    split: str
    path: str
    other_split: str
    other_path: str


def examine_images(paths: Sequence[str], sizes: Sequence[Size], workers: int | None = None) -> list[ImageFacts]:
    """The facts of every image, in order; a progress bar runs on a terminal.

    Args:
        paths: of the images.
        sizes: (height, width) of each by its annotation, which decides whether an EXIF orientation is applied.
        workers: processes; None: one for each core, 0: this process does it.

    Raises:
        InputError: a process died; names the images that were being decoded.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    jobs = list(zip(paths, sizes))
    facts: list[ImageFacts | None] = [None] * len(jobs)
    examined = _examine_in_pool(jobs, min(workers, len(jobs))) if workers and jobs else enumerate(map(_examine, jobs))
    bar = tqdm(examined, total=len(jobs), desc="decoding", unit=" images", disable=None, leave=False)
    for index, found in bar:
        facts[index] = found
    return facts


def examine_image(path: str, annotated: Size | None = None) -> ImageFacts:
    """The facts of one image; whatever is wrong with it is in them, nothing is raised."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        header = _read_header(path)
        try:
            image = read_image(path, annotated)
        except UnreadableImage as error:
            return header._replace(error=str(error).removeprefix(f"{path}: ") + _describe_start(path, header))
    texts = [" ".join(str(warning.message).split()) for warning in caught if PILLOW in warning.filename]
    digest = hashlib.sha1(np.ascontiguousarray(image), usedforsecurity=False)  # the fastest one here
    digest.update(str(tuple(image.shape)).encode())
    return header._replace(size=tuple(image.shape[1:]), remarks=tuple(dict.fromkeys(texts)), digest=digest.digest())


def _read_header(path: str) -> ImageFacts:
    try:
        with open_image(path) as picture:
            width, height = picture.size
            is_deep = any(";16" in str(tile[3]) for tile in picture.tile)  # as stored: RGB of 16 bits opens as RGB
            return ImageFacts(None, format=picture.format or "", mode=picture.mode, is_deep=is_deep, stored=(height, width),
                              orientation=_orientation(picture))
    except DecompressionBomb:
        return ImageFacts(None, is_bomb=True)
    except UnreadableImage:  # reading the image says why
        return ImageFacts(None)


def _orientation(picture: Image.Image) -> int:
    """As it stands in the file, also if it is none of 1..8."""
    if picture.format not in EXIF_FORMATS and "exif" not in picture.info:
        return 1
    try:
        value = picture.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data, which reading ignores likewise
        return 1
    return value if isinstance(value, int) else 0


def _describe_start(path: str, header: ImageFacts) -> str:
    """How a file begins that is not an image at all: web pages and text files are often saved under an image's name."""
    if header.format or header.is_bomb or not os.path.isfile(path):
        return ""
    try:
        with open(path, "rb") as file:
            start = file.read(HEAD)
    except OSError:
        return ""
    return f"; it begins with {start!r}" if start else "; the file is empty"


def _examine(job: tuple[str, Size]) -> ImageFacts:
    return examine_image(*job)


def _examine_in_pool(jobs: Sequence[tuple[str, Size]], workers: int) -> Iterator[tuple[int, ImageFacts]]:
    """(index, facts) of all jobs as they are done, by several processes."""
    context = multiprocessing.get_context()
    at_work = context.RawArray("q", [-1] * workers)  # the image that each process has in hand
    chunk = max(1, min(MAX_CHUNK, len(jobs) // (4 * workers)))
    starts = iter(range(0, len(jobs), chunk))
    pending: dict[Future, int] = {}
    with ProcessPoolExecutor(workers, context, _start_worker, (at_work, context.Value("i", 0))) as pool:
        try:
            while True:
                while len(pending) < 2 * workers and (start := next(starts, None)) is not None:
                    pending[pool.submit(_examine_chunk, start, jobs[start : start + chunk])] = start
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield from enumerate(future.result(), start=pending.pop(future))
        except BrokenProcessPool as error:
            paths = [jobs[index][0] for index in at_work if index >= 0]
            names = ", ".join(paths[:MAX_NAMES]) + (", ..." if len(paths) > MAX_NAMES else "")
            raise InputError(f"a process died while it decoded one of these images: {names or 'none yet'}; the file is too much "
                             "for the decoder, or the memory is full: look at them, or try fewer --workers") from error


def _start_worker(at_work: Sequence[int], started: object) -> None:
    global _at_work, _slot
    with started.get_lock():
        _at_work, _slot = at_work, started.value
        started.value += 1
    torch.set_num_threads(1)  # the processes share the cores already


def _examine_chunk(start: int, jobs: Sequence[tuple[str, Size]]) -> list[ImageFacts]:
    facts = []
    for index, job in enumerate(jobs, start):
        _at_work[_slot] = index
        facts.append(_examine(job))
    _at_work[_slot] = -1
    return facts


def image_faults(dataset, facts: Sequence[ImageFacts]) -> list[Fault]:
    """What is wrong with the images of a data set (anything with the contract of `DetectionDataset`), in its order."""
    faults: list[Fault] = []
    for index, found in enumerate(facts):
        path = dataset.image_path(index)
        if found.size is None:
            kind = "decompression bomb" if found.is_bomb else "unreadable image"
            faults.append(Fault(path, "", kind, f"{found.error}; repair or remove it", DROP_IMAGE))
            continue
        faults += _content_faults(path, found)
        annotated = dataset.get_height_and_width(index)
        if found.size != annotated:
            faults.append(size_fault(path, found.size, annotated, dataset.coco_index(index)[1]["boxes"]))
    return faults


def _content_faults(path: str, found: ImageFacts) -> Iterator[Fault]:
    """Peculiarities of a readable image, all of which reading takes care of."""
    suffix = os.path.splitext(path)[1]
    expected = Image.registered_extensions().get(suffix.lower())
    if SAME_FORMATS.get(found.format, found.format) != SAME_FORMATS.get(expected, expected):
        detail = f"this is a {found.format} file, which the suffix {suffix!r} does not say; it is read by its content"
        yield Fault(path, "", "content of another kind than the suffix", detail, FIX)
    if found.is_deep:
        yield Fault(path, "", "16-bit image", f"{found.mode} with 16 bits per channel is scaled to 8", FIX)
    elif found.mode != "RGB":
        kind, done = CONVERSIONS.get(found.mode, ("image of unusual pixels", f"{found.mode} is converted to RGB"))
        yield Fault(path, "", kind, f"{done}: training sees RGB", FIX)
    if found.orientation not in range(1, 9):
        yield Fault(path, "", "invalid EXIF orientation", f"{found.orientation} is none of 1..8 and ignored", FIX)
    elif found.orientation >= 5 and found.size != found.stored[::-1]:
        detail = f"orientation {found.orientation} is left alone, since the annotated size is that of the stored picture"
        yield Fault(path, "", "EXIF orientation not applied", detail, FIX)
    elif found.orientation > 1:
        yield Fault(path, "", "EXIF orientation applied", f"orientation {found.orientation}: the picture is turned upright", FIX)
    for remark in found.remarks:
        yield Fault(path, "", "remark of the decoder", remark, WARN)


def same_pictures(splits: Mapping[str, tuple[Sequence[str], Sequence[ImageFacts]]]) -> list[SamePicture]:
    """Every picture that was there before: once for its own split, and once for each split before; by the decoded pixels.

    splits: name -> (paths, facts) of all images of a split, in order; a file may stand there twice, too.
    """
    first: dict[str, dict[bytes, str]] = {}  # split -> digest -> path
    pairs = []
    for split, (paths, facts) in splits.items():
        own = first.setdefault(split, {})
        for path, found in zip(paths, facts):
            if found.size is None:
                continue
            for other_split, known in first.items():
                other = known.get(found.digest)
                if other is not None:
                    pairs.append(SamePicture(split, path, other_split, other))
            own.setdefault(found.digest, path)
    return pairs


def same_picture_fault(pair: SamePicture) -> Fault:
    """What a repeated picture means for training: nothing is left out, but validation loses its worth."""
    if pair.split == pair.other_split:
        is_one_file = os.path.abspath(pair.path) == os.path.abspath(pair.other_path)
        detail = ("the split has this file twice, so that it counts double; name it, or its data path, once" if is_one_file else
                  f"it has the pixels of {pair.other_path}; remove one of them")
        return Fault(pair.path, "", "same picture twice in a split", detail, WARN)
    detail = f"it has the pixels of {pair.other_path} in {pair.other_split}, so scores on it are no measure; remove one of them"
    return Fault(pair.path, "", f"same picture in {pair.other_split} and {pair.split}", detail, WARN)
