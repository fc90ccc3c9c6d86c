"""Local features: places of an image, each with a descriptor, that geometry can compare.

A global feature says what an image is like; local features say which parts of two images are the
same thing. Two extractors give them, with one contract: `sift` and `delf`.
"""

import dataclasses
import os
from types import ModuleType
from typing import Protocol

import numpy as np

from hashnet import extras
from hashnet.errors import ShapeError, UnknownNameError

NAMES = ("delf", "sift")
MAX_FEATURES = 1000


@dataclasses.dataclass(frozen=True)
class LocalFeatures:
    """The local features of one image, best first.

    Attributes:
        yx: float32 `(m, 2)`, (row, column) in pixels of the original image, where the centre of
            the first pixel is (0, 0).
        descriptors: float32 `(m, d)`, each of length 1.
        scores: float32 `(m,)`, descending; what they mean is the extractor's own.

    Raises:
        ShapeError: an array has another dtype or shape.

    Example:
        >>> none = np.zeros((0, 2), np.float32)
        >>> len(LocalFeatures(none, np.zeros((0, 40), np.float32), none[:, 0]))
        0
    """

    yx: np.ndarray
    descriptors: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        arrays = (self.yx, self.descriptors, self.scores)
        kinds = [getattr(array, "dtype", None) == np.float32 for array in arrays]
        shapes = [np.shape(array) for array in arrays]
        m = shapes[2][0] if shapes[2] else None
        if not all(kinds) or shapes != [(m, 2), (m, *shapes[1][1:2]), (m,)] or len(shapes[1]) != 2:
            raise ShapeError(
                "Local features are float32 arrays of shapes (m, 2), (m, d) and (m,).",
                ", ".join(f"{getattr(a, 'dtype', type(a))} {np.shape(a)}" for a in arrays),
            )

    def __len__(self) -> int:
        return len(self.yx)


class Extractor(Protocol):
    """What finds the local features of images.

    Attributes:
        name: str, one of `NAMES`.
        descriptor_dim: int.
    """

    name: str
    descriptor_dim: int

    def extract(self, image: np.ndarray) -> LocalFeatures:
        """The features of an image, uint8 `(height, width, 3)`; `MAX_FEATURES` at most."""


def open(name: str, folder: str | os.PathLike[str] | None = None) -> Extractor:
    """Open an extractor of local features by name.

    Args:
        name: `"sift"` or `"delf"`.
        folder: str, path-like or None. Where `delf.onnx` lies, for the one that has a network.

    Returns:
        An `Extractor`.

    Raises:
        UnknownNameError: there is no such extractor.
        HashnetError: what it needs is not installed or not there; the message says what to do.

    Example:
        >>> extractor = open("sift")
        >>> image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        >>> extractor.extract(image).descriptors.shape[1]
        128
    """
    if name == "sift":
        from hashnet.local.sift import Sift

        return Sift()
    if name == "delf":
        from hashnet.local import delf

        return delf.Delf.open(os.path.join(folder or "", delf.FILE))
    raise UnknownNameError("extractor of local features", name, NAMES)


def opencv() -> ModuleType:
    """The module `cv2`.

    Raises:
        HashnetError: OpenCV is not installed.
    """
    return extras.load("cv2", "delf", "Local features and their geometry need OpenCV.")
