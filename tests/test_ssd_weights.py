"""SSD weights: every known layout loads whole into our nets, the order of channels is right, wrong files are named."""

import copy
import re

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from network_files.resize import IMAGENET_MEAN, IMAGENET_STD
from network_files.ssd_nets import NETS, build_ssd
from network_files.ssd_weights import (
    CLASSIFIERS,
    describe,
    fold_normalisation,
    identify,
    imagenet_weights,
    load_base_weights,
    load_ssd_weights,
    published_by_file,
    published_weights,
    rename_to_ours,
)

LITE = "ssdlite320-mobilenet-v3-large"
# (layout, net, classes with background, what the tensors must tell)
LAYOUTS = [
    ("pytorch-ssd", "vgg16-ssd", 21, {"vgg_norm": "bn"}),
    ("pytorch-ssd", "vgg16-ssd", 21, {"vgg_norm": "l2"}),
    ("pytorch-ssd", "mb1-ssd", 21, {}),
    ("pytorch-ssd", "mb1-ssd-lite", 21, {}),
    ("pytorch-ssd", "mb2-ssd-lite", 21, {"mb2_width_mult": 1.0}),
    ("pytorch-ssd", "mb2-ssd-lite", 5, {"mb2_width_mult": 0.75}),
    ("pytorch-ssd", "mb3-large-ssd-lite", 21, {}),
    ("pytorch-ssd", "mb3-small-ssd-lite", 21, {}),
    ("pytorch-ssd", "sq-ssd-lite", 21, {}),
    ("pytorch-ssd", "small-ssd", 4, {}),
    ("pytorch-ssd", "ssd512-vgg16", 4, {}),
    ("pytorch-ssd", "ssd300-resnet50", 4, {}),
    ("pytorch-ssd", LITE, 4, {"reduced_tail": True}),
    ("torchvision", "ssd300-vgg16", 91, {}),
    ("torchvision", LITE, 91, {"reduced_tail": True}),
    ("torchvision", LITE, 91, {"reduced_tail": False}),
    ("nvidia", "ssd300-resnet50", 21, {}),
    ("amdegroot", "ssd300-vgg16", 21, {}),
]
IDS = [f"{layout} {net} {' '.join(map(str, options.values()))}" for layout, net, _, options in LAYOUTS]
SECTIONS = {  # of the key dump: (layout, net)
    **{net: ("pytorch-ssd", net) for net in NETS if net.startswith(("mb", "sq")) or net == "vgg16-ssd"},
    "tv-ssd300_vgg16": ("torchvision", "ssd300-vgg16"),
    "tv-ssdlite320_mobilenet_v3_large": ("torchvision", LITE),
    "wz-ssd300-resnet50": ("nvidia", "ssd300-resnet50"),
    "amdegroot-ssd300": ("amdegroot", "ssd300-vgg16"),
}


# our keys in the words of the others: the mappings the other way round, written a second time
def to_torchvision_vgg(key):
    late = {"24": "extra.0.1", "26": "extra.0.3", "28": "extra.0.5", "31": "extra.0.7.1", "33": "extra.0.7.3"}
    group, number, rest = key.split(".", 2)
    if group == "base_net":
        return f"backbone.{late.get(number, f'features.{number}')}.{rest}"
    if group == "extras":
        return f"backbone.extra.{int(number) + 1}.{rest}"
    return "backbone.scale_weight" if group == "source_layer_add_ons" else torchvision_head(key)


def to_torchvision_lite(key):
    group, number, rest = key.split(".", 2)
    if group == "extras":
        return f"backbone.{key.replace('extras', 'extra')}"
    if group != "base_net":
        return torchvision_head(key)
    if number == "13" and rest.startswith("block.0."):
        return f"backbone.features.0.13.{rest.removeprefix('block.0.')}"
    if int(number) < 13:
        return f"backbone.features.0.{number}.{rest}"
    return f"backbone.features.1.{int(number) - 13}.{rest.removeprefix('block.') if number == '13' else rest}"


def torchvision_head(key):
    for kind in ("classification", "regression"):
        key = key.replace(f"{kind}_headers.", f"head.{kind}_head.module_list.")
    return key


