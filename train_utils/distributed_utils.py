"""One process or many: start-up, ranks, and the few collectives that training and evaluation use.

Started by `torchrun` (or SLURM's `srun`) the same script becomes one process of a group; started by plain `python` every
function here does the obvious thing for a single process. gloo serves CPUs, nccl serves CUDA.
"""

import contextlib
import datetime
import os
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train_utils.errors import InputError

TIMEOUT = datetime.timedelta(hours=2)  # longer than scoring a large validation set on rank 0
MEETING_TIMEOUT = datetime.timedelta(minutes=10)  # for the slowest node to start; after that an address is taken to be wrong

_control_group: Any = None  # gloo, beside an nccl group; None: the group of all processes is gloo itself


def is_distributed() -> bool:
    """True if a process group is running."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Rank of this process, 0 without a group."""
    return dist.get_rank() if is_distributed() else 0


def get_world_size() -> int:
    """Number of processes, 1 without a group."""
    return dist.get_world_size() if is_distributed() else 1


def is_main_process() -> bool:
    """True on the one process that writes files and speaks."""
    return get_rank() == 0


def say(*lines: object) -> None:
    """Print lines on rank 0 only (the built-in print is left alone, for this and every other library)."""
    if is_main_process() and any(lines):
        show(*lines)


def show(*lines: object) -> None:
    """Print lines. A log on a disk that is full must not end what it tells of, and there is nobody else to tell."""
    with contextlib.suppress(OSError):
        print(*lines, sep="\n", flush=True)


def save_on_master(*args: Any, **kwargs: Any) -> None:
    """`torch.save` on rank 0 only. The scripts save through `checkpoint.save_checkpoint`, which is atomic."""
    if is_main_process():
        torch.save(*args, **kwargs)


def mkdir(path: str | os.PathLike) -> None:
    """Create a folder and its parents; nothing happens if it is there."""
    os.makedirs(path, exist_ok=True)


def rank_from_environment() -> tuple[int, int, int] | None:
    """(rank, world size, local rank) as set by torchrun or SLURM's srun, None in a plain process.

    In the shell of `salloc` and in a batch script SLURM_NTASKS is what was asked for, and SLURM_PROCID may be set, but one
    process runs: only srun tells, in SLURM_STEP_NUM_TASKS, how many it started.

    Raises:
        InputError: half of the variables, or values that make no sense.
    """
    env, names = os.environ, ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in env and "WORLD_SIZE" not in env:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        if env.get("SLURM_STEP_NUM_TASKS", "1") == "1":
            return None
    missing = [name for name in names[:2] if name not in env]
    if missing:
        there = next(name for name in names[:2] if name in env)
        raise InputError(f"the environment has {there} but not {missing[0]}: start with torchrun or srun, or unset {there}")
    rank, world_size, local_rank = (_number_in(name) for name in names)
    if rank >= world_size:
        raise InputError(f"the environment has {names[0]} {rank} and {names[1]} {world_size}: "
                         "ranks go from 0 to one less than the number of processes")
    return rank, world_size, local_rank


def _number_in(name: str) -> int:
    """An environment variable as a whole number from 0 on, 0 if it is absent."""
    text = os.environ.get(name, "0")
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"the environment variable {name} must be a whole number from 0 on, not {text!r}")
    return int(text)


def first_host(nodelist: str) -> str:
    """The first name in SLURM's short form of several: "gpu[003-004,17],login2" -> "gpu003"."""
    first = re.match(r"(\[[^]]*\]|[^,[])*", nodelist)[0]  # up to the first comma that is not in brackets
    return re.sub(r"\[([^],:-]*)[^]]*\]", r"\1", first)


def choose_meeting_point() -> None:
    """Set MASTER_ADDR and MASTER_PORT where the user has not: on SLURM the first host, and a port by job and step.

    So neither two jobs on one node nor two steps of one job, started side by side, meet each other.
    """
    env = os.environ
    nodelist = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    env.setdefault("MASTER_ADDR", first_host(nodelist) if nodelist else "127.0.0.1")
    number = _number_in("SLURM_JOB_ID") + 7919 * _number_in("SLURM_STEP_ID")  # a prime: step 1 is not the next job's step 0
    env.setdefault("MASTER_PORT", str(10000 + number % 20000) if "SLURM_JOB_ID" in env else "29500")


def init_distributed_mode(args: Any) -> None:
    """Join the process group if there is one; sets `args.rank`, `args.world_size`, `args.gpu`, `args.distributed`.

    `args.device` ("cuda", "cuda:1", "cpu", "mps") becomes "cuda:<local rank>" for a CUDA group.

    Raises:
        InputError: contradictory variables, too few GPUs, or the processes cannot meet.
    """
    found = rank_from_environment()
    args.rank, args.world_size, args.gpu = found or (0, 1, 0)
    args.distributed = found is not None and args.world_size > 1
    if found is None and _number_in("SLURM_NTASKS") > 1:
        say(f"SLURM has {os.environ['SLURM_NTASKS']} tasks, but srun did not start this script: one process; "
            "for more write srun, or torchrun, before it")
    if not args.distributed:
        return
    on_cuda = torch.device(args.device).type == "cuda"
    if on_cuda:
        args.gpu = gpu_of_process(args.gpu, torch.cuda.device_count(), args.world_size)
        args.device = f"cuda:{args.gpu}"
        torch.cuda.set_device(args.gpu)
    choose_meeting_point()
    _join("nccl" if on_cuda else "gloo", getattr(args, "dist_url", None) or "env://", args.rank, args.world_size)
    say(f"{args.world_size} processes, backend {dist.get_backend()}")


