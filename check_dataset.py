"""Everything that is wrong with a data set, by file and line, before an epoch is wasted on it.

    python check_dataset.py                                                 the shapes set, nothing to download
    python check_dataset.py --data-path /data/VOCdevkit --year 2012         the data flags are those of the training scripts
    python check_dataset.py --data-path /data/mine --report check.json      the same as a file for other programs
    python check_dataset.py --data-path /data/mine --preview none           no picture

Each line names the file, the place in it, what is wrong, and what training does about it:

    warn            it uses the data as they are
    fix             it mends the fault each time it reads the file
    drop object     it leaves out the object          drop image      it leaves out the image
    stop            it refuses to begin

Every image is decoded, as in training; nothing is written into the data set. After the faults come tables of classes, image
sizes and anchors, and a preview page (dataset_preview.png) of images with their boxes. Exit code: 2 if training would stop, 1 if
it would leave something out, else 0.
Reading order: this file -> datasets/open_dataset.py -> inspection.py, unused_files.py, statistics.py.
"""

import argparse
import dataclasses
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import datasets
from datasets.annotations import DROP_IMAGE, DROP_OBJECT, FIX, STOP, WARN, Fault, FaultError, stop_on_lost_images
from datasets.concat import JoinedDataset
from datasets.image_files import IMAGE_SUFFIXES
from datasets.image_io import UnreadableImage
from datasets.inspection import (
    ImageFacts,
    SamePicture,
    examine_images,
    image_faults,
    same_picture_fault,
    same_pictures,
)
from datasets.kmeans_anchors import THRESHOLD
from datasets.open_dataset import OPTIONS, SPLITS, Source, guess_kind, guess_sources, open_dataset
from datasets.statistics import (
    QUANTILES,
    Anchors,
    ClassRow,
    ImageSizes,
    SplitCounts,
    class_faults,
    class_table,
    count_split,
    fit_anchors,
    image_sizes,
)
from datasets.unused_files import Claim, claim_files, outside_warnings, unused_files
from datasets.yolo_config import data_folders
from train_utils.dataset_page import SUFFIXES, save_dataset_page
from train_utils.errors import InputError, one_sentence_errors
from train_utils.flag_checks import check_num_classes, check_pairs, check_ranges, flag
from train_utils.legacy_flags import modernise
from train_utils.surroundings import surroundings

USER_ERRORS = (datasets.InputError,)  # told in one sentence, exit code 2
TRAINING, VALIDATION, OTHERS = "training", "validation", "other files"
ACTIONS = (STOP, DROP_IMAGE, DROP_OBJECT, FIX, WARN)  # the gravest first
PREVIEW, PREVIEW_IMAGES = "dataset_preview.png", 12


def get_args_parser() -> argparse.ArgumentParser:
    """All flags; those of the data are the training scripts'."""
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
    data.add_argument("--single-cls", action=on_off, default=False, help="take all classes for one")
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
    data.add_argument("--max-bad-samples", type=int, default=20, help="stop when more images than this cannot be read")

    check = parser.add_argument_group("check")
    check.add_argument("-j", "--workers", type=int, default=os.cpu_count() or 1,
                       help="processes that decode images, by default one per core; 0: none but this one")
    check.add_argument("--img-size", type=int, default=416, metavar="PX",
                       help="side of the network input that the anchors are for")
    check.add_argument("--num-anchors", type=int, default=9, help="number of anchors to fit to the boxes")
    check.add_argument("--report", metavar="FILE", help="write everything that is printed to this JSON file, too")
    check.add_argument("--preview", metavar="FILE", default=PREVIEW,
                       help="picture of images with their boxes and of the tables (png, jpg or pdf), or none")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of a command line, also if they are spelt with underscores; without data flags it means the shapes set.

    Raises:
        InputError: values that cannot be used.
    """
    parser = get_args_parser()
    words, _ = modernise(sys.argv[1:] if argv is None else argv, {}, parser)
    args = parser.parse_args(words)
    check_ranges(vars(args), at_least_one=("img_size", "num_anchors"), not_negative=("workers", "max_bad_samples"))
    check_pairs(vars(args), [("train_json", "train_images"), ("val_json", "val_images")])
    args.notes = []
    if args.dataset == "auto":
        args.dataset, args.notes = guess_kind(args.data_path, args.val_data_path, args.train_json or args.val_json)
    if args.dataset == "shapes" and not args.data_path:
        args.data_path = ["data/shapes"]
    args.preview = None if args.preview == "none" else args.preview
    if args.preview == PREVIEW and (place := data_around(args, PREVIEW)):  # where the command stands, not what it asks for
        args.preview = None
        args.notes.append(f"no preview page: {PREVIEW} would lie in the data set ({place}); give --preview PATH to get one")
    check_outputs(args)
    return args


def data_around(args: argparse.Namespace, path: str) -> str | None:
    """The folder or file of the data that a path lies in; also the folder of a file that describes data counts."""
    sources = [*(args.data_path or ()), *(args.val_data_path or ()), args.train_json, args.val_json]
    folders = [place for source in sources if source and os.path.exists(source) for place in data_folders(Path(source))]
    places = [*sources, *folders, args.train_images, args.val_images, args.classes]
    real = Path(path).resolve()
    return next((str(place) for place in places if place and real.is_relative_to(Path(place).resolve())), None)


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse to write into the data set, over a file of it, or a picture of an unknown kind.

    Raises:
        InputError: the flag and its path.
    """
    if args.preview and Path(args.preview).suffix.lower() not in SUFFIXES:
        raise InputError(f"--preview {args.preview}: a page is written as {', '.join(SUFFIXES)}; give such a name, or none")
    for name in ("report", "preview"):
        path = getattr(args, name)
        if path is None:
            continue
        if place := data_around(args, path):
            raise InputError(f"{flag(name)} {path} lies in the data set ({place}), into which nothing is written; give a "
                             "path elsewhere" + (", or none" if name == "preview" else ""))
        folder = Path(path).resolve().parent
        if not folder.is_dir():
            raise InputError(f"{flag(name)} {path}: there is no folder {folder}; make it, or give another path")


