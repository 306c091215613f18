"""Every flag of the YOLOv3 trainers of 2019 and later, and of the course repository's, resolves to ours."""

import pytest

from train_utils.errors import InputError
from train_utils.legacy_flags import modernise
from train_utils.legacy_yolo import YOLO, has_yolo_2019_flags
from train_yolov3 import get_args_parser


def yolo_words(command: str) -> tuple[str, list[str]]:
    """The new command line and the notes."""
    words, notes = modernise([word.strip("'") for word in command.split()], YOLO, get_args_parser())
    return " ".join(words), notes


# Every flag of the 2019 trainer's train.py and test.py. An empty right side: dropped.
YOLO_2019 = [
    ("", ""),
    ("--epochs 273", "--epochs 273"),
    ("--batch-size 16", "--batch-size 16"),
    ("--accumulate 4", "--accumulate 4"),
    ("--cfg cfg/yolov3-tiny.cfg", "--cfg cfg/yolov3-tiny.cfg"),
    ("--data-cfg data/coco_64img.data", "--dataset yolo --allow-outside --data-path data/coco_64img.data"),
    ("--data_cfg=data/x.DATA", "--dataset yolo --allow-outside --data-path data/x.DATA"),
    ("--data data/coco.data", "--dataset yolo --allow-outside --data-path data/coco.data"),
    ("--data data.yaml", "--dataset yolo --allow-outside --data-path data.yaml"),
    ("--data my/VOCdevkit", "--data-path my/VOCdevkit"),
    ("--img-size 320", "--img-size 320"),
    ("--img-size 320 640", "--img-size 320 640"),
    ("--img_size 320 640 512", "--img-size 320 640 512"),
    ("--multi-scale", "--multi-scale"),
    ("--rect", "--rect"),
    ("--resume", "--resume auto"),
    ("--resume True", "--resume auto"),
    ("--resume False", ""),
    ("--resume ''", ""),
    ("--resume runs/a/last.pth", "--resume runs/a/last.pth"),
    ("--transfer", "--transfer"),
    ("--transfer True", "--transfer"),
    ("--transfer False", ""),
    ("--transfer weights/yolov3.weights", "--transfer weights/yolov3.weights"),
    ("--nosave", "--nosave"),
    ("--notest", "--notest"),
    ("--xywh", "--xywh"),
    ("--num-workers 0", "--workers 0"),
    ("--var 0.5", ""),
    ("--evolve", "--evolve"),
    ("--evolve 1", "--evolve 1"),
    ("--evolve 300", "--evolve 300"),
    ("--evolve False", ""),
    ("--bucket mine", "--bucket mine"),
    ("--bucket ''", ""),
    ("--bucket file:///tmp/x", "--bucket file:///tmp/x"),
    ("--dist-url tcp://127.0.0.1:9999", "--dist-url tcp://127.0.0.1:9999"),
    ("--rank 0", ""),
    ("--world-size 1", ""),
    ("--backend nccl", ""),
    ("--iou-thres 0.5", ""),
    ("--conf-thres 0.001", "--box-score-thresh 0.001"),
    ("--conf_thresh 0.001", "--box-score-thresh 0.001"),
    ("--nms-thres 0.5", "--box-nms-thresh 0.5"),
    ("--nms-thresh 0.5", "--box-nms-thresh 0.5"),
    ("--names data/coco.names", "--names data/coco.names"),
]
# The later versions and the course repository's yolov3_spp, with its habit of True and False.
YOLO_LATER = [
    ("--weights ''", ""),
    ("--weights yolov3-spp.pt", "--weights yolov3-spp.pt"),
    ("--hyp cfg/hyp.yaml", "--hyp cfg/hyp.yaml"),
    ("--adam", "--opt adamw"),
    ("--adam False", ""),
    ("--name mine", "--output-dir runs/mine"),
    ("--name ''", ""),
    ("--device 0", "--device cuda:0"),
    ("--device cuda:0", "--device cuda:0"),
    ("--device cpu", "--device cpu"),
    ("--device ''", ""),
    ("--single-cls", "--single-cls"),
    ("--single-cls True", "--single-cls"),
    ("--single-cls False", ""),
    ("--cache-images", "--cache-images"),
    ("--cache-images True", "--cache-images"),
    ("--cache-images False", ""),
    ("--multi-scale True", "--multi-scale"),
    ("--multi-scale False", ""),
    ("--rect True", "--rect"),
    ("--rect False", ""),
    ("--xywh False", ""),
    ("--notest True", "--notest"),
    ("--notest False", ""),
    ("--nosave True", "--nosave"),
    ("--nosave False", ""),
    ("--savebest", ""),
    ("--savebest True", ""),
    ("--freeze-layers", "--freeze-layers"),
    ("--freeze-layers True", "--freeze-layers"),
    ("--freeze-layers False", ""),
    ("--freeze-layers 1", "--freeze-layers 1"),
    ("--freeze-layers 75", "--freeze-layers 75"),
    ("--amp", "--amp"),
    ("--amp True", "--amp"),
    ("--amp False", "--amp off"),
    ("--sync-bn False", ""),
    ("--local_rank 1", ""),
    ("--batch_size 4 --epochs 30", "--batch-size 4 --epochs 30"),
]


@pytest.mark.parametrize(("command", "expected"), YOLO_2019 + YOLO_LATER)
def test_flag_resolves_for_yolo(command, expected):
    words, notes = yolo_words(command)
    assert words == expected
    assert len(notes) == (command.replace("'", "").split() != expected.split())  # one line where something changed


def test_whole_command_lines_of_yolo():
    words, notes = yolo_words("--cfg cfg/yolov3-tiny.cfg --data-cfg x.data --epochs 10 --batch-size 8 --accumulate 8 --resume "
                              "--notest")
    assert words == ("--cfg cfg/yolov3-tiny.cfg --dataset yolo --allow-outside --data-path x.data --epochs 10 --batch-size 8 "
                     "--accumulate 8 --resume auto --notest")
    assert notes == ["--data-cfg x.data -> --dataset yolo --allow-outside --data-path x.data", "--resume -> --resume auto"]
    words, notes = yolo_words("--multi-scale True --freeze-layers False --weights w.pt --savebest False")
    assert words == "--multi-scale --weights w.pt"
    assert notes[1:] == ["--freeze-layers False -> dropped, not needed here", "--savebest False -> dropped, not needed here"]


def test_yolo_flags_that_are_not_clear_say_what_to_do():
    for command, remedy in (("--weights weights/best.pt --save-json", "not supported: training writes .* leave the flag out"),
                            ("--iou-thres 0.6", "--box-nms-thresh"), ("--iou-thres", "not clear"), ("--iou-thres x", "not clear"),
                            ("--device 0,1", "--nproc-per-node 2")):
        with pytest.raises(InputError, match=remedy):
            yolo_words(command)


def test_flags_that_are_the_2019_trainers_alone():
    assert has_yolo_2019_flags(["--epochs", "2", "--data-cfg", "x.data"]) and has_yolo_2019_flags(["--data_cfg=x.data"])
    assert not has_yolo_2019_flags(["--data", "x.data", "--cfg", "data-cfg"]) and not has_yolo_2019_flags([])
