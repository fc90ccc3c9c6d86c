"""Local features of several extractors as one set, which an index keeps like those of one.

Descriptors are filled up with zeros to the longest, and one more number tells whose each is. It
puts the extractors so far apart that visual words are of one each, and with them the inverted
lists: the local pool of such an index has that of every extractor in it. Whoever compares two
images takes the sets apart again, with `split`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from hashnet.local.features import Extractor, LocalFeatures

# Between the numbers of two extractors. Descriptors of length 1 are at most 2 apart.
STEP = 4.0
# Numbers in a descriptor of each extractor; DELF's depend on its training, and zeros behind them
# change no product.
SIZES = {"aliked": 128, "disk": 128, "sift": 128, "xfeat": 64}


class Described(Protocol):
    """Local features of one image, such as `LocalFeatures`."""

    @property
    def yx(self) -> np.ndarray:
        """float32 `(m, 2)`, (row, column) in pixels of the image."""

    @property
    def descriptors(self) -> np.ndarray:
        """float32 or float16 `(m, d)`."""


class Part(NamedTuple):
    """The local features of one extractor among those of several.

    Attributes:
        yx: float32 `(m, 2)`, (row, column) in pixels of the image.
        descriptors: float32 or float16 `(m, d)`, each of length 1.
    """

    yx: np.ndarray
    descriptors: np.ndarray


class Several:
    """Extracts the local features of several extractors.

    Args:
        extractors: sequence of `Extractor`, in the order of their names.

    Attributes:
        name: str, their names with commas between.
        descriptor_dim: int.

    Example:
        >>> from hashnet.local.sift import Sift
        >>> image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        >>> both = Several([Sift(), Sift()]).extract(image)
        >>> parts = split(both, ["sift", "sift"])
        >>> both.descriptors.shape[1], len(both) == 2 * len(parts[0].yx)
        (129, True)
    """

    def __init__(self, extractors: Sequence[Extractor]) -> None:
        self._extractors = extractors
        self.name = ",".join(one.name for one in extractors)
        self.descriptor_dim = 1 + max(one.descriptor_dim for one in extractors)

    def extract(self, image: np.ndarray) -> LocalFeatures:
        """Find the local features of an image, `MAX_FEATURES` of each extractor at most.

        Args:
            image: uint8 `(height, width, 3)`.

        Returns:
            `LocalFeatures`, those of one extractor after those of another.
        """
        found = [one.extract(image) for one in self._extractors]
        return joined(found, self.descriptor_dim)


def joined(found: Sequence[LocalFeatures], descriptor_dim: int) -> LocalFeatures:
    """One set of the local features of several extractors.

    Args:
        found: sequence of `LocalFeatures` of one image, one of each extractor.
        descriptor_dim: int, one more than the longest descriptors have.

    Returns:
        `LocalFeatures`, of descriptors that have a length of 1 but for their last number.
    """
    descriptors = np.zeros((sum(map(len, found)), descriptor_dim), np.float32)
    start = 0
    for number, one in enumerate(found):
        rows = slice(start, start + len(one))
        descriptors[rows, : one.descriptors.shape[1]] = one.descriptors
        descriptors[rows, -1] = number * STEP
        start += len(one)
    return LocalFeatures(
        np.concatenate([one.yx for one in found]),
        descriptors,
        np.concatenate([one.scores for one in found]),
    )


def split(features: Described, names: Sequence[str]) -> list[Part]:
    """The sets that `joined` made one of.

    Args:
        features: local features as `joined` gives them, perhaps stored since.
        names: str, of the extractors, in their order.

    Returns:
        list of `Part`, one for each name.
    """
    of = np.rint(features.descriptors[:, -1] / STEP)
    parts = []
    for number, name in enumerate(names):
        rows = of == number
        size = SIZES.get(name, features.descriptors.shape[1] - 1)
        parts.append(
            Part(
                np.ascontiguousarray(features.yx[rows]),
                np.ascontiguousarray(features.descriptors[rows, :size]),
            )
        )
    return parts