@dataclasses.dataclass
class Split:
    """One split as training opens it; dataset is None if that fails, and then a fault says why."""

    title: str
    dataset: datasets.DetectionDataset | JoinedDataset | None
    faults: list[Fault]
    paths: list[str] = dataclasses.field(default_factory=list)
    facts: list[ImageFacts] = dataclasses.field(default_factory=list)


def open_splits(args: argparse.Namespace) -> list[Split]:
    """The training and the validation split, the latter with the classes of the former."""
    options = {"single_class": args.single_cls, **{name: getattr(args, name) for name in OPTIONS}}
    train = open_split(TRAINING, args.data_path, args.dataset, args.data_path, args.train_split, class_names=args.classes,
                       json_path=args.train_json, image_dir=args.train_images, drop_empty=args.drop_empty, **options)
    val_path = args.val_data_path or args.data_path
    val = open_split(VALIDATION, val_path, args.dataset, val_path, args.val_split,
                     class_names=train.dataset.class_names if train.dataset and not args.single_cls else args.classes,
                     json_path=args.val_json, image_dir=args.val_images, **options)
    last = val.dataset or train.dataset
    if last:
        try:
            check_num_classes(args.num_classes, last.class_names, args.dataset)
        except InputError as error:
            val.faults.append(Fault("--num-classes", "", "other number of classes", str(error), STOP))
    return [train, val]


def open_split(title: str, data_path: list[str] | None, *words, **options) -> Split:
    """A split with the faults of its annotations; what keeps it from being opened at all is a fault like the others."""
    try:
        dataset = open_dataset(*words, strict=False, **options)
    except (datasets.InputError, OSError) as error:
        if isinstance(error.__cause__, FaultError):
            return Split(title, None, [error.__cause__.fault])
        place = " ".join(data_path or [options["json_path"] or "the data"])
        faults = getattr(error, "faults", [])
        return Split(title, None, [*faults, Fault(place, "", "split that cannot be opened", str(error), STOP)])
    return Split(title, dataset, list(dataset.faults), [dataset.image_path(i) for i in range(len(dataset))])


def inspect_images(splits: list[Split], workers: int, max_bad_samples: int) -> list[SamePicture]:
    """Decodes everything, adds what it finds to the faults of each split, and returns the pictures that are there twice."""
    opened = [split for split in splits if split.dataset]
    paths = [path for split in opened for path in split.paths]
    sizes = [split.dataset.get_height_and_width(i) for split in opened for i in range(len(split.dataset))]
    facts = iter(examine_images(paths, sizes, workers))
    for split in opened:
        split.facts = [next(facts) for _ in split.paths]
        found = image_faults(split.dataset, split.facts)
        for faults in (list(split.faults), found) if split.title == TRAINING else ():  # training counts them apart, too
            try:
                stop_on_lost_images(faults, max_bad_samples)
            except datasets.InputError as error:
                first = next(fault for fault in faults if fault.action == DROP_IMAGE)
                split.faults.append(Fault(first.file, first.where, "too many unusable images", str(error), STOP))
        split.faults += found
    pairs = same_pictures({split.title: (split.paths, split.facts) for split in opened})
    for split in opened:
        split.faults += [same_picture_fault(pair) for pair in pairs if pair.split == split.title]
    return pairs


