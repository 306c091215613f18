"""Small runs of the training scripts as processes of their own, to be killed, asked to leave, continued and compared."""

import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from conftest import ROOT
from runs import equal, rows_without_times

from train_utils.checkpoint import load_checkpoint
from train_utils.resume import RunIsComplete

COMMON = ["--batch-size", "3", "--accumulate", "2", "--lr", "0.002", "--opt", "adamw", "--epochs", "3", "--ema", "--val-loss",
          "--eval-every", "1", "--device", "cpu", "--print-freq", "1", "--save-every-steps", "2", "--keep-last", "1",
          "--resume", "auto", "--freeze-epochs", "1", "--output-dir", "out"]
SCRIPTS = {  # augmentation, dropout or multi-scale wherever there is some, so that its randomness is under test
    "fasterrcnn": ["--min-size", "64", "96", "--max-size", "96", "--box-head-size", "32", "--roi-samples", "16",
                   "--rpn-top-n", "50", "--photometric"],
    "ssd": ["--net", "small-ssd", "--resolution", "96", "--augmentation", "ssd"],
    "yolov3": ["--cfg", "cfg/yolov3-small.cfg", "--img-size", "96", "--multi-scale", "--mosaic", "--nominal-batch", "0"],
}


def command(name: str, data: Path, *words: object, processes: int = 1, restarts: int = 0) -> list[str]:
    """The command line of a small run; several processes are started by torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", f"--max-restarts={restarts}"]
    start = [sys.executable, *(launcher if processes > 1 else []), str(ROOT / f"train_{name}.py")]
    return [*start, "--data-path", str(data), *COMMON, *SCRIPTS[name], *map(str, words)]


def start(words: list[str], folder: Path) -> subprocess.Popen:
    """Start a command in `folder`, in a process group of its own; its output goes to `folder`/log.txt, behind what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}
    with open(folder / "log.txt", "ab") as file:
        return subprocess.Popen(words, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def finish(words: list[str], folder: Path) -> None:
    """Run a command to its end, which must be a good one; without a launcher in this process, for starting one takes seconds."""
    if "torch.distributed.run" in words:
        code = start(words, folder).wait(timeout=300)
        assert code == 0, (folder / "log.txt").read_text()[-3000:]
        return
    folder.mkdir(parents=True, exist_ok=True)
    script, threads, here = importlib.import_module(Path(words[1]).stem), torch.get_num_threads(), Path.cwd()
    torch.set_num_threads(1)
    os.chdir(folder)
    try:
        with open("log.txt", "a") as log, contextlib.redirect_stdout(log), contextlib.suppress(RunIsComplete):
            script.main(script.parse_args(words[2:]))
    finally:
        os.chdir(here)
        torch.set_num_threads(threads)


def log_lines(folder: Path) -> list[str]:
    log = folder / "log.txt"
    return log.read_text(errors="replace").splitlines() if log.exists() else []


def wait_for(happened, process: subprocess.Popen, timeout: float = 120) -> bool:
    """Wait until `happened()` or the end of the process; tells whether it happened."""
    deadline = time.monotonic() + timeout
    while process.poll() is None:
        if happened():
            return True
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.0005)
    return False


def moment(kind: str, folder: Path, reference: Path, seed: object):
    """A function that tells whether a run in `folder` has come to a random moment of a kind, known from the lines of another run.

    kind: "step": behind some step; "saving": while a checkpoint is being written; "evaluation": within one; "anywhere": behind
    any line.
    """
    chance = random.Random(str(seed))
    if kind == "saving":
        saves_before, seen = chance.randrange(5), set()

        def saving():
            for file in (folder / "out").glob(".*new.pth*"):
                with contextlib.suppress(FileNotFoundError):  # written already
                    seen.add(file.stat().st_ino)
            return len(seen) > saves_before

        return saving
    marks = {"step": "Epoch: [", "evaluation": "Test:", "anywhere": ""}[kind]
    log = log_lines(reference)[:-3]  # behind the last lines there may be nothing left to kill
    wanted = chance.choice([number for number, line in enumerate(log) if marks in line and "total time" not in line])
    return lambda: len(log_lines(folder)) > wanted


def kill(process: subprocess.Popen, after: float = 0.0) -> None:
    """End a process and its loader processes as the kernel does, without a chance to clean up."""
    time.sleep(after)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def workers_of(launcher: subprocess.Popen) -> list[int]:
    """Process ids that torchrun started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def same_end(folder: Path, reference: Path) -> None:
    """Two runs came to the same: all tensors bit for bit, all result rows but for times, all files."""
    for name in ("last.pth", "best.pth"):
        one, other = load_checkpoint(folder / "out" / name), load_checkpoint(reference / "out" / name)
        assert one["epoch"] == other["epoch"]
        equal(one["model"], other["model"])
        equal(one["ema"]["model"], other["ema"]["model"])
        assert one["ema"]["updates"] == other["ema"]["updates"]
        states, others = one["optimizer"]["state"], other["optimizer"]["state"]
        assert states.keys() == others.keys()
        for number, state in states.items():
            equal(state, others[number])
        assert all(one[name] == other[name] for name in ("scaler", "guard", "bad_samples"))
        groups = [checkpoint["optimizer"]["param_groups"] for checkpoint in (one, other)]
        assert groups[0] == groups[1]
    assert rows_without_times(folder / "out") == rows_without_times(reference / "out")
    assert (folder / "out" / "results.txt").read_text() == (reference / "out" / "results.txt").read_text()
    assert {file.name for file in (folder / "out").iterdir()} == {file.name for file in (reference / "out").iterdir()}
