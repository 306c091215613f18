import pytest
from PIL import Image

from datasets import InputError, YoloTxtDataset
from datasets.yolo_config import find_yolo_split, is_yolo_source


def _text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def _images(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)


def _found(source, split="train"):
    """Names of the images found, without folders and suffixes."""
    return " ".join(image.rsplit("/", 1)[-1].split(".")[0] for image in find_yolo_split(source, split).images)


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """set/ with images/train (a, b), images/val (c) and pets.names; the working directory is elsewhere."""
    root = tmp_path / "set"
    _images(root / "images/train/a.jpg", root / "images/train/b.JPEG", root / "images/val/c.png", root / "images/train/._b.jpg")
    _text(root / "pets.names", "cat", "", "dog\r", "")
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
        assert _found(data) == f"place{k}"
        (place / "l.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"train = l\.txt does not exist \(looked for as l\.txt, \S*/cfg/l\.txt, \S*/set"):
        find_yolo_split(data, "train")


def test_paths_of_a_list(pets):
    """./ is the list's folder; other paths are below the working directory, else below the list's folder."""
    here = pets.parent / "elsewhere"
    _images(here / "x.jpg", pets / "x.jpg")
    assert find_yolo_split(_text(pets / "l.txt", "./x.jpg"), "train").images == [f"{pets}/x.jpg"]
    assert find_yolo_split(_text(pets / "l.txt", "x.jpg"), "train").images == ["x.jpg"]
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
    assert _found(path) == "literal"


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
