"""The base networks that SSD can stand on: each a short function that returns the layers and where to tap them.

To add one, copy `small_base`, the shortest: stack layers, say behind which of them a source is taken and how many
channels it has there. Then give it a row in `ssd_nets.NETS`. `nn.Sequential` numbers the layers, and the numbers are
the keys of a checkpoint, so layers that others have published weights for stand in their published order.

Words:  tap = place where a source map leaves the base; expansion = first 1x1 convolution of an inverted residual
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from network_files.errors import InputError
from network_files.ssd import Tap


class Base(NamedTuple):
    """A base network with random weights, as the extras and heads need it."""

    layers: nn.Sequential  # run from first to last; the extras continue from the last
    taps: tuple[Tap, ...]  # where the sources come from, finest first
    channels: list[int]  # of each source
    out_channels: int  # of the last layer


def small_base() -> Base:
    """Nine 3x3 convolutions, taps at strides 8 and 16, half a million parameters: learns from scratch on a CPU in minutes."""
    widths, strides = (16, 32, 32, 64, 64, 64, 128, 128, 128), (2, 2, 1, 2, 1, 1, 2, 1, 1)
    layers, in_channels = nn.Sequential(), 3
    for width, stride in zip(widths, strides):
        layers.append(conv_bn_relu(in_channels, width, 3, stride))
        in_channels = width
    return Base(layers, (Tap(5), Tap(8)), [64, 128], out_channels=128)


def vgg16_base() -> Base:
    """VGG16 with its first two linear layers as convolutions, the fc6 dilated (SSD paper, section 3).

    Taps: conv4_3 with its ReLU (stride 8), fc7 (stride 16).
    """
    layers, in_channels = nn.Sequential(), 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers.extend((nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(inplace=True)))
            in_channels = width
        layers.append(nn.MaxPool2d(2, 2, ceil_mode=width == 256))  # pool3 rounds up: 75 -> 38
    init_convs(layers, partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"))
    layers[30] = nn.MaxPool2d(3, 1, padding=1)  # pool5 keeps the resolution; the dilation of fc6 makes up for it
    fc6, fc7 = nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.Conv2d(1024, 1024, 1)
    layers.extend(xavier(nn.Sequential(fc6, nn.ReLU(inplace=True), fc7, nn.ReLU(inplace=True))))
    return Base(layers, (Tap(22), Tap(34)), [512, 1024], out_channels=1024)


def mobilenet_v1_base() -> Base:
    """MobileNetV1; taps: the last map of stride 16, and the end (stride 32)."""
    layers, in_channels = nn.Sequential(nn.Sequential(*_conv_bn(3, 32, 3, stride=2), nn.ReLU(inplace=True))), 32
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    for number, width in enumerate(widths, start=1):
        stride = 2 if number in (2, 4, 6, 12) else 1
        depthwise = _conv_bn(in_channels, in_channels, 3, stride, groups=in_channels)
        pointwise = _conv_bn(in_channels, width, 1)
        layers.append(nn.Sequential(*depthwise, nn.ReLU(inplace=True), *pointwise, nn.ReLU(inplace=True)))
        in_channels = width
    return Base(xavier(layers), (Tap(11), Tap(13)), [512, 1024], out_channels=1024)


def mobilenet_v2_base(mb2_width_mult: float = 1.0) -> Base:
    """MobileNetV2; taps: the expansion of the last block of stride 2 (map of stride 16), and the end (stride 32).

    mb2_width_mult: factor on all widths, whole parts taken; the last layer has 1280 channels or more.
    Raises InputError for a factor that leaves a layer without channels.
    """
    if not mb2_width_mult >= 1 / 16:
        raise InputError(f"the width factor of mb2-ssd-lite must be at least {1 / 16}, not {mb2_width_mult}")
    in_channels = int(32 * mb2_width_mult)
    layers = nn.Sequential(nn.Sequential(*_conv_bn(3, in_channels, 3, stride=2), nn.ReLU6(inplace=True)))
    # expansion, width, number of blocks, stride of the first
    for expansion, width, depth, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ):
        for number in range(depth):
            out_channels = int(width * mb2_width_mult)
            block = InvertedResidual(in_channels, in_channels * expansion, out_channels, stride if number == 0 else 1)
            layers.append(block)
            in_channels = out_channels
    out_channels = max(1280, int(1280 * mb2_width_mult))
    layers.append(nn.Sequential(*_conv_bn(in_channels, out_channels, 1), nn.ReLU6(inplace=True)))
    expanded = layers[14].conv[0].out_channels
    return Base(xavier(layers), (Tap(14, ("conv", 3)), Tap(18)), [expanded, out_channels], out_channels)


def mobilenet_v3_large_base() -> Base:
    """MobileNetV3-Large as in pytorch-ssd (see SEBlock); taps: last map of stride 16 before it widens, and the end."""
    return _mobilenet_v3_base(
        # kernel, expansion, width, squeeze, hard swish, stride
        (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 1), (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1),
        tap=14,
    )


def mobilenet_v3_small_base() -> Base:
    """MobileNetV3-Small as in pytorch-ssd (see SEBlock); taps: last map of stride 16, and the end."""
    return _mobilenet_v3_base(
        (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
        tap=10,
    )


def _mobilenet_v3_base(*blocks: tuple, tap: int) -> Base:
    layers, in_channels = nn.Sequential(*_conv_bn(3, 16, 3, stride=2), nn.Hardswish(inplace=True)), 16
    for kernel, expansion, width, squeeze, hard_swish, stride in blocks:
        activation = nn.Hardswish if hard_swish else nn.ReLU
        layers.append(SEBlock(in_channels, expansion, width, stride, kernel, squeeze, activation))
        in_channels = width
    out_channels = 6 * in_channels
    layers.extend((*_conv_bn(in_channels, out_channels, 1), nn.Hardswish(inplace=True)))
    channels = [layers[tap].conv3.out_channels, out_channels]
    return Base(xavier(layers), (Tap(tap), Tap(len(layers) - 1)), channels, out_channels)


def squeezenet_base() -> Base:
    """SqueezeNet 1.1 without its classifier; tap: before the last Fire module (stride 16)."""
    layers = torchvision.models.squeezenet1_1().features
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = False  # as when the detector's weights were made: 17 x 17 cells at 300 pixels, not 18 x 18
    return Base(layers, (Tap(11),), [512], out_channels=512)


def resnet50_base() -> Base:
    """ResNet50 up to its third stage, which keeps stride 8 (NVIDIA's SSD300); tap: the end."""
    net = torchvision.models.resnet50()
    first = net.layer3[0]
    for conv in (first.conv1, first.conv2, first.downsample[0]):
        conv.stride = (1, 1)
    layers = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)
    return Base(layers, (Tap(6),), [1024], out_channels=1024)


