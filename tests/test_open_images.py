import os
import pickle

import numpy as np
import pytest
import torch
from jetson_data import make_open_images
from PIL import Image

from datasets import InputError, OpenImagesDataset, UnreadableImage, summarise_faults
from datasets.image_files import require_ordinary
from datasets.open_images import is_open_images_folder

HEADER = "ImageID,XMin,XMax,YMin,YMax,ClassName"
GROUPS = HEADER + ",IsGroupOf"


def _image(path, shape=(30, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*shape, 3), 90, dtype=np.uint8)).save(path)


def _csv(root, *rows, header=HEADER, name="sub-train", encoding="utf-8"):
    path = root / f"{name}-annotations-bbox.csv"
    path.write_bytes("".join(f"{line}\n" for line in (header, *rows)).encode(encoding))
    return path


@pytest.fixture
def fruit(tmp_path):
    """train: images a, b of 40 x 30; validation: c. No image has the class of the other split."""
    for name in ("train/a.jpg", "train/b.PNG", "validation/c.jpg"):
        _image(tmp_path / name)
    _csv(tmp_path, "a,0.25,0.5,0.1,0.9,Apple", "b,0,1,0,1,Plum", "a,0.1,0.2,0.5,1,Plum")
    _csv(tmp_path, "c,0.5,1,0,0.5,Banana", name="sub-validation")
    return tmp_path


def _boxes(root, split="train", **options):
    dataset = OpenImagesDataset(root, split, **options)
    return dataset, dataset.ground_truth()["boxes"].round(6).tolist()


def test_samples(fruit):
    dataset = OpenImagesDataset(fruit)
    assert len(dataset) == 2 and dataset.class_names == ["Apple", "Banana", "Plum"] and dataset.faults == []
    image, target = dataset[0]
    assert image.shape == (3, 30, 40) and image.dtype == torch.uint8
    assert torch.allclose(target["boxes"], torch.tensor([[10.0, 3, 20, 27], [4, 15, 8, 30]])) and target["image_id"] == 0
    assert target["labels"].tolist() == [1, 3] and target["iscrowd"].tolist() == [0, 0]
    assert target["area"].tolist() == pytest.approx([240, 60]) and "difficult" not in target
    assert dataset.get_height_and_width(1) == (30, 40) and dataset.image_path(1).endswith("b.PNG")
    assert dataset.ground_truth()["source_image_ids"].tolist() == [1, 2]
    assert pickle.loads(pickle.dumps(dataset))[1][1]["labels"].tolist() == [3]


def test_a_class_that_a_split_lacks_shifts_nothing(fruit):
    assert OpenImagesDataset(fruit, "val").coco_index(0)[1]["labels"].tolist() == [2]
    for name in ("validation", "test"):  # full files count no more, where there are cut down ones
        _csv(fruit, "c,0,1,0,1,Zebra", name=name)
    assert OpenImagesDataset(fruit).class_names == ["Apple", "Banana", "Plum"]
    (fruit / "sub-validation-annotations-bbox.csv").write_text("nonsense\n")
    assert OpenImagesDataset(fruit).class_names == ["Apple", "Plum"]  # told when that split is opened
    with pytest.raises(InputError, match=r"sub-validation-annotations-bbox\.csv, line 1: no column ImageID"):
        OpenImagesDataset(fruit, "validation")


def test_given_classes_and_unknown_ones(fruit):
    dataset = OpenImagesDataset(fruit, class_names=["Plum", "Apple"])
    assert dataset.coco_index(0)[1]["labels"].tolist() == [2, 1]
    with pytest.raises(InputError, match=r'sub-train-annotations-bbox\.csv, line 3: unknown class "Plum"; .*1 more fault'):
        OpenImagesDataset(fruit, class_names=["Apple"])
    dataset = OpenImagesDataset(fruit, class_names=["Apple"], skip_unknown=True)
    assert len(dataset) == 2 and dataset.coco_index(1)[1]["boxes"].shape == (0, 4)
    assert summarise_faults(dataset.faults)[0].startswith("objects dropped: 2 x unknown class (sub-train-annotations-bbox.csv l")
    assert len(OpenImagesDataset(fruit, class_names=["Apple"], skip_unknown=True, drop_empty=True)) == 1


