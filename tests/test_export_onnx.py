"""Exported files against the detectors that they were made of, and the graphs against numbers worked out by hand."""

import json
import math
import sys
from functools import partial

import pytest
import torch
from exports import NAMES, blots, detect, make_lively, same_detections, small_checkpoint
from PIL import Image
from runs import expect_one_sentence
from torch import nn

import export_onnx
import network_files
from load_detector import Detector
from network_files.darknet_cfg import parse_cfg, set_input_size
from network_files.errors import InputError
from network_files.export_check import PAIR, Difference, by_nearest, by_position, compare, network_inputs, worst
from network_files.export_graphs import RawYOLOv3, Suppress
from network_files.export_inputs import describe_input, input_size, network_input
from network_files.export_plan import make_plan
from network_files.faster_rcnn_nets import build_faster_rcnn
from network_files.ssd_nets import build_ssd
from network_files.yolov3 import YOLOv3

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
STRICT = Difference(scores=5e-5, boxes=5e-3)


def export(*words):
    """Exit code of the script."""
    return export_onnx.main(export_onnx.parse_args([str(word) for word in words]))


def session_of(path):
    """(a function from a tensor to the outputs, the metadata with JSON decoded) of an ONNX file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = [entry.name for entry in session.get_inputs()]
    words = ("detector", "contract", "source")
    facts = session.get_modelmeta().custom_metadata_map
    facts = {key: value if key in words else json.loads(value) for key, value in facts.items()}
    return lambda images: [torch.from_numpy(output) for output in session.run(None, {name: images.numpy()})], facts


def shapes_in(path):
    """Name -> shape of every input and output of an ONNX file."""
    graph = onnx.load(path).graph
    return {entry.name: [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]
            for entry in (*graph.input, *graph.output)}


@pytest.mark.parametrize("script", ["train_ssd", "train_yolov3", "train_fasterrcnn"])
@pytest.mark.parametrize("contract", ["raw", "nms"])
def test_the_file_is_the_detector(script, contract, tmp_path, capsys, monkeypatch):
    """Of drawn pictures of different sizes, single and four at once: within less than the tolerance.

    Limits that decide something: candidates of an SSD, proposals of a Faster R-CNN, whose small boxes come from all levels.
    """
    pool = partial(network_files.MultiScaleRoIAlign, canonical_scale=40)
    monkeypatch.setattr("network_files.faster_rcnn_nets.MultiScaleRoIAlign", pool)
    options = {
        "train_ssd": {"candidates_per_class": 20},
        "train_fasterrcnn": {"backbone": "resnet18_fpn", "fpn_channels": 16, "box_head_size": 64, "rpn_post_nms_top_n_test": 40,
                             "anchor_sizes": [[8], [16], [32], [64], [96]]},
    }.get(script, {})
    source, path = small_checkpoint(tmp_path, script, **options), tmp_path / "x" / f"{contract}.onnx"
    assert export(source, "--contract", contract, "--output", path, "--tolerance", *STRICT[:2]) == 0
    out = capsys.readouterr().out
    assert "compared on 3 drawn pictures" in out and ("(1x3x" in out and ", 4x3x" in out) == (contract == "raw")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    run, facts = session_of(path)
    kind = {"train_ssd": "ssd", "train_yolov3": "yolov3", "train_fasterrcnn": "fasterrcnn"}[script]
    assert (facts["detector"], facts["contract"], facts["source"]) == (kind, contract, source.name)
    assert facts["class_names"] == facts["score_columns"] == NAMES and facts["category_ids"] == [3, 5, 8]
    sides = ["height", "width"] * (kind != "ssd")
    assert facts["free_axes"] == ["batch"] * (contract == "raw") + sides
    model = detect(source, [torch.rand(3, 40, 50)])[0].model
    plan = make_plan(model, contract)
    for images in network_inputs(plan, [blots(1, 60, 90)[0], blots(1, 90, 60)[0], blots(1, 64, 64)[0]]):
        outputs, found = compare(plan, run, images, STRICT)
        ties = 2 if script == "train_fasterrcnn" else 0  # of other processors
        assert outputs.rows > 10 and outputs.within(STRICT._replace(lost=ties)), outputs
        assert found.rows > 3 and found.within(STRICT._replace(lost=ties)), found
        if script == "train_fasterrcnn" and contract == "raw":  # one image's many proposals leave no less to the other
            assert run(torch.cat((images[:1], images[:1] / 9)))[2].tolist() == [0] * 40 + [1] * 40
        boxes = run(images[:1])[0]
        assert (boxes.min() >= 0 and boxes.max() <= max(images.shape[2:])) == (contract == "nms" or kind != "yolov3")


def test_shapes_in_the_file(tmp_path):
    """What is free has a name, everything else a number."""
    ssd, yolo = small_checkpoint(tmp_path, "train_ssd"), small_checkpoint(tmp_path, "train_yolov3")
    assert export(ssd) == 0 and shapes_in(ssd.with_suffix(".onnx")) == {
        "images": ["batch", 3, 160, 160], "boxes": ["batch", 2136, 4], "scores": ["batch", 2136, 3]}
    assert export(yolo, "--static", "--size", 64, 96, "--opset", 13) == 0 and shapes_in(yolo.with_suffix(".onnx")) == {
        "images": [1, 3, 64, 96], "boxes": [1, 360, 4], "scores": [1, 360, 3]}
    assert {entry.version for entry in onnx.load(yolo.with_suffix(".onnx")).opset_import} == {13}


@pytest.mark.parametrize(("mean", "std", "folded"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True),
                                                      ((0.5,) * 3, (0.5,) * 3, False)])
def test_detectnet(mean, std, folded, tmp_path):
    """jetson-inference's contract to the letter; the difference of normalisation as one product and one sum in front."""
    source = small_checkpoint(tmp_path, "train_ssd", image_mean=list(mean), image_std=list(std))
    path = tmp_path / "ssd.onnx"
    assert export(source, "--contract", "detectnet", "--output", path) == 0
    assert (tmp_path / "labels.txt").read_bytes() == b"BACKGROUND\ncat\ndog\ncow"
    proto = onnx.load(path)
    assert shapes_in(path) == {"input_0": [1, 3, 160, 160], "scores": [1, 2136, 4], "boxes": [1, 2136, 4]}
    assert [entry.name for entry in proto.graph.output] == ["scores", "boxes"] and proto.opset_import[0].version == 11
    kinds = [node.op_type for node in proto.graph.node if node.op_type not in ("Constant", "Identity")]
    assert kinds[:3] == (["Mul", "Add", "Conv"] if folded else ["Conv", "Relu", "Conv"])
    assert not {"NonMaxSuppression", "Shape", "If", "Loop"} & set(kinds)
    run, facts = session_of(path)
    assert facts["score_columns"] == ["BACKGROUND", *NAMES] and facts["preprocessing"]["range"] == [-1, 1]
    image = (blots(1, 160, 160) * 255).to(torch.uint8)
    scores, boxes = run((image - 127.5) / 127.5)  # as detectNet feeds it
    detector, (detection,) = detect(source, image)
    heads = detector.model.forward_heads(detector.model.prepare(image).images)
    assert torch.allclose(scores, heads.logits.softmax(dim=-1), atol=5e-5) and scores[0].std() > 0.1
    assert torch.allclose(scores.sum(dim=2), torch.ones(1, 2136), atol=1e-5)
    best = scores[0, :, detection["labels"][0]].argmax()
    assert torch.allclose(boxes[0, best].clamp(0, 1) * 160, detection["boxes"][0], atol=5e-3)
    assert len(detection["scores"]) > 10 and boxes.min() < 0  # corners are not clipped