def find_unused_files(args: argparse.Namespace, splits: list[Split]) -> list[Fault]:
    """Warnings of images in no split, annotations without image, and paths to outside that the readers did not meet."""
    options = {name: getattr(args, name) for name in OPTIONS}
    names = list(dict.fromkeys((args.train_split, args.val_split, *SPLITS)))
    claims = [claim_images(split) for split in splits]
    for source in sources_of(args):
        if source.kind in ("voc", "shapes", "yolo"):
            claims += claim_files(source.kind, source.root, names, args.year, args.allow_outside)
        elif source.root is not None:  # only reading a split tells what COCO and Open Images use
            others = names if args.drop_empty else SPLITS
            claims += [claim_images(open_split(name, None, source.kind, source.root, name, json_path=None, **options))
                       for name in others if args.drop_empty or name not in (args.train_split, args.val_split)]
    told = {(fault.file, fault.where, fault.kind) for split in splits for fault in split.faults}
    return [fault for fault in unused_files(claims) if (fault.file, fault.where, fault.kind) not in told]


def sources_of(args: argparse.Namespace) -> list[Source]:
    """Every folder of data once, with its kind."""
    roots = list(dict.fromkeys([*(args.data_path or ()), *(args.val_data_path or ())]))
    return [source if args.dataset == "auto" else source._replace(kind=args.dataset) for root in roots
            for source in guess_sources(root)]


def claim_images(split: Split) -> Claim:
    """What a split uses: its images, and those that were left out for a fault of theirs."""
    left_out = [fault.file for fault in split.faults if fault.file.lower().endswith(IMAGE_SUFFIXES)]
    return Claim(set(map(os.path.abspath, [*split.paths, *left_out])), outside=outside_warnings(split.faults))


@dataclasses.dataclass
class Findings:
    """Everything there is to tell.

    faults, classes, sizes, splits: by the title of the split; anchors: None without boxes, as `notes` say; exit_code: see above.
    """

    faults: dict[str, list[Fault]]
    pairs: list[SamePicture]
    classes: dict[str, list[ClassRow]]
    sizes: dict[str, ImageSizes]
    anchors: Anchors | None
    splits: dict[str, SplitCounts]
    notes: list[str]

    @property
    def counts(self) -> list[tuple[str, str, int]]:
        """(kind, action, how often) of all faults, the gravest actions first."""
        counts = Counter()
        for fault in (fault for faults in self.faults.values() for fault in faults):
            counts[fault.kind, fault.action] += fault.count
        return sorted(((*key, count) for key, count in counts.items()), key=lambda row: (ACTIONS.index(row[1]), -row[2]))

    @property
    def exit_code(self) -> int:
        """2: training would stop; 1: it would drop something; 0: it would use everything."""
        actions = {action for _, action, _ in self.counts}
        return 2 if STOP in actions else 1 if actions & {DROP_IMAGE, DROP_OBJECT} else 0


def find_everything(args: argparse.Namespace, splits: list[Split]) -> Findings:
    """Images, files and numbers of the opened splits."""
    pairs = inspect_images(splits, args.workers, args.max_bad_samples)
    truths = {split.title: split.dataset.ground_truth() for split in splits if split.dataset}
    classes = {title: class_table(truth) for title, truth in truths.items()}
    faults = {split.title: split.faults for split in splits}
    anchors, notes = None, list(args.notes)
    if TRAINING in truths:
        faults[TRAINING] += class_faults(classes, TRAINING, " ".join(args.data_path or [args.train_json]))
        try:
            anchors = fit_anchors(truths[TRAINING], args.img_size, args.num_anchors)
        except datasets.InputError as error:
            notes.append(f"no anchors: {error}")
    faults[OTHERS] = find_unused_files(args, splits)
    return Findings(faults, pairs, classes, {title: image_sizes(truth) for title, truth in truths.items()}, anchors,
                    {title: count_split(truth) for title, truth in truths.items()}, notes)


def fault_lines(findings: Findings) -> list[str]:
    """All faults, then how many there are of each kind."""
    lines = []
    for title, faults in findings.faults.items():
        count = sum(fault.count for fault in faults)
        lines.append(f"{title}: {count or 'no'} fault{'s' * (count != 1)}")
        lines += [f"  {fault}  [{fault.kind}: {fault.action}]" for fault in faults]
    if findings.counts:
        lines += ["", "faults by kind"]
        lines += [f"  {count:>7} x {kind}: {action}" for kind, action, count in findings.counts]
    return lines


