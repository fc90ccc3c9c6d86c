"""From Keras to ONNX and back: the same numbers in each runtime, and every weight as it was."""

import numpy as np
import onnx
import pytest

from hashnet import codes
from hashnet.errors import BundleError, ExportError
from hashnet.network import (
    backbones,
    onnx_check,
    onnx_graph,
    onnx_writer,
    pretrained,
    runtimes,
)
from hashnet.network.geometry import geometry
from hashnet.network.model import HashNetConfig, build
from tests.stub_backbone import DEPTHWISE, STUB

pytestmark = pytest.mark.keras
OUTPUTS = ("latent", "feature", "scores")


@pytest.fixture(autouse=True)
def stubs(monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "stub", STUB)
    monkeypatch.setitem(backbones.BACKBONES, "depthwise", DEPTHWISE)


def shaken(model, seed=0):
    """The model with weights at random, of moments as they are after training."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "variance" in variable.path or "gamma" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif "kernel" not in variable.path:
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return model


def network(backbone, **options):
    size = backbones.known(backbone).image_size if "any" not in options else options.pop("any")
    config = HashNetConfig(
        backbone=backbone, image_size=size, num_bits=12, classes=("a", "b"), **options
    )
    return shaken(build(config, weights=None)), config


CASES = [
    ("stub", {}),
    ("depthwise", {}),
    ("stub", {"mirror": True}),
    ("stub", {"mirror": True, "embedding": 5}),
    ("tiny", {}),
    ("mobilenet_v3_large", {"any": 64}),
    pytest.param("efficientnet_lite0", {"any": 64}, marks=pytest.mark.slow),
    pytest.param("efficientnet_lite0", {"any": 64, "mirror": True}, marks=pytest.mark.slow),
    pytest.param("resnet50", {"any": 64}, marks=pytest.mark.slow),
    pytest.param("vgg16", {}, marks=pytest.mark.slow),
    pytest.param("alexnet", {}, marks=pytest.mark.slow),
]


@pytest.mark.fast("stub-options3", "depthwise-options1")
@pytest.mark.parametrize(("backbone", "options"), CASES)
def test_the_file_gives_what_keras_gives_and_every_weight_comes_back(backbone, options):
    model, config = network(backbone, **options)
    content = onnx_writer.write(model, OUTPUTS, code=True)
    assert onnx_writer.is_ours(content)
    onnx_check.check(content, "written")
    rng = np.random.default_rng(1)
    shape = (3, config.image_size, config.image_size, 3)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    expected = {name: np.asarray(value) for name, value in model(pixels.astype("f4")).items()}
    for runtime in runtimes.FASTEST:
        pytest.importorskip(runtime)
        for one_by_one in (False, True):
            opened = runtimes.open_bytes(content, "written", runtime, one_by_one=one_by_one)
            *found, code = opened.run([*OUTPUTS, "code"], {"image": pixels})
            for name, values in zip(OUTPUTS, found, strict=True):
                np.testing.assert_allclose(values, expected[name], atol=2e-5, err_msg=name)
            np.testing.assert_array_equal(code, codes.from_latent(found[0]))
            far = np.abs(expected["latent"] - 0.5) > 1e-4
            assert ((found[0] >= 0.5) == (expected["latent"] >= 0.5))[far].all()
    other = shaken(build(config, weights=None), seed=5)
    onnx_writer.restore(other, onnx.load_model_from_string(content))
    again = {name: np.asarray(value) for name, value in other(pixels.astype("f4")).items()}
    for name in OUTPUTS:
        np.testing.assert_array_equal(again[name], expected[name])
    assert onnx_writer.write(other, OUTPUTS, code=True) == content


@pytest.mark.thorough
@pytest.mark.parametrize(
    "backbone",
    [
        "efficientnet_lite0",
        pytest.param("efficientnet_lite1", marks=pytest.mark.slow),
        pytest.param("efficientnet_lite2", marks=pytest.mark.slow),
    ],
)
def test_pretrained_weights_become_the_same_file_without_keras(backbone):
    config = HashNetConfig(
        backbone=backbone,
        image_size=64,
        num_bits=12,
        classes=backbones.imagenet_classes(),
        scores_from="feature",
    )
    model = build(config)
    kernel, bias = model.get_layer("latent").get_weights()
    found = pretrained.with_hash_layer(pretrained.write(config), kernel, bias)
    assert onnx_graph.content(found) == onnx_writer.write(model, OUTPUTS)


LARGE = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("efficientnet_lite0", "mobilenet_v3_large")
]


@pytest.mark.fast("None-stub", "96-tiny")
@pytest.mark.parametrize("backbone", ["stub", "tiny", *LARGE])
@pytest.mark.parametrize("size", [None, 96])
def test_the_map_is_given_for_images_of_other_sizes(backbone, size):
    from hashnet.local import delf_network

    model, _ = network(backbone, any=64)
    whole = onnx.load_model_from_string(onnx_writer.write(model, OUTPUTS))
    assert onnx_graph.geometry_of(whole) == geometry(model)
    part = onnx_graph.up_to_map(whole, size).SerializeToString()
    bare = backbones.create(backbone, weights=None, image_size=64)
    layers = {layer.name: layer for layer in model.layers}
    for layer in bare.layers:
        if layer.weights and layer.name in layers:
            layer.set_weights(layers[layer.name].get_weights())
    for shape in [(96, 96)] if size else [(64, 64), (96, 128)]:
        pixels = np.random.default_rng(2).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
        expected = np.asarray(delf_network.map_of(bare, pixels.astype("f4")))
        for runtime in runtimes.FASTEST:
            pytest.importorskip(runtime)
            [found] = runtimes.open_bytes(part, "map", runtime).run(["map"], {"image": pixels})
            np.testing.assert_allclose(
                found.transpose(0, 2, 3, 1), expected, rtol=1e-3, atol=1e-4 * expected.max()
            )


def test_what_is_not_known_is_refused():
    import keras

    image = keras.Input((8, 8, 3), name="image")
    for layer in (keras.layers.UpSampling2D(2), keras.layers.Conv2D(2, 1, activation="elu")):
        x = keras.layers.GlobalAveragePooling2D()(layer(image))
        with pytest.raises(ExportError, match=r"UpSampling2D|elu"):
            onnx_writer.write(keras.Model(image, {"latent": x}), ("latent",))


@pytest.mark.parametrize("fault", ["gone", "shape", "dtype"])
def test_weights_that_do_not_fit_are_refused(fault):
    model, config = network("stub")
    content = onnx.load_model_from_string(onnx_writer.write(model, OUTPUTS))
    [kernel] = [one for one in content.graph.initializer if one.name == "latent/kernel"]
    if fault == "gone":
        content.graph.initializer.remove(kernel)
    elif fault == "shape":
        kernel.dims[:] = kernel.dims[::-1]
    else:
        array = onnx.numpy_helper.to_array(kernel).astype(np.float64)
        kernel.CopyFrom(onnx.numpy_helper.from_array(array, kernel.name))
    with pytest.raises(BundleError, match="latent/kernel"):
        onnx_writer.restore(build(config, weights=None), content)


def test_a_head_and_an_encoder_that_do_not_fit_are_refused():
    model, _ = network("stub")
    whole = onnx.load_model_from_string(onnx_writer.write(model, OUTPUTS))
    with pytest.raises(BundleError, match="takes the map"):
        onnx_graph.joined(onnx_graph.up_to_map(whole), whole)
    for node in whole.graph.node:
        node.output[:] = [name.replace("map", "no map") for name in node.output]
    with pytest.raises(BundleError, match="names its map"):
        onnx_graph.up_to_map(whole)
