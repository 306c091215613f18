"""Two gloo processes against one: metrics, gradients, and equal weights after the unfreezing."""

import copy
import os
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader

import train_fasterrcnn as script
from datasets.open_dataset import open_dataset
from datasets.shapes import make_shapes
from network_files.faster_rcnn_nets import build_faster_rcnn
from train_utils.distributed_utils import (
    all_reduce_mean,
    broadcast_object,
    gather_objects,
    init_distributed_mode,
    rank_from_environment,
    reduce_dict,
    shut_down,
    sync_normalizers,
)
from train_utils.samplers import TrainBatchSampler, collate_fn, evaluation_batches
from train_utils.train_eval_utils import evaluate_fully, train_one_epoch

CPU = torch.device("cpu")


class Settings:
    """Stands in for the parsed flags."""

    device, dist_url, backbone, freeze_epochs, trainable_backbone_layers = "cpu", "env://", "resnet18_fpn", 1, 2
    weights, weights_backbone = None, "none"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(rank, world_size, port, work, queue, parameters):
    """Entry of a process."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    settings = Settings()
    init_distributed_mode(settings)
    result = work(settings, *parameters)
    if rank == 0:
        queue.put(result)
        queue.join()
    shut_down()


def in_two_processes(work, *parameters):
    """What `work(settings, *parameters)` returns on rank 0 of two processes."""
    context = mp.get_context("spawn")
    queue = context.JoinableQueue()
    processes = [context.Process(target=start, args=(rank, 2, port, work, queue, parameters))
                 for port in [free_port()] for rank in range(2)]
    for process in processes:
        process.start()
    result = copy.deepcopy(queue.get(timeout=240))
    queue.task_done()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    return result


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


def test_metrics_do_not_depend_on_the_number_of_processes(tmp_path):
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


def test_gradients_do_not_depend_on_the_number_of_processes():
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


def test_after_the_border_all_processes_hold_equal_weights(tmp_path):
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


def collectives(settings):
    rank = settings.rank
    return (
        all_reduce_mean(torch.tensor([1.0 + 2 * rank])).item(),
        {k: v.item() for k, v in reduce_dict({"b": torch.tensor(rank + 1.0), "a": torch.tensor(10.0 * rank)}).items()},
        broadcast_object(f"from {rank}"),
        gather_objects(rank),
    )


def test_collectives():
    assert in_two_processes(collectives) == (2.0, {"a": 5.0, "b": 1.5}, "from 0", [0, 1])
    assert in_one_process(collectives) == (1.0, {"a": 0.0, "b": 1.0}, "from 0", [0])
    assert reduce_dict({}) == {}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, (3, 4, 1)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, (2, 4, 0)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({}, None),
    ],
)
def test_rank_from_environment(environment, expected, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank_from_environment() == expected
