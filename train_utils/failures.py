"""What fails in the machine, not in the code, in one sentence: memory that runs out, processes that die, kernels without a
deterministic form."""

import contextlib
import multiprocessing.queues
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from train_utils.errors import InputError

LESS_MEMORY = "lower --batch-size (and raise --accumulate as much) or the size of the network's input, or give --amp"
BATCH_LOST = 77  # exit code of a loader process that could not hand over a batch
MOST_NAMED = 8  # images of a batch that a message lists
WORD_TAKES = 1.0  # seconds from the broken connection of a process to the signal that it has ended, at most

MEMORY_WORDS = (
    "out of memory",  # CUDA's allocator, CUDA itself, NCCL and MPS
    "ALLOC_FAILED",  # cuBLAS and cuDNN
    "DefaultCPUAllocator",
)
# how a loader process ended -> what that usually means and what to do; macOS puts a number behind a signal's name
ENDINGS = {
    "signal: Killed": "usually the machine ran out of memory: give fewer --workers",
    "signal: Bus error": "usually the shared memory (/dev/shm) is full: give fewer --workers, or a container more of it "
                         "(docker run --shm-size 8g)",
    "signal: Segmentation fault": "usually a broken image or library: --workers 0 shows at which image",
    f"exit code {BATCH_LOST}": "it could not hand over a batch, for the reason it printed above; if that is memory or space, "
                               "give fewer --workers, or a container more shared memory (docker run --shm-size 8g)",
}
ANY_ENDING = "maybe the machine ran out of memory: give fewer --workers; --workers 0 may show another reason"


class OutOfMemory(InputError):
    """The batch does not fit into memory."""


class LoaderDied(InputError):
    """A process that reads data has ended."""


class PeerLost(InputError):
    """Another process of the group has ended."""


@contextlib.contextmanager
def explain_failures(memory_remedy: str) -> Iterator[Callable[[Sequence[Tensor], Sequence[dict]], None]]:
    """Turn failures of the machine into one sentence that says what to do; every other exception passes.

    Put it around a whole epoch or evaluation: torch tells of a dead loader process at any place of the main thread, also
    in the middle of a forward, and for a moment maybe while another exception is on its way out of here; a second one around
    the whole script sees that, too. Yields a function to call with the images and targets of each batch, for messages; it
    keeps their sizes only.

    Args:
        memory_remedy: what to do when memory runs out, e.g. "lower --batch-size".

    Raises:
        OutOfMemory: with the sizes and box counts of the batch.
        LoaderDied: with the signal and what it usually means.
        PeerLost: this process waited for another one, which is gone.
        InputError: a kernel has no deterministic form and `torch.use_deterministic_algorithms` is on.
    """
    batch: list[tuple[int, int, int]] = []  # height, width and number of boxes of each image

    def working_on(images: Sequence[Tensor], targets: Sequence[dict]) -> None:
        batch[:] = [(*image.shape[-2:], len(target.get("boxes", ()))) for image, target in zip(images, targets)]

    try:
        yield working_on
    except (RuntimeError, MemoryError, EOFError, OSError) as error:
        explained = _explained(error, batch, memory_remedy)
        if explained is None:
            raise
        raise explained from error


def _explained(error: Exception, batch: list[tuple[int, int, int]], memory_remedy: str) -> InputError | None:
    try:
        return (_out_of_memory(error, batch, memory_remedy) or _dead_loader(error) or _lost_peer(error)
                or _not_deterministic(error))
    except RuntimeError as told:  # torch's handler speaks of the dead process only now
        return _dead_loader(told)


def _out_of_memory(error: Exception, batch: list[tuple[int, int, int]], remedy: str) -> OutOfMemory | None:
    text = str(error)
    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(word in text for word in MEMORY_WORDS):
        return None
    found = re.search(r"allocate ([\d.]+) (\w+)", text)
    amount = f", {_readable(*found.groups())} asked for" if found else ""
    if "DataLoader worker process" in text:  # then the batch in work has no part in it
        return OutOfMemory(f"out of memory in a loader process{amount}: give fewer --workers")
    return OutOfMemory(f"out of memory{amount}{_described(batch)}: {remedy}")


def _readable(number: str, unit: str) -> str:
    return f"{int(number) / 2**30:.2f} GiB" if unit == "bytes" else f"{number} {unit}"


def _described(batch: list[tuple[int, int, int]]) -> str:
    """The largest images of a batch in words, for a message; nothing before the first batch."""
    if not batch:
        return ""
    images = sorted(batch, key=lambda image: (image[0] * image[1], image[2]), reverse=True)
    named = ", ".join(f"{height} x {width} with {boxes} boxes" for height, width, boxes in images[:MOST_NAMED])
    more = f" and {len(images) - MOST_NAMED} more" if len(images) > MOST_NAMED else ""
    return f" on a batch of {len(images)} (height x width: {named}{more})"


def _dead_loader(error: Exception) -> LoaderDied | None:
    chain = " ".join(_texts(error))  # the first often says only that a process has ended, its cause says how
    if "DataLoader worker (pid" not in chain:
        if not _is_lost_connection(error):
            return None
        time.sleep(WORD_TAKES)  # torch's handler interrupts it
    found = re.search(r"(signal: [^.]+|exit code \d+)\.", chain)
    how = found[1] if found else "how is not known"
    meaning = next((meaning for ending, meaning in ENDINGS.items() if how.startswith(ending)), ANY_ENDING)
    return LoaderDied(f"a loader process has ended ({how}): {meaning}. "
                      "A training goes on from its last checkpoint with --resume auto")


def _is_lost_connection(error: Exception) -> bool:
    """True for what happens if a process ends while its tensors are fetched from it, here or in the thread that pins them."""
    if not isinstance(error, (EOFError, ConnectionError, FileNotFoundError)):
        return False
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return re.search(r"multiprocessing\W+(connection|resource_sharer)", "\n".join([str(error), *files])) is not None


def _lost_peer(error: Exception) -> PeerLost | None:
    text = str(error)
    ended = re.search(r"[Cc]onnection (closed|reset)|remote process exited|Broken pipe", text)
    if not ended or not ("gloo" in text or "NCCL" in text):
        return None
    return PeerLost("another process of the group has ended, and its own message says why; torchrun --max-restarts 3 with "
                    "--resume auto starts all of them again from the last checkpoint")


def _texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _not_deterministic(error: Exception) -> InputError | None:
    name, mark, _ = str(error).partition(" does not have a deterministic implementation")
    if not mark:
        return None
    return InputError(f"--deterministic: torch has no deterministic form of {name.splitlines()[-1]} on this device; "
                      "leave --deterministic out, or use another --device")


def end_on_lost_batch() -> None:
    """To be called in a loader process: let it end if a batch cannot be handed over, because /dev/shm is full for instance.

    Python only prints a traceback there, and the training would wait for that batch for ever.
    """
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_leave)


def _leave(error: Exception, _: object) -> None:
    print(f"a loader process cannot hand over a batch: {error}", file=sys.stderr, flush=True)
    os._exit(BATCH_LOST)  # this is a thread of the queue, from which sys.exit would end nothing
