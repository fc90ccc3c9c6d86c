"""Pictures of a catalogue, seen as photos see things: on another ground, smaller, in other light.

A catalogue shows a thing alone and evenly lit, mostly on white. Each time that its pictures are
shown, half of them are cut out and set on a photo of the training, so that neither ground nor light
tells the class.
"""

import numpy as np

from hashnet import images

# A pixel is of the ground if no colour is further from the border's than this, and others of the
# ground lead from it to the border.
TOLERANCE = 16
# Without at least so much ground, a picture is no cut-out; with less of the thing, none either.
LEAST_SHARE = 0.05
SMALLEST = 0.6
LIGHT = 0.3


class Views:
    """Images of a training, of which the last are pictures of a catalogue, changed when taken.

    Args:
        pixels: uint8 `(n, side, side, 3)`, RGB.
        count: int, how many of them, the last, are pictures of a catalogue.
        seed: int. With it and the rows that are taken, the change is given.
    """

    def __init__(self, pixels: np.ndarray, count: int, seed: int) -> None:
        self._pixels, self._photos, self._seed = pixels, len(pixels) - count, seed

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        taken = self._pixels[rows]
        random = np.random.default_rng((self._seed, *rows.tolist()))
        for place in np.flatnonzero(rows >= self._photos):
            photo = self._pixels[random.integers(self._photos)]
            taken[place] = changed(taken[place], photo, random)
        return taken


def changed(picture: np.ndarray, photo: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A picture of a catalogue in other light, half of the times smaller and on a photo.

    Args:
        picture: uint8 `(side, side, 3)`, RGB.
        photo: uint8 of the same shape.
        random: `numpy.random.Generator`.

    Returns:
        uint8 of the same shape. Pictures without an even ground stay where they are.

    Example:
        >>> square = np.full((32, 32, 3), 255, "uint8")
        >>> square[8:24, 8:24] = 40
        >>> changed(square, square, np.random.default_rng(0)).shape
        (32, 32, 3)
    """
    ground = ground_of(picture)
    lit = _lit(picture, random)
    if random.random() < 0.5 or not LEAST_SHARE <= ground.mean() <= 1 - LEAST_SHARE:
        return lit
    side = len(picture)
    small = round(side * random.uniform(SMALLEST, 1))
    top, left = random.integers(0, side - small + 1, 2)
    thing = images.resize(lit, (small, small))
    cut = images.resize(np.repeat(~ground[..., None] * np.uint8(255), 3, axis=2), (small, small))
    share = cut / np.float32(255)
    made = photo.copy()
    part = made[top : top + small, left : left + small]
    part[:] = np.round(thing * share + part * (1 - share)).astype(np.uint8)
    return made


def ground_of(picture: np.ndarray) -> np.ndarray:
    """What of a picture is its even ground: like the border, and joined to it.

    Args:
        picture: uint8 `(height, width, 3)`, RGB.

    Returns:
        bool `(height, width)`.

    Example:
        >>> square = np.full((9, 9, 3), 255, "uint8")
        >>> square[2:7, 2:7] = 40
        >>> square[4, 4] = 255  # white within the thing is the thing's
        >>> int(ground_of(square).sum())
        56
    """
    border = np.zeros(picture.shape[:2], bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    colour = np.median(picture[border], axis=0)
    like = (np.abs(picture - colour) <= TOLERANCE).all(axis=2)
    ground, count = border & like, -1
    while (reached := int(ground.sum())) > count:
        count = reached
        grown = ground.copy()
        grown[1:] |= ground[:-1]
        grown[:-1] |= ground[1:]
        grown[:, 1:] |= ground[:, :-1]
        grown[:, :-1] |= ground[:, 1:]
        ground = grown & like
    return ground


def _lit(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The picture in light of another strength, contrast and tint."""
    gain, contrast = random.uniform(1 - LIGHT, 1 + LIGHT, 2)
    tint = random.uniform(1 - LIGHT / 5, 1 + LIGHT / 5, 3)
    mean = picture.mean()
    lit = ((picture - mean) * contrast + mean) * (gain * tint)
    return np.clip(np.round(lit), 0, 255).astype(np.uint8)
