"""Train YOLOv3 (-SPP, -tiny, or any Darknet cfg) on YOLO label files, VOC, COCO, Open Images or the generated shapes set.

    python train_yolov3.py                                                  shapes, CPU, nothing to download
    python train_yolov3.py --cfg cfg/yolov3-tiny.cfg --data-path mine.data  Darknet's .data file, or a data.yaml
    python train_yolov3.py --data-path /data/VOCdevkit --year 2012          Pascal VOC; COCO and Open Images likewise
    python train_yolov3.py --data-path mine.data --weights yolov3.weights   from COCO weights, or a .pt of other trainers
    python train_yolov3.py --data-path mine.data --weights-backbone darknet53.conv.74 --freeze-epochs 5
    torchrun --nproc_per_node=8 train_yolov3.py --data-path /data/coco2017 --batch-size 8
    python train_yolov3.py --data-cfg data/coco_64img.data --img-size 320 --multi-scale     as the 2019 trainer
    python train_yolov3.py --test-only --weights yolov3.weights --names coco.names --data-path /data/coco2017
    python train_yolov3.py --resume auto                                    go on where the newest such run stopped

The classes of the data set the cfg: nobody edits `classes` and `filters` by hand. Of a cfg only what shapes the network counts;
how it is trained is said by flags. Everything a run produces lies in one folder (`--output-dir`).
Reading order: this file -> train_utils/train_eval_utils.py -> network_files/yolov3.py -> darknet.py and yolo_loss.py.
Copy this file, edit it, and your copy's checkpoints work in predict.py without further ado.
"""

import argparse
import copy
import os
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import datasets
import network_files
from datasets.annotations import stop_on_lost_images, summarise_faults
from datasets.class_names import read_class_file, translate_old_names
from datasets.image_cache import CachedImages
from datasets.kmeans_anchors import anchor_recall, box_sizes, kmeans_anchors
from datasets.mosaic import Mosaic
from datasets.open_dataset import OPTIONS, guess_kind, open_dataset
from datasets.samples import TrainingSamples
from datasets.yolo_augmentation import plain_recipe, yolo_recipe
from network_files.darknet import Darknet, base_layers, head_convolutions
from network_files.darknet_cfg import set_anchors, set_num_classes
from network_files.darknet_weights import classes_by_size, is_darknet, read_weights
from network_files.state_dicts import detector_family, unwrap
from network_files.yolo_checkpoints import count_classes, load_yolo_weights, norm_settings, rename_to_ours
from network_files.yolo_loss import YoloLoss
from network_files.yolov3 import YOLOv3
from plot_curve import plot_evolution, plot_loss_and_lr, plot_map
from train_utils import tensorboard
from train_utils.any_dataset import ground_truth_of
from train_utils.bad_samples import BadSamples
from train_utils.best_epoch import best_epoch, out_of_patience
from train_utils.bucket import upload
from train_utils.checkpoint import load_checkpoint
from train_utils.checkpointer import Checkpointer
from train_utils.coco_eval import STAT_NAMES, CocoScorer
from train_utils.device import choose_amp, choose_device, make_repeatable
from train_utils.distributed_utils import data_parallel, init_distributed_mode, is_main_process, say, shut_down, sync_normalizers
from train_utils.draw import draw_training_batch
from train_utils.ema import ModelEma
from train_utils.errors import InputError, LossNotFinite, one_sentence_errors
from train_utils.evolve import append_trial, best_trial, check_settings, mutate, read_trials, trial_generator
from train_utils.failures import LESS_MEMORY, explain_failures
from train_utils.flag_checks import check_num_classes, check_pairs, check_ranges, flag
from train_utils.freeze import freeze, unfreeze
from train_utils.group_by_aspect_ratio import create_aspect_ratio_groups
from train_utils.hyp import read_hyp, write_hyp
from train_utils.legacy_flags import modernise
from train_utils.legacy_yolo import YOLO, has_yolo_2019_flags
from train_utils.loaders import evaluation_loader, make_loader
from train_utils.lr_schedule import LRSchedule
from train_utils.metric_logger import MetricLogger
from train_utils.nonfinite import NonFiniteGuard
from train_utils.precision_recall import format_line, precision_recall
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
from train_utils.signals import Interrupted
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

SCRIPT, ROOT = Path(__file__).stem, Path(__file__).parent
DEFAULT_OUTPUT = f"runs/{SCRIPT.removeprefix('train_')}"
USER_ERRORS = (network_files.InputError, datasets.InputError)  # told in one sentence, exit code 2
DEFAULT_CFG = "cfg/yolov3.cfg"
OF_CHECKPOINT = {"cfg", "img_size", "resize", "rect"}  # what a run that goes on takes from there unless given
UPLOADED = ("last.pth", "best.pth", "results.txt", "results.csv", "loss_and_lr.png", "mAP.png")  # by --bucket

# The 2019 trainer's values for SGD with batches of 64; `--hyp FILE` and the flags of the same meaning go before them.
HYP = {
    "giou": 0.8541, "xy": 4.062, "wh": 0.1845,  # gains of the box losses
    "cls": 21.61, "cls_pw": 1.957, "obj": 22.9, "obj_pw": 2.894,  # gains and positive weights
    "iou_t": 0.3689,  # an anchor learns a box from this IoU of their widths and heights on
    "lr0": 0.001844, "lrf": 0.0, "momentum": 0.913, "weight_decay": 0.000467,
    "hsv_h": 0.0, "hsv_s": 0.5, "hsv_v": 0.5, "degrees": 5.0, "translate": 0.1, "scale": 0.1, "shear": 2.0,
    "mosaic": 0.0, "label_smoothing": 0.0,
}
FLAG_OF_HYP = {"lr0": "lr", "lrf": "final_lr", "momentum": "momentum", "weight_decay": "weight_decay", "mosaic": "mosaic",
               "label_smoothing": "label_smoothing"}
