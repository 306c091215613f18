"""Darknet weights: they come and go byte for byte, whole and cut off, and are as many as published."""

import io
import struct

import pytest
import torch
from darknet_nets import NET, YOLO, our_cfg, without_memory
from PIL import Image

from network_files.darknet import Darknet
from network_files.darknet_cfg import parse_cfg, set_num_classes
from network_files.darknet_weights import Header, classes_by_size, is_darknet, read_weights, write_weights
from network_files.errors import InputError

REAL = ["mini-yolov3", "mini-yolov3-spp", "mini-yolov3-tiny", "MobileNetV2-YOLOv3-Nano-coco"]
# name: floats and bytes of the weights file, parameters, layers, numbers of the [yolo] layers
PUBLISHED = {
    "yolov3": (62_001_757, 248_007_048, 61_949_149, 107, [82, 94, 106]),
    "yolov3-spp": (63_052_381, 252_209_544, 62_998_749, 114, [89, 101, 113]),
    "yolov3-tiny": (8_858_734, 35_434_956, 8_852_366, 24, [16, 23]),
}
OF_FILES = {
    "pjreddie-yolov3-voc": (61_678_657, 246_714_648, 61_626_049, 107, [82, 94, 106]),
    "mini-yolov3": (249_259, 997_056, 245_963, 107, [82, 94, 106]),
    "mini-yolov3-spp": (253_483, 1_013_952, 250_123, 114, [89, 101, 113]),
    "mini-yolov3-tiny": (138_982, 555_948, 138_182, 24, [16, 23]),
    "MobileNetV2-YOLOv3-Nano-coco": (891_070, 3_564_300, 873_150, 80, [69, 79]),
    **{f"pjreddie-{name}": row for name, row in PUBLISHED.items()},
}
BODY = [  # two convolutions of a net with 2 input channels: with norm [3, 2, 1, 1], with bias [6, 3, 1, 1]
    *[1.0, 2, 3], *[4.0, 5, 6], *[7.0, 8, 9], *[10.0, 11, 12], *[13.0, 14, 15, 16, 17, 18],
    *range(20, 26), *range(100, 118),
]
TWO_CONVS = (
    "[net]\nwidth=8\nheight=8\nchannels=2\n[conv]\nbatch_normalize=1\nfilters=3\n[max]\n[conv]\nfilters=6\n" + YOLO
)


def packed(header_format, *header, floats=BODY):
    return struct.pack(f"{header_format}{len(floats)}f", *header, *floats)


def test_order_of_the_numbers_in_a_file():
    weights = read_weights(packed("<iiiq", 0, 2, 5, 2**40), Darknet(TWO_CONVS))
    assert weights.header == Header(0, 2, 5, 2**40) and (weights.layers, weights.complete) == (3, True)
    assert {key: value.flatten().tolist() for key, value in weights.state.items()} == {
        "module_list.0.norm.bias": [1, 2, 3],
        "module_list.0.norm.weight": [4, 5, 6],
        "module_list.0.norm.running_mean": [7, 8, 9],
        "module_list.0.norm.running_var": [10, 11, 12],
        "module_list.0.conv.weight": [13, 14, 15, 16, 17, 18],
        "module_list.2.conv.bias": list(range(20, 26)),
        "module_list.2.conv.weight": list(range(100, 118)),
    }
    assert weights.state["module_list.2.conv.weight"].shape == (6, 3, 1, 1)
    network = Darknet(TWO_CONVS)
    network.load_state_dict(weights.state)  # strict: BatchNorm does not miss its counter
    assert network.module_list[2].conv.bias.tolist() == list(range(20, 26))


@pytest.mark.parametrize(
    ("form", "version"), [("<iiii", (0, 1, 0)), ("<iiiq", (0, 2, 0)), ("<iiiq", (1, 0, 3)), ("<iiii", (1000, 2, 0))]
)
def test_the_version_decides_how_long_the_header_is(form, version):
    data = packed(form, *version, 12345)
    network = Darknet(TWO_CONVS)
    weights = read_weights(data, network)
    assert weights.header == (*version, 12345) and weights.complete
    assert weights.state["module_list.0.norm.bias"].tolist() == [1, 2, 3]
    assert write_weights(weights.state, network, weights.header) == data


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 0), (0, 2, 5), (1, 0, 3), (0, 0, 0), (999, 999, 0)])
def test_files_that_begin_like_darknets(version):
    assert is_darknet(struct.pack("<iiiq", *version, 32_013_312)) and is_darknet(struct.pack("<iiii", *version, 2**31 - 1))
    assert is_darknet(packed("<iiiq", *version, 0)) and is_darknet(packed("<iiiq", *version, 2**40)[:16])
    assert not is_darknet(packed("<iiiq", *version, 0)[:15]) and not is_darknet(b"")


