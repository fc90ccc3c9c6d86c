"""Vision transformers: built of plain layers, and taken from presets of KerasHub."""

import dataclasses
import json
import socket

import numpy as np
import pytest

import hashnet
from hashnet import extras
from hashnet.errors import ArgumentError, BundleError, HashnetError, WeightsError
from hashnet.network import (
    backbones,
    bundle,
    export,
    onnx_check,
    onnx_graph,
    own_backbones,
    own_hub,
    pretrained,
    transformer,
)
from hashnet.network.transformer import Transformer
from tests import own_networks

pytestmark = pytest.mark.keras

SMALL = Transformer(32, 8, 16, 2, 2, 32, scale=(1 / 60,) * 3, offset=(-2.0,) * 3)
KINDS = {
    "clip": {"activation": "quick_gelu", "first_norm": True, "projection": 12},
    "siglip": {"activation": "gelu_tanh", "prefix": 0, "pooling": ("attention",)},
    "dino": {"activation": "silu", "gated": True, "prefix": 4, "rope_theta": 100.0},
    "pooled": {"pooling": ("cls", "mean", "gem")},
}


@pytest.fixture(params=KINDS)
def kind(request):
    return dataclasses.replace(SMALL, **KINDS[request.param])


@pytest.fixture
def opened(kind):
    """A backbone of this kind, of random weights."""
    import keras

    keras.utils.set_random_seed(3)
    weights = {layer.name: layer.get_weights() for layer in kind.build().layers if layer.weights}
    return transformer.backbone("small", kind, weights, "nobody")