LOSS_HYP = ("giou", "xy", "wh", "cls", "cls_pw", "obj", "obj_pw", "iou_t", "label_smoothing")

# What the shapes set overrides unless the flag is given: a small net, a small input, minutes on a laptop.
QUICK_START = {
    "cfg": "cfg/yolov3-small.cfg",
    "batch_size": 8,
    "epochs": 40,
    "eval_every": 4,
    "opt": "adamw",
    "lr": 0.003,
    "lr_scheduler": "cosine",
    "warmup_steps": 40,
    "warmup_power": 1.0,
    "nominal_batch": 0,
    "workers": 0,
}
OPTIMISER_FLAGS = {"opt", "lr", "momentum", "lr_scheduler", "lr_steps", "lr_step_size", "lr_gamma", "warmup_steps",
                   "warmup_power", "nominal_batch", "hyp"}

# What the 2019 trainer's `--data-cfg`, or its default data where they lie, bring along unless given.
TRAINER_2019 = {
    "cfg": "cfg/yolov3-spp.cfg",
    "img_size": [416],
    "batch_size": 16,
    "accumulate": 4,
    "epochs": 100,
    "norm_weight_decay": HYP["weight_decay"],
    "workers": 4,
    "val_loss": True,
    "best_metric": "AP50",
    "box_nms_thresh": 0.5,
    "backup_every": 10,
    "allow_outside": True,
}
# What may differ between two calls of one evolution.
NOT_OF_EVOLUTION = {"evolve", "bucket", "output_dir", "notes", "workers", "print_freq", "device", "tensorboard"}
DATA_2019 = Path("data/coco_64img.data")
START_2019 = {"transfer": "weights/yolov3-spp.pt", "tiny": "weights/yolov3-tiny.conv.15", "other": "weights/darknet53.conv.74"}


