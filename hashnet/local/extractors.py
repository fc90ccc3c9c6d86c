"""The extractors of local features, by name.

A global feature says what an image is like; local features say which parts of two images are the
same thing. Five extractors give them, with one contract: `sift`, which is computed as it was
thought out; `delf`, from the map of the index's own network; and `aliked`, `disk` and `xfeat`,
networks that learned where to look and what to say there. Several of them, named with commas
between, are one extractor, too: see `several`.
"""

import os

from hashnet.checks import described
from hashnet.errors import ArgumentError, UnknownNameError
from hashnet.local.features import Extractor

NAMES = ("aliked", "delf", "disk", "sift", "xfeat")
# Stands for extractors that are chosen by `chosen`.
AUTO = "auto"


def names_of(local: str | None) -> tuple[str, ...]:
    """The extractors that one name of local features stands for.

    Args:
        local: str, one of `NAMES` or several with commas between, in any order; or None.

    Returns:
        tuple of str, in the order of `NAMES`, each once; empty for None.

    Raises:
        ArgumentError: it is no str.
        UnknownNameError: one of them is no extractor.

    Example:
        >>> names_of("sift"), names_of("sift, delf"), names_of(None)
        (('sift',), ('delf', 'sift'), ())
    """
    if local is None:
        return ()
    if not isinstance(local, str):
        raise ArgumentError(
            "local is a str: the name of an extractor, or several with commas between.",
            described(local),
            'Write "sift" or "sift,aliked".',
        )
    names = {name.strip() for name in local.split(",")}
    for name in sorted(names.difference(NAMES)):
        raise UnknownNameError("extractor of local features", name, NAMES)
    return tuple(name for name in NAMES if name in names)


def chosen() -> str:
    """The extractors that serve whatever photos there are, of those that can be had here.

    Which of them finds most is told by what will be asked, and photos do not show that: prints are
    found by SIFT, scenes and things in the round by networks. So these are two, one of each kind
    (tests/bench/several.py): SIFT and ALIKED, or DELF where ALIKED's weights are not installed.

    Returns:
        str, as `names_of` takes it.

    Example:
        >>> "sift" in chosen().split(",")
        True
    """
    from hashnet.local import learned

    return "aliked,sift" if learned.NETWORKS["aliked"].package.is_installed else "delf,sift"


def files_of(local: str | None) -> dict[str, str]:
    """What the networks of extractors are called in an index.

    Args:
        local: as for `names_of`.

    Returns:
        dict of an extractor that has a network to its file.

    Raises:
        UnknownNameError: as for `names_of`.

    Example:
        >>> files_of("delf"), files_of("sift"), files_of("sift,xfeat")
        ({'delf': 'delf.onnx'}, {}, {'xfeat': 'xfeat.onnx'})
    """
    return {name: f"{name}.onnx" for name in names_of(local) if name != "sift"}


def open(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    encoder: str | os.PathLike[str] | None = None,
) -> Extractor:
    """Open an extractor of local features by name.

    Args:
        name: str, one of `NAMES`, or several with commas between.
        folder: str, path-like or None. Where the networks lie, for those that have such: see
            `files_of`.
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
    names = names_of(name)
    if len(names) > 1:
        from hashnet.local.several import Several

        return Several([open(one, folder, encoder=encoder) for one in names])
    [name] = names
    if name == "sift":
        from hashnet.local.sift import Sift

        return Sift()
    path = os.path.join(folder or "", f"{name}.onnx")
    if name == "delf":
        from hashnet.local import delf

        return delf.Delf.open(path, encoder=encoder)
    from hashnet.local import learned

    return learned.Learned.open(name, path)
