"""What becomes of a step whose loss is not finite: each policy in one process by hand, and in two that must agree."""

import copy
import datetime
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from train_utils.checkpoint import load_checkpoint
from train_utils.errors import LossNotFinite
from train_utils.nonfinite import MAX_FILES, NonFiniteGuard, not_finite_names

NAN = math.nan
IMAGES = [torch.full((3, 2, 2), 7, dtype=torch.uint8), torch.zeros(3, 2, 4, dtype=torch.uint8)]
TARGETS = [{"boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0]]), "image_id": 3}, {"boxes": torch.zeros(0, 4), "image_id": 5}]


class Net(nn.Module):
    """(w * x)^2, behind a BatchNorm if asked for."""

    def __init__(self, norm=False):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, -3.0]))
        self.norm = nn.BatchNorm1d(2) if norm else nn.Identity()
        self.register_buffer("cells", torch.arange(3))

    def forward(self, x):
        return {"loss_a": (self.norm(x) * self.weight).square().sum(), "loss_b": self.weight.sum() * 0 + 1}


def call(guard, model=None, batch=(IMAGES, TARGETS), losses=(NAN, 1.0), step=4):
    """Call the guard as the loop does; returns the model."""
    model = model or Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    losses = {f"loss_{i}": torch.tensor(value, requires_grad=True) for i, value in enumerate(losses)}
    guard("the loss is not finite at step 4; images: a.jpg", model, optimizer, batch, losses, step)
    return model


def refusal(*arguments, **options):
    with pytest.raises(LossNotFinite) as raised:
        call(*arguments, **options)
    return str(raised.value)


def test_stop_tells_what_is_known_and_what_to_do():
    model = Net(norm=True)  # whose weights are 1
    model.weight.grad, model.norm.weight.grad = torch.tensor([-8.0, 0.5]), torch.ones(2)
    assert refusal(NonFiniteGuard(), model) == (
        "the loss is not finite at step 4; images: a.jpg. Learning rate 0.25, largest parameter 3 (weight), "
        "largest gradient 8 (weight). To go on without such steps give --on-nonfinite skip or rollback")


def test_weights_that_are_not_finite_are_told_from_a_bad_batch():
    model = Net(norm=True)
    model.state_dict()["norm.bias"][0] = NAN
    message = refusal(NonFiniteGuard(), model)
    assert "largest parameter nan (norm.bias); the weights themselves are not finite since an earlier step (1 of them" in message
    assert "the weights themselves" not in refusal(NonFiniteGuard())


def test_skip_goes_on_as_often_as_the_limit_says(capsys):
    guard = NonFiniteGuard("skip", limit=2)
    call(guard)
    call(guard)
    assert "Step left out, 2 of at most 2 times" in capsys.readouterr().out
    assert "That makes 3 such steps, more than the 2 a run may have" in refusal(guard)
    assert "That makes 1 such steps" in refusal(NonFiniteGuard("rollback", limit=0, restore=list))


def test_a_resumed_run_keeps_counting():
    guard, resumed = NonFiniteGuard("skip", limit=1), NonFiniteGuard("skip", limit=1)
    call(guard)
    resumed.load_state_dict(copy.deepcopy(guard.state_dict()))
    assert "2 such steps" in refusal(resumed)


@pytest.mark.parametrize("name", ["weight", "norm.weight", "norm.running_var"])
def test_skipping_cannot_heal_weights_or_statistics(name):
    model = Net(norm=True)
    model.state_dict()[name][1] = NAN
    assert not_finite_names(model.state_dict()) == [name]
    assert "which leaving steps out cannot heal: continue with --resume auto --on-nonfinite rollback" in refusal(
        NonFiniteGuard("skip"), model)


def test_rollback_puts_the_last_weights_back(capsys):
    model, saved = Net(norm=True), copy.deepcopy(Net(norm=True).state_dict())
    guard = NonFiniteGuard("rollback", limit=2, restore=lambda: model.load_state_dict(saved))
    model.state_dict()["weight"][0] = model.state_dict()["norm.running_mean"][0] = NAN
    call(guard, model)
    assert model.weight.tolist() == [2.0, -3.0] and not_finite_names(model.state_dict()) == []
    assert "Back to the weights of the last checkpoint, 1 of at most 2 times" in capsys.readouterr().out


def test_rollback_needs_something_finite_to_go_back_to():
    assert "There is no checkpoint yet" in refusal(NonFiniteGuard("rollback"))
    model = Net()
    model.state_dict()["weight"][0] = NAN
    assert "The last checkpoint is not finite either" in refusal(NonFiniteGuard("rollback", restore=list), model)


