"""Resizing: the whole of an image, or a part of it, squashed to another size."""

import numpy as np
from PIL import Image

from hashnet.errors import ArgumentError, ShapeError

Box = tuple[float, float, float, float]

# A side is first reduced, by the JPEG decoder or by box averages, to no less than this many times
# the side asked for; the filter does the rest. At 2 the difference cannot be seen.
REDUCING_GAP = 2.0


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Squash the whole image to `size` with antialiased bicubic filtering.

    Args:
        image: uint8 array of shape `(height, width, 3)`.
        size: (height, width), pixels. The aspect ratio is not kept.

    Returns:
        uint8 array of shape `(*size, 3)`, writable.

    Raises:
        ShapeError: if `image` is of another dtype or shape.

    Example:
        >>> resize(np.zeros((4, 6, 3), dtype="uint8"), (2, 3)).shape
        (2, 3, 3)
    """
    height, width = checked_size(size)
    return np.array(resized(to_pillow(image), height, width))


def resized(image: Image.Image, height: int, width: int, box: Box | None = None) -> Image.Image:
    """The part of a Pillow image within the box, or all of it, at another size."""
    if image.size == (width, height) and box is None:
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC, box, REDUCING_GAP)


def checked_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) as integers, or an `ArgumentError`."""
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ArgumentError("A size is (height, width), each 1 or more.", f"size={size!r}")
    return height, width


def to_pillow(image: np.ndarray) -> Image.Image:
    """A uint8 RGB array as a Pillow image, or a `ShapeError`."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ShapeError(
            "An image is a uint8 array of shape (height, width, 3), each side 1 or more.",
            f"{image.dtype} of shape {image.shape}",
        )
    return Image.fromarray(image)
