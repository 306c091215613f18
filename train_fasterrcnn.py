"""Train Faster R-CNN on VOC, COCO or the generated shapes set.

    python train_fasterrcnn.py                                              shapes, CPU, nothing to download
    python train_fasterrcnn.py --data-path /data/VOCdevkit --year 2012      Pascal VOC, one GPU
    python train_fasterrcnn.py --dataset coco --data-path /data/coco2017    COCO
    torchrun --nproc_per_node=8 train_fasterrcnn.py --data-path /data/coco2017 --batch-size 2 --lr 0.02
    python train_fasterrcnn.py --data-path /data/mine --freeze-epochs 5     two stages: heads first, then the backbone
    python train_fasterrcnn.py --resume auto                                go on where the newest such run stopped

Everything a run produces lies in one folder (`--output-dir`): checkpoints, results, curves, pictures.
Reading order: this file -> train_utils/train_eval_utils.py -> network_files/faster_rcnn.py -> rpn.py and roi_heads.py.
Copy this file, edit it, and your copy's checkpoints work in predict.py without further ado.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

import datasets
import network_files
from datasets.annotations import stop_on_lost_images, summarise_faults
from datasets.open_dataset import OPTIONS, guess_kind, open_dataset
from datasets.samples import TrainingSamples
from datasets.transforms import Compose, PhotometricDistort, RandomHorizontalFlip
from network_files.backbones import BACKBONES, imagenet_weights, load_imagenet, set_trainable_layers
from network_files.faster_rcnn_nets import build_faster_rcnn
from network_files.faster_rcnn_weights import (
    PUBLISHED,
    PublishedWeights,
    detector_family,
    load_detector_weights,
    published_by_file,
    published_weights,
    unwrap,
)
from plot_curve import plot_loss_and_lr, plot_map
from train_utils import tensorboard
from train_utils.any_dataset import ground_truth_of
from train_utils.bad_samples import BadSamples
from train_utils.best_epoch import best_epoch, out_of_patience
from train_utils.checkpoint import fetch_url, load_checkpoint
from train_utils.checkpointer import Checkpointer
from train_utils.coco_eval import CocoScorer
from train_utils.device import choose_amp, choose_device, make_repeatable
from train_utils.distributed_utils import (
    data_parallel,
    init_distributed_mode,
    is_main_process,
    on_main_first,
    say,
    shut_down,
    sync_normalizers,
)
from train_utils.ema import ModelEma
from train_utils.errors import InputError, one_sentence_errors
from train_utils.failures import LESS_MEMORY, explain_failures
from train_utils.flag_checks import check_num_classes, check_pairs, check_ranges, flag
from train_utils.group_by_aspect_ratio import create_aspect_ratio_groups
from train_utils.legacy_flags import FASTER_RCNN, modernise
from train_utils.loaders import evaluation_loader, make_loader
from train_utils.lr_schedule import LRSchedule
from train_utils.metric_logger import MetricLogger
from train_utils.nonfinite import NonFiniteGuard
from train_utils.presets import describe_preset, given_flags, parse_with_preset
from train_utils.report import epoch_row, evaluation_columns, report_evaluation, say_best, say_classes
from train_utils.resume import (
    Position,
    check_resume,
    find_position,
    find_resume_path,
    merge_model_args,
    open_run,
    restore_best,
)
from train_utils.samplers import TrainBatchSampler
from train_utils.train_eval_utils import (
    evaluate_fully,
    label_map,
    train_one_epoch,
    validation_losses,
)
from train_utils.training_state import (
    fingerprint,
    go_back,
    load_on_main,
    restore_counts,
    restore_training,
    training_state,
)

SCRIPT = Path(__file__).stem
DEFAULT_OUTPUT = f"runs/{SCRIPT.removeprefix('train_')}"
USER_ERRORS = (network_files.InputError, datasets.InputError)  # told in one sentence, exit code 2

# What the shapes set overrides unless the flag is given: a small net, a small input, minutes on a laptop.
QUICK_START = {
    "backbone": "small_cnn",
    "weights_backbone": "none",
    "min_size": [160],
    "max_size": 240,
    "rpn_top_n": 300,
    "roi_samples": 64,
    "batch_size": 1,
    "epochs": 14,
    "eval_every": 2,
    "opt": "adamw",
    "lr": 0.0007,
    "lr_scheduler": "cosine",
    "warmup_steps": 40,
    "workers": 0,
}
OPTIMISER_FLAGS = {"opt", "lr", "momentum", "lr_scheduler", "lr_steps", "lr_step_size", "lr_gamma", "warmup_steps"}


def get_args_parser() -> argparse.ArgumentParser:
    """All flags. Defaults are the published recipe for COCO and VOC with one process of 4 images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    on_off = argparse.BooleanOptionalAction

    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=["auto", "voc", "coco", "openimages", "yolo", "shapes"], default="auto",
                      help="format of the data; auto looks at --data-path, and takes shapes where none is given")
    data.add_argument("--data-path", nargs="+", metavar="DIR",
                      help="root of the data; VOC: the parent of VOCdevkit, VOCdevkit, a year or a bare folder; several: joined")
    data.add_argument("--val-data-path", nargs="+", metavar="DIR", help="root of the validation data, if it is another")
    data.add_argument("--year", default="2012", help="VOC year folder, where there is a choice")
    data.add_argument("--train-split", default="train", help="name of the training split")
    data.add_argument("--val-split", default="val", help="name of the split to evaluate on")
    data.add_argument("--train-json", help="COCO annotation file for training, instead of the folder tree")
    data.add_argument("--train-images", help="folder of its images")
    data.add_argument("--val-json", help="COCO annotation file for evaluation")
    data.add_argument("--val-images", help="folder of its images")
    data.add_argument("--classes", help="class list: txt with a name per line, or json; found in the annotations if absent")
    data.add_argument("--num-classes", type=int, help="number of classes without background, only to check the data against")
    data.add_argument("--skip-difficult", action=on_off, default=False, help="do not train on VOC's difficult objects")
    data.add_argument("--drop-empty", action=on_off, default=False, help="do not train on images without objects")
    data.add_argument("--skip-unknown", action=on_off, default=False, help="leave out objects of classes not in --classes")
    data.add_argument("--skip-missing", action=on_off, default=False,
                      help="VOC: leave out listed images whose picture or annotation is missing, instead of stopping")
    data.add_argument("--group-boxes", action=on_off, default=False,
                      help="Open Images: train on boxes around groups too, and expect them to be found")
    data.add_argument("--polygon-boxes", action=on_off, default=False,
                      help="YOLO: take the box around a polygon, instead of stopping")
    data.add_argument("--merge-classes", action=on_off, default=False,
                      help="several data paths: take the classes of all, instead of asking for the same in each")
    data.add_argument("--allow-outside", action=on_off, default=False,
                      help="let the data set's files name paths outside its folder, and follow links that lead out of it")
    data.add_argument("--hflip", type=float, default=0.5, metavar="P", help="probability of a horizontal flip")
    data.add_argument("--photometric", action=on_off, default=False, help="random brightness, contrast, saturation, hue")
    data.add_argument("--aspect-ratio-group-factor", type=int, default=3, metavar="K",
                      help="batches of images of similar shape: 2K+1 borders between the groups; below 0: no grouping")
    data.add_argument("--max-bad-samples", type=int, default=20, help="stop when more images than this cannot be read")
    data.add_argument("-j", "--workers", type=int, default=min(4, os.cpu_count() or 1), help="loader processes per process")

    model = parser.add_argument_group("model")
    model.add_argument("--backbone", choices=sorted(BACKBONES), default="resnet50_fpn", help="the network under the detector")
    model.add_argument("--weights", help="start from a detector: a local file, also of other projects, or, where there "
                       "are such, a published name, DEFAULT for the one of this architecture")
    model.add_argument("--weights-backbone", default="IMAGENET1K_V1",
                       help="weights of the backbone alone: a local file, a torchvision name (ImageNet) where it has the "
                       "network, or none")
    model.add_argument("--trainable-backbone-layers", type=int, metavar="N",
                       help="stages of the backbone that learn, counted from its end; default by backbone")
    model.add_argument("--norm", choices=["frozen_bn", "bn"],
                       help="BatchNorm of the backbone; default: frozen with pretrained weights, learning from scratch")
    model.add_argument("--min-size", type=int, nargs="+", metavar="PX",
                       help="short side of the network input; several: one is drawn for each training image")
    model.add_argument("--max-size", type=int, metavar="PX", help="largest long side of the network input")
    model.add_argument("--fpn-channels", type=int, default=256, help="channels of the feature pyramid")
    model.add_argument("--box-head-size", type=int, help="width of the box head's layers, default by backbone")
    model.add_argument("--rpn-top-n", type=int, default=2000, help="training proposals per image, before and after NMS")
    model.add_argument("--roi-samples", type=int, default=512, help="proposals per image that the box head learns from")
    model.add_argument("--rpn-score-thresh", type=float, help="drop proposals below this score")
    model.add_argument("--box-score-thresh", type=float, default=0.05, help="drop detections below this score")
    model.add_argument("--box-nms-thresh", type=float, default=0.5, help="IoU above which the weaker of two detections goes")
    model.add_argument("--box-detections", type=int, default=100, help="most detections per image")

    train = parser.add_argument_group("training")
    train.add_argument("--device", help="cuda, cuda:1, mps or cpu; default: the best there is")
    train.add_argument("-b", "--batch-size", type=int, default=4, help="images per process")
    train.add_argument("--epochs", type=int, default=26, help="passes over the training data in all")
    train.add_argument("--start-epoch", type=int, default=0, help="number of the first epoch; --resume sets it itself")
    train.add_argument("--opt", choices=["sgd", "sgd_nesterov", "adamw"], default="sgd", help="optimiser")
    train.add_argument("--lr", type=float, default=0.005, help="learning rate, of all processes together")
    train.add_argument("--momentum", type=float, default=0.9, help="momentum of SGD")
    train.add_argument("--weight-decay", "--wd", type=float, default=1e-4, help="weight decay")
    train.add_argument("--norm-weight-decay", type=float, help="weight decay of normalisation layers, if another")
    train.add_argument("--lr-scheduler", choices=["multistep", "step", "cosine", "constant"], default="multistep",
                       help="course of the learning rate")
    train.add_argument("--lr-steps", type=int, nargs="+", default=[16, 22], help="multistep: epochs where the rate falls")
    train.add_argument("--lr-step-size", type=int, default=8, help="step: epochs between two falls")
    train.add_argument("--lr-gamma", type=float, default=0.1, help="multistep, step: factor of a fall")
    train.add_argument("--warmup-steps", type=int, default=1000, help="linear warm-up, at most the first epoch; 0: none")
    train.add_argument("--freeze-epochs", type=int, default=0, metavar="N",
                       help="two stages: for N epochs the backbone is frozen and only what lies above it learns")
    train.add_argument("--unfreeze-lr", type=float, help="learning rate of the second stage; default: --lr")
    train.add_argument("--accumulate", type=int, default=1, metavar="N", help="batches per optimiser step")
    train.add_argument("--clip-grad-norm", type=float, default=0.0, help="largest gradient norm; 0: no clipping")
    train.add_argument("--ema", type=float, nargs="?", const=0.9998, default=0.0, metavar="DECAY",
                       help="keep a moving average of the weights, and evaluate that")
    train.add_argument("--amp", choices=["off", "auto", "bf16", "fp16"], nargs="?", const="auto", default="off",
                       help="mixed precision; auto: bf16 where the hardware has it, else fp16")
    train.add_argument("--on-nonfinite", choices=["stop", "skip", "rollback"], default="stop",
                       help="a loss that is not finite: stop, leave the step out, or return to the weights last saved as well")
    train.add_argument("--max-nonfinite", type=int, default=10, metavar="N", help="stop when that happened more often than this")
    train.add_argument("--seed", type=int, default=0, help="decides every random choice of the run")
    train.add_argument("--deterministic", action=on_off, default=False, help="only deterministic operations (slower on GPU)")
    train.add_argument("--patience", type=int, default=0, metavar="N",
                       help="stop after N evaluations without a better --best-metric; 0: never")

    output = parser.add_argument_group("output")
    output.add_argument("--output-dir", help="run folder, default runs/DETECTOR; a new run takes a fresh name beside a used one")
    output.add_argument("--resume", metavar="PATH|auto", help="go on from a checkpoint of this script; auto: the newest, if any")
    output.add_argument("--resume-anyway", action=on_off, default=False,
                        help="go on although data, batches, processes or seed changed, so that it becomes another run")
    output.add_argument("--save-every-steps", type=int, default=0, metavar="N",
                        help="save last.pth within an epoch, too: after N optimiser steps; 0: not by steps")
    output.add_argument("--save-every-minutes", type=float, default=10.0, metavar="M",
                        help="the same after M minutes; 0: not by time")
    output.add_argument("--test-only", action="store_true", help="only evaluate --weights or --resume")
    output.add_argument("--eval-every", type=int, default=1, metavar="N", help="evaluate after every N-th epoch and the last")
    output.add_argument("--eval-batch-size", type=int, help="images per evaluation batch; default: --batch-size")
    output.add_argument("--val-loss", action=on_off, default=False, help="also compute the loss on the validation split")
    output.add_argument("--best-metric", choices=["AP", "AP50", "AP75"], default="AP", help="what makes a checkpoint the best")
    output.add_argument("--keep-last", type=int, default=0, metavar="N", help="keep model_<epoch>.pth of the last N epochs")
    output.add_argument("--print-freq", type=int, default=50, help="steps between two lines of a log")
    output.add_argument("--tensorboard", action=on_off, default=False,
                        help="also write losses, rates, metrics and predictions for TensorBoard, to its folder in the run folder")

    distributed = parser.add_argument_group("distributed (started by torchrun)")
    distributed.add_argument("--dist-url", default="env://", help="where the processes meet")
    distributed.add_argument("--sync-bn", action=on_off, default=False, help="BatchNorm over the images of all processes")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of a command line, ancestral spellings included; the quick-start table applies to the shapes set.

    Raises:
        InputError: a flag of another project's script that has no meaning here.
    """
    parser = get_args_parser()
    words, notes = modernise(sys.argv[1:] if argv is None else argv, FASTER_RCNN, parser)
    args, given = parser.parse_args(words), given_flags(parser, words)
    kind = args.dataset
    if kind == "auto":
        kind, reasons = guess_kind(args.data_path, args.val_data_path, args.train_json or args.val_json)
        notes += reasons
    if kind == "shapes":
        args, quick = parse_with_preset(parser, words, QUICK_START, together=OPTIMISER_FLAGS)
        args.data_path = args.data_path or ["data/shapes"]
        notes.append(f"quick start: {describe_preset(quick)}")
    args.dataset = kind
    notes += [f"{flag(name)} has no effect with {why}" for name, why in idle_flags(args) if name in given]
    layers, pretrained = args.trainable_backbone_layers, args.weights or args.weights_backbone != "none"
    if not pretrained and (args.freeze_epochs or layers is not None and layers < len(BACKBONES[args.backbone].stages)):
        notes.append("warning: nothing is pretrained, yet part of the backbone is frozen: it stays at its random start")
    args.notes = notes
    return args


def idle_flags(args: argparse.Namespace) -> list[tuple[str, str]]:
    """(flag, because of what) for the flags that do nothing beside others."""
    schedule = f"--lr-scheduler {args.lr_scheduler}"
    idle = {
        "lr_steps": args.lr_scheduler != "multistep" and schedule,
        "lr_step_size": args.lr_scheduler != "step" and schedule,
        "lr_gamma": args.lr_scheduler not in ("multistep", "step") and schedule,
        "momentum": args.opt == "adamw" and "--opt adamw",
        "unfreeze_lr": not args.freeze_epochs and "--freeze-epochs 0",
    }
    return [(name, why) for name, why in idle.items() if why]


def check_args(args: argparse.Namespace) -> None:
    """Refuse unusable values and combinations before any data is read.

    Raises:
        InputError: with the remedy in the message.
    """
    check_ranges(
        vars(args),
        at_least_one=("batch_size", "epochs", "accumulate", "eval_every", "print_freq", "box_detections", "roi_samples",
                      "rpn_top_n", "eval_batch_size", "lr_step_size"),
        not_negative=("momentum", "weight_decay", "seed", "workers", "patience", "keep_last", "warmup_steps", "start_epoch",
                      "freeze_epochs", "max_bad_samples", "max_nonfinite", "clip_grad_norm", "save_every_steps",
                      "save_every_minutes"),
        above_zero=("lr", "unfreeze_lr"),
        in_0_1=("hflip", "box_score_thresh", "box_nms_thresh"),
    )
    if not 0 <= args.ema < 1:
        raise InputError(f"--ema must be at least 0 and below 1, not {args.ema}")
    if min(args.lr_steps) < 0:
        raise InputError(f"--lr-steps are epochs from 0 on, not {min(args.lr_steps)}")
    if args.opt == "sgd_nesterov" and args.momentum == 0:
        raise InputError("--opt sgd_nesterov needs a --momentum above 0")
    if args.start_epoch >= args.epochs:
        raise InputError(f"--start-epoch {args.start_epoch} must be below --epochs {args.epochs}")
    if args.sync_bn and not args.device.startswith("cuda"):
        raise InputError(f"--sync-bn needs CUDA devices, this is {args.device}: leave it out")
    if args.freeze_epochs >= args.epochs and args.freeze_epochs:
        raise InputError(f"--freeze-epochs {args.freeze_epochs} must be below --epochs {args.epochs}")
    if args.resume not in (None, "auto") and args.weights:
        raise InputError("--weights starts a new run and --resume continues one: give one of them")
    stages = len(BACKBONES[args.backbone].stages)
    if args.trainable_backbone_layers is not None and not 0 <= args.trainable_backbone_layers <= stages:
        raise InputError(f"--trainable-backbone-layers for {args.backbone} goes from 0 to {stages}")
    if args.tensorboard:
        tensorboard.check_installed()
    pairs = [("train_json", "train_images"), ("val_json", "val_images")]
    check_pairs(vars(args), pairs if args.test_only else [*pairs, ("train_json", "val_json")])


def open_data(args: argparse.Namespace):
    """(training set, validation set) of the same classes; augmentation is drawn per (epoch, index). Only the latter to test."""
    train_set, options = None, {name: getattr(args, name) for name in OPTIONS}
    if not args.test_only:
        train_set = open_dataset(args.dataset, args.data_path, args.train_split, class_names=args.classes,
                                 json_path=args.train_json, image_dir=args.train_images, drop_empty=args.drop_empty, **options)
        say(*(f"training data: {line}" for line in summarise_faults(train_set.faults)))
        stop_on_lost_images(train_set.faults, args.max_bad_samples)
    val_set = open_dataset(args.dataset, args.val_data_path or args.data_path, args.val_split,
                           class_names=train_set.class_names if train_set else args.classes,
                           json_path=args.val_json, image_dir=args.val_images, **options)
    say(*(f"validation data: {line}" for line in summarise_faults(val_set.faults)))
    check_num_classes(args.num_classes, val_set.class_names, args.dataset)
    val_set = TrainingSamples(val_set, seed=args.seed)
    if train_set is None:
        return val_set, val_set
    augmentation = [RandomHorizontalFlip(args.hflip)] + ([PhotometricDistort()] if args.photometric else [])
    return TrainingSamples(train_set, Compose(augmentation), seed=args.seed), val_set


def make_train_loader(args: argparse.Namespace, train_set, model_args: dict, device: torch.device) -> DataLoader:
    """This process's share of the training data, in seeded batches of images of similar shape."""
    train_set.decode_side = max(model_args["min_size"])  # no image is needed larger
    factor = args.aspect_ratio_group_factor
    groups = create_aspect_ratio_groups(train_set, factor) if factor >= 0 else None
    sampler = TrainBatchSampler(len(train_set), args.batch_size, groups, args.seed, args.rank, args.world_size)
    return make_loader(train_set, sampler, device, args.workers)


