"""What every weights module needs: taking tensors out of a file, telling detectors apart, comparing keys and shapes.

Words: container = the dict a training script saves: a state_dict itself, or one under "model" beside other entries
       family = the kind of network a state_dict belongs to
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from network_files.errors import InputError

COUNTER = "num_batches_tracked"  # of BatchNorm2d: absent from frozen norms and from old files, and never needed

# Telling files apart: the first entry of which a key has the substring names the family.
FAMILIES = (
    ("roi_heads.mask_", "a Mask R-CNN"),
    ("roi_heads.keypoint_", "a Keypoint R-CNN"),
    ("roi_heads.box_head.5.", "a Faster R-CNN v2"),
    ("roi_heads.box_", "a Faster R-CNN"),
    ("head.classification_head.module_list.", "an SSD"),
    ("module_list.", "a YOLOv3"),
    ("classification_headers.", "an SSD"),
    ("conf.0.", "an SSD"),
    ("head.classification_head.bbox_ctrness", "an FCOS"),
    ("head.classification_head.conv.", "a RetinaNet"),
    ("fc.weight", "an image classifier"),
    ("classifier.", "an image classifier"),
)


def unwrap(container: Mapping) -> dict[str, Tensor]:
    """The tensors of a checkpoint, found under "model" or in the dict itself, with `module.` removed from their keys.

    Optimiser, epoch and other entries are ignored. Raises InputError if no tensor is found.
    """
    state = container["model"] if isinstance(container.get("model"), Mapping) else container
    tensors = {
        key.removeprefix("module."): value
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise InputError(f"this file holds no model weights (its entries are: {', '.join(map(str, state)) or 'none'})")
    return tensors


def detector_family(state: Mapping[str, Tensor]) -> str:
    """The kind of network a state_dict belongs to, with its article, e.g. "an SSD", or "an unknown network"."""
    for substring, family in FAMILIES:
        if any(substring in key for key in state):
            return family
    return "an unknown network"


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The shape of every tensor but the BatchNorm counters."""
    return {key: value.shape for key, value in state.items() if not key.endswith(COUNTER)}


@dataclass
class LoadReport:
    """What a loading function did: tensors loaded whole, keys skipped by reason, classes kept and new.

    predictor: the layers that give way when the classes differ, in words. part: which part of the network the file has,
    in words, if not all of it. note: what else was done to the weights, in words.
    """

    loaded: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    predictor_replaced: bool = False
    kept_classes: list[str] = field(default_factory=list)
    new_classes: list[str] = field(default_factory=list)
    predictor: str = "box predictor"
    part: str = ""
    note: str = ""

    def compare(self, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], needed: Iterable[str]) -> None:
        """Fills in the skipped keys: `state` should hold each of the `needed` keys of `wanted`, and none it lacks."""
        needed = [key for key in needed if not key.endswith(COUNTER)]
        self.missing = [key for key in needed if key not in state]
        self.unexpected = [key for key in state if key not in wanted and not key.endswith(COUNTER)]
        self.misshapen = [key for key in needed if key in state and state[key].shape != wanted[key].shape]

    def faults(self) -> dict[str, list[str]]:
        """The skipped keys by reason."""
        return {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.misshapen}

    def fault_sentence(self, start: str) -> str:
        """`start` with at most five skipped keys of each kind in brackets after it."""
        lists = []
        for what, keys in self.faults().items():
            if keys:
                lists.append(f"{len(keys)} keys {what}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}")
        return f"{start} ({'; '.join(lists)})"

    def keep_classes(self, names: list[str] | None, source_names: list[str] | None) -> dict[int, int]:
        """{row here: row in the file} of the classes named in both lists and, if there are such, of the background.

        names, source_names: as `checked_names` returns them. Notes that the predictor was replaced.
        """
        rows = {}
        if names is not None and source_names is not None:
            shared = [name for name in names if name in source_names and name != "N/A"]
            rows = {names.index(name) + 1: source_names.index(name) + 1 for name in shared}
        if rows:
            rows[0] = 0  # background
        self.predictor_replaced = True
        self.kept_classes = [name for i, name in enumerate(names or [], start=1) if i in rows]
        self.new_classes = [name for i, name in enumerate(names or [], start=1) if i not in rows]
        return rows

    def summary(self) -> str:
        """One line for a log."""
        parts = [f"{self.loaded} tensors loaded{f' ({self.part})' if self.part else ''}"]
        if self.predictor_replaced and not (self.kept_classes or self.new_classes):
            parts.append(f"{self.predictor} start fresh: classes of unknown names")
        elif self.predictor_replaced:
            kept, new = (", ".join(names) or "none" for names in (self.kept_classes, self.new_classes))
            parts.append(f"{self.predictor} replaced, classes kept: {kept}, new: {new}")
        parts += [self.note] if self.note else []
        parts += [f"{what} and skipped: {', '.join(keys)}" for what, keys in self.faults().items() if keys]
        return "; ".join(parts)


def checked_names(names: Iterable[str] | None, num_classes: int, whose: str) -> list[str] | None:
    """The foreground names without blanks around them, None for None.

    num_classes: background included. whose: "the model" or "the file", for the InputError if the count does not fit.
    """
    if names is None:
        return None
    names = [name.strip() for name in names]
    if len(names) != num_classes - 1:
        raise InputError(f"{whose} has {num_classes - 1} classes besides background, but {len(names)} names are given")
    return names
