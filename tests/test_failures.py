"""Failures of the machine: real ones where a test can make them, torch's words for the others."""

import faulthandler
import multiprocessing
import os
import signal
import sys
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from train_utils import failures
from train_utils.errors import InputError
from train_utils.failures import BATCH_LOST, LoaderDied, OutOfMemory, PeerLost, end_on_lost_batch, explain_failures

if sys.platform != "win32":
    import resource

REMEDY = "lower --batch-size"
IMAGES = [torch.zeros(3, 480, 640), torch.zeros(3, 600, 800)]
TARGETS = [{"boxes": torch.zeros(0, 4)}, {"boxes": torch.zeros(12, 4)}]
CUDA_WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.1 GiB is free."
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals between processes")


def explained(kind, work, batch=None):
    """The sentence that `work` ends with."""
    with pytest.raises(kind) as raised, explain_failures(REMEDY), explain_failures(REMEDY) as working_on:
        if batch is not None:
            working_on(*batch)
        work()
    assert type(raised.value) is kind and isinstance(raised.value, InputError)
    return str(raised.value)


def fail(error):
    raise error


def test_a_cpu_without_memory_names_the_batch_largest_image_first():
    message = explained(OutOfMemory, lambda: torch.empty(1 << 50, dtype=torch.uint8), (IMAGES, TARGETS))
    assert message == ("out of memory, 1048576.00 GiB asked for on a batch of 2 (height x width: 600 x 800 with 12 boxes, "
                       "480 x 640 with 0 boxes): lower --batch-size")


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (torch.OutOfMemoryError(CUDA_WORDS), ", 2.00 GiB asked for"),
        (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), ""),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ""),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB). Tried to allocate 1.50 GB on shared pool."),
         ", 1.50 GB asked for"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1073741824 bytes."),
         ", 1.00 GiB asked for"),
        (MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)"), ", 7.45 GiB asked for"),
        (MemoryError(), ""),
    ],
)
def test_every_way_to_run_out_of_memory(error, amount):
    assert explained(OutOfMemory, lambda: fail(error)) == f"out of memory{amount}: lower --batch-size"


def test_batches_in_messages():
    images = torch.zeros(10, 3, 8, 8)  # a 4-D batch, of which only some images are listed
    message = explained(OutOfMemory, lambda: fail(MemoryError()), (images, [{"boxes": [[]] * n} for n in range(10)]))
    assert "a batch of 10 (height x width: 8 x 8 with 9 boxes, " in message and message.endswith("2 boxes and 2 more): " + REMEDY)
    assert explained(OutOfMemory, lambda: fail(MemoryError()), ([], [])) == "out of memory: lower --batch-size"
    assert "(height x width: 480 x 640 with 0 boxes)" in explained(OutOfMemory, lambda: fail(MemoryError()), (IMAGES[:1], [{}]))


def test_the_last_batch_is_named():
    with pytest.raises(OutOfMemory, match="a batch of 1 "), explain_failures(REMEDY) as working_on:
        working_on(IMAGES, TARGETS)
        working_on(IMAGES[:1], TARGETS[:1])
        raise MemoryError


def test_memory_of_a_loader_process_is_not_blamed_on_the_batch():
    error = RuntimeError("Caught RuntimeError in DataLoader worker process 1.\nOriginal Traceback (most recent call last):\n"
                         "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes.")
    message = explained(OutOfMemory, lambda: fail(error), (IMAGES, TARGETS))
    assert message == "out of memory in a loader process, 4.00 GiB asked for: give fewer --workers"


