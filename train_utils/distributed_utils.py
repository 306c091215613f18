"""One process or many: start-up, ranks, and the few collectives that training and evaluation use.

Started by `torchrun` (or SLURM) the same script becomes one process of a group; started by plain `python` every
function here does the obvious thing for a single process. gloo serves CPUs, nccl serves CUDA.
"""

import datetime
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train_utils.errors import InputError

TIMEOUT = datetime.timedelta(hours=2)  # longer than scoring a large validation set on rank 0


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
        print(*lines, sep="\n", flush=True)


def save_on_master(*args: Any, **kwargs: Any) -> None:
    """`torch.save` on rank 0 only. The scripts save through `checkpoint.save_checkpoint`, which is atomic."""
    if is_main_process():
        torch.save(*args, **kwargs)


def mkdir(path: str | os.PathLike) -> None:
    """Create a folder and its parents; nothing happens if it is there."""
    os.makedirs(path, exist_ok=True)


def rank_from_environment() -> tuple[int, int, int] | None:
    """(rank, world size, local rank) as set by torchrun or SLURM, None in a plain process."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0))
    if int(env.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in env:
        return int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]), int(env.get("SLURM_LOCALID", 0))
    return None


def init_distributed_mode(args: Any) -> None:
    """Join the process group if there is one; sets `args.rank`, `args.world_size`, `args.gpu`, `args.distributed`.

    `args.device` ("cuda", "cuda:1", "cpu", "mps") becomes "cuda:<local rank>" for a CUDA group.
    """
    found = rank_from_environment()
    args.rank, args.world_size, args.gpu = found or (0, 1, 0)
    args.distributed = found is not None and args.world_size > 1
    if not args.distributed:
        return
    on_cuda = torch.device(args.device).type == "cuda"
    if on_cuda:
        if args.gpu >= torch.cuda.device_count():
            raise InputError(f"{args.world_size} processes, but this machine has {torch.cuda.device_count()} GPUs: "
                             "start as many processes as GPUs, or give --device cpu")
        args.device = f"cuda:{args.gpu}"
        torch.cuda.set_device(args.gpu)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    dist.init_process_group(
        backend="nccl" if on_cuda else "gloo",
        init_method=getattr(args, "dist_url", None) or "env://",
        rank=args.rank,
        world_size=args.world_size,
        timeout=TIMEOUT,
    )
    say(f"{args.world_size} processes, backend {dist.get_backend()}")


def shut_down() -> None:
    """Leave the process group; call at the end of a script."""
    if is_distributed():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here."""
    if is_distributed():
        dist.barrier()


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
    dist.broadcast_object_list(holder, src=source)
    return holder[0]


def gather_objects(value: Any) -> list[Any] | None:
    """A list with every process's (picklable) object on rank 0, None on the others."""
    if not is_distributed():
        return [value]
    gathered = [None] * get_world_size() if is_main_process() else None
    dist.gather_object(value, gathered, dst=0)
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


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, or the module itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def sync_normalizers(model: nn.Module) -> None:
    """Let a model divide its losses by the mean count over all processes, where it offers that.

    Then gradients do not depend on how the images of a step are spread over the processes.
    """
    if hasattr(model, "reduce_normalizer"):
        model.reduce_normalizer = all_reduce_mean
