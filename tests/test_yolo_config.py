import os
import shutil

import pytest
from PIL import Image
from yolo_data import make_yolo

from datasets import InputError, YoloTxtDataset
from datasets.boundary import Boundary
from datasets.yolo_config import find_yolo_split, is_yolo_source


def _text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def _images(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)


ANYWHERE = Boundary(allow_outside=True)


def _found(source, split="train", boundary=None):
    """Names of the images found, without folders and suffixes."""
    return " ".join(image.rsplit("/", 1)[-1].split(".")[0] for image in find_yolo_split(source, split, boundary).images)


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """set/ with images/train (a, b), images/val (c) and pets.names; the working directory is elsewhere."""
    root = tmp_path / "set"
    _images(root / "images/train/a.jpg", root / "images/train/b.JPEG", root / "images/val/c.png", root / "images/train/._b.jpg")
    _text(root / "pets.names", "cat", "dog\r", "")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return root


def test_data_file_with_lists(pets):
    _text(pets / "train.txt", "\ufeff./images/train/a.jpg\r", "", "# ./images/val/c.png", "images/train/b.JPEG")
    _text(pets / "valid.txt", f"{pets}/images/val/c.png")
    data = _text(pets / "pets.data", "# of the pets", "classes= 2", "train =train.txt", "valid = valid.txt", "names = pets.names",
                 "eval=coco", "")
    assert _found(data) == "a b" and _found(data, "val") == _found(data, "valid.txt") == "c"
    split = find_yolo_split(data, "train")
    assert split.class_names == ["cat", "dog"] and split.faults == [] and not split.whole_folders
    with pytest.raises(FileNotFoundError, match=r"pets\.data names no test images; its splits are train, valid"):
        find_yolo_split(data, "test")
    assert _found(pets) == "a b"  # the only .data file of the folder
    assert find_yolo_split(pets / "train.txt", "val").class_names == ["cat", "dog"] and _found(pets / "train.txt", "val") == "a b"


def test_comments_of_a_data_file(pets):
    """As in a cfg, but a path may have a # in it."""
    for folder in ("images#1", "#2"):
        _images(pets / folder / "x.jpg")
    data = _text(pets / "pets.data", "  # of the pets", "classes = 2 # cat = 0, dog = 1", "train = images#1\t#images/train",
                 "valid = set/#2 # not a comment: behind a slash", "test = # later", "names = pets.names   #")
    split = find_yolo_split(data, "train")
    assert split.images == [f"{pets}/images#1/x.jpg"] and split.class_names == ["cat", "dog"]
    assert find_yolo_split(data, "val").images == [f"{pets.parent}/set/#2/x.jpg"]
    with pytest.raises(FileNotFoundError, match="names no test images; its splits are train, valid"):
        find_yolo_split(data, "test")
    with pytest.raises(InputError, match="line 1: 'classes' is not `key = value`"):
        find_yolo_split(_text(pets / "pets.data", "classes # = 2"), "train")


