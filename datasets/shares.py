"""How a data set that nobody divided is shared between training and validation: always alike, whatever the order of its files."""

from collections.abc import Collection

import numpy as np

from datasets.annotations import FIX, Fault
from datasets.errors import InputError

SMALL_SHARE, SHARE_SEED = 0.2, 0
LARGE, SMALL = "80 %", "20 %"
SHARES = {"train": LARGE, "trainval": LARGE, "val": SMALL, "test": SMALL}


def share_out(names: Collection[str], split: str, file: str, holds: str, whole: str) -> tuple[list[str], Fault]:
    """The names that belong to a split of SHARES, sorted, and the fault that says so.

    Args:
        names: of all images, each once, in any order.
        file: where they stand; holds: that and a verb, for messages ("split file x.txt lists"); whole: what they are together.

    Raises:
        InputError: fewer than two names.
    """
    if len(names) < 2:
        raise InputError(f"{holds} {len(names)} image{'s' * (not names)}, too few for training and validation; add images")
    share, stems = SHARES[split], sorted(names)
    order = np.random.default_rng(SHARE_SEED).permutation(len(stems))
    num_small = max(1, round(SMALL_SHARE * len(stems)))
    chosen = order[:num_small] if share == SMALL else order[num_small:]
    part = [stems[i] for i in sorted(chosen)]
    kind = f"split {split} missing, {share} of {whole} taken"
    return part, Fault(file, "", kind, f"{len(part)} images; write {split}.txt to choose them", FIX)