def class_lines(rows: list[ClassRow], counts: SplitCounts) -> list[str]:
    """The table of the classes; columns for difficult objects and crowd regions only where there are any."""
    extra = [name for name in ("difficult", "crowd") if getattr(counts, name)]
    width = max(len("class"), *(len(row.name) for row in rows))
    head = ("images", "boxes", "share", "smallest", "median", "largest", *extra)
    lines = [f"  {'id':>4}  {'class':<{width}}" + "".join(f"{name:>10}" for name in head)]
    for row in rows:
        sides = (row.smallest, row.median, row.largest)
        cells = [row.images, row.boxes, f"{row.share:.1%}", *(f"{side:.1f}" if row.boxes else "-" for side in sides)]
        cells += [getattr(row, name) for name in extra]
        lines.append(f"  {row.label:>4}  {row.name:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return lines


def number_lines(findings: Findings) -> list[str]:
    """Classes, image sizes and anchors."""
    lines = []
    for title, counts in findings.splits.items():
        sizes = findings.sizes[title]
        lines += ["", f"{title}: {counts.images} images ({counts.without_objects} without objects), {counts.boxes} boxes "
                  f"({counts.difficult} of them difficult), {counts.crowd} crowd regions; sides of boxes in pixels"]
        lines += class_lines(findings.classes[title], counts)
        lines.append(f"  image sizes, quantiles{''.join(f'{quantile:>8}%' for quantile in QUANTILES)}")
        for name, values, digits in (("width", sizes.widths, 0), ("height", sizes.heights, 0),
                                     ("width / height", sizes.aspect_ratios, 2)):
            lines.append(f"  {name:<22}" + "".join(f"{value:>9.{digits}f}" for value in values))
        lines.append("  most frequent: " + ", ".join(f"{w}x{h} ({count})" for w, h, count in sizes.most_frequent))
    if findings.anchors:
        found = findings.anchors
        lines += ["", f"{len(found.anchors)} anchors (width,height) for a letterboxed input of {found.img_size} pixels: "
                  + "  ".join(f"{w:.0f},{h:.0f}" for w, h in found.anchors),
                  f"  {found.recall:.1%} of the training boxes meet one with an IoU above {THRESHOLD}; the best IoU is "
                  f"{found.mean_iou:.2f} on average"]
    return lines


def say(lines: Iterable[str]) -> None:
    """Print lines that may hold any file name: what the terminal cannot show is written as an escape."""
    encoding = sys.stdout.encoding or "utf-8"
    print("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding), flush=True)


def write_report(path: str, findings: Findings) -> None:
    """All findings as JSON."""
    here = surroundings()
    content = {
        **{name: here[name] for name in ("command", "date", "versions")},
        "exit_code": findings.exit_code,
        "notes": findings.notes,
        "splits": {title: counts._asdict() for title, counts in findings.splits.items()},
        "faults": [{"split": title, **dataclasses.asdict(fault)}
                   for title, faults in findings.faults.items() for fault in faults],
        "counts": [{"kind": kind, "action": action, "count": count} for kind, action, count in findings.counts],
        "classes": {title: [row._asdict() for row in rows] for title, rows in findings.classes.items()},
        "image_sizes": {title: {"quantiles": QUANTILES, **sizes._asdict()} for title, sizes in findings.sizes.items()},
        "same_pictures": [pair._asdict() for pair in findings.pairs],
        "anchors": findings.anchors and findings.anchors._asdict(),
    }
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def save_preview(path: str, split: Split) -> None:
    """The page of a split, with readable images spread over it."""
    usable = [index for index, found in enumerate(split.facts) if found.size is not None]
    samples = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes that differ and the decoder's remarks are among the faults
        for index in sorted({usable[k * len(usable) // PREVIEW_IMAGES] for k in range(PREVIEW_IMAGES) if usable}):
            try:
                samples.append(split.dataset[index])
            except UnreadableImage:  # boxes outside, as a fault says
                continue
    save_dataset_page(path, samples, split.dataset.class_names, split.dataset.ground_truth())


def main(args: argparse.Namespace) -> int:
    """Look at everything, tell it, and return the exit code."""
    if args.notes:
        say(args.notes)
    splits = open_splits(args)
    findings = find_everything(args, splits)
    say([*fault_lines(findings), *number_lines(findings), *findings.notes[len(args.notes):]])
    if args.report:
        write_report(args.report, findings)
    shown = next((split for split in splits if split.dataset), None)
    if args.preview and shown:
        save_preview(args.preview, shown)
    verdicts = ("training would use everything", "training would leave something out", "training would stop")
    written = [str(path) for path in (args.report, shown and args.preview) if path]
    say(["", verdicts[findings.exit_code] + (f"; written: {', '.join(written)}" if written else "")])
    return findings.exit_code


if __name__ == "__main__":
    with one_sentence_errors(*USER_ERRORS):
        sys.exit(main(parse_args()))
