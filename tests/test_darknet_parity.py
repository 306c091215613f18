"""The logits of other programs on the same weights: Darknet's own, stored, and OpenCV's, live."""

import pytest
import torch
from darknet_nets import our_cfg, randomized

from network_files.darknet import Darknet, head_convolutions
from network_files.darknet_weights import read_weights, write_weights

GOLDEN = ["mini-yolov3", "mini-yolov3-spp", "mini-yolov3-tiny", "MobileNetV2-YOLOv3-Nano-coco"]


def load(shared_data, name, norm_eps=1e-5):
    folder = shared_data / "yolo"
    network = Darknet((folder / f"{name}.cfg").read_text(), norm_eps=norm_eps).eval()
    weights = read_weights((folder / f"{name}.weights").read_bytes(), network)
    assert weights.complete
    network.load_state_dict(weights.state)
    return network


def furthest(shared_data, name, network, which):
    """The largest difference of any logit from the reference, all heads together."""
    np = pytest.importorskip("numpy")
    golden = np.load(shared_data / "yolo" / f"golden_{name}.npz")
    with torch.inference_mode():
        outputs = network(torch.from_numpy(golden["input"]))
    assert len(outputs) == sum(key.endswith(which) for key in golden)
    pairs = [(x, torch.from_numpy(golden[f"layer{h.layer - 1}_{which}"])) for x, h in zip(outputs, network.heads)]
    assert all(x.shape == wanted.shape for x, wanted in pairs)
    return max((x - wanted).abs().max().item() for x, wanted in pairs)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_of_darknet_on_a_gpu(shared_data, name):
    """AlexeyAB's Darknet divides by sqrt(var + 1e-5)."""
    assert furthest(shared_data, name, load(shared_data, name), "ab") < 1e-4


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_of_darknet_on_a_cpu(shared_data, name):
    """The original divides by sqrt(var) + 1e-6: the same as no eps and a variance of (sqrt(var) + 1e-6)^2."""
    network = load(shared_data, name, norm_eps=0.0)
    for key, value in network.named_buffers():
        if key.endswith("running_var"):
            value.copy_((value.double().sqrt() + 1e-6).square())
    assert furthest(shared_data, name, network, "pj") < 1e-4


def conv(filters, activation, keys="size=1"):
    return f"[convolutional]\nfilters={filters}\nactivation={activation}\n{keys}\n"


# Every kind of layer and activation, and both ways to name a layer, in one network of 64 x 32 pixels. The other reader
# wants `size` and `num` written out.
KINDS = "\n".join([
    "[net]\nwidth=64\nheight=32\nchannels=3",
    conv(8, "leaky", "size=3\npad=1\nbatch_normalize=1"),
    conv(8, "relu", "size=3\nstride=2\npad=1\ngroups=4\nbatch_normalize=1"),
    conv(8, "linear", "size=1\nbatch_normalize=1"),
    "[shortcut]\nfrom=-2\nactivation=leaky",
    conv(8, "logistic"),
    conv(16, "swish", "size=3\npadding=1"),
    conv(16, "mish", "size=3\nstride=2\npadding=1"),  # layer 6, 16 x 8 cells
    "[maxpool]\nsize=2\nstride=2",
    "[maxpool]\nsize=2\nstride=1",
    "[maxpool]\nsize=5\nstride=1",
    "[route]\nlayers=-1,-2,7",
    "[dropout]\nprobability=.5",
    conv(16, "leaky", "size=1\nbatch_normalize=1"),
    "[route]\nlayers=-1\ngroups=2\ngroup_id=1",
    "[upsample]\nstride=2",
    "[route]\nlayers=-1,6",
    conv(12, "linear"),
    "[yolo]\nclasses=1\nmask=1,0\nnum=2\nanchors=4,5,6,7",
    "[route]\nlayers=0",
    conv(6, "linear"),
    "[yolo]\nclasses=1\nmask=0\nnum=2\nanchors=4,5,6,7",
])


@pytest.mark.parametrize("name", ["every kind", "yolov3-small", "yolov3-tiny"])
def test_logits_of_opencv(name, tmp_path):
    """An importer by others reads what we write and computes the same."""
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip("this OpenCV no longer reads Darknet files: opencv-python-headless<5 does")
    text = KINDS if name == "every kind" else our_cfg(name)
    network = randomized(Darknet(text, norm_eps=1e-6))
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(text)
    weights.write_bytes(write_weights(network.state_dict(), network))
    images = torch.rand(1, 3, network.height, network.width)
    theirs = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    theirs.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    theirs.setInput(images.numpy())
    # all at once: a second forward for another layer would find the maps of the first one overwritten
    wanted = theirs.forward([f"conv_{number}" for number in head_convolutions(network)])
    with torch.inference_mode():
        outputs = network(images)
    for logits, expected in zip(outputs, wanted, strict=True):
        assert logits.std() > 0.05
        torch.testing.assert_close(logits, torch.from_numpy(expected), rtol=0, atol=1e-4)
