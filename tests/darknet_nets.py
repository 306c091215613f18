"""Cfgs and networks that several tests of the Darknet modules use."""

import math

import torch
from conftest import ROOT

from network_files.darknet import Darknet

NET = "[net]\nwidth=8\nheight=8\nchannels=6\n"
YOLO = "[yolo]\nclasses=1\nmask=0\nanchors=2,3\n"  # 5 + 1 class: its map needs 6 channels
OURS = ["yolov3", "yolov3-spp", "yolov3-tiny", "yolov3-small"]


def our_cfg(name):
    return (ROOT / "cfg" / f"{name}.cfg").read_text()


def without_memory(cfg):
    """The network of a cfg with shapes only."""
    with torch.device("meta"):
        return Darknet(cfg)


def randomized(network):
    """All tensors random, variances between 0.5 and 1.5, scaled so that the maps neither vanish nor grow."""
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            fan_in = value[0].numel() if value.dim() == 4 else 100
            value.copy_(torch.rand_like(value) + 0.5 if "running_var" in key else torch.randn_like(value) / math.sqrt(fan_in))
        if key.endswith("norm.weight"):
            value.add_(1)
    return network.eval()
