"""Backbones: the layers that are tapped, their norms, ImageNet weights, freezing, and the frozen BatchNorm."""

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from network_files import backbones
from network_files.backbones import (
    BACKBONES,
    BackboneSpec,
    _stages,
    backbone_spec,
    build_backbone,
    imagenet_weights,
    load_imagenet,
    set_trainable_layers,
)
from network_files.fpn import BackboneWithFPN
from network_files.frozen_batch_norm import FrozenBatchNorm2d

IMAGES = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))

# name -> nodes of the classifier that feed the detector, [channels and stride of each]
TAPS = {
    "resnet18_fpn": (["layer1", "layer2", "layer3", "layer4"], [(64, 4), (128, 8), (256, 16), (512, 32)]),
    "resnet34_fpn": (["layer1", "layer2", "layer3", "layer4"], [(64, 4), (128, 8), (256, 16), (512, 32)]),
    "resnet50_fpn": (["layer1", "layer2", "layer3", "layer4"], [(256, 4), (512, 8), (1024, 16), (2048, 32)]),
    "resnet101_fpn": (["layer1", "layer2", "layer3", "layer4"], [(256, 4), (512, 8), (1024, 16), (2048, 32)]),
    "resnet50_fpn_v2": (["layer1", "layer2", "layer3", "layer4"], [(256, 4), (512, 8), (1024, 16), (2048, 32)]),
    "mobilenet_v3_large_fpn": (["features.13", "features.16"], [(160, 32), (960, 32)]),
    "mobilenet_v3_large_320_fpn": (["features.13", "features.16"], [(160, 32), (960, 32)]),
    "mobilenet_v3_large_fpn_3maps": (["features.6", "features.12", "features.16"], [(40, 8), (112, 16), (960, 32)]),
    "efficientnet_b0_fpn": (["features.3", "features.4", "features.8"], [(40, 8), (80, 16), (1280, 32)]),
    "mobilenet_v2": (["features.18"], [(1280, 32)]),
    "vgg16": (["features.29"], [(512, 16)]),
    "vgg16_bn": (["features.42"], [(512, 16)]),
    "resnet50_c4": (["layer3"], [(1024, 16)]),
    "efficientnet_b0": (["features.5"], [(112, 16)]),
}


def levels_of(output) -> list[Tensor]:
    return list(output.values()) if isinstance(output, dict) else [output]


