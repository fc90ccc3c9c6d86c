"""What a training changes in a network and in the images it sees."""

import numpy as np
import pytest

pytest.importorskip("keras")

import keras

from hashnet.model import HashNetConfig, build
from train import losses, network
from train.config import TrainConfig

PLAIN = {"flip": False, "shift": 0.0, "zoom": 0.0}


@pytest.fixture(scope="module")
def photo_like():
    """Images whose pixels resemble their neighbours, with little colour."""
    random = np.random.default_rng(0)
    grey = random.normal(0, 30, (64, 32, 32, 1)).cumsum(axis=1).cumsum(axis=2) / 8
    return np.clip(128 + grey + random.normal(0, 6, (64, 32, 32, 3)), 0, 255).astype("uint8")


@pytest.fixture
def small():
    return build(HashNetConfig(backbone="vgg_small", num_bits=8, classes=("a", "b")), weights=None)


def changed(images, **settings):
    x = images
    for layer in network.augmentation(TrainConfig(**{**PLAIN, **settings})):
        x = layer(x, training=True)
    return np.asarray(x)


def test_whitened_filters_make_patches_uncorrelated_and_stay(small, photo_like):
    network.whiten(small, photo_like)
    layer = small.get_layer("whiten")
    scaled = keras.Model(small.input, small.get_layer("scale").output)
    inside = np.asarray(layer(scaled(photo_like.astype("float32"))))[:, :-1, :-1]
    positive, negative = np.split(inside.reshape(-1, 24), 2, axis=1)
    np.testing.assert_allclose(positive, -negative, atol=1e-4)
    covariance = np.cov(positive, rowvar=False)
    np.testing.assert_allclose(np.diag(covariance), 1, atol=0.1)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.01
    assert not layer.trainable


def test_whitening_looks_at_images_of_all_classes(small, photo_like, monkeypatch):
    of_two_classes = np.concatenate([np.zeros_like(photo_like), photo_like])
    network.whiten(small, of_two_classes[::4])
    expected = small.get_layer("whiten").get_weights()
    monkeypatch.setattr(network, "WHITENING_PATCHES", of_two_classes[..., 0].size // 4)
    network.whiten(small, of_two_classes)
    np.testing.assert_array_equal(small.get_layer("whiten").get_weights()[0], expected[0])


def test_a_network_of_two_views_learns_on_one(small, photo_like):
    loss = losses.create("orthohash", 8, 2)
    whole = network.make_whole(small, network.make_head(256, 8, 2, loss), TrainConfig(**PLAIN))
    names = [layer.name for layer in network.learning_part(small).layers]
    assert "one_view" in names and "f7" not in names
    assert whole(photo_like)["u"].shape == (64, 8)
    x = photo_like[:2].astype("float32")
    both = np.asarray(network.feature_part(small)(x))
    assert np.abs(np.asarray(network.learning_part(small)(x)) - both).max() > 1e-4


def test_images_are_shifted_by_whole_pixels(photo_like):
    images = photo_like.astype("float32")
    shifted = changed(images, shift=0.2)
    assert (shifted != images).any(axis=(1, 2, 3)).mean() > 0.8
    assert np.isin(shifted, images).all()


def test_a_grey_square_covers_the_part_that_is_asked_for():
    images = np.zeros((32, 64, 64, 3), "float32")
    erased = changed(images, erase=0.25)
    assert set(np.unique(erased)) == {0, 128}
    parts = (erased[..., 0] == 128).mean(axis=(1, 2))
    np.testing.assert_allclose(parts, 0.25, atol=0.02)
    assert len({row.tobytes() for row in erased}) > 16
