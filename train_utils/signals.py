"""Requests to leave early, such as a scheduler's SIGTERM or Ctrl-C: finish the step, save, and say "try again".

    with StopSignal() as stop:
        for batch in loader:
            ...                      # a step
            if stop.agreed():        # all processes together
                save(...)
                raise Interrupted    # exit code 75

Inside, a signal is only noted. The workers of a `loaders.Loader` leave it to their parent, which still wants their batches.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from train_utils.distributed_utils import agree, is_main_process, largest

REQUEUE_CODE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, start the same command again
SAME_REQUEST = 1.0  # seconds; torchrun, SLURM and `timeout` pass on a signal that the process got already
PARENT_CHECK = 1.0  # seconds between the looks of a loader process at whether its parent is there
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))

_END = 0  # no signal has this number


class Interrupted(SystemExit):
    """The run leaves early because it was asked to; all that is needed to go on is saved."""

    def __init__(self, code: int = REQUEUE_CODE):
        super().__init__(code)


class StopSignal:
    """Inside `with`, SIGTERM, SIGINT and SIGUSR1 are noted instead of ending the process.

    A further one that arrives more than a second after the first ends the process at once, with exit code 128 + its number,
    even while the main thread waits in a collective for a process that is gone. The handlers of before come back at the end.
    Only the main thread can install handlers: in another one nothing is noted.

    Attributes:
        received: name of the first signal, None before.
    """

    def __init__(self):
        self.received: str | None = None
        self._handlers_before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is not threading.main_thread():
            return self
        # Python's handlers wait for the call that the main thread is in, a long backward pass maybe, so they cannot tell when
        # a signal came. The wake-up descriptor gets the number of each at that moment.
        self._inbox, self._outbox = socket.socketpair()
        self._outbox.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._outbox.fileno(), warn_on_full_buffer=False)
        self._handlers_before = {number: signal.signal(number, self._note) for number in SIGNALS}
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._handlers_before:
            return
        for number, handler in self._handlers_before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not installed by Python
        signal.set_wakeup_fd(self._wakeup_before)
        self._outbox.send(bytes([_END]))  # closing it would not do: forked processes may hold it open too
        self._watcher.join()
        self._outbox.close()
        self._inbox.close()

    def agreed(self) -> bool:
        """True on all processes if any of them got a signal. All must ask together."""
        return agree(self.received is not None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name

    def _watch(self) -> None:
        first = None
        while (number := self._inbox.recv(1)[0]) != _END:
            if number not in self._handlers_before:  # other handlers of the process, e.g. torch's for SIGCHLD
                continue
            if first is None:
                first = time.monotonic()
                _announce(number)
            elif time.monotonic() - first > SAME_REQUEST:
                os._exit(128 + number)  # as a shell reports it; only the main thread could restore the default action


def _announce(number: int) -> None:
    if is_main_process():
        line = f"\n{signal.Signals(number).name}: finishing the step, then saving; once more ends at once\n"
        with contextlib.suppress(OSError):  # a terminal that was closed must not keep the run from saving
            os.write(2, line.encode())  # print would wait for a main thread that is printing


def until_stopped(batches: Iterable, stop: StopSignal | None) -> Iterator[Any]:
    """The batches of a loader whose length may differ from process to process, until all processes agree to stop.

    Args:
        batches: has an exact `len`.
        stop: asked before each batch, by all processes as often as the one with most batches; None: nobody is asked.

    Raises:
        Interrupted: one of the processes got a signal; on all processes before the batch of the same number.
    """
    if stop is None:
        yield from batches
        return
    for _, batch in zip(range(largest(len(batches))), itertools.chain(batches, itertools.repeat(None))):
        if stop.agreed():
            raise Interrupted
        if batch is not None:
            yield batch


@contextlib.contextmanager
def signals_held(start_method: str) -> Iterator[None]:
    """Hold the signals back from this thread and, from their first moment and in all threads, from processes started inside.

    A worker that blocks them later is too late: NumPy's threads exist by then in one that was not forked, and take them.

    Args:
        start_method: "fork", "spawn" or "forkserver", what the processes are started by.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such signals between processes
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        if start_method != "fork":
            from multiprocessing import resource_tracker  # not on Windows

            resource_tracker.ensure_running()  # a helper process; starting it lets SIGTERM and SIGINT through again
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent(worker_id: int) -> None:
    """Let a loader's process outlive what reaches a whole group of processes: Ctrl-C, `timeout`, a scheduler's SIGTERM.

    It still ends by a SIGTERM of its parent, and by itself when the parent is gone. Where a signal's sender cannot be known
    (macOS, Windows) SIGTERM ends it as ever. The `worker_init_fn` of a loader.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_with_parent() -> None:
    """End by the parent's SIGTERM, or when the parent is gone; torch does not see that behind a fork server, the parent for
    the system.
    """
    parent = multiprocessing.parent_process()
    while parent.is_alive():
        received = signal.sigtimedwait({signal.SIGTERM}, PARENT_CHECK)
        if received and received.si_pid == parent.pid:
            break
    os._exit(0)


def end_workers() -> None:
    """End the loader processes that are left when this process ends.

    multiprocessing sends them one SIGTERM and waits for ever, but a signal is lost on a process that has the same one, sent to
    the whole group a moment ago, still to come.
    """
    for child in multiprocessing.active_children():
        while child.daemon and child.is_alive():
            child.terminate()
            child.join(0.1)
