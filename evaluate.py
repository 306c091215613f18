"""Every figure of a detector on a data set: COCO and VOC numbers, classes, confidences, kinds of errors, pictures of them.

    python evaluate.py runs/fasterrcnn/best.pth                                       on the data of its own training run
    python evaluate.py runs/ssd/best.pth --val-split test                             on another split of it
    python evaluate.py runs/ssd/best.pth --data-path /data/mine                       on other data, of any format
    python evaluate.py yolov3.weights --cfg cfg/yolov3.cfg --names coco.names --dataset coco --data-path /data/coco
    python evaluate.py --detections results.json --dataset coco --data-path /data/coco      COCO results of any program
    python evaluate.py --detections results/ --data-path /data/VOCdevkit              det_test_<class>.txt as the devkit has them
    torchrun --nproc_per_node 4 evaluate.py runs/ssd/best.pth                         on four GPUs, the same numbers

Without --data-path, --dataset and --val-json the data flags are those of the run that wrote the checkpoint, each of which can be
given anew; with one of the three only what is given counts. The thresholds are the model's; --confidence is the one that a user
of the detector would set.

The folder (runs/evaluate) gets metrics.json, per_class.csv, record_mAP.txt, detections.json, pr_curve.png, scores.png,
confusion_matrix.png, errors.png and worst.png.
Reading order: this file -> load_detector.py -> train_utils/train_eval_utils.py (detect) -> train_utils/figures.py.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import datasets
import network_files
from datasets.annotations import summarise_faults
from datasets.open_dataset import OPTIONS, guess_kind, open_dataset
from datasets.samples import TrainingSamples
from load_detector import Detector, add_detector_flags, detection_limits, file_hash, load_detector, set_detection_limits
from train_utils.any_dataset import ground_truth_of
from train_utils.detection_files import check_voc_names, read_coco_results, read_voc_results, write_voc_results
from train_utils.device import choose_amp, choose_device
from train_utils.distributed_utils import init_distributed_mode, is_main_process, say, shut_down
from train_utils.errors import InputError, one_sentence_errors
from train_utils.figures import Figures, score_everything, write_figures
from train_utils.flag_checks import check_num_classes, check_pairs, check_ranges, flag
from train_utils.legacy_flags import EVALUATE, modernise
from train_utils.loaders import evaluation_loader
from train_utils.run_folder import fresh_folder
from train_utils.surroundings import surroundings
from train_utils.train_eval_utils import detect, label_map, validation_losses

USER_ERRORS = (datasets.InputError, network_files.InputError)  # told in one sentence, exit code 2

# What the data flags mean where neither the command nor the run of the checkpoint says it.
DATA_DEFAULTS = {
    "dataset": "auto", "data_path": None, "year": "2012", "val_split": "val", "val_json": None, "val_images": None,
    "classes": None, "num_classes": None, "single_cls": False, "skip_difficult": False, "skip_unknown": False,
    "skip_missing": False, "group_boxes": False, "polygon_boxes": False, "merge_classes": False, "allow_outside": False,
}
NEW_DATA = ("dataset", "data_path", "val_json")  # flags that say: not the data of the run


def get_args_parser() -> argparse.ArgumentParser:
    """All flags; those of the data are the training scripts', and None where not given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    on_off = argparse.BooleanOptionalAction
    parser.add_argument("weights", nargs="?", help="checkpoint of a training script, name of a published detector, or a file of "
                                                   "another project")
    parser.add_argument("--weights", dest="weights_flag", metavar="WEIGHTS", help="the same as a flag")
    parser.add_argument("--detections", metavar="FILE_OR_FOLDER",
                        help="score these instead: a COCO results file, or a folder of VOC's det_test_<class>.txt")
    add_detector_flags(parser)

    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=["auto", "voc", "coco", "openimages", "yolo", "shapes"],
                      help="format of the data; auto looks at --data-path")
    data.add_argument("--data-path", nargs="+", metavar="DIR",
                      help="root of the data; VOC: the parent of VOCdevkit, VOCdevkit, a year or a bare folder; several: joined")
    data.add_argument("--year", help="VOC year folder, where there is a choice (2012)")
    data.add_argument("--val-split", "--split", help="name of the split to evaluate on (val)")
    data.add_argument("--val-json", "--json", help="COCO annotation file, instead of the folder tree")
    data.add_argument("--val-images", "--images", help="folder of its images")
    data.add_argument("--classes", help="file with the class names of the data, txt or json; found in the annotations if absent")
    data.add_argument("--num-classes", type=int, help="number of classes without background, only to check the data against")
    data.add_argument("--single-cls", action=on_off, help="take all classes for one")
    data.add_argument("--skip-difficult", action=on_off,
                      help="leave VOC's difficult objects out of --loss; the metrics ignore them in any case")
    data.add_argument("--skip-unknown", action=on_off, help="leave out objects of classes not in --classes")
    data.add_argument("--skip-missing", action=on_off, help="VOC: leave out listed images whose picture or annotation is missing")
    data.add_argument("--group-boxes", action=on_off, help="Open Images: expect boxes around groups to be found")
    data.add_argument("--polygon-boxes", action=on_off, help="YOLO: take the box around a polygon, instead of stopping")
    data.add_argument("--merge-classes", action=on_off, help="several data paths: take the classes of all")
    data.add_argument("--allow-outside", action=on_off, help="let the data set's files name paths outside its folder")

    run = parser.add_argument_group("detecting")
    run.add_argument("--score-thresh", type=float, help="lowest score that the model lets through; default: the model's own")
    run.add_argument("--nms-thresh", type=float, help="IoU above which it drops the lower of two boxes of a class")
    run.add_argument("--max-detections", type=int,
                     help="most detections of an image; above 100 COCO's numbers count as many, too")
    run.add_argument("--batch-size", type=int, help="images at once, per process; default: as in the run")
    run.add_argument("--device", help="cuda, cuda:1, mps or cpu; default: the best there is")
    run.add_argument("--amp", choices=["off", "auto", "bf16", "fp16"], nargs="?", const="auto",
                     help="mixed precision; default: as in the run")
    run.add_argument("-j", "--workers", type=int, default=2, help="processes that read images")
    run.add_argument("--print-freq", type=int, default=100, help="batches between two lines of progress")
    run.add_argument("--loss", action=on_off, default=False,
                     help="the losses on this data, too; they are means over batches, so that the batch size matters")

    figures = parser.add_argument_group("figures")
    figures.add_argument("--confidence", type=float, default=0.25,
                         help="score from which a detection counts in the confusion matrix, the errors and the pictures")
    figures.add_argument("--iou", type=float, default=0.5, help="IoU from which a box is right, in all but COCO's numbers")
    figures.add_argument("--plus-one", action=on_off, default=True,
                         help="measure VOC's boxes in whole pixels, x2 - x1 + 1, as its development kit does")
    figures.add_argument("--save-voc", action=on_off, default=False, help="write det_test_<class>.txt, too")
    figures.add_argument("--worst", type=int, default=8, metavar="N", help="images on the page of the worst; 0: no page")
    figures.add_argument("--output-dir", default="runs/evaluate", help="where everything goes (a fresh folder)")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of a command line, also if they are spelt with underscores.

    Raises:
        InputError: values or combinations that cannot be used.
    """
    parser = get_args_parser()
    words, notes = modernise(sys.argv[1:] if argv is None else argv, EVALUATE, parser)
    args = parser.parse_args(words)
    args.notes = notes
    if args.weights and args.weights_flag:
        raise InputError(f"two weights files, {args.weights} and {args.weights_flag}: give one")
    args.weights = args.weights or args.weights_flag
    if bool(args.weights) == bool(args.detections):
        raise InputError("give either the weights of a detector or --detections with what one has found"
                         + (", not both" if args.weights else ""))
    if args.detections:
        check_scoring_only(args)
    if args.max_detections is not None:
        check_ranges(vars(args), at_least_one=("max_detections",))
    check_pairs(vars(args), [("val_json", "val_images")])
    check_ranges(vars(args), at_least_one=("print_freq",), not_negative=("workers", "worst"), above_zero=("iou",),
                 in_0_1=("confidence", "iou"))
    if args.batch_size is not None:
        check_ranges(vars(args), at_least_one=("batch_size",))
    return args


def check_scoring_only(args: argparse.Namespace) -> None:
    """Refuse what makes no sense without a detector.

    Raises:
        InputError: the flag, or a missing file.
    """
    given = [flag(name) for name in ("score_thresh", "nms_thresh", "batch_size", "amp") if getattr(args, name) is not None]
    given += ["--loss"] * args.loss
    if given:
        raise InputError(f"{' and '.join(given)}: only with the weights of a detector; detections are scored as they are")
    if not any(getattr(args, name) for name in NEW_DATA):
        raise InputError("--detections needs the data they belong to: give --data-path, or --val-json with --val-images")
    if not Path(args.detections).exists():
        raise InputError(f"--detections {args.detections}: no such file or folder; check the path")


def data_settings(args: argparse.Namespace, run: dict, class_names: list[str] | None) -> dict:
    """Every data flag, resolved: what is given, else what the run had (unless other data are given), else the default.

    run, class_names: settings and classes of the training run; its validation data may lie in a folder of their own.

    Raises:
        InputError: the run's data are not where they were.
    """
    given = {name: getattr(args, name) for name in DATA_DEFAULTS if getattr(args, name) is not None}
    had = {name: run[name] for name in DATA_DEFAULTS if name in run}
    if had and run.get("val_data_path"):
        had["data_path"] = run["val_data_path"]
    if not any(name in given for name in NEW_DATA):
        if "val_split" in given:
            had |= {"val_json": None, "val_images": None}  # they are the other split's
        return run_data(had | given, class_names)
    unused = {name: value for name, value in had.items() if value not in (DATA_DEFAULTS[name], given.get(name))}
    unused = [f"{flag(name)} {value}" for name, value in unused.items() if name not in (*NEW_DATA, "val_images", "num_classes")]
    if unused:
        say(f"other data than the run's are given: its {' '.join(unused)} is left out, give it again if it is meant")
    settings = DATA_DEFAULTS | given
    if settings["dataset"] == "shapes" and not settings["data_path"]:
        settings["data_path"] = ["data/shapes"]  # as in training
    if settings["dataset"] == "auto":
        settings["dataset"], reasons = guess_kind(settings["data_path"], json_path=settings["val_json"])
        say(*reasons)
    return settings


def run_data(settings: dict, class_names: list[str] | None) -> dict:
    """The settings of the data of a run, which have to be there still."""
    settings = DATA_DEFAULTS | settings
    if not (settings["data_path"] or settings["val_json"]):
        raise InputError("the weights do not say which data they belong to: give --data-path, or --val-json with --val-images")
    for path in [settings["val_json"]] if settings["val_json"] else settings["data_path"] or []:
        if not Path(path).exists():
            raise InputError(f"{path} is not here: the run of this checkpoint had its data there, seen from the folder it was "
                             "started in; start from there, or give --data-path")
    if settings["classes"] is None and not settings["single_cls"]:
        settings["classes"] = class_names
    return settings


def open_data(settings: dict):
    """The split to evaluate on."""
    data = open_dataset(settings["dataset"], settings["data_path"], settings["val_split"], class_names=settings["classes"],
                        json_path=settings["val_json"], image_dir=settings["val_images"], single_class=settings["single_cls"],
                        **{name: settings[name] for name in OPTIONS})
    say(*summarise_faults(data.faults))
    check_num_classes(settings["num_classes"], data.class_names, settings["dataset"])
    place = settings["val_json"] or " ".join(map(str, settings["data_path"]))
    say(f"split {settings['val_split']} of {place}: {len(data)} images, classes {', '.join(data.class_names)}")
    return TrainingSamples(data, seed=0)


def labels_of_data(args: argparse.Namespace, settings: dict, model_names: list[str], data_names: list[str]) -> np.ndarray | None:
    """The data's label for each of the model's, see `label_map`; all are one where all classes are taken for one.

    Raises:
        InputError: no class in common, or --loss with other classes than the model's.
    """
    if model_names == data_names:
        return None
    if args.loss:
        raise InputError(f"--loss needs data with the classes of the model in its order ({', '.join(model_names)}), these have "
                         f"{', '.join(data_names)}: leave --loss out, or give their order with --classes")
    if settings["single_cls"]:
        return np.array([0] + [1] * len(model_names), dtype=np.int64)
    unknown = [name for name in data_names if name not in model_names]
    extra = [name for name in model_names if name not in data_names]
    if unknown:
        say(f"classes that the model does not know, which count with AP 0 where the data have them: {', '.join(unknown)}")
    if extra:
        more = ", ..." if len(extra) > 5 else ""
        say(f"classes of the model that are not in the data, and left out: {', '.join(extra[:5])}{more}")
    return label_map(model_names, data_names)


class Stopwatch:
    """Seconds that the parts of a model take: its methods are replaced by timed ones."""

    def __init__(self, model: nn.Module, device: torch.device):
        self.seconds = {"prepare": 0.0, "forward_heads": 0.0, "postprocess": 0.0}
        self.device = device
        for name in self.seconds:
            setattr(model, name, self._timed(name, getattr(model, name)))

    def _timed(self, name: str, part: Callable) -> Callable:
        def run(*words):
            begin = self._now()
            result = part(*words)
            self.seconds[name] += self._now() - begin
            return result

        return run

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


def run_detector(
    args: argparse.Namespace, detector: Detector, data, labels: np.ndarray | None, device: torch.device
) -> tuple[dict | None, dict, dict]:
    """(detections, on rank 0 only; seconds of each part; losses) of a detector, in the batches of its training run."""
    run = detector.settings
    model = detector.model.to(device)
    amp_dtype = choose_amp(args.amp or run.get("amp", "off"), device)
    batch_size = args.batch_size or run.get("eval_batch_size") or run.get("batch_size", 1)
    loader = evaluation_loader(data, model.transform.padded_size, batch_size, device, args.workers)
    stopwatch = Stopwatch(model, device)
    detections = detect(model, loader, device, amp_dtype=amp_dtype, label_map=labels, print_freq=args.print_freq)
    seconds = dict(stopwatch.seconds)
    losses = validation_losses(model, loader, device, amp_dtype, run.get("seed", 0)) if args.loss else {}
    return detections, seconds, losses


def read_detections(path: Path, truth: dict, data, kind: str) -> dict:
    """Detections of another program; says what has to be said of them."""
    if path.is_dir():
        detections, notes = read_voc_results(path, truth, image_names(data))
    else:
        detections, notes = read_coco_results(path, truth)
        if kind != "coco":  # whose ids are the data's own
            order = ", ".join(f"{number} {name}" for number, name in zip(truth["category_ids"], truth["class_names"]))
            notes.append(f"category ids are taken as {order}; --classes gives another order")
    scores = detections["scores"]
    if len(scores) and not 0 <= scores.min() <= scores.max() <= 1:
        notes.append(f"scores go from {scores.min():g} to {scores.max():g}: all but AP needs scores in 0..1")
    say(*notes)
    return detections


def image_names(data) -> list[str]:
    """The name of every image without its suffix, as VOC's files have it."""
    return [Path(data.image_path(index)).stem for index in range(len(data))]