def test_paths_of_a_data_file(pets, monkeypatch):
    """The working directory counts first, then the file's folder, then the folder above it."""
    for k, place in enumerate((pets.parent / "elsewhere", pets / "cfg", pets)):
        _images(place / f"place{k}.jpg")
        _text(place / "l.txt", f"./place{k}.jpg")
    data = _text(pets / "cfg" / "pets.data", "train=l.txt", f"names={pets}/pets.names")
    for k, place in enumerate((pets.parent / "elsewhere", pets / "cfg", pets)):
        assert _found(data, boundary=ANYWHERE) == f"place{k}"
        (place / "l.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"train = l\.txt does not exist \(looked for as l\.txt, \S*/cfg/l\.txt, \S*/set"):
        find_yolo_split(data, "train", ANYWHERE)


def test_paths_of_a_list(pets):
    """./ is the list's folder; other paths are below the working directory, else below the list's folder."""
    here = pets.parent / "elsewhere"
    _images(here / "x.jpg", pets / "x.jpg")
    assert find_yolo_split(_text(pets / "l.txt", "./x.jpg"), "train").images == [f"{pets}/x.jpg"]
    assert find_yolo_split(_text(pets / "l.txt", "x.jpg"), "train", ANYWHERE).images == ["x.jpg"]
    assert find_yolo_split(_text(pets / "l.txt", "x.jpg"), "train").images == [f"{pets}/x.jpg"]  # not outside, if it is inside
    (here / "x.jpg").unlink()
    assert find_yolo_split(_text(pets / "l.txt", "x.jpg"), "train").images == [f"{pets}/x.jpg"]
    assert find_yolo_split(_text(pets / "l.txt", "images\\val\\c.png"), "train").images == [f"{pets}/images/val/c.png"]


def test_an_export_of_cvat_as_it_is(pets):
    """Its obj.data says data/train.txt, and that says data/obj_train_data/a.jpg; both lie one folder higher."""
    _images(pets / "obj_train_data" / "a.jpg")
    _text(pets / "train.txt", "data/obj_train_data/a.jpg")
    _text(pets / "obj.data", "classes = 2", "train = data/train.txt", "names = data/pets.names", "backup = backup/")
    split = find_yolo_split(pets, "train")
    assert split.images == [f"{pets}/obj_train_data/a.jpg"] and split.class_names == ["cat", "dog"]


def test_nothing_outside_the_data_folder(pets):
    """Links and paths out of the folder given, or of the folder of the file given, stop unless they are allowed."""
    secret = pets.parent / "secret"
    _images(secret / "s.jpg")
    (secret / "s.names").write_text("cat\ndog\n")
    path = _text(pets / "l.txt", "./images/train/a.jpg", f"{secret}/s.jpg", "./../secret/s.jpg")
    split = find_yolo_split(path, "train")
    assert len(split.images) == 1 and [(f.file, f.where, f.kind, f.action) for f in split.faults] == [
        (str(path), f"line {k}", "path leads out of the data folder", "stop") for k in (2, 3)]
    assert _found(path, boundary=ANYWHERE) == "a s"
    (pets / "images" / "train" / "link.jpg").symlink_to(secret / "s.jpg")
    assert [f.file.rsplit("/", 1)[-1] for f in find_yolo_split(pets, "train").faults] == ["link.jpg"]
    assert _found(pets, boundary=ANYWHERE) == "a b link"
    with pytest.raises(InputError, match=r"l\.txt, line 1: .*leads out of .*; move it there, or add --allow-outside if that"):
        find_yolo_split(_text(pets / "l.txt", f"{secret}/s.jpg"), "train")
    for line in (f"train={secret}\nnames=pets.names", f"train=images/train\nnames={secret}/s.names"):
        data = _text(pets / "pets.data", line)
        with pytest.raises(InputError, match=r"leads out of .*--allow-outside if that is meant$"):
            find_yolo_split(data, "train")
        assert find_yolo_split(data, "train", ANYWHERE).class_names == ["cat", "dog"]
    data.unlink()
    (pets / "images" / "val" / "c.png").unlink()
    (pets / "images" / "val").rmdir()
    (pets / "images" / "val").symlink_to(secret)
    with pytest.raises(InputError, match="images/val.* leads out of"):
        find_yolo_split(pets, "val")
    outside = _text(pets / "lists" / "l.txt", "x.jpg")  # the class list above a list of images does not belong to it
    _images(pets / "lists" / "x.jpg")
    assert find_yolo_split(outside, "train").class_names is None
    assert find_yolo_split(outside, "train", ANYWHERE).class_names == ["cat", "dog"]


def test_damaged_files(pets):
    """Names that no file can have, values that only look like numbers or dates, texts that grow when they are written out."""
    bomb = "\n".join(["a: &a [x, x]"] + [f"{b}: &{b} [{', '.join([f'*{a}'] * 7)}]" for a, b in zip("abcdefghi", "bcdefghij")])
    for text in (f"{bomb}\ntrain: *j", f"{bomb}\npath: *j\ntrain: x\nnames: [a]", "train: \"\\ud800\"", "train: \"a\\0b\"",
                 f"{bomb}\ntrain: x\nnames: [a]\nnc: *j", "nc: 2024-99-99", "nc: " + "9" * 5000, "[" * 5000,
                 "train: x\nnames: [a]\nnc: 0x" + "f" * 5000, "train: x\nnames: [0x" + "f" * 5000 + "]",
                 "names: [\"a\\nb\"]"):
        path = _text(pets / "data.yaml", text)
        with pytest.raises(InputError, match=r"data\.yaml") as caught:
            find_yolo_split(path, "train")
        assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)
    (pets / "data.yaml").unlink()
    path = _text(pets / "l.txt", "./images/train/a.jpg", "a\0.jpg", "x" * 5000)
    assert [(f.where, f.kind) for f in find_yolo_split(path, "train").faults] == [
        ("line 2", "image missing"), ("line 3", "image missing")]


def test_images_missing_and_listed_twice(pets):
    path = _text(pets / "l.txt", "./images/train/a.jpg", "./images/train/x.jpg", "images/../images/train/a.jpg")
    split = find_yolo_split(path, "train")
    assert len(split.images) == 1
    assert [(f.where, f.kind, f.action) for f in split.faults] == [
        ("line 2", "image missing", "drop image"), ("line 3", "image listed twice, taken once", "fix")]
    with pytest.raises(FileNotFoundError, match=r"none of the 1 images of the list \S*l\.txt is there; there is no image /x/y"):
        find_yolo_split(_text(pets / "l.txt", "/x/y.jpg"), "train")
    with pytest.raises(InputError, match=r"l\.txt lists no image; write one path per line"):
        find_yolo_split(_text(pets / "l.txt", "", "# none"), "train")


@pytest.mark.parametrize("names", ["[cat, dog]", "{1: dog, 0: cat}", "\n  - cat\n  - dog"])
@pytest.mark.parametrize("head", ["", "path: .", "path: ../set", "path: /home/somebody/else", "path: "])
def test_data_yaml(pets, names, head):
    path = _text(pets / "data.yaml", head, "train: images/train", "val: [images/val, images/train]", "nc: 2", f"names: {names}")
    split = find_yolo_split(path, "train")
    assert _found(path) == "a b" and split.class_names == ["cat", "dog"] and split.whole_folders
    assert _found(path, "val") == "c a b" and _found(pets, "val") == "c a b"


def test_data_yaml_of_an_export(pets):
    """Exports say ../train/images although train lies beside the file."""
    _images(pets / "train/images/x.jpg", pets / "valid/images/y.jpg")
    path = _text(pets / "data.yaml", "train: ../train/images", "val: ../valid/images", "test: ../test/images", "names: [cat]")
    assert _found(path) == "x" and _found(path, "val") == "y"
    with pytest.raises(FileNotFoundError, match=r"test = \.\./test/images does not exist \(looked for as .*set/test/images\)"):
        find_yolo_split(path, "test")
    _images(pets.parent / "train/images/literal.jpg")
    assert _found(path) == "x" and _found(path, boundary=ANYWHERE) == "literal"


@pytest.mark.parametrize(("lines", "message"), [
    (["train: images/train", "nc: 3", "names: [cat, dog]"], "nc is 3, but there are 2 class names"),
    (["train: images/train", "names: {1: cat, 2: dog}"], r"the indices of `names` must be 0\.\.1, each once"),
    (["train: images/train", "names: [yes, dog]"], "put unusual ones into quotes"),
    (["train: images/train", "names: 3"], "`names` must be a list"),
    (["train: images/train", "names: [cat, cat]"], 'data.yaml, class 2: the class "cat" stands there twice'),
    (["train: 3", "names: [cat]"], "train must be a path or a list of paths, not 3"),
    (["train: [x"], "cannot be read as YAML .*line 2"), (["- x"], "must hold lines like"), ([], "must hold lines like"),
    (["!!python/object/apply:os.system [ls]"], "cannot be read as YAML"),
])
def test_bad_yaml(pets, lines, message):
    with pytest.raises(InputError, match=message) as caught:
        find_yolo_split(_text(pets / "data.yaml", *lines), "train")
    assert "\n" not in str(caught.value)


def test_bad_data_file(pets):
    with pytest.raises(InputError, match="classes is 3, but there are 2 class names"):
        find_yolo_split(_text(pets / "x.data", "classes=3", "names=pets.names"), "train")
    with pytest.raises(InputError, match=r"x\.data, line 2: 'train' is not `key = value`"):
        find_yolo_split(_text(pets / "x.data", "classes=3", "train"), "train")
    with pytest.raises(FileNotFoundError, match=r"names = other\.names does not exist \(looked for as other\.names, "):
        find_yolo_split(_text(pets / "x.data", "names=other.names"), "train")
    (pets / "x.data").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        find_yolo_split(pets / "x.data", "train")


@pytest.mark.parametrize("place", ["images/{}", "{}/images", "images/{}2017"])
def test_folders(tmp_path, place):
    for split, name in (("train", "a"), ("val", "b")):
        _images(tmp_path / place.format(split) / "deeper" / f"{name}.jpg")
    assert _found(tmp_path) == "a" and _found(tmp_path, "val") == "b"
    with pytest.raises(FileNotFoundError, match=r"(?s)holds no test images of a YOLO set; expected is.*images/train/\*\.jpg"):
        find_yolo_split(tmp_path, "test")


def test_what_a_folder_lacks(pets):
    (pets / "images/test").mkdir()
    with pytest.raises(FileNotFoundError, match=r"the folder \S*images/test holds no image \(\.jpg"):
        find_yolo_split(pets, "test")
    _text(pets / "data.yaml", "train: images/val", "names: [x, y]")  # says nothing of val, so the folders do
    assert _found(pets) == _found(pets, "val") == "c" and find_yolo_split(pets, "val").class_names == ["x", "y"]
    with pytest.raises(FileNotFoundError, match="nothing does not exist; expected is"):
        find_yolo_split(pets / "nothing", "train")
    with pytest.raises(InputError, match=r"pets\.names is neither a folder nor a \.data, \.yaml or \.txt file"):
        find_yolo_split(pets / "pets.names", "train")


def test_class_lists_that_lie_there(pets):
    assert find_yolo_split(pets, "train").class_names == ["cat", "dog"]
    _text(pets / "other.names", "x")
    assert find_yolo_split(pets, "train").class_names is None  # two of them: which would be a guess
    with pytest.raises(InputError, match="nothing says the class names of"):
        YoloTxtDataset(pets)
    for path in pets.glob("*.names"):
        path.unlink()
    _text(pets / "classes.txt", "x", "y")
    assert find_yolo_split(pets, "train").class_names == ["x", "y"]


def test_several_data_files(pets):
    for name in "ab":
        _text(pets / f"{name}.data", f"train=images/{'train' if name == 'a' else 'val'}", "names=pets.names")
    assert _found(pets) == "a b" and _found(pets / "b.data") == "c"  # by the folders, as neither file is the one
    (pets / "images").rename(pets / "pictures")
    with pytest.raises(FileNotFoundError, match=r"holds no train images of a YOLO set and 2 \.data files \(give one of them\)"):
        find_yolo_split(pets, "train")


def test_what_looks_like_a_source(pets, tmp_path):
    assert all(is_yolo_source(name) for name in ("x.data", "x.yaml", "x.yml", "no/x.txt", "X.DATA"))
    assert not any(is_yolo_source(name) for name in ("x", "x.json", tmp_path, pets / "images", pets))
    (pets / "labels").mkdir()
    assert is_yolo_source(pets)
    for files in (["train/images/a.jpg", "train/labels/a.txt"], ["valid/images/a.jpg", "valid/labels/a.txt"], ["data.yaml"],
                  ["x.data"]):
        root = tmp_path / files[0].replace("/", "_")
        for name in files:
            _text(root / name)
        assert is_yolo_source(root)


def test_yaml_that_would_take_hours_is_refused(tmp_path):
    lines = ["l0: &l0 {x: 1}", *(f"l{k}: &l{k} {{<<: [{', '.join([f'*l{k - 1}'] * 10)}]}}" for k in range(1, 9))]
    (tmp_path / "data.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"data\.yaml cannot be read as YAML \(aliases"):
        find_yolo_split(tmp_path, "train")
    (tmp_path / "data.yaml").write_text(f"names: [car, {'a,' * 200_000}]")
    with pytest.raises(InputError, match=r"data\.yaml has 4000\d\d characters"):
        find_yolo_split(tmp_path, "train")


def test_names_must_be_a_file(tmp_path):
    (tmp_path / "obj.data").write_text("classes = 1\nnames = .\n")
    with pytest.raises(InputError, match=r"obj\.data: names = \. is a folder"):
        find_yolo_split(tmp_path / "obj.data", "train")


@pytest.mark.parametrize("far", ["/home/bob/set", "C:\\darknet\\set", "D:/set"])
def test_paths_of_another_machine(pets, far):
    """The longest tail of an absolute path that lies in the data folder, which is counted once."""
    _images(pets / "b.JPEG", pets / "train/b.JPEG")  # shorter tails
    slash = "\\" if "\\" in far else "/"
    lines = [slash.join([far, "images", "train", name]) for name in ("b.JPEG", "a.jpg", "x.jpg")]
    _text(pets / "lists" / "train.txt", *lines)
    data = _text(pets / "pets.data", f"train = {far}/lists/train.txt", f"names={far}/pets.names", f"valid={far}/images/val")
    split = find_yolo_split(data, "train")
    assert split.images == [f"{pets}/images/train/{name}" for name in ("b.JPEG", "a.jpg")] and split.class_names == ["cat", "dog"]
    assert [(f.file, f.where, f.kind, f.action, f.count) for f in split.faults] == [
        (f"{pets}/lists/train.txt", "line 3", "image missing", "drop image", 1),
        (f"{pets}/lists/train.txt", "line 1", "path of another machine, found below the data folder", "fix", 2)]
    assert _found(data, "val") == "c"
    secret = pets.parent / "secret"
    _images(secret / "s.jpg")
    path = _text(pets / "l.txt", f"{far}/../../secret/s.jpg", f"{far}/set/b.JPEG")  # no tail leads out
    assert [f.kind for f in find_yolo_split(path, "train").faults][0] == "image missing"


def test_images_elsewhere_on_this_machine_are_taken_from_the_data_folder(pets):
    _images(pets.parent / "old" / "images" / "train" / "a.jpg")
    path = _text(pets / "l.txt", f"{pets.parent}/old/images/train/a.jpg", f"{pets}/images/val/c.png")
    split = find_yolo_split(path, "train")
    assert split.images == [f"{pets}/images/train/a.jpg", f"{pets}/images/val/c.png"] and [f.count for f in split.faults] == [1]
    assert find_yolo_split(path, "train", ANYWHERE).images[0] == f"{pets.parent}/old/images/train/a.jpg"


def test_a_file_given_may_be_a_link(pets):
    """Its folder is the user's choice; paths are tried beside the link and beside the file itself."""
    links = pets.parent / "links"
    _text(pets / "pets.data", "train = train.txt", "names = pets.names")
    _text(pets / "train.txt", "images/train/a.jpg", "./images/train/b.JPEG")
    _text(pets / "data.yaml", "train: ../images/train", "names: [cat, dog]")
    links.mkdir()
    for name in ("pets.data", "data.yaml", "train.txt"):
        (links / name).symlink_to(pets / name)
        split = find_yolo_split(links / name, "train")
        assert split.images == [f"{pets}/images/train/a.jpg", f"{pets}/images/train/b.JPEG"] and len(split.class_names) == 2
        (pets / "labels").mkdir(exist_ok=True)
        _text(pets / "labels/train/a.txt", "1 0.5 0.5 1 1")
        assert len(YoloTxtDataset(links / name)) == 2
    with pytest.raises(InputError, match=r"data\.yaml' leads out of"):  # in a folder given it is the data set's own
        find_yolo_split(links, "train")


def test_linked_folders(pets):
    """Inside the data folder they are followed, each real folder once; others stop; hidden files stay hidden."""
    (pets / "images/train/b.JPEG").unlink()
    _images(pets / "store/x.jpg", pets / "store/deeper/y.jpg", pets.parent / "secret/s.jpg")
    (pets / "images/train/sub").symlink_to(pets / "store")
    (pets / "images/train/again").symlink_to(pets / "store/deeper")
    (pets / "store/round").symlink_to(pets / "store")
    (pets / "images/train/up").symlink_to(pets / "images")
    split = find_yolo_split(pets, "train")
    folder = f"{pets}/images/train"
    assert split.images == [f"{folder}/a.jpg", f"{folder}/again/y.jpg", f"{folder}/sub/x.jpg"] and split.faults == []
    (pets / "images/train/out").symlink_to(pets.parent / "secret")
    split = find_yolo_split(pets, "train")
    assert len(split.images) == 3 and [(f.file, f.kind, f.action) for f in split.faults] == [
        (f"{folder}/out", "path leads out of the data folder", "stop")]
    assert _found(pets, boundary=ANYWHERE) == "a y s x"
    (pets / "images/val/c.png").unlink()
    (pets / "images/val/out").symlink_to(pets.parent / "secret")
    with pytest.raises(InputError, match="val/out' leads out of"):
        find_yolo_split(pets, "val")


def test_labels_beside_the_images_of_every_split(tmp_path):
    """An export for Darknet: train/ and valid/ with a class list in each."""
    for split, names in (("train", "ab"), ("valid", "c")):
        _text(tmp_path / split / "_darknet.labels", "cat", "dog")
        for name in names:
            _images(tmp_path / split / f"{name}.jpg")
            _text(tmp_path / split / f"{name}.txt", "1 0.5 0.5 1 1")
    assert is_yolo_source(tmp_path) and find_yolo_split(tmp_path, "train").class_names == ["cat", "dog"]
    assert _found(tmp_path) == "a b" and _found(tmp_path, "val") == "c"
    _text(tmp_path / "train" / "x.txt")
    assert [fault.file[-11:] for fault in YoloTxtDataset(tmp_path).faults] == ["train/x.txt"]
    with pytest.raises(FileNotFoundError, match="holds no test images"):  # not a share of the others
        find_yolo_split(tmp_path, "test")
    (tmp_path / "train" / "a.xml").write_text("<annotation/>")
    (tmp_path / "valid" / "c.xml").write_text("<annotation/>")
    assert not is_yolo_source(tmp_path)


@pytest.mark.parametrize(("images", "labels"), [("", ""), ("images/", "labels/")])
def test_a_set_without_splits_is_shared_out(tmp_path, images, labels):
    """As in VOC: 80 % to train, the others to val and test; background counts, and no label is without image."""
    for k in range(10):
        _images(tmp_path / f"{images}{k}.jpg")
        if k:
            _text(tmp_path / f"{labels}{k}.txt", "1 0.5 0.5 1 1")
    _text(tmp_path / f"{labels}classes.txt", "cat", "dog")
    assert is_yolo_source(tmp_path)
    splits = {name: find_yolo_split(tmp_path, name) for name in ("train", "val", "test")}
    train, val = splits["train"].images, splits["val"].images
    assert len(train) == 8 and len(val) == 2 and len({*train, *val}) == 10 and splits["test"].images == val
    assert [(f.kind, f.action) for f in splits["val"].faults] == [("split val missing, 20 % of all images taken", "fix")]
    assert YoloTxtDataset(tmp_path).class_names == ["cat", "dog"]
    kinds = {f.kind for name in ("train", "val") for f in YoloTxtDataset(tmp_path, name).faults}
    assert "label file without image" not in kinds and "no label file, taken as background" in kinds
    _text(tmp_path / "data.yaml", "names: [cat, dog]")
    assert find_yolo_split(tmp_path, "train").images == train
    _text(tmp_path / "train.txt", f"./{images}3.jpg")  # the user's own split
    assert _found(tmp_path) == "3"
    with pytest.raises(FileNotFoundError, match="holds no val images"):
        find_yolo_split(tmp_path, "val")
    (tmp_path / "train.txt").unlink()
    _text(tmp_path / "data.yaml", "names: [cat, dog]", f"train: ./{images}")
    with pytest.raises(FileNotFoundError, match="holds no val images"):
        find_yolo_split(tmp_path, "val")
    (tmp_path / "data.yaml").unlink()
    for k in range(1, 10):
        if k != 4:
            (tmp_path / f"{images}{k}.jpg").unlink()
    (tmp_path / f"{images}0.jpg").unlink()
    with pytest.raises(InputError, match="holds 1 image, too few for training and validation"):
        find_yolo_split(tmp_path, "val")


def test_pipes_are_no_files(pets):
    os.mkfifo(pets / "p.txt")
    for name in ("p.data", "p.yaml"):
        os.mkfifo(pets / name)
        with pytest.raises(InputError, match=rf"{name}: cannot open this file \(it is a pipe or a device, not an ordinary"):
            find_yolo_split(pets / name, "train")
    (pets / "p.data").unlink()
    with pytest.raises(InputError, match=r"p\.txt: cannot open this file \(it is a pipe"):
        find_yolo_split(_text(pets / "x.data", "train = p.txt", "names = pets.names"), "train")
    with pytest.raises(FileNotFoundError, match=r"p\.names does not exist"):
        (pets / "p.names").unlink(missing_ok=True)
        os.mkfifo(pets / "p.names")
        find_yolo_split(_text(pets / "x.data", "train = images/train", "names = p.names"), "train")


def test_long_lists_of_another_machine_are_quick(pets, monkeypatch):
    """A folder that was cut off once is cut off again: three looks for an image, not one for every tail."""
    _images(*(pets / f"images/train/{k}.jpg" for k in range(50)))
    path = _text(pets / "l.txt", *(f"/home/bob/a/b/c/d/e/f/set/images/train/{k}.jpg" for k in range(50)))
    looks, isfile = [], os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda place: looks.append(place) or isfile(place))
    assert len(find_yolo_split(path, "train").images) == 50
    assert len(looks) < 50 * 2 + 30


def test_hidden_folders_hold_no_images_of_the_set(tmp_path):
    source = make_yolo(tmp_path, images=4, style="folder")
    hidden = tmp_path / "images" / "train" / ".ipynb_checkpoints"
    hidden.mkdir()
    picture = next((tmp_path / "images" / "train").glob("*.jpg"))
    shutil.copy(picture, hidden / f"{picture.stem}-checkpoint.jpg")
    assert len(find_yolo_split(source, "train").images) == 4