def test_files_that_are_not_darknets():
    files = [struct.pack("<iiii", *version, 5, 0) for version in ((1000, 2), (0, 1000), (-1, 2), (0, -1))]
    for zipped in (True, False):
        for content in ({"model": {"a.weight": torch.zeros(3)}}, {}, torch.zeros(0)):
            files.append(io.BytesIO())
            torch.save(content, files[-1], _use_new_zipfile_serialization=zipped)
    for kind in ("jpeg", "png", "bmp", "gif"):
        files.append(io.BytesIO())
        Image.new("RGB", (8, 8)).save(files[-1], kind)
    for file in (*files, b"[net]\nwidth=416\nheight=416\n"):
        data = file if isinstance(file, bytes) else file.getvalue()
        assert len(data) >= 16 and not is_darknet(data) and not is_darknet(data[:16])


def test_a_cut_off_file_has_the_first_layers():
    network = Darknet(TWO_CONVS)
    data = packed("<iiiq", 0, 2, 0, 0, floats=BODY[:18])
    weights = read_weights(data, network)
    assert (weights.layers, weights.complete) == (1, False)
    assert sorted({key.split(".")[1] for key in weights.state}) == ["0"]
    assert write_weights(weights.state, network, weights.header, weights.layers) == data
    # layer 1 has no weights, so it changes nothing
    assert write_weights(weights.state, network, weights.header, layers=2) == data
    with pytest.raises(InputError, match=r"module_list.2.conv.bias must have the shape \[6\], but it is missing"):
        write_weights(weights.state, network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "0 bytes"),
        (lambda data: data[:15], "15 bytes"),
        (lambda data: data[:19], "damaged: it has 19 bytes, its header alone 20"),
        (lambda data: data[:20], "has 20 bytes, but this cfg needs 188:"),
        (lambda data: data[:-1], r"has 187 bytes, but this cfg needs 188 \(or, cut off behind layer 0, 92\)"),
        (lambda data: data[:-4], "has 184 bytes, but this cfg needs 188"),
        (lambda data: data[:91], "has 91 bytes, but this cfg needs 188:"),
        (lambda data: data + b"\0", "has 189 bytes, but this cfg needs 188:"),
        (lambda data: data + b"\0" * 4, "has 192 bytes, but this cfg needs 188:"),
    ],
)
def test_every_byte_is_accounted_for(change, message):
    with pytest.raises(InputError, match=message):
        read_weights(change(packed("<iiiq", 0, 2, 5, 0)), Darknet(TWO_CONVS))


def test_the_class_count_of_a_file_comes_from_its_size():
    cfg = TWO_CONVS.replace("filters=6", "filters=12").replace("mask=0\nanchors=2,3", "mask=0,1\nanchors=2,3,4,5")  # 2 anchors
    for num_classes in (1, 2, 20):
        network = Darknet(set_num_classes(cfg, num_classes))
        data = write_weights(network.state_dict(), network)
        assert classes_by_size(data, cfg) == num_classes
        # a class has 3 weights and a bias for each anchor
        assert classes_by_size(data + bytes(2 * 4 * 4), cfg) == num_classes + 1
        assert classes_by_size(data + bytes(4), cfg) is None
    assert classes_by_size(packed("<iiii", 0, 1, 0, 0, floats=range(66)), cfg) == 1  # the short header
    assert classes_by_size(packed("<iiiq", 0, 2, 0, 0, floats=BODY[:18]), cfg) is None  # cut off
    assert classes_by_size(bytes(20), NET + "[conv]\n" + YOLO) is None
    with pytest.raises(InputError, match="no Darknet weights file"):
        classes_by_size(b"", cfg)


def test_a_network_without_convolutions_has_no_weights():
    network = Darknet(NET + YOLO)
    assert write_weights(network.state_dict(), network) == struct.pack("<iiiq", 0, 2, 5, 0)
    with pytest.raises(InputError, match="no convolution"):
        read_weights(struct.pack("<iiiq", 0, 2, 5, 0), network)


