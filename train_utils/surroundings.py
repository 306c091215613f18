"""What besides its settings decides the result of a run."""

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

_PACKAGES = ("torch", "torchvision", "numpy", "pycocotools", "Pillow")


def surroundings() -> dict:
    """What besides the settings decides a result: versions, hardware, git commit of this code, date, command."""
    cuda = torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}},
        "hardware": {
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
            "cuda": torch.version.cuda if cuda else None,
        },
        "git_commit": _git_commit(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
    }


def _git_commit() -> str | None:
    """The commit of this code, with "-dirty" if files were changed since; None outside a git repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine, or a repository too slow to ask
        return None
    return done.stdout.strip() or None