def randomise_norms(module: nn.Module) -> None:
    """Gives every norm other weights and statistics than 1 and 0, so that a lost one shows."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            for tensor in (norm.weight.data, norm.running_var):
                tensor.copy_(0.8 + 0.4 * torch.rand(tensor.shape, generator=generator))
            for tensor in (norm.bias.data, norm.running_mean):
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))


def test_every_row_is_covered():
    assert set(TAPS) | {"small_cnn", "squeezenet1_1"} == set(BACKBONES)


@pytest.mark.parametrize(
    "name, norm", [(name, "frozen_bn") for name in TAPS] + [("resnet50_fpn_v2", "bn"), ("mobilenet_v2", "bn")]
)
def test_imagenet_weights_give_the_classifiers_features(name, norm):
    spec, (nodes, geometry) = backbone_spec(name), TAPS[name]
    classifier = torchvision.models.get_model(spec.classifier).eval()
    randomise_norms(classifier)
    for module in classifier.modules():  # eps is not in the file: the mobilenet_v3 detectors use another one
        if isinstance(module, nn.BatchNorm2d):
            module.eps = spec.norm_eps
    backbone = build_backbone(name, norm, fpn_channels=8)
    load_imagenet(backbone, name, {"model": {f"module.{k}": v for k, v in classifier.state_dict().items()}, "epoch": 3})
    backbone.eval()
    body = backbone.body if isinstance(backbone, BackboneWithFPN) else backbone
    with torch.no_grad():
        expected = list(create_feature_extractor(classifier, nodes)(IMAGES).values())
        found = levels_of(body(IMAGES))
    assert len(found) == len(expected)
    for level, reference, (channels, stride) in zip(found, expected, geometry):
        assert level.shape == (1, channels, 64 // stride, 96 // stride)
        assert torch.allclose(level, reference, rtol=1e-4, atol=1e-4 * reference.abs().max().item())


@pytest.mark.parametrize("name", BACKBONES)
def test_contract(name):
    spec, backbone = backbone_spec(name), build_backbone(name, fpn_channels=16).eval()
    output = backbone(torch.rand(2, 3, 64, 64))
    levels = output if isinstance(output, dict) else {"0": output}
    assert all(level.shape[:2] == (2, backbone.out_channels) for level in levels.values())
    assert len(spec.anchor_sizes) == len(levels) and set(spec.featmap_names) == set(levels) - {"pool"}
    assert len({len(sizes) for sizes in spec.anchor_sizes}) == 1  # the RPN head is shared by the levels
    assert not any(isinstance(module, nn.Linear) for module in backbone.modules())
    assert not any(key.split(".")[0] in ("fc", "classifier") for key in backbone.state_dict())
    keys = [key for key, _ in backbone.named_parameters() if not key.startswith("fpn.")]
    for key in keys:  # each parameter of the body is in exactly one stage
        assert sum(key.startswith(stage) for stage in spec.stages) == 1, key
    assert 0 < spec.trainable_stages <= len(spec.stages)
    state = copy.deepcopy(backbone).train().state_dict()  # for EMA
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", BACKBONES)
def test_trainable_layers_thaw_from_the_end(name):
    spec, backbone = backbone_spec(name), build_backbone(name, fpn_channels=8)
    counts = []
    for n in range(len(spec.stages) + 1):
        set_trainable_layers(backbone, name, n)
        thawed = [key for key, parameter in backbone.named_parameters() if parameter.requires_grad]
        body = [key for key, _ in backbone.named_parameters() if not key.startswith("fpn.")]
        frozen = [key for key in body if key not in thawed]
        assert frozen == body[: len(frozen)]  # a leading run
        assert all(key in thawed for key in backbone.state_dict() if key.startswith("fpn.") and "weight" in key)
        counts.append(len(thawed))
    assert counts == sorted(set(counts)) and counts[-1] == len(list(backbone.parameters()))
    for n in (-1, len(spec.stages) + 1):
        with pytest.raises(ValueError, match=f"0 to {len(spec.stages)} .* not {n}"):
            set_trainable_layers(backbone, name, n)


def test_norm_and_eps_are_arguments_with_a_default_per_row():
    def norms(backbone):
        kinds = (nn.BatchNorm2d, FrozenBatchNorm2d)
        return {(type(module), module.eps) for module in backbone.modules() if isinstance(module, kinds)}

    assert norms(build_backbone("mobilenet_v3_large_fpn", "frozen_bn")) == {(FrozenBatchNorm2d, 1e-5)}
    assert norms(build_backbone("mobilenet_v3_large_fpn_3maps")) == {(nn.BatchNorm2d, 1e-3)}
    assert norms(build_backbone("resnet18_fpn", "frozen_bn", norm_eps=0.0)) == {(FrozenBatchNorm2d, 0.0)}
    assert norms(build_backbone("resnet18_fpn", norm_eps=1e-3)) == {(nn.BatchNorm2d, 1e-3)}
    # the pyramid of v2 has norms of its own, which stay trainable
    v2 = build_backbone("resnet50_fpn_v2", "frozen_bn", norm_eps=0.0)
    assert norms(v2.body) == {(FrozenBatchNorm2d, 0.0)} and norms(v2.fpn) == {(nn.BatchNorm2d, 1e-5)}
    assert norms(build_backbone("small_cnn", "frozen_bn")) == set()
    with pytest.raises(ValueError, match="unknown norm 'gn'"):
        build_backbone("resnet18_fpn", "gn")


def test_small_cnn_is_small_and_has_stride_8():
    backbone = build_backbone("small_cnn")
    assert sum(parameter.numel() for parameter in backbone.parameters()) < 500_000
    assert backbone(torch.rand(1, 3, 64, 96)).shape == (1, 128, 8, 12)


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean resnet50_fpn"):
        backbone_spec("resnet50fpn")


def test_imagenet_weights_by_name():
    v2 = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    assert imagenet_weights("resnet50_fpn", "DEFAULT") is v2
    assert imagenet_weights("resnet50_c4", "ResNet50_Weights.IMAGENET1K_V2") is v2
    assert imagenet_weights("vgg16", "IMAGENET1K_V1") is torchvision.models.VGG16_Weights.IMAGENET1K_V1
    wrong = [("vgg16", "IMAGENET1K_FEATURES"), ("resnet18_fpn", "ResNet50_Weights.DEFAULT"), ("vgg16", "")]
    for name, weights_name in wrong:
        with pytest.raises(ValueError, match="choose from .*IMAGENET1K_V1"):
            imagenet_weights(name, weights_name)
    with pytest.raises(ValueError, match="from scratch"):
        imagenet_weights("small_cnn", "DEFAULT")


def test_load_imagenet_refuses_the_wrong_file():
    backbone = build_backbone("resnet18_fpn", fpn_channels=8)
    before = copy.deepcopy(backbone.state_dict())
    state = torchvision.models.resnet18().state_dict()
    short = {key: value for key, value in state.items() if key != "layer3.0.conv1.weight"}
    with pytest.raises(ValueError, match=r"not the weights of a resnet18 .*missing: body.layer3.0.conv1.weight\)"):
        load_imagenet(backbone, "resnet18_fpn", short)
    reshaped = {**state, "conv1.weight": state["conv1.weight"].reshape(-1)}  # same number of elements
    with pytest.raises(ValueError, match="of another shape: body.conv1.weight"):
        load_imagenet(backbone, "resnet18_fpn", reshaped)
    with pytest.raises(ValueError, match="unexpected: body.layer1.2"):  # has all that resnet18 needs, and more
        load_imagenet(backbone, "resnet18_fpn", torchvision.models.resnet34().state_dict())
    with pytest.raises(ValueError, match="missing"):
        load_imagenet(backbone, "resnet18_fpn", {})
    with pytest.raises(ValueError, match="from scratch"):
        load_imagenet(build_backbone("small_cnn"), "small_cnn", state)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_load_imagenet_does_without_counters_and_head():
    state = torchvision.models.resnet18().state_dict()
    lean = {key: value for key, value in state.items() if "num_batches" not in key and not key.startswith("fc.")}
    backbone = build_backbone("resnet18_fpn", fpn_channels=8)
    load_imagenet(backbone, "resnet18_fpn", lean)
    assert torch.equal(backbone.state_dict()["body.layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


def test_squeezenet_from_a_file(shared_data):
    path = shared_data / "weights/squeezenet/squeezenet1_1_imagenet_from_ncnn_fp16.pth"
    state = torch.load(path, weights_only=True)
    classifier = torchvision.models.squeezenet1_1().eval()
    classifier.load_state_dict(state)
    backbone = build_backbone("squeezenet1_1").eval()
    load_imagenet(backbone, "squeezenet1_1", state)
    with torch.no_grad():
        assert torch.equal(backbone(IMAGES), classifier.features(IMAGES))
    assert backbone(torch.rand(1, 3, 224, 224)).shape == (1, 512, 13, 13)


def test_a_new_row_is_ten_lines(monkeypatch):
    def regnet_fpn(fpn_channels):
        net = torchvision.models.regnet_y_400mf()
        nodes = {"trunk_output.block2": "0", "trunk_output.block3": "1", "trunk_output.block4": "2"}
        return BackboneWithFPN(create_feature_extractor(net, nodes), None, [104, 208, 440], fpn_channels)

    spec = BackboneSpec(
        regnet_fpn, "regnet_y_400mf", ("", "body."),
        stages=_stages("body.", "stem", *(f"trunk_output.block{i}" for i in (1, 2, 3, 4))),
        anchor_sizes=((64,), (128,), (256,), (512,)), featmap_names=("0", "1", "2"),
    )
    monkeypatch.setitem(backbones.BACKBONES, "regnet_fpn", spec)
    backbone = build_backbone("regnet_fpn", "frozen_bn", fpn_channels=16)
    load_imagenet(backbone, "regnet_fpn", torchvision.models.regnet_y_400mf().state_dict())
    set_trainable_layers(backbone, "regnet_fpn", 3)
    levels = copy.deepcopy(backbone).train()(torch.rand(2, 3, 64, 64))
    assert [level.shape[-1] for level in levels.values()] == [8, 4, 2, 1]