@dataclass
class Start:
    """A detector to start from: its tensors, and what its source says of its classes and shape (nothing for bare files)."""

    state: dict
    class_names: list[str] | None
    model_args: dict


def read_start(args: argparse.Namespace) -> Start | None:
    """What `--weights` names: a published detector, by name or as a downloaded file, or any local file."""
    if not args.weights:
        return None
    path = Path(args.weights)
    is_file = path.exists() or path.suffix in (".pth", ".pt")
    file = load_checkpoint(path) if is_file else {}
    if "model_args" in file:
        if "backbone" not in file["model_args"]:
            family = detector_family(unwrap(file))
            raise InputError(f"{path} was written by {file.get('script')} and holds {family}: give --weights a Faster R-CNN")
        averaged = (file.get("ema") or {}).get("model")
        start = Start(averaged or unwrap(file), file["class_names"], file["model_args"])
    elif is_file:
        start = foreign_start(unwrap(file), published_by_file(path.name), args.backbone)
    else:
        entry = published_weights(args.backbone if args.weights.upper() == "DEFAULT" else args.weights)
        state = on_main_first(lambda: fetch_url(entry.url, "give --weights that file"))
        start = foreign_start(state, entry, args.backbone)
    if start.model_args.get("backbone", args.backbone) != args.backbone:
        raise InputError(f"{args.weights} has the backbone {start.model_args['backbone']}: "
                         f"add --backbone {start.model_args['backbone']}")
    return start


