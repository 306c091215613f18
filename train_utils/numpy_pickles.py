"""NumPy's numbers and arrays in checkpoints, e.g. the best score in files of the 2019 YOLO trainer, read without NumPy's own
functions: those trust the types in the file, and could be led to take numbers of it for addresses in memory."""

import pickle
from typing import Any

import numpy as np


class NumberType:
    """Takes the place of numpy.dtype: a type of plain numbers, whatever else the file says of it."""

    def __init__(self, code: str, *_: Any):
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biuf" or self.dtype.itemsize > 8:
            raise pickle.UnpicklingError(f"Unsupported class numpy.dtype[{self.dtype}]")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class Numbers(np.ndarray):
    """Takes the place of numpy.ndarray: an array of plain numbers, of which NumPy checks that the data has them all."""

    def __new__(cls) -> "Numbers":
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: tuple) -> None:
        version, shape, kind, by_columns, data = state
        super().__setstate__((version, shape, kind.dtype, by_columns, data))


def _number(kind: NumberType, data: bytes) -> bool | int | float:
    return np.frombuffer(data, kind.dtype, count=1)[0].item()


def _array(*_: Any) -> Numbers:
    return Numbers()


def _no_array(*_: Any) -> None:
    raise pickle.UnpicklingError("Unsupported class numpy.ndarray")


# (what is called, the name in the file) for `torch.serialization.safe_globals`; modules as in NumPy 1 and 2
NUMPY_GLOBALS = [
    (NumberType, "numpy.dtype"),
    (_no_array, "numpy.ndarray"),
    *((function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")
      for function, name in ((_array, "_reconstruct"), (_number, "scalar"))),
    NumberType,
    Numbers,
]
