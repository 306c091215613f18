"""Requests to leave: noted once, agreed on by all processes, and left to the parent by the workers of loaders."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT

from train_utils import signals
from train_utils.distributed_utils import get_rank
from train_utils.loaders import make_loader
from train_utils.signals import (
    REQUEUE_CODE,
    SIGNALS,
    Interrupted,
    StopSignal,
    end_workers,
    leave_signals_to_parent,
    signals_held,
    until_stopped,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals between processes")


def in_a_child(work, *parameters):
    """A started process in a session of its own, whose group this is, that runs `work(*parameters)`."""
    process = multiprocessing.get_context("fork").Process(target=in_new_session, args=(work, *parameters))
    process.start()
    return process


def in_new_session(work, *parameters):
    os.setsid()
    work(*parameters)


def exit_code(process, timeout=20):
    """How a process ended; one that does not end is killed and fails the test."""
    process.join(timeout)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("a process hangs")
    return process.exitcode


def from_outside(number, target):
    """Send a signal to a process, or to a group if `target` is negative, from a process that is not its parent."""
    subprocess.run(["sh", "-c", f"trap '' TERM INT USR1; kill -{int(number)} {target}"], check=True)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_the_handlers_come_back(number, capfd, monkeypatch):
    monkeypatch.setattr(signals, "SAME_REQUEST", 60)
    before, wakeup = [signal.getsignal(each) for each in SIGNALS], signal.set_wakeup_fd(-1)
    other = signal.signal(signal.SIGUSR2, lambda *_: None)
    with StopSignal() as stop:
        assert stop.received is None and not stop.agreed()
        signal.raise_signal(signal.SIGUSR2)  # not a request
        assert not stop.agreed()
        signal.raise_signal(number)
        assert stop.received == number.name and stop.agreed()
        for again in SIGNALS:  # as a launcher passes it on
            signal.raise_signal(again)
        assert stop.received == number.name
    assert [signal.getsignal(each) for each in SIGNALS] == before and signal.set_wakeup_fd(wakeup) == -1
    line = f"{number.name}: finishing the step, then saving; once more ends at once"
    assert capfd.readouterr().err.strip() == line
    assert stop.agreed()  # what was noted stays
    signal.signal(signal.SIGUSR2, other)


def test_only_rank_0_speaks(capfd, monkeypatch):
    monkeypatch.setattr(signals, "is_main_process", lambda: False)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.received == "SIGTERM" and capfd.readouterr().err == ""


def test_an_error_inside_restores_the_handlers():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before
        1 / 0  # noqa: B018
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_changes_nothing():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopSignal() as stop:
            found.append((signal.getsignal(signal.SIGTERM), stop.received, stop.agreed()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(before, None, False)]


def wait_in_a_call(pipe):
    """Hang where no Python runs, as in a collective whose other process is gone, until SIGUSR2; twice."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    with StopSignal() as stop:
        for _ in range(2):
            pipe.send(stop.received)
            signal.sigwait({signal.SIGUSR2})
        pipe.send(stop.received)


def test_a_second_signal_ends_at_once_but_not_the_same_one_passed_on():
    ours, theirs = multiprocessing.Pipe()
    process = in_a_child(wait_in_a_call, theirs)
    assert ours.recv() is None
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(1.1)  # Python's handlers run now, more than a second after the first signal: they must not count that
    os.kill(process.pid, signal.SIGUSR2)
    assert ours.poll(10) and ours.recv() in ("SIGTERM", "SIGINT")
    os.kill(process.pid, signal.SIGINT)
    assert exit_code(process, 10) == 128 + signal.SIGINT


class Asked:
    """A `StopSignal` that says stop when it is asked for the last time."""

    def __init__(self, times):
        self.times = times

    def agreed(self):
        self.times -= 1
        return self.times == 0


@pytest.mark.parametrize("times, given", [(1, []), (3, ["a", "b"]), (4, ["a", "b", "c"])])
def test_batches_until_stopped(times, given):
    found = []
    if times > 3:
        found += until_stopped(["a", "b", "c"], Asked(times))
    else:
        with pytest.raises(Interrupted) as left:
            for batch in until_stopped(["a", "b", "c"], Asked(times)):
                found.append(batch)
        assert left.value.code == REQUEUE_CODE == 75
    assert found == given


def test_batches_without_a_signal_and_without_batches():
    assert list(until_stopped(["a", "b"], None)) == ["a", "b"] and list(until_stopped([], None)) == []
    with StopSignal() as stop:
        assert list(until_stopped(["a", "b"], stop)) == ["a", "b"] and list(until_stopped([], stop)) == []


