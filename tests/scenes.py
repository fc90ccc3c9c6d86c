"""Dim photos with one bright thing in each, and a network that proposes bright regions."""

import contextlib
import pathlib
import shutil

import numpy as np
import pytest

from hashnet.local import regions

# Exported once, by tests/golden/make_stubs.py.
BRIGHT = pathlib.Path(__file__).parent / "golden" / "stubs" / "bright_regions.onnx"
COLOURS = [(255, 100, 100), (100, 255, 100), (100, 100, 255), (255, 255, 40)]
PLACES = [(16, 32), (200, 400), (128, 256), (240, 64)]  # top and left of the thing in each scene
SIDE = 64  # of a thing, pixels


def thing(number):
    """A bright object of its own colour and pattern."""
    ys, xs = np.mgrid[0:SIDE, 0:SIDE]
    patterns = [
        (ys // 8 + xs // 8) % 2,
        (ys - 32) ** 2 + (xs - 32) ** 2 < 500,
        xs // 8 % 2,
        (ys + xs) // 24 % 2,
    ]
    coloured = patterns[number % 4][..., None] > 0
    return np.where(coloured, COLOURS[number % 4], 170).astype(np.uint8)


def scene(number, top, left):
    """A dim photo, 320 x 512 pixels, with a thing in it."""
    image = np.random.default_rng(100 + number).integers(0, 40, (320, 512, 3)).astype(np.uint8)
    image[top : top + SIDE, left : left + SIDE] = thing(number)
    return image


@contextlib.contextmanager
def bright_regions():
    """Within it, an index that is created proposes regions by brightness."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "export_for", lambda _, to: shutil.copyfile(BRIGHT, to))
        yield
