"""The same small drawn data set in each annotation format, and editors that change one object or one file of it.

`own numbers` of a box are what its format writes: VOC xmin, ymin, xmax, ymax; COCO x, y, width, height; Open Images XMin, XMax,
YMin, YMax and YOLO centre x, centre y, width, height, both as fractions of the image.
"""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw

FORMATS = ("voc", "coco", "openimages", "yolo")
CLASSES = ("car", "cat", "dog")
COLOURS = ((230, 200, 40), (60, 200, 230), (230, 90, 200))
SIZES = ((96, 72), (80, 64), (72, 96))  # (width, height) of pictures 0, 1, 2, 3 (as 0), ...
EMPTY = "train_02"  # the picture without objects
LABEL_NAMES = ("/m/0car1", "/m/0cat2", "/m/0dog3")
CSV_HEADER = ("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsOccluded", "IsTruncated",
              "IsGroupOf", "IsDepiction", "IsInside")
FOLDER_OF = {"voc": ("JPEGImages", "JPEGImages"), "coco": ("train", "val"), "openimages": ("train", "validation"),
             "yolo": ("images/train", "images/val")}  # of the images, training and validation

Box = tuple[float, float, float, float]
Objects = list[tuple[str, Box]]


class Scene(NamedTuple):
    """One picture: stem "train_00", "val_00", ...; size in pixels; (class, xyxy box in whole pixels) of every object."""

    stem: str
    width: int
    height: int
    objects: Objects


def make_scene(stem: str) -> Scene:
    """A picture of three objects: the first touches the upper left edges of the picture, the second the other two."""
    number = int(stem.partition("_")[2])
    width, height = SIZES[number % len(SIZES)]
    corners = [(0, 0, 30 + number % 5, 26), (width - 28, height - 30, width, height), (36, 22 + number % 7, 60, 48)]
    objects = [(CLASSES[(number + k) % len(CLASSES)], box) for k, box in enumerate(corners)]
    return Scene(stem, width, height, [] if stem == EMPTY else objects)


def make_scenes(num_train: int = 8, num_val: int = 3) -> list[Scene]:
    """The pictures of a data set, those for training first."""
    stems = [f"{split}_{k:02d}" for split, count in (("train", num_train), ("val", num_val)) for k in range(count)]
    return [make_scene(stem) for stem in stems]


def write_set(kind: str, folder: Path, scenes: Sequence[Scene]) -> Path:
    """Writes pictures and annotations; returns the folder. Open Images has none without objects: nothing would name them."""
    scenes = [scene for scene in scenes if scene.objects or kind != "openimages"]
    for place in FOLDER_OF[kind]:
        (folder / place).mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes):
        draw(scene, number).save(image_file(kind, folder, scene.stem), quality=90)
    WRITERS[kind](folder, scenes)
    return folder