def loc_conf(key):
    return key.replace("regression_headers.", "loc.").replace("classification_headers.", "conf.")


def to_nvidia(key):
    key = key.replace("extras.", "additional_blocks.").replace("base_net.", "feature_extractor.feature_extractor.")
    return loc_conf(key)


def to_amdegroot(key):
    group, number, rest = key.split(".", 2)
    if group == "extras":
        position, rest = rest.split(".", 1)
        return f"extras.{2 * int(number) + int(position) // 2}.{rest}"
    return "L2Norm.weight" if group == "source_layer_add_ons" else loc_conf(key).replace("base_net.", "vgg.")


def in_layout(layout, net, state):
    """A state of ours as the layout's author would save it."""
    if layout == "pytorch-ssd":
        return dict(state)
    vgg = to_torchvision_vgg if "vgg" in net else to_torchvision_lite
    rename = {"torchvision": vgg, "nvidia": to_nvidia, "amdegroot": to_amdegroot}[layout]
    renamed = {rename(key): value for key, value in state.items()}
    if layout == "nvidia":
        renamed = {key: class_major(key, value) for key, value in renamed.items()}
        renamed["compute_loss.dboxes"] = torch.zeros(1, 4, 8732)
        renamed["postprocess.dboxes_xywh"] = torch.zeros(1, 8732, 4)
    return renamed


def class_major(key, value):
    """Rows box * K + k of a head as k * boxes + box, one by one."""
    if not key.startswith(("loc.", "conf.")):
        return value
    boxes = (4, 6, 6, 6, 4, 4)[int(key.split(".")[1])]
    per_box = len(value) // boxes
    return torch.stack([value[box * per_box + k] for k in range(per_box) for box in range(boxes)])


def unfilled(net, num_classes, **options):
    """A model whose every number comes from the file: the initialisation of a VGG16 takes a second."""
    with torch.device("meta"):
        model = build_ssd(net, num_classes, **options)
    return model.to_empty(device="cpu")


def random_like(state):
    return {key: torch.rand(value.shape).to(value.dtype) for key, value in state.items()}


@pytest.mark.parametrize("layout, net, num_classes, options", LAYOUTS, ids=IDS)
def test_every_layout_loads_whole(layout, net, num_classes, options):
    model = unfilled(net, num_classes, **options)
    ours = random_like(model.state_dict())
    theirs = in_layout(layout, net, ours)
    file = {"model": {f"module.{key}": value for key, value in theirs.items()}, "optimizer": {"state": {}}, "epoch": 4}

    found = identify(file)
    assert (found.family, found.num_classes) == (layout, num_classes)
    assert found.table == ("voc" if layout == "amdegroot" else "")
    assert found == identify(theirs)
    found = identify(file, net)
    assert (found.net, found.options) == (net, options)

    report = load_ssd_weights(model, file)
    after = model.state_dict()
    assert not any(report.faults().values()) and not report.predictor_replaced
    assert report.loaded == len(after) == len(ours)
    assert all(torch.equal(value, ours[key]) for key, value in after.items())
    assert load_ssd_weights(model, after).loaded == len(after)  # and our own file of it as well


def read_dump(folder, name):
    """{key: tensor of random numbers} of a section of the key dump."""
    path = folder.parent / "reference" / "ssd_state_dict_keys.txt"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    sections = {}
    for line in path.read_text().splitlines():
        if line.startswith("== "):
            lines = sections.setdefault(line.split()[1], [])
        elif line.startswith("@"):
            source, prefix = line[1:].split()
            lines += [other for other in sections[source] if other.startswith(prefix)]
        elif not line.startswith("#"):
            lines.append(line)
    state = {}
    for prefix, kind, shape in map(str.split, sections[name]):
        shape = [int(side) for side in shape.split(",")]
        if kind == "t":
            state[prefix] = torch.rand(shape)
        for part in {"w": ["weight"], "b": ["weight"], "n": ["weight", "bias", "running_mean", "running_var"]}.get(kind, []):
            state[f"{prefix}.{part}"] = torch.rand(shape)
        if kind == "b":
            state[f"{prefix}.bias"] = torch.rand(shape[0])
        if kind == "n":
            state[f"{prefix}.num_batches_tracked"] = torch.tensor(1)
    return state


