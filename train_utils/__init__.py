"""What nobody edits when copying a script: processes, batching, the epoch loop, evaluation, run folder, checkpoints."""

import importlib

_HOME = {
    "GroupedBatchSampler": "group_by_aspect_ratio",
    "create_aspect_ratio_groups": "group_by_aspect_ratio",
    "init_distributed_mode": "distributed_utils",
    "mkdir": "distributed_utils",
    "save_on_master": "distributed_utils",
    "InputError": "errors",
    "evaluate": "train_eval_utils",
    "train_one_epoch": "train_eval_utils",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Import a public name from its module at first use, so that importing one module does not load all."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
