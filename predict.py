"""Detect objects in pictures and videos with any detector: drawn pictures and one JSON file come out.

    python predict.py runs/fasterrcnn/best.pth photo.jpg
    python predict.py runs/fasterrcnn/best.pth folder/ 'more/*.png' list.txt --score-thresh 0.7 --classes cat dog
    python predict.py runs/ssd/best.pth aerial.tif --tile 640 --overlap 0.2       small objects in a large image
    python predict.py runs/ssd/best.pth film.mp4                                  also webcam:0; needs pip install opencv-python
    python predict.py fasterrcnn_resnet50_fpn photo.jpg          a detector published by torchvision (downloaded once)
    python predict.py --weights mb1-ssd.pth --net mb1-ssd --labels labels.txt photo.jpg      an SSD file of another project
    python predict.py yolov3.weights --cfg cfg/yolov3.cfg --names coco.names photo.jpg       Darknet's weights, or a .pt of a cfg

SSD files of pytorch-ssd, torchvision, NVIDIA, the course repository and ssd.pytorch are recognised, also without `--net`.
They do not say what their classes are called nor which resolution they were trained at: give `--labels` and, unless it is
the net's customary one, `--resolution`. YOLOv3 files do not say their network either: give its `--cfg`.

predictions.json holds COCO results (image_id, category_id, bbox as x, y, width, height, score) with each entry's file and
class name beside them, and of a video its frame, counted from 0. Every detection that the model lets through is in it;
`--score-thresh` decides which are drawn, cropped and written as txt. A frame of a video becomes a frame of an mp4.
images.json lists what was looked at, also where nothing was found: image_id, file_name, picture (the drawn file in the output
folder; of two images of one name the second is NAME-2), height, width, and of a video the frame.
"""

import argparse
import difflib
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

import datasets
import network_files
from datasets.image_files import IMAGE_SUFFIXES
from datasets.image_io import UnreadableImage, read_image
from load_detector import add_detector_flags, detection_limits, load_detector, set_detection_limits
from network_files.boxes import clip, xyxy_to_xywh
from network_files.tiling import detect_in_tiles, tile_boxes
from train_utils.device import choose_amp, choose_device
from train_utils.draw import draw_boxes, to_picture
from train_utils.errors import InputError, one_sentence_errors
from train_utils.picture_sources import (
    Sources,
    VideoReader,
    VideoWriter,
    Window,
    find_sources,
    import_opencv,
    source_name,
)
from train_utils.run_folder import fresh_folder
from train_utils.train_eval_utils import autocast

MIN_TILE = 32  # pixels; smaller tiles show no object
MAX_JPEG_SIDE = 65_500  # pixels that a JPEG can have; larger pictures become PNG
SECONDS_PER_LINE = 10  # of progress in a log
READABLE_SIDE = 200  # pixels: smaller images are enlarged in their pictures, so that names can be read