@pytest.mark.parametrize("section", SECTIONS)
def test_every_file_of_the_key_dump_loads(section, shared_data):
    state = read_dump(shared_data, section)
    layout, net = SECTIONS[section]
    found = identify(state, net)
    assert found.family == layout
    model = unfilled(**found.model_args())
    report = load_ssd_weights(model, state)
    constants = 2 if layout == "nvidia" else 0
    assert report.loaded == len(model.state_dict()) == len(state) - constants and not any(report.faults().values())
    # each tensor of the file is somewhere in the model (channels may have another order)
    sums = sorted(float(value.double().sum()) for value in model.state_dict().values())
    expected = sorted(float(value.double().sum()) for key, value in state.items() if "dboxes" not in key)
    assert sums == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name, net", [("ssd300_vgg16", "ssd300-vgg16"), ("ssdlite320_mobilenet_v3_large", LITE)])
def test_torchvisions_own_modules(name, net):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights_backbone=None, num_classes=3).state_dict()
    theirs = random_like(theirs)
    found = identify(theirs)
    assert (found.family, found.net, found.num_classes) == ("torchvision", net, 3)
    model = unfilled(**found.model_args())
    load_ssd_weights(model, theirs)
    rename = to_torchvision_vgg if "vgg" in net else to_torchvision_lite
    assert all(torch.equal(value, theirs[rename(key)]) for key, value in model.state_dict().items())


def test_old_files_without_counters_are_complete():
    model = build_ssd("small-ssd", 3)
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    assert not any(load_ssd_weights(model, state).faults().values())


# NVIDIA's order of channels
def test_heads_of_nvidia_are_reordered_by_numbers():
    """Biases that say their place: coordinate k of box b is 10 b + k, class c of box b is 100 b + c."""
    model = build_ssd("ssd300-resnet50", 3)
    state = in_layout("nvidia", "ssd300-resnet50", model.state_dict())
    for level, boxes in enumerate((4, 6, 6, 6, 4, 4)):
        state[f"loc.{level}.weight"], state[f"conf.{level}.weight"] = (
            torch.zeros_like(state[f"{kind}.{level}.weight"]) for kind in ("loc", "conf")
        )
        state[f"loc.{level}.bias"] = torch.tensor([10.0 * b + k for k in range(4) for b in range(boxes)])
        state[f"conf.{level}.bias"] = torch.tensor([100.0 * b + c for c in range(3) for b in range(boxes)])
    load_ssd_weights(model, state)
    with torch.no_grad():
        heads = model.eval().forward_heads(torch.zeros(1, 3, 300, 300))
    for box in range(4):  # the first cell of the first map has four boxes
        assert heads.deltas[0, box].tolist() == [10 * box + k for k in range(4)]
        assert heads.logits[0, box].tolist() == [100 * box + c for c in range(3)]
    assert heads.deltas[0, 4 * 38 * 38 + 5].tolist() == [50, 51, 52, 53]  # the sixth box of the second map's first cell


def test_heads_of_nvidia_give_what_its_own_reshaping_gives():
    model = build_ssd("ssd300-resnet50", 3).eval()
    state = in_layout("nvidia", "ssd300-resnet50", model.state_dict())
    load_ssd_weights(model, state)
    with torch.no_grad():
        images = torch.rand(1, 3, 300, 300)
        source, heads = model.sources(images)[1], model.forward_heads(images)
        loc = F.conv2d(source, state["loc.1.weight"], state["loc.1.bias"], padding=1).view(1, 4, -1)[0]
        conf = F.conv2d(source, state["conf.1.weight"], state["conf.1.bias"], padding=1).view(1, 3, -1)[0]
    start, size = 4 * 38 * 38, 19
    for box, row, column in ((0, 0, 0), (5, 18, 2), (3, 7, 11)):
        there = (box * size + row) * size + column  # box, row, column
        here = start + (row * size + column) * 6 + box  # row, column, box
        assert torch.allclose(heads.deltas[0, here], loc[:, there], atol=1e-5)
        assert torch.allclose(heads.logits[0, here], conf[:, there], atol=1e-5)


