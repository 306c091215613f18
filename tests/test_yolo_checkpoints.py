"""YOLOv3 weights of every layout load whole, classes go by name, cut-off states fill the first layers, misfits are named."""

import copy

import pytest
import torch
from darknet_nets import our_cfg, randomized, without_memory

from network_files.darknet import Darknet
from network_files.darknet_cfg import set_num_classes
from network_files.darknet_weights import read_weights, write_weights
from network_files.errors import InputError
from network_files.state_dicts import detector_family
from network_files.yolo_checkpoints import (
    LAYOUTS,
    count_classes,
    identify,
    load_yolo_weights,
    norm_settings,
    rename_to_ours,
)

# Layers: 0 with norm, 1 a pool, 2 the first head (2 anchors), 3 its yolo, 4 a route, 5 the other head (1 anchor), 6 its yolo.
CFG = """[net]
width=8
height=8
channels=2
[convolutional]
filters=3
batch_normalize=1
[maxpool]
[convolutional]
filters=14
activation=linear
[yolo]
classes=2
mask=1,2
anchors=1,1, 2,2, 3,3
[route]
layers=1
[convolutional]
filters=7
activation=linear
[yolo]
classes=2
mask=0
anchors=1,1, 2,2, 3,3
"""
HEADS = {2: 2, 5: 1}  # layer: anchors


def net(num_classes=2):
    """A network with random weights, also in the statistics of its norm."""
    return randomized(Darknet(set_num_classes(CFG, num_classes)))


def spelt(state, family):
    """A Darknet's state in the words of a family: the mapping the other way round, written a second time."""
    names = {
        "ours": ("conv", "norm"),
        "weights": ("conv", "norm"),
        "2019": ("conv_{}", "batch_norm_{}"),
        "2020": ("Conv2d", "BatchNorm2d"),
    }[family]
    renamed = {}
    for key, value in state.items():
        _, number, part, rest = key.split(".")
        theirs = names[0 if part == "conv" else 1].format(number)
        renamed[f"{'darknet.' if family == 'ours' else ''}module_list.{number}.{theirs}.{rest}"] = value
    return renamed


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def containers(state):
    yield state
    yield {f"module.{key}": value for key, value in state.items()}  # of a model under DistributedDataParallel
    yield {"epoch": 7, "best_fitness": 0.5, "training_results": " 0/99 ...\n", "model": state, "optimizer": None}
    yield {"model": {f"module.{key}": value for key, value in state.items()}, "best_map": 0.5, "scaler": {"scale": 1.0}}


@pytest.mark.parametrize("family", LAYOUTS)
def test_every_layout_in_every_container_loads_whole(family):
    source = net().state_dict()
    source["module_list.0.norm.num_batches_tracked"].fill_(77)
    for container in containers(spelt(source, family)):
        assert identify(container) == family
        network = net()
        assert not equal(network.state_dict(), source)
        report = load_yolo_weights(network, container)
        assert equal(network.state_dict(), source)
        assert report.summary() == "10 tensors loaded" and not report.predictor_replaced
    assert detector_family(spelt(source, family)) == "a YOLOv3"
    assert equal(rename_to_ours(spelt(source, family)), source)


def test_a_norm_counter_is_not_needed_and_half_precision_is_taken():
    source = net().state_dict()
    del source["module_list.0.norm.num_batches_tracked"]
    network = net()
    load_yolo_weights(network, {key: value.half() for key, value in source.items()})
    found = network.state_dict()
    assert all(found[key].dtype == torch.float32 and torch.equal(found[key], v.half().float()) for key, v in source.items())


@pytest.mark.parametrize(("name", "family"), [("yolov3", "2019"), ("yolov3-spp", "2020"), ("yolov3-tiny", "2019")])
def test_published_nets_in_the_words_of_the_trainers(name, family):
    """The number in a key is that of the layer in the cfg: the heads of spp are 88, 100, 112."""
    network = without_memory(our_cfg(name))
    renamed = rename_to_ours(spelt(network.state_dict(), family))
    assert renamed.keys() == network.state_dict().keys()
    assert load_yolo_weights(network, spelt(network.state_dict(), family)).loaded == len(renamed)