@pytest.mark.fast("siglip", "dino")
def test_onnx_gives_what_keras_gives(opened):
    import onnxruntime

    config = pretrained.config_of(opened, 16)
    content = onnx_graph.content(pretrained.write(config, backbone=opened))
    onnx_check.check(content, "x.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    expected = np.asarray(backbones.create(opened)(pixels.astype(np.float32))["feature"])
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    found = onnxruntime.InferenceSession(content).run(["feature"], {"image": pixels})[0]
    assert found.shape == (5, opened.feature_dim)
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.thorough
def test_a_bundle_has_the_network_again(opened, photos, tmp_path):
    index = hashnet.Index.of_photos(tmp_path / "i", photos, backbone=opened, bits=16, regions=1)
    files = sorted(photos.rglob("*.png"))[:3]
    again = bundle.load(tmp_path / "i").load_model()
    from hashnet import images

    pixels = np.stack([images.read_resized(file, (32, 32)) for file in files])
    features = np.asarray(again(pixels.astype(np.float32))["feature"])
    assert np.allclose(features, index.encoder.encode(files).features, atol=1e-5)


def test_tokens_lie_where_their_patches_do(photos, tmp_path):
    """The one patch that is bright is the one place of the map that differs."""
    model = SMALL.build()
    assert dataclasses.astuple(model.map_geometry) == (8, 8, 3.5)
    no_blocks = dataclasses.replace(SMALL, depth=1).build()
    for layer in no_blocks.layers:
        if layer.name in ("b0_out", "b0_down", "tokens"):
            layer.set_weights([np.zeros_like(one) for one in layer.get_weights()])
    pixels = np.full((1, 32, 32, 3), 120, np.float32)
    pixels[0, 16:24, 8:16] = np.random.default_rng(0).uniform(0, 255, (8, 8, 3))
    found = np.asarray(no_blocks(pixels)["map"])[0]
    differs = np.abs(found - found[0, 0]).max(axis=-1) > 1e-3
    assert np.argwhere(differs).tolist() == [[2, 1]]


def test_gem_is_the_cube_root_of_the_mean_cube():
    model = dataclasses.replace(SMALL, pooling=("gem",)).build()
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    found = model(pixels)
    places = np.maximum(np.asarray(found["map"], np.float64), 0).reshape(2, -1, 16)
    assert np.allclose(np.asarray(found["feature"]), np.cbrt((places**3).mean(axis=1)), atol=1e-4)


@pytest.mark.thorough
def test_a_transformer_is_trained_and_exported(opened, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(own_backbones, "opened", lambda name: opened)
    trained = hashnet.train(
        photos, tmp_path / "b", backbone="small", num_bits=16, head_epochs=1, epochs=1, batch=8,
        verbose=False,
    )  # fmt: skip
    comparison = export.export(trained.bundle, tmp_path / "x.onnx", "onnx")
    assert comparison.differing_far_from_half == 0
    index = hashnet.Index.of_photos(tmp_path / "i", photos, bundle=tmp_path / "b")
    assert index.search(photos / "disc/0.png", k=1)[0].id.endswith("disc/0.png")


@pytest.mark.slow
@pytest.mark.parametrize("format", export.SUFFIXES)
def test_every_format_gives_equal_bits(opened, photos, tmp_path, format):
    hashnet.Index.of_photos(tmp_path / "i", photos, backbone=opened, bits=16)
    out = tmp_path / f"x{export.SUFFIXES[format]}"
    assert export.export(bundle.load(tmp_path / "i"), out, format).differing_far_from_half == 0


@pytest.mark.thorough
def test_local_features_of_a_map_of_one_size(opened, photos, tmp_path):
    pytest.importorskip("cv2")
    index = hashnet.Index.of_photos(tmp_path / "i", photos, backbone=opened, bits=16, local="delf")
    from hashnet import images

    local = index.extractor.extract(images.read(photos / "disc/0.png"))
    assert len(local.yx) == 16
    # One of each place of a grid of four by four in 80 by 100 pixels; peaks lie between places.
    centres = np.array([[y, x] for y in (9.5, 29.5, 49.5, 69.5) for x in (12, 37, 62, 87)])
    apart = np.abs(local.yx[:, None] - centres) <= (10.01, 12.51)
    assert (apart.all(axis=2).sum(axis=1) >= 1).all()
    assert np.isclose(local.yx[:, None], centres).all(axis=2).sum() > 8
    assert index.search(photos / "disc/0.png", k=2, verify=True)[0].id.endswith("disc/0.png")


def test_a_wrong_description_is_refused():
    own = {"kind": "transformer", **SMALL.to_dict()}
    for wrong in (
        {"width": 10**6},
        {"depth": "2"},
        {"patch_size": 7},
        {"heads": 3},
        {"pooling": ["max"]},
        {"pooling": []},
        {"prefix": 0},
        {"activation": "eval"},
        {"scale": [1]},
    ):
        with pytest.raises(BundleError):
            own_backbones.described("x", own | wrong)
            pytest.fail(str(wrong))
    with pytest.raises(BundleError):
        own_backbones.described("x", {"kind": "transformer"})
    with pytest.raises(WeightsError, match="come from its file"):
        backbones.create(own_backbones.described("x", own))
    with pytest.raises(ArgumentError, match="32 pixels only"):
        backbones.create(own_backbones.described("x", own), weights=None, image_size=64)


# --- KerasHub -----------------------------------------------------------------------------------


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "keras_hub", None)
    with pytest.raises(HashnetError, match=r"KerasHub.*keras-hub"):
        hashnet.Backbone("keras_hub:dinov2_small")
    (tmp_path / own_hub.CONFIG).write_text("{}")
    with pytest.raises(HashnetError, match="keras-hub"):
        hashnet.Backbone(tmp_path)
    assert extras.PACKAGES["hub"][0].startswith("keras-hub")


@pytest.fixture
def no_network(monkeypatch):
    pytest.importorskip("keras_hub", reason='pip install "hashnet[hub]"')

    def refused(*_):
        raise OSError("this test has no network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.parametrize("family", own_networks.FAMILIES)
def test_a_preset_gives_what_its_library_gives(family, no_network, photos, tmp_path):
    model = own_networks.write_preset(family, tmp_path / family)
    opened = hashnet.Backbone(tmp_path / family)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    expected = own_networks.features_of_preset(model, pixels)
    found = np.asarray(backbones.create(opened)(pixels.astype(np.float32))["feature"])
    assert np.allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    index = hashnet.Index.of_photos(tmp_path / "i", photos, backbone=tmp_path / family, bits=16)
    assert index.search(photos / "ramp/1.png", k=1)[0].id.endswith("ramp/1.png")


def test_pooling_can_be_asked_for(no_network, tmp_path):
    own_networks.write_preset("clip", tmp_path / "clip")
    opened = hashnet.Backbone(f"{tmp_path / 'clip'}:cls+gem")
    assert opened.feature_dim == 32 and opened.own["pooling"] == ["cls", "gem"]
    assert backbones.create(opened).output["feature"].shape == (None, 32)


def test_hostile_presets_are_refused(no_network, tmp_path):
    folder = tmp_path / "p"
    own_networks.write_preset("clip", folder)
    whole = json.loads((folder / own_hub.CONFIG).read_text())

    def strange(config):
        config["config"]["vision_encoder"].update(module="os", class_name="system")

    def another(config):
        config.update(class_name="BertBackbone")

    for change in (strange, another):
        config = json.loads(json.dumps(whole))
        change(config)
        (folder / own_hub.CONFIG).write_text(json.dumps(config))
        with pytest.raises(WeightsError):
            hashnet.Backbone(folder)
            pytest.fail(change.__name__)
    (folder / own_hub.CONFIG).write_text(json.dumps(whole))
    (folder / own_hub.WEIGHTS).write_bytes(b"hello")
    with pytest.raises(WeightsError):
        hashnet.Backbone(folder)
    (folder / own_hub.WEIGHTS).unlink()
    with pytest.raises(WeightsError, match="holds its weights"):
        hashnet.Backbone(folder)


def test_a_preset_that_cannot_be_fetched_is_said_in_a_line(no_network):
    with pytest.raises(WeightsError, match="folder of a preset"):
        hashnet.Backbone("keras_hub:dinov2_small")
