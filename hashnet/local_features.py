"""Local features: places of an image, each with a descriptor, that geometry can compare."""

import dataclasses

import numpy as np

from hashnet.errors import HashnetError


@dataclasses.dataclass(frozen=True)
class LocalFeatures:
    """The local features of one image, best first.

    Attributes:
        yx: float32 `(m, 2)`, (row, column) in pixels of the original image, where the centre of
            the first pixel is (0, 0).
        descriptors: float32 `(m, d)`, each of length 1.
        scores: float32 `(m,)`, descending; what they mean is the extractor's own.
    """

    yx: np.ndarray
    descriptors: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.yx)


def opencv():
    """The module `cv2`.

    Raises:
        HashnetError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise HashnetError(
            "Local features and their geometry need OpenCV.",
            str(error),
            'Install it: pip install "hashnet[delf]"',
        ) from error
    return cv2