def mobilenet_v3_large_tv_base(reduced_tail: bool = True) -> Base:
    """torchvision's MobileNetV3-Large; taps: the expansion of the last block of stride 2, and the end (stride 32).

    reduced_tail: half the channels after that expansion, as in the published detector; False has room for ImageNet
    weights.
    """
    layers = torchvision.models.mobilenet_v3_large(reduced_tail=reduced_tail, norm_layer=LITE_NORM).features
    channels = [layers[13].block[0].out_channels, layers[16].out_channels]
    return Base(normal(layers), (Tap(13, ("block", 1)), Tap(16)), channels, channels[-1])


# Parts of bases, extras and heads.
LITE_NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)  # torchvision's SSDlite


class L2Norm(nn.Module):
    """Scales the channel vector of each cell to unit length, then each channel by a learned factor (ParseNet).

    conv4_3 has much larger values than the other sources (SSD paper, section 3.1).
    """

    def __init__(self, channels: int, scale: float = 20.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, features: Tensor) -> Tensor:
        """[N, channels, H, W] -> the same shape."""
        return F.normalize(features, dim=1) * self.scale[:, None, None]


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expansion, depthwise 3x3, linear 1x1, with a shortcut where the shapes allow it.

    Without the first convolution where there is nothing to expand (expanded == in_channels).
    """

    def __init__(self, in_channels: int, expanded: int, out_channels: int, stride: int):
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == out_channels
        widen = [] if expanded == in_channels else [*_conv_bn(in_channels, expanded, 1), nn.ReLU6(inplace=True)]
        depthwise = [*_conv_bn(expanded, expanded, 3, stride, groups=expanded), nn.ReLU6(inplace=True)]
        self.conv = nn.Sequential(*widen, *depthwise, *_conv_bn(expanded, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class SqueezeExcitation(nn.Module):
    """Weighs each channel by a gate in 0..1 that sees the mean of all; with BatchNorm on those 1x1 maps."""

    def __init__(self, channels: int):
        super().__init__()
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            *_conv_bn(channels, channels // 4, 1), nn.ReLU(inplace=True),
            *_conv_bn(channels // 4, channels, 1), nn.Hardsigmoid(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.se(x)


class SEBlock(nn.Module):
    """MobileNetV3's block as pytorch-ssd has it, which is not quite the paper's.

    Squeeze and excitation come last, on the output, and blocks of stride 1 always have a shortcut, through a 1x1
    convolution where the widths differ. So torchvision's MobileNetV3 weights do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        stride: int,
        kernel: int = 3,
        squeeze: bool = False,
        activation: Callable[..., nn.Module] = nn.Hardswish,
    ):
        super().__init__()
        self.se = SqueezeExcitation(out_channels) if squeeze else nn.Identity()
        self.conv1, self.bn1 = _conv_bn(in_channels, expanded, 1)
        self.conv2, self.bn2 = _conv_bn(expanded, expanded, kernel, stride, groups=expanded)
        self.conv3, self.bn3 = _conv_bn(expanded, out_channels, 1)
        self.activation = activation(inplace=True)
        self.shortcut = None
        if stride == 1:
            same = in_channels == out_channels
            self.shortcut = nn.Identity() if same else nn.Sequential(*_conv_bn(in_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(self.conv1(x)))
        out = self.activation(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        return out if self.shortcut is None else out + self.shortcut(x)


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU; the map keeps its size, divided by the stride and rounded up."""
    layers = nn.Sequential(*_conv_bn(in_channels, out_channels, kernel, stride), nn.ReLU(inplace=True))
    return init_convs(layers, partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"))


def xavier(module: nn.Module) -> nn.Module:
    """The module itself, with Xavier weights and zero biases in all its convolutions."""
    return init_convs(module, nn.init.xavier_uniform_)


def normal(module: nn.Module) -> nn.Module:
    """The module itself, with weights N(0, 0.03) and zero biases in all its convolutions (torchvision's SSDlite)."""
    return init_convs(module, partial(nn.init.normal_, std=0.03))


def init_convs(module: nn.Module, init_weight: Callable[[Tensor], Tensor]) -> nn.Module:
    """The module itself, with each convolution's weight filled by `init_weight` and its bias zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            init_weight(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def _conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> Sequence[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out_channels)