def foreign_start(state: dict, entry: PublishedWeights | None, backbone: str) -> Start:
    """What is known of a detector from elsewhere: all of a published one; of a bare file what its tensors tell.

    91 rows without names are COCO's table by category id, as torchvision and the course repository write it.
    """
    if entry:
        return Start(state, entry.class_names, {"backbone": entry.backbone, "norm": entry.norm, "norm_eps": entry.norm_eps})
    rows = len(state.get("roi_heads.box_predictor.cls_score.weight", ()))
    class_names = PUBLISHED["resnet50_fpn"].class_names if rows == 91 else None
    if any(key.endswith("num_batches_tracked") for key in state):
        return Start(state, class_names, {"norm": "bn"})
    # frozen statistics come from torchvision's builders, of which the COCO file of R50 has an eps of its own
    eps = PUBLISHED[backbone].norm_eps if rows == 91 and backbone in PUBLISHED else BACKBONES[backbone].norm_eps
    return Start(state, class_names, {"norm": "frozen_bn", "norm_eps": eps})


def resolve_model_args(args: argparse.Namespace, start: Start | None) -> dict:
    """Every value that shapes the model, resolved; stored in the checkpoint and all that `create_model` sees.

    The norm and its eps come with the weights: they are not in the tensors, and another eps gives other boxes.
    """
    spec = BACKBONES[args.backbone]
    known = start.model_args if start else {}
    pretrained_norm = spec.pretrained_norm if args.weights_backbone != "none" else "bn"
    values = {
        "backbone": args.backbone,
        "norm": args.norm or known.get("norm", pretrained_norm),
        "norm_eps": known.get("norm_eps", spec.norm_eps),
        "min_size": args.min_size or [spec.min_size],
        "max_size": args.max_size or spec.max_size,
        "fpn_channels": args.fpn_channels,
        "box_head_size": args.box_head_size or spec.box_head_size,
        "anchor_sizes": [list(level) for level in spec.anchor_sizes],
        "rpn_pre_nms_top_n_train": args.rpn_top_n,
        "rpn_post_nms_top_n_train": args.rpn_top_n,
        "box_batch_size_per_image": args.roi_samples,
        "rpn_score_thresh": spec.rpn_score_thresh if args.rpn_score_thresh is None else args.rpn_score_thresh,
        "box_score_thresh": args.box_score_thresh,
        "box_nms_thresh": args.box_nms_thresh,
        "box_detections_per_img": args.box_detections,
    }
    return merge_model_args(values | known, values)[0] if args.test_only else values  # to test: the weights' own shape


