"""Train SSD (300, 512, Lite; VGG, MobileNet, SqueezeNet, ResNet) on VOC, COCO, Open Images or the generated shapes set.

    python train_ssd.py                                                     shapes, CPU, nothing to download
    python train_ssd.py --data-path /data/VOCdevkit --year 2012             Pascal VOC, one GPU
    python train_ssd.py --dataset coco --data-path /data/coco2017           COCO
    python train_ssd.py --net mb1-ssd --resolution 512 --data-path /data/mine
    torchrun --nproc_per_node=8 train_ssd.py --net ssd300-vgg16 --data-path /data/coco2017 --batch-size 4 --lr 0.002
    python train_ssd.py --data-path /data/mine --freeze-epochs 5            two stages: heads first, then the base
    python train_ssd.py --dataset-type=voc --data=data/mine --model-dir=models/mine    as jetson-inference's script
    python train_ssd.py --resume auto                                       go on where the newest such run stopped

Everything a run produces lies in one folder (`--output-dir`): checkpoints, results, curves, pictures.
Reading order: this file -> train_utils/train_eval_utils.py -> network_files/ssd.py -> multibox_loss.py.
Copy this file, edit it, and your copy's checkpoints work in predict.py without further ado.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

import datasets
import network_files
from datasets.annotations import stop_on_lost_images, summarise_faults
from datasets.balance import balanced_subset
from datasets.class_names import read_labels
from datasets.open_dataset import OPTIONS, guess_kind, open_dataset
from datasets.open_images import is_open_images_folder
from datasets.samples import TrainingSamples
from datasets.ssd_augmentation import RECIPES
from network_files.ssd_nets import (
    NETS,
    build_ssd,
    default_box_spec,
    min_train_batch,
    net_settings,
    rescaled_boxes,
    set_trainable_layers,
    takes_resolution,
)
from network_files.ssd_weights import (
    identify,
    imagenet_weights,
    load_base_weights,
    load_ssd_weights,
    published_by_file,
    published_weights,
)
from network_files.state_dicts import detector_family, unwrap
from plot_curve import plot_loss_and_lr, plot_map
from train_utils import jetson, tensorboard
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
from train_utils.freeze import freeze
from train_utils.legacy_flags import SSD, flags_in, has_jetson_flags, modernise
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
from train_utils.run_folder import RunFolder
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
    "net": "small-ssd",
    "resolution": 160,
    "weights_backbone": "none",
    "augmentation": "nvidia",
    "batch_size": 8,
    "epochs": 40,
    "eval_every": 4,
    "opt": "adamw",
    "lr": 0.003,
    "lr_scheduler": "cosine",
    "warmup_steps": 40,
    "workers": 0,
}
OPTIMISER_FLAGS = {"opt", "lr", "momentum", "lr_scheduler", "lr_steps", "lr_step_size", "lr_gamma", "warmup_steps", "t_max"}

# What a flag of jetson-inference's train_ssd.py brings along unless given. Its cosine would take 100 epochs: ours ends at 0.
JETSON = {
    "jetson": True,
    "net": "mb1-ssd",
    "weights_backbone": "none",
    "batch_size": 4,
    "epochs": 30,
    "lr": 0.01,
    "base_net_lr": 0.001,
    "lr_scheduler": "cosine",
    "lr_steps": [80, 100],
    "warmup_steps": 0,
    "workers": 2,
    "print_freq": 10,
    "tensorboard": tensorboard.is_installed(),  # it always writes these files, and requires the package
    "val_loss": True,
    "skip_unknown": True,
    "skip_difficult": True,
    "output_dir": "models/ssd",
}
JETSON_SPLITS = {"voc": ("trainval", "test"), "openimages": ("train", "test")}
JETSON_WEIGHTS = Path("models/mobilenet-v1-ssd-mp-0_675.pth")


def get_args_parser() -> argparse.ArgumentParser:
    """All flags. Defaults are the paper's recipe, with torchvision's length and warm-up."""
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
    data.add_argument("--augmentation", choices=sorted(RECIPES), default="ssd",
                      help="ssd: the paper's; nvidia: as in its SSD300; ssdlite: crop and flip; hflip: flip only")
    data.add_argument("--hflip", type=float, default=0.5, metavar="P", help="probability of a horizontal flip")
    data.add_argument("--max-bad-samples", type=int, default=20, help="stop when more images than this cannot be read")
    data.add_argument("-j", "--workers", type=int, default=min(4, os.cpu_count() or 1), help="loader processes per process")

    model = parser.add_argument_group("model")
    model.add_argument("--net", choices=sorted(NETS), default="ssd300-resnet50", help="base network, sources and heads")
    model.add_argument("--resolution", type=int, metavar="PX", help="side of the square network input; default by net")
    model.add_argument("--weights", help="start from a detector: a local file, also of other projects, or, where there "
                       "are such, a published name, DEFAULT for the one of this architecture")
    model.add_argument("--weights-backbone",
                       help="weights of the backbone alone: a local file, a torchvision name (ImageNet) where it has the "
                       "network, or none")
    model.add_argument("--trainable-backbone-layers", type=int, metavar="N",
                       help="stages of the backbone that learn, counted from its end; default by backbone")
    model.add_argument("--box-score-thresh", type=float, help="drop detections below this score")
    model.add_argument("--box-nms-thresh", type=float, help="IoU above which the weaker of two detections goes")
    model.add_argument("--box-detections", type=int, help="most detections per image")

    train = parser.add_argument_group("training")
    train.add_argument("--device", help="cuda, cuda:1, mps or cpu; default: the best there is")
    train.add_argument("-b", "--batch-size", type=int, default=32, help="images per process")
    train.add_argument("--epochs", type=int, default=120, help="passes over the training data in all")
    train.add_argument("--start-epoch", type=int, default=0, help="number of the first epoch; --resume sets it itself")
    train.add_argument("--opt", choices=["sgd", "sgd_nesterov", "adamw"], default="sgd", help="optimiser")
    train.add_argument("--lr", type=float, default=0.001, help="learning rate, of all processes together")
    train.add_argument("--momentum", type=float, default=0.9, help="momentum of SGD")
    train.add_argument("--weight-decay", "--wd", type=float, default=5e-4, help="weight decay")
    train.add_argument("--norm-weight-decay", type=float, help="weight decay of normalisation layers, if another")
    train.add_argument("--lr-scheduler", choices=["multistep", "step", "cosine", "constant"], default="multistep",
                       help="course of the learning rate")
    train.add_argument("--lr-steps", type=int, nargs="+", default=[80, 110], help="multistep: epochs where the rate falls")
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

    habits = parser.add_argument_group(
        "jetson-inference", "Each of these brings the defaults of its train_ssd.py, unless --no-jetson is given too.")
    habits.add_argument("--balance-data", action=on_off, default=False,
                        help="train on as many images of each class as the rarest has")
    habits.add_argument("--mb2-width-mult", type=float, default=1.0, metavar="W", help="mb2-ssd-lite: factor of the channels")
    habits.add_argument("--freeze-base-net", action=on_off, default=False, help="the base never learns")
    habits.add_argument("--freeze-net", action=on_off, default=False, help="nothing but the heads ever learns")
    habits.add_argument("--base-net-lr", type=float, help="learning rate of the base, if another")
    habits.add_argument("--extra-layers-lr", type=float, help="learning rate of the extra layers, if another")
    habits.add_argument("--t-max", type=int, metavar="N", help="cosine: epochs until the rate is zero; default: all")
    habits.add_argument("--validation-mean-ap", action=on_off, default=False, help="its log lines of AP per class")
    habits.add_argument("--jetson", action=on_off, default=False,
                        help="its defaults, log lines, labels.txt and {net}-Epoch-*.pth, which its tools read")

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
    typed = sys.argv[1:] if argv is None else argv
    words, notes = modernise(typed, SSD, parser)
    args, given = parser.parse_args(words), given_flags(parser, words)
    like_jetson = args.jetson or has_jetson_flags(typed) and "jetson" not in given
    if like_jetson and not args.data_path and (Path("data/Annotations").is_dir() or is_open_images_folder("data")):
        args.data_path = ["data"]  # its default, where it holds something
    kind = args.dataset
    if kind == "auto":
        kind, reasons = guess_kind(args.data_path, args.val_data_path, args.train_json or args.val_json)
        notes += reasons
    parser.set_defaults(data_path=args.data_path or (["data/shapes"] if kind == "shapes" else None))
    preset = JETSON if like_jetson else {}
    if kind == "shapes":
        preset = QUICK_START | ({"jetson": True, "val_loss": True} if like_jetson else {})
        if "net" in given and not takes_resolution(args.net, QUICK_START["resolution"]):
            preset["resolution"] = None  # the VGG and ResNet nets need more pixels
    args, used = parse_with_preset(parser, words, preset, together=OPTIMISER_FLAGS if kind == "shapes" else ())
    if used:
        notes.append(f"{'quick start' if kind == 'shapes' else 'defaults of jetson-inference'}: {describe_preset(used)}")
    if like_jetson:
        notes += follow_jetson(args, kind, given, flags_in(typed))
    args.dataset = kind
    notes += [f"{flag(name)} has no effect with {why}" for name, why in idle_flags(args) if name in given]
    from_scratch = args.weights_backbone == "none" or args.weights_backbone is None and NETS[args.net].classifier is None
    pretrained = args.weights or args.resume or not from_scratch
    if not pretrained and (args.freeze_epochs or args.freeze_base_net or args.freeze_net):
        notes.append("warning: nothing is pretrained, yet part of the net is frozen: it stays at its random start")
    args.notes = notes
    return args


def follow_jetson(args: argparse.Namespace, kind: str, given: set[str], typed: set[str]) -> list[str]:
    """Jetson's split names, and its start: `--base-net` before `--pretrained-ssd` before an mb1-ssd of VOC, if it is there."""
    if kind in JETSON_SPLITS and not given & {"train_split", "val_split"}:
        args.train_split, args.val_split = JETSON_SPLITS[kind]
    if typed >= {"--base-net", "--pretrained-ssd"} and "--resume" not in typed:
        args.weights = None
        return ["--pretrained-ssd has no effect with --base-net"]
    if kind == "shapes" or args.net != "mb1-ssd" or given & {"weights", "weights_backbone", "resume"}:
        return []
    if JETSON_WEIGHTS.is_file():
        args.weights = str(JETSON_WEIGHTS)
        return [f"starting from {JETSON_WEIGHTS}"]
    return [f"warning: there is no {JETSON_WEIGHTS}, jetson's usual start: the net learns from scratch"]


