"""The estimator: its answers are the index's, and it passes scikit-learn's own checks."""

import contextlib
import importlib.util
import pickle
import unittest

import numpy as np
import pytest

import hashnet
from hashnet import codes, images
from hashnet.errors import ArgumentError, FingerprintError, ImageError
from tests.lazily import Lazily

base, checks, exceptions, pipeline = (
    Lazily(f"sklearn.{name}")
    for name in ("base", "utils.estimator_checks", "exceptions", "pipeline")
)
ours, rows_estimator = Lazily("hashnet.sklearn"), Lazily("tests.rows_estimator")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)


@pytest.fixture(scope="module")
def paths(photos):
    return sorted(photos.rglob("*.png"))


@pytest.fixture(scope="module")
def neighbors(paths, bundle_folder):
    return ours.HashNeighbors(bundle_folder, n_neighbors=3).fit(paths)


def test_codes_and_features_are_those_of_the_encoder(neighbors, paths, bundle_folder):
    encoded = hashnet.Encoder.open(bundle_folder).encode(paths)
    np.testing.assert_array_equal(neighbors.codes_, encoded.codes)
    np.testing.assert_array_equal(neighbors.features_, encoded.features)
    np.testing.assert_array_equal(neighbors.transform(paths[3:5]), encoded.codes[3:5])
    assert codes.unpack(neighbors.transform(paths[:1]), 32).shape == (1, 32)


def test_neighbours_are_the_hits_of_an_index(neighbors, paths, bundle_folder, tmp_path):
    index = hashnet.Index.create(tmp_path / "i", bundle_folder, feature_dtype="float32")
    index.add(paths)
    distances, places = neighbors.kneighbors(paths[:7], n_neighbors=5)
    for query, near, far in zip(paths, places, distances, strict=False):
        result = index.search(query, k=5)
        assert [str(paths[place]) for place in near] == [hit.path for hit in result]
        np.testing.assert_array_equal(far, [hit.distance for hit in result])
    np.testing.assert_array_equal(
        neighbors.kneighbors(paths[:7], n_neighbors=5, return_distance=False), places
    )


def test_no_image_is_a_neighbour_of_itself(neighbors, paths):
    distances, places = neighbors.kneighbors()
    assert places.shape == distances.shape == (24, 3)
    assert not (places == np.arange(24)[:, None]).any()
    one, _ = neighbors.kneighbors(paths[5:6], n_neighbors=4)
    np.testing.assert_array_equal(distances[5], one[0, 1:])


def test_copies_of_an_image_are_neighbours(paths, bundle_folder):
    same = ours.HashNeighbors(bundle_folder, n_neighbors=2).fit([paths[0]] * 5)
    distances, places = same.kneighbors()
    assert not distances.any()
    assert not (places == np.arange(5)[:, None]).any()


def test_every_kind_of_image_is_taken(neighbors, paths):
    pixels = np.stack([images.read(path) for path in paths[:2]])
    wanted = neighbors.transform(paths[:2])
    for several in (pixels, list(pixels), pixels / 255, [path.read_bytes() for path in paths[:2]]):
        np.testing.assert_array_equal(neighbors.transform(several), wanted)


def test_what_cannot_be_taken_is_refused(neighbors, paths, bundle_folder, tmp_path):
    with pytest.raises(ImageError, match="8 bytes|image 1"):
        neighbors.transform([paths[0], b"no image"])
    with pytest.raises(ArgumentError, match="at least one"):
        ours.HashNeighbors(bundle_folder).fit([])
    with pytest.raises(ArgumentError, match="1 to 23 here"):
        neighbors.kneighbors(n_neighbors=24)
    with pytest.raises(ArgumentError, match="bundle"):
        ours.HashNeighbors().fit(paths)
    with pytest.raises(exceptions.NotFittedError):
        ours.HashNeighbors(bundle_folder).transform(paths)


def test_it_can_be_pickled_but_for_its_network(neighbors, paths, tmp_path):
    again = pickle.loads(pickle.dumps(neighbors))
    assert "_encoder" not in vars(again)
    np.testing.assert_array_equal(again.kneighbors(paths)[1], neighbors.kneighbors(paths)[1])
    again = pickle.loads(pickle.dumps(neighbors))
    again.fingerprint_ = "0" * 64
    with pytest.raises(FingerprintError, match="fit again"):
        again.transform(paths[:1])


def test_it_stands_in_a_pipeline(neighbors, paths):
    joined = pipeline.make_pipeline(base.clone(neighbors)).fit(paths)
    np.testing.assert_array_equal(joined.transform(paths[:2]), neighbors.transform(paths[:2]))


SOME = (
    "check_estimator_cloneable",
    "check_estimators_dtypes",
    "check_fit2d_predict1d",
    "check_methods_subset_invariance",
    "check_transformer_general",
)


@pytest.mark.parametrize("some", [SOME, pytest.param(None, marks=pytest.mark.thorough)])
def test_scikit_learns_own_checks(some):
    done = []
    of_rows = rows_estimator.OfRows(str(rows_estimator.GOLDEN), n_neighbors=2)
    for estimator, check in checks.estimator_checks_generator(of_rows):
        name = check.func.__name__
        if some is None or name in some:
            done.append(name)
            with contextlib.suppress(unittest.SkipTest):
                check(estimator)
    assert set(done) == set(some) if some else len(done) > 40


def test_the_example_holds(run_examples):
    assert run_examples("hashnet.sklearn") == 0


def test_a_row_of_numbers_is_no_image(bundle_folder):
    """Why the checks go through `OfRows`: all of them give a table, which is refused by itself."""
    assert not ours.HashNeighbors().__sklearn_tags__().input_tags.two_d_array
    with pytest.raises((ImageError, ArgumentError)):
        ours.HashNeighbors(bundle_folder).fit(np.random.default_rng(0).random((20, 10)))
