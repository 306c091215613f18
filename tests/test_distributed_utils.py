"""Two gloo processes against one: metrics, gradients, equal weights after the unfreezing, and nobody waits for nobody."""

import copy
import datetime
import os
import socket
import threading
import time
import traceback
from multiprocessing import connection

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from conftest import ROOT
from torch import nn
from torch.utils.data import DataLoader

import train_fasterrcnn as script
from datasets.open_dataset import open_dataset
from datasets.shapes import make_shapes
from network_files.darknet_cfg import set_num_classes
from network_files.faster_rcnn_nets import build_faster_rcnn
from network_files.ssd_nets import build_ssd
from network_files.yolov3 import YOLOv3
from train_utils import distributed_utils
from train_utils.distributed_utils import (
    agree,
    all_reduce_mean,
    broadcast_object,
    data_parallel,
    fresh_keys,
    gather_objects,
    init_distributed_mode,
    largest,
    reduce_dict,
    shut_down,
    sync_normalizers,
)
from train_utils.loaders import evaluation_loader
from train_utils.nonfinite import NonFiniteGuard
from train_utils.samplers import TrainBatchSampler, collate_fn, evaluation_batches
from train_utils.train_eval_utils import evaluate_fully, train_one_epoch, validation_losses

CPU = torch.device("cpu")