# what the tensors tell
@pytest.mark.parametrize("width", [0.0625, 0.1, 0.25, 0.333, 0.35, 0.5, 0.75, 1.0, 1.1, 1.3, 1.4, 2.0])
def test_width_of_mb2(width):
    with torch.device("meta"):
        state = build_ssd("mb2-ssd-lite", 3, mb2_width_mult=width).state_dict()
        found = identify(state)
        again = build_ssd(**found.model_args()).state_dict()
    assert found.options["mb2_width_mult"] == pytest.approx(width, abs=0.002)
    assert {key: value.shape for key, value in again.items()} == {key: value.shape for key, value in state.items()}


def meta_state(net, num_classes=3, **options) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build_ssd(net, num_classes, **options).state_dict()


def test_the_users_word_decides_where_the_tensors_leave_a_choice():
    l2 = meta_state("ssd300-vgg16", 21)
    assert identify(l2).net == "vgg16-ssd" and identify(l2).options == {"vgg_norm": "l2"}
    assert identify(l2, "ssd300-vgg16").options == {} and identify(l2, "ssd300-vgg16").net == "ssd300-vgg16"
    theirs = in_layout("amdegroot", "ssd300-vgg16", l2)
    assert identify(theirs).net == "ssd300-vgg16"
    for net in ("ssd300-vgg16", "vgg16-ssd"):
        boxes = identify(theirs, net).model_args()["default_boxes"]
        assert boxes["clip"] == "all" and boxes["sizes"][0] == [30, 60]
    theirs = in_layout("amdegroot", "ssd300-vgg16", meta_state("ssd300-vgg16", 81))
    assert identify(theirs).model_args(512)["default_boxes"]["sizes"][0] == pytest.approx([21 * 512 / 300, 45 * 512 / 300])
    torchvisions = in_layout("torchvision", "ssd300-vgg16", l2)
    assert identify(torchvisions).model_args(512) == {"net": "ssd300-vgg16", "num_classes": 21, "resolution": 512}
    with pytest.raises(ValueError, match="this file holds ssd300-vgg16, not vgg16-ssd: give --net ssd300-vgg16"):
        identify(torchvisions, "vgg16-ssd")  # its default boxes are others


def test_a_contradicting_net_is_refused():
    with pytest.raises(ValueError, match="this file holds mb1-ssd, not vgg16-ssd: give --net mb1-ssd"):
        identify(meta_state("mb1-ssd"), "vgg16-ssd")
    with pytest.raises(ValueError, match="unknown net 'mb1'"):
        identify(meta_state("mb1-ssd"), "mb1")


def test_what_is_no_ssd_is_named():
    files = {
        "a resnet50 classifier": torchvision.models.resnet50,
        "an image classifier": torchvision.models.resnet18,
        "a squeezenet1_1 classifier": torchvision.models.squeezenet1_1,
    }
    with torch.device("meta"):
        states = {words: build().state_dict() for words, build in files.items()}
    states["a YOLOv3"] = {"module_list.0.Conv2d.weight": torch.zeros(1)}
    states["a Faster R-CNN"] = {"roi_heads.box_predictor.cls_score.weight": torch.zeros(1)}
    states["the base of mb1-ssd"] = base_of("mb1-ssd")
    states["an unknown network"] = {f"base_net.{i}.0.weight": torch.zeros(1) for i in range(12)}  # deeper than small-ssd
    for words, state in states.items():
        assert describe(state) == words
        with pytest.raises(ValueError, match=f"this file holds {words}, not one of the SSDs known here .*mb1-ssd"):
            identify(state)


