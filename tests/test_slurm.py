"""What the environment says about processes: torchrun, SLURM's srun, shells and batch scripts, and mistakes."""

import argparse
import os
import socket
import subprocess
import sys
from datetime import timedelta
from unittest import mock

import pytest
import torch
from conftest import ROOT

from train_utils import distributed_utils
from train_utils.distributed_utils import (
    choose_meeting_point,
    first_host,
    gpu_of_process,
    init_distributed_mode,
    rank_from_environment,
)
from train_utils.errors import InputError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
JOB = {"SLURM_JOB_ID": "1731344", "SLURM_JOB_NODELIST": "gpu[3-4]", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}
SALLOC = JOB  # the shell on the login node; it has no SLURM_PROCID
SBATCH = {**JOB, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # a batch script
INTERACTIVE = {**SBATCH, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "gpu3",
               "SLURM_PTY_PORT": "39933"}  # the shell that newer salloc opens on the first node
SRUN = {**JOB, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "gpu[3-4]",
        "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}


def others():
    """The environment without the variables that count."""
    return {name: value for name, value in os.environ.items() if name not in NAMES and not name.startswith("SLURM_")}


@pytest.fixture
def environment():
    """Call with a dict: the variables that count are those. Afterwards all is as before, also what the code has set."""

    def put(variables):
        rest = others()
        os.environ.clear()
        os.environ.update(rest | variables)

    with mock.patch.dict(os.environ):
        put({})
        yield put


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (TORCHRUN, (3, 4, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, 0)),
        (SRUN, (3, 4, 1)),
        ({**SRUN, **TORCHRUN, "RANK": "2"}, (2, 4, 1)),  # torchrun inside of srun
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        (SALLOC, None),
        (SBATCH, None),
        (INTERACTIVE, None),
        ({}, None),
    ],
)
def test_rank_from_environment(variables, expected, environment):
    environment(variables)
    assert rank_from_environment() == expected


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "0"}, ("has RANK but not WORLD_SIZE", "unset RANK")),
        ({"WORLD_SIZE": "2", **SRUN}, ("has WORLD_SIZE but not RANK", "torchrun or srun")),
        ({**SRUN, "RANK": "1"}, ("has RANK but not WORLD_SIZE",)),
        ({key: value for key, value in SRUN.items() if key != "SLURM_PROCID"}, ("SLURM_STEP_NUM_TASKS but not SLURM_PROCID",)),
        ({"RANK": "2", "WORLD_SIZE": "2"}, ("RANK 2", "WORLD_SIZE 2")),
        ({"RANK": "0", "WORLD_SIZE": "0"}, ("WORLD_SIZE 0",)),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, ("RANK must be a whole number", "'-1'")),
        ({"RANK": "0", "WORLD_SIZE": "two"}, ("WORLD_SIZE must be a whole number", "'two'")),
        ({**TORCHRUN, "LOCAL_RANK": ""}, ("LOCAL_RANK", "''")),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "4(x2)"}, ("SLURM_STEP_NUM_TASKS", "'4(x2)'")),
    ],
)
def test_half_a_set_of_variables_is_refused(variables, words, environment):
    environment(variables)
    with pytest.raises(InputError) as refused:
        rank_from_environment()
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("node7", "node7"),
        ("gpu[003-004,17],login2", "gpu003"),
        ("gpu[17,003-004]", "gpu17"),
        ("login2,gpu[003-004]", "login2"),
        ("a-b[1-2]-ib", "a-b1-ib"),
        ("rack[0-1]node[2-3,9]", "rack0node2"),
        ("cn-0012", "cn-0012"),
        ("nid[001096]", "nid001096"),
        ("c1-[02,05-07],c2-[1-3]", "c1-02"),
        ("n1.cluster.example.org,n2.cluster.example.org", "n1.cluster.example.org"),
        ("g[10-100:10].hpc", "g10.hpc"),
        ("[5-8]", "5"),
        ("GPU71E4", "GPU71E4"),
        ("", ""),
    ],
)
def test_first_host(nodelist, host):
    assert first_host(nodelist) == host


def meeting_point(variables, environment):
    environment(variables)
    choose_meeting_point()
    return os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]