def gpu_of_process(local_rank: int, visible: int, world_size: int) -> int:
    """Number of this process's GPU among those it sees; where srun shows each process one of its own, that one.

    Raises:
        InputError: more processes than GPUs.
    """
    if visible == 1 and "SLURM_GPUS_PER_TASK" in os.environ and "RANK" not in os.environ:
        return 0
    if local_rank >= visible:
        raise InputError(f"{world_size} processes, but this machine has {visible} GPUs: "
                         "start as many processes as GPUs, or give --device cpu")
    return local_rank


def _join(backend: str, url: str, rank: int, world_size: int) -> None:
    """Meet the other processes at `url` ("env://": MASTER_ADDR and MASTER_PORT), and form the groups."""
    global _control_group
    try:
        store, _, _ = next(dist.rendezvous(url, rank, world_size, timeout=MEETING_TIMEOUT))
        store = fresh_keys(store, rank, world_size)
        store.set_timeout(TIMEOUT)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
        if backend != "gloo":  # plain values go around without waiting for the GPU, and need no memory there
            _control_group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError, OSError) as error:  # also torch's network errors
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}" if url == "env://" else url
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"process {rank} of {world_size} cannot meet the others at {where} ({reason}): check that all "
                         "were started, with an address that every node reaches and a free port (MASTER_ADDR, MASTER_PORT)"
                         ) from error


def fresh_keys(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """The store under a prefix that all present processes agree on.

    After a restart torchrun's store still has the addresses of the dead processes, and whoever is first would try those.
    Rank 0 gives out a new prefix, the others answer under it with a word of their own, and none goes on before it reads
    its own word among the answers.

    Raises:
        RuntimeError: the store's timeout has passed.
    """
    word, deadline = uuid.uuid4().hex, time.monotonic() + store.timeout.total_seconds()
    if rank == 0:
        store.set("prefix", word)
        answers = [store.get(f"{word}/{other}") for other in range(1, world_size)]
        store.set(f"{word}/answers", b" ".join(answers))
        return dist.PrefixStore(word, store)
    while time.monotonic() < deadline:
        prefix = store.get("prefix").decode()  # perhaps still that of the processes before
        store.set(f"{prefix}/{rank}", word)
        if store.check([f"{prefix}/answers"]) and word in store.get(f"{prefix}/answers").decode().split():
            return dist.PrefixStore(prefix, store)
        time.sleep(0.02)
    raise RuntimeError("the first process does not answer")


def shut_down() -> None:
    """Leave the process group; call at the end of a script."""
    global _control_group
    if is_distributed():
        dist.destroy_process_group()  # the control group with it
    _control_group = None


def barrier() -> None:
    """Wait until every process is here."""
    if is_distributed():
        dist.barrier(group=_control_group)


def agree(flag: bool) -> bool:
    """True on every process if `flag` is True on any: what all do together, such as stopping, is decided with it."""
    return bool(largest(int(flag)))


def largest(number: int) -> int:
    """The largest of the processes' numbers, on every process."""
    if not is_distributed():
        return number
    value = torch.tensor(number, dtype=torch.int64)
    dist.all_reduce(value, op=dist.ReduceOp.MAX, group=_control_group)
    return int(value)


def all_reduce_mean(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes, as a new tensor without gradient; the tensor itself for one process."""
    if not is_distributed():
        return value
    value = value.detach().clone().to(torch.float32)
    dist.all_reduce(value)
    return value / get_world_size()


def reduce_dict(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean over the processes of every 0-dim tensor of a dict, in one collective.

    Keys are sorted first, so that processes with another insertion order average like with like. Detached.
    """
    if not values:
        return {}
    names = sorted(values)
    stacked = all_reduce_mean(torch.stack([values[name].detach().float() for name in names]))
    return dict(zip(names, stacked.unbind()))


def broadcast_object(value: Any, source: int = 0) -> Any:
    """The plain Python object of rank `source`, on every rank."""
    if not is_distributed():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=source, group=_control_group)
    return holder[0]


def gather_objects(value: Any) -> list[Any] | None:
    """A list with every process's (picklable) object on rank 0, None on the others."""
    if not is_distributed():
        return [value]
    gathered = [None] * get_world_size() if is_main_process() else None
    dist.gather_object(value, gathered, dst=0, group=_control_group)
    return gathered


def broadcast_buffers(model: nn.Module) -> None:
    """Give every process rank 0's buffers: each moved its own BatchNorm statistics, and rank 0's are saved."""
    if is_distributed():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def on_main_first(read: Callable[[], Any]) -> Any:
    """Run a download on rank 0 first, so that the others find it in the cache."""
    if not is_main_process():
        barrier()
    result = read()
    if is_main_process():
        barrier()
    return result


def data_parallel(model: nn.Module, gpu: int | None) -> nn.parallel.DistributedDataParallel:
    """The model, with gradients that are averaged over the processes.

    DDP groups its gradients anew after the first step, and from three processes on the grouping decides in which order
    numbers are added: a run that was stopped and goes on would differ in roundings from one that was not. The option that
    searches for unused parameters keeps the first grouping. It is set where bits are to repeat (CPU, deterministic
    algorithms); torch then warns once that it found none.

    Args:
        gpu: number of this process's CUDA device, None on the CPU.
    """
    exact = get_world_size() > 2 and (gpu is None or torch.are_deterministic_algorithms_enabled())
    device_ids = None if gpu is None else [gpu]
    return nn.parallel.DistributedDataParallel(model, device_ids=device_ids, find_unused_parameters=exact)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, or the module itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def sync_normalizers(model: nn.Module) -> None:
    """Let a model divide its losses by the mean count over all processes, where it offers that.

    Then gradients do not depend on how the images of a step are spread over the processes.
    """
    if hasattr(model, "reduce_normalizer"):
        model.reduce_normalizer = all_reduce_mean
