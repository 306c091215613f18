"""Two hundred damaged and hostile versions of a checkpoint: each is refused by name or loads equal, and none runs code."""

import io
import os
import pickle
import random
import warnings
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from train_utils.checkpoint import load_checkpoint, save_checkpoint
from train_utils.errors import InputError


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Of a checkpoint with everything that a training saves, in a folder where a payload would leave its mark."""
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3, bias=False), norm=nn.BatchNorm2d(4), head=nn.Linear(4, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.head(model.norm(model.conv(torch.rand(2, 3, 5, 5))).mean((2, 3))).sum().backward()
    optimizer.step()
    save_checkpoint({
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
        "ema": {name: value.half() for name, value in model.state_dict().items()},
        "epoch": 4,
        "step_in_epoch": 17,
        "rows": [{"epoch": epoch, "stats": [0.1 * epoch] * 12 if epoch else None, "loss_box": 1 / 3} for epoch in range(3)],
        "args": {"lr": 0.01, "data_path": "a/b", "resume": None, "amp": False, "classes": ("cat", "dög")},
        "class_names": ["cat", "dög"],
        "script": "train_x",
    }, tmp_path / "last.pth")
    return tmp_path / "last.pth"


def same(one, other):
    """Equal in every type, order and bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        facts = [(value.dtype, value.shape, value.stride(), value.requires_grad) for value in (one, other)]
        bits = [value.contiguous().reshape(-1).view(torch.uint8) for value in (one, other)]
        return facts[0] == facts[1] and torch.equal(*bits)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other))
    return one == other


def flipped(good, draw):
    """One to four bits changed anywhere, or bytes."""
    data = bytearray(good)
    for _ in range(draw.randint(1, 4)):
        data[draw.randrange(len(data))] ^= draw.choice((1 << draw.randrange(8), draw.randrange(1, 256)))
    return bytes(data)


def block_damaged(good, draw):
    """A block zeroed as by a lost sector, written twice, or exchanged with another."""
    length = draw.choice((16, 64, 512, 2048))
    first, second = sorted(draw.sample(range(0, len(good) - length, length), 2))
    block, other = good[first : first + length], good[second : second + length]
    kind = draw.choice(("zeroed", "twice", "swapped"))
    if kind == "zeroed":
        return good[:first] + bytes(length) + good[first + length :]
    if kind == "twice":
        return good[:first] + block + good[first:]
    return good[:first] + other + good[first + length : second] + block + good[second + length :]


class Payload:
    """Leaves a folder behind where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("was_run",)


HAND_WRITTEN = [
    b"cos\nmkdir\n(S'was_run'\ntR.",
    b"(S'was_run'\nios\nmkdir\n.",
    b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x07was_run\x85R.",
    b"\x80\x02}X\x01\0\0\0ac__builtin__\neval\nX\x21\0\0\0__import__('os').mkdir('was_run')\x85Rs.",
]


def foreign(number):
    """One of twenty pickles that run code: in torch's new and old format, bare, and by opcodes of a hand; in every protocol."""
    value = [Payload(), {"model": Payload()}, {"model": OrderedDict(w=torch.ones(2), b=Payload())}, {Payload(): 1}][number % 4]
    content = io.BytesIO()
    if number < 12:
        torch.save(value, content, pickle_protocol=number % 6, _use_new_zipfile_serialization=number < 6)
    elif number < 16:
        pickle.dump([Payload()], content, protocol=number - 12)
    else:
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("archive/data.pkl", HAND_WRITTEN[number - 16])
            archive.writestr("archive/version", "3\n")
    return content.getvalue()


def outcome(path, content, original):
    """"refused" or "equal", with no warning and no other kind of error."""
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            loaded = load_checkpoint(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and str(error).isprintable() and len(str(error)) < 400, error
            return "refused"
    assert same(loaded, original)
    return "equal"


def test_two_hundred_corrupted_checkpoints(path, capsys):
    good, original, draw = path.read_bytes(), load_checkpoint(path), random.Random(0)
    versions = [("cut short", good[: draw.randrange(len(good))]) for _ in range(60)]
    versions += [("flipped", flipped(good, draw)) for _ in range(100)]
    versions += [("block", block_damaged(good, draw)) for _ in range(20)]
    versions += [("foreign", foreign(number)) for number in range(20)]
    counts = Counter((kind, outcome(path, content, original)) for kind, content in versions)
    with capsys.disabled():
        print("\n" + ", ".join(f"{kind} {result} {number}" for (kind, result), number in sorted(counts.items())))
    assert counts.total() == 200 and outcome(path, good, original) == "equal"
    assert counts["cut short", "refused"] == 60 and counts["foreign", "refused"] == 20
    assert counts["flipped", "equal"] + counts["flipped", "refused"] == 100 and counts["flipped", "refused"] >= 50
    assert counts["block", "equal"] + counts["block", "refused"] == 20
    assert os.listdir() == ["last.pth"]


def test_the_payloads_do_run_where_code_is_allowed(tmp_path, monkeypatch):
    """Else the test above would show nothing."""
    monkeypatch.chdir(tmp_path)
    for data in (*HAND_WRITTEN, foreign(12), foreign(15)):
        pickle.loads(data)
        Path("was_run").rmdir()


def test_every_byte_of_the_directory(path):
    """The part of a file that no check sum covers."""
    save_checkpoint({"model": {"w": torch.arange(3.0)}}, path)
    good, original, draw = path.read_bytes(), load_checkpoint(path), random.Random(1)
    counts = Counter()
    for at in range(good.index(b"PK\x01\x02"), len(good)):
        data = bytearray(good)
        data[at] ^= 1 << draw.randrange(8)
        counts[outcome(path, bytes(data), original)] += 1
    assert counts["refused"] > counts["equal"] > 0


def test_a_zip_bomb_is_not_unpacked(path, monkeypatch):
    """A hundred MB of zeros in a hundred kB, and data that several entries share."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100_000_000))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: pytest.fail("was unpacked"))
    with pytest.raises(InputError, match="last.pth: .*an entry is compressed, which torch.save never does"):
        load_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", bytes(50_000))
        for number in range(1, 100):
            copy = zipfile.ZipInfo(f"archive/data/{number}")
            copy.header_offset, copy.CRC, copy.file_size, copy.compress_size = 0, 0, 50_000, 50_000
            archive.filelist.append(copy)
        archive._didModify = True
    with pytest.raises(InputError, match="last.pth: .*(its entries overlap|Overlapped entries)"):
        load_checkpoint(path)
