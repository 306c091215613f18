"""Feature pyramid network (Lin et al. 2017, arXiv:1612.03144) and the parts that join it to a backbone.

Shapes: N images, H, W height and width of one level
Words:  level = one feature map, named "0", "1", ... from fine to coarse; body = the network below the pyramid
"""

from collections.abc import Callable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from network_files.errors import InputError


class LayerTaps(nn.Module):
    """Runs the direct children of a network in order and returns the outputs of some of them.

    network: its children must form a chain (true of torchvision's ResNets up to `layer4`, and of any `nn.Sequential`).
    return_layers: child name -> name of the level, e.g. {"layer1": "0", "layer4": "1"}. Children after the last one
    named are left out. The children keep their names, and so do the state-dict keys. Raises InputError for a name that
    the network does not have.
    """

    def __init__(self, network: nn.Module, return_layers: Mapping[str, str]):
        super().__init__()
        children = dict(network.named_children())
        unknown = sorted(set(return_layers) - set(children))
        if unknown:
            raise InputError(f"return_layers names {unknown}, but the network's children are {list(children)}")
        self.return_layers = dict(return_layers)
        waiting = set(return_layers)
        for name, layer in children.items():
            self.add_module(name, layer)
            waiting.discard(name)
            if not waiting:
                break

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images [N, 3, H, W] -> {level name: features}, in the order of the layers."""
        levels = {}
        for name, layer in self._modules.items():
            x = layer(x)
            if name in self.return_layers:
                levels[self.return_layers[name]] = x
        return levels


class LastLevelMaxPool(nn.Module):
    """Adds the level "pool": every second row and column of the coarsest level (section 3, footnote on P6)."""

    def forward(
        self, results: list[Tensor], inputs: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        """results: levels of the pyramid; inputs: what went into it (unused); names: of the levels, fine to coarse."""
        pooled = F.max_pool2d(results[-1], kernel_size=1, stride=2)
        return [*results, pooled], [*names, "pool"]


class FeaturePyramidNetwork(nn.Module):
    """Gives every level `out_channels` channels and mixes the coarse levels into the finer ones (figure 3).

    in_channels_list: channels of the levels from fine to coarse. extra_blocks: adds levels on top, called as
    `extra_blocks(results, inputs, names) -> (results, names)`. norm_layer: channels -> a normalisation after each
    convolution, which then has no bias.
    """

    def __init__(
        self,
        in_channels_list: Sequence[int],
        out_channels: int,
        extra_blocks: nn.Module | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        self.inner_blocks = nn.ModuleList(
            _conv_block(channels, out_channels, 1, norm_layer) for channels in in_channels_list
        )
        self.layer_blocks = nn.ModuleList(
            _conv_block(out_channels, out_channels, 3, norm_layer) for _ in in_channels_list
        )
        self.extra_blocks = extra_blocks

    def forward(self, levels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{name: [N, C_i, H_i, W_i]} fine to coarse -> {name: [N, out_channels, H_i, W_i]}, then the extra levels."""
        names, inputs = list(levels), list(levels.values())
        assert len(inputs) == len(self.inner_blocks), f"{len(inputs)} levels, {len(self.inner_blocks)} expected"
        top_down = self.inner_blocks[-1](inputs[-1])
        results = [self.layer_blocks[-1](top_down)]
        for i in range(len(inputs) - 2, -1, -1):
            lateral = self.inner_blocks[i](inputs[i])
            top_down = lateral + F.interpolate(top_down, size=lateral.shape[-2:], mode="nearest")
            results.insert(0, self.layer_blocks[i](top_down))
        if self.extra_blocks is not None:
            results, names = self.extra_blocks(results, inputs, names)
        return dict(zip(names, results))


def _conv_block(in_channels: int, out_channels: int, kernel_size: int, norm_layer) -> nn.Sequential:
    """Convolution and, if asked for, its normalisation, in a Sequential: the keys are `{i}.0.*` and `{i}.1.*`."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=norm_layer is None)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is None:
        return nn.Sequential(conv, norm_layer(out_channels))
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv)


class BackboneWithFPN(nn.Module):
    """A network, a pyramid on some of its feature maps, and the `out_channels` that detectors ask for.

    backbone: with `return_layers`, a network whose direct children are tapped (see LayerTaps); without, a module that
    already returns {level name: features}, such as torchvision's `create_feature_extractor` makes. `re_getter=False`
    says the latter as well, for scripts that pass `return_layers` all the same.
    in_channels_list: channels of those maps, fine to coarse. extra_blocks: LastLevelMaxPool unless given.
    norm_layer: see FeaturePyramidNetwork. State-dict keys: `body.*` and `fpn.*`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        return_layers: Mapping[str, str] | None = None,
        in_channels_list: Sequence[int] = (),
        out_channels: int = 256,
        extra_blocks: nn.Module | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
        re_getter: bool = True,
    ):
        super().__init__()
        if not in_channels_list:
            raise InputError("in_channels_list is empty: give the channels of each tapped layer, fine to coarse")
        self.body = LayerTaps(backbone, return_layers) if return_layers is not None and re_getter else backbone
        self.fpn = FeaturePyramidNetwork(in_channels_list, out_channels, extra_blocks or LastLevelMaxPool(), norm_layer)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images [N, 3, H, W] -> {level name: [N, out_channels, H_i, W_i]}, fine to coarse."""
        return self.fpn(self.body(x))