def test_what_is_no_yolov3():
    assert identify({"module_list.0.weight": torch.zeros(1)}) is None
    assert identify({"module_list.3.conv_2.weight": torch.zeros(1)}) is None  # two numbers that contradict each other
    assert rename_to_ours({"fc.weight": torch.zeros(1)}).keys() == {"fc.weight"}
    with pytest.raises(InputError, match="this file holds an SSD without a key such as module_list.0.conv.weight"):
        load_yolo_weights(net(), {"classification_headers.0.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="holds no model weights"):
        load_yolo_weights(net(), {})


# classes
def channels(network, layer):
    """Weights and biases of a head, [A, 5 + C, 2 input or 1]."""
    conv = network.module_list[layer].conv
    return torch.cat([conv.weight.flatten(1), conv.bias[:, None]], dim=1).detach().unflatten(0, (HEADS[layer], -1))


@pytest.mark.parametrize("family", LAYOUTS)
def test_the_class_count_comes_from_the_heads(family):
    for count in (1, 2, 80):
        for container in containers(spelt(net(count).state_dict(), family)):
            assert count_classes(container, net(2)) == count
    state = net(3).state_dict()
    assert count_classes({key: value for key, value in state.items() if ".0." in key}, net(2)) is None  # a base
    assert count_classes({**state, "module_list.5.conv.weight": torch.zeros(9, 3, 1, 1)}, net(2)) is None  # 4 against 3
    assert count_classes({"module_list.2.conv.weight": torch.zeros(10, 3, 1, 1)}, net(2)) is None  # no class at all
    assert count_classes({"module_list.2.conv.weight": torch.zeros(17, 3, 1, 1)}, net(2)) is None  # odd, for 2 anchors


@pytest.mark.parametrize("family", LAYOUTS)
def test_classes_go_by_name(family):
    source, network = net(3), net(2)
    before = copy.deepcopy(network)
    report = load_yolo_weights(
        network, spelt(source.state_dict(), family), class_names=["dog", "Cat"], source_names=["cat", "bus", "dog"]
    )
    for layer in HEADS:
        found, theirs, fresh = (channels(n, layer) for n in (network, source, before))
        assert torch.equal(found[:, :5], theirs[:, :5])  # x, y, w, h, obj of every anchor
        assert torch.equal(found[:, 5], theirs[:, 7])  # dog
        assert torch.equal(found[:, 6], fresh[:, 6])  # Cat is another word than cat
    assert report.kept_classes == ["dog"] and report.new_classes == ["Cat"] and report.loaded == 6
    assert report.summary() == "6 tensors loaded; class channels of the heads replaced, classes kept: dog, new: Cat"
    for key in ("conv.weight", "norm.running_var", "norm.bias"):
        assert torch.equal(network.state_dict()[f"module_list.0.{key}"], source.state_dict()[f"module_list.0.{key}"])


def test_same_count_in_another_order():
    source, network = net(2), net(2)
    report = load_yolo_weights(network, source.state_dict(), class_names=["a", "b"], source_names=["b", "a"])
    for layer in HEADS:
        assert torch.equal(channels(network, layer), channels(source, layer)[:, [0, 1, 2, 3, 4, 6, 5]])
    assert report.kept_classes == ["a", "b"] and report.new_classes == []


@pytest.mark.parametrize(
    ("names", "source_names", "summary"),
    [
        (None, None, "class channels of the heads start fresh: classes of unknown names"),
        (["a"], None, "class channels of the heads replaced, classes kept: none, new: a"),
        (["a"], ["b", "c", "d"], "class channels of the heads replaced, classes kept: none, new: a"),
    ],
)
def test_classes_without_a_common_name_start_fresh(names, source_names, summary):
    source, network = net(3), net(1)
    before = copy.deepcopy(network)
    report = load_yolo_weights(network, source.state_dict(), class_names=names, source_names=source_names)
    for layer in HEADS:
        assert torch.equal(channels(network, layer)[:, :5], channels(source, layer)[:, :5])
        assert torch.equal(channels(network, layer)[:, 5:], channels(before, layer)[:, 5:])
    assert report.summary() == f"6 tensors loaded; {summary}"


def test_names_that_do_not_fit_the_counts():
    with pytest.raises(InputError, match="the model has 2 classes besides background, but 1 names"):
        load_yolo_weights(net(2), net(3).state_dict(), class_names=["a"])
    with pytest.raises(InputError, match="the file has 3 classes besides background, but 1 names"):
        load_yolo_weights(net(2), net(3).state_dict(), source_names=["a"])


# one class
NOTE = "class scores set to 1: the file's trainer does not train them for a single class"


@pytest.mark.parametrize("names", [(None, None), (["a"], ["a"]), (["a"], None)])
@pytest.mark.parametrize("family", ["2019", "2020"])
def test_a_single_class_that_was_not_trained_is_sure(family, names):
    """Of the channels a * 6 + {0..5} of a head, 5 and with two anchors 11 are of the class."""
    source, network = net(1), net(1)
    wanted = {key: value.clone() for key, value in source.state_dict().items()}
    for key, rows in (("module_list.2.conv", [5, 11]), ("module_list.5.conv", [5])):
        wanted[f"{key}.weight"][rows], wanted[f"{key}.bias"][rows] = 0.0, 10.0
    given = spelt(source.state_dict(), family)
    report = load_yolo_weights(network, given, class_names=names[0], source_names=names[1])
    assert equal(network.state_dict(), wanted) and equal(given, spelt(source.state_dict(), family))
    assert report.summary() == f"10 tensors loaded; {NOTE}" and not report.predictor_replaced
    with torch.inference_mode():
        for output, anchors in zip(network(torch.rand(2, 2, 8, 8)), HEADS.values()):
            assert (output.unflatten(1, (anchors, 6))[:, :, 5].sigmoid() > 0.9999).all()


@pytest.mark.parametrize("family", ["ours", "weights"])
def test_a_single_class_that_was_trained_is_loaded(family):
    source, network = net(1), net(1)
    report = load_yolo_weights(network, spelt(source.state_dict(), family))
    assert equal(network.state_dict(), source.state_dict()) and report.note == ""


@pytest.mark.parametrize(("count", "source_count", "names"), [(1, 1, (["a"], ["b"])), (1, 2, (None, None)), (2, 1, (None, None))])
def test_another_class_than_the_single_one_starts_fresh(count, source_count, names):
    source, network = net(source_count), net(count)
    before = copy.deepcopy(network)
    report = load_yolo_weights(network, spelt(source.state_dict(), "2019"), class_names=names[0], source_names=names[1])
    for layer in HEADS:
        assert torch.equal(channels(network, layer)[:, :5], channels(source, layer)[:, :5])
        assert torch.equal(channels(network, layer)[:, 5:], channels(before, layer)[:, 5:])
    assert report.note == "" and report.predictor_replaced


def test_a_single_class_of_a_cut_off_state():
    """The head that the file has is set, the other stays as it was; without a head there is nothing to say."""
    source, network = net(1), net(1)
    fresh = channels(network, 5)
    state = spelt(source.state_dict(), "2020")
    report = load_yolo_weights(network, {key: value for key, value in state.items() if ".5." not in key})
    assert channels(network, 2)[:, 5].tolist() == [[0, 0, 0, 10]] * 2 and torch.equal(channels(network, 5), fresh)
    assert report.note == NOTE
    assert load_yolo_weights(net(1), {key: value for key, value in state.items() if ".0." in key}).note == ""


# norms
@pytest.mark.parametrize("family", LAYOUTS)
def test_norm_settings_of_a_file(family):
    """The containers: bare, bare and distributed, the later trainers', the course repository's."""
    later = {"norm_eps": 1e-4, "norm_momentum": 0.03} if family == "2020" else {}
    assert [norm_settings(container) for container in containers(spelt(net().state_dict(), family))] == [later] * 3 + [{}]
    for entry in ("best_map", "scaler"):
        assert norm_settings({"model": spelt(net().state_dict(), family), entry: None}) == {}
    assert norm_settings({"fc.weight": torch.zeros(1)}) == {}


# cut-off states
def test_a_cut_off_state_fills_the_first_layers():
    source, network = net(3), net(2)
    before = copy.deepcopy(network.state_dict())
    data = write_weights(source.state_dict(), source, layers=1)
    report = load_yolo_weights(network, read_weights(data, network).state, class_names=["a", "b"])
    for key, value in network.state_dict().items():
        origin = source.state_dict() if key.startswith("module_list.0.") and "tracked" not in key else before
        assert torch.equal(value, origin[key]), key
    assert report.summary() == "5 tensors loaded (layers 0 to 0 only, the others stay as they were)"


def test_a_state_cut_off_between_the_heads_has_classes():
    source, network = net(3), net(2)
    state = {key: value for key, value in source.state_dict().items() if not key.startswith("module_list.5.")}
    fresh = channels(network, 5)
    report = load_yolo_weights(network, state)
    assert torch.equal(channels(network, 2)[:, :5], channels(source, 2)[:, :5]) and torch.equal(channels(network, 5), fresh)
    assert report.part == "layers 0 to 2 only, the others stay as they were" and report.predictor_replaced


def test_a_gap_is_not_a_cut():
    state = net(2).state_dict()
    lacking = {key: value for key, value in state.items() if ".2." in key}
    with pytest.raises(InputError, match="5 keys missing: module_list.0.conv.weight"):
        load_yolo_weights(net(2), lacking)


# misfits
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("module_list.0.conv.weight"), "1 keys missing: module_list.0.conv.weight"),
        (lambda s: s.pop("module_list.0.norm.bias"), "1 keys missing: module_list.0.norm.bias"),
        (lambda s: s.pop("module_list.2.conv.weight"), "1 keys missing: module_list.2.conv.weight"),
        (lambda s: s.pop("module_list.5.conv.bias"), "1 keys missing: module_list.5.conv.bias"),
        (lambda s: s.update({"module_list.6.conv.bias": torch.zeros(1)}), "1 keys unexpected: module_list.6.conv.bias"),
        # as many numbers, another shape
        (lambda s: s.update({"module_list.0.conv.weight": torch.zeros(2, 3, 1, 1)}), "another shape: module_list.0.conv.weight"),
        (lambda s: s.update({"module_list.2.conv.weight": torch.zeros(16, 9, 1, 1)}), "another shape: module_list.2.conv.weight"),
        # heads of other numbers of anchors or of classes that contradict each other
        (lambda s: s.update({"module_list.5.conv.weight": torch.zeros(9, 3, 1, 1)}), "another shape: .*list.5.conv.weight"),
        (lambda s: s.update({"module_list.2.conv.weight": torch.zeros(21, 3, 1, 1)}), "another shape: module_list.2.conv.weight"),
    ],
)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_every_misfit_is_named_and_nothing_changed(change, message, num_classes):
    state = net(num_classes).state_dict()
    change(state)
    network = net(2)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError, match=message):
        load_yolo_weights(network, state)
    assert equal(network.state_dict(), before)


