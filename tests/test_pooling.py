"""Poolings beside the formulas of their papers, in Keras, as ONNX, and in an index."""

import math
import sys

import numpy as np
import onnx
import pytest

import hashnet
from hashnet import Index, codes, images
from hashnet.errors import ArgumentError, HashnetError, UnknownNameError
from hashnet.network import (
    backbones,
    export,
    onnx_check,
    onnx_layers,
    onnx_writer,
    pooling,
    runtimes,
)
from hashnet.network.model import HashNetConfig, build

pytestmark = pytest.mark.keras


# --- The slow definitions, of one map (rows, columns, channels) -----------------------------------


def mean(x):
    return [math.fsum(x[:, :, c].ravel()) / x[:, :, c].size for c in range(x.shape[2])]


def mac(x):
    return [x[:, :, c].max() for c in range(x.shape[2])]


def spoc(x):
    side = len(x)
    total = np.zeros(x.shape[2])
    for row in range(side):
        for column in range(side):
            apart = (row + 0.5 - side / 2) ** 2 + (column + 0.5 - side / 2) ** 2
            total += math.exp(-apart / (2 * (side / 2 / 3) ** 2)) * x[row, column]
    return total / side**2


def rmac(x):
    side, total = len(x), np.zeros(x.shape[2])
    for scale in (1, 2, 3):
        width = 2 * side // (scale + 1)
        for i in range(scale):
            for j in range(scale):
                top, left = (
                    math.floor(n * (side - width) / (scale - 1)) if scale > 1 else 0 for n in (i, j)
                )
                largest = np.array(mac(x[top : top + width, left : left + width]))
                total += largest / np.linalg.norm(largest)
    return total


def gem(x):
    return [np.mean(x[:, :, c] ** 3) ** (1 / 3) for c in range(x.shape[2])]


def crow(x):
    response = x.sum(axis=2)
    spatial = np.sqrt(response / math.sqrt((response**2).sum()))
    nonzero = np.array([np.mean(x[:, :, c] > 0) for c in range(x.shape[2])])
    rarity = np.log((len(nonzero) * 1e-6 + nonzero.sum()) / (1e-6 + nonzero))
    return [np.mean(spatial * x[:, :, c]) * rarity[c] for c in range(x.shape[2])]


SLOW = {"mean": mean, "mac": mac, "spoc": spoc, "rmac": rmac, "gem": gem, "crow": crow}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def slow(maps, name):
    return unit(np.array([SLOW[name](one.astype(float)) for one in maps]))


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    return np.maximum(rng.standard_normal((3, 7, 7, 10)) - 0.3, 0).astype(np.float32)


def test_every_pooling_has_a_slow_definition():
    assert SLOW.keys() == pooling.POOLINGS.keys()


@pytest.mark.parametrize("name", pooling.POOLINGS)
def test_keras_and_onnx_pool_as_the_paper_says(maps, name):
    import keras

    image = keras.Input((7, 7, 10))
    model = keras.Model(image, pooling.in_keras(image, image, [name]))
    np.testing.assert_allclose(unit(np.asarray(model(maps))), slow(maps, name), atol=1e-5)
    layers = onnx_layers.Layers()
    x = layers.take("x", "float32", ["n", 10, 7, 7])
    layers.give("y", pooling.in_onnx(layers, (x, 7), (x, 7), [name]), shape=["n", 10])
    content = layers.model().SerializeToString()
    onnx_check.check(content, "pooling")
    opened = runtimes.open_bytes(content, "pooling", "onnxruntime")
    [found] = opened.run(["y"], {"x": np.ascontiguousarray(maps.transpose(0, 3, 1, 2))})
    np.testing.assert_allclose(unit(found), slow(maps, name), atol=1e-5)


def test_an_empty_map_is_no_nan():
    import keras

    image = keras.Input((7, 7, 10))
    for name in pooling.POOLINGS:
        model = keras.Model(image, pooling.in_keras(image, image, [name]))
        assert np.isfinite(np.asarray(model(np.zeros((1, 7, 7, 10), np.float32)))).all(), name


@pytest.mark.parametrize("side", [1, 2, 3, 7, 14, 15])
def test_windows_lie_in_the_map(side):
    for top, left, length in pooling.windows(side):
        assert 0 <= top <= top + length <= side and 0 <= left <= left + length <= side
    assert len(pooling.windows(side)) == 14


ALL = "+".join([*pooling.POOLINGS, *(f"map_{name}" for name in pooling.POOLINGS)])


