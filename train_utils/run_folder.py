"""Everything a training leaves behind, in one folder: settings, results, curves, checkpoints.

    run = RunFolder(args.output_dir, plot_functions=(plot_loss_and_lr, plot_map))
    run.write_args(vars(args))
    run.add_row({"epoch": epoch, "stats": stats, "mean_loss": loss, "lr": lr, ...})   # results and curves
    run.save(state, epoch, is_best)                                                   # last.pth, best.pth

A resumed run sets `run.rows = checkpoint["rows"]` before its first row. All results files are rewritten from the rows,
so that no row is ever lost or doubled. last.pth is written last: when it is there, so is all that it speaks of. A disk
that is full does not end a training: what could not be written is told, and written again after the next epoch.
"""

import contextlib
import csv
import errno
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from train_utils.checkpoint import damaged_entry, plain, save_checkpoint
from train_utils.coco_eval import STAT_NAMES
from train_utils.distributed_utils import show
from train_utils.errors import InputError
from train_utils.metric_logger import MetricLogger
from train_utils.surroundings import surroundings
from train_utils.tensorboard import EventFiles
from train_utils.whole_file import whole_file

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NEW = "new.pth"  # a checkpoint on its way to become last.pth


def unused_folder(path: str | os.PathLike) -> Path:
    """`path` if it is absent or empty, else the first such of `path-2`, `path-3`, ..."""
    path = Path(path)
    candidate, number = path, 1
    while candidate.is_dir() and any(candidate.iterdir()):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def fresh_folder(path: str | os.PathLike) -> Path:
    """`unused_folder`, made. Raises InputError if nothing can be written there."""
    try:
        return writable_folder(unused_folder(path))
    except OSError as error:  # a folder that must not be looked into
        raise _cannot_write(path, error) from error


