"""Every defect that a data set may have, by format: how it is planted into a clean set, and what must come of it.

    DEFECTS         what check and training must notice, with the action they take
    NOT_A_DEFECT    peculiarities that are legal: they load without a word, and alike

A clean set is one of format_data.py. Most defects concern one picture, which the caller chooses among those that no other defect
of the same folder has; so many of them can live in one folder, planted in the order of the table.
"""

import fnmatch
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from format_data import (
    CLASSES,
    LABEL_NAMES,
    Objects,
    Scene,
    annotation_file,
    edit_json,
    edit_lines,
    edit_rows,
    edit_text,
    edit_xml,
    image_file,
    make_scene,
    set_box,
    set_class,
)
from general_defects import (
    BOXES,
    FIRST_GONE,
    GONE,
    IMAGES,
    LEGAL,
    Defect,
    damage_image,
    everywhere,
    hide_files,
    in_format,
    pad_names,
    remove_file,
    resave,
)
from voc_coco_defects import (
    COCO,
    VOC,
    convert_text,
    edit_annotation,
    link_out,
    put_outside,
    relative_outside,
    rewrite_xml,
)

from datasets.annotations import DROP_IMAGE, DROP_OBJECT, FIX, STOP, WARN

# Open Images


def _rewrite_rows(folder: Path, stem: str, change: Callable[[list[str]], list]) -> None:
    """Every row, the header included, becomes another."""
    edit_rows(folder, stem, lambda rows: rows.__setitem__(slice(None), [change(row) for row in rows]))


def _of_rows(change: Callable[[list[str]], list]) -> Callable[[Path, str], None]:
    """Every row of a picture becomes another."""
    return lambda folder, stem: _rewrite_rows(folder, stem, lambda row: change(row) if row[0] == stem else row)


def _all_rows(change: Callable[[list[str]], list]) -> Callable[[Path, str], None]:
    """Every row but the header becomes another."""
    return lambda folder, stem: _rewrite_rows(folder, stem, lambda row: row if row[0] == "ImageID" else change(row))


def _name_outside(folder: Path, stem: str) -> None:
    way = relative_outside("openimages", folder, stem)
    _of_rows(lambda row: [way, *row[1:]])(folder, stem)


def _to_pixels(row: list[str]) -> list:
    return [*row[:4], *(str(round(float(value) * 100)) for value in row[4:8]), *row[8:]]


OPEN_IMAGES = in_format("openimages", [
    ("decimal commas", _of_rows(lambda row: [*row[:4], *(value.replace(".", ",") for value in row[4:8]), *row[8:]]),
     "decimal comma", FIX),
    ("row with too few cells", _of_rows(lambda row: row[:7] if float(row[4]) == 0 else row), "too few cells", DROP_OBJECT,
     FIRST_GONE),
    ("missing image", lambda f, s: remove_file(image_file, "openimages", f, s), "missing", DROP_IMAGE, GONE),
    ("header only, validation", lambda f, s: edit_rows(f, "val_", lambda rows: rows.__delitem__(slice(1, None))), "header only",
     WARN, {"stem": "val_*", "dropped_objects": (0, 1, 2)}),
    ("LabelName without description", lambda f, s: set_class("openimages", f, s, 0, "/m/unknown"), "/m/unknown", STOP),
    ("header only, training", lambda f, s: edit_rows(f, s, lambda rows: rows.__delitem__(slice(1, None))), "header only", STOP),
    ("absolute pixels", _all_rows(_to_pixels), "not pixels", STOP),
    ("decimal commas without quotes", lambda f, s: edit_text(annotation_file("openimages", f, s), "0.", "0,"), "quotes", STOP),
    ("no column XMin", lambda f, s: edit_text(annotation_file("openimages", f, s), "XMin", "Left"), "XMin", STOP),
    ("ImageID with ..", _name_outside, "leads out", STOP),
])


# YOLO

def _of_lines(change: Callable[[list[list[str]]], object]) -> Callable[[Path, str], None]:
    return lambda folder, stem: edit_lines(folder, stem, change)


def _polygon(lines: list[list[str]]) -> None:
    """The four corners of the first box, and one more on its edge."""
    x, y, w, h = map(float, lines[0][1:])
    left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    lines[0][1:] = [f"{value:.8f}" for value in (left, top, right, top, right, bottom, x, bottom, left, bottom)]


def _label_text(change: Callable[[str], str]) -> Callable[[Path, str], None]:
    """Changes the text of a label file, whose ends of line are kept."""
    def plant(folder: Path, stem: str) -> None:
        path = annotation_file("yolo", folder, stem)
        path.write_bytes(change(path.read_text()).encode())
    return plant