@pytest.mark.thorough
def test_a_hash_network_is_the_same_in_every_runtime():
    """All poolings of both maps behind each other; H on them; written, read and filled again."""
    config = HashNetConfig(backbone=f"tiny:{ALL}", num_bits=16, scores_from="none")
    assert config.feature_dim == 6 * (48 + 64)
    model = build(config, weights=None)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    expected = {name: np.asarray(value) for name, value in model(pixels.astype("f4")).items()}
    base = backbones.create("tiny", weights=None)
    for layer in base.layers:
        if layer.weights and layer.name != "f8":
            layer.set_weights(model.get_layer(layer.name).get_weights())
    maps = np.asarray(base(pixels.astype("f4"))["map"])
    last = np.asarray(base.get_layer("head_conv")(maps))
    parts = [slow(last, name) for name in SLOW] + [slow(maps, name) for name in SLOW]
    joined = unit(np.concatenate(parts, axis=1))
    np.testing.assert_allclose(expected["feature"], joined, atol=1e-5)
    content = onnx_writer.write(model, config.outputs, code=True)
    onnx_check.check(content, "written")
    for runtime in runtimes.FASTEST:
        opened = runtimes.open_bytes(content, "written", runtime)
        *found, code = opened.run([*config.outputs, "code"], {"image": pixels})
        for name, values in zip(config.outputs, found, strict=True):
            np.testing.assert_allclose(values, expected[name], atol=2e-5, err_msg=name)
        np.testing.assert_array_equal(code, codes.from_latent(found[0]))
    other = build(config, weights=None)
    onnx_writer.restore(other, onnx.load_model_from_string(content))
    assert onnx_writer.write(other, config.outputs, code=True) == content


def test_what_is_not_there_is_refused():
    with pytest.raises(UnknownNameError, match="pooling of this name.*crow, gem, mac"):
        backbones.known("tiny:max")
    with pytest.raises(UnknownNameError, match="pooling"):
        backbones.known("tiny:")
    with pytest.raises(UnknownNameError, match="backbone"):
        backbones.known("large:gem")
    with pytest.raises(ArgumentError, match="Pool its map of stride 16: vgg16:map_mac"):
        backbones.known("vgg16:mac")
    assert backbones.known("vgg16:map_mac").feature_dim == 512


# --- Through the product --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pooled_index(photos, tmp_path_factory):
    """An index whose photos Lite0 encodes, pooled otherwise; written without Keras."""
    folder = tmp_path_factory.mktemp("pooling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "keras", None)
        return Index.of_photos(
            folder / "index", photos, backbone="efficientnet_lite0:gem+rmac", bits=16
        )


@pytest.mark.thorough
def test_an_index_is_made_without_keras_and_finds(pooled_index, photos):
    picture = next(photos.rglob("*.png"))
    [nearest] = pooled_index.search(picture, k=1)
    assert nearest.path == str(picture)
    assert pooled_index.features([nearest.id]).shape == (1, 2560)


@pytest.mark.thorough
def test_the_file_of_the_index_gives_what_keras_gives(pooled_index, photos):
    bundle = pooled_index.encoder.bundle
    model, pixels = (
        bundle.load_model(),
        images.read_resized(next(photos.rglob("*.png")), (224, 224)),
    )
    expected = {name: np.asarray(one) for name, one in model(pixels[None].astype("f4")).items()}
    content = bundle.encoder_file.read_bytes()
    opened = runtimes.open_bytes(content, "encoder", runtimes.FASTEST[0])
    for name in bundle.config.outputs:
        [found] = opened.run([name], {"image": pixels[None]})
        np.testing.assert_allclose(found, expected[name], atol=2e-5, err_msg=name)


@pytest.mark.thorough
def test_another_pooling_is_another_backbone(pooled_index, photos):
    with pytest.raises(HashnetError, match="An index keeps its backbone"):
        Index.of_photos(pooled_index.store.folder, photos, backbone="efficientnet_lite0:mac")


@pytest.mark.thorough
def test_local_features_and_regions_do_not_depend_on_the_pooling(photos, tmp_path):
    of_both = [
        Index.of_photos(
            tmp_path / name.replace(":", "-"), photos, backbone=name, bits=16, local="delf"
        )
        for name in ("efficientnet_lite0", "efficientnet_lite0:crow")
    ]
    picture = next(photos.rglob("*.png"))
    first, second = (index.extractor.extract(images.read(picture)) for index in of_both)
    np.testing.assert_array_equal(first.yx, second.yx)
    np.testing.assert_array_equal(first.descriptors, second.descriptors)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A bundle that was trained on labels over a feature of all poolings."""
    folder = tmp_path_factory.mktemp("trained") / "bundle"
    return hashnet.train(
        photos, folder, backbone=f"tiny:{ALL}", weights="random", num_bits=12, head_epochs=1,
        epochs=1, batch=8, verbose=False,
    ).bundle  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("format", export.SUFFIXES)
def test_every_format_gives_equal_numbers(trained, tmp_path, format):
    comparison = export.export(trained, tmp_path / f"x{export.SUFFIXES[format]}", format)
    assert comparison.differing_far_from_half == 0
    assert trained.config.backbone == f"tiny:{ALL}" and trained.config.classes