def test_the_step_is_saved_such_that_it_can_be_repeated(tmp_path):
    torch.manual_seed(123)
    torch.rand(5)  # the choices inside the step
    model = Net(norm=True)
    message = refusal(NonFiniteGuard(folder=tmp_path / "run"), model)
    path = tmp_path / "run" / "nonfinite-step4-rank0.pth"
    assert f"saved for inspection: {path}. To go on" in message
    saved = torch.load(path, weights_only=True)
    assert saved["step"] == 4 and saved["seed"] == 123 and math.isnan(saved["losses"]["loss_0"])
    assert all(map(torch.equal, saved["images"], IMAGES)) and [t["image_id"] for t in saved["targets"]] == [3, 5]
    assert saved["targets"][1]["boxes"].shape == (0, 4)
    Net(norm=True).load_state_dict(saved["model"])
    assert saved["model"].keys() == model.state_dict().keys()


def test_few_files_of_each_process(tmp_path):
    (tmp_path / "nonfinite-step1-rank1.pth").touch()  # another process's
    guard = NonFiniteGuard("skip", limit=9, folder=tmp_path)
    for step in range(MAX_FILES):
        call(guard, step=step)
    again = NonFiniteGuard("stop", folder=tmp_path)  # the run after a restart
    assert f"not saved for inspection, {tmp_path} has 3 such files" in refusal(again, step=8)
    assert sorted(tmp_path.glob("*rank0.pth")) == [tmp_path / f"nonfinite-step{step}-rank0.pth" for step in range(MAX_FILES)]


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path, capsys):
    (tmp_path / "file").touch()
    call(NonFiniteGuard("skip", folder=tmp_path / "file" / "run"))
    printed = capsys.readouterr().out
    assert "not saved for inspection: " in printed and "Step left out" in printed


def test_nothing_at_all_in_the_batch_and_the_model(tmp_path):
    class Empty(nn.Module):
        pass

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(0))], lr=0.1)
    guard = NonFiniteGuard("skip", folder=tmp_path)
    guard("nothing", Empty(), optimizer, ([], []), {}, 0)  # a finite sum, as on a process that is not to blame
    assert load_checkpoint(tmp_path / "nonfinite-step0-rank0.pth")["images"] == []


def test_policies_have_names():
    with pytest.raises(ValueError, match="policy 'ignore': give one of stop, skip, rollback"):
        NonFiniteGuard("ignore")


def one_step(wrapped, optimizer, guard, rank, step, bad):
    """A step as the loop takes it; where `bad`, the images of rank 1 are not finite. Returns what the guard said."""
    x = torch.full((2, 2), NAN if bad and rank == 1 else 1.0 + rank) + torch.eye(2)
    losses = wrapped(x)
    total = torch.stack(list(losses.values())).sum().detach()
    dist.all_reduce(total)
    if total.isfinite():
        sum(losses.values()).backward()
        optimizer.step()
    else:
        try:
            guard(f"images of process {rank}", wrapped, optimizer, (list(x), [{}, {}]), losses, step)
        except LossNotFinite as error:
            return str(error)
    optimizer.zero_grad()
    return ""


def one_of_two(rank, folder):
    """Entry of a process: rank 1's batch is not finite in step 1 of 0, 1, 2."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2,
                            timeout=datetime.timedelta(minutes=2))
    for policy, norm, said in (("skip", False, ""), ("skip", True, "cannot heal"), ("stop", False, "To go on"),
                               ("rollback", True, "")):
        net = Net(norm=norm)
        saved = copy.deepcopy(net.state_dict())
        wrapped = nn.parallel.DistributedDataParallel(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        place = folder / f"{policy}-{norm}" if rank == 0 else folder / "wrong"  # rank 0 knows
        guard = NonFiniteGuard(policy, folder=place, restore=lambda net=net, saved=saved: net.load_state_dict(saved))
        one_step(wrapped, optimizer, guard, rank, 0, bad=False)
        before = net.weight.tolist()
        assert before != saved["weight"].tolist()
        message = one_step(wrapped, optimizer, guard, rank, 1, bad=True)
        assert guard.count == 1, (policy, norm)
        assert bool(said) == bool(message) and said in message, message
        after = net.weight.tolist()
        assert after == (before if policy != "rollback" else saved["weight"].tolist()), (policy, norm)
        assert not message or "images of process 1" in message and "images of process 0" not in message, message
        if not message:  # the processes still take steps together
            assert one_step(wrapped, optimizer, guard, rank, 2, bad=False) == ""
            weights = [torch.zeros(2), torch.zeros(2)]
            dist.all_gather(weights, net.weight.detach())
            assert weights[0].isfinite().all() and torch.equal(*weights) and net.weight.tolist() != after
        dist.barrier()
        path, = (folder / f"{policy}-{norm}").iterdir()
        assert path.name == "nonfinite-step1-rank1.pth" and load_checkpoint(path)["model"].keys() == saved.keys()
    check_a_sum_that_is_too_large(rank)
    dist.destroy_process_group()


def check_a_sum_that_is_too_large(rank):
    """Finite on each process: all are to blame."""
    guard = NonFiniteGuard("skip")
    call(guard, losses=(3e38,))
    assert guard.count == 1


def test_two_processes_decide_alike_when_the_batch_of_one_is_not_finite(tmp_path):
    mp.spawn(one_of_two, args=(tmp_path,), nprocs=2)
    assert not (tmp_path / "wrong").exists()