def test_raw_yolo_by_hand():
    """Heads of zeros but for one cell: centres, anchors and order of the rows as the formulas say."""
    cfg = "[net]\nwidth=16\nheight=16\n[convolutional]\nfilters=14\nsize=8\nstride=8\n" \
          "[yolo]\nclasses=2\nmask=0,1\nanchors=4,6, 10,20\n"
    model = YOLOv3(cfg).eval()
    output = torch.zeros(2, 14, 2, 3)  # two images of 16 x 24 pixels
    output[1, 7:14, 1, 2] = torch.tensor([0, 0, math.log(2), 99.0, math.log(3), math.log(9), -50])  # the second anchor
    model.forward_heads = lambda images: [output]
    boxes, scores = RawYOLOv3(model)(torch.zeros(2, 3, 16, 24))
    assert boxes.shape == (2, 12, 4) and scores.shape == (2, 12, 2)
    assert boxes[0, 0].tolist() == [2, 1, 6, 7] and boxes[0, 1].tolist() == [-1, -6, 9, 14]  # cell (0, 0): centre 4, 4
    assert boxes[0, 2].tolist() == [10, 1, 14, 7] and boxes[0, 6].tolist() == [2, 9, 6, 15]  # next column, next row
    assert torch.equal(scores[0], torch.full((12, 2), 0.25))
    assert boxes[1, 11].tolist() == pytest.approx([20 - 10, 12 - 48, 20 + 10, 12 + 48])  # the height is cut to 4 * 24
    assert scores[1, 11].tolist() == pytest.approx([0.75 * 0.9, 0], abs=1e-6)
    assert torch.equal(boxes[1, :11], boxes[0, :11])