def create_model(model_args: dict, class_names: list[str]) -> nn.Module:
    """The detector, freshly initialised. Pure: reads no file and no data. `+ 1` is the background, and stands only here."""
    options = dict(model_args)
    return build_faster_rcnn(options.pop("backbone"), num_classes=len(class_names) + 1, **options)


def load_start_weights(model: nn.Module, args: argparse.Namespace, start: Start | None, class_names: list[str]) -> None:
    """The weights a new run starts from: a whole detector (`--weights`), or the backbone alone (`--weights-backbone`)."""
    if start:
        done = load_detector_weights(model, start.state, class_names, start.class_names)
        if args.test_only and done.predictor_replaced:
            raise InputError(f"{args.weights} predicts other classes than the data has: there is nothing to test; train first")
        say(f"{args.weights}: {done.summary()}")
    elif args.weights_backbone != "none":
        path = Path(args.weights_backbone)
        if path.exists() or path.suffix in (".pth", ".pt"):
            state = load_checkpoint(path)
        else:
            weights = imagenet_weights(args.backbone, args.weights_backbone)
            state = on_main_first(lambda: fetch_url(weights.url, "give --weights-backbone that file, or none"))
        load_imagenet(model.backbone, args.backbone, state)
        say(f"backbone weights: {args.weights_backbone}")
    else:
        say("no pretrained weights: every layer learns from scratch")