def test_a_state_of_another_class_count_is_not_written():
    small = our_cfg("yolov3-small")
    with pytest.raises(InputError, match=r"module_list.11.conv.bias must have the shape \[27\], but it is \[18\]"):
        write_weights(Darknet(set_num_classes(small, 1)).state_dict(), Darknet(small))


def test_what_is_read_stands_alone():
    """No tensor drags the whole file along, and the given bytes are not touched by changes of the state."""
    data = packed("<iiiq", 0, 2, 5, 0)
    weights = read_weights(data, Darknet(TWO_CONVS))
    assert all(value.untyped_storage().nbytes() == 4 * value.numel() for value in weights.state.values())
    weights.state["module_list.0.norm.bias"].zero_()
    assert data == packed("<iiiq", 0, 2, 5, 0)


def test_half_precision_states_are_written_as_float32():
    network = Darknet(TWO_CONVS)
    state = read_weights(packed("<iiiq", 0, 2, 5, 0), network).state
    halves = {key: value.half() for key, value in state.items()}
    assert write_weights(halves, network) == packed("<iiiq", 0, 2, 5, 0)


# the cfgs of this repository
def row_of(network):
    """What `PUBLISHED` has of a network, all of it counted."""
    floats = sum(v.numel() for key, v in network.state_dict().items() if not key.endswith("num_batches_tracked"))
    parameters = sum(p.numel() for p in network.parameters())
    return floats, 20 + 4 * floats, parameters, len(network.module_list), [head.layer for head in network.heads]


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_cfgs_are_the_published_networks(name):
    network = without_memory(our_cfg(name))
    assert row_of(network) == PUBLISHED[name]
    assert [head.stride for head in network.heads] == [32, 16, 8][: len(network.heads)]


@pytest.mark.parametrize("name", OF_FILES)
def test_cfgs_of_others_give_the_published_networks(shared_data, name):
    assert row_of(without_memory((shared_data / "yolo" / f"{name}.cfg").read_text())) == OF_FILES[name]
    weights = shared_data / "yolo" / f"{name}.weights"
    assert not weights.exists() or weights.stat().st_size == OF_FILES[name][1]


@pytest.mark.parametrize(
    ("name", "size", "layers"), [("yolov3", 162_482_580, 74), ("yolov3-tiny", 30_973_396, 15)]
)
def test_the_published_backbones_are_recognised_by_their_size(name, size, layers):
    """darknet53.conv.74 and yolov3-tiny.conv.15, made of zeros."""
    network = without_memory(our_cfg(name))
    data = struct.pack("<iiiq", 0, 2, 0, 0) + bytes(size - 20)
    weights = read_weights(data, network)
    assert (weights.layers, weights.complete) == (layers, False)
    assert max(int(key.split(".")[1]) for key in weights.state) == layers - 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_cfgs_have_the_layers_of_the_originals(shared_data, name):
    ours = parse_cfg(our_cfg(name))[1:]
    theirs = parse_cfg((shared_data / "yolo" / f"pjreddie-{name}.cfg").read_text())[1:]
    left_out = {"jitter", "random"}  # training only

    def plain(section):
        numbers = {key: option.value for key, option in section.options.items() if key not in left_out}
        if section.kind == "yolo":
            numbers["ignore_thresh"] = float(numbers["ignore_thresh"])
        return section.kind, numbers

    assert [plain(section) for section in ours] == [plain(section) for section in theirs]


def test_yolov3_for_the_classes_of_voc():
    """As many parameters as the original's yolov3-voc.cfg."""
    assert sum(p.numel() for p in without_memory(set_num_classes(our_cfg("yolov3"), 20)).parameters()) == 61_626_049


def test_the_small_cfg_is_small():
    network = without_memory(our_cfg("yolov3-small"))
    assert sum(p.numel() for p in network.parameters()) < 600_000
    assert [head.stride for head in network.heads] == [16, 8]


# real files
@pytest.mark.parametrize("name", REAL)
def test_reading_and_writing_gives_the_identical_file(shared_data, name):
    folder = shared_data / "yolo"
    network = without_memory((folder / f"{name}.cfg").read_text())
    data = (folder / f"{name}.weights").read_bytes()
    weights = read_weights(data, network)
    assert weights.header.seen == (14_547_712 if "Nano" in name else 12345)
    assert write_weights(weights.state, network, weights.header) == data
