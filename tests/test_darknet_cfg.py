"""The text of a cfg: its grammar, and the class count and anchors that are set in it."""

import pytest
from darknet_nets import NET, OURS, YOLO, our_cfg, without_memory

from network_files.darknet_cfg import parse_cfg, set_anchors, set_num_classes
from network_files.errors import InputError


def test_grammar():
    text = """\ufeff# a comment
; another
 [ net ]\r
wid th = 9 6\t\r
height=64 # inline

[conv]
filters=3
filters=4
[max]
; size=9
"""
    net, conv, pool = parse_cfg(text)
    assert (net.kind, net.line, net.layer) == ("net", 3, -1)
    assert net.options == {"width": ("96", 4), "height": ("64", 5)}
    assert (conv.kind, conv.line, conv.layer) == ("convolutional", 7, 0)
    assert conv.options == {"filters": ("3", 8)} and conv.repeated == [9]  # the first counts
    assert (pool.kind, pool.line, pool.layer, pool.options) == ("maxpool", 10, 1, {})
    assert parse_cfg("[network]\nwidth=1")[0].kind == "net"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("\nwidth=8\n[net]", "line 2: 'width=8' stands before"),
        ("\n[conv]\n", r"line 2: the first section must be \[net\], not \[convolutional\]"),
        ("[net]\nwidth\n", "line 2: 'width' is neither"),
        ("[net]\nwidth=\n", "line 2: 'width=' is neither"),
        ("[net]\n[conv\n", "line 2"),
    ],
)
def test_bad_text(text, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(text)


@pytest.mark.parametrize("name", OURS)
def test_the_class_count_is_set_everywhere(name):
    text = our_cfg(name)
    count = without_memory(text).heads[0].num_classes
    assert set_num_classes(text, count) == text
    changed = set_num_classes(text, 7)
    network = without_memory(changed)
    assert all(head.num_classes == 7 for head in network.heads)
    assert all(network.module_list[head.layer - 1].conv.out_channels == 36 for head in network.heads)
    differing = [line for line, old in zip(changed.split("\n"), text.split("\n"), strict=True) if line != old]
    assert differing == ["filters=36", "classes=7"] * len(network.heads)
    assert set_num_classes(changed, count) == text


def test_the_class_count_leaves_all_other_characters():
    """Comments, blanks and line ends stay; a key that is not there yet gets a line of its own."""
    before = "[net]\r\n[conv] # mine\r\nsize=1\r\n[yolo]\r\n num = 2 # two\r\nanchors=1,2,3,4\r\nmask=1\r\n"
    after = before.replace("# mine\r\n", "# mine\r\nfilters=8\r\n")
    assert set_num_classes(f"{before} classes = 2 0  # all\r\n", 3) == f"{after} classes = 3  # all\r\n"
    assert set_num_classes("[net]\n[conv]\nfilters=1\n[yolo]\nanchors=1,2", 3) == (
        "[net]\n[conv]\nfilters=8\n[yolo]\nclasses=3\nanchors=1,2"
    )


def test_the_class_count_refuses():
    with pytest.raises(InputError, match=r"no \[yolo\] section"):
        set_num_classes(NET + "[conv]\n", 3)
    with pytest.raises(InputError, match=r"line 6, \[yolo\]: the layer before must be a convolution.*not \[maxpool\]"):
        set_num_classes(NET + "[max]\n" + YOLO, 3)
    with pytest.raises(InputError, match="at least 1 class"):
        set_num_classes(NET + "[conv]\n" + YOLO, 0)


# the anchors
@pytest.mark.parametrize("name", OURS)
def test_the_anchors_are_set_everywhere(name):
    text = our_cfg(name)
    own = without_memory(text).heads[0].anchors
    assert set_anchors(text, own) == text
    anchors = [(i + 0.5, 2 * i + 1.0) for i in range(1, len(own) + 1)]
    changed = set_anchors(text, anchors)
    heads = without_memory(changed).heads
    assert all(head.anchors == tuple(anchors) for head in heads)
    assert [head.mask for head in heads] == [head.mask for head in without_memory(text).heads]
    differing = [line for line, old in zip(changed.split("\n"), text.split("\n"), strict=True) if line != old]
    assert len(differing) == len(heads) and all(line.startswith("anchors=1.5,3,  2.5,5,  ") for line in differing)
    assert set_anchors(changed, own) == text


def test_anchors_are_rounded_and_all_other_characters_left():
    before = "[net]\r\n[conv]\r\nfilters=18\r\n[yolo] # first\r\nnum=2\r\n anchors = 1,2, 3,4  # mine\r\nmask=0\r\n"
    after = before.replace("1,2, 3,4", "0.01,10,  20.13,1200")
    assert set_anchors(before, [(0.011, 9.999), (20.126, 1200)]) == after


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        ([(2, 3)] * 2, r"line 8, \[yolo\]: it has 1 anchors, but 2 are given"),
        ([], "it has 1 anchors, but 0 are given"),
        ([(2, 0.004)], "at least 0.01 pixels"),
        ([(-2, 3)], "finite widths"),
        ([(float("nan"), 3)], "finite widths"),
        ([(float("inf"), 3)], "finite widths"),
    ],
)
def test_the_anchors_refuse(anchors, message):
    with pytest.raises(InputError, match=message):
        set_anchors(NET + YOLO, anchors)
    with pytest.raises(InputError, match=r"no \[yolo\] section, so there is no list of anchors"):
        set_anchors(NET, [(2, 3)])
