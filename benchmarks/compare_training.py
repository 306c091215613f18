"""The same recipe with our detector and with torchvision's own class: accuracy and seconds per step, side by side.

    python benchmarks/compare_training.py fasterrcnn ours        --data-path ... --output-dir runs/ours         [its flags]
    python benchmarks/compare_training.py fasterrcnn torchvision --data-path ... --output-dir runs/torchvision [the same flags]
    python benchmarks/compare_training.py ssd steps --steps 20 --data-path ...   both in one process, alternating step by step

Both start from the same weights tensor for tensor and run through the same loop, data and evaluation; only the class
of the detector differs.
"""

import argparse
import importlib
import json
import statistics
import sys
import time
from collections import OrderedDict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torchvision  # noqa: E402
from torch import nn  # noqa: E402

from train_utils.train_eval_utils import to_device  # noqa: E402


class TorchvisionFasterRCNN(nn.Module):
    """torchvision's class with our model's contract around it: uint8 images, targets with further entries."""

    def __init__(self, ours: nn.Module, model_args: dict):
        super().__init__()
        rpn, roi = ours.rpn, ours.roi_heads
        same = ("rpn_pre_nms_top_n_train", "rpn_post_nms_top_n_train", "rpn_score_thresh", "box_batch_size_per_image",
                "box_score_thresh", "box_nms_thresh", "box_detections_per_img")
        names = list(roi.box_roi_pool.featmap_names)
        detector = torchvision.models.detection.FasterRCNN(
            ours.backbone,
            min_size=tuple(model_args["min_size"]),
            max_size=model_args["max_size"],
            rpn_anchor_generator=torchvision.models.detection.rpn.AnchorGenerator(
                tuple(rpn.anchor_generator.sizes), tuple(rpn.anchor_generator.aspect_ratios)
            ),
            rpn_head=rpn.head,
            box_roi_pool=torchvision.ops.MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
            box_head=roi.box_head,
            box_predictor=roi.box_predictor,
            **{name: model_args[name] for name in same},
        )
        self.detector = detector
        self.resize = ours.transform  # for the sizes of evaluation batches only

    @property
    def backbone(self) -> nn.Module:
        """For freezing."""
        return self.detector.backbone

    @property
    def transform(self) -> nn.Module:
        """For the sizes of evaluation batches."""
        return self.resize

    def forward(self, images, targets=None):
        """Our contract."""
        images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
        if targets is not None:
            targets = [{"boxes": t["boxes"], "labels": t["labels"]} for t in targets]
        return self.detector(images, targets)


class Sources(nn.Module):
    """Our base and extra layers as torchvision's SSD wants a backbone: an ordered dict of maps."""

    def __init__(self, ours: nn.Module):
        super().__init__()
        self.ours = ours

    def forward(self, images):
        """Maps from fine to coarse."""
        return OrderedDict((str(level), source) for level, source in enumerate(self.ours.sources(images)))


class Heads(nn.Module):
    """Our heads as torchvision's SSD wants them."""

    def __init__(self, ours: nn.Module):
        super().__init__()
        self.classification_headers, self.regression_headers = ours.classification_headers, ours.regression_headers
        self.num_classes = ours.num_classes

    def forward(self, sources):
        """Logits and deltas of all default boxes."""
        return {"cls_logits": self._rows(self.classification_headers, sources, self.num_classes),
                "bbox_regression": self._rows(self.regression_headers, sources, 4)}

    def _rows(self, headers, sources, columns):
        maps = [header(source) for header, source in zip(headers, sources)]
        return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, columns) for m in maps], dim=1)


