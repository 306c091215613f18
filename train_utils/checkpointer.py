"""When a run is saved, and how it leaves early without losing anything.

    with Checkpointer(run, state_of, every_steps=500) as keeper:
        for epoch in range(position.epoch, epochs):
            first_batch = keeper.begin_epoch(epoch, len(loader), logger)
            ...                                                   # training calls keeper.after_step(batches_done)
            keeper.save()                                         # an evaluation may take long
            ...                                                   # evaluation asks keeper.stop
            keeper.end_epoch(is_best)

Whatever is saved between two optimiser steps is enough to go on exactly: all random choices follow from (seed, epoch, step).
"""

import time
from collections.abc import Callable
from types import TracebackType

from train_utils.distributed_utils import barrier, say
from train_utils.errors import InputError
from train_utils.metric_logger import MetricLogger
from train_utils.nonfinite import not_finite_names
from train_utils.resume import Position
from train_utils.run_folder import RunFolder
from train_utils.signals import Interrupted, StopSignal


class Checkpointer:
    """Saves a run at the end of an epoch, every so many steps and minutes, and when a signal asks it to leave.

    As a context manager it listens to SIGTERM, SIGINT and SIGUSR1: the step under way is finished, or the evaluation broken off,
    the run is saved, and all processes leave with `Interrupted`.

    Args:
        run: the folder that takes the files.
        state_of: gives the training's state, see `training_state`; called on the process that writes.
        position: where the run goes on.
        every_steps: save after so many optimiser steps since it was saved last; 0: never within an epoch.
        every_minutes: the same in minutes; 0: never.

    Attributes:
        stop: the signal to be watched, also in evaluation.
    """

    def __init__(
        self,
        run: RunFolder,
        state_of: Callable[[], dict],
        position: Position,
        every_steps: int = 0,
        every_minutes: float = 0.0,
    ):
        self.run, self.state_of, self.position = run, state_of, position
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self.stop = StopSignal()
        self.logger: MetricLogger | None = None
        self.num_batches = 0
        self.steps_since_save, self.last_save = 0, time.monotonic()
        self.saved = True  # whether the newest file holds the present state
        self._failed: tuple[dict, bool] | None = None  # what should have been written of the present state, and was not

    def __enter__(self) -> "Checkpointer":
        self.stop.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Interrupted):
            if not self.saved:
                self.save()
            goes_on = "goes on from there" if self.saved else "goes on from the checkpoint before, for this could not be saved"
            say(f"{self.stop.received or 'a signal to another process'}: left in epoch {self.position.epoch} after "
                f"{self.position.batches_done} of {self.num_batches} batches; --resume auto {goes_on}")
            barrier()  # a process that ends earlier makes the launcher end the others, perhaps while rank 0 still writes
        self.stop.__exit__(kind, error, trace)
        if kind is None and self._failed:
            self._save_at_last()

    def _save_at_last(self) -> None:
        """There is no later epoch that could try again."""
        self._write(*self._failed)
        if self._failed:
            raise InputError(f"the end of the training is not saved in {self.run.path}, for the reason above; --resume auto does "
                             "again what the last checkpoint lacks")

    def begin_epoch(self, epoch: int, num_batches: int, logger: MetricLogger) -> int:
        """The number of batches of this epoch that were done before a restart; `logger` goes on from there, too."""
        if epoch != self.position.epoch:
            self.position = Position(epoch)
        if self.position.meters:
            logger.load_state_dict(self.position.meters)
        self.logger, self.num_batches = logger, num_batches
        return self.position.batches_done

    def after_step(self, batches_done: int) -> None:
        """Call after every optimiser step, on all processes.

        Raises:
            Interrupted: one of them got a signal to leave.
        """
        self.position = Position(self.position.epoch, batches_done)
        self.steps_since_save += 1
        self.saved, self._failed = False, None
        minutes = (time.monotonic() - self.last_save) / 60
        if 0 < self.every_steps <= self.steps_since_save or 0 < self.every_minutes <= minutes:
            self.save()
        if self.stop.agreed():
            raise Interrupted

    def save(self) -> None:
        """Save the run as it stands within the epoch, to last.pth."""
        within = {"step_in_epoch": self.position.batches_done, "batches_in_epoch": self.num_batches,
                  "meters": self.logger.state_dict() if self.logger else None}
        self._write(within)

    def end_epoch(self, is_best: bool = False) -> None:
        """Save the run after an epoch with all that belongs to it, also to the files that are due then."""
        self._write({"step_in_epoch": None}, is_best)

    def _write(self, place: dict, is_best: bool = False) -> None:
        self.saved, epoch = True, self.position.epoch
        if self.run.enabled:
            state = self.state_of()
            if bad := not_finite_names(state["model"]):
                self.saved = False
                say(f"warning: the weights are not finite in epoch {epoch} ({len(bad)} tensors, first {bad[0]}): not saved, the "
                    "checkpoint before stays; go on from it with a lower --lr")
            else:
                state |= {"epoch": epoch, **place}
                self.saved = self.run.save(state, epoch, is_best, finished=place["step_in_epoch"] is None)
        self._failed = None if self.saved else (place, is_best)
        self.steps_since_save, self.last_save = 0, time.monotonic()
