"""Every flag of the course repository's and torchvision's scripts resolves to ours."""

import pytest

import train_fasterrcnn
import train_ssd
from train_utils.errors import InputError
from train_utils.legacy_flags import FASTER_RCNN, has_jetson_flags, modernise, split_flags


def resolved(command: str, script=train_fasterrcnn) -> dict:
    """The arguments that differ from the defaults, for a command line on VOC data."""
    defaults = vars(script.parse_args(["--data-path", "x", "--dataset", "voc"]))
    words = [word.strip("'") for word in command.split()]
    typed = {word.partition("=")[0].replace("_", "-") for word in words}
    words += [] if typed & {"--dataset", "--dataset-type"} else ["--dataset", "voc"]
    words += [] if typed & {"--data-path", "--data", "--datasets"} else ["--data-path", "x"]
    args = vars(script.parse_args(words))
    return {k: v for k, v in args.items() if v != defaults[k] and k not in ("notes", "dataset")}


# One row per flag and value of the tables of the course repository's Faster R-CNN and COCO scripts.
COURSE = [
    ("--device cuda:0", {"device": "cuda:0"}),
    ("--data-path ./", {"data_path": ["./"]}),
    ("--num-classes 20", {"num_classes": 20}),
    ("--num_classes 20", {"num_classes": 20}),
    ("--output-dir ./save_weights", {"output_dir": "./save_weights"}),
    ("--resume ''", {}),
    ("--resume save_weights/model-3.pth", {"resume": "save_weights/model-3.pth"}),
    ("--start_epoch 2", {"start_epoch": 2}),
    ("--epochs 15", {"epochs": 15}),
    ("--lr 0.01", {"lr": 0.01}),
    ("--momentum 0.8", {"momentum": 0.8}),
    ("--wd 5e-4", {"weight_decay": 5e-4}),
    ("--weight-decay 5e-4", {"weight_decay": 5e-4}),
    ("--batch_size 8", {"batch_size": 8}),
    ("--batch-size 8", {"batch_size": 8}),
    ("-b 8", {"batch_size": 8}),
    ("-b8", {"batch_size": 8}),
    ("-j 7", {"workers": 7}),
    ("--workers 7", {"workers": 7}),
    ("--aspect-ratio-group-factor 2", {"aspect_ratio_group_factor": 2}),
    ("--aspect-ratio-group-factor -1", {"aspect_ratio_group_factor": -1}),
    ("--aspect-ratio-group-factor=-1", {"aspect_ratio_group_factor": -1}),
    ("--amp False", {}),
    ("--amp True", {"amp": "auto"}),
    ("--amp", {"amp": "auto"}),
    ("--lr-step-size 5", {"lr_step_size": 5}),
    ("--lr-steps 7 12", {"lr_steps": [7, 12]}),
    ("--lr-gamma 0.33", {"lr_gamma": 0.33}),
    ("--print-freq 20", {"print_freq": 20}),
    ("--test-only", {"test_only": True}),
    ("--world-size 4", {}),
    ("--dist-url tcp://127.0.0.1:1234", {"dist_url": "tcp://127.0.0.1:1234"}),
    ("--sync-bn False", {}),
    ("--sync-bn True", {"sync_bn": True}),
    ("--weights-path ./save_weights/model.pth", {"weights": "./save_weights/model.pth", "test_only": True}),
]

TORCHVISION = [
    ("--data-path /datasets01/COCO", {"data_path": ["/datasets01/COCO"]}),
    ("--dataset coco", {}),
    ("--model fasterrcnn_resnet50_fpn", {}),
    ("--model fasterrcnn_resnet50_fpn_v2", {"backbone": "resnet50_fpn_v2"}),
    ("--model fasterrcnn_mobilenet_v3_large_fpn", {"backbone": "mobilenet_v3_large_fpn"}),
    ("--model fasterrcnn_mobilenet_v3_large_320_fpn", {"backbone": "mobilenet_v3_large_320_fpn"}),
    ("--device cpu", {"device": "cpu"}),
    ("-b 2", {"batch_size": 2}),
    ("--epochs 30", {"epochs": 30}),
    ("-j 3", {"workers": 3}),
    ("--opt sgd", {}),
    ("--opt adamw", {"opt": "adamw"}),
    ("--opt SGD", {}),
    ("--weights-backbone ''", {"weights_backbone": "none"}),
    ("--opt sgd_nesterov", {"opt": "sgd_nesterov"}),
    ("--lr 0.02", {"lr": 0.02}),
    ("--momentum 0.95", {"momentum": 0.95}),
    ("--norm-weight-decay 0", {"norm_weight_decay": 0.0}),
    ("--lr-scheduler multisteplr", {}),
    ("--lr-scheduler cosineannealinglr", {"lr_scheduler": "cosine"}),
    ("--lr-step-size 5", {"lr_step_size": 5}),
    ("--lr-steps 10 20", {"lr_steps": [10, 20]}),
    ("--lr-gamma 0.2", {"lr_gamma": 0.2}),
    ("--print-freq 10", {"print_freq": 10}),
    ("--output-dir out", {"output_dir": "out"}),
    ("--resume model_3.pth", {"resume": "model_3.pth"}),
    ("--start_epoch 1", {"start_epoch": 1}),
    ("--aspect-ratio-group-factor 0", {"aspect_ratio_group_factor": 0}),
    ("--rpn-score-thresh 0.1", {"rpn_score_thresh": 0.1}),
    ("--trainable-backbone-layers 2", {"trainable_backbone_layers": 2}),
    ("--data-augmentation hflip", {}),
    ("--data-augmentation multiscale", {"min_size": list(range(480, 801, 32))}),
    ("--sync-bn", {"sync_bn": True}),
    ("--test-only", {"test_only": True}),
    ("--use-deterministic-algorithms", {"deterministic": True}),
    ("--world-size 8", {}),
    ("--dist-url env://", {}),
    ("--weights FasterRCNN_ResNet50_FPN_Weights.COCO_V1", {"weights": "FasterRCNN_ResNet50_FPN_Weights.COCO_V1"}),
    ("--weights-backbone ResNet50_Weights.IMAGENET1K_V1", {"weights_backbone": "ResNet50_Weights.IMAGENET1K_V1"}),
    ("--amp", {"amp": "auto"}),
    ("--backend tensor", {}),
    ("--use-v2", {}),
    ("--pretrained", {"weights": "DEFAULT"}),
]


