"""From a box of a picture to the letters in it: a level strip, and what a network makes of it.

Graves, Fernández, Gomez, Schmidhuber: *Connectionist Temporal Classification*, ICML 2006: the
network names a letter, or none, for each step along the strip; equal neighbours are one.
"""

import numpy as np

from hashnet import images
from hashnet.ocr.detection import sides_of

STRIP = 48  # pixels, its height
_STEP = 16  # of its width, in pixels
_MOST_WIDTH = 40 * STRIP
_UPRIGHT = 1.5  # a box that is so much higher than wide is of letters that lie on a side


def strip_of(pyramid: list[np.ndarray], box: np.ndarray) -> np.ndarray:
    """What is in a box, level, as the network takes it.

    Args:
        pyramid: list of uint8 `(height, width, 3)`: the picture, and halves of each before.
        box: float64 `(4, 2)`, corners as `detection.boxes_of` gives them, in pixels of the picture.

    Returns:
        float32 `(1, 3, 48, width)`, -1 to 1, blue first, as the network was trained.

    Example:
        >>> picture = np.full((100, 100, 3), 255, np.uint8)
        >>> strip_of([picture], np.array([[10, 10], [10, 58], [34, 58], [34, 10]])).shape
        (1, 3, 48, 96)
    """
    width, height = sides_of(box)
    columns = int(min(max(round(STRIP * width / max(height, 1.0) / _STEP), 1) * _STEP, _MOST_WIDTH))
    level = int(np.clip(np.log2(max(height / STRIP, 1.0)), 0, len(pyramid) - 1))
    picture = pyramid[level]
    across = (np.arange(columns) + 0.5) / columns
    down = (np.arange(STRIP) + 0.5) / STRIP
    places = (
        box[0] + across[None, :, None] * (box[1] - box[0]) + down[:, None, None] * (box[3] - box[0])
    )
    scale = np.divide(picture.shape[:2], pyramid[0].shape[:2])
    strip = _sampled(picture, places * scale - 0.5)
    return np.ascontiguousarray(strip[None, :, :, ::-1].transpose(0, 3, 1, 2) / 127.5 - 1)


def readings(box: np.ndarray) -> list[np.ndarray]:
    """How a box may be read: as it is, or if it is upright from above or from below.

    Args:
        box: float64 `(4, 2)`.

    Returns:
        list of one or two boxes, whose corners begin where the line does.
    """
    width, height = sides_of(box)
    if height < _UPRIGHT * width:
        return [box]
    return [np.roll(box, -1, axis=0), np.roll(box, 1, axis=0)]


def _sampled(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """float32 `(height, width, 3)`: a picture at places between pixels; its edges go on."""
    ends = np.array(picture.shape[:2]) - 1
    places = np.clip(places, 0, ends)
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, ends)
    part = (places - low).astype(np.float32)[..., None]
    (top, left), (bottom, right) = np.moveaxis(low, -1, 0), np.moveaxis(high, -1, 0)
    above = picture[top, left] * (1 - part[..., 1, :]) + picture[top, right] * part[..., 1, :]
    below = picture[bottom, left] * (1 - part[..., 1, :]) + picture[bottom, right] * part[..., 1, :]
    sampled: np.ndarray = above * (1 - part[..., 0, :]) + below * part[..., 0, :]
    return sampled.astype(np.float32)


def pyramid_of(picture: np.ndarray) -> list[np.ndarray]:
    """A picture, and halves of each before.

    Args:
        picture: uint8 `(height, width, 3)`.

    Returns:
        list of uint8 arrays, the smallest with a side of less than twice a strip.
    """
    pyramid = [picture]
    while min(pyramid[-1].shape[:2]) >= 2 * STRIP:
        height, width = pyramid[-1].shape[:2]
        pyramid.append(images.resize(pyramid[-1], (height // 2, width // 2)))
    return pyramid


def decoded(scores: np.ndarray, letters: list[str]) -> tuple[str, float]:
    """The text that a network names, and how sure it is of its letters.

    Args:
        scores: float32 `(steps, len(letters) + 1)`, each step adding up to 1; the first is of none.
        letters: list of str.

    Returns:
        text: str.
        confidence: float, 0 to 1, the mean of its letters; 0 without any.

    Example:
        >>> steps = np.array([[0, 1, 0], [0, 0.6, 0.4], [1, 0, 0], [0, 0.5, 0], [0, 0, 1]], "f4")
        >>> decoded(steps, ["a", "b"])
        ('aab', 0.8333333333333334)
    """
    best = scores.argmax(axis=1)
    starts = (best > 0) & (best != np.concatenate([[0], best[:-1]]))
    named = best[starts].tolist()
    if not named:
        return "", 0.0
    confidence = float(scores[starts, best[starts]].mean(dtype=np.float64))
    return "".join(letters[place - 1] for place in named), confidence
