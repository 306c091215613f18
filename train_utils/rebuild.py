"""From a checkpoint back to its model: the script that trained it is asked, so a copied and edited script serves its own."""

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from train_utils.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
SCRIPT_NAME = re.compile(r"train_[a-z0-9_]+")  # a name from a file of unknown origin must not reach elsewhere


def script_hash(path: str | Path) -> str:
    """SHA-256 of a script's text, stored in its checkpoints."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def find_script(name: str, given: str | Path | None = None) -> Path:
    """The file of the script `name` in the repository root, or the one given instead.

    Raises:
        InputError: the name is none of a training script, or there is no such file.
    """
    if given is None and not SCRIPT_NAME.fullmatch(name):
        raise InputError(f"the checkpoint names {name!r} as its script, which is no training script: give it with --script")
    path = Path(given) if given is not None else ROOT / f"{name}.py"
    if not path.is_file():
        raise InputError(f"{path}: no such script, but the checkpoint was trained by it; give its place with --script")
    return path


def import_script(path: Path) -> ModuleType:
    """The module of a training script. Nothing runs at import but its definitions."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def rebuild_model(checkpoint: dict, script: str | Path | None = None) -> tuple[nn.Module, list[str], list[str]]:
    """The model of a checkpoint with its weights (the averaged ones if there are such), in evaluation mode.

    Args:
        checkpoint: as loaded by `load_checkpoint`.
        script: path of the training script, if it is not in the repository root.

    Returns:
        (model, class names without background, warnings to show).

    Raises:
        InputError: not a checkpoint of ours, or its script cannot be found.
    """
    missing = [name for name in ("model", "model_args", "class_names", "script") if name not in checkpoint]
    if missing:
        raise InputError(f"this file does not say which model it belongs to (no {', '.join(missing)}): it was not written "
                         "by a script of this repository; load it there with --weights and train or test")
    path = find_script(checkpoint["script"], script)
    warnings = []
    if checkpoint.get("script_hash") not in (None, script_hash(path)):
        warnings.append(f"{path.name} has changed since it wrote this checkpoint")
    model = import_script(path).create_model(checkpoint["model_args"], checkpoint["class_names"])
    averaged = (checkpoint.get("ema") or {}).get("model")
    model.load_state_dict(averaged or checkpoint["model"])
    return model.eval(), list(checkpoint["class_names"]), warnings
