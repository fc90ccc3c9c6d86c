"""The hash network and the bundle that keeps it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hashnet import codes, images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, BundleError, ShapeError, UnknownNameError
from hashnet.network import bundle, model
from tests.fixtures import GOLDEN

pytestmark = pytest.mark.keras
RNG = np.random.default_rng(0)
LOAD_AND_RUN = """
import sys
import numpy as np
from hashnet.network import bundle
folder, pixels, out = sys.argv[1:]
model = bundle.load(folder).load_model()
np.savez(out, **{name: np.asarray(value) for name, value in model(np.load(pixels)).items()})
"""
PIXELS = RNG.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def test_the_runtime_gives_what_keras_gives(bundle_folder, small_network, photos):
    paths = sorted(photos.rglob("*.png"))
    pixels = np.stack([images.read_resized(path, (64, 64)) for path in paths])
    expected = {name: np.asarray(value) for name, value in small_network[0](pixels).items()}
    encoded = Encoder.open(bundle_folder).encode(paths)
    np.testing.assert_allclose(encoded.features, expected["feature"], atol=1e-5)
    np.testing.assert_allclose(encoded.scores, expected["scores"], atol=1e-5)
    differs = codes.unpack(encoded.codes, 32) != (expected["latent"] >= 0.5)
    assert np.abs(expected["latent"][differs] - 0.5).max(initial=0) < 1e-4


def test_latent_is_the_sigmoid_of_a_dense_layer_on_the_feature(small_network):
    network, _config = small_network
    outputs = {name: np.asarray(value) for name, value in network(PIXELS).items()}
    kernel, bias = network.get_layer("latent").get_weights()
    activation = outputs["feature"].astype(np.float64) @ kernel + bias
    np.testing.assert_allclose(outputs["latent"], 1 / (1 + np.exp(-activation)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(outputs["feature"], axis=1), 1, rtol=1e-5)


def test_scores_come_from_the_latent_layer_as_in_the_paper(small_network):
    network, config = small_network
    outputs = {name: np.asarray(value) for name, value in network(PIXELS).items()}
    kernel, bias = network.get_layer("scores").get_weights()
    assert kernel.shape == (config.num_bits, len(config.classes))
    logits = outputs["latent"] @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(outputs["scores"], expected, rtol=1e-4)


@pytest.mark.parametrize("num_bits", [1, 12, 1024])
def test_any_number_of_bits_from_1_to_1024(num_bits):
    config = model.HashNetConfig(backbone="tiny", num_bits=num_bits, classes=("a", "b"))
    network = model.build(config, weights=None)
    assert network(np.zeros((1, 64, 64, 3)))["latent"].shape == (1, num_bits)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_bits": 0}, "1 to 1024"),
        ({"num_bits": 1025}, "1 to 1024"),
        ({"num_bits": 8.0}, "1 to 1024"),
        ({"num_bits": True}, "1 to 1024"),
        ({"classes": ()}, "class name"),
        ({"scores_from": "air"}, "scores_from"),
        ({"mirror": 1}, "mirror"),
        ({"mirror": True, "scores_from": "feature"}, "mirror"),
        ({"embedding": 4097}, "1 to 4096"),
        ({"embedding": 8, "scores_from": "feature"}, "F8 sees the latent"),
        ({"image_size": -1}, "pixels"),
        ({"image_size": 2049}, "2048 at most"),
    ],
)
def test_a_configuration_outside_its_range_is_refused(values, message):
    with pytest.raises(ArgumentError, match=message):
        model.HashNetConfig(**{"classes": ("a",), **values})


def test_a_configuration_survives_json():
    config = model.HashNetConfig(num_bits=12, classes=("a", "b"), scores_from="latent")
    assert model.HashNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    mirrored = model.HashNetConfig(classes=("a",), mirror=True)
    assert model.HashNetConfig.from_dict(json.loads(json.dumps(mirrored.to_dict()))) == mirrored
    assert "mirror" not in config.to_dict()  # Versions that do not know it read the others.
    short = model.HashNetConfig(classes=("a",), embedding=64)
    assert model.HashNetConfig.from_dict(json.loads(json.dumps(short.to_dict()))) == short
    assert short.feature_dim == 64 and "embedding" not in config.to_dict()
    with pytest.raises(BundleError, match="fields"):
        model.HashNetConfig.from_dict({"backbone": "alexnet"})
    with pytest.raises(UnknownNameError):
        model.HashNetConfig.from_dict({**config.to_dict(), "backbone": "no_net"})


@pytest.mark.thorough
def test_the_pretrained_classifier_keeps_its_thousand_classes():
    with pytest.raises(ShapeError, match="2 names for 1000"):
        config = model.HashNetConfig(image_size=32, classes=("a", "b"), scores_from="feature")
        model.build(config, weights=None)


@pytest.mark.slow
def test_a_bundle_gives_the_same_network_in_a_new_process(small_network, bundle_folder, tmp_path):
    network, _ = small_network
    np.save(tmp_path / "pixels.npy", PIXELS)
    arguments = [bundle_folder, tmp_path / "pixels.npy", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", LOAD_AND_RUN, *arguments], check=True)
    stored = np.load(tmp_path / "out.npz")
    for name, value in network(PIXELS).items():
        np.testing.assert_allclose(stored[name], value, atol=1e-6)


def test_an_image_and_its_mirror_image_have_one_code_where_both_are_seen(tmp_path):
    import keras

    config = model.HashNetConfig(backbone="tiny", num_bits=24, classes=("a", "b"), mirror=True)
    network = model.build(config, weights=None)
    mirrored = PIXELS[:, :, ::-1]
    outputs = {name: np.asarray(value) for name, value in network(PIXELS).items()}
    for name, value in network(mirrored).items():
        np.testing.assert_allclose(value, outputs[name], atol=1e-6)

    # The feature is the mean of both views', by the very same weights.
    one_view = keras.Model(network.input, network.get_layer("f7").output)
    f7 = (np.asarray(one_view(PIXELS)) + np.asarray(one_view(mirrored))) / 2
    f7 /= np.linalg.norm(f7, axis=1, keepdims=True)
    np.testing.assert_allclose(outputs["feature"], f7, atol=1e-6)

    loaded = bundle.save(tmp_path / "bundle", network, config, origin={})
    assert loaded.config.mirror
    np.testing.assert_allclose(loaded.load_model()(PIXELS)["latent"], outputs["latent"], atol=1e-6)
    encoded = Encoder.open(tmp_path / "bundle").encode(list(np.concatenate([PIXELS, mirrored])))
    np.testing.assert_allclose(encoded.latents[:3], outputs["latent"], atol=1e-4)
    np.testing.assert_allclose(encoded.latents[3:], encoded.latents[:3], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobilenet_v3_large", "resnet50"])
def test_a_backbone_of_keras_applications_survives_its_bundle(backbone, tmp_path):
    config = model.HashNetConfig(backbone=backbone, image_size=64, num_bits=16, classes=("a", "b"))
    network = model.build(config, weights=None)
    loaded = bundle.save(tmp_path / "bundle", network, config, origin={}).load_model()
    encoded = Encoder.open(tmp_path / "bundle").encode(list(PIXELS))
    for name, value in network(PIXELS).items():
        np.testing.assert_allclose(loaded(PIXELS)[name], value, atol=1e-6)
    np.testing.assert_allclose(encoded.latents, network(PIXELS)["latent"], atol=1e-5)


def test_any_keras_user_can_open_the_model_file(bundle_folder, small_network):
    import keras

    foreign = keras.saving.load_model(bundle_folder / bundle.MODEL)
    np.testing.assert_allclose(
        foreign(PIXELS)["latent"], small_network[0](PIXELS)["latent"], atol=1e-6
    )


@pytest.mark.slow
def test_jax_gives_the_same_network(small_network, bundle_folder, tmp_path):
    pytest.importorskip("jax")
    np.save(tmp_path / "pixels.npy", PIXELS)
    without_tensorflow = (
        "import sys; from importlib.abc import MetaPathFinder\n"
        "class Refuse(MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'tensorflow': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    arguments = [bundle_folder, tmp_path / "pixels.npy", tmp_path / "out.npz"]
    subprocess.run(
        [sys.executable, "-c", without_tensorflow + LOAD_AND_RUN, *arguments],
        check=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    stored = np.load(tmp_path / "out.npz")
    for name, value in small_network[0](PIXELS).items():
        np.testing.assert_allclose(stored[name], value, atol=1e-4)


@pytest.fixture
def copied_bundle(bundle_folder, tmp_path):
    import shutil

    return shutil.copytree(bundle_folder, tmp_path / "copy")


@pytest.mark.parametrize("name", [bundle.ENCODER, bundle.MODEL])
def test_a_flipped_byte_in_a_bundle_is_named(copied_bundle, name):
    data = bytearray((copied_bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied_bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} has changed"):
        bundle.load(copied_bundle).load_model()


@pytest.mark.parametrize("name", [bundle.ENCODER, bundle.MODEL, bundle.DESCRIPTION])
def test_a_missing_file_in_a_bundle_is_named(copied_bundle, name):
    (copied_bundle / name).unlink()
    with pytest.raises(BundleError, match=name):
        bundle.load(copied_bundle).load_model()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"format_version": "x"}', "[" * 99999]
)
def test_a_broken_description_is_refused(copied_bundle, text):
    (copied_bundle / bundle.DESCRIPTION).write_text(text)
    with pytest.raises(BundleError):
        bundle.load(copied_bundle)


def test_a_bundle_of_a_newer_format_asks_for_an_upgrade(copied_bundle):
    path = copied_bundle / bundle.DESCRIPTION
    description = {**json.loads(path.read_text()), "format_version": 99}
    path.write_text(json.dumps(description))
    with pytest.raises(BundleError, match="format 99.*Upgrade"):
        bundle.load(copied_bundle)


def test_a_bundle_replaces_only_a_bundle(small_network, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(BundleError, match="replaces only"):
        bundle.save(tmp_path, *small_network, origin={})
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_golden_bundle_of_version_3_keeps_the_weights_it_was_converted_from(small_network):
    """float32.onnx of an int8 bundle that Keras did not make holds them."""
    golden = bundle.load(GOLDEN / "bundle_v3_int8")
    assert golden.precision == "int8" and set(golden.files()) == {
        "hashnet.json",
        "encoder.onnx",
        "float32.onnx",
    }
    expected, _ = small_network
    for found, wanted in zip(golden.load_model().weights, expected.weights, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert Encoder(golden).encode([np.zeros((64, 64, 3), np.uint8)]).codes.shape == (1, 4)


@pytest.mark.keras
def test_a_latent_follows_from_a_feature(small_network, photos, tmp_path):
    network, config = small_network
    saved = bundle.save(tmp_path / "bundle", network, config, origin={}, mean=np.zeros(64))
    encoded = Encoder(saved).encode(sorted(photos.rglob("*.png"))[:4])
    for feature, latent in zip(encoded.features, encoded.latents, strict=True):
        np.testing.assert_allclose(Encoder(saved).latent_of(feature), latent, atol=1e-6)