@pytest.mark.parametrize(("command", "expected"), COURSE + TORCHVISION)
def test_flag_resolves(command, expected):
    assert resolved(command) == expected


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("--use-copypaste", "masks"),
        ("--data-augmentation lsj", "--photometric"),
        ("--model maskrcnn_resnet50_fpn", "--backbone"),
    ],
)
def test_flags_without_meaning_say_what_to_do(command, remedy):
    with pytest.raises(InputError, match=remedy):
        resolved(command)


def test_the_multi_process_command_of_the_course():
    command = (
        "--data-path ./ --device cuda --num-classes 20 -b 4 --start_epoch 0 --epochs 20 -j 4 --lr 0.02 --momentum 0.9 "
        "--wd 1e-4 --lr-step-size 8 --lr-steps 7 12 --lr-gamma 0.1 --print-freq 20 --output-dir ./multi_train "
        "--resume '' --aspect-ratio-group-factor 3 --world-size 4 --dist-url env:// --sync-bn False --amp False"
    )
    expected = {"data_path": ["./"], "device": "cuda", "num_classes": 20, "epochs": 20, "lr": 0.02, "lr_steps": [7, 12],
                "print_freq": 20, "output_dir": "./multi_train"}
    found = resolved(command)
    found.pop("workers", None)  # the default depends on the machine
    assert found == expected


def test_one_line_for_each_change():
    parser = train_fasterrcnn.get_args_parser()
    typed = ["--amp", "False", "--lr", "0.1", "--batch_size", "8", "--world-size", "2"]
    words, notes = modernise(typed, FASTER_RCNN, parser)
    assert words == ["--amp", "off", "--lr", "0.1", "--batch-size", "8"]
    assert notes == ["--amp False -> --amp off", "--batch_size 8 -> --batch-size 8",
                     "--world-size 2 -> dropped, not needed here"]


def test_split_flags():
    known = {"--lr", "--lr-steps", "-b"}
    assert split_flags(["--lr_steps", "7", "12", "-b", "4", "--lr=-1", "--new", "x"], known) == [
        ("--lr_steps", "--lr-steps", ["7", "12"]), ("-b", "-b", ["4"]), ("--lr", "--lr", ["-1"]), ("--new", "--new", ["x"])]
    assert split_flags([], known) == []


def resolved_for_ssd(command: str) -> dict:
    """As `resolved`, without what the table of jetson's defaults adds to a single flag of its own."""
    found, words = resolved(command, train_ssd), [word.strip("'") for word in command.split()]
    if not has_jetson_flags(words):
        return found
    brought = resolved("--log-level info", train_ssd)
    return {name: value for name, value in found.items() if name not in brought or brought[name] != value}