def get_args_parser() -> argparse.ArgumentParser:
    """All flags. Defaults are the 2019 trainer's recipe, from scratch."""
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
    data.add_argument("--single-cls", action=on_off, default=False, help="take all classes for one")
    data.add_argument("--cache-images", action=on_off, default=False,
                      help="keep decoded images in memory, in every loader process")
    data.add_argument("--jitter", action=on_off, default=True,
                      help="random colours, rotation, shift, scale and shear, as --hyp says")
    data.add_argument("--mosaic", type=float, nargs="?", const=1.0, metavar="P",
                      help="probability that a sample is a mosaic of four images")
    data.add_argument("--hflip", type=float, default=0.5, metavar="P", help="probability of a horizontal flip")
    data.add_argument("--max-bad-samples", type=int, default=20, help="stop when more images than this cannot be read")
    data.add_argument("-j", "--workers", type=int, default=min(4, os.cpu_count() or 1), help="loader processes per process")

    model = parser.add_argument_group("model")
    model.add_argument("--cfg", help=f"Darknet cfg of the network; default: that of a checkpoint to start from, or {DEFAULT_CFG}")
    model.add_argument("--img-size", type=int, nargs="+", metavar="PX",
                       help="long side of the network input: one for all, or smallest and largest in training, or these and the "
                       "one for evaluation; default by cfg")
    model.add_argument("--resize", choices=["letterbox", "stretch"],
                       help="how an image becomes the network input: with grey borders (default), or out of proportion")
    model.add_argument("--multi-scale", action=on_off, default=False,
                       help="draw the size of each training batch between 2/3 and 3/2 of --img-size")
    model.add_argument("--rect", action=on_off, help="batches of similar shape, without borders to a square")
    model.add_argument("--anchors", choices=["cfg", "auto"], default="cfg",
                       help="auto: anchors that fit the training data, by k-means and mutation")
    model.add_argument("--loss", choices=["giou", "xywh", "darknet"], default="giou",
                       help="giou, xywh: the 2019 trainer's; darknet: the original's, with ignore and truth thresholds")
    model.add_argument("--xywh", dest="loss", action="store_const", const="xywh", help="the same as --loss xywh")
    model.add_argument("--class-weights", action=on_off, default=False, help="rare classes count more in the loss")
    model.add_argument("--label-smoothing", type=float, metavar="EPS", help="class targets are 1 - EPS/2 and EPS/2")
    model.add_argument("--weights", help="start from a detector: a local file, also of other projects, or, where there "
                       "are such, a published name, DEFAULT for the one of this architecture")
    model.add_argument("--names", help="class names of --weights, a name per line, if that file has none")
    model.add_argument("--weights-backbone", default="none",
                       help="weights of the backbone alone: a local file, a torchvision name (ImageNet) where it has the "
                       "network, or none")
    model.add_argument("--transfer", nargs="?", const="", metavar="FILE",
                       help="start from FILE, or --weights, and train nothing but the last convolution of each head")
    model.add_argument("--freeze-layers", type=int, nargs="?", const=-1, metavar="N",
                       help="the first N layers of the cfg never learn; without N: all but the last convolution of each head")
    model.add_argument("--box-score-thresh", type=float, help="drop detections below this score")
    model.add_argument("--box-nms-thresh", type=float, help="IoU above which the weaker of two detections goes")
    model.add_argument("--box-detections", type=int, help="most detections per image")

    train = parser.add_argument_group("training")
    train.add_argument("--device", help="cuda, cuda:1, mps or cpu; default: the best there is")
    train.add_argument("-b", "--batch-size", type=int, default=16, help="images per process")
    train.add_argument("--epochs", type=int, default=100, help="passes over the training data in all")
    train.add_argument("--start-epoch", type=int, default=0, help="number of the first epoch; --resume sets it itself")
    train.add_argument("--opt", choices=["sgd", "sgd_nesterov", "adamw"], default="sgd", help="optimiser")
    train.add_argument("--lr", type=float, help="learning rate, of all processes together")
    train.add_argument("--momentum", type=float, help="momentum of SGD")
    train.add_argument("--weight-decay", "--wd", type=float, help="weight decay")
    train.add_argument("--norm-weight-decay", type=float, default=0.0, help="weight decay of normalisation layers, if another")
    train.add_argument("--lr-scheduler", choices=["multistep", "step", "cosine", "constant"], default="multistep",
                       help="course of the learning rate")
    train.add_argument("--lr-steps", type=int, nargs="+", help="multistep: epochs where the rate falls")
    train.add_argument("--lr-step-size", type=int, default=8, help="step: epochs between two falls")
    train.add_argument("--lr-gamma", type=float, default=0.1, help="multistep, step: factor of a fall")
    train.add_argument("--warmup-steps", type=int, help="linear warm-up, at most the first epoch; 0: none")
    train.add_argument("--warmup-power", type=float, default=4.0, metavar="P",
                       help="course of the warm-up: 1 linear, 4 Darknet's")
    train.add_argument("--final-lr", type=float, metavar="F", help="cosine: share of the rate that is left at the end")
    train.add_argument("--nominal-batch", type=int, default=64, metavar="N",
                       help="SGD: --lr is meant for steps of N images, and scaled to those there are; 0: as it stands")
    train.add_argument("--hyp", metavar="FILE", help="hyper-parameters (yaml or txt): gains of the losses, rates, augmentation")
    train.add_argument("--freeze-epochs", type=int, default=0, metavar="N",
                       help="two stages: for N epochs the backbone is frozen and only what lies above it learns")
    train.add_argument("--unfreeze-lr", type=float, help="learning rate of the second stage; default: --lr")
    train.add_argument("--accumulate", type=int, metavar="N", help="batches per optimiser step")
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
    output.add_argument("--backup-every", type=int, default=0, metavar="N",
                        help="also keep backup<epoch>.pth of every N-th epoch")
    output.add_argument("--nosave", action=on_off, default=False, help="no checkpoint but after the last epoch")
    output.add_argument("--notest", action=on_off, default=False, help="no evaluation but after the last epoch")
    output.add_argument("--bucket", metavar="URL", help="copy checkpoints and results there after every epoch: s3://, ...")
    output.add_argument("--evolve", type=int, nargs="?", const=300, metavar="N",
                        help="mutate the hyper-parameters in N runs; trials and results are in evolve.csv")
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
        InputError: a flag of another project's script that has no meaning here, or a faulty `--hyp` file.
    """
    parser = get_args_parser()
    typed = sys.argv[1:] if argv is None else argv
    words, notes = modernise(typed, YOLO, parser)
    args, given = parser.parse_args(words), given_flags(parser, words)
    like_2019 = has_yolo_2019_flags(typed)
    if not given & {"dataset", "data_path", "val_data_path", "train_json", "val_json"} and DATA_2019.is_file():
        args.data_path, like_2019 = [str(DATA_2019)], True
    kind = args.dataset
    if kind == "auto":
        kind, reasons = guess_kind(args.data_path, args.val_data_path, args.train_json or args.val_json)
        notes += reasons
    parser.set_defaults(data_path=args.data_path or (["data/shapes"] if kind == "shapes" else None))
    preset = dict(TRAINER_2019) if like_2019 else dict(QUICK_START) if kind == "shapes" else {}
    if (args.weights or args.resume) and not like_2019:
        preset.pop("cfg", None)  # the file may bring its own
    args, used = parse_with_preset(parser, words, preset, together=() if like_2019 else OPTIMISER_FLAGS)
    if used:
        notes.append(f"{'defaults of the 2019 trainer' if like_2019 else 'quick start'}: {describe_preset(used)}")
    args.dataset = kind
    if like_2019:
        notes += follow_2019(args)
    if args.transfer is not None:
        if args.transfer and args.weights:
            raise InputError("--transfer FILE and --weights name two files to start from: give one of them")
        args.weights, args.freeze_layers = args.transfer or args.weights, -1
    set_hyperparameters(args)
    notes += [f"{flag(name)} has no effect with {why}" for name, why in idle_flags(args) if name in given]
    if not (args.weights or args.resume or args.weights_backbone != "none") and (args.freeze_epochs or args.freeze_layers):
        notes.append("warning: nothing is pretrained, yet part of the net is frozen: it stays at its random start")
    args.notes = notes
    return args


def follow_2019(args: argparse.Namespace) -> list[str]:
    """The files that the 2019 trainer starts from, if they are there: it fetched them, which is left to the user here."""
    if args.resume not in (None, "auto") or args.weights or args.transfer or args.weights_backbone != "none":
        return []
    is_tiny = args.cfg.endswith("-tiny.cfg")
    start = START_2019["transfer" if args.transfer is not None else "tiny" if is_tiny else "other"]
    if not Path(start).is_file():
        return [f"warning: there is no {start}, the 2019 trainer's usual start: the net learns from scratch"]
    if args.transfer is not None:
        args.transfer = start
    else:
        args.weights_backbone = start
    return [f"starting from {start}"]


def set_hyperparameters(args: argparse.Namespace, values: dict[str, float] | None = None) -> None:
    """`args.hyperparameters` from HYP, the file of `--hyp` and the flags, in this order, or as given; the flags follow them."""
    if values is None:
        values = HYP | (read_hyp(in_repository(args.hyp), HYP) if args.hyp else {})
        flags = {name: getattr(args, dest) for name, dest in FLAG_OF_HYP.items()}
        values |= {name: value for name, value in flags.items() if value is not None}
    args.hyperparameters = values
    for name, dest in FLAG_OF_HYP.items():
        setattr(args, dest, values[name])


def idle_flags(args: argparse.Namespace) -> list[tuple[str, str]]:
    """(flag, because of what) for the flags that do nothing beside others."""
    schedule = f"--lr-scheduler {args.lr_scheduler}"
    idle = {
        "lr_steps": args.lr_scheduler != "multistep" and schedule,
        "lr_step_size": args.lr_scheduler != "step" and schedule,
        "lr_gamma": args.lr_scheduler not in ("multistep", "step") and schedule,
        "final_lr": args.lr_scheduler != "cosine" and schedule,
        "momentum": args.opt == "adamw" and "--opt adamw",
        "weights_backbone": args.weights and "--weights",
        "names": not args.weights and "no --weights",
        "unfreeze_lr": not args.freeze_epochs and "--freeze-epochs 0",
        "eval_every": args.notest and "--notest",
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
                      "lr_step_size", "evolve"),
        not_negative=("momentum", "weight_decay", "norm_weight_decay", "seed", "workers", "patience", "keep_last", "warmup_steps",
                      "start_epoch", "freeze_epochs", "max_bad_samples", "max_nonfinite", "clip_grad_norm", "save_every_steps",
                      "save_every_minutes", "nominal_batch", "backup_every"),
        above_zero=("lr", "unfreeze_lr", "warmup_power"),
        in_0_1=("hflip", "box_score_thresh", "box_nms_thresh", "mosaic", "final_lr", "label_smoothing"),
    )
    if not 0 <= args.ema < 1:
        raise InputError(f"--ema must be at least 0 and below 1, not {args.ema}")
    if args.lr_steps and min(args.lr_steps) < 0:
        raise InputError(f"--lr-steps are epochs from 0 on, not {min(args.lr_steps)}")
    if args.opt == "sgd_nesterov" and args.momentum == 0:
        raise InputError("--opt sgd_nesterov needs a --momentum above 0")
    if args.start_epoch >= args.epochs:
        raise InputError(f"--start-epoch {args.start_epoch} must be below --epochs {args.epochs}")
    if args.sync_bn and not args.device.startswith("cuda"):
        raise InputError(f"--sync-bn needs CUDA devices, this is {args.device}: leave it out")
    if args.freeze_epochs >= args.epochs and args.freeze_epochs:
        raise InputError(f"--freeze-epochs {args.freeze_epochs} must be below --epochs {args.epochs}")
    if args.freeze_layers is not None and args.freeze_layers < -1:
        raise InputError(f"--freeze-layers counts layers from 0 on, not {args.freeze_layers}")
    if args.resume not in (None, "auto") and args.weights:
        raise InputError("--weights starts a new run and --resume continues one: give one of them")
    if args.rect and args.resize == "stretch":
        raise InputError("--rect keeps the shape of images and --resize stretch does not: give one of them")
    if args.mosaic and args.rect:
        raise InputError("--mosaic makes squares and --rect avoids them: give one of them")
    if args.img_size and (len(args.img_size) > 3 or min(args.img_size) < 32 or args.img_size[:2] != sorted(args.img_size[:2])):
        raise InputError(f"--img-size takes 1 to 3 sizes from 32 pixels on, the smallest before the largest, not {args.img_size}")
    if args.img_size and len(args.img_size) > 1 and args.multi_scale:
        raise InputError("--multi-scale makes its own range of sizes: give --img-size one value, or leave --multi-scale out")
    if not args.test_only and not args.val_data_path and any(str(path).endswith(".txt") for path in args.data_path or ()):
        raise InputError(f"--data-path {' '.join(args.data_path)} is a list of images: give the list to evaluate on, too "
                         "(--val-data-path), or a .data file that names both")
    if args.tensorboard:
        tensorboard.check_installed()
    pairs = [("train_json", "train_images"), ("val_json", "val_images")]
    check_pairs(vars(args), pairs if args.test_only else [*pairs, ("train_json", "val_json")])
    for name in ("weights", "weights_backbone"):
        value = getattr(args, name)
        if value not in (None, "none") and not Path(value).is_file():
            raise InputError(f"{flag(name)} {value}: no such file; this script takes files: Darknet's (from https://pjreddie.com/"
                             "media/files/), a .pt of another trainer, or a checkpoint")
    find_cfg(args.cfg or DEFAULT_CFG)
    yolo_recipe(32, args.hyperparameters)
    YoloLoss(args.loss, **{name: args.hyperparameters[name] for name in LOSS_HYP})


def open_data(args: argparse.Namespace):
    """(training set, validation set) of the same classes, the latter for both when there is only something to test."""
    train_set, options = None, {"single_class": args.single_cls, **{name: getattr(args, name) for name in OPTIONS}}
    if not args.test_only:
        train_set = open_dataset(args.dataset, args.data_path, args.train_split, class_names=args.classes,
                                 drop_empty=args.drop_empty, json_path=args.train_json, image_dir=args.train_images, **options)
        say(*(f"training data: {line}" for line in summarise_faults(train_set.faults)))
        stop_on_lost_images(train_set.faults, args.max_bad_samples)
    val_set = open_dataset(args.dataset, args.val_data_path or args.data_path, args.val_split,
                           class_names=train_set.class_names if train_set and not args.single_cls else args.classes,
                           json_path=args.val_json, image_dir=args.val_images, **options)
    say(*(f"validation data: {line}" for line in summarise_faults(val_set.faults)))
    check_num_classes(args.num_classes, val_set.class_names, args.dataset)
    val_set = TrainingSamples(val_set, seed=args.seed)
    if train_set is None:
        return val_set, val_set
    return TrainingSamples(CachedImages(train_set) if args.cache_images else train_set, seed=args.seed), val_set


def make_train_loader(
    args: argparse.Namespace, train_set: TrainingSamples, model: YOLOv3, model_args: dict, device: torch.device
) -> DataLoader:
    """This process's share of the training data, in seeded batches of augmented images of the largest training size."""
    size = max(model_args["multi_scale"] or [model_args["img_size"]])
    train_set.decode_side = 2 * size  # the warp may look at a part of the image
    is_square = model.darknet.height == model.darknet.width
    hyp = args.hyperparameters if args.jitter else dict.fromkeys(args.hyperparameters, 0.0)
    if args.mosaic:
        if not is_square or model_args["rect"]:
            raise InputError("--mosaic makes squares, but the network input is none: leave it out")
        train_set = Mosaic(train_set.dataset, size, hyp, probability=args.mosaic, hflip=args.hflip, seed=args.seed)
    elif args.jitter:
        # Without a square of its own from here, the model brings each image to its input's shape.
        keeps_shape = model_args["rect"] or model_args["resize"] == "stretch" or not is_square
        train_set.transform = yolo_recipe(size, hyp, hflip=args.hflip, rect=keeps_shape)
    else:
        train_set.transform = plain_recipe(args.hflip)
    groups = None
    if model_args["rect"] and len(train_set) >= 2 * args.batch_size * args.world_size:  # groups have full batches only
        groups = create_aspect_ratio_groups(train_set, 3)
    sampler = TrainBatchSampler(len(train_set), args.batch_size, groups, args.seed, args.rank, args.world_size)
    return make_loader(train_set, sampler, device, args.workers)


