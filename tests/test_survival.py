"""Runs that are killed, asked to leave, or lose a process end as the run that nobody disturbed, bit for bit.

    pytest tests/test_survival.py --kills 20      twenty random moments of each detector, in place of one
"""

import os
import random
import signal
import time

import pytest
from survival import (
    SCRIPTS,
    command,
    finish,
    kill,
    log_lines,
    moment,
    same_end,
    start,
    wait_for,
    workers_of,
)

from train_utils.signals import REQUEUE_CODE

KINDS = ("saving", "evaluation", "step", "anywhere")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills processes as POSIX does")


@pytest.fixture(scope="session")
def undisturbed(shapes, tmp_path_factory):
    """A function that gives the folder of a run that nobody disturbed, made once per script and number of processes."""
    made = {}

    def run(name, processes=1):
        if (name, processes) not in made:
            made[name, processes] = tmp_path_factory.mktemp(f"undisturbed-{name}-{processes}")
            finish(command(name, shapes, "--workers", 0, processes=processes), made[name, processes])
        return made[name, processes]

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_killed_run_continues_exactly(name, shapes, tmp_path, undisturbed, request):
    reference = undisturbed(name)
    for number in range(request.config.getoption("--kills")):
        chance = random.Random(f"{name} {number}")
        folder, kind = tmp_path / str(number), KINDS[(number + list(SCRIPTS).index(name)) % len(KINDS)]
        process = start(command(name, shapes, "--workers", number % 2 * 2), folder)
        assert wait_for(moment(kind, folder, reference, chance.random()), process), kind
        kill(process, after=chance.uniform(0, 0.05))
        finish(command(name, shapes, "--workers", (number + 1) % 2 * 2), folder)
        same_end(folder, reference)


@pytest.mark.parametrize(("where", "processes"), [("Epoch: [1]", 1), ("Test:", 2), ("Epoch: [1]", 2), ("Test:", 1)])
def test_a_run_asked_to_leave_saves_and_continues_exactly(where, processes, shapes, tmp_path, undisturbed, request):
    if request.config.getoption("--kills") < 2 and (where, processes) in (("Epoch: [1]", 2), ("Test:", 1)):
        pytest.skip("with --kills 2 or more: a run takes its time")
    name = "ssd"
    reference = undisturbed(name, processes)
    process = start(command(name, shapes, "--workers", 0 if processes > 1 else 2, processes=processes), tmp_path)
    assert wait_for(lambda: any(where in line for line in log_lines(tmp_path)), process)
    asked = time.monotonic()
    # torchrun gets it alone and passes it on; a single process gets it with its loaders, as from a terminal or a scheduler
    (os.kill if processes > 1 else os.killpg)(process.pid, signal.SIGTERM)
    code = process.wait(timeout=60)
    assert time.monotonic() - asked < 30
    log = "\n".join(log_lines(tmp_path))
    assert "--resume auto goes on from there" in log
    assert code == REQUEUE_CODE if processes == 1 else code != 0
    assert "Traceback" not in log.split("SIGTERM")[0]
    finish(command(name, shapes, "--workers", 0, processes=processes), tmp_path)
    same_end(tmp_path, reference)


def test_torchrun_goes_on_after_the_death_of_a_process(shapes, tmp_path, undisturbed, request):
    reference = undisturbed("ssd", 2)
    for number in range(max(1, request.config.getoption("--kills") // 4)):
        chance = random.Random(f"rank {number}")
        folder = tmp_path / str(number)
        process = start(command("ssd", shapes, "--workers", 0, processes=2, restarts=1), folder)
        kind = KINDS[number % len(KINDS)]
        assert wait_for(moment(kind, folder, reference, chance.random()), process), kind
        os.kill(chance.choice(workers_of(process)), signal.SIGKILL)
        assert process.wait(timeout=300) == 0, "\n".join(log_lines(folder)[-40:])
        same_end(folder, reference)
