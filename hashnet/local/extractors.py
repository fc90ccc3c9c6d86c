"""The extractors of local features, by name.

A global feature says what an image is like; local features say which parts of two images are the
same thing. Five extractors give them, with one contract: `sift`, which is computed as it was
thought out; `delf`, from the map of the index's own network; and `aliked`, `disk` and `xfeat`,
networks that learned where to look and what to say there.
"""

import os

from hashnet.errors import UnknownNameError
from hashnet.local.features import Extractor

NAMES = ("aliked", "delf", "disk", "sift", "xfeat")


def file_of(name: str | None) -> str | None:
    """What the network of an extractor is called in an index.

    Args:
        name: str, one of `NAMES`; or None.

    Returns:
        str, or None where there is no network.

    Example:
        >>> file_of("delf"), file_of("sift")
        ('delf.onnx', None)
    """
    return None if name in (None, "sift") else f"{name}.onnx"


def open(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    encoder: str | os.PathLike[str] | None = None,
) -> Extractor:
    """Open an extractor of local features by name.

    Args:
        name: str, one of `NAMES`.
        folder: str, path-like or None. Where the network lies, for one that has such: see
            `file_of`.
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
    if name not in NAMES:
        raise UnknownNameError("extractor of local features", name, NAMES)
    path = os.path.join(folder or "", f"{name}.onnx")
    if name == "delf":
        from hashnet.local import delf

        return delf.Delf.open(path, encoder=encoder)
    from hashnet.local import learned

    return learned.Learned.open(name, path)