def test_damaged_heads():
    state = meta_state("mb1-ssd")
    state["classification_headers.2.weight"] = torch.zeros(19, 512, 3, 3)
    with pytest.raises(ValueError, match="damaged heads"):
        identify(state)
    for key in ("regression_headers.5.weight", "classification_headers.5.weight"):
        state = meta_state("mb1-ssd")
        del state[key]
        with pytest.raises(ValueError, match="damaged heads"):
            identify(state)
    without = {key: value for key, value in state.items() if "headers" not in key}
    with pytest.raises(ValueError, match="this file holds mb1-ssd without its heads"):
        identify(without)


# other classes
def small(num_classes=4, **options):
    model = build_ssd("small-ssd", num_classes, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_()
    return model


def class_rows(model):
    """Output layers of the class heads [B, C, ...], weights and biases."""
    heads = [head.state_dict() for head in model.classification_headers]
    return [value.clone().unflatten(0, (-1, model.num_classes)) for head in heads for value in head.values()]


def test_rows_of_same_named_classes_are_kept():
    source, model = small(5), small(4)
    fresh, trained = class_rows(model), class_rows(source)
    regression = copy.deepcopy(source.regression_headers.state_dict())
    report = load_ssd_weights(
        model, source.state_dict(), class_names=["dog ", "Cat", "bus"], source_class_names=["cat", "bus", "car", "dog"]
    )
    rows = {0: 0, 1: 4, 3: 2}  # background; dog; bus. "Cat" is not "cat"
    for now, before, file in zip(class_rows(model), fresh, trained):
        for row in range(4):
            assert torch.equal(now[:, row], file[:, rows[row]] if row in rows else before[:, row])
    assert all(torch.equal(value, regression[key]) for key, value in model.regression_headers.state_dict().items())
    assert report.summary().endswith("; class heads replaced, classes kept: dog, bus, new: Cat")
    assert report.loaded == len(model.state_dict()) - 2 * len(model.classification_headers)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())


def test_only_the_output_layer_of_a_class_head_is_replaced():
    source, model = build_ssd("sq-ssd-lite", 5), build_ssd("sq-ssd-lite", 4)
    report = load_ssd_weights(model, source.state_dict())
    assert report.predictor_replaced and report.kept_classes == report.new_classes == []
    ours, theirs = model.classification_headers[0], source.classification_headers[0]
    assert torch.equal(ours[0].weight, theirs[0].weight)  # the depthwise part knows no classes
    assert ours[2].out_channels == 24


def test_same_count_in_another_order_is_sorted_by_name():
    source, model = small(3), small(3)
    report = load_ssd_weights(model, source.state_dict(), ["a", "b"], ["b", "a"])
    assert torch.equal(class_rows(model)[1], class_rows(source)[1][:, [0, 2, 1]]) and report.kept_classes == ["a", "b"]
    assert not load_ssd_weights(model, source.state_dict(), ["a", "b"], ["a", "b"]).predictor_replaced
    assert not load_ssd_weights(model, source.state_dict(), ["a", "b"]).predictor_replaced


def test_classes_of_nvidia_are_kept_in_its_order_too():
    source, model = build_ssd("ssd300-resnet50", 4), build_ssd("ssd300-resnet50", 3)
    theirs = in_layout("nvidia", "ssd300-resnet50", source.state_dict())
    load_ssd_weights(model, theirs, ["c", "x"], ["a", "b", "c"])
    now, file = class_rows(model)[0], class_rows(source)[0]
    assert torch.equal(now[:, :2], file[:, [0, 3]])


def test_other_boxes_per_cell_replace_both_kinds_of_heads():
    boxes = build_ssd("small-ssd", 3).default_boxes.spec.to_dict()
    more = {**boxes, "aspect_ratios": [[2.0, 3.0]] * 4}
    source, model = small(3), small(3, default_boxes=more)
    before = copy.deepcopy(model.state_dict())
    report = load_ssd_weights(model, source.state_dict(), ["a", "b"], ["a", "b"])
    assert report.predictor == "class and regression heads" and report.new_classes == ["a", "b"]
    for key, value in model.state_dict().items():
        expected = before if "headers" in key else source.state_dict()
        assert torch.equal(value, expected[key]), key