def get_args_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("words", nargs="+", metavar="WEIGHTS_OR_IMAGE",
                        help="first the weights, unless --weights names them; then images, videos, folders, quoted patterns, "
                             "list files (.txt, a path per line), webcam:0")
    parser.add_argument("--weights", help="checkpoint of a training script, the name of a published detector, or a foreign file")
    group = parser.add_argument_group("detections")
    group.add_argument("--score-thresh", type=float, default=0.5,
                       help="draw, crop and write as txt from this score on; predictions.json also has what is below, down to "
                            "the model's own threshold, which is lowered to this one if it is higher")
    group.add_argument("--nms-thresh", type=float, help="highest IoU of two boxes of a class; default: the model's")
    group.add_argument("--max-detections", type=int,
                       help="boxes per image, best scores first; default: the model's, and with --tile that for each tile")
    group.add_argument("--classes", nargs="+", metavar="NAME",
                       help="only these classes, out of the boxes that --max-detections leaves: names (not a file of them, as "
                            "evaluate.py takes), or labels counted from 1")
    group.add_argument("--tile", type=int, metavar="SIZE",
                       help="look at images larger than SIZE in tiles of SIZE pixels, and as a whole for what no tile holds")
    group.add_argument("--overlap", type=float, default=0.2, help="of neighbouring tiles, as a part of SIZE (0..0.9)")
    group = parser.add_argument_group("results")
    group.add_argument("--output-dir", default="runs/predict", help="where everything goes (a fresh folder)")
    group.add_argument("--save-json", action=argparse.BooleanOptionalAction, default=True,
                       help="write predictions.json and images.json")
    group.add_argument("--save-txt", action="store_true",
                       help="labels/IMAGE.txt: class from 0, centre, width and height as parts of the image, score")
    group.add_argument("--save-crops", action="store_true", help="crops/CLASS/IMAGE-N.jpg: the pixels of each detection")
    group.add_argument("--show", action="store_true", help="show each picture in a window; a key goes on, q ends")
    group = parser.add_argument_group("computation")
    group.add_argument("--batch-size", type=int, default=1, help="images, frames or tiles at once")
    group.add_argument("--device", help="cuda, cuda:1, mps or cpu; default: the best there is")
    group.add_argument("--amp", choices=["off", "auto", "bf16", "fp16"], nargs="?", const="auto", default="off",
                       help="mixed precision")
    add_detector_flags(parser)
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of a command line, with `weights` and `images`; images may stand before and after the flags."""
    parser = get_args_parser()
    args = parser.parse_intermixed_args(argv)
    args.images = args.words
    if args.weights is None:
        args.weights, *args.images = args.words
    if not args.images:
        hint = ", before --classes, which takes all the words behind it" if args.classes else ""
        parser.error(f"nothing to look at beside the weights {args.weights}: name an image, a folder or a quoted pattern{hint}")
    return args


def check_flags(args: argparse.Namespace) -> None:
    """Raises InputError for values that cannot be; those of the model's thresholds are checked with the model."""
    if args.batch_size < 1:
        raise InputError(f"--batch-size must be at least 1, not {args.batch_size}")
    if args.tile is not None and args.tile < MIN_TILE:
        raise InputError(f"--tile {args.tile}: tiles must have at least {MIN_TILE} pixels")
    if not 0 <= args.score_thresh <= 1:
        raise InputError(f"--score-thresh {args.score_thresh:g}: it must be in 0..1")
    if not 0 <= args.overlap <= 0.9:
        raise InputError(f"--overlap {args.overlap:g}: it must be in 0..0.9, a part of the tile's side")


