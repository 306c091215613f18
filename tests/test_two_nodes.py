"""Two "nodes" on this machine train one model, each in a folder of its own, as on machines without a shared file system."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from runs import equal, rows_without_times

import train_ssd as script
from datasets.shapes import make_shapes
from train_utils.checkpoint import load_checkpoint

WORDS = ["--data-path", "data", "--output-dir", "run", "--net", "small-ssd", "--resolution", "96", "--batch-size", "2", "--lr",
         "0.02", "--opt", "sgd", "--warmup-steps", "2", "--epochs", "2", "--keep-last", "2", "--device", "cpu", "--workers", "0",
         "--eval-every", "1", "--box-score-thresh", "0.0", "--ema", "0.5"]
NUM_VAL = 5  # more on the first node than on the second


def torchrun(folder, launch, *words):
    """Start the script in `folder`; the data lies there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    command = [sys.executable, "-m", "torch.distributed.run", *launch, str(ROOT / "train_ssd.py"), *WORDS, *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outputs(processes):
    """What each printed, after all came to a good end."""
    try:
        texts = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, texts):
        assert process.returncode == 0, text[-3000:]
    return texts


def two_nodes(folders, *words):
    """What the first and the second node print."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
    return outputs([torchrun(folder, [*meeting, f"--node_rank={rank}"], *words) for rank, folder in enumerate(folders)])


@pytest.fixture
def one_thread():
    """As on the nodes: sums by several threads differ in their last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """The folders of two nodes after a run of two epochs, and what was printed on each."""
    folders = [tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")]
    for folder in folders:
        make_shapes(folder / "data", num_train=8, num_val=NUM_VAL)
    return folders, two_nodes(folders)


def test_the_second_node_writes_nothing_and_needs_nothing(nodes):
    (first, second), (told, silence) = nodes
    assert "2 processes, backend gloo" in told and (first / "run" / "last.pth").is_file()
    assert [path.name for path in second.iterdir()] == ["data"] and "Epoch" not in silence


def test_metrics_of_one_process(nodes, one_thread, monkeypatch):
    """`--test-only` finds the 12 numbers of the run's last row, to the last digit."""
    first = nodes[0][0]
    found = []

    def evaluate_fully(*args, **options):
        found.append(original(*args, **options))
        return found[-1]

    original = script.evaluate_fully
    monkeypatch.setattr(script, "evaluate_fully", evaluate_fully)
    monkeypatch.chdir(first)
    script.main(script.parse_args([*WORDS, "--test-only", "--resume", "run/last.pth"]))
    stats = load_checkpoint("run/last.pth")["rows"][-1]["stats"]
    assert found[0][0].stats == stats and len(stats) == 12 and max(stats) > 0


def test_two_nodes_train_what_one_with_two_processes_trains(nodes, tmp_path):
    shutil.copytree(nodes[0][0] / "data", tmp_path / "data")
    outputs([torchrun(tmp_path, ["--standalone", "--nproc_per_node=2"])])
    one, two = (load_checkpoint(folder / "run" / "last.pth") for folder in (tmp_path, nodes[0][0]))
    equal(one["model"], two["model"])
    equal(one["ema"]["model"], two["ema"]["model"])
    assert rows_without_times(tmp_path / "run") == rows_without_times(nodes[0][0] / "run")


def test_two_nodes_go_on_from_a_checkpoint_of_the_first(nodes, tmp_path):
    """The second node has no run folder to read."""
    folders = [tmp_path / name for name in ("first", "second")]
    for ours, its in zip(folders, nodes[0]):
        shutil.copytree(its / "data", ours / "data")
    (folders[0] / "run").mkdir()
    shutil.copy(nodes[0][0] / "run" / "model_0.pth", folders[0] / "run" / "last.pth")
    told, _ = two_nodes(folders, "--resume", "auto")
    whole, continued = (load_checkpoint(folder / "run" / "last.pth") for folder in (nodes[0][0], folders[0]))
    equal(whole["model"], continued["model"])
    assert rows_without_times(nodes[0][0] / "run") == rows_without_times(folders[0] / "run")
    assert "goes on in epoch 1" in told and not (folders[1] / "run").exists()
