"""Local features: places of an image, each with a descriptor, that geometry can compare."""

import dataclasses
from types import ModuleType
from typing import Protocol

import numpy as np

from hashnet import extras
from hashnet.errors import ShapeError

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
        name: str, as `extractors.NAMES` has it.
        descriptor_dim: int.
    """

    name: str
    descriptor_dim: int

    def extract(self, image: np.ndarray) -> LocalFeatures:
        """Find the local features of an image, `MAX_FEATURES` at most.

        Args:
            image: uint8 `(height, width, 3)`.

        Returns:
            `LocalFeatures`.
        """


def opencv() -> ModuleType:
    """The module `cv2`.

    Raises:
        HashnetError: OpenCV is not installed.
    """
    return extras.load("cv2", "delf", "Local features and their geometry need OpenCV.")