def test_files_of_other_cfgs_are_refused():
    tiny, small = (without_memory(our_cfg(name)) for name in ("yolov3-tiny", "yolov3-small"))
    for network, state in ((tiny, small.state_dict()), (small, tiny.state_dict())):
        with pytest.raises(InputError, match="does not fit the cfg .*missing.*unexpected"):
            load_yolo_weights(network, state)
    with pytest.raises(InputError, match="does not fit the cfg .*missing"):
        load_yolo_weights(without_memory(our_cfg("yolov3-spp")), without_memory(our_cfg("yolov3")).state_dict())


def test_a_real_file_for_other_classes(shared_data):
    """The box logits of the published network stay, only the classes are new."""
    folder = shared_data / "yolo"
    name = "MobileNetV2-YOLOv3-Nano-coco"
    cfg, names = (folder / f"{name}.cfg").read_text(), (folder / "coco.names").read_text().splitlines()
    source, network = Darknet(cfg).eval(), Darknet(set_num_classes(cfg, 2)).eval()
    weights = read_weights((folder / f"{name}.weights").read_bytes(), source)
    load_yolo_weights(source, weights.state, class_names=names, source_names=names)
    report = load_yolo_weights(network, weights.state, class_names=["helmet", "person"], source_names=names)
    assert report.kept_classes == ["person"] and report.new_classes == ["helmet"]
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for found, wanted in zip(network(images), source(images)):
            found, wanted = found.unflatten(1, (3, 7)), wanted.unflatten(1, (3, 85))
            torch.testing.assert_close(found[:, :, [0, 1, 2, 3, 4, 6]], wanted[:, :, :6])