def test_names_must_fit():
    model = small(4)
    with pytest.raises(ValueError, match="the model has 3 classes besides background, but 2 names"):
        load_ssd_weights(model, model.state_dict(), class_names=["a", "b"])
    with pytest.raises(ValueError, match="the file has 3 classes besides background, but 4 names"):
        load_ssd_weights(model, model.state_dict(), source_class_names=list("abcd"))


# wrong files
def test_another_net_is_named():
    model = small(3)
    with pytest.raises(ValueError, match="^this file holds mb1-ssd, the model is small-ssd: add --net mb1-ssd$"):
        load_ssd_weights(model, meta_state("mb1-ssd"))
    narrow = build_ssd("mb2-ssd-lite", 3, mb2_width_mult=0.25)
    expected = r"mb2-ssd-lite with mb2_width_mult=1.0, the model has mb2_width_mult=0.25: .*\(--mb2-width-mult 1.0\)$"
    with pytest.raises(ValueError, match=expected):
        load_ssd_weights(narrow, meta_state("mb2-ssd-lite"))


def test_all_faults_are_listed_together_and_nothing_is_loaded():
    model, state = small(3), small(3).state_dict()
    before = copy.deepcopy(model.state_dict())
    state["base_net.1.0.weight"] = state["base_net.1.0.weight"].flatten(1)
    del state["extras.0.0.1.bias"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        load_ssd_weights(model, state)
    message = str(error.value)
    assert message.startswith("this file does not fit the model, small-ssd (") and "\n" not in message
    assert "1 keys missing: extras.0.0.1.bias" in message and "1 keys unexpected: extra.weight" in message
    assert "1 keys of another shape: base_net.1.0.weight" in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_empty_file():
    with pytest.raises(ValueError, match="holds no model weights"):
        identify({})


# bases
def base_of(net):
    state = meta_state(net)
    return {key.removeprefix("base_net."): value for key, value in state.items() if key.startswith("base_net.")}


@pytest.mark.parametrize("net", ["vgg16-ssd", "mb1-ssd", "mb2-ssd-lite"])
def test_base_files_of_pytorch_ssd(net):
    model = unfilled(net, 3)
    base = random_like({key: value for key, value in base_of(net).items() if "num_batches" not in key})  # an old file
    report = load_base_weights(model, net, base)
    after = model.base_net.state_dict()
    assert report.loaded == len(base) and all(torch.equal(after[key], value) for key, value in base.items())


@pytest.mark.parametrize("classifier, net, options, left_out", [
    ("squeezenet1_1", "sq-ssd-lite", {}, ()),
    ("vgg16", "vgg16-ssd", {}, ("31.", "33.")),
    ("mobilenet_v3_large", LITE, {"reduced_tail": False}, ()),
    ("mobilenet_v2", "mb2-ssd-lite", {}, ()),
    ("resnet50", "ssd300-resnet50", {}, ()),
])  # fmt: skip
def test_classifiers_of_torchvision(classifier, net, options, left_out):
    """With the classifier's own normalisation nothing is folded, and all features are the classifier's."""
    model = build_ssd(net, 3, **options, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD).eval()
    theirs = classifier_with_random_features(classifier)
    before = copy.deepcopy(model.base_net.state_dict())
    report = load_base_weights(model, net, {"model": theirs.state_dict(), "epoch": 3})
    fresh = [key for key in before if left_out and key.startswith(left_out)]
    after = model.base_net.state_dict()
    assert [key for key in before if torch.equal(before[key], after[key])] == fresh
    assert report.loaded == len(before) - len(fresh) and not report.predictor_replaced

    images = torch.rand(1, 3, 64, 64) * 0.01
    with torch.no_grad():
        if classifier == "resnet50":
            ours = model.base_net[:6](images)
            their = theirs.eval().layer2(theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))))
        else:
            depth = 2 if classifier == "squeezenet1_1" else 10  # before the pool that rounds up; before large numbers
            ours, their = model.base_net[:depth](images), theirs.eval().features[:depth](images)
    assert ours.abs().max() > 0 and torch.allclose(ours, their, rtol=1e-4)