def create_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """One optimiser over all parameters: frozen ones have no gradient and are skipped until they have."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    norm_parameters = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)}
    norm_decay = args.weight_decay if args.norm_weight_decay is None else args.norm_weight_decay
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in norm_parameters], "weight_decay": args.weight_decay},
        {"params": [p for p in model.parameters() if id(p) in norm_parameters], "weight_decay": norm_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if args.opt == "adamw":
        return torch.optim.AdamW(groups, lr=args.lr)
    return torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum, nesterov=args.opt == "sgd_nesterov")


def default_trainable_layers(args: argparse.Namespace) -> int:
    """As many of the backbone's last stages as suit pretrained weights; all of them from scratch."""
    spec = BACKBONES[args.backbone]
    return spec.trainable_stages if args.weights or args.weights_backbone != "none" else len(spec.stages)


def set_stage(model: nn.Module, args: argparse.Namespace, epoch: int) -> nn.Module:
    """Freeze for the stage that `epoch` belongs to, then wrap for several processes (in this order: DDP must know).

    In the first stage of `--freeze-epochs` the backbone's body is frozen; a feature pyramid, being new, learns.
    """
    layers = 0 if epoch < args.freeze_epochs else args.trainable_backbone_layers
    set_trainable_layers(model.backbone, args.backbone, layers)
    say(f"epoch {epoch}: {sum(p.requires_grad for p in model.parameters())} of {len(list(model.parameters()))} tensors learn")
    if not args.distributed:
        return model
    return data_parallel(model, args.gpu if next(model.parameters()).is_cuda else None)