def in_repository(path: str) -> Path:
    """A file as named, or where there is none, the one of that name in this repository."""
    return Path(path) if Path(path).is_file() else ROOT / path


def find_cfg(path: str) -> Path:
    """The cfg file of `--cfg`."""
    found = in_repository(path)
    if not found.is_file():
        known = ", ".join(sorted(f"cfg/{file.name}" for file in ROOT.glob("cfg/*.cfg")))
        raise InputError(f"--cfg {path}: no such file; there are {known}")
    return found


def outline(cfg: str) -> Darknet:
    """The network of a cfg without its weights: takes no memory and draws no random numbers."""
    with torch.device("meta"):
        return Darknet(cfg)


@dataclass
class Start:
    """A detector to start from: its tensors, and what its source says of its classes and shape (nothing for bare files)."""

    state: dict
    class_names: list[str] | None
    model_args: dict


def read_start(args: argparse.Namespace) -> Start | None:
    """What `--weights` names: a checkpoint of this script, a file of Darknet, or a `.pt` of another trainer."""
    if not args.weights:
        return None
    path = Path(args.weights)
    names = read_class_file(args.names) if args.names else None
    file = {} if is_darknet_file(path) else load_checkpoint(path)
    if "model_args" not in file:
        return read_foreign_file(path, find_cfg(args.cfg or DEFAULT_CFG), names)
    if "cfg" not in file["model_args"]:
        family = detector_family(unwrap(file))
        raise InputError(f"{path} was written by {file.get('script')} and holds {family}: give --weights a YOLOv3")
    if names:
        say(f"--names has no effect: {path} has names of its own")
    averaged = (file.get("ema") or {}).get("model")
    return Start(averaged or unwrap(file), file["class_names"], file["model_args"])


