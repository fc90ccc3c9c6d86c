"""What a training changes in the images it sees."""

import numpy as np
import pytest

from hashnet.train.config import TrainConfig
from tests.lazily import Lazily

pytestmark = pytest.mark.keras
network = Lazily("hashnet.train.network")
RNG = np.random.default_rng(0)
PLAIN = {"flip": False, "shift": 0.0, "zoom": 0.0}
IMAGES = RNG.integers(0, 256, (64, 32, 48, 3)).astype("float32")


def seen(images, **settings):
    view = network.RandomView(TrainConfig(**{**PLAIN, **settings}))
    return np.asarray(view(images, training=True))


def test_about_half_of_the_images_are_mirrored_and_all_else_stays():
    views = seen(IMAGES, flip=True)
    as_it_is = (views == IMAGES).all(axis=(1, 2, 3))
    mirrored = (views == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (as_it_is ^ mirrored).all() and 16 < mirrored.sum() < 48


def test_images_are_shifted_by_no_more_than_asked_in_either_direction():
    down, across = np.mgrid[:32, :48].astype("float32")
    images = np.repeat(np.stack([down, across, 0 * down], axis=-1)[None], 200, axis=0)
    views = seen(images, shift=0.1)
    inside = views[:, 8:24, 8:40] - images[:, 8:24, 8:40]
    for channel, most in ((0, 3.2), (1, 4.8)):
        shifts = inside[..., channel]
        assert np.ptp(shifts, axis=(1, 2)).max() < 1e-3  # all pixels of an image alike
        assert np.abs(shifts).max() <= most
        assert shifts.min() < -0.8 * most and shifts.max() > 0.8 * most


def test_an_enlarged_image_shows_a_part_about_its_middle():
    down, across = np.mgrid[:32, :48].astype("float32")
    images = np.repeat(np.stack([down, across, 0 * down], axis=-1)[None], 200, axis=0)
    views = seen(images, zoom=0.3)
    for axis, side in ((1, 32), (2, 48)):
        line = np.moveaxis(views[..., axis - 1], axis, 1)[:, :, 0]
        shown = (line[:, -1] - line[:, 0]) / (side - 1)
        np.testing.assert_allclose(line[:, [0, -1]].mean(axis=1), (side - 1) / 2, atol=1e-3)
        assert 0.7 <= shown.min() < 0.75 and 0.95 < shown.max() <= 1.0


def test_the_seed_decides_the_views_and_each_batch_has_others():
    everything = {"flip": True, "shift": 0.1, "zoom": 0.2}
    np.testing.assert_array_equal(seen(IMAGES, **everything), seen(IMAGES, **everything))
    assert (seen(IMAGES, **everything) != seen(IMAGES, **everything, seed=1)).any()
    view = network.RandomView(TrainConfig(**everything))
    first, second = (np.asarray(view(IMAGES, training=True)) for _ in range(2))
    assert (first != second).any()


def test_images_that_are_encoded_stay_as_they_are():
    view = network.RandomView(TrainConfig())
    np.testing.assert_array_equal(view(IMAGES), IMAGES)