def test_where_the_processes_of_slurm_meet(environment):
    assert meeting_point(SRUN, environment) == ("gpu3", "21344")  # 10000 + 1731344 % 20000
    assert meeting_point({**SRUN, "SLURM_STEP_NODELIST": "gpu4"}, environment) == ("gpu4", "21344")
    assert meeting_point(JOB, environment) == ("gpu3", "21344")
    assert meeting_point({**SRUN, "MASTER_ADDR": "10.0.0.1"}, environment) == ("10.0.0.1", "21344")
    assert meeting_point({**SRUN, "MASTER_PORT": "5000"}, environment) == ("gpu3", "5000")
    assert meeting_point({}, environment) == ("127.0.0.1", "29500")
    ports = [int(meeting_point({**SRUN, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}, environment)[1])
             for job in range(1731390, 1731410) for step in range(5)]  # on both sides of a round of ports
    assert len(set(ports)) == 100 and 10000 <= min(ports) <= max(ports) < 30000


def test_every_process_gets_a_gpu(environment):
    assert [gpu_of_process(rank, 4, 4) for rank in range(4)] == [0, 1, 2, 3]
    with pytest.raises(InputError, match="4 processes, but this machine has 2 GPUs"):
        gpu_of_process(2, 2, 4)
    environment({**SRUN, "SLURM_GPUS_PER_TASK": "1"})  # srun shows each process its own GPU, as number 0
    assert gpu_of_process(3, 1, 4) == 0
    environment({**SRUN, **TORCHRUN, "SLURM_GPUS_PER_TASK": "1"})  # one task with one GPU that starts several processes
    with pytest.raises(InputError, match="1 GPUs"):
        gpu_of_process(1, 1, 4)


@pytest.mark.parametrize("variables", [SALLOC, SBATCH, {}])
def test_without_srun_there_is_one_process(variables, environment, capsys):
    environment(variables)
    args = argparse.Namespace(device="cpu")
    init_distributed_mode(args)
    assert (args.rank, args.world_size, args.gpu, args.distributed) == (0, 1, 0, False)
    said = capsys.readouterr().out
    assert ("SLURM has 4 tasks, but srun did not start this script: one process" in said) == bool(variables)
    assert "MASTER_ADDR" not in os.environ


def refusal(variables, environment, **args):
    environment(variables)
    with pytest.raises(InputError) as refused:
        init_distributed_mode(argparse.Namespace(device="cpu", **args))
    assert not torch.distributed.is_initialized() and "\n" not in str(refused.value)
    return str(refused.value)


def test_processes_that_do_not_meet(environment, monkeypatch):
    """Nobody comes, nobody is there, the port is taken, the address is none: one sentence, with the address."""
    monkeypatch.setattr(distributed_utils, "MEETING_TIMEOUT", timedelta(seconds=1))
    pair = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = str(taken.getsockname()[1])
        message = refusal({**pair, "RANK": "1", "MASTER_PORT": port}, environment)
        assert f"process 1 of 2 cannot meet the others at 127.0.0.1:{port} (" in message and "MASTER_ADDR" in message
        taken.listen()
        assert "address already in use" in refusal({**pair, "MASTER_PORT": port}, environment)
    assert f"127.0.0.1:{port} (Timed out" in refusal({**pair, "MASTER_PORT": port}, environment)
    assert "127.0.0.1:http" in refusal({**pair, "MASTER_PORT": "http"}, environment)
    assert "meet the others at tcp://nowhere (" in refusal(pair, environment, dist_url="tcp://nowhere")


def test_srun_starts_a_group(tmp_path):
    """Two processes with srun's variables and nothing else; the first host of the list is this machine."""
    script = tmp_path / "script.py"
    script.write_text(
        "import argparse\n"
        "from train_utils.distributed_utils import gather_objects, init_distributed_mode, shut_down\n"
        "args = argparse.Namespace(device='cpu')\n"
        "init_distributed_mode(args)\n"
        "print(gather_objects((args.rank, args.gpu)))\n"
        "shut_down()\n"
    )
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = str(probe.getsockname()[1])
    step = {**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost,gpu[3-4]", "MASTER_PORT": port,
            "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True,
                                  env={**others(), **step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}) for rank in ("0", "1")]
    first, second = (process.communicate(timeout=60)[0].splitlines() for process in processes)
    assert first == ["2 processes, backend gloo", "[(0, 0), (1, 1)]"] and second == ["None"]