def classifier_with_random_features(name):
    """The head of VGG16 would be 120 million numbers: one will do, as nobody looks at it."""
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name)
    theirs.classifier = torch.nn.Sequential(torch.nn.Linear(1, 1))
    theirs.to_empty(device="cpu")
    theirs.load_state_dict({key: value + 1 for key, value in random_like(theirs.state_dict()).items()})
    return theirs


def test_squeezenet_file_is_folded_exactly(shared_data):
    path = shared_data / "weights" / "squeezenet" / "squeezenet1_1_imagenet_from_ncnn_fp16.pth"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    state = {key: value.double() for key, value in torch.load(path, weights_only=True).items()}
    model = build_ssd("sq-ssd-lite", 3).double().eval()
    assert load_base_weights(model, "sq-ssd-lite", state).loaded == 50
    theirs = torchvision.models.squeezenet1_1().double().eval()
    theirs.load_state_dict(state)
    for layer in theirs.features:
        if isinstance(layer, torch.nn.MaxPool2d):
            layer.ceil_mode = False
    pixels = torch.randint(0, 256, (1, 3, 300, 300)).double()
    normalised = torchvision.transforms.functional.normalize(pixels / 255, IMAGENET_MEAN, IMAGENET_STD)
    with torch.no_grad():
        ours, their = model.base_net((pixels - 127) / 128), theirs.features(normalised)
        rounded = model.float().base_net((pixels.float() - 127) / 128)
    assert their.max() > 50 and float((ours - their).abs().max()) < 1e-10
    assert float((rounded - their).abs().max()) < 2e-6 * float(their.max())  # 2e-4 of 100, the rounding of float32


@pytest.mark.parametrize("bias", [True, False])
def test_folding_by_hand(bias):
    """One pixel, one channel of weight 2: made for (x - 0.5) / 0.25, used with x: 2 * 4 x - 4 + 1 = 8 x - 3."""
    state = {"0.weight": torch.full((1, 1, 1, 1), 2.0)}
    state |= {"0.bias": torch.ones(1)} if bias else {"1.running_mean": torch.ones(1), "1.running_var": torch.ones(1)}
    folded = fold_normalisation(state, (0.5,), (0.25,), (0.0,), (1.0,))
    assert folded["0.weight"].item() == 8
    if bias:
        assert folded["0.bias"].item() == 1 - 4
    else:
        assert folded["1.running_mean"].item() == 1 + 4 and folded["1.running_var"].item() == 1
    assert state["0.weight"].item() == 2  # what was given is not changed


def test_folding_into_a_padded_convolution_is_exact_inside():
    model = build_ssd("mb2-ssd-lite", 3).eval()
    theirs = torchvision.models.mobilenet_v2().eval()
    state = theirs.state_dict()
    state["features.0.1.running_mean"].uniform_(-1, 1)
    load_base_weights(model, "mb2-ssd-lite", state)
    image = torch.rand(1, 3, 32, 32)
    normalised = torchvision.transforms.functional.normalize(image, IMAGENET_MEAN, IMAGENET_STD)
    with torch.no_grad():
        ours, their = model.base_net[0]((image * 255 - 127) / 128), theirs.features[0](normalised)
    assert torch.allclose(ours[..., 1:, 1:], their[..., 1:, 1:], atol=1e-5)
    assert not torch.allclose(ours[..., 0, :], their[..., 0, :], atol=1e-2)


def test_vgg_file_for_ssd_is_known_by_its_invalid_classifier():
    """IMAGENET1K_FEATURES takes pixels minus their mean, as the net does: its first convolution stays as it is."""
    model = build_ssd("ssd300-vgg16", 3)
    state = classifier_with_random_features("vgg16").state_dict()
    original = state["features.0.weight"].clone()
    load_base_weights(model, "ssd300-vgg16", state)
    scale = torch.tensor(IMAGENET_STD)[:, None, None] * 255
    assert torch.allclose(model.base_net[0].weight * scale, original, rtol=1e-5)
    state["classifier.0.weight"].fill_(float("nan"))
    load_base_weights(model, "ssd300-vgg16", state)
    assert torch.equal(model.base_net[0].weight, original)