class Settings:
    """Stands in for the parsed flags."""

    device, dist_url, backbone, freeze_epochs, trainable_backbone_layers = "cpu", "env://", "resnet18_fpn", 1, 2
    weights, weights_backbone = None, "none"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serve(rank, world_size, port, requests):
    """A process of a group: does the work it is sent, and answers with the result, or with what went wrong as text."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    settings = Settings()
    init_distributed_mode(settings)
    while (request := requests.recv()) is not None:
        work, parameters = request
        try:
            requests.send((True, work(settings, *parameters)))
        except Exception:
            requests.send((False, traceback.format_exc()))
    shut_down()


class Processes:
    """Several processes that stay from test to test, for starting them takes longer than most of what they do."""

    def __init__(self, count):
        self.count, self.processes, self.pipes = count, [], []

    def start(self):
        context, port, ends = mp.get_context("spawn"), free_port(), [mp.Pipe() for _ in range(self.count)]
        if "forkserver" in mp.get_all_start_methods():  # the slow imports once for all
            context = mp.get_context("forkserver")
            context.set_forkserver_preload(["torch._dynamo", "torchvision", "matplotlib.pyplot", "pycocotools.coco"])
        self.pipes = [ours for ours, _ in ends]
        self.processes = [context.Process(target=serve, args=(rank, self.count, port, theirs), daemon=True)
                          for rank, (_, theirs) in enumerate(ends)]
        for process in self.processes:
            process.start()

    def __call__(self, work, *parameters, seconds=60):
        """What `work(settings, *parameters)` returns on rank 0; a process that fails or hangs fails the test."""
        if not self.processes:
            self.start()
        for pipe in self.pipes:
            pipe.send((work, parameters))
        answers, deadline = {}, time.monotonic() + seconds
        while len(answers) < self.count:
            ready = connection.wait([p for p in self.pipes if p not in answers], max(0, deadline - time.monotonic()))
            answers |= {pipe: pipe.recv() for pipe in ready}
            errors = [result for done, result in answers.values() if not done]
            if errors or not ready:
                self.stop()
                pytest.fail(errors[0] if errors else f"{self.count - len(answers)} processes hang for {seconds} s")
        return answers[self.pipes[0]][1]

    def stop(self):
        for process in self.processes:
            process.kill()
            process.join()
        self.processes = []


@pytest.fixture(scope="module")
def in_two_processes():
    group = Processes(2)
    yield group
    group.stop()


@pytest.fixture(scope="module")
def in_three_processes():
    group = Processes(3)
    yield group
    group.stop()


def in_one_process(work, *parameters):
    settings = Settings()
    settings.rank, settings.world_size, settings.gpu, settings.distributed = 0, 1, 0, False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = work(settings, *parameters)
    torch.set_num_threads(threads)
    return result


def detector(**options):
    torch.manual_seed(0)
    return build_faster_rcnn("small_cnn", 5, min_size=64, max_size=96, box_head_size=32, box_score_thresh=0.0, **options)


def metrics(settings, folder):
    data = open_dataset("shapes", folder, "val")
    model = detector()
    sizes = [model.transform.padded_size(*data.get_height_and_width(i)) for i in range(len(data))]
    batches = evaluation_batches(sizes, 2, settings.rank, settings.world_size)
    loader = DataLoader(data, batch_sampler=batches, collate_fn=collate_fn)
    result, detections = evaluate_fully(model, loader, CPU)
    return result.stats, detections


def test_metrics_do_not_depend_on_the_number_of_processes(in_two_processes, tmp_path):
    folder = make_shapes(tmp_path / "shapes", num_train=2, num_val=7)
    (one, found), (two, found_by_two) = in_one_process(metrics, folder), in_two_processes(metrics, folder)
    assert one == two and len(one) == 12 and max(one) > 0
    for name in found:
        np.testing.assert_array_equal(found[name], found_by_two[name])


def gradients(settings):
    """Of one step on four images of one size; every anchor and every proposal is sampled."""
    model = detector(rpn_batch_size_per_image=10**6, rpn_positive_fraction=1.0, box_batch_size_per_image=10**6,
                     box_positive_fraction=1.0, rpn_pre_nms_top_n_train=10**6, rpn_post_nms_top_n_train=50)
    model = model.double().train()
    wrapped = model
    if settings.distributed:
        sync_normalizers(model)
        wrapped = nn.parallel.DistributedDataParallel(model)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 3, 64, 64, generator=generator, dtype=torch.float64)
    boxes = [[[5, 5, 30, 40]], [[10, 8, 50, 60], [2, 30, 20, 60], [30, 4, 60, 24]], [], [[20, 20, 44, 44]]]
    targets = [{"boxes": torch.tensor(b, dtype=torch.float64).reshape(-1, 4), "image_id": i,
                "labels": torch.arange(1, len(b) + 1)} for i, b in enumerate(boxes)]
    mine = slice(settings.rank, None, settings.world_size)
    sum(wrapped(list(images[mine]), targets[mine]).values()).backward()
    return {name: p.grad.numpy() for name, p in model.named_parameters()}


def test_gradients_do_not_depend_on_the_number_of_processes(in_two_processes):
    one, two = in_one_process(gradients), in_two_processes(gradients)
    assert max(np.abs(gradient).max() for gradient in one.values()) > 1e-3
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-5, err_msg=name)


def two_stages(settings, folder):
    """One epoch frozen, one after the border, through the script's own functions; every rank's final weights."""
    data = open_dataset("shapes", folder, "train")
    torch.manual_seed(settings.rank)  # DDP must make the start equal
    model = build_faster_rcnn("resnet18_fpn", 5, norm="bn", fpn_channels=16, min_size=64, max_size=96, box_head_size=32,
                              rpn_post_nms_top_n_train=50, box_batch_size_per_image=16)
    sampler = TrainBatchSampler(len(data), 2, rank=settings.rank, world_size=settings.world_size)
    loader = DataLoader(Pairs(data), batch_sampler=sampler, collate_fn=collate_fn)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    states = []
    for epoch in range(2):
        wrapped = script.set_stage(model, settings, epoch)
        states.append(copy.deepcopy(model.backbone.state_dict()))
        train_one_epoch(wrapped, optimizer, loader, CPU, epoch, seed=0)
    states.append(model.state_dict())
    return [[{k: v.numpy() for k, v in state.items()} for state in rank] for rank in gather_objects(states) or []]


class Pairs(torch.utils.data.Dataset):
    """A data set under (epoch, index) keys."""

    def __init__(self, data):
        self.data = data

    def __getitem__(self, key):
        return self.data[key[1]]


def test_after_the_border_all_processes_hold_equal_weights(in_two_processes, tmp_path):
    folder = make_shapes(tmp_path / "shapes", num_train=8, num_val=2)
    (start_0, border_0, final_0), (_, border_1, final_1) = in_two_processes(two_stages, folder)
    body = [name for name in start_0 if name.startswith("body.")]
    for name in body:  # stage 1: parameters and statistics stay
        np.testing.assert_array_equal(start_0[name], border_0[name], err_msg=name)
    for name in final_0:
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            np.testing.assert_array_equal(final_0[name], final_1[name], err_msg=name)
    moved = [name for name in body if (border_0[name] != final_0[f"backbone.{name}"]).any()]
    assert any(name.startswith("body.layer4") for name in moved)
    assert not any(name.startswith("body.layer2") for name in moved)  # held by trainable_backbone_layers


def test_processes_started_again_do_not_find_the_keys_of_the_dead():
    """torchrun keeps its store when it starts processes again, which come in any order."""
    store = torch.distributed.HashStore()

    def join(order):
        prefixes = {}
        threads = []
        for rank in order:
            threads.append(threading.Thread(target=lambda r=rank: prefixes.update({r: fresh_keys(store, r, 3)})))
            threads[-1].start()
            time.sleep(0.1)
        for thread in threads:
            thread.join(10)
        assert set(prefixes) == {0, 1, 2}
        prefixes[order[0]].set("address", str(order))
        assert all(prefix.get("address").decode() == str(order) for prefix in prefixes.values())

    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        join(order)
    store.set_timeout(datetime.timedelta(seconds=0.3))
    with pytest.raises(RuntimeError):
        fresh_keys(store, 1, 2)  # rank 0 does not come


def collectives(settings, own_group=False):
    if own_group:  # as beside nccl, which must not be asked to wait for the GPU
        distributed_utils._control_group = torch.distributed.new_group(backend="gloo")
    rank = settings.rank
    return (
        all_reduce_mean(torch.tensor([1.0 + 2 * rank])).item(),
        {k: v.item() for k, v in reduce_dict({"b": torch.tensor(rank + 1.0), "a": torch.tensor(10.0 * rank)}).items()},
        broadcast_object(f"from {rank}"),
        gather_objects(rank),
        (agree(False), agree(rank == 1), agree(True)),
        (largest(-5 - rank), largest(2**40 + rank)),
    )


def collectives_twice(settings):
    """With the one group, then with a group of its own; and how long a checkpoint of 64 MB takes to get to the other."""
    first, second = collectives(settings), collectives(settings, own_group=True)
    distributed_utils._control_group = None
    begin = time.monotonic()
    sent = broadcast_object({"model": torch.full((2**24,), settings.rank + 1.0), "epoch": 3} if settings.rank == 0 else None)
    seconds = time.monotonic() - begin
    sums = gather_objects((float(sent["model"].sum()), sent["epoch"]))
    return first, second, sums, seconds


def test_collectives(in_two_processes):
    expected = (2.0, {"a": 5.0, "b": 1.5}, "from 0", [0, 1], (False, True, True), (-5, 2**40 + 1))
    first, second, sums, seconds = in_two_processes(collectives_twice)
    assert first == second == expected
    assert sums == [(2.0**24, 3)] * 2 and seconds < 20
    assert in_one_process(collectives) == (1.0, {"a": 0.0, "b": 1.0}, "from 0", [0], (False, False, True), (-5, 2**40))
    assert reduce_dict({}) == {} and broadcast_object(None) is None


DETECTORS = {
    "fasterrcnn": lambda: build_faster_rcnn("small_cnn", 5, min_size=64, max_size=96, box_head_size=32, box_score_thresh=0.0,
                                            rpn_post_nms_top_n_train=50, box_batch_size_per_image=16),
    "ssd": lambda: build_ssd("small-ssd", 5, resolution=96),
    "yolov3": lambda: YOLOv3(set_num_classes((ROOT / "cfg" / "yolov3-small.cfg").read_text(), 4), img_size=96),
}
# who has objects in a step: both, one, the other, nobody
WITH_OBJECTS = ((0, 1), (0,), (1,), (), (0, 1))


def batch_of(rank, step):
    """Two images of a process, their objects if it is its turn."""
    boxes = [[[5, 5, 30, 40], [30, 20, 60, 60]], [[20, 20, 44, 44]]] if rank in WITH_OBJECTS[step] else [[], []]
    images = list(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(10 * step + rank)))
    return images, [{"boxes": torch.tensor(b, dtype=torch.float32).reshape(-1, 4), "image_id": i,
                     "labels": torch.arange(1, len(b) + 1)} for i, b in enumerate(boxes)]


def trained(model, rank, again_at=None):
    """The weights of all processes as one array each, after a step for every entry of WITH_OBJECTS.

    Args:
        again_at: step before which the model is wrapped anew, as after a restart.
    """
    sync_normalizers(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    wrapped = data_parallel(model, None)
    for step in range(len(WITH_OBJECTS)):
        wrapped = data_parallel(model, None) if step == again_at else wrapped
        train_one_epoch(wrapped, optimizer, [batch_of(rank, step)], CPU, step, seed=0)
    return gather_objects(torch.cat([p.detach().flatten() for p in model.parameters()]).numpy())


def traps(settings, kind, folders):
    """(every process's weights after training with and without objects, metrics and losses of each small data set)."""
    torch.manual_seed(0)
    model = DETECTORS[kind]()
    weights = trained(copy.deepcopy(model), settings.rank) if settings.distributed else None
    results = []
    for folder in folders:
        data = open_dataset("shapes", folder, "val")
        loader = evaluation_loader(data, model.transform.padded_size, 1, CPU, 0)
        result, _ = evaluate_fully(model, loader, CPU)
        results.append((result.stats, validation_losses(model, loader, CPU)))
    return weights, results


@pytest.mark.parametrize("kind", DETECTORS)
def test_no_process_waits_for_one_without_objects_or_images(in_two_processes, kind, tmp_path):
    """Processes without any object in a step, all of them, unequal numbers of evaluation batches, and none for one."""
    folders = [make_shapes(tmp_path / f"of{n}", num_train=2, num_val=n) for n in (3, 1)]
    (first, second), results = in_two_processes(traps, kind, folders)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)
    _, expected = in_one_process(traps, kind, folders)
    for (stats, losses), (one_stats, one_losses) in zip(results, expected):
        assert stats == one_stats and losses == pytest.approx(one_losses, rel=1e-6) and len(losses) >= 2


