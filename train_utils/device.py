"""Where and how precisely to compute, and how repeatably."""

import os
import random

import numpy as np
import torch

from train_utils.errors import InputError


def choose_device(name: str | None) -> torch.device:
    """The named device, or the best there is for None.

    Raises:
        InputError: no such device on this machine.
    """
    if not name:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name} is not a device: use cuda, cuda:1, mps or cpu") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False) or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"--device {name}: this machine has no such device; use --device cpu, or leave the flag out")
    return device


def choose_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The type to autocast to: None for "off"; "auto" takes bf16 where the hardware has it, else fp16.

    Raises:
        InputError: fp16 without CUDA.
    """
    if name == "off":
        return None
    if name == "auto":
        name = "fp16" if device.type == "cuda" and not torch.cuda.is_bf16_supported() else "bf16"
    if name == "fp16" and device.type != "cuda":
        raise InputError(f"--amp fp16 needs a CUDA device, this is {device.type}: use --amp bf16")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[name]


def make_repeatable(seed: int, deterministic: bool) -> None:
    """Seed every global generator (weight initialisation draws from them); on request refuse non-deterministic kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