def test_an_operation_without_a_deterministic_form_is_named():
    torch.use_deterministic_algorithms(True)
    try:
        message = explained(InputError, lambda: torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert message.startswith("--deterministic: torch has no deterministic form of put_ on this device; leave")


@pytest.mark.parametrize("error", [RuntimeError("shape '[2]' is invalid"), ValueError("out of memory"), KeyboardInterrupt(),
                                   RuntimeError("Caught KeyError in DataLoader worker process 0."), EOFError("a.npy"),
                                   FileNotFoundError("a.jpg"), ConnectionResetError("download"),
                                   OSError(24, "Too many open files", "multiprocessing/connection.py")])
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as raised, explain_failures(REMEDY):
        raise error
    assert raised.value is error and error.__cause__ is None


def test_nothing_happens_where_nothing_fails():
    with explain_failures(REMEDY) as working_on:
        working_on(IMAGES, TARGETS)


class Fatal(Dataset):
    """The process that reads sample 1 ends: by a signal, with an exit code, or because its result cannot be handed over."""

    def __init__(self, ending):
        self.ending = ending

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index == 0:
            return 0
        if self.ending == "lost":
            return lambda: None  # no pickle has a form for it
        if isinstance(self.ending, int):
            os._exit(self.ending)
        faulthandler.disable()  # that of pytest would print a traceback
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), getattr(signal, self.ending))


def end_worker_on_lost_batch(_):
    end_on_lost_batch()


def read_all(ending):
    for _ in DataLoader(Fatal(ending), batch_size=None, num_workers=1, worker_init_fn=end_worker_on_lost_batch, timeout=60):
        pass


@needs_signals
@pytest.mark.parametrize(
    ("ending", "how", "meaning"),
    [
        ("SIGKILL", "signal: Killed", "ran out of memory: give fewer --workers"),
        ("SIGBUS", "signal: Bus error", "--shm-size"),
        ("SIGSEGV", "signal: Segmentation fault", "a broken image or library: --workers 0"),
        ("SIGABRT", "signal: Abort", "--workers 0 may show another reason"),
        (3, "exit code 3", "--workers 0 may show another reason"),
        ("lost", f"exit code {BATCH_LOST}", "could not hand over a batch"),
    ],
)
def test_a_loader_process_that_ends(ending, how, meaning):
    message = explained(LoaderDied, lambda: read_all(ending))
    assert f"a loader process has ended ({how}" in message and meaning in message and "--resume auto" in message


@needs_signals
def test_a_loader_process_that_ends_while_the_model_computes():
    """torch then raises in the middle of whatever the main thread does."""
    batches = iter(DataLoader(Fatal(0), batch_size=None, num_workers=1, sampler=[0] * 9))
    next(batches)

    def work():
        os.kill(batches._workers[0].pid, signal.SIGKILL)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            torch.ones(100).sum()

    assert "signal: Killed" in explained(LoaderDied, work)


def broken_pipe():
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    ours.recv()


def test_a_loader_process_that_ends_while_its_tensors_are_fetched(monkeypatch):
    monkeypatch.setattr(failures, "WORD_TAKES", 0.0)
    assert explained(LoaderDied, broken_pipe).startswith("a loader process has ended (how is not known): maybe")
    pinned = ConnectionResetError("Caught ConnectionResetError in pin memory thread for device 0.\nOriginal Traceback:\n"
                                  '  File "/lib/python3/multiprocessing/resource_sharer.py", line 86, in get_connection')
    assert "a loader process has ended" in explained(LoaderDied, lambda: fail(pinned))
    told = RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. ")
    monkeypatch.setattr(failures.time, "sleep", lambda _: fail(told))  # as torch's handler interrupts the wait
    with pytest.raises(LoaderDied, match="signal: Killed"), explain_failures(REMEDY):
        broken_pipe()


def test_a_loader_process_that_ends_unseen():
    message = explained(LoaderDied, lambda: fail(RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")))
    assert message.startswith("a loader process has ended (how is not known): maybe")
    mac = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed: 9. ")
    assert "(signal: Killed: 9): usually the machine ran out of memory" in explained(LoaderDied, lambda: fail(mac))


@pytest.mark.parametrize("text", [
    "[/x/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:5530. This is typically caused by a remote worker",
    "NCCL error: remote process exited or there was a network error",
])
def test_a_process_of_the_group_that_is_gone(text):
    with pytest.raises(PeerLost, match="--max-restarts 3 with --resume auto"), explain_failures("less"):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="^Connection closed by the printer$"), explain_failures("less"):
        raise RuntimeError("Connection closed by the printer")
