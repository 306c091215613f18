"""Running numbers of a loop over batches, shown as a progress bar on a terminal and as plain lines in a log."""

import datetime
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from tqdm import tqdm

from train_utils.distributed_utils import is_main_process, show

LOSS_FORMAT = "{median:.4f} ({global_avg:.4f})"
FORMATS = {"lr": "{value:.6f}"}


class SmoothedValue:
    """A series of numbers: its last ones and its mean over everything.

    Args:
        window: how many of the last values `median` sees.
        fmt: how `str()` shows it; may name value, median, global_avg.
    """

    def __init__(self, window: int = 20, fmt: str = LOSS_FORMAT):
        self.recent: deque[float] = deque(maxlen=window)
        self.total = 0.0
        self.count = 0
        self.fmt = fmt

    def update(self, value: float, n: int = 1) -> None:
        """Add a value that stands for `n` equal ones."""
        self.recent.append(value)
        self.total += value * n
        self.count += n

    @property
    def global_avg(self) -> float:
        """Mean of all values, 0 before the first."""
        return self.total / max(1, self.count)

    @property
    def median(self) -> float:
        """Median of the last values, 0 before the first."""
        return statistics.median(self.recent) if self.recent else 0.0

    @property
    def value(self) -> float:
        """The last value, 0 before the first."""
        return self.recent[-1] if self.recent else 0.0

    def state_dict(self) -> dict:
        """Everything, as plain data."""
        return {"total": self.total, "count": self.count, "recent": list(self.recent)}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict()`."""
        self.total, self.count = state["total"], state["count"]
        self.recent.extend(state["recent"])

    def __str__(self) -> str:
        return self.fmt.format(value=self.value, median=self.median, global_avg=self.global_avg)


class MetricLogger:
    """Named `SmoothedValue`s and the loop that shows them.

        for images, targets in logger.log_every(loader, 50, f"Epoch: [{epoch}]"):
            ...
            logger.update(lr=lr, loss=loss)

    Args:
        enabled: whether anything is shown, the loop runs anyway; default: on the first process of a group.
        bar: a progress bar instead of lines; default: if standard error is a terminal.

    Attributes:
        seconds: that the loop took so far, those before a restart included.
        on_show: called with (number of the batch, batches of the epoch) at every batch that has a line in a log.
    """

    def __init__(self, enabled: bool | None = None, bar: bool | None = None):
        self.meters: dict[str, SmoothedValue] = {}
        self.enabled = is_main_process() if enabled is None else enabled
        self.bar = sys.stderr.isatty() if bar is None else bar
        self.on_show: Callable[[int, int], None] | None = None
        self._seconds_before = 0.0
        self._began: float | None = None  # when the loop under way began

    @property
    def seconds(self) -> float:
        return self._seconds_before + (time.perf_counter() - self._began if self._began is not None else 0.0)

    def update(self, n: int = 1, **values: float) -> None:
        """Add Python floats by name, each standing for `n` iterations."""
        for name, value in values.items():
            if name not in self.meters:
                self.meters[name] = SmoothedValue(fmt=FORMATS.get(name, LOSS_FORMAT))
            self.meters[name].update(float(value), n)

    def means(self) -> dict[str, float]:
        """The mean of each over everything."""
        return {name: meter.global_avg for name, meter in self.meters.items()}

    def state_dict(self) -> dict:
        """The meters and the seconds, for a checkpoint in the middle of an epoch."""
        return {"meters": {name: meter.state_dict() for name, meter in self.meters.items()}, "seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict()`."""
        self._seconds_before = state["seconds"]
        for name, values in state["meters"].items():
            self.meters.setdefault(name, SmoothedValue(fmt=FORMATS.get(name, LOSS_FORMAT))).load_state_dict(values)

    def __str__(self) -> str:
        names = sorted(self.meters, key=lambda name: {"lr": 0, "loss": 1}.get(name, 2))  # the rest as it came
        return "  ".join(f"{name}: {self.meters[name]}" for name in names)

    def log_every(
        self, loader: Iterable, print_freq: int, header: str = "", start: int = 0, total: int | None = None
    ) -> Iterator[Any]:
        """Yield the batches of `loader`; show progress every `print_freq` batches and at the last one.

        Args:
            header: how a line begins, e.g. "Epoch: [3]".
            start: number of the first batch, where an epoch is continued.
            total: batches of the whole epoch; default: `start + len(loader)`.
        """
        total = start + len(loader) if total is None else total
        display = tqdm(total=total, initial=start, desc=header, disable=not (self.enabled and self.bar))
        self._began = end = time.perf_counter()
        step_time, data_time = SmoothedValue(fmt="{median:.4f}"), SmoothedValue(fmt="{median:.4f}")
        number = start - 1
        try:
            for number, batch in enumerate(loader, start):
                data_time.update(time.perf_counter() - end)
                yield batch
                step_time.update(time.perf_counter() - end)
                end = time.perf_counter()
                last = number == total - 1
                display.set_postfix_str(f"{self}{_memory()}", refresh=last)
                display.update()
                due = number % print_freq == 0 or last
                if due and self.on_show:
                    self.on_show(number, total)
                if due and self.enabled and not self.bar:
                    eta = datetime.timedelta(seconds=int(step_time.global_avg * (total - 1 - number)))
                    show(self.line(header, number, total, f"eta: {eta}", f"time: {step_time}  data: {data_time}"))
        finally:
            display.close()
            seconds = time.perf_counter() - self._began
            self._seconds_before, self._began = self.seconds, None
        self._sum_up(header, seconds, number + 1 - start)

    def line(self, header: str, number: int, total: int, eta: str, times: str) -> str:
        """What is printed after batch `number` of `total`."""
        counter = f"[{number:>{len(str(total))}}/{total}]"
        return "  ".join(part for part in [header, counter, eta, str(self), times] if part) + _memory()

    def _sum_up(self, header: str, seconds: float, batches: int) -> None:
        if not self.enabled:
            return
        if batches == 0:
            show(f"{header}  no batch to go through")
        elif not self.bar:
            whole = datetime.timedelta(seconds=int(seconds))
            show(f"{header}  total time: {whole} ({seconds / batches:.4f} s / it)")


def _memory() -> str:
    """The most memory that tensors took on the GPU so far, in MiB; nothing without a GPU in use."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return ""
    return f"  max mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}"