def writable_folder(path: str | os.PathLike) -> Path:
    """The folder, made if it is absent. Raises InputError if nothing can be written there."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


def _cannot_write(path: str | os.PathLike, error: OSError) -> InputError:
    return InputError(f"--output-dir {path}: cannot write there ({error.strerror or error}); choose another one")


class RunFolder:
    """The folder of one training run.

    Args:
        output_dir: where to write. A new run takes the first unused of `output_dir`, `output_dir-2`, ...
        resume: continue in `output_dir` itself.
        take_over: a new run may also take `output_dir` from a run that ended before it saved a checkpoint.
        enabled: False on all processes but the first of a group: nothing is touched, and `path` stays `output_dir`.
        plot_functions: `plot_curve`'s (plot_loss_and_lr, plot_map), called after every row.
        keep_last: how many `model_<epoch>.pth` to keep, beside `last.pth` and `best.pth`.
        unfreeze_epoch: first epoch of the second stage, marked in the curves.
        keep_every: keep `backup<epoch>.pth` of every N-th epoch but the first, for good; 0: none.
        tensorboard: also write the rows, the steps of `watch` and predictions.png to event files in `path`/tensorboard.

    Attributes:
        path: the folder.
        newest: the newest good checkpoint that the run can go back to, None before the first.
        rows: one dict per epoch, as given to `add_row`.

    Raises:
        InputError: nothing can be written there.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        resume: bool = False,
        take_over: bool = False,
        enabled: bool = True,
        plot_functions: tuple[Callable, Callable] | None = None,
        keep_last: int = 0,
        unfreeze_epoch: int | None = None,
        keep_every: int = 0,
        tensorboard: bool = False,
    ):
        self.enabled = enabled
        self.plot_functions = plot_functions
        self.keep_last = keep_last
        self.unfreeze_epoch = unfreeze_epoch
        self.keep_every = keep_every
        self.rows: list[dict] = []
        self.newest: Path | None = None
        self.path = Path(output_dir)
        if enabled:
            self._open(resume or take_over and _has_no_checkpoint(self.path))
        self.events = EventFiles(self.path / "tensorboard") if enabled and tensorboard else None

    def _open(self, resume: bool) -> None:
        self.path = writable_folder(self.path) if resume else fresh_folder(self.path)
        (self.path / NEW).unlink(missing_ok=True)  # of a process that was killed while it saved

    @contextlib.contextmanager
    def keep_going(self, name: str) -> Iterator[None]:
        """A file `name` that cannot be written inside is a warning, and the training goes on."""
        try:
            yield
        except OSError as error:
            show(f"warning: {name} is not up to date: {error}. Training goes on")

    def write_args(self, args: dict) -> None:
        """args.json: the resolved settings, and what they ran on (versions, hardware, git commit, date, command)."""
        self._write_json("args.json", {"args": args, **surroundings()})

    def write_classes(self, class_names: list[str]) -> None:
        """classes.txt: one name per line, without background; line k is label k."""
        self._write("classes.txt", "".join(f"{name}\n" for name in class_names))

    def write_labels(self, class_names: list[str]) -> None:
        """labels.txt: BACKGROUND, then one name per line, without a last line break, as jetson-inference reads it."""
        self._write("labels.txt", "\n".join(["BACKGROUND", *class_names]))

    def write_cfg(self, text: str) -> None:
        """model.cfg: the network as it is trained, in Darknet's words."""
        self._write("model.cfg", text)

    def save_picture(self, picture: Image.Image, name: str) -> None:
        """Write a picture as `name`, which ends in .png or .jpg."""
        if self.enabled:
            with self.keep_going(name):
                picture.save(self.path / name)

    def write_metrics(self, metrics: dict) -> None:
        """metrics.json: the nested results (coco, voc07, voc12, per_class) of the last evaluation."""
        self._write_json("metrics.json", metrics)

    def write_detections(self, detections: list[dict]) -> None:
        """detections.json: COCO results of the last evaluation."""
        self._write("detections.json", json.dumps(detections))

    def add_row(self, row: dict) -> None:
        """Take the results of an epoch: results.txt, results.csv and the curves are written anew.

        Args:
            row: "epoch", "mean_loss", "lr" and "stats" (the 12 COCO numbers, or None if the epoch was not evaluated);
                further numbers ("loss_*", "val_loss", "AP50/<class>", "seconds", "memory_mb", ...) become columns.
        """
        self.rows.append(plain(row))
        if not self.enabled:
            return
        self._write("results.txt", "".join(results_line(row) + "\n" for row in self.rows))
        self._write("results.csv", results_table(self.rows))
        if self.plot_functions:
            with self.keep_going("loss_and_lr.png or mAP.png"):
                self._plot(*self.plot_functions)
        if self.events:
            self._record(self.events.add_epoch, self.rows, self.path / "predictions.png" if row["stats"] else None)

    def watch(self, logger: MetricLogger, epoch: int) -> None:
        """With TensorBoard: write what `logger` shows during an epoch."""
        if self.events:
            self.events.watch(logger, epoch)
            logger.on_show = partial(self._record, logger.on_show)

    def _record(self, write: Callable, *arguments: object) -> None:
        """Write to the event files, which begin anew after a full disk: a writer that failed once fails for ever."""
        with self.keep_going("tensorboard"):
            try:
                write(*arguments)
            except OSError:
                self.events.close()
                raise

    def _plot(self, plot_loss_and_lr: Callable, plot_map: Callable) -> None:
        epochs = [row["epoch"] for row in self.rows]
        stats = [row["stats"] or [-1.0] * len(STAT_NAMES) for row in self.rows]
        shared = {"epochs": epochs, "unfreeze_epoch": self.unfreeze_epoch}
        plot_loss_and_lr(
            [row["mean_loss"] for row in self.rows],
            [row["lr"] for row in self.rows],
            path=self.path / "loss_and_lr.png",
            val_loss=[row.get("val_loss") for row in self.rows],
            **shared,
        )
        ap50 = [values[STAT_NAMES.index("AP50")] for values in stats]
        plot_map(ap50, path=self.path / "mAP.png", ap=[values[0] for values in stats], **shared)

    def save(self, state: dict, epoch: int, is_best: bool = False, finished: bool = True) -> bool:
        """Write `state`, with this run's rows as "rows", to last.pth and, after a finished epoch, to the files that are due.

        The file before is kept as last.prev.pth. best.pth (if `is_best`), model_<epoch>.pth (if `keep_last`) and
        backup<epoch>.pth (if `keep_every`) are hard links to the same data, where the file system has them.

        Returns:
            Whether it is on the disk. If not, last.pth and last.prev.pth are as they were.
        """
        if not self.enabled:
            return True
        if self.events:
            self._record(self.events.flush)
        last, new = self.path / "last.pth", self.path / NEW
        try:
            self._write_checkpoint({**state, "rows": self.rows}, new)
            if is_best:
                duplicate(new, self.path / "best.pth")
            if finished:
                self._keep_copies(new, epoch)
            if last.exists():
                duplicate(last, self.path / "last.prev.pth")
            os.replace(new, last)
        except OSError as error:
            show(f"warning: checkpoint of epoch {epoch} not saved: {error}. Training goes on and tries again; "
                 f"{'the one before is still there' if last.exists() else 'there is none yet'}")
            with contextlib.suppress(OSError):  # a disk that refuses everything
                new.unlink(missing_ok=True)
            return False
        self.newest = last
        return True

    def _write_checkpoint(self, state: dict, path: Path) -> None:
        """`save_checkpoint`; where there is no room, model_<epoch>.pth but the newest go, the oldest first."""
        while True:
            try:
                return save_checkpoint(state, path)
            except OSError as error:
                dispensable = self._numbered()[:-1]
                if error.errno not in NO_ROOM or not dispensable:
                    raise
                show(f"warning: no room for a checkpoint: {dispensable[0].name} is deleted for it")
                dispensable[0].unlink()

    def _keep_copies(self, new: Path, epoch: int) -> None:
        if self.keep_last > 0:
            duplicate(new, self.path / f"model_{epoch}.pth")
            self._prune(epoch)
        if self.keep_every > 0 and epoch > 0 and epoch % self.keep_every == 0:
            duplicate(new, self.path / f"backup{epoch}.pth")

    def save_weights(self, state_dict: dict, name: str) -> None:
        """Write a bare state dict as `name`, for weights that other programs are to read."""
        if self.enabled:
            with self.keep_going(name):
                save_checkpoint(state_dict, self.path / name)

    def _numbered(self) -> list[Path]:
        """The files model_<epoch>.pth by epoch."""
        files = [file for file in self.path.iterdir() if re.fullmatch(r"model_\d+\.pth", file.name)]
        return sorted(files, key=_epoch_of)

    def _prune(self, epoch: int) -> None:
        """Delete periodic files beyond the newest `keep_last`; later epochs, of a run that was left, are not ours."""
        for file in [file for file in self._numbered() if _epoch_of(file) <= epoch][: -self.keep_last]:
            file.unlink()

    def _write_json(self, name: str, content: dict) -> None:
        self._write(name, json.dumps(plain(content), indent=2, ensure_ascii=False, default=str) + "\n")

    def _write(self, name: str, text: str) -> None:
        if not self.enabled:
            return
        with self.keep_going(name), whole_file(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")


def results_line(row: dict) -> str:
    """A line of results.txt: `epoch:N`, then 12 COCO numbers, mean loss and learning rate.

    An epoch without evaluation has -1 twelve times, COCO's word for "not defined".
    """
    numbers = [*(row["stats"] or [-1.0] * len(STAT_NAMES)), row["mean_loss"]]
    return f"epoch:{row['epoch']} " + "  ".join([*(f"{number:.4f}" for number in numbers), f"{row['lr']:.6f}"])


def results_table(rows: list[dict]) -> str:
    """results.csv: a column for every key of any row, the 12 COCO numbers by name; empty where a row has no value."""
    flat = []
    for row in rows:
        flat.append({})
        for name, value in row.items():
            flat[-1].update(zip(STAT_NAMES, value or [""] * len(STAT_NAMES)) if name == "stats" else {name: value})
    columns = list(dict.fromkeys(name for row in flat for name in row))  # in order of first appearance
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def find_resume(output_dir: str | os.PathLike) -> Path | None:
    """The newest checkpoint to continue from, None if there is none.

    Looked at are `output_dir`, its successors `output_dir-2`, ... and, for a folder of runs, the folders in it. A
    damaged last.pth is passed over, with a warning, for its predecessor last.prev.pth.
    """
    output_dir = Path(output_dir)
    places = [output_dir]
    if output_dir.parent.is_dir():
        successor = re.compile(re.escape(output_dir.name) + r"-\d+")
        places += [folder for folder in output_dir.parent.iterdir() if successor.fullmatch(folder.name)]
    if output_dir.is_dir():
        places += [folder for folder in output_dir.iterdir() if folder.is_dir()]
    files = [f for folder in places for f in (folder / "last.pth", folder / "last.prev.pth") if f.is_file()]
    # last.pth first where the clock is too coarse to tell it from its predecessor
    for file in sorted(files, key=lambda f: (f.stat().st_mtime_ns, f.name == "last.pth"), reverse=True):
        damaged = damaged_entry(file)
        if damaged is None:
            return file
        show(f"warning: {file} is damaged ({damaged}); looking for the one before it")
    return None


def _epoch_of(file: Path) -> int:
    return int(file.stem.removeprefix("model_"))


def _has_no_checkpoint(folder: Path) -> bool:
    """Whether a folder is that of a run of ours that ended before its first checkpoint: there is nothing in it to lose."""
    return (folder / "args.json").is_file() and all(file.name == NEW for file in folder.glob("*.pth"))


def duplicate(source: Path, target: Path) -> None:
    """`target` becomes a hard link to (or a copy of) `source` in one step; files here are replaced, never changed."""
    with whole_file(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            shutil.copy2(source, temporary)
