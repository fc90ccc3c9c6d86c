"""Runtimes: one interface, and the same numbers from each."""

import concurrent.futures
import importlib.util

import numpy as np
import pytest

from hashnet import images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, BundleError, HashnetError, UnknownNameError
from hashnet.network import runtimes

HERE = [name for name in ("openvino", "onnxruntime") if runtimes._is_installed(name)]
PIXELS = np.random.default_rng(5).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def paths(photos):
    return sorted(photos.rglob("*.png"))


KERAS = pytest.param("keras", marks=pytest.mark.keras)


@pytest.fixture(params=["openvino", "onnxruntime", KERAS])
def runtime(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def test_each_gives_what_keras_gives_and_a_batch_equals_its_singles(
    runtime, bundle_folder, small_network, paths
):
    encoder = Encoder.open(bundle_folder, runtime=runtime)
    assert encoder.runtime == runtime
    encoded = encoder.encode(paths)
    pixels = np.stack([images.read_resized(path, (64, 64)) for path in paths])
    expected = {name: np.asarray(value) for name, value in small_network[0](pixels).items()}
    np.testing.assert_allclose(encoded.features, expected["feature"], atol=1e-5)
    np.testing.assert_allclose(encoded.scores, expected["scores"], atol=1e-5)
    differs = (encoded.latents >= 0.5) != (expected["latent"] >= 0.5)
    assert np.abs(expected["latent"][differs] - 0.5).max(initial=0) < 1e-4
    for row in range(0, len(paths), 5):
        code, feature = encoder.encode_one(paths[row])
        np.testing.assert_array_equal(code, encoded.codes[row])
        # Relative to the whole feature, whose length is 1: single numbers in it are near zero.
        assert np.linalg.norm(feature - encoded.features[row]) <= 1e-5


@pytest.mark.fast("onnxruntime", "openvino")
def test_codes_depend_on_the_size_of_no_batch(runtime, bundle_folder, paths):
    encoder = Encoder.open(bundle_folder, runtime=runtime)
    whole = list(encoder.stream(paths, batch=24))
    for batch in (1, 7):
        parts = list(encoder.stream(paths, batch=batch))
        codes = np.concatenate([part.codes for part in parts])
        np.testing.assert_array_equal(codes, whole[0].codes)
        assert np.concatenate([part.positions for part in parts]).tolist() == list(range(24))


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("concurrent_calls", [False, True])
def test_calls_from_many_threads_do_not_mix(bundle_folder, name, concurrent_calls):
    network = runtimes.open_file(
        bundle_folder / "encoder.onnx", name, num_threads=2, concurrent=concurrent_calls
    )

    def feature(row):
        return network.run(["feature"], {"image": PIXELS[row : row + 1]})[0][0]

    alone = [feature(row) for row in range(9)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(feature, [*range(9)] * 4))
    np.testing.assert_allclose(together, alone * 4, atol=1e-6)


@pytest.mark.parametrize("name", HERE)
def test_one_by_one_neighbours_change_no_number(bundle_folder, name):
    path = bundle_folder / "encoder.onnx"
    network = runtimes.open_file(path, name, one_by_one=True)
    together = network.run(["latent", "feature"], {"image": PIXELS})
    at_once = runtimes.open_file(path, name).run(["latent", "feature"], {"image": PIXELS})
    for rows, others in zip(together, at_once, strict=True):
        np.testing.assert_allclose(rows, others, atol=1e-6)
    for row in (0, 8):
        alone = network.run(["latent", "feature"], {"image": PIXELS[row : row + 1]})
        for one, rows in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], rows[row])


@pytest.mark.parametrize("name", HERE)
def test_an_answer_stays_when_the_next_comes(bundle_folder, name):
    network = runtimes.open_file(bundle_folder / "encoder.onnx", name)
    [first] = network.run(["feature"], {"image": PIXELS[:2]})
    kept = first.copy()
    network.run(["feature"], {"image": PIXELS[2:4]})
    np.testing.assert_array_equal(first, kept)


def test_auto_takes_the_first_that_is_installed(monkeypatch):
    def only(*installed):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)

    only("openvino", "onnxruntime")
    assert runtimes.choose("auto") == "openvino"
    only("onnxruntime")
    assert runtimes.choose("auto") == "onnxruntime"
    only("onnxruntime")
    with pytest.raises(HashnetError, match="pip install .openvino"):
        runtimes.require("openvino")


def test_an_unknown_or_unfit_runtime_is_refused(bundle_folder, tmp_path):
    with pytest.raises(UnknownNameError, match="Known ones: auto, keras, litert, onnxruntime"):
        Encoder.open(bundle_folder, runtime="caffe")
    with pytest.raises(ArgumentError, match="openvino or onnxruntime or keras"):
        Encoder.open(bundle_folder, runtime="litert")
    with pytest.raises(ArgumentError, match="thread"):
        Encoder.open(bundle_folder, num_threads=0)
    with pytest.raises(BundleError, match=r"\.onnx"):
        runtimes.open_file(tmp_path / "model.pb")
    with pytest.raises(BundleError, match="must exist"):
        runtimes.open_file(tmp_path / "model.onnx")


@pytest.mark.parametrize("suffix", [".tflite", ".xml"])
@pytest.mark.parametrize("content", [b"", b"no network", bytes(range(256)) * 50])
def test_a_damaged_file_is_refused(tmp_path, suffix, content):
    runtime = {".tflite": "litert", ".xml": "openvino"}[suffix]
    if not runtimes._is_installed(runtime):
        pytest.skip(f"{runtime} is not installed")
    path = tmp_path / f"n{suffix}"
    path.write_bytes(content)
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(BundleError, match="must be a network"):
        runtimes.open_file(path)


def test_a_network_of_another_shape_than_its_bundle_says_is_refused(runtime, bundle_folder):
    import dataclasses

    from hashnet.network import bundle

    loaded = bundle.load(bundle_folder)
    wrong = dataclasses.replace(loaded.config, num_bits=31)
    with pytest.raises((BundleError, HashnetError), match="31|description"):
        Encoder(dataclasses.replace(loaded, config=wrong), runtime=runtime)