def chosen_labels(words: list[str] | None, class_names: list[str]) -> Tensor | None:
    """The labels, 1..C, of class names or of labels written as numbers; None for all.

    Raises:
        InputError: no such class.
    """
    if words is None:
        return None
    labels = []
    for word in words:
        named = [label for label, name in enumerate(class_names, start=1) if name == word]
        if not named and word.isascii() and word.isdigit() and 1 <= int(word) <= len(class_names):
            named = [int(word)]
        if not named:
            near = difflib.get_close_matches(word, class_names, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            if Path(word).exists():
                hint = ": name images and weights before --classes"
            raise InputError(f"--classes: unknown class {word!r}{hint}; there are {', '.join(class_names)}, "
                             f"or labels from 1 to {len(class_names)}")
        labels += named
    return torch.tensor(labels)


class Picture(NamedTuple):
    """What is looked at: an image, or a frame of a video or camera, which has a number and a rate (frames per second)."""

    source: Path | int
    image: Tensor  # uint8 [3, H, W]
    frame: int | None = None
    frame_rate: float | None = None


def read_pictures(sources: Sources, batch_size: int, unreadable: list[str]) -> Iterator[list[Picture]]:
    """Batches of images, then of the frames of each video; what cannot be read is named at once and added to the list."""
    for first in range(0, len(sources.images), batch_size):
        batch = []
        for path in sources.images[first : first + batch_size]:
            try:
                batch.append(Picture(path, read_image(path)))
            except (UnreadableImage, OSError) as error:
                _skip(path, error, unreadable)
        yield batch
    for source in sources.videos:
        try:
            reader = VideoReader(source)
        except InputError as error:
            _skip(source, error, unreadable)
            continue
        with reader:
            frames = (Picture(source, image, number, reader.frame_rate) for number, image in enumerate(reader))
            while batch := list(itertools.islice(frames, batch_size)):
                yield batch
        if reader.frames == 0:
            _skip(source, InputError(f"{source_name(source)}: no frame of this video can be read"), unreadable)


def _skip(source: Path | int, error: Exception, unreadable: list[str]) -> None:
    tqdm.write(f"skipped: {error}", file=sys.stderr)
    unreadable.append(source_name(source))


class Spotter:
    """A model that detects in images, whole or in tiles, and measures the time that it takes.

    Args:
        tile, overlap: None or the side of a tile in pixels, and the part of it that neighbours share.
        labels: the wanted classes; None for all.
        max_detections: of an image looked at in tiles; None: for each tile as many as the model gives of an image.

    Attributes:
        seconds: in the network, from the images in memory to the detections in memory, without `warm_up`.
        warm_up: seconds of a first pass, which sets up what later ones find ready.
    """

    def __init__(self, model: nn.Module, device: torch.device, amp_dtype: torch.dtype | None, batch_size: int,
                 tile: int | None, overlap: float, labels: Tensor | None, max_detections: int | None):
        self.model, self.device, self.amp_dtype = model, device, amp_dtype
        self.batch_size, self.tile, self.overlap, self.labels = batch_size, tile, overlap, labels
        self.limits, self.max_detections = detection_limits(model), max_detections
        self.seconds, self.warm_up = 0.0, 0.0

    def __call__(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detections per image, on the CPU, of the wanted classes."""
        is_large = [self.tile is not None and max(image.shape[1:]) > self.tile for image in images]
        small = [image for image, large in zip(images, is_large) if not large]
        whole = iter(self._detect(small) if small else [])
        return [self._detect_in_tiles(image) if large else next(whole) for image, large in zip(images, is_large)]

    def _detect_in_tiles(self, image: Tensor) -> dict[str, Tensor]:
        tiles = tile_boxes(*image.shape[1:], self.tile, self.overlap)
        most = self.max_detections or self.limits["max_detections"] * (1 + len(tiles))  # the whole image counts as one
        return detect_in_tiles(self._detect, image, tiles, self.batch_size, self.limits["nms_thresh"], most)

    def _detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        start = time.perf_counter()
        if self.warm_up == 0:
            self._forward(images)
            self.warm_up = time.perf_counter() - start
            start = time.perf_counter()
        detections = self._forward(images)
        self.seconds += time.perf_counter() - start
        if self.labels is None:
            return detections
        wanted = [torch.isin(found["labels"], self.labels) for found in detections]
        return [{name: value[mask] for name, value in found.items()} for found, mask in zip(detections, wanted)]

    def _forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        with torch.inference_mode(), autocast(self.device, self.amp_dtype):
            detections = self.model([image.to(self.device) for image in images])
            detections = [{name: value.cpu() for name, value in found.items()} for found in detections]
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return detections


class JsonList:
    """A file with a JSON list, an entry per line, written as they come; whole once `close` was called."""

    def __init__(self, path: Path):
        self.file = open(path, "w", encoding="utf-8")
        self.file.write("[")
        self.separator = "\n"

    def add(self, entry: dict) -> None:
        """Append an entry."""
        self.file.write(self.separator + json.dumps(entry))
        self.separator = ",\n"

    def close(self) -> None:
        """Write the end of the list."""
        self.file.write("\n]\n")
        self.file.close()


class Results:
    """What is written into the output folder, as it comes; a context manager that finishes JSON and video.

    Args:
        class_names, category_ids: of labels 1..C.
        score_thresh: what is drawn, cropped and written as txt; predictions.json has every detection.
    """

    def __init__(self, folder: Path, class_names: list[str], category_ids: list[int], score_thresh: float,
                 save_json: bool, save_txt: bool, save_crops: bool):
        self.folder, self.class_names, self.category_ids, self.score_thresh = folder, class_names, category_ids, score_thresh
        self.save_txt, self.save_crops = save_txt, save_crops
        self.pictures, self.detections, self.shown = 0, 0, 0  # numbers so far
        self.stems: dict[Path | int, str] = {}
        self.taken: set[str] = set()
        self.video: tuple[Path | int, VideoWriter] | None = None
        self.lists = {name: JsonList(folder / f"{name}.json") for name in ("predictions", "images") if save_json}

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *error: object) -> None:
        self._close_video()
        for entries in self.lists.values():
            entries.close()

    def add(self, picture: Picture, detection: dict[str, Tensor]) -> Image.Image:
        """Write all that is wanted of one picture; returns it with its boxes drawn."""
        self.pictures += 1
        self.detections += len(detection["scores"])
        shown = detection["scores"] >= self.score_thresh
        seen = {name: value[shown] for name, value in detection.items()}
        self.shown += len(seen["scores"])
        stem = self._stem(picture.source)
        name = stem if picture.frame is None else f"{stem}/{picture.frame:06}"
        if self.save_txt:
            path = self.folder / "labels" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yolo_lines(seen, *picture.image.shape[1:]))
        if self.save_crops:
            save_crops(self.folder / "crops", name, picture.image, seen, self.class_names)
        drawn = draw_boxes(picture.image, seen["boxes"], seen["labels"], seen["scores"], class_names=self.class_names,
                           min_side=READABLE_SIDE if picture.frame is None else 0)
        if picture.frame is None:
            file_name = save_picture(drawn, self.folder / stem).name
        else:
            self._video_of(picture, stem).write(drawn)
            file_name = f"{stem}.mp4"
        self._list(picture, detection, file_name)
        return drawn

    def _list(self, picture: Picture, detection: dict[str, Tensor], file_name: str) -> None:
        """Add a picture, which was drawn into a file of that name, to the JSON files."""
        if not self.lists:
            return
        for entry in coco_results(picture, self.pictures, detection, self.class_names, self.category_ids):
            self.lists["predictions"].add(entry)
        height, width = picture.image.shape[1:]
        self.lists["images"].add({"image_id": self.pictures, **origin(picture), "picture": file_name, "height": height,
                                  "width": width})

    def _stem(self, source: Path | int) -> str:
        """A name for the files of a source that no other has: two may be called the same in different folders."""
        if source not in self.stems:
            own = source.stem if isinstance(source, Path) else f"webcam-{source}"
            stem, number = own, 1
            while stem.lower() in self.taken:  # some file systems take no notice of case
                number += 1
                stem = f"{own}-{number}"
            self.taken.add(stem.lower())
            self.stems[source] = stem
        return self.stems[source]

    def _video_of(self, picture: Picture, stem: str) -> VideoWriter:
        if self.video is None or self.video[0] != picture.source:
            self._close_video()
            height, width = picture.image.shape[1:]
            self.video = picture.source, VideoWriter(self.folder / f"{stem}.mp4", picture.frame_rate, (width, height))
        return self.video[1]

    def _close_video(self) -> None:
        if self.video:
            self.video[1].close()
        self.video = None


def origin(picture: Picture) -> dict:
    """The file that a picture is from, and its frame where it is one of a video."""
    frame = {} if picture.frame is None else {"frame": picture.frame}
    return {"file_name": source_name(picture.source), **frame}


def coco_results(
    picture: Picture, image_id: int, detection: dict[str, Tensor], class_names: list[str], category_ids: list[int]
) -> list[dict]:
    """One picture's detections as COCO results, in the data's own category ids, with file and class names; not rounded."""
    boxes_xywh = xyxy_to_xywh(detection["boxes"]).tolist()
    return [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score,
         **origin(picture), "class_name": class_names[label - 1]}
        for box, label, score in zip(boxes_xywh, detection["labels"].tolist(), detection["scores"].tolist())
    ]


def yolo_lines(detection: dict[str, Tensor], height: int, width: int) -> str:
    """A line per detection: class from 0, centre x and y, width and height as parts of the image's, score."""
    x1, y1, x2, y2 = clip(detection["boxes"], height, width).double().unbind(1)
    columns = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height, detection["scores"]
    rows = zip(detection["labels"].tolist(), *(column.tolist() for column in columns))
    return "".join(f"{label - 1} " + " ".join(f"{value:.6f}" for value in numbers) + "\n" for label, *numbers in rows)


def save_crops(folder: Path, name: str, image: Tensor, detection: dict[str, Tensor], class_names: list[str]) -> None:
    """The pixels of each detection, its border pixels included, as CLASS/NAME-N.jpg; a box without area has none."""
    x1, y1, x2, y2 = clip(detection["boxes"], *image.shape[1:]).unbind(1)
    corners = torch.stack((x1.floor(), y1.floor(), x2.ceil(), y2.ceil()), dim=1).long().tolist()
    for number, (left, top, right, bottom) in enumerate(corners, start=1):
        if right <= left or bottom <= top:
            continue
        # A class may be called anything, and its name is that of a folder here.
        label = re.sub(r"[^\w .-]", "_", class_names[detection["labels"][number - 1] - 1]).strip(" .") or "_"
        save_picture(to_picture(image[:, top:bottom, left:right]), folder / label / f"{name}-{number}")


def save_picture(picture: Image.Image, path: Path) -> Path:
    """As JPEG, suffix and folders added; a PNG where a JPEG cannot be that large. Returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f"{path.name}.{'png' if max(picture.size) > MAX_JPEG_SIDE else 'jpg'}")
    picture.save(file, quality=92)  # which PNG, without loss, takes no notice of
    return file


class Progress:
    """A bar on a terminal, a line every SECONDS_PER_LINE in a log."""

    def __init__(self, total: int | None):
        self.bar = tqdm(total=total, unit="image", disable=not sys.stderr.isatty())
        self.total, self.done, self.last = total, 0, time.perf_counter()

    def update(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        self.bar.update(count)
        if self.bar.disable and time.perf_counter() - self.last >= SECONDS_PER_LINE:
            self.last = time.perf_counter()
            print(f"{self.done} of {self.total} images" if self.total else f"{self.done} images", flush=True)


def detect_all(sources: Sources, spotter: Spotter, results: Results, window: Window | None, unreadable: list[str]) -> None:
    """Read, detect and write, until all is done or the window is closed."""
    progress = Progress(None if sources.videos else len(sources.images))
    with progress.bar:
        for batch in read_pictures(sources, spotter.batch_size, unreadable):
            detections = spotter([picture.image for picture in batch])
            for picture, detection in zip(batch, detections):
                drawn = results.add(picture, detection)
                if window and not window.show(drawn, wait=picture.frame is None):
                    return
            progress.update(len(batch))


def summary(results: Results, spotter: Spotter, seconds: float) -> str:
    """What was found, and how long it took; seconds: all of them, without the warm-up."""
    count = results.pictures
    found = (f"{count} images, {results.detections} detections, {results.shown} of them from score {results.score_thresh:g} on: "
             f"{results.folder}")
    if count == 0:
        return found
    network, rest = 1000 * spotter.seconds / count, 1000 * (seconds - spotter.seconds) / count
    return (f"{found}\nafter warm-up: {network:.1f} ms per image in the network ({count / spotter.seconds:.1f} images/s), "
            f"{rest:.1f} ms reading, drawing and writing; {count / seconds:.1f} images/s in all")


def main(args: argparse.Namespace) -> None:
    """Detect, draw and write."""
    check_flags(args)
    device = choose_device(args.device)
    amp_dtype = choose_amp(args.amp, device)
    sources = find_sources(args.images, IMAGE_SUFFIXES)
    window = Window() if args.show else None
    if sources.videos:
        import_opencv()
    detector = load_detector(args.weights, net=args.net, cfg=args.cfg, labels=args.labels, resolution=args.resolution,
                             resize=args.resize, script=args.script)
    for note in detector.notes:
        print(note)
    labels = chosen_labels(args.classes, detector.class_names)
    model = detector.model.to(device)
    lowest = min(args.score_thresh, detection_limits(model)["score_thresh"])  # what is below would not be seen at all
    set_detection_limits(model, lowest, args.nms_thresh, args.max_detections)
    folder = fresh_folder(args.output_dir)
    spotter = Spotter(model, device, amp_dtype, args.batch_size, args.tile, args.overlap, labels,
                      args.max_detections)
    unreadable, stopped, began = [], False, time.perf_counter()
    with Results(folder, detector.class_names, detector.category_ids, args.score_thresh,
                 args.save_json, args.save_txt, args.save_crops) as results:
        try:
            detect_all(sources, spotter, results, window, unreadable)
        except KeyboardInterrupt:
            stopped = True
    print(summary(results, spotter, time.perf_counter() - began - spotter.warm_up))
    if window:
        window.close()
    if stopped:
        print("stopped by Ctrl-C: the results are those until then", file=sys.stderr)
        sys.exit(130)
    if unreadable:
        more = ", ..." if len(unreadable) > 5 else ""
        raise InputError(f"{len(unreadable)} of the images and videos could not be read: {', '.join(unreadable[:5])}{more}; "
                         f"{results.pictures} images are done")


if __name__ == "__main__":
    with one_sentence_errors(network_files.InputError, datasets.InputError):
        main(parse_args())