@pytest.mark.parametrize("build, message", [
    (torchvision.models.resnet50, "holds a resnet50 classifier, which does not fit the base of mb1-ssd; it fits --net "
     "ssd300-resnet50 "),
    (torchvision.models.vgg16, "holds a vgg16 classifier, .*; it fits --net vgg16-ssd or ssd300-vgg16 or ssd512-vgg16 "),
    (torchvision.models.resnet101, "holds an image classifier, .*; it fits none of our nets "),
    (lambda: build_ssd("sq-ssd-lite", 3).base_net, "holds the base of sq-ssd-lite, .*; it fits --net sq-ssd-lite "),
    (lambda: build_ssd("mb1-ssd", 3), "holds the whole detector mb1-ssd, not a base alone: give it as weights of the whole"),
])  # fmt: skip
def test_base_of_another_net(build, message):
    model = build_ssd("mb1-ssd", 3)
    before = copy.deepcopy(model.state_dict())
    with torch.device("meta"):
        state = build().state_dict()
    with pytest.raises(ValueError, match=f"^this file {message}") as error:
        load_base_weights(model, "mb1-ssd", state)
    assert len(str(error.value)) < 900
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_full_mobilenet_v3_does_not_fit_the_reduced_tail():
    with torch.device("meta"):
        state = torchvision.models.mobilenet_v3_large().state_dict()
        model = build_ssd(LITE, 3, reduced_tail=True)
    with pytest.raises(ValueError, match=f"which fits {LITE} only in one piece and with reduced_tail=False "):
        load_base_weights(model, LITE, state)


# what exists
def test_published():
    for name in ("SSD300_VGG16_Weights.COCO_V1", "ssd300_vgg16", "ssd300_vgg16_weights.default"):
        entry = published_weights(name)
        assert entry.net == "ssd300-vgg16" and re.search(r"-[0-9a-f]{8}\.pth$", entry.url)
    lite = published_weights("ssdlite320_mobilenet_v3_large")
    assert lite.model_args == {"net": LITE, "num_classes": 91, "reduced_tail": True}
    assert lite.class_names[0] == "person" and lite.class_names[11] == "N/A" and len(lite.class_names) == 90
    assert published_by_file(lite.url.rsplit("/", 1)[1]) is lite and published_by_file("best.pth") is None
    for name in ("mb1-ssd", "ssd300_vgg16.COCO_V2", ""):
        with pytest.raises(ValueError, match="neither a weights file nor a published SSD .*ssd300_vgg16, ssdlite320"):
            published_weights(name)


def test_imagenet_weights():
    customary = {net: imagenet_weights(net) for net in NETS}
    assert not any(customary[net] for net in NETS if net.startswith(("small", "mb1", "mb3")))
    assert str(customary["ssd512-vgg16"]) == "VGG16_Weights.IMAGENET1K_FEATURES"
    assert str(customary["ssd300-resnet50"]) == "ResNet50_Weights.IMAGENET1K_V1"
    assert str(imagenet_weights("ssd300-resnet50", "ResNet50_Weights.IMAGENET1K_V2")).endswith("V2")
    with pytest.raises(ValueError, match="sq-ssd-lite has no weights 'IMAGENET1K_V7' .choose from IMAGENET1K_V1, DEFAULT"):
        imagenet_weights("sq-ssd-lite", "IMAGENET1K_V7")
    with pytest.raises(ValueError, match="unknown net"):
        imagenet_weights("resnet50")
    assert {spec.classifier for spec in NETS.values()} - {None} <= set(CLASSIFIERS)


def test_keys_of_an_unknown_file_stay():
    state = {"a.weight": torch.zeros(1), "extras.0.0.weight": torch.zeros(1)}
    assert rename_to_ours(state) == state


def test_a_damaged_mobilenet_v2_is_named():
    state = build_ssd("mb2-ssd-lite", 3).state_dict()
    del state["base_net.17.conv.6.weight"]
    with pytest.raises(ValueError, match="damaged file: .*lacks base_net.17.conv.6.weight"):
        identify(state)