class TorchvisionSSD(nn.Module):
    """torchvision's class with our model's contract around it; its default boxes are as ours but for the clipped centres."""

    def __init__(self, ours: nn.Module, model_args: dict):
        super().__init__()
        boxes, side = ours.default_boxes.spec, ours.resolution
        sizes = [level[0] / side for level in boxes.sizes] + [boxes.sizes[-1][1] / side]
        anchors = torchvision.models.detection.anchor_utils.DefaultBoxGenerator(
            [list(ratios) for ratios in boxes.aspect_ratios], scales=sizes, steps=list(boxes.steps) if boxes.steps else None)
        same = ("score_thresh", "nms_thresh", "detections_per_img")
        self.detector = torchvision.models.detection.ssd.SSD(
            Sources(ours), anchors, (side, side), ours.num_classes, head=Heads(ours), image_mean=list(ours.transform.image_mean),
            image_std=list(ours.transform.image_std), topk_candidates=ours.candidates_per_class,
            **{name: getattr(ours, name) for name in same})

    def __getattr__(self, name):
        """Parts and settings that the script asks for (layers to freeze, resolution, ...) are those of ours."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("detector").backbone.ours, name)

    def forward(self, images, targets=None):
        """Our contract."""
        images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
        if targets is not None:
            targets = [{"boxes": t["boxes"], "labels": t["labels"]} for t in targets]
        return {f"loss_{name}": value for name, value in self.detector(images, targets).items()} if targets else \
            self.detector(images)


CLASSES = {"fasterrcnn": TorchvisionFasterRCNN, "ssd": TorchvisionSSD}


def torchvision_maker(script, torchvision_class: type[nn.Module]):
    """`create_model` with torchvision's class around the same parts, hence the same initial weights."""
    ours = script.create_model
    return lambda model_args, class_names: torchvision_class(ours(model_args, class_names), model_args)


def time_steps(script, torchvision_class: type[nn.Module], words: list[str], steps: int) -> None:
    """Alternate training steps of both on the same batches, and print the ratio of the medians."""
    args = script.parse_args(words)
    args.device = args.device or "cpu"
    script.check_args(args)
    args.rank, args.world_size, args.gpu, args.distributed = 0, 1, 0, False
    device = torch.device(args.device)
    train_set, _ = script.open_data(args)
    if args.trainable_backbone_layers is None:
        args.trainable_backbone_layers = script.default_trainable_layers(args)
    model_args = script.resolve_model_args(args, None)
    models = {}
    for name, create in (("ours", script.create_model), ("torchvision", torchvision_maker(script, torchvision_class))):
        torch.manual_seed(0)
        model = create(model_args, train_set.class_names).to(device)
        script.load_start_weights(model, args, None, train_set.class_names)
        script.set_stage(model, args, args.freeze_epochs)
        models[name] = model.train(), script.create_optimizer(args, model)
    net = [models["ours"][0]] if torchvision_class is TorchvisionSSD else []  # SSD's loader makes images of the net's size
    loader = script.make_train_loader(args, train_set, *net, device)
    seconds = {name: [] for name in models}
    losses = {name: [] for name in models}
    for step, batch in enumerate(loader):
        if step == steps + 2:
            break
        order = list(models) if step % 2 else list(models)[::-1]
        for name in order:
            model, optimizer = models[name]
            torch.manual_seed(step)
            begin = time.perf_counter()
            total = sum(model(*to_device(*batch, device)).values())
            total.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[name].append(total.item())  # also waits for a GPU
            if step >= 2:  # the first ones set up memory
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    difference = abs(losses["ours"][0] - losses["torchvision"][0])
    print(f"first loss: ours {losses['ours'][0]:.6f}, torchvision {losses['torchvision'][0]:.6f}, differ by {difference:.1e}")
    for name, values in seconds.items():
        print(f"{name:12} seconds per step: min {min(values):.3f}  median {medians[name]:.3f}  max {max(values):.3f}")
    print(f"torchvision time / our time: {medians['torchvision'] / medians['ours']:.3f}")
    print(json.dumps({"steps": steps, "medians": medians}))


def main() -> None:
    """Dispatch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", choices=sorted(CLASSES))
    parser.add_argument("what", choices=["ours", "torchvision", "steps"])
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    own, words = parser.parse_known_args()
    script, torchvision_class = importlib.import_module(f"train_{own.detector}"), CLASSES[own.detector]
    if own.what == "steps":
        time_steps(script, torchvision_class, words, own.steps)
        return
    if own.what == "torchvision":
        script.create_model = torchvision_maker(script, torchvision_class)
    script.main(script.parse_args(words))


if __name__ == "__main__":
    main()