def draw(scene: Scene, seed: int) -> Image.Image:
    """Its boxes in the colours of their classes on a ground of noise."""
    noise = np.random.default_rng(seed).integers(0, 60, (scene.height, scene.width, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    for name, (x1, y1, x2, y2) in scene.objects:
        ImageDraw.Draw(picture).rectangle((x1, y1, x2 - 1, y2 - 1), fill=COLOURS[CLASSES.index(name)])
    return picture


def image_file(kind: str, folder: Path, stem: str) -> Path:
    """Path of a picture."""
    return folder / FOLDER_OF[kind][stem.startswith("val")] / f"{stem}.jpg"


def annotation_file(kind: str, folder: Path, stem: str) -> Path:
    """Path of the file that annotates a picture."""
    split = stem.partition("_")[0]
    places = {"voc": f"Annotations/{stem}.xml", "coco": f"annotations/instances_{split}.json",
              "openimages": f"{'validation' if split == 'val' else split}-annotations-bbox.csv",
              "yolo": f"labels/{split}/{stem}.txt"}
    return folder / places[kind]


def own_numbers(kind: str, box: Box, width: int, height: int) -> list:
    """The numbers of an xyxy pixel box as the format writes them: of COCO numbers, of the others texts."""
    x1, y1, x2, y2 = box
    if kind == "voc":
        return [f"{value:g}" for value in box]
    if kind == "coco":
        return [x1, y1, x2 - x1, y2 - y1]
    if kind == "openimages":
        return [f"{value:.8f}" for value in (x1 / width, x2 / width, y1 / height, y2 / height)]
    return [f"{value:.8f}" for value in ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)]


def _write_voc(folder: Path, scenes: Sequence[Scene]) -> None:
    for place in ("Annotations", "ImageSets/Main"):
        (folder / place).mkdir(parents=True)
    for scene in scenes:
        objects = "".join(
            f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
            + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), map("{:g}".format, box)))
            + "</bndbox></object>\n" for name, box in scene.objects)
        annotation_file("voc", folder, scene.stem).write_text(
            f"<annotation>\n<folder>JPEGImages</folder><filename>{scene.stem}.jpg</filename>\n<size><width>{scene.width}</width>"
            f"<height>{scene.height}</height><depth>3</depth></size>\n{objects}</annotation>\n")
    for split in ("train", "val"):
        stems = [scene.stem for scene in scenes if scene.stem.startswith(split)]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")


def _write_coco(folder: Path, scenes: Sequence[Scene]) -> None:
    (folder / "annotations").mkdir()
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    for split in ("train", "val"):
        images, annotations = [], []
        for scene in (scene for scene in scenes if scene.stem.startswith(split)):
            image = {"id": len(images) + 1, "file_name": f"{scene.stem}.jpg", "width": scene.width, "height": scene.height}
            images.append(image)
            for name, (x1, y1, x2, y2) in scene.objects:
                annotations.append({
                    "id": len(annotations) + 1, "image_id": image["id"], "category_id": CLASSES.index(name) + 1, "iscrowd": 0,
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "segmentation": []})
        content = {"images": images, "annotations": annotations, "categories": categories}
        annotation_file("coco", folder, f"{split}_").write_text(json.dumps(content))


def _write_open_images(folder: Path, scenes: Sequence[Scene]) -> None:
    (folder / "class-descriptions-boxable.csv").write_text("".join(map("{},{}\n".format, LABEL_NAMES, CLASSES)))
    for split in ("train", "val"):
        rows = [CSV_HEADER]
        for scene in (scene for scene in scenes if scene.stem.startswith(split)):
            for name, box in scene.objects:
                numbers = own_numbers("openimages", box, scene.width, scene.height)
                rows.append((scene.stem, "xclick", LABEL_NAMES[CLASSES.index(name)], 1, *numbers, 0, 0, 0, 0, 0))
        _write_rows(annotation_file("openimages", folder, f"{split}_"), rows)


def _write_yolo(folder: Path, scenes: Sequence[Scene]) -> None:
    (folder / "obj.names").write_text("".join(f"{name}\n" for name in CLASSES))
    (folder / "obj.data").write_text(f"classes = {len(CLASSES)}\ntrain = images/train\nvalid = images/val\nnames = obj.names\n")
    for scene in scenes:
        lines = [" ".join([str(CLASSES.index(name)), *own_numbers("yolo", box, scene.width, scene.height)])
                 for name, box in scene.objects]
        path = annotation_file("yolo", folder, scene.stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))


WRITERS = {"voc": _write_voc, "coco": _write_coco, "openimages": _write_open_images, "yolo": _write_yolo}


def edit_xml(folder: Path, stem: str, change: Callable[[ElementTree.Element], object]) -> None:
    """Changes the root element of a VOC annotation."""
    path = annotation_file("voc", folder, stem)
    tree = ElementTree.parse(path)
    change(tree.getroot())
    tree.write(path, encoding="utf-8")