class Rows(nn.Module):
    def __init__(self, *limits):
        super().__init__()
        self.limits = limits

    def forward(self, boxes, scores):
        return Suppress.apply(boxes, scores, *self.limits)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("limits", "expected"), [
    ((0.5, 0.1, 9), [[0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 2], [1, 1, 0]]),  # box 0 and 1: IoU 2/3
    ((0.7, 0.1, 9), [[0, 0, 1], [0, 0, 0], [0, 0, 2], [0, 1, 0], [0, 1, 2], [1, 1, 0]]),
    ((0.5, 0.1, 1), [[0, 0, 1], [0, 1, 0], [1, 1, 0]]),
    ((0.5, 0.5, 9), [[0, 0, 1], [0, 0, 2], [1, 1, 0]]),
    ((0.5, 0.95, 9), []),
])
def test_suppression_in_groups_by_hand(limits, expected, tmp_path):
    """Image, group, box of what is kept, in torch and in onnxruntime; a trace without a result holds as well."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 2, 10, 12], [50, 50, 60, 60]]]).repeat(2, 1, 1)
    scores = torch.tensor([[[0.8, 0.9, 0.7], [0.4, 0.1, 0.2]], [[0.0, 0, 0], [0.9, 0, 0]]])
    assert Rows(*limits)(boxes, scores).tolist() == expected
    for traced in (scores, scores - 1):
        torch.onnx.export(Rows(*limits), (boxes, traced), tmp_path / "rows.onnx", dynamo=False, opset_version=11,
                          input_names=["boxes", "scores"], output_names=["rows"], dynamic_axes={"rows": {0: "rows"}})
        session = onnxruntime.InferenceSession(str(tmp_path / "rows.onnx"), providers=["CPUExecutionProvider"])
        (rows,) = session.run(None, {"boxes": boxes.numpy(), "scores": scores.numpy()})
        assert rows.reshape(-1, 3).tolist() == expected


def test_nothing_detected(tmp_path, capsys):
    for script, name, side in (("train_ssd", "score_thresh", 160), ("train_fasterrcnn", "box_score_thresh", 64)):
        source = small_checkpoint(tmp_path, script, **{name: 1.0})
        assert export(source, "--contract", "nms", "--static", "--size", side) == 0
        assert f"(1x3x{side}x{side})" in (out := capsys.readouterr().out) and "  0 detections of the model" in out
        path = source.with_suffix(".onnx")
        assert shapes_in(path) == {"images": [1, 3, side, side], "boxes": ["detections", 4], "labels": ["detections"],
                                   "scores": ["detections"]}
        assert [tuple(output.shape) for output in session_of(path)[0](torch.rand(1, 3, side, side))] == [(0, 4), (0,), (0,)]


def test_yolo_of_one_label_per_box_and_stretched(tmp_path):
    source = small_checkpoint(tmp_path, "train_yolov3", resize="stretch", multi_label=False, score_thresh=0.1)
    assert export(source, "--contract", "nms", "--tolerance", *STRICT[:2]) == 0
    detector, (detection,) = detect(source, blots(1, 96, 96))
    inside = detection["boxes"][(detection["boxes"] > 0).all(dim=1) & (detection["boxes"] < 96).all(dim=1)]
    assert len(inside.unique(dim=0)) == len(inside) > 5  # a box at the border may be like another one
    assert session_of(source.with_suffix(".onnx"))[1]["preprocessing"]["resize"] == "stretch"


def test_graph_of_a_faster_rcnn_without_pyramid():
    """One level and one class; `run` is the graph itself, so this is graph against model."""
    backbone = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), nn.ReLU())
    backbone.out_channels = 8
    anchors = network_files.AnchorsGenerator(((32, 64),), ((0.5, 1.0),))
    pool = network_files.MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=2)
    model = network_files.FasterRCNN(backbone, 2, min_size=64, max_size=128, rpn_anchor_generator=anchors, box_roi_pool=pool,
                                     rpn_post_nms_top_n_test=20)
    make_lively(model.eval(), "train_fasterrcnn")
    for contract, batch in (("raw", 3), ("nms", 1)):
        plan = make_plan(model, contract)
        outputs, found = compare(plan, plan.graph, blots(batch, 64, 96), STRICT)
        assert found.rows >= 3 * batch and found.within(STRICT) and outputs.rows > 5, (outputs, found)
    boxes, scores, image = make_plan(model, "raw").graph(blots(3, 64, 96))
    assert boxes.shape[1:] == (1, 4) and image.bincount().tolist() == [20] * 3 and (image.diff() >= 0).all()


@pytest.mark.parametrize(("change", "what"), [
    (lambda boxes, scores: (boxes + 0.2, scores), "boxes 2.0e-01 px"),
    (lambda boxes, scores: (boxes, scores * 1.001), "scores "),
    (lambda boxes, scores: (boxes.roll(1, dims=1), scores), "without counterpart"),
    (lambda boxes, scores: (boxes * torch.nan, scores), "boxes nan px"),
])
def test_a_file_that_differs_is_told(change, what, tmp_path, capsys, monkeypatch):
    """Exit code 1 and a sentence."""
    source = small_checkpoint(tmp_path, "train_ssd")
    monkeypatch.setattr(export_onnx, "write_onnx", lambda plan, path, metadata, opset: (
        path.touch(), lambda images: change(*plan.graph(images)))[1])
    assert export(source) == 1
    captured = capsys.readouterr()
    assert what in captured.out and captured.err.startswith("error: the written file differs from the model by more than 0.0001")


def test_differences_by_hand():
    boxes, scores = torch.tensor([[[0.0, 0, 2, 2]], [[5, 5, 9, 9]]]), torch.tensor([[0.5], [0.25]])
    tolerance = Difference(1e-3, 0.1)
    moved = boxes + torch.tensor([0.0, 0, 0, 0.03])
    assert by_position(boxes, scores, moved, scores - 0.01) == pytest.approx((0.01, 0.03, 0, 2))
    assert by_nearest(boxes, scores, moved.flip(0), scores.flip(0), tolerance) == pytest.approx((0, 0.03, 0, 2))
    assert by_nearest(boxes, scores, boxes[:1], scores[:1], tolerance) == (0, 0, 1, 2)
    far = torch.tensor([PAIR * tolerance.boxes * 1.01, 0, 0, 0])
    assert by_nearest(boxes, scores, boxes + far, scores, tolerance).lost == 2
    assert not by_nearest(boxes, scores, boxes * torch.nan, scores, tolerance).within(tolerance)
    none = boxes[:0], scores[:0]
    assert by_nearest(*none, boxes, scores, tolerance) == (0, 0, 0, 0) and by_nearest(boxes, scores, *none, tolerance).lost == 2
    assert worst([]) == worst([Difference()]) == (0, 0, 0, 0)
    total = worst([Difference(0.5, 1, 1, 3), Difference(0.1, math.nan, 0, 4)])
    assert total.scores == 0.5 and math.isnan(total.boxes) and total[2:] == (1, 7)
    assert not total.within(Difference(1, 9, 9)) and Difference(0.1, 2).within(Difference(0.1, 2))
    with pytest.raises(ValueError, match="cannot be compared"):
        by_position(boxes, scores, boxes[:1], scores)


def test_program_of_torch_export(tmp_path, capsys):
    source = small_checkpoint(tmp_path, "train_yolov3")
    assert export(source, "--format", "pt2", "--tolerance", *STRICT[:2]) == 0
    assert ", 4x3x" in capsys.readouterr().out
    extra = {"metadata.json": ""}
    program = torch.export.load(source.with_suffix(".pt2"), extra_files=extra)
    facts = json.loads(extra["metadata.json"])
    assert json.loads(facts["class_names"]) == NAMES and json.loads(facts["free_axes"]) == ["batch"]
    height, width = json.loads(facts["input_size"])
    assert program.module()(torch.rand(3, 3, height, width))[1].shape[::2] == (3, 3)


def test_darknet_files(tmp_path, capsys):
    """Read back by load_detector they give the same detections; the cfg has the size of the network input."""
    source = small_checkpoint(tmp_path, "train_yolov3", norm_eps=1e-4)
    assert export(source, "--format", "darknet") == 0
    out = capsys.readouterr().out
    assert "scores 0.0e+00, boxes 0.0e+00 px" in out and "note: made with an eps of 0.0001 in BatchNorm" in out
    net = parse_cfg((tmp_path / "model.cfg").read_text())[0]
    assert (net.integer("width"), net.integer("height")) == (96, 96)
    plain = small_checkpoint(tmp_path, "train_yolov3")
    assert export(plain, "--format", "darknet", "--output", tmp_path / "other.weights") == 0
    assert "note" not in capsys.readouterr().out
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    images = [torch.rand(3, 60, 90)]
    same_detections(detect(plain, images)[1], detect(tmp_path / "other.weights", images, cfg=str(tmp_path / "other.cfg"),
                                                     labels=str(tmp_path / "labels.txt"))[1])


def test_size_in_a_cfg():
    text = "[net]\r\n# a comment\r\nwidth = 32  # pixels\r\nheight=64\r\n[yolo]\r\nwidth=1\r\n"
    assert set_input_size(text, 64, 96) == text.replace("width = 32", "width = 96")
    assert set_input_size(text, 64, 32) == text
    with pytest.raises(InputError, match="height is missing"):
        set_input_size("[net]\nwidth=3\n", 4, 4)


def test_inputs_as_a_caller_prepares_them():
    rcnn = build_faster_rcnn("small_cnn", 3, min_size=64, max_size=100)
    assert input_size(rcnn) == (64, 128) and input_size(rcnn, [96]) == (96, 96) and input_size(rcnn, [32, 64]) == (32, 64)
    image = torch.full((3, 100, 50), 255, dtype=torch.uint8)
    fitted = network_input(rcnn, image, (64, 64), free=False)
    assert fitted.shape == (1, 3, 64, 64) and torch.allclose(fitted[..., :32], torch.ones(()), atol=1e-6)
    padding = describe_input(rcnn, free=False)
    assert padding["resize"] == "fit" and padding["pad_value"] == padding["mean_in_graph"] == [0.485, 0.456, 0.406]
    assert torch.allclose(fitted[0, :, 5, 40], torch.tensor(padding["pad_value"]), atol=1e-6)
    assert network_input(rcnn, image, (64, 64), free=True).shape == (1, 3, 128, 64)  # 100 x 50, its sides rounded up
    assert describe_input(rcnn, free=True).items() >= {"resize": "short side", "min_size": 64, "max_size": 100}.items()
    ssd = build_ssd("small-ssd", 3)
    assert network_input(ssd, image, input_size(ssd), free=False).shape == (1, 3, 160, 160)
    assert describe_input(ssd, free=False)["resize"] == "stretch"
    with pytest.raises(InputError, match="default boxes for 160 x 160 pixels, not 96 x 96"):
        input_size(ssd, [96])
    with pytest.raises(InputError, match="must be multiples of 32, not 64 x 70"):
        input_size(rcnn, [64, 70])
    json.dumps([describe_input(ssd, free=False), padding])


@pytest.mark.parametrize(("script", "words", "match"), [
    ("train_yolov3", ["--contract", "detectnet"], "detectnet contract is for an SSD, and this is a YOLOv3"),
    ("train_fasterrcnn", ["--format", "pt2"], "cannot follow the first stage's NMS"),
    ("train_ssd", ["--format", "darknet"], "is for a YOLOv3, and this is a SSD"),
    ("train_ssd", ["--size", "96"], "default boxes for 160 x 160"),
    ("train_yolov3", ["--size", "90", "96"], "must be multiples of 16, not 90 x 96"),
    ("train_ssd", ["--images", "nowhere"], "--images nowhere: no image there"),
])
def test_what_does_not_go_is_said_before_anything_is_written(script, words, match, tmp_path, capsys):
    source = small_checkpoint(tmp_path, script)
    expect_one_sentence(export_onnx, capsys, match, source, *words)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.parametrize(("words", "match"), [
    (["--format", "pt2", "--contract", "nms"], "--contract and --opset go with --format onnx, not pt2"),
    (["--contract", "detectnet", "--dynamic"], "detectnet has fixed sizes"),
    (["--opset", "9"], "choose one from 11 to 20"),
    (["--size", "1", "2", "3"], "--size takes one side"),
    (["--tolerance", "0", "1"], "two numbers above 0"),
])
def test_flags_that_do_not_fit(words, match, capsys):
    with pytest.raises(SystemExit):
        export_onnx.parse_args(["best.pth", *words])
    assert match in capsys.readouterr().err


def test_missing_packages_are_named(tmp_path, monkeypatch):
    source = small_checkpoint(tmp_path, "train_ssd")
    for package in ("onnx", "onnxruntime"):
        match = f"needs the package {package}: pip install {package}$"
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=match):
            patch.setitem(sys.modules, package, None)
            export(source)


def test_weights_of_another_project_have_no_safetensors(tmp_path):
    torch.save(build_ssd("small-ssd", 4).state_dict(), tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="does not say all that goes into model.safetensors"):
        export_onnx.write_safetensors(Detector(build_ssd("small-ssd", 4), NAMES, [1, 2, 3]), tmp_path / "model.safetensors")


def test_images_to_compare_on(shapes, tmp_path, capsys):
    """Given ones, those of the run's validation data, drawn ones: in this order."""
    run = {"dataset": "shapes", "data_path": [str(shapes)], "val_data_path": None, "val_split": "val", "year": "2012",
           "val_json": None, "val_images": None, "allow_outside": False}
    images, what = export_onnx.find_images([], run)
    assert len(images) == 3 and what == "images of the validation data"
    drawn, what = export_onnx.find_images([], run | {"data_path": [str(tmp_path / "gone")]})
    assert what == "drawn pictures" and len({image.shape for image in drawn}) > 1 and drawn[0].dtype == torch.uint8
    assert torch.equal(drawn[2], export_onnx.find_images([], {})[0][2])
    for number in range(4):
        Image.new("RGB", (20 + number, 30)).save(tmp_path / f"{number}.png")
    given, what = export_onnx.find_images([str(tmp_path / "3.png"), str(tmp_path)], run)
    assert what == "given images" and [image.shape[2] for image in given] == [23, 20, 21]
    assert export_onnx.find_images([], run | {"dataset": "coco"})[1] == "drawn pictures"
    assert "note: the validation data of the run cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("contract", ["raw", "nms"])
def test_published_darknet_weights(contract, shared_data, tmp_path, capsys):
    """Three photographs of different sizes through a trained network of 80 classes."""
    folder = shared_data / "yolo"
    photos = sorted((shared_data / "tiny_coco").rglob("*.jpg"))
    nano = folder / "MobileNetV2-YOLOv3-Nano-coco.weights"
    assert export(nano, "--cfg", nano.with_suffix(".cfg"), "--names", folder / "coco.names", "--contract", contract, "--output",
                  tmp_path / "nano.onnx", "--images", *photos[:3]) == 0
    assert len({Image.open(photo).size for photo in photos[:3]}) == 3
    assert "80 classes" in capsys.readouterr().out
    assert session_of(tmp_path / "nano.onnx")[1]["category_ids"][-1] == 90
