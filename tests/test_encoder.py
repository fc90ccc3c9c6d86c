"""Encoding: the ONNX file gives what Keras gives, in order, whatever the batch."""

import copy
import hashlib
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hashnet import images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, BundleError, HashnetError, ImageError
from hashnet.network import bundle as bundles


@pytest.fixture(scope="module")
def encoder(bundle_folder):
    return Encoder.open(bundle_folder)


@pytest.fixture(scope="module")
def paths(photos):
    return sorted(photos.rglob("*.png"))


def test_a_batch_equals_its_single_images(encoder, paths):
    encoded = encoder.encode(paths)
    for row, path in enumerate(paths):
        code, feature = encoder.encode_one(path)
        np.testing.assert_array_equal(code, encoded.codes[row])
        np.testing.assert_allclose(feature, encoded.features[row], rtol=1e-5, atol=1e-7)


def test_threads_change_nothing(bundle_folder, paths, encoder):
    single = Encoder.open(bundle_folder, num_threads=1).encode(paths)
    double = Encoder.open(bundle_folder, num_threads=2).encode(paths)
    np.testing.assert_array_equal(single.codes, double.codes)
    np.testing.assert_allclose(single.features, double.features, atol=1e-6)


def test_arrays_bytes_and_paths_of_one_picture_give_one_code(encoder, paths):
    array = images.read(paths[0])
    sources = [paths[0], str(paths[0]), paths[0].read_bytes(), array]
    encoded = encoder.encode(sources)
    assert len(np.unique(encoded.codes, axis=0)) == 1


def test_pil_images_and_arrays_of_any_kind_are_encoded(encoder, paths):
    array = images.read(paths[0])
    opaque = np.full((*array.shape[:2], 1), 255, np.uint8)
    sources = [
        array,
        Image.fromarray(array),
        np.concatenate([array, opaque], axis=-1),
        array / 255,
        images.Photo(paths[0]),
    ]
    assert len(np.unique(encoder.encode(sources).codes, axis=0)) == 1
    grey = np.stack([array[..., 0]] * 3, axis=-1)
    encoded = encoder.encode([grey, array[..., 0], array[..., :1], array[..., 0] / 255])
    assert len(np.unique(encoded.codes, axis=0)) == 1 and len(encoded) == 4


def test_one_image_where_a_list_is_meant_is_refused(encoder, paths):
    array = images.read(paths[0])
    for one in (str(paths[0]), paths[0], b"bytes", io.BytesIO(), array, Image.fromarray(array)):
        with pytest.raises(ArgumentError, match="encode_one"):
            encoder.encode(one)
        with pytest.raises(ArgumentError, match="encode_one"):
            encoder.stream(one)


def test_what_is_no_image_is_a_problem_with_a_name(encoder):
    encoded = encoder.encode([3, None, np.zeros((4, 4), np.int64)])
    assert len(encoded) == 0
    assert [problem.path for problem in encoded.problems] == ["image 0", "image 1", "image 2"]
    assert all("Received: " in problem.reason for problem in encoded.problems)


def test_more_can_be_asked_of_each_image_while_it_is_decoded(encoder, paths):
    sources = [paths[0], b"none", paths[1]]
    [part] = encoder.stream(sources, also=lambda photo: photo.full())
    assert part.positions.tolist() == [0, 2]
    for extra, path in zip(part.extras, (paths[0], paths[1]), strict=True):
        np.testing.assert_array_equal(extra, images.read(path))


def test_broken_images_are_named_and_the_rest_keeps_its_order(encoder, paths, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    sources = [paths[0], broken, paths[1], tmp_path / "missing.png", paths[2]] * 9
    encoded = encoder.encode(sources)
    assert encoded.positions.tolist() == [i for i in range(45) if i % 5 in (0, 2, 4)]
    assert [problem.path for problem in encoded.problems[:2]] == [
        str(broken),
        str(tmp_path / "missing.png"),
    ]
    np.testing.assert_array_equal(encoded.codes[1::3], np.tile(encoded.codes[1], (9, 1)))
    with pytest.raises(ImageError, match="broken.jpg"):
        encoder.encode_one(broken)


def test_nothing_gives_nothing(encoder):
    encoded = encoder.encode([])
    assert len(encoded) == 0
    assert encoded.codes.shape == (0, 4) and encoded.features.shape == (0, 64)


def test_a_stream_reads_ahead_but_not_far(bundle_folder, paths):
    taken = []

    def sources():
        for number in range(200):
            taken.append(number)
            yield paths[number % len(paths)]

    stream = Encoder.open(bundle_folder, num_threads=2).stream(sources(), batch=4)
    next(stream)
    assert len(taken) <= 24
    assert sum(len(part) for part in stream) == 196


@pytest.mark.thorough
def test_encoding_never_imports_a_training_library(bundle_folder, paths):
    code = (
        "import sys; from hashnet.encode.encoder import Encoder;"
        "Encoder.open(sys.argv[1]).encode(sys.argv[2:]);"
        "print({'tensorflow', 'keras', 'jax'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, bundle_folder, *paths], capture_output=True, text=True
    )
    assert run.stdout.strip() == "set()", run.stderr


def test_an_encoder_that_is_no_network_is_refused(bundle_folder, tmp_path):
    folder = shutil.copytree(bundle_folder, tmp_path / "bundle")
    whole = (folder / "encoder.onnx").read_bytes()
    for content in (b"", b"not a network", whole[: len(whole) // 2]):
        (folder / "encoder.onnx").write_bytes(content)
        description = json.loads((folder / "hashnet.json").read_text())
        description["sha256"]["encoder.onnx"] = hashlib.sha256(content).hexdigest()
        (folder / "hashnet.json").write_text(json.dumps(description))
        with pytest.raises(BundleError, match="ONNX"):
            Encoder.open(folder)


def changed(description, place, value):
    """A description with another value at a place, a tuple of names."""
    description = copy.deepcopy(description)
    inner = description
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    return description


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format_version",), float("nan")),
        (("format_version",), float("inf")),
        (("format_version",), True),
        (("format_version",), 0),
        (("format_version",), "1"),
        (("network", "classes"), "abc"),
        (("network", "num_bits"), float("nan")),
        (("network", "num_bits"), 32.0),
        (("network", "image_size"), True),
        (("precision",), ["float32"]),
        (("mean",), [0.5] * 64),
        (("origin",), []),
        (("sha256",), {}),
        (("sha256", "encoder.onnx"), None),
    ],
)
def test_a_description_keeps_to_its_schema(bundle_folder, tmp_path, place, value):
    folder = shutil.copytree(bundle_folder, tmp_path / "bundle")
    description = json.loads((folder / "hashnet.json").read_text())
    (folder / "hashnet.json").write_text(json.dumps(changed(description, place, value)))
    with pytest.raises(BundleError, match="hashnet.json|description"):
        bundles.load(folder)


def places_in(value, place=()):
    """The places of all values in a description."""
    for name, inner in value.items():
        yield (*place, name)
        if isinstance(inner, dict):
            yield from places_in(inner, (*place, name))


def test_whatever_a_description_says_instead_is_an_error_of_ours(unsupervised_bundle, tmp_path):
    folder = shutil.copytree(unsupervised_bundle, tmp_path / "bundle")
    description = json.loads((folder / "hashnet.json").read_text())
    for place in places_in(description):
        for value in (None, -1, 2**70, 1e300, True, "x", "", [], [[]], {}, {"x": 1}, "9" * 5000):
            (folder / "hashnet.json").write_text(json.dumps(changed(description, place, value)))
            try:
                bundles.load(folder)
            except HashnetError:
                continue