def is_darknet_file(path: Path) -> bool:
    """Whether a file is one of Darknet's, by its first bytes."""
    with open(path, "rb") as file:
        return is_darknet(file.read(16))


def read_foreign_file(path: Path, cfg: Path, names: list[str] | None = None) -> Start:
    """The tensors of a file that does not say its network, Darknet's or a `.pt` of another trainer, and the cfg with its classes.

    Raises:
        InputError: it does not fit the cfg.
    """
    text = cfg.read_text(encoding="utf-8", errors="replace")
    if not is_darknet_file(path):
        file = load_checkpoint(path)
        state = unwrap(file)
        count = count_classes(state, outline(text))
        return Start(state, names, {"cfg": set_num_classes(text, count) if count else text, **norm_settings(file)})
    data = path.read_bytes()
    count = classes_by_size(data, text)
    text = set_num_classes(text, count) if count else text
    try:
        return Start(read_weights(data, outline(text)).state, names, {"cfg": text})
    except network_files.InputError as error:
        raise InputError(f"{path} with {cfg}: {error}; name the cfg of these weights with --cfg") from error


def training_range(args: argparse.Namespace, size: int) -> tuple[int, int] | None:
    """(least, largest) size of the network input in training, None where it is that of evaluation; size: of the cfg."""
    sizes = args.img_size or [size]
    low, high = sizes[0], sizes[:2][-1]
    if args.multi_scale:
        low, high = round(low / 32 / 1.5) * 32, round(low / 32 * 1.5) * 32
    return (low, high) if (low, high) != (sizes[-1], sizes[-1]) else None