def test_columns_by_name(fruit):
    _csv(fruit, ",Apple,0.9,0.1,0.5,0.25,x,a,", ",Plum,1,0,1,0,y,b,", header=" ,ClassName,YMax,YMin,XMax,XMin,extra,ImageID,ymin")
    assert _boxes(fruit)[1] == [[10, 3, 20, 27], [0, 0, 40, 30]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_byte_order_mark(fruit, separator, encoding):
    _csv(fruit, "a,0.25,0.5,0.1,0.9,Äpfel,".replace(",", separator), "", header=HEADER.replace(",", separator), encoding=encoding)
    dataset, boxes = _boxes(fruit)
    assert boxes == [[10, 3, 20, 27]] and dataset.class_names == ["Banana", "Äpfel"] and dataset.faults == []


def test_decimal_commas_are_read_and_counted(fruit):
    _csv(fruit, 'a,"0,25","0,5",0.1,"0,9",Apple', "b,0,1,0,1,Plum")
    dataset, boxes = _boxes(fruit)
    assert boxes == [[10, 3, 20, 27], [0, 0, 40, 30]]
    assert summarise_faults(dataset.faults) == [
        "fixed: 1 x decimal comma, read as a point (sub-train-annotations-bbox.csv line 2)"]
    _csv(fruit, "a;0,25;0,5;0,1;0,9;Apple", "b;0,0;1;0;1;Plum", header=HEADER.replace(",", ";"))
    dataset, other = _boxes(fruit)
    assert other == boxes and [f.where for f in dataset.faults] == ["line 2"]
    assert "'0,25'" in dataset.faults[0].detail and dataset.faults[0].detail.endswith("(2 such cases, this is the first)")
    _csv(fruit, "a,0,25,0,5,0,1,0,9,Apple", "b,0,1,0,1,Plum")
    with pytest.raises(InputError, match=r"csv, line 2: 10 cells for 6 columns; put decimal commas in quotes"):
        OpenImagesDataset(fruit)


@pytest.mark.parametrize("image_id", ["a", "a.jpg", "a.JPEG", "train/a.jpg", "./a", "/home/somebody/data/a.png", "..\\x\\a.jpg",
                                      "C:\\data\\train\\a.jpg"])
def test_image_ids_with_suffix_or_folders(fruit, image_id):
    _csv(fruit, f"{image_id},0.25,0.5,0.1,0.9,Apple", "a,0.5,0.75,0.1,0.9,Apple")
    dataset = OpenImagesDataset(fruit)
    assert len(dataset) == 1 and dataset.image_path(0) == str(fruit / "train" / "a.jpg")
    assert len(dataset[0][1]["boxes"]) == 2


def test_images_in_subfolders_and_names_with_dots(fruit):
    for name in ("train/deep/a.jpg", "train/x.v1.jpg"):
        _image(fruit / name, shape=(10, 20))
    _csv(fruit, "deep/a,0.25,0.5,0,1,Apple", "a.jpg,0.25,0.5,0,1,Apple", "x.v1,0.25,0.5,0,1,Apple")
    assert _boxes(fruit)[1] == [[5, 0, 10, 10], [10, 0, 20, 30], [5, 0, 10, 10]]


def test_nothing_outside_the_data_folder(fruit, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    _image(outside / "secret.jpg", shape=(10, 20))
    for image_id in (f"../../{outside.name}/secret", f"{outside}/secret.jpg", f"..\\..\\{outside.name}\\secret"):
        _csv(fruit, "a,0,1,0,1,Apple", f"{image_id},0,1,0,1,Apple")
        with pytest.raises(InputError, match=r"csv, line 3: .*leads out of .*; move it there, or add --allow-outside if that"):
            OpenImagesDataset(fruit)
        dataset = OpenImagesDataset(fruit, strict=False)
        assert len(dataset) == 1 and [(f.where, f.kind) for f in dataset.faults] == [
            ("line 3", "path leads out of the data folder")]
        assert OpenImagesDataset(fruit, allow_outside=True)[1][0].shape == (3, 10, 20)
    _csv(fruit, "../validation/c,0,1,0,1,Apple")
    assert OpenImagesDataset(fruit).image_path(0).endswith("validation/c.jpg")  # inside
    _csv(fruit, "a,0,1,0,1,Apple", "b,0,1,0,1,Plum")
    (fruit / "train" / "a.jpg").unlink()
    (fruit / "train" / "a.jpg").symlink_to(outside / "secret.jpg")
    with pytest.raises(InputError, match=r"csv, line 2: .*a\.jpg' leads out of"):
        OpenImagesDataset(fruit)
    assert len(OpenImagesDataset(fruit, allow_outside=True)) == 2
    (fruit / "sub-train-annotations-bbox.csv").rename(outside / "x.csv")
    (fruit / "sub-train-annotations-bbox.csv").symlink_to(outside / "x.csv")
    with pytest.raises(InputError, match=r"bbox\.csv' leads out of"):
        OpenImagesDataset(fruit)
    assert OpenImagesDataset(fruit, "val").class_names == ["Banana"]  # not even to find names
    (fruit / "sub-validation-annotations-bbox.csv").unlink()
    (outside / "d.csv").write_text("/m/01,Egg\n")
    (fruit / "class-descriptions.csv").symlink_to(outside / "d.csv")
    _csv(fruit, "c,0,1,0,1,Banana", name="test")
    (fruit / "validation").rename(fruit / "test")
    with pytest.raises(InputError, match=r"descriptions\.csv' leads out of"):
        OpenImagesDataset(fruit, "test")


def test_header_only(fruit):
    """Nothing to train on; elsewhere the pictures of the folder are background."""
    _csv(fruit, name="sub-validation")
    for split in ("val", "valid", "validation"):
        dataset = OpenImagesDataset(fruit, split)
        assert len(dataset) == 1 and dataset[0][1]["boxes"].shape == (0, 4) and dataset.class_names == ["Apple", "Plum"]
        assert [(f.kind, f.action) for f in dataset.faults] == [("header only", "warn")]
    _csv(fruit)
    with pytest.raises(InputError, match="sub-train-annotations-bbox.csv holds a header only, so there is nothing to train on"):
        OpenImagesDataset(fruit, class_names=["Apple"])


def test_names_that_differ_by_case(fruit):
    _csv(fruit, "a,0,1,0,1,apple", "b,0,1,0,1,Apple", "a,0,0.5,0,1,Apple")
    with pytest.raises(InputError, match=r'line 2: unknown class "apple"; did you mean "Apple"\?; if both are classes, give'):
        OpenImagesDataset(fruit)
    assert OpenImagesDataset(fruit, class_names=["apple", "Apple"]).table.labels.tolist() == [1, 2, 2]


def test_damaged_rows(fruit):
    _csv(fruit, "a\0,0,1,0,1,Apple", "x" * 5000 + ",0,1,0,1,Apple", "a,1e400,1,0,1,Apple", "a,1e308,1,0,1,Apple",
         "a,0,1,0,1,Apple", "a," + "9" * 5000 + ",1,0,1,Apple", "é/a\0/b,0,1,0,1,Apple")
    dataset = OpenImagesDataset(fruit)
    assert len(dataset) == 1 and len(dataset[0][1]["boxes"]) == 1
    assert sorted(f.where for f in dataset.faults) == [f"line {k}" for k in (2, 3, 4, 5, 7, 8)]
    assert all(len(f.detail) < 400 and f.detail.isprintable() for f in dataset.faults)
    _csv(fruit, 'a,0,1,0,1,"Ap\nple"')
    with pytest.raises(InputError, match="holds a line end or a control character"):
        OpenImagesDataset(fruit)


def test_missing_and_broken_images_are_dropped(fruit):
    (fruit / "train" / "b.PNG").write_bytes(b"no image")
    _csv(fruit, "a,0,1,0,1,Apple", "b,0,1,0,1,Apple", "b,0,0.5,0,1,Apple", "x,0,1,0,1,Apple", "x,0,0.5,0,1,Apple")
    dataset = OpenImagesDataset(fruit)
    assert len(dataset) == 1
    assert summarise_faults(dataset.faults) == ["images dropped: 1 x unreadable image (b.PNG)",
                                                "images dropped: 1 x image missing (sub-train-annotations-bbox.csv line 5)"]
    _csv(fruit, "y,0,1,0,1,Apple", "z,0,1,0,1,Apple")
    with pytest.raises(FileNotFoundError, match=r"none of the 2 images of .*csv can be read from .*train; there is no image 'y'"):
        OpenImagesDataset(fruit)


def test_bad_boxes_are_named_by_line(fruit):
    _csv(fruit, "a,nan,0.5,0.1,0.9,Apple", "a,0.5,0.25,0.1,0.9,Apple", "a,0.5,0.5,0.1,0.9,Apple", "a,0.5,1.05,0.2,0.9,Apple",
         "a,1.2,1.5,0.1,0.9,Apple", "a,0.25,0.5,0.1,0.9,Apple", "a,0.25,0.5,0.1,0.9,Apple", "a,-0.1,7,0.1,0.9,Apple",
         "a,x,0.5,0.1,0.9,Apple", "a,0.5")
    dataset, boxes = _boxes(fruit)
    assert boxes == [[20, 6, 40, 27], [10, 3, 20, 27]]
    assert {(f.where, f.kind, f.action) for f in dataset.faults} == {
        ("line 2", "coordinate that is not a number", "drop object"), ("line 3", "box with swapped corners", "drop object"),
        ("line 4", "box of zero size", "drop object"), ("line 5", "box clipped to the image", "fix"),
        ("line 6", "box outside the image", "drop object"), ("line 8", "same box and class twice, one kept", "fix"),
        ("line 9", "corner far outside 0..1", "drop object"), ("line 10", "coordinate that is not a number", "drop object"),
        ("line 11", "row with too few cells", "drop object")}


@pytest.mark.parametrize("row", ["a,10,20,3,27,Apple", "a,0,20,0,27,Apple"])
def test_pixels_are_refused(fruit, row):
    _csv(fruit, row)
    with pytest.raises(InputError, match=r"csv: most boxes lie far outside 0\.\.1, the first in line 2; write fractions"):
        OpenImagesDataset(fruit)


def test_group_boxes(fruit):
    _csv(fruit, "a,0,0.5,0,1,Apple,1", "a,0.5,1,0,1,Apple,0", "b,0,1,0,1,Plum,1", "b,0,0.5,0,1,Plum,", "b,0,0.25,0,1,Plum,-1",
         header=GROUPS)
    dataset = OpenImagesDataset(fruit)
    assert dataset.ground_truth()["iscrowd"].tolist() == [True, False, True, False, False]
    assert [len(dataset.coco_index(i)[1]["boxes"]) for i in range(2)] == [1, 2]
    dataset = OpenImagesDataset(fruit, group_boxes=True)
    assert not dataset.ground_truth()["iscrowd"].any() and len(dataset[0][1]["boxes"]) == 2


def test_names_from_the_descriptions(fruit):
    header = "ImageID,LabelName,XMin,XMax,YMin,YMax"
    (fruit / "sub-validation-annotations-bbox.csv").unlink()
    _csv(fruit, "a,/m/01,0,1,0,1", "b,/m/02,0,1,0,1", header=header)
    assert OpenImagesDataset(fruit).class_names == ["/m/01", "/m/02"]  # nothing to translate them by
    (fruit / "class-descriptions-boxable.csv").write_text('LabelName,DisplayName\n/m/01,"Salt, pepper"\n')
    with pytest.raises(InputError, match=r'line 3: the LabelName "/m/02" is not in the class descriptions'):
        OpenImagesDataset(fruit)
    assert OpenImagesDataset(fruit, skip_unknown=True).class_names == ["Salt, pepper"]
    with open(fruit / "class-descriptions-boxable.csv", "a") as file:
        file.write("/m/02,Egg\n")
    assert OpenImagesDataset(fruit)[0][1]["labels"].tolist() == [2]
    _csv(fruit, "a,/m/01,0,1,0,1, Jam ", "a,/m/01,0,1,0,1,", header=header + ",ClassName")
    assert OpenImagesDataset(fruit).class_names == ["Jam", "Salt, pepper"]
    _csv(fruit, "a,,0,1,0,1", header=header)
    with pytest.raises(InputError, match="line 2: the row names no class"):
        OpenImagesDataset(fruit, class_names=["Jam"])


@pytest.mark.parametrize(("content", "message"), [
    ("ImageID,XMin,XMax,Name\na,0,1,b\n", r"line 1: no column YMin, YMax, ClassName \(or LabelName\); found: ImageID, XMin"),
    ("", "line 1: no column ImageID.*; found: nothing: the file is empty"),
    ("a,0,1,0,1,Apple\n", "line 1: no column ImageID.*; found: a, 0, 1"),
    (HEADER + "\n", "holds a header only, so there is nothing to train on"),
    (HEADER + '\na,0,1,0,1,Apple\na,"0,1,0,1,Apple\n', "line 3: cannot be read as CSV"),
    (HEADER.encode("utf-16"), "is not UTF-8 text"),
    (HEADER + "\na,0,1,0,1," + 200_000 * "x" + "\n", "line 2: cannot be read as CSV"),
    (HEADER + "\na,0\n", "leads to no image that can be used; .*line 2: 2 cells for 6"),
])
def test_files_that_stop(fruit, content, message):
    path = fruit / "sub-train-annotations-bbox.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        OpenImagesDataset(fruit)
    assert "\n" not in str(caught.value)


def test_no_box_anywhere(fruit):
    for name in ("sub-train", "sub-validation"):
        _csv(fruit, name=name)
    with pytest.raises(InputError, match="no classes to learn"):
        OpenImagesDataset(fruit)
    with pytest.raises(InputError, match="header only"):
        OpenImagesDataset(fruit, class_names=["Apple"])
    _csv(fruit, header="ImageID,XMin")
    with pytest.raises(InputError, match="sub-train-annotations-bbox.csv, line 1: no column YMin"):
        OpenImagesDataset(fruit)


def test_split_names_and_paths(fruit, tmp_path_factory):
    _csv(fruit, "b,0,1,0,1,Apple", name="oidv6-train")
    assert len(OpenImagesDataset(fruit, "train.txt")) == 2 and len(OpenImagesDataset(fruit, "val")) == 1
    (fruit / "sub-train-annotations-bbox.csv").unlink()
    assert len(OpenImagesDataset(fruit, "train", class_names=["Apple"])) == 1
    with pytest.raises(FileNotFoundError, match=r"sub-test-annotations-bbox\.csv does not exist; splits found: train, val"):
        OpenImagesDataset(fruit, "test")
    (fruit / "validation" / "c.jpg").rename(fruit / "c.jpg")
    (fruit / "validation").rmdir()
    with pytest.raises(FileNotFoundError, match=r"(?s)not the folder of its images .*val; expected is.*train/\*\.jpg"):
        OpenImagesDataset(fruit, "val")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match=r"(?s)holds no boxes of Open Images; expected is.*sub-train-annotations"):
        OpenImagesDataset(empty)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        OpenImagesDataset(empty / "none")
    assert is_open_images_folder(fruit) and not is_open_images_folder(empty)


def test_image_that_breaks_later(fruit):
    dataset = OpenImagesDataset(fruit)
    (fruit / "train" / "a.jpg").write_bytes(b"gone")
    with pytest.raises(UnreadableImage, match=r"a\.jpg"):
        dataset[0]


def test_as_jetsons_downloader_leaves_it(tmp_path):
    root = make_open_images(tmp_path / "fruit", num_train=3, num_test=2)
    sets = {split: OpenImagesDataset(root, split) for split in ("train", "val", "test")}
    assert [len(data) for data in sets.values()] == [3, 2, 2] and not any(data.faults for data in sets.values())
    assert all(data.class_names == ["circle", "square", "star", "triangle"] for data in sets.values())
    boxes = torch.cat([sets["train"][i][1]["boxes"] for i in range(3)])
    assert len(boxes) > 3 and torch.allclose(boxes, boxes.round(), atol=1e-4)  # drawn in whole pixels


def test_pipes_are_no_files(fruit):
    os.mkfifo(fruit / "sub-test-annotations-bbox.csv")
    (fruit / "test").mkdir()
    with pytest.raises(InputError, match=r"cannot open this file \(it is a pipe or a device, not an ordinary file\)"):
        OpenImagesDataset(fruit, "test")
    assert len(OpenImagesDataset(fruit)) == 2  # whose classes come from all files that can be read
    with pytest.raises(OSError, match=r"bytes are too many, 10 are allowed"):
        require_ordinary(fruit / "sub-train-annotations-bbox.csv", 10)