def _everywhere_in(folder: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Changes every line of every label file for training."""
    for path in sorted((folder / "labels" / "train").iterdir()):
        edit_lines(folder, path.stem, lambda lines: lines.__setitem__(slice(None), [change(cells) for cells in lines]))


def _list_images(folder: Path, more: str) -> None:
    """The training pictures as a list instead of a folder, if that is not done yet, and a line more."""
    path = folder / "train.txt"
    if not path.exists():
        path.write_text("".join(f"images/train/{image.name}\n" for image in sorted((folder / "images" / "train").iterdir())))
        edit_text(folder / "obj.data", "train = images/train", "train = train.txt")
    with open(path, "a") as file:
        file.write(f"{more}\n")


def _overhang(folder: Path, stem: str) -> None:
    scene = make_scene(stem)
    x1, y1, x2, y2 = scene.objects[1][1]
    set_box("yolo", folder, stem, 1, (x1, y1, x2 + 0.0005 * scene.width, y2))


def _scale(cells: list[str], factor: float) -> list[str]:
    return [cells[0], *(f"{float(value) * factor:.2f}" for value in cells[1:])]


YOLO = in_format("yolo", [
    ("label file without image", lambda f, s: remove_file(image_file, "yolo", f, s), "without image", WARN, GONE),
    ("image without label file", lambda f, s: remove_file(annotation_file, "yolo", f, s), "no label file", FIX,
     {"dropped_objects": (0, 1, 2)}),
    ("polygon as a box", _of_lines(_polygon), "polygon", FIX, {"options": ("polygon_boxes",)}),
    ("polygon", _of_lines(_polygon), "--polygon-boxes", STOP),
    ("6th column", _of_lines(lambda lines: lines[0].append("0.9")), "columns", STOP),
    ("line with too few columns", _of_lines(lambda lines: lines[0].pop()), "too few columns", DROP_OBJECT, FIRST_GONE),
    ("value below 0", _of_lines(lambda lines: lines[0].__setitem__(1, "-0.2")), "outside 0..1", DROP_OBJECT, FIRST_GONE),
    ("corner 0.0005 outside", _overhang, "clipped", FIX),
    ("comma between the numbers", _label_text(lambda text: text.replace(" ", ",")), "comma", FIX),
    ("decimal comma", _label_text(lambda text: text.replace(".", ",")), "decimal comma", FIX),
    ("image of the list missing", lambda f, s: _list_images(f, "images/train/none.jpg"), "image missing|no image", DROP_IMAGE),
    ("image listed twice", lambda f, s: _list_images(f, f"./images/train/{s}.jpg"), "twice", FIX),
    ("no label file at all", lambda f, s: [path.unlink() for path in (f / "labels" / "train").iterdir()], "label", STOP),
    ("absolute pixels", lambda f, s: _everywhere_in(f, lambda cells: _scale(cells, 90)), "not pixels", STOP),
    ("classes counted from 1", lambda f, s: _everywhere_in(f, lambda cells: [str(int(cells[0]) + 1), *cells[1:]]), "from 1",
     STOP),
    ("class count that does not fit", lambda f, s: edit_text(f / "obj.data", "classes = 3", "classes = 4"), "classes", STOP),
    ("list that leads out", lambda f, s: _list_images(f, str(put_outside("yolo", f, s))), "leads out", STOP),
])


# Safety

SAFETY = [
    *everywhere("image that is a link out of the folder", partial(link_out, image_file), "leads out", STOP),
    *everywhere("annotation that is a link out of the folder", partial(link_out, annotation_file), "leads out", STOP),
    Defect("voc", "<filename> that leads out", lambda f, s: edit_annotation(f, s, f"{s}.jpg", "../../x.jpg"), "<filename>", FIX),
    Defect("voc", "split file that leads out", lambda f, s: edit_text(
        f / "ImageSets" / "Main" / "train.txt", s, relative_outside("voc", f, s).removesuffix(".jpg")), "leads out", STOP),
    Defect("voc", "annotation too large", lambda f, s: annotation_file("voc", f, s).write_bytes(
        annotation_file("voc", f, s).read_bytes() + b" " * 2**24), "too large", STOP),
]

DEFECTS = [*IMAGES, *BOXES, *VOC, *COCO, *OPEN_IMAGES, *YOLO, *SAFETY]

# What is no defect

def _reorder_corners(root: ElementTree.Element) -> None:
    """xmin, xmax, ymin, ymax, as some tools write them."""
    for bndbox in root.iter("bndbox"):
        bndbox[:] = [bndbox[k] for k in (0, 2, 1, 3)]


def _strip_fields(root: ElementTree.Element) -> None:
    for item in root.findall("object"):
        for tag in ("pose", "truncated", "difficult"):
            item.remove(item.find(tag))


def _add_part(root: ElementTree.Element) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    root.find("object").insert(0, ElementTree.fromstring(part))


def _spread_category_ids(folder: Path, stem: str) -> None:
    """Ids with gaps, not sorted, and of the training file only: validation has others for the same names."""
    def apply(content: dict) -> None:
        for record in content["annotations"]:
            record["category_id"] *= 30
        for record in content["categories"]:
            record["id"] *= 30
        content["categories"].reverse()
    edit_json(folder, "train_", apply)


def _move_yolo_images(folder: Path, stem: str) -> None:
    """`images` twice in the path, and a link as the folder of the labels."""
    (folder / "images" / "set").mkdir()
    for name in ("images", "labels"):
        (folder / name / "train").rename(folder / "images" / "set" / ("kept" if name == "labels" else name))
    (folder / "images" / "set" / "labels").symlink_to("kept")
    edit_text(folder / "obj.data", "train = images/train", "train = images/set/images")


NAME_OF = dict(zip(LABEL_NAMES, CLASSES))
HALVES = (36.25, 22.5, 60.75, 48.25)
NOT_A_DEFECT = [
    *everywhere("decimals", lambda kind, f, s: set_box(kind, f, s, 2, HALVES), "", LEGAL, moved={2: HALVES}),
    *everywhere("blank-padded names", pad_names, "", LEGAL),
    *everywhere("hidden files", hide_files, "", LEGAL),
    *everywhere("link out of the folder, allowed", partial(link_out, image_file), "", LEGAL, options=("allow_outside",)),
    *in_format("voc", [(name, plant, "", LEGAL) for name, plant in (
        (".JPG", lambda f, s: resave(f, s, ".JPG")),
        (".jpeg", lambda f, s: resave(f, s, ".jpeg")),
        ("BMP", lambda f, s: resave(f, s, ".bmp")),
        ("TIFF", lambda f, s: resave(f, s, ".tif")),
        ("WebP", lambda f, s: resave(f, s, ".webp")),
        ("JPEG damaged in the middle", damage_image),
        ("<path> of another machine", lambda f, s: edit_annotation(f, s, "<size>", "<path>C:\\data\\x.jpg</path><size>")),
        ("corners in another order", lambda f, s: edit_xml(f, s, _reorder_corners)),
        ("no pose, truncated, difficult", lambda f, s: edit_xml(f, s, _strip_fields)),
        ("part with a name and a box", lambda f, s: edit_xml(f, s, _add_part)),
        ("declared GBK", lambda f, s: rewrite_xml(f, s, '<?xml version="1.0" encoding="GBK"?>', "gbk")),
        ("byte order mark", lambda f, s: rewrite_xml(f, s, "", "utf-8-sig")),
        ("UTF-16", lambda f, s: rewrite_xml(f, s, '<?xml version="1.0" encoding="UTF-16"?>', "utf-16")),
        ("flags behind the stems", lambda f, s: edit_text(f / "ImageSets" / "Main" / "train.txt", s, f"{s} -1")),
    )]),
    *in_format("coco", [(name, plant, "", LEGAL) for name, plant in (
        ("category ids with gaps, others in val", _spread_category_ids),
        ("images in another order", lambda f, s: edit_json(f, s, lambda content: content["images"].reverse())),
    )]),
    *in_format("openimages", [(name, plant, "", LEGAL) for name, plant in (
        ("ImageID with suffix", _of_rows(lambda row: [f"{row[0]}.jpg", *row[1:]])),
        ("ImageID with a folder", _of_rows(lambda row: [f"./train/{row[0]}.jpg", *row[1:]])),
        ("index column", lambda f, s: _rewrite_rows(f, s, lambda row: ["" if row[0] == "ImageID" else "7", *row])),
        ("column ClassName", lambda f, s: _rewrite_rows(f, s, lambda row: [*row, NAME_OF.get(row[2], "ClassName")])),
        ("empty flags", _all_rows(lambda row: [*row[:8], *[""] * 5])),
        ("unknown flags", _all_rows(lambda row: [*row[:8], *["-1"] * 5])),
        ("header in the class descriptions", lambda f, s: convert_text(
            f / "class-descriptions-boxable.csv", lambda data: b"LabelName,DisplayName\n" + data)),
        ("semicolons", lambda f, s: convert_text(annotation_file("openimages", f, s), lambda data: data.replace(b",", b";"))),
        ("byte order mark", lambda f, s: convert_text(annotation_file("openimages", f, s), lambda data: b"\xef\xbb\xbf" + data)),
    )]),
    *in_format("yolo", [(name, plant, "", LEGAL) for name, plant in (
        ("class as 3.0", _of_lines(lambda lines: lines[0].__setitem__(0, f"{lines[0][0]}.0"))),
        ("tabs", _label_text(lambda text: text.replace(" ", "\t"))),
        ("blank lines", _label_text(lambda text: text.replace("\n", "\n\n"))),
        ("CRLF", _label_text(lambda text: text.replace("\n", "\r\n"))),
        ("CRLF in the class list", lambda f, s: convert_text(f / "obj.names", lambda data: data.replace(b"\n", b"\r\n"))),
        ("`images` twice in the path, a link within", _move_yolo_images),
    )]),
]


def expected_objects(scenes: list[Scene], planted: list[tuple[Defect, str]]) -> dict[str, Objects]:
    """Stem -> objects of every picture that training sees in a set of these pictures with these defects, each at its picture."""
    found = {scene.stem: dict(enumerate(scene.objects)) for scene in scenes}
    for defect, stem in planted:
        for name in fnmatch.filter(list(found), defect.stem or stem):
            objects = found[name]
            objects |= {k: (objects[k][0], box) for k, box in defect.moved.items()}
            objects |= {k: (other, objects[k][1]) for k, other in defect.renamed.items()}
            for k in defect.dropped_objects:
                del objects[k]
            if defect.dropped_image:
                del found[name]
    return {stem: list(objects.values()) for stem, objects in found.items()}