def resolve_model_args(args: argparse.Namespace, start: Start | None, class_names: list[str]) -> dict:
    """Every value that shapes the model, resolved; stored in the checkpoint and all that `create_model` sees.

    Weights to start from bring the cfg they were trained with, unless `--cfg` names another.
    """
    known = dict(start.model_args) if start else {}
    text = known.get("cfg") if not args.cfg else None
    if text is None:
        text = find_cfg(args.cfg or DEFAULT_CFG).read_text(encoding="utf-8", errors="replace")
    text = set_num_classes(text, len(class_names))
    network = outline(text)
    size = known.get("img_size", max(network.width, network.height))
    values = {
        "cfg": text,
        "img_size": (args.img_size or [size])[-1],
        "multi_scale": training_range(args, size),
        "resize": args.resize or known.get("resize", "letterbox"),
        "rect": known.get("rect", False) if args.rect is None else args.rect,
        "loss": {"kind": args.loss, **{name: args.hyperparameters[name] for name in LOSS_HYP}},
        "score_thresh": 0.005 if args.box_score_thresh is None else args.box_score_thresh,
        "nms_thresh": 0.45 if args.box_nms_thresh is None else args.box_nms_thresh,
        "detections_per_img": 100 if args.box_detections is None else args.box_detections,
    }
    return values | {name: known[name] for name in ("norm_eps", "norm_momentum") if name in known}


def fit_to_data(args: argparse.Namespace, model_args: dict, train_set) -> None:
    """What of a new model comes from the training boxes: anchors (`--anchors auto`) and class weights (`--class-weights`)."""
    truth = ground_truth_of(train_set)
    if args.class_weights:
        weights = 1 / np.maximum(np.bincount(truth["labels"] - 1, minlength=len(train_set.class_names)), 1)
        model_args["loss"]["class_weights"] = (weights / weights.mean()).tolist()
    if args.anchors == "auto":
        network = outline(model_args["cfg"])
        low, high = model_args["multi_scale"] or [model_args["img_size"]] * 2
        shape = np.array([network.height, network.width]) / max(network.height, network.width)
        sizes = np.concatenate([box_sizes(truth, tuple(np.rint(shape * side).astype(int)), model_args["resize"])
                                for side in range(low, high + 1, 32)])  # each size that training draws
        own = np.array(network.heads[0].anchors)
        found = kmeans_anchors(sizes, len(own), seed=args.seed)
        model_args["cfg"] = set_anchors(model_args["cfg"], found.tolist())
        say(*(f"anchors: {share:.1%} of the boxes have one with an IoU above 0.5, mean best IoU {mean:.3f}: {whose}"
              for whose, (share, mean) in (("the cfg's", anchor_recall(sizes, own, 0.5)),
                                           ("fitted to the data", anchor_recall(sizes, found, 0.5)))))


def create_model(model_args: dict, class_names: list[str]) -> nn.Module:
    """The detector, freshly initialised. Pure: reads no file and no data. The cfg holds the class count; no background here."""
    model = YOLOv3(**model_args)
    if model.num_classes != len(class_names):
        raise InputError(f"the cfg is made for {model.num_classes} classes, but {len(class_names)} are named")
    return model


def load_start_weights(model: nn.Module, args: argparse.Namespace, start: Start | None, class_names: list[str]) -> None:
    """The weights a new run starts from: a whole detector (`--weights`), or the base alone (`--weights-backbone`)."""
    if start:
        done = load_yolo_weights(model.darknet, start.state, class_names=class_names, source_names=start.class_names)
        if start.class_names is None and not done.predictor_replaced:
            say(f"{args.weights} has no class names: taken for {', '.join(class_names[:5])}{', ...' * (len(class_names) > 5)}")
        if args.test_only and done.predictor_replaced:
            raise InputError(f"{args.weights} predicts other classes than the data has: there is nothing to test; train first")
        say(f"{args.weights}: {done.summary()}")
    elif args.weights_backbone == "none":
        say("no pretrained weights: every layer learns from scratch")
    else:
        path, last = Path(args.weights_backbone), base_layers(model.darknet)
        state = rename_to_ours(read_foreign_file(path, find_cfg(args.cfg or DEFAULT_CFG)).state)
        base = {key: value for key, value in state.items() if key.startswith("module_list.") and int(key.split(".")[1]) < last}
        if not base:
            raise InputError(f"--weights-backbone {path} has no layers of a Darknet: give a file such as darknet53.conv.74")
        say(f"{path}: {load_yolo_weights(model.darknet, base).summary()}")