def evaluate_together(rank, file, pipe):
    """Processes with 2 and 9 batches; number 1 gets a signal in its sixth, where number 0 has none left."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    done = 0
    try:
        with StopSignal() as stop:
            assert list(until_stopped(range(1, 3 * rank + 1), stop)) == [[], [1, 2, 3]][rank]
            for done in until_stopped(range(1, [2, 9][rank] + 1), stop):
                if (rank, done) == (1, 6):
                    signal.raise_signal(signal.SIGTERM)
    finally:
        pipe.send((get_rank(), done, stop.received))
        dist.destroy_process_group()


def test_all_processes_leave_together(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    processes = [in_a_child(evaluate_together, rank, tmp_path / "meeting", theirs) for rank in range(2)]
    assert [exit_code(process) for process in processes] == [REQUEUE_CODE] * 2
    assert sorted(ours.recv() for _ in range(2)) == [(0, 2, None), (1, 6, "SIGTERM")]


def wait_as_worker(pipe):
    leave_signals_to_parent(0)
    pipe.send("ready")
    time.sleep(60)


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="who sent a signal is not known here")
@pytest.mark.parametrize("held", [signals_held("fork"), contextlib.nullcontext()])
def test_a_worker_ends_only_by_its_parent(held):
    ours, theirs = multiprocessing.Pipe()
    with held:
        process = in_a_child(wait_as_worker, theirs)
    assert ours.recv() == "ready"
    for number in SIGNALS * 2:
        from_outside(number, process.pid)
    process.join(0.3)
    assert process.is_alive()
    process.terminate()
    assert exit_code(process) == 0


def start_with_a_signal_to_come(pipe):
    """A worker that is about to get another process's SIGTERM: one of its parent at the same time is no further one."""
    os.kill(os.getpid(), signal.SIGTERM)
    pipe.send("ready")
    time.sleep(0.3)
    wait_as_worker(pipe)


def end_a_worker():
    context, (ours, theirs) = multiprocessing.get_context("fork"), multiprocessing.Pipe()
    bystander = context.Process(target=time.sleep, args=(60,))
    with signals_held("fork"):
        worker = context.Process(target=start_with_a_signal_to_come, args=(theirs,), daemon=True)
        worker.start()
    bystander.start()
    assert ours.recv() == "ready"
    end_workers()
    assert worker.exitcode == 0 and bystander.is_alive()
    bystander.kill()


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="who sent a signal is not known here")
def test_no_worker_is_left_when_its_signal_was_lost():
    assert exit_code(in_a_child(end_a_worker), 10) == 0


class Slow(torch.utils.data.Dataset):
    """30 samples that take their time."""

    def __len__(self):
        return 30

    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.zeros(3, 2, 2), {"image_id": index}


def slow_loader(method, workers):
    loader = make_loader(Slow(), [[i] for i in range(30)], torch.device("cpu"), workers)
    loader.multiprocessing_context = method
    return loader


def read_under_fire(loaders):
    """Go through the loaders, batch by batch of each, while signals reach the whole group, from when the workers start."""
    signals.SAME_REQUEST = 60  # this is a process of its own
    with StopSignal() as stop:
        found = []
        iterators = [iter(loader) for loader in loaders]
        from_outside(signal.SIGTERM, -os.getpid())
        for number, batches in enumerate(zip(*iterators)):
            found.append([targets[0]["image_id"] for _, targets in batches])
            if number in (5, 6, 7):
                from_outside(SIGNALS[number - 5], -os.getpid())
        assert stop.received == "SIGTERM" and found == [[i] * len(loaders) for i in range(30)]


def read_all():
    loader = slow_loader("fork", 2)
    read_under_fire([loader])
    read_under_fire([loader])  # the workers stayed


def leave_early():
    with StopSignal() as stop:
        for number, _ in enumerate(until_stopped(slow_loader("fork", 2), stop)):
            if number == 3:
                from_outside(signal.SIGTERM, -os.getpid())


@pytest.mark.parametrize("work, code", [(read_all, 0), (leave_early, REQUEUE_CODE)])
def test_workers_outlive_what_reaches_the_group_and_end_with_the_run(work, code):
    start = time.monotonic()
    assert exit_code(in_a_child(work), 10) == code
    assert time.monotonic() - start < 10


NOT_FORKED = """
import multiprocessing, os, signal, test_signals
multiprocessing.set_forkserver_preload(["train_utils.loaders"])
loaders = [test_signals.slow_loader(*each) for each in (("forkserver", 2), ("spawn", 1))]
test_signals.read_under_fire(loaders)
workers = multiprocessing.active_children()
one = next(worker for worker in workers if type(worker).__name__ == "ForkServerProcess")
one.terminate()
one.join(10)
print(len(workers), "workers,", one.exitcode, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no fork server")
def test_workers_that_were_not_forked_outlive_signals_and_end_after_a_killed_parent():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1",
                   "OPENBLAS_NUM_THREADS": "2"}  # a thread beside the main one, in processes that were not forked
    process = subprocess.Popen([sys.executable, "-c", NOT_FORKED], env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        output, errors = process.communicate(timeout=60)  # returns when the last process that can write there has ended
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert output == "3 workers, 0\n" and process.returncode == -signal.SIGKILL, errors
