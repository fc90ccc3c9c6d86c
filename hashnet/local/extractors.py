"""The extractors of local features, by name.

A global feature says what an image is like; local features say which parts of two images are the
same thing. Two extractors give them, with one contract: `sift` and `delf`.
"""

import os

from hashnet.errors import UnknownNameError
from hashnet.local.features import Extractor

NAMES = ("delf", "sift")


def open(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    encoder: str | os.PathLike[str] | None = None,
) -> Extractor:
    """Open an extractor of local features by name.

    Args:
        name: `"sift"` or `"delf"`.
        folder: str, path-like or None. Where `delf.onnx` lies, for the one that has a network.
        encoder: str, path-like or None. The bundle's `encoder.onnx`, if not in that folder.

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

        return delf.Delf.open(os.path.join(folder or "", delf.FILE), encoder=encoder)
    raise UnknownNameError("extractor of local features", name, NAMES)
