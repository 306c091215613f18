"""Hyper-parameter files: both forms, what is refused and where, round trip."""

import os

import pytest

from train_utils.errors import InputError
from train_utils.hyp import read_hyp, write_hyp

KNOWN = ("giou", "cls", "lr0", "momentum", "hsv_h", "fl_gamma")


def read(tmp_path, text, name="hyp.yaml", known=KNOWN):
    (tmp_path / name).write_text(text)
    return read_hyp(tmp_path / name, known)


def test_yaml(tmp_path):
    text = "# gains\ngiou: 3.54  # loss\nlr0: 1e-3\nmomentum: .9\ncls: 37\n\nfl_gamma: 0.0\n"
    assert read(tmp_path, text) == {"giou": 3.54, "lr0": 0.001, "momentum": 0.9, "cls": 37.0, "fl_gamma": 0.0}
    assert read(tmp_path, "giou: 1\nfl_gamma: 0\n", known=("giou",)) == {"giou": 1.0}
    assert read(tmp_path, "") == read(tmp_path, "# nothing\n", "hyp.yml") == {}


def test_text(tmp_path):
    text = "giou: 3.54\n\n# a comment\nlr0 = 1e-3  # rate\n'cls': 37.4,   # as in a dictionary\n  momentum=.9\r\n"
    assert read(tmp_path, text, "hyp.txt") == {"giou": 3.54, "lr0": 0.001, "cls": 37.4, "momentum": 0.9}
    assert read(tmp_path, "", "hyp.txt") == {}


@pytest.mark.parametrize("name", ["hyp.yaml", "hyp.txt"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("giou: 1\nmomentun: 2\n", r"{name}:2: there is no hyper-parameter 'momentun'; did you mean momentum\?"),
        ("x: 1\n", r"{name}:1: .* 'x'; use some of giou, cls, lr0"),
        ("giou: 1\n\nlr0: fast\n", r"{name}:3: lr0 is 'fast', not a number"),
        ("giou: nan\n", r"{name}:1: giou is 'nan', not a number"),
        ("giou:\n", r"{name}:1: giou is '', not a number"),
        ("fl_gamma: 1.5\n", r"{name}:1: fl_gamma 1.5 asks for focal loss"),
        ("giou: 1\ncls: 2\ngiou: 3\n", r"{name}:3: giou stands in line 1 already"),
    ],
)
def test_refused(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message.format(name=name)):
        read(tmp_path, text, name)


def test_not_such_a_file(tmp_path):
    with pytest.raises(InputError, match="giou is 'a list'"):
        read(tmp_path, "giou: [1, 2]\n")
    with pytest.raises(InputError, match="not a mapping"):
        read(tmp_path, "- 1\n- 2\n")
    with pytest.raises(InputError, match="hyp.yaml: not YAML"):
        read(tmp_path, "giou: [1\n")
    with pytest.raises(InputError, match="hyp.txt:2: '0.5' is not `name: number`"):
        read(tmp_path, "giou: 1\n0.5\n", "hyp.txt")
    with pytest.raises(InputError, match="none.yaml: cannot be read .*No such file"):
        read_hyp(tmp_path / "none.yaml", KNOWN)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary.txt: cannot be read"):
        read_hyp(tmp_path / "binary.txt", KNOWN)


@pytest.mark.parametrize("name", ["best.yaml", "best.txt"])
def test_written_and_read(tmp_path, name):
    values = {"giou": 1 / 3, "lr0": 1e-05, "cls": 2, "momentum": 123456789.125}
    write_hyp(tmp_path / name, values)
    write_hyp(tmp_path / name, values)
    assert read_hyp(tmp_path / name, KNOWN) == values
    assert os.listdir(tmp_path) == [name]