def edit_json(folder: Path, stem: str, change: Callable[[dict], object]) -> None:
    """Changes the COCO file of the split of a stem."""
    path = annotation_file("coco", folder, stem)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_rows(folder: Path, stem: str, change: Callable[[list[list[str]]], object]) -> None:
    """Changes the rows of the Open Images file of the split of a stem, of which the first is the header."""
    path = annotation_file("openimages", folder, stem)
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    _write_rows(path, rows)


def edit_lines(folder: Path, stem: str, change: Callable[[list[list[str]]], object]) -> None:
    """Changes the lines of a YOLO label file, each a list of cells."""
    path = annotation_file("yolo", folder, stem)
    lines = [line.split() for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(" ".join(cells) + "\n" for cells in lines))


def edit_text(path: Path, old: str, new: str) -> None:
    """Replaces a text that must be there, everywhere in a file."""
    text = path.read_text()
    assert old in text, (path, old)
    path.write_text(text.replace(old, new))


def _write_rows(path: Path, rows: Sequence[Sequence]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def coco_image(content: dict, stem: str) -> dict:
    """The record of a picture."""
    return next(image for image in content["images"] if image["file_name"] == f"{stem}.jpg")


def coco_annotations(content: dict, stem: str) -> list[dict]:
    """The records of its objects."""
    number = coco_image(content, stem)["id"]
    return [annotation for annotation in content["annotations"] if annotation["image_id"] == number]


def rows_of(rows: list[list[str]], stem: str) -> list[list[str]]:
    """The rows of a picture's objects."""
    return [row for row in rows if row[0] == stem]


def set_numbers(kind: str, folder: Path, stem: str, k: int, numbers: Sequence) -> None:
    """Writes four own numbers, whatever they are, as the box of object k."""
    if kind == "voc":
        edit_xml(folder, stem, lambda root: _fill(root.findall("object")[k].find("bndbox"), numbers))
    elif kind == "coco":
        edit_json(folder, stem, lambda content: coco_annotations(content, stem)[k].update(bbox=list(numbers)))
    elif kind == "openimages":
        edit_rows(folder, stem, lambda rows: rows_of(rows, stem)[k].__setitem__(slice(4, 8), numbers))
    else:
        edit_lines(folder, stem, lambda lines: lines[k].__setitem__(slice(1, 5), numbers))


def set_box(kind: str, folder: Path, stem: str, k: int, box: Box) -> None:
    """Gives object k another box, in pixels."""
    set_numbers(kind, folder, stem, k, own_numbers(kind, box, *make_scene(stem)[1:3]))


def set_class(kind: str, folder: Path, stem: str, k: int, name: object) -> None:
    """Gives object k another class, in the format's own words: a name, a category id, a LabelName, a class index."""
    if kind == "voc":
        edit_xml(folder, stem, lambda root: setattr(root.findall("object")[k].find("name"), "text", name))
    elif kind == "coco":
        edit_json(folder, stem, lambda content: coco_annotations(content, stem)[k].update(category_id=name))
    elif kind == "openimages":
        edit_rows(folder, stem, lambda rows: rows_of(rows, stem)[k].__setitem__(2, name))
    else:
        edit_lines(folder, stem, lambda lines: lines[k].__setitem__(0, str(name)))


def repeat_object(kind: str, folder: Path, stem: str, k: int) -> None:
    """Annotates object k once more."""
    if kind == "voc":
        edit_xml(folder, stem, lambda root: root.append(root.findall("object")[k]))
    elif kind == "coco":
        edit_json(folder, stem, lambda content: content["annotations"].append(
            coco_annotations(content, stem)[k] | {"id": len(content["annotations"]) + 1}))
    elif kind == "openimages":
        edit_rows(folder, stem, lambda rows: rows.append(rows_of(rows, stem)[k]))
    else:
        edit_lines(folder, stem, lambda lines: lines.append(lines[k]))


def _fill(bndbox: ElementTree.Element, numbers: Sequence) -> None:
    for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), numbers):
        bndbox.find(tag).text = value