def stage_factor(args: argparse.Namespace, schedule: LRSchedule, epoch: int):
    """Learning rate of an optimiser step as a multiple of `--lr`; the second stage may have a rate of its own."""
    scale = args.unfreeze_lr / args.lr if args.unfreeze_lr and epoch >= args.freeze_epochs else 1.0
    return lambda step: scale * schedule.factor(step)


def continue_settings(
    args: argparse.Namespace, checkpoint: dict, path: Path, class_names: list[str], wanted: dict, data: dict | None
) -> dict:
    """The model values of a checkpoint that is continued or tested, after checking that the command fits it."""
    if args.trainable_backbone_layers is None:
        args.trainable_backbone_layers = checkpoint.get("args", {}).get("trainable_backbone_layers")
    changed = check_resume(checkpoint, path, class_names=class_names, settings=vars(args), script=Path(__file__),
                           data=data)
    model_args, kept = merge_model_args(checkpoint["model_args"], wanted)
    say(*(f"changed since the run began: {setting}" for setting in changed))
    say(*(f"kept from the checkpoint: {setting}" for setting in kept))
    return model_args


def main(args: argparse.Namespace) -> None:
    """Train, evaluate after each epoch, and leave everything in the run folder."""
    # 1. setup
    args.device = str(choose_device(args.device))
    check_args(args)
    init_distributed_mode(args)
    device = torch.device(args.device)
    amp_dtype = choose_amp(args.amp, device)
    make_repeatable(args.seed, args.deterministic)
    say(*args.notes)
    resume_path = find_resume_path(args.resume, args.output_dir or DEFAULT_OUTPUT)
    checkpoint = load_on_main(resume_path) if resume_path else None
    if args.test_only and not checkpoint and not args.weights:
        raise InputError("--test-only needs the model to test: --weights FILE or --resume PATH")

    # 2. data
    train_set, val_set = open_data(args)
    say_classes({"validation": val_set} if args.test_only else {"training": train_set, "validation": val_set})
    data = None if args.test_only else {"training": fingerprint(train_set), "validation": fingerprint(val_set)}

    # 3. model
    start = None if checkpoint else read_start(args)
    class_names = start.class_names if args.test_only and start and start.class_names else train_set.class_names
    model_args = resolve_model_args(args, start)
    if checkpoint:
        model_args = continue_settings(args, checkpoint, resume_path, class_names, model_args, data)
    elif args.trainable_backbone_layers is None:
        args.trainable_backbone_layers = default_trainable_layers(args)
    model = create_model(model_args, class_names)
    if not checkpoint:
        load_start_weights(model, args, start, class_names)
    if args.distributed:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if args.sync_bn else model
        sync_normalizers(model)
    model.to(device)
    val_loader = evaluation_loader(val_set, model.transform.padded_size, args.eval_batch_size or args.batch_size, device,
                                   args.workers)
    train_loader = val_loader if args.test_only else make_train_loader(args, train_set, model_args, device)

    # 4. optimiser and schedule
    optimizer = create_optimizer(args, model)
    scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype == torch.float16)
    schedule = LRSchedule(args.lr_scheduler, max(1, -(-len(train_loader) // args.accumulate)), args.epochs,
                          warmup_steps=args.warmup_steps, milestones=args.lr_steps, step_size=args.lr_step_size,
                          gamma=args.lr_gamma, start_epoch=args.freeze_epochs)

    # 5. resume
    rows, position = [], Position(args.start_epoch)
    ema = ModelEma(model, args.ema) if args.ema and not args.test_only else None
    if checkpoint and args.test_only:
        model.load_state_dict((checkpoint["ema"] or checkpoint)["model"])
    elif checkpoint:
        restore_training(checkpoint, model, optimizer, scaler, ema)
        rows, position = checkpoint["rows"], find_position(checkpoint, len(train_loader), args.accumulate)
        say(f"{resume_path}: goes on in epoch {position.epoch} after {position.batches_done} of {len(train_loader)} batches")

    # 6. test only
    truth = ground_truth_of(val_set)
    scorer = CocoScorer(truth) if is_main_process() else None
    evaluate_now = partial(evaluate_fully, data_loader=val_loader, device=device, scorer=scorer, amp_dtype=amp_dtype,
                           label_map=label_map(class_names, val_set.class_names))
    if args.test_only:
        result, _ = evaluate_now(model)
        say(*result.lines)
        return

    # 7. train
    run = open_run(vars(args), DEFAULT_OUTPUT, resume_path, class_names, plot_functions=(plot_loss_and_lr, plot_map),
                   keep_last=args.keep_last, unfreeze_epoch=args.freeze_epochs or None, tensorboard=args.tensorboard)
    run.rows = rows
    if checkpoint:
        restore_best(run, resume_path, position, best_epoch(rows, args.best_metric))
    bad_samples = BadSamples(args.max_bad_samples)
    guard = NonFiniteGuard(args.on_nonfinite, args.max_nonfinite, run.path,
                           restore=partial(go_back, run, model, optimizer, scaler, ema))
    if checkpoint:
        restore_counts(checkpoint, bad_samples, guard)
    state_of = partial(training_state, model, optimizer, scaler, ema, bad_samples, guard, model_args=model_args,
                       class_names=class_names, category_ids=truth["category_ids"], settings=vars(args), script=Path(__file__),
                       data=data)
    no_patience_left = partial(out_of_patience, run.rows, args.best_metric, args.patience, first_epoch=args.freeze_epochs)
    wrapped = set_stage(model, args, position.epoch)
    with Checkpointer(run, state_of, position, args.save_every_steps, args.save_every_minutes) as keeper:
        for epoch in range(position.epoch, args.epochs):
            if no_patience_left():
                say(f"no better {args.best_metric} in {args.patience} evaluations: stopping early")
                break
            logger = MetricLogger(enabled=is_main_process())
            first_batch = keeper.begin_epoch(epoch, len(train_loader), logger)
            if epoch == args.freeze_epochs > 0 and first_batch == 0:
                run.save_weights(model.state_dict(), "pretrain.pth")  # as the course repository's two-stage script does
            if epoch == args.freeze_epochs > position.epoch:
                wrapped = set_stage(model, args, epoch)
            train_loader.batch_sampler.set_epoch(epoch, first_batch)
            run.watch(logger, epoch)
            mean_loss, lr = train_one_epoch(
                wrapped, optimizer, train_loader, device, epoch, args.print_freq, scaler=scaler,
                lr_factor=stage_factor(args, schedule, epoch), amp_dtype=amp_dtype, accumulate=args.accumulate,
                clip_grad_norm=args.clip_grad_norm, ema=ema, seed=args.seed, bad_samples=bad_samples, logger=logger,
                first_batch=first_batch, after_step=keeper.after_step, guard=guard)
            row = epoch_row(epoch, mean_loss, lr, logger, len(train_set), device)
            tested = ema.module if ema else model
            evaluate_this = (epoch + 1) % args.eval_every == 0 or epoch + 1 == args.epochs
            if evaluate_this:
                keeper.save()
            if args.val_loss and evaluate_this:
                losses = validation_losses(tested, val_loader, device, amp_dtype, args.seed, keeper.stop)
                row |= {f"val_{name}": value for name, value in losses.items()} | {"val_loss": sum(losses.values())}
            if evaluate_this:
                result, detections = evaluate_now(tested, stop=keeper.stop)
                row |= evaluation_columns(result)
                report_evaluation(run, result, detections, val_set, truth)
            run.add_row(row)
            keeper.end_epoch(is_best=best_epoch(run.rows, args.best_metric) == epoch)

    # 8. results
    say_best(run, args.best_metric)
    say(*(f"unreadable, replaced by another image: {path}" for path in sorted(bad_samples.paths)))


if __name__ == "__main__":
    with one_sentence_errors(*USER_ERRORS), explain_failures(LESS_MEMORY):
        main(parse_args())
        shut_down()