def idle_flags(args: argparse.Namespace) -> list[tuple[str, str]]:
    """(flag, because of what) for the flags that do nothing beside others."""
    schedule = f"--lr-scheduler {args.lr_scheduler}"
    idle = {
        "lr_steps": args.lr_scheduler != "multistep" and schedule,
        "lr_step_size": args.lr_scheduler != "step" and schedule,
        "lr_gamma": args.lr_scheduler not in ("multistep", "step") and schedule,
        "momentum": args.opt == "adamw" and "--opt adamw",
        "t_max": args.lr_scheduler != "cosine" and schedule,
        "mb2_width_mult": args.net != "mb2-ssd-lite" and f"--net {args.net}",
        "weights_backbone": args.weights and "--weights",
        "base_net_lr": (args.freeze_base_net or args.freeze_net) and "a frozen base",
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
        at_least_one=("batch_size", "epochs", "accumulate", "eval_every", "print_freq", "box_detections", "eval_batch_size",
                      "lr_step_size", "t_max", "resolution"),
        not_negative=("momentum", "weight_decay", "seed", "workers", "patience", "keep_last", "warmup_steps", "start_epoch",
                      "freeze_epochs", "max_bad_samples", "max_nonfinite", "clip_grad_norm", "save_every_steps",
                      "save_every_minutes", "base_net_lr", "extra_layers_lr"),
        above_zero=("lr", "unfreeze_lr", "mb2_width_mult"),
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
    if args.jetson and not args.val_loss:
        raise InputError("--jetson names its files by the validation loss: leave out --no-val-loss")
    if args.validation_mean_ap and not args.jetson:
        raise InputError("--validation-mean-ap prints jetson's lines: add --jetson")
    if args.resume not in (None, "auto") and args.weights:
        raise InputError("--weights starts a new run and --resume continues one: give one of them")
    stages = NETS[args.net].num_stages
    if args.trainable_backbone_layers is not None and not 0 <= args.trainable_backbone_layers <= stages:
        raise InputError(f"--trainable-backbone-layers for {args.net} goes from 0 to {stages}")
    if args.tensorboard:
        tensorboard.check_installed()
    pairs = [("train_json", "train_images"), ("val_json", "val_images")]
    check_pairs(vars(args), pairs if args.test_only else [*pairs, ("train_json", "val_json")])


def open_data(args: argparse.Namespace):
    """(training set, validation set) of the same classes, the latter for both when there is only something to test."""
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
    if args.balance_data:
        train_set, lines = balanced_subset(train_set, args.seed)
        say(*lines)
    return TrainingSamples(train_set, seed=args.seed), val_set


def make_train_loader(args: argparse.Namespace, train_set, model: nn.Module, device: torch.device) -> DataLoader:
    """This process's share of the training data, in seeded batches of augmented images of the network's own size.

    Raises:
        InputError: batches of one image, which the BatchNorm of the net cannot learn from.
    """
    smallest = min_train_batch(model)
    if args.batch_size < smallest:
        raise InputError(f"--batch-size {args.batch_size}: {args.net} at {model.resolution} pixels has BatchNorm on maps of one "
                         f"cell, which need {smallest} images at once: raise --batch-size")
    train_set.decode_side = 2 * model.resolution  # crops look at a part of the image
    train_set.transform = RECIPES[args.augmentation](model.resolution, model.transform.image_mean, args.hflip)
    sampler = TrainBatchSampler(len(train_set), args.batch_size, None, args.seed, args.rank, args.world_size, smallest)
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
        if "net" not in file["model_args"]:
            family = detector_family(unwrap(file))
            raise InputError(f"{path} was written by {file.get('script')} and holds {family}: give --weights an SSD")
        averaged = (file.get("ema") or {}).get("model")
        start = Start(averaged or unwrap(file), file["class_names"], file["model_args"])
    elif is_file:
        start = foreign_start(unwrap(file), path, args.net)
    else:
        entry = published_weights(args.net.replace("-", "_") if args.weights.upper() == "DEFAULT" else args.weights)
        state = on_main_first(lambda: fetch_url(entry.url, "give --weights that file"))
        start = foreign_start(state, Path(entry.url), args.net)
    if start.model_args.get("net", args.net) != args.net:
        raise InputError(f"{args.weights} has the net {start.model_args['net']}: add --net {start.model_args['net']}")
    return start


def foreign_start(state: dict, path: Path, net: str) -> Start:
    """What the tensors tell of a detector from elsewhere, and its class names if it is published or has a labels.txt."""
    found = identify(state, net)
    entry = published_by_file(path.name)
    labels = path.parent / "labels.txt"  # jetson's model folder
    names = entry.class_names if entry else read_labels(labels) if labels.is_file() else None
    if names is not None and len(names) + 1 != found.num_classes:
        say(f"{labels} names {len(names)} classes, {path} has {found.num_classes - 1}: the names are not used")
        names = None
    return Start(state, names, {"net": found.net, **found.options, "table": found.table})


def resolve_model_args(args: argparse.Namespace, start: Start | None) -> dict:
    """Every value that shapes the model, resolved; stored in the checkpoint and all that `create_model` sees.

    Weights to start from bring what is in their tensors, and the default boxes they were trained on.
    """
    known = dict(start.model_args) if start else {}
    table = known.pop("table", "")
    resolution = args.resolution or known.get("resolution", NETS[args.net].resolution)
    values = {"net": args.net, **net_settings(args.net), "resolution": resolution}
    if args.net == "mb2-ssd-lite":
        values["mb2_width_mult"] = args.mb2_width_mult
        width = known.get("mb2_width_mult", args.mb2_width_mult)
        if args.mb2_width_mult not in (1.0, width):
            raise InputError(f"--mb2-width-mult {args.mb2_width_mult}, but {args.weights} has {width}: leave the flag out")
    if args.net == "ssdlite320-mobilenet-v3-large":  # as torchvision: its ImageNet weights need the tail they were made with
        values["reduced_tail"] = args.weights_backbone == "none"
    thresholds = {"score_thresh": args.box_score_thresh, "nms_thresh": args.box_nms_thresh,
                  "detections_per_img": args.box_detections}
    values |= known | {name: value for name, value in thresholds.items() if value is not None} | {"resolution": resolution}
    if "default_boxes" not in known:
        values["default_boxes"] = default_box_spec(args.net, resolution, table).to_dict()
    elif known["default_boxes"]["resolution"] != resolution:
        values["default_boxes"] = rescaled_boxes(args.net, known["default_boxes"], resolution).to_dict()
    return values


def create_model(model_args: dict, class_names: list[str]) -> nn.Module:
    """The detector, freshly initialised. Pure: reads no file and no data. `+ 1` is the background, and stands only here."""
    options = dict(model_args)
    return build_ssd(options.pop("net"), num_classes=len(class_names) + 1, **options)


def load_start_weights(model: nn.Module, args: argparse.Namespace, start: Start | None, class_names: list[str]) -> None:
    """The weights a new run starts from: a whole detector (`--weights`), or the base alone (`--weights-backbone`)."""
    if start:
        done = load_ssd_weights(model, start.state, class_names, start.class_names)
        if args.test_only and done.predictor_replaced:
            raise InputError(f"{args.weights} predicts other classes than the data has: there is nothing to test; train first")
        say(f"{args.weights}: {done.summary()}")
        return
    state = None if args.weights_backbone == "none" else base_weights(args)
    if state is None:
        say("no pretrained weights: every layer learns from scratch")
    else:
        report = load_base_weights(model, args.net, state)
        say(f"base weights: {args.weights_backbone or 'as published by torchvision'}, {report.summary()}")


def base_weights(args: argparse.Namespace) -> dict | None:
    """The tensors that `--weights-backbone` names, from a file or torchvision; None if nobody publishes any for this net."""
    path = Path(args.weights_backbone or "")
    if args.weights_backbone and (path.exists() or path.suffix in (".pth", ".pt")):
        return load_checkpoint(path)
    if args.weights_backbone is None and args.net == "mb2-ssd-lite" and args.mb2_width_mult != 1:
        return None  # they are published for the full width alone
    weights = imagenet_weights(args.net, args.weights_backbone)
    if weights is None and args.weights_backbone:
        raise InputError(f"torchvision has no weights for the base of {args.net}: give --weights-backbone a file, or none")
    return weights and on_main_first(lambda: fetch_url(weights.url, "give --weights-backbone that file, or none"))


def create_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """Three rates (base, extra layers, heads) and two weight decays (normalisation layers, all others)."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    norm_parameters = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)}
    norm_decay = args.weight_decay if args.norm_weight_decay is None else args.norm_weight_decay
    parts = [
        ([model.base_net], args.base_net_lr),
        ([model.extras, model.source_layer_add_ons], args.extra_layers_lr),
        ([model.classification_headers, model.regression_headers], None),
    ]
    groups = []
    for modules, lr in parts:
        parameters = [p for module in modules for p in module.parameters()]
        for is_norm, decay in ((False, args.weight_decay), (True, norm_decay)):
            members = [p for p in parameters if (id(p) in norm_parameters) == is_norm]
            if members:
                groups.append({"params": members, "weight_decay": decay, "lr": args.lr if lr is None else lr})
    if args.opt == "adamw":
        return torch.optim.AdamW(groups, lr=args.lr)
    return torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum, nesterov=args.opt == "sgd_nesterov")


def set_stage(model: nn.Module, args: argparse.Namespace, epoch: int) -> nn.Module:
    """Freeze for the stage that `epoch` belongs to, then wrap for several processes (in this order: DDP must know)."""
    layers = 0 if epoch < args.freeze_epochs else args.trainable_backbone_layers
    set_trainable_layers(model, args.net, layers)
    if args.freeze_base_net or args.freeze_net:
        freeze(model.base_net)
    if args.freeze_net:
        freeze(model.extras)
        freeze(model.source_layer_add_ons)
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
    if args.resolution is None:
        wanted = wanted | {"resolution": checkpoint["model_args"].get("resolution")}
    changed = check_resume(checkpoint, path, class_names=class_names, settings=vars(args), script=Path(__file__),
                           data=data)
    model_args, kept = merge_model_args(checkpoint["model_args"], wanted)
    say(*(f"changed since the run began: {setting}" for setting in changed))
    say(*(f"kept from the checkpoint: {setting}" for setting in kept))
    return model_args


def report_jetson(args: argparse.Namespace, run: RunFolder, model: nn.Module, epoch: int, losses: dict, metrics: dict) -> None:
    """What jetson-inference's script says and saves at a validation."""
    jetson.log_losses(epoch, "Validation", losses)
    if args.validation_mean_ap and is_main_process():
        jetson.log_average_precision(epoch, metrics["voc07"])
    jetson.save_epoch(run, model, args.net, epoch, sum(losses.values()))


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
    if args.jetson:
        jetson.log(f"Train dataset size: {len(train_set)}", f"Validation dataset size: {len(val_set)}")

    # 3. model
    start = None if checkpoint else read_start(args)
    class_names = start.class_names if args.test_only and start and start.class_names else train_set.class_names
    model_args = resolve_model_args(args, start)
    if checkpoint:
        model_args = continue_settings(args, checkpoint, resume_path, class_names, model_args, data)
    if args.trainable_backbone_layers is None:
        args.trainable_backbone_layers = NETS[args.net].num_stages
    begin = time.perf_counter()
    model = create_model(model_args, class_names)
    if not checkpoint:
        load_start_weights(model, args, start, class_names)
    if args.jetson:
        jetson.log(f"Took {time.perf_counter() - begin:.2f} seconds to load the model.")
    if args.distributed:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if args.sync_bn else model
        sync_normalizers(model)
    model.to(device)
    val_loader = evaluation_loader(val_set, model.transform.padded_size, args.eval_batch_size or args.batch_size, device,
                                   args.workers)
    train_loader = val_loader if args.test_only else make_train_loader(args, train_set, model, device)

    # 4. optimiser and schedule
    optimizer = create_optimizer(args, model)
    scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype == torch.float16)
    schedule = LRSchedule(args.lr_scheduler, max(1, -(-len(train_loader) // args.accumulate)), args.epochs,
                          warmup_steps=args.warmup_steps, milestones=args.lr_steps, step_size=args.lr_step_size,
                          gamma=args.lr_gamma, start_epoch=args.freeze_epochs, cosine_epochs=args.t_max)

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
    if args.jetson:
        jetson.save_labels(run, class_names)
        jetson.log(f"Start training from epoch {position.epoch}.")
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
            logger = jetson.JetsonLogger(epoch) if args.jetson else MetricLogger(enabled=is_main_process())
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
                metrics = report_evaluation(run, result, detections, val_set, truth)
            if args.jetson:
                jetson.log_losses(epoch, "Training", logger.means())
            if args.jetson and evaluate_this:
                report_jetson(args, run, tested, epoch, losses, metrics)
            run.add_row(row)
            keeper.end_epoch(is_best=best_epoch(run.rows, args.best_metric) == epoch)

    # 8. results
    say_best(run, args.best_metric)
    say(*(f"unreadable, replaced by another image: {path}" for path in sorted(bad_samples.paths)))
    if args.jetson:
        jetson.log("Task done, exiting program.")


if __name__ == "__main__":
    with one_sentence_errors(*USER_ERRORS), explain_failures(LESS_MEMORY):
        main(parse_args())
        shut_down()
