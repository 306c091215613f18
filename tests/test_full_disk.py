"""A disk that fills up while a run is under way: nothing saved is lost, the training goes on, and saving works again later."""

import errno
import os

import pytest
from runs import equal, rows_without_times

import train_ssd as script
from train_utils.checkpoint import load_checkpoint
from train_utils.distributed_utils import say
from train_utils.metric_logger import MetricLogger
from train_utils.run_folder import RunFolder

SMALL = ["--net", "small-ssd", "--resolution", "96", "--batch-size", "4", "--lr", "0.01", "--opt", "sgd", "--print-freq", "1",
         "--device", "cpu", "--workers", "0", "--eval-every", "1", "--epochs", "3", "--keep-last", "3", "--tensorboard"]


def train(data, folder):
    script.main(script.parse_args(["--data-path", str(data), "--output-dir", str(folder), *SMALL]))


@pytest.fixture
def limited_files(monkeypatch):
    """Lets every file of a run grow to a size at most from the results of an epoch until those of another one."""
    resource = pytest.importorskip("resource", reason="file sizes are limited as POSIX does")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    add_row = RunFolder.add_row

    def limit(size, start, end):
        def add(run, row):
            add_row(run, row)
            if row["epoch"] == start:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            elif row["epoch"] == end:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

        monkeypatch.setattr(RunFolder, "add_row", add)

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the thread that writes event files
def test_a_training_outlives_a_full_disk(shapes, tmp_path, limited_files, capsys):
    pytest.importorskip("tensorboard")
    train(shapes, tmp_path / "plenty")
    states = []
    limited_files(100_000, start=0, end=1)  # neither the checkpoint of epoch 0 nor the one before the evaluation of epoch 1 fits
    original = RunFolder.save

    def save(run, state, epoch, *args, **options):
        saved = original(run, state, epoch, *args, **options)
        states.append((epoch, options["finished"], saved, load_checkpoint(run.path / "last.pth")["step_in_epoch"]))
        return saved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save", save)
        capsys.readouterr()
        train(shapes, tmp_path / "full")
    # (epoch, whether it was finished, whether it was saved, batches that the file there speaks of); 4 batches make an epoch
    assert states == [(0, False, True, 4), (0, True, False, 4), (1, False, False, 4), (1, True, True, None), (2, False, True, 4),
                      (2, True, True, None)]
    out = capsys.readouterr().out
    assert out.count("not saved") == 2 and "the one before is still there" in out and "Training goes on and tries again" in out
    assert "predictions.png is not up to date" in out and "tensorboard is not up to date" in out
    names = {path.name for path in (tmp_path / "plenty").iterdir()} - {"model_0.pth"}
    assert {path.name for path in (tmp_path / "full").iterdir()} == names
    assert rows_without_times(tmp_path / "full") == rows_without_times(tmp_path / "plenty")
    equal(*(load_checkpoint(tmp_path / name / "last.pth")["model"] for name in ("full", "plenty")))


def test_old_numbered_files_make_room(tmp_path, monkeypatch, capsys):
    run = RunFolder(tmp_path / "run", keep_last=3)
    for epoch in range(3):
        assert run.save({"epoch": epoch}, epoch)
    import train_utils.run_folder as module

    original, room = module.save_checkpoint, []

    def save(state, path):
        if len(list(run.path.glob("model_*.pth"))) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room.append(True)
        original(state, path)

    monkeypatch.setattr(module, "save_checkpoint", save)
    assert run.save({"epoch": 3}, 3) and room
    assert sorted(path.name for path in run.path.glob("model_*.pth")) == ["model_2.pth", "model_3.pth"]
    assert "model_0.pth is deleted" in capsys.readouterr().out


def test_other_trouble_than_room_deletes_nothing(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run", keep_last=3)
    for epoch in range(3):
        assert run.save({"epoch": epoch}, epoch)
    before = sorted(path.name for path in run.path.iterdir())
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, os.strerror(errno.EIO))))
    assert not run.save({"epoch": 3}, 3)
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_a_log_on_the_full_disk(monkeypatch):
    """Python's print fails then; what it would have told is lost, and nothing else."""

    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        flush = write

    monkeypatch.setattr("sys.stdout", Full())
    say("a line")
    assert list(MetricLogger(enabled=True, bar=False).log_every([1, 2], 1)) == [1, 2]


def test_without_any_room_the_last_words_say_so(tmp_path, monkeypatch, capsys):
    import train_utils.run_folder as module

    run = RunFolder(tmp_path / "run")
    monkeypatch.setattr(module, "save_checkpoint", lambda state, path: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no room")))
    assert not run.save({"epoch": 0}, 0)
    assert "there is none yet" in capsys.readouterr().out and not list(run.path.iterdir())