def create_optimizer(args: argparse.Namespace, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Two weight decays: that of the convolutions, and another for normalisation layers and biases."""
    vectors = [p for p in model.parameters() if p.ndim == 1]
    decay = args.weight_decay if args.norm_weight_decay is None else args.norm_weight_decay
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": vectors, "weight_decay": decay},
    ]
    if args.opt == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=args.momentum, nesterov=args.opt == "sgd_nesterov")


def step_settings(args: argparse.Namespace, num_batches: int) -> tuple[int, float]:
    """(batches per optimiser step, learning rate for the images that such a step really has)."""
    per_batch = args.batch_size * args.world_size
    accumulate = args.accumulate or max(1, round(args.nominal_batch / per_batch))
    images = per_batch * min(accumulate, num_batches)
    if not args.nominal_batch or args.opt == "adamw" or images == args.nominal_batch:
        return accumulate, args.lr
    lr = args.lr * images / args.nominal_batch
    if not args.test_only:
        say(f"--lr {args.lr:g} is meant for {args.nominal_batch} images per step; for {images} it is {lr:g}")
    return accumulate, lr


def make_schedule(args: argparse.Namespace, num_batches: int, accumulate: int) -> LRSchedule:
    """Burn-in over a fifth of the first epoch, at most 1000 batches, then falls at 80 and 90 % unless said otherwise."""
    warmup = args.warmup_steps
    if warmup is None:
        warmup = -(-min(num_batches // 5 + 1, 1000) // accumulate)
    milestones = args.lr_steps or [round(0.8 * args.epochs), round(0.9 * args.epochs)]
    return LRSchedule(args.lr_scheduler, max(1, -(-num_batches // accumulate)), args.epochs, warmup_steps=warmup,
                      warmup_power=args.warmup_power, milestones=milestones, step_size=args.lr_step_size, gamma=args.lr_gamma,
                      start_epoch=args.freeze_epochs, final_factor=args.final_lr)


def frozen_layers(args: argparse.Namespace, network: Darknet, epoch: int) -> set[int]:
    """Numbers of the layers that do not learn in an epoch.

    In the first stage of `--freeze-epochs` the base is frozen, which ends with the last shortcut of the cfg.

    Raises:
        InputError: `--freeze-layers` covers every head.
    """
    heads = head_convolutions(network)
    frozen = set(range(base_layers(network))) if epoch < args.freeze_epochs else set()
    if args.freeze_layers == -1:
        return set(range(len(network.module_list))) - set(heads)
    if (args.freeze_layers or 0) > heads[-1]:
        raise InputError(f"--freeze-layers {args.freeze_layers} leaves nothing to learn: layer {heads[-1]} makes the last head")
    return frozen | set(range(args.freeze_layers or 0))


def set_stage(model: nn.Module, args: argparse.Namespace, epoch: int) -> nn.Module:
    """Freeze for the stage that `epoch` belongs to, then wrap for several processes (in this order: DDP must know)."""
    unfreeze(model.darknet)
    for number in frozen_layers(args, model.darknet, epoch):
        freeze(model.darknet.module_list[number])
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
    given = {name: value for name, value in vars(args).items() if value is not None or name not in OF_CHECKPOINT}
    changed = check_resume(checkpoint, path, class_names=class_names, settings=given, script=Path(__file__),
                           data=data)
    stored = checkpoint["model_args"]
    if args.cfg and without_anchors(wanted["cfg"]) != without_anchors(stored["cfg"]):
        raise InputError(f"{path} has another network than --cfg {args.cfg}: leave --cfg out to go on with its own")
    typed = {"img_size": args.img_size, "resize": args.resize, "rect": args.rect is not None, "multi_scale": args.multi_scale}
    wanted = {name: value for name, value in wanted.items() if typed.get(name, name not in ("cfg", "loss"))}
    model_args, kept = merge_model_args(stored, wanted)
    if not args.test_only:
        say(*(f"changed since the run began: {setting}" for setting in changed))
    say(*(f"kept from the checkpoint: {setting}" for setting in kept))
    return model_args


def without_anchors(cfg: str) -> list[str]:
    """The lines of a cfg but for the anchors, which a run may have fitted to its data."""
    return [line for line in cfg.splitlines() if not line.replace(" ", "").startswith("anchors=")]


def draw_first_batch(run: RunFolder, train_loader: DataLoader, class_names: list[str]) -> None:
    """train_batch0.jpg: the first images to train on, as the network sees them, with their boxes."""
    samples = [train_loader.dataset[key] for key in next(iter(train_loader.batch_sampler))]
    run.save_picture(draw_training_batch(*zip(*samples), class_names), "train_batch0.jpg")


def main(args: argparse.Namespace) -> dict | None:
    """Train, evaluate after each epoch, and leave everything in the run folder; returns the results of the last epoch."""
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
    class_names = train_set.class_names
    if start and start.class_names:
        start.class_names = translate_old_names(start.class_names, class_names)
        class_names = start.class_names if args.test_only else class_names
    model_args = resolve_model_args(args, start, class_names)
    if checkpoint:
        model_args = continue_settings(args, checkpoint, resume_path, class_names, model_args, data)
    elif not args.test_only:
        fit_to_data(args, model_args, train_set)
    model = create_model(model_args, class_names)
    frozen_layers(args, model.darknet, 0)  # refuses what leaves nothing to learn
    if not checkpoint:
        say(*model.darknet.notes)
        load_start_weights(model, args, start, class_names)
    if args.distributed:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if args.sync_bn else model
        sync_normalizers(model)
    model.to(device)
    val_loader = evaluation_loader(val_set, model.transform.padded_size, args.eval_batch_size or args.batch_size, device,
                                   args.workers)
    train_loader = val_loader if args.test_only else make_train_loader(args, train_set, model, model_args, device)

    # 4. optimiser and schedule
    accumulate, lr = step_settings(args, len(train_loader))
    optimizer = create_optimizer(args, model, lr)
    scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype == torch.float16)
    schedule = make_schedule(args, len(train_loader), accumulate)

    # 5. resume
    rows, position = [], Position(args.start_epoch)
    ema = ModelEma(model, args.ema, ramp=2000) if args.ema and not args.test_only else None
    if checkpoint and args.test_only:
        model.load_state_dict((checkpoint["ema"] or checkpoint)["model"])
    elif checkpoint:
        restore_training(checkpoint, model, optimizer, scaler, ema)
        rows, position = checkpoint["rows"], find_position(checkpoint, len(train_loader), accumulate)
        say(f"{resume_path}: goes on in epoch {position.epoch} after {position.batches_done} of {len(train_loader)} batches")

    # 6. test only
    truth = ground_truth_of(val_set)
    scorer = CocoScorer(truth) if is_main_process() else None
    evaluate_now = partial(evaluate_fully, data_loader=val_loader, device=device, scorer=scorer, amp_dtype=amp_dtype,
                           label_map=label_map(class_names, val_set.class_names))
    if args.test_only:
        result, detections = evaluate_now(model)
        say(*result.lines)
        if is_main_process():
            say(format_line(precision_recall(detections, truth)))
        return None

    # 7. train
    run = open_run(vars(args), DEFAULT_OUTPUT, resume_path, class_names, plot_functions=(plot_loss_and_lr, plot_map),
                   keep_last=args.keep_last, unfreeze_epoch=args.freeze_epochs or None, keep_every=args.backup_every,
                   tensorboard=args.tensorboard)
    run.rows = rows
    run.write_cfg(model_args["cfg"])
    if checkpoint:
        restore_best(run, resume_path, position, best_epoch(rows, args.best_metric))
    elif is_main_process():
        draw_first_batch(run, train_loader, class_names)
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
    with Checkpointer(run, state_of, position, args.save_every_steps, 0 if args.nosave else args.save_every_minutes) as keeper:
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
                lr_factor=stage_factor(args, schedule, epoch), amp_dtype=amp_dtype, accumulate=accumulate,
                clip_grad_norm=args.clip_grad_norm, ema=ema, seed=args.seed, bad_samples=bad_samples, logger=logger,
                first_batch=first_batch, after_step=keeper.after_step, guard=guard)
            row = epoch_row(epoch, mean_loss, lr, logger, len(train_set), device)
            tested = ema.module if ema else model
            is_last = epoch + 1 == args.epochs
            evaluate_this = is_last or not args.notest and (epoch + 1) % args.eval_every == 0
            if evaluate_this and not args.nosave:
                keeper.save()
            if args.val_loss and evaluate_this:
                losses = validation_losses(tested, val_loader, device, amp_dtype, args.seed, keeper.stop)
                row |= {f"val_{name}": value for name, value in losses.items()} | {"val_loss": sum(losses.values())}
            if evaluate_this:
                result, detections = evaluate_now(tested, stop=keeper.stop)
                row |= evaluation_columns(result)
                report_evaluation(run, result, detections, val_set, truth)
            if evaluate_this and is_main_process():
                found = precision_recall(detections, truth)
                say(format_line(found))
                row |= found
            run.add_row(row)
            if is_last or no_patience_left() or not args.nosave:
                keeper.end_epoch(is_best=best_epoch(run.rows, args.best_metric) == epoch)
            if args.bucket and is_main_process():
                upload(args.bucket, [run.path / name for name in UPLOADED])

    # 8. results
    say_best(run, args.best_metric)
    say(*(f"unreadable, replaced by another image: {path}" for path in sorted(bad_samples.paths)))
    return run.rows[-1] if run.rows else None


def evolve(args: argparse.Namespace) -> None:
    """Runs with mutated hyper-parameters, each in a folder of its own; evolve.csv has them all and says where to go on."""
    if args.resume or args.test_only or "WORLD_SIZE" in os.environ:
        raise InputError("--evolve starts runs of one process itself: leave out --resume, --test-only and torchrun")
    folder = Path(args.output_dir or f"{DEFAULT_OUTPUT}-evolve")
    args.device = str(choose_device(args.device))
    check_args(args)
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder / "settings.json", {name: value for name, value in vars(args).items() if name not in NOT_OF_EVOLUTION})
    table = folder / "evolve.csv"
    for _ in range(args.evolve):
        trials = read_trials(table)
        trial = copy.deepcopy(args)
        set_hyperparameters(trial, mutate(trials, args.hyperparameters, trial_generator(args.seed, len(trials))))
        trial.notest, trial.output_dir, trial.bucket = True, str(folder / f"trial{len(trials)}"), None
        shutil.rmtree(trial.output_dir, ignore_errors=True)  # of a trial that was broken off, for it is not in the table
        say(f"trial {len(trials)}: {describe_preset(trial.hyperparameters)}")
        try:
            row = main(trial)
        except Interrupted:
            say(f"the same command goes on; trial {len(trials)} begins anew then")
            raise
        except LossNotFinite as error:
            say(f"trial {len(trials)} counts as 0: {error}")
            row = dict.fromkeys(("precision", "recall", "f1"), 0.0) | {"stats": [0.0] * len(STAT_NAMES)}
        results = dict(zip(STAT_NAMES, row["stats"])) | {name: row[name] for name in ("precision", "recall", "f1")}
        append_trial(table, results, trial.hyperparameters)
        if args.bucket:
            upload(args.bucket, [table])
    trials = read_trials(table)
    best = best_trial(trials)
    write_hyp(folder / "best.yaml", {name: best[name] for name in args.hyperparameters})
    columns = {name: [trial[name] for trial in trials] for name in ("fitness", *args.hyperparameters)}
    plot_evolution(columns.pop("fitness"), columns, folder / "evolve.png")
    say(f"best of {len(trials)} trials: trial {trials.index(best)}, AP {best['AP']:.3f}, AP50 {best['AP50']:.3f}; train with "
        f"--hyp {folder / 'best.yaml'}")


if __name__ == "__main__":
    with one_sentence_errors(*USER_ERRORS), explain_failures(LESS_MEMORY):
        arguments = parse_args()
        evolve(arguments) if arguments.evolve else main(arguments)
        shut_down()