def protocol(args: argparse.Namespace, settings: dict, detector: Detector | None, figures: Figures, count: int) -> dict:
    """Everything that two results must share to be comparable; data settings at their defaults are left out."""
    path = Path(args.weights or args.detections)
    facts = {"weights" if detector else "detections": str(path), "sha256": file_hash(path) if path.is_file() else None}
    if detector:
        facts |= {"epochs": detector.epoch, **detection_limits(detector.model),
                  "amp": args.amp or detector.settings.get("amp", "off"), "input": str(detector.model.transform)}
    facts |= {name: value for name, value in settings.items() if value != DATA_DEFAULTS[name] or name == "val_split"}
    facts |= {"images": count, "difficult": "ignored", "iou": args.iou, "coco_max_detections": figures.coco.max_detections,
              "evaluator": figures.coco.evaluator}
    return {name: value for name, value in facts.items() if value is not None}


def say_figures(figures: Figures, losses: dict, seconds: dict, rules: dict, threshold: float | None) -> None:
    """All that is printed of them; threshold: lowest score that the detector lets through."""
    say(*figures.lines)
    if why := figures.explain_zero(threshold):
        say(why)
    if losses:
        parts = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        say(f"losses: {parts}, sum {sum(losses.values()):.4f}")
    say("seconds of this process: " + ", ".join(f"{name} {value:.2f}" for name, value in seconds.items()))
    say("protocol: " + ", ".join(f"{name} {value}" for name, value in rules.items()))


