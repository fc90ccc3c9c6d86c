"""Extractors of local features keep one contract."""

import numpy as np
import pytest

from hashnet import images
from hashnet.errors import HashnetError, ShapeError, UnknownNameError
from hashnet.local import extractors
from hashnet.local.features import LocalFeatures

pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")


@pytest.fixture(scope="module")
def photo():
    """A picture with corners and spots everywhere."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return images.resize(coarse, (240, 320))


@pytest.fixture(scope="module")
def sift():
    return extractors.open("sift")


def test_features_keep_the_contract(sift, photo):
    found = sift.extract(photo)
    assert (sift.name, sift.descriptor_dim) == ("sift", 128)
    assert 50 < len(found) <= 1000
    assert found.yx.dtype == found.descriptors.dtype == found.scores.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    assert (np.diff(found.scores) <= 0).all()
    assert found.yx.min() >= -0.5
    assert (found.yx.max(axis=0) <= photo.shape[:2]).all()
    again = sift.extract(photo)
    assert np.array_equal(found.yx, again.yx) and np.array_equal(
        found.descriptors, again.descriptors
    )


def test_at_most_a_thousand_features_come(sift):
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    assert len(sift.extract(noise)) == 1000


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (1, 5000), (60, 60)])
def test_a_picture_of_nothing_has_no_features(sift, shape):
    found = sift.extract(np.full((*shape, 3), 120, np.uint8))
    assert found.yx.shape == (0, 2) and found.descriptors.shape == (0, 128)


def test_places_are_those_of_the_original_image(sift, photo):
    """The same picture five times as large, which is made smaller before: the same places."""
    large = images.resize(photo, (1200, 1600))
    small, found = sift.extract(images.resize(photo, (768, 1024))), sift.extract(large)
    strongest = small.yx[:20] * (1600 / 1024)
    for place in strongest:
        assert np.linalg.norm(found.yx - place, axis=1).min() < 4


def test_what_is_no_image_is_refused(sift):
    for image in (np.zeros((5, 5), "u1"), np.zeros((5, 5, 3), "f4"), np.zeros((5, 5, 4), "u1")):
        with pytest.raises(ShapeError, match="uint8"):
            sift.extract(image)


def test_an_unknown_extractor_is_refused_with_those_there_are():
    with pytest.raises(UnknownNameError, match="'surf'.*aliked, delf, disk, sift, xfeat"):
        extractors.open("surf")


def test_without_opencv_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(HashnetError, match="opencv-python-headless"):
        extractors.open("sift")


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 2), (2, 5), (3,)),
        ((3, 3), (3, 5), (3,)),
        ((3, 2), (3,), (3,)),
        ((3, 2), (3, 5), (3, 1)),
    ],
)
def test_arrays_that_do_not_fit_are_no_local_features(shapes):
    with pytest.raises(ShapeError):
        LocalFeatures(*(np.zeros(shape, np.float32) for shape in shapes))
    with pytest.raises(ShapeError, match="float64"):
        LocalFeatures(np.zeros((1, 2)), np.zeros((1, 4), np.float32), np.zeros(1, np.float32))
