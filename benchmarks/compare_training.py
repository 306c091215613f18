"""The same recipe with our Faster R-CNN and with torchvision's own class: accuracy and seconds per step, side by side.

    python benchmarks/compare_training.py ours        --data-path ... --output-dir runs/ours        [flags of train_fasterrcnn.py]
    python benchmarks/compare_training.py torchvision --data-path ... --output-dir runs/torchvision [the same flags]
    python benchmarks/compare_training.py steps --steps 20 --data-path ...   both in one process, alternating step by step

Both start from the same weights tensor for tensor and run through the same loop, data and evaluation; only the class
of the detector differs.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torchvision  # noqa: E402
from torch import nn  # noqa: E402

import train_fasterrcnn as script  # noqa: E402
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


def torchvision_model(model_args: dict, class_names: list[str]) -> nn.Module:
    """`create_model` with torchvision's class around the same parts, hence the same initial weights."""
    return TorchvisionFasterRCNN(OURS(model_args, class_names), model_args)


OURS = script.create_model


def time_steps(words: list[str], steps: int) -> None:
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
    for name, create in (("ours", OURS), ("torchvision", torchvision_model)):
        torch.manual_seed(0)
        model = create(model_args, train_set.class_names).to(device)
        script.load_start_weights(model, args, None, train_set.class_names)
        script.set_stage(model, args, args.freeze_epochs)
        models[name] = model.train(), script.create_optimizer(args, model)
    loader = script.make_train_loader(args, train_set, device)
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
    parser.add_argument("what", choices=["ours", "torchvision", "steps"])
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    own, words = parser.parse_known_args()
    if own.what == "steps":
        time_steps(words, own.steps)
        return
    if own.what == "torchvision":
        script.create_model = torchvision_model
    script.main(script.parse_args(words))


if __name__ == "__main__":
    main()
