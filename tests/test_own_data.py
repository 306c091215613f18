"""Data sets of the user's own in `open_data` of each script: a list of samples, a part of a reader, a class with two methods."""

import pytest
from torch.utils.data import Dataset, Subset

import train_fasterrcnn
import train_ssd
import train_yolov3
from datasets import TrainingSamples, VOCDataSet
from train_utils.checkpoint import load_checkpoint

COMMON = ["--epochs", "1", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--opt", "sgd", "--output-dir", "out"]
SCRIPTS = {
    "faster rcnn": (train_fasterrcnn, ["--backbone", "small_cnn", "--min-size", "64", "--max-size", "96", "--roi-samples", "8"]),
    "ssd": (train_ssd, ["--net", "small-ssd", "--resolution", "96"]),
    "yolo": (train_yolov3, ["--cfg", "cfg/yolov3-small.cfg", "--img-size", "96", "--nominal-batch", "0", "--no-jitter"]),
}


class TwoMethods(Dataset):
    """No names, no sizes, no paths, no ground truth; image ids of somebody else."""

    def __init__(self, reader):
        self.reader = reader

    def __len__(self):
        return len(self.reader)

    def __getitem__(self, index):
        image, target = self.reader[index]
        return image, {"boxes": target["boxes"], "labels": target["labels"], "image_id": 100 + index}


WRAPS = {"list": lambda reader: [reader[i] for i in range(len(reader))], "class": TwoMethods,
         "part": lambda reader: Subset(reader, range(0, len(reader), 2))}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("wrap", WRAPS)
def test_an_epoch(wrap, script, shapes, tmp_path, monkeypatch):
    module, own = SCRIPTS[script]
    train, val = (WRAPS[wrap](VOCDataSet(shapes, txt_name=name)) for name in ("train", "val"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "open_data", lambda args: (TrainingSamples(train), TrainingSamples(val)))
    module.main(module.parse_args(["--data-path", str(shapes), *COMMON, *own]))
    expected = ["1", "2", "3", "4"] if wrap != "part" else VOCDataSet(shapes).class_names
    assert load_checkpoint(tmp_path / "out" / "last.pth")["class_names"] == expected
    assert (tmp_path / "out" / "predictions.png").is_file()