# Flags that only SSD scripts have, or that mean something else there.
SSD_COURSE = [
    ("--device cuda:0", {"device": "cuda:0"}),
    ("--num_classes 20", {"num_classes": 20}),
    ("--output-dir ./save_weights", {"output_dir": "./save_weights"}),
    ("--resume ''", {}),
    ("--resume save_weights/ssd300-3.pth", {"resume": "save_weights/ssd300-3.pth"}),
    ("--start_epoch 2", {"start_epoch": 2}),
    ("--epochs 15 --batch_size 4", {"epochs": 15, "batch_size": 4}),
    ("--lr 0.0005 --wd 0.0005 --lr-scheduler step --lr-step-size 5 --lr-gamma 0.3",
     {"lr": 0.0005, "lr_scheduler": "step", "lr_step_size": 5, "lr_gamma": 0.3}),
    ("--weights-path model.pth", {"weights": "model.pth", "test_only": True}),
]
SSD_TORCHVISION = [
    ("--model ssd300_vgg16", {"net": "ssd300-vgg16"}),
    ("--model ssdlite320_mobilenet_v3_large --aspect-ratio-group-factor 3", {"net": "ssdlite320-mobilenet-v3-large"}),
    ("--epochs 120 --lr-steps 80 110 --lr 0.002 --batch-size 4 --weight-decay 0.0005", {"lr": 0.002, "batch_size": 4}),
    ("--data-augmentation ssd", {}),
    ("--data-augmentation ssdlite", {"augmentation": "ssdlite"}),
    ("--data-augmentation hflip", {"augmentation": "hflip"}),
    ("--trainable-backbone-layers 2", {"trainable_backbone_layers": 2}),
    ("--weights-backbone VGG16_Weights.IMAGENET1K_FEATURES", {"weights_backbone": "VGG16_Weights.IMAGENET1K_FEATURES"}),
    ("--weights SSD300_VGG16_Weights.COCO_V1", {"weights": "SSD300_VGG16_Weights.COCO_V1"}),
    ("--pretrained", {"weights": "DEFAULT"}),
]
JETSON = [
    ("--dataset-type voc", {}),
    ("--dataset_type voc", {}),
    ("--datasets a b", {"data_path": ["a", "b"]}),
    ("--data a", {"data_path": ["a"]}),
    ("--validation_dataset v", {"val_data_path": ["v"]}),
    ("--balance-data", {"balance_data": True}),
    ("--balance_data", {"balance_data": True}),
    ("--net vgg16-ssd", {"net": "vgg16-ssd"}),
    ("--resolution 512", {"resolution": 512}),
    ("--freeze-base-net", {"freeze_base_net": True}),
    ("--freeze_net", {"freeze_net": True}),
    ("--mb2-width-mult 0.5", {"mb2_width_mult": 0.5}),
    ("--base-net b.pth", {"weights_backbone": "b.pth"}),
    ("--pretrained-ssd p.pth", {"weights": "p.pth"}),
    ("--resume models/mb1-ssd-Epoch-29-Loss-2.1.pth", {"weights": "models/mb1-ssd-Epoch-29-Loss-2.1.pth"}),
    ("--lr 0.02", {"lr": 0.02}),
    ("--learning-rate 0.02", {"lr": 0.02}),
    ("--momentum 0.8", {"momentum": 0.8}),
    ("--weight-decay 1e-4", {"weight_decay": 1e-4}),
    ("--gamma 0.2", {"lr_gamma": 0.2}),
    ("--base-net-lr 0.002", {"base_net_lr": 0.002}),
    ("--extra-layers-lr 0.003", {"extra_layers_lr": 0.003}),
    ("--scheduler multi-step", {}),
    ("--scheduler cosine", {}),
    ("--milestones 60,90", {"lr_steps": [60, 90]}),
    ("--t-max 100", {"t_max": 100}),
    ("--batch-size 8", {"batch_size": 8}),
    ("--num-epochs 7", {"epochs": 7}),
    ("--epochs 7", {"epochs": 7}),
    ("--num-workers 1", {"workers": 1}),
    ("--workers 1", {"workers": 1}),
    ("--validation-epochs 5", {"eval_every": 5}),
    ("--validation-mean-ap", {"validation_mean_ap": True}),
    ("--validation-mean-ap False", {}),
    ("--validation-mean-ap True", {"validation_mean_ap": True}),
    ("--debug-steps 100", {"print_freq": 100}),
    ("--use-cuda False", {"device": "cpu"}),
    ("--use_cuda True", {}),
    ("--use-cuda", {}),
    ("--checkpoint-folder m", {"output_dir": "m"}),
    ("--model-dir=m", {"output_dir": "m"}),
    ("--log-level info", {}),
]


@pytest.mark.parametrize(("command", "expected"), SSD_COURSE + SSD_TORCHVISION + JETSON)
def test_flag_resolves_for_ssd(command, expected):
    assert resolved_for_ssd(command) == expected


def test_schedules_of_jetson():
    assert resolved("--scheduler multi-step", train_ssd).get("lr_scheduler", "multistep") == "multistep"
    assert resolved("--scheduler=cosine", train_ssd)["lr_scheduler"] == "cosine"
    with pytest.raises(InputError, match="use cosine or multi-step"):
        resolved("--scheduler poly", train_ssd)


def test_ssd_flags_without_meaning_say_what_to_do():
    for command, remedy in (("--use-copypaste", "boxes"), ("--data-augmentation lsj", "nvidia"), ("--model retinanet", "--net")):
        with pytest.raises(InputError, match=remedy):
            resolved(command, train_ssd)


def test_flags_that_are_jetsons_alone():
    assert has_jetson_flags(["--model-dir=x"]) and has_jetson_flags(["--num_epochs", "3"])
    assert not has_jetson_flags(["--net", "mb1-ssd", "--resolution=512", "--epochs", "3", "--batch_size", "2"])