def main(args: argparse.Namespace) -> None:
    """Detect or read, score, print, write."""
    # 1. setup
    args.device = str(choose_device(args.device))
    init_distributed_mode(args)
    device = torch.device(args.device)
    say(*args.notes)

    # 2. detector
    detector = None
    if args.weights:
        names = ("net", "cfg", "labels", "resolution", "resize", "script")
        detector = load_detector(args.weights, **{name: getattr(args, name) for name in names})
        say(*detector.notes)
        set_detection_limits(detector.model, args.score_thresh, args.nms_thresh, args.max_detections)

    # 3. data
    settings = data_settings(args, detector.settings if detector else {}, detector.class_names if detector else None)
    data = open_data(settings)
    truth = ground_truth_of(data)
    labels = labels_of_data(args, settings, detector.class_names, data.class_names) if detector else None
    if args.save_voc:
        check_voc_names(data.class_names, image_names(data))
    folder = fresh_folder(args.output_dir) if is_main_process() else None  # before the long part

    # 4. detections
    seconds, losses = {}, {}
    if detector:
        detections, seconds, losses = run_detector(args, detector, data, labels, device)
    else:
        detections = read_detections(Path(args.detections), truth, data, settings["dataset"])
    if not is_main_process():
        return

    # 5. figures
    begin = time.perf_counter()
    figures = score_everything(truth, detections, confidence=args.confidence, iou=args.iou, plus_one=args.plus_one,
                               max_detections=max(100, args.max_detections or 0))
    seconds["scoring"] = time.perf_counter() - begin
    rules = protocol(args, settings, detector, figures, len(data))
    say_figures(figures, losses, seconds, rules, detection_limits(detector.model)["score_thresh"] if detector else None)

    # 6. files
    facts = {"losses": losses, "seconds": seconds, "protocol": rules, **surroundings()}
    write_figures(folder, figures, facts, data, args.worst)
    if args.save_voc:
        write_voc_results(folder, truth, detections, image_names(data))
    say(f"everything is in {folder}")


if __name__ == "__main__":
    with one_sentence_errors(*USER_ERRORS):
        main(parse_args())
        shut_down()