def wrapped_anew(settings):
    """Rank 0's weights, of a run that was not interrupted and of one that was."""
    torch.manual_seed(0)
    model = DETECTORS["ssd"]()
    whole, continued = (trained(copy.deepcopy(model), settings.rank, again_at) for again_at in (None, 2))
    return settings.rank == 0 and (whole[0], continued[0])


def test_three_processes_that_go_on_add_in_the_same_order(in_three_processes):
    """From three processes on (a + b) + c may be another number than a + (b + c)."""
    whole, continued = in_three_processes(wrapped_anew)
    np.testing.assert_array_equal(whole, continued)


class Poisoned(nn.Module):
    """A detector whose losses are not numbers on rank 1 in its second step."""

    def __init__(self, detector, rank):
        super().__init__()
        self.detector, self.rank, self.calls = detector, rank, 0

    def forward(self, images, targets):
        self.calls += 1
        factor = torch.nan if (self.rank, self.calls) == (1, 2) else 1.0
        return {name: value * factor for name, value in self.detector(images, targets).items()}


def skipping(settings):
    """All weights of every process after each step, of which the second is left out."""
    torch.manual_seed(0)
    model = Poisoned(DETECTORS["ssd"](), settings.rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    wrapped, weights = data_parallel(model, None), []
    for step in range(3):
        train_one_epoch(wrapped, optimizer, [batch_of(settings.rank, step)], CPU, step, guard=NonFiniteGuard("skip"))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().copy())
    return gather_objects(weights)


def test_a_step_that_one_process_cannot_take_is_left_out_by_all(in_two_processes):
    first, second = in_two_processes(skipping)
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first[0], first[1])
    assert np.isfinite(first[2]).all() and (first[2] != first[1]).any()
