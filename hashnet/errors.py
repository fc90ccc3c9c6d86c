"""Every error that HashNet raises on purpose, in one family.

A message has three breaths: the rule, what was received, the way out.
"""

from collections.abc import Iterable

# Known names that an error lists: an index may have a hundred thousand labels.
NAMES_SHOWN = 50


class HashnetError(ValueError):
    """The base of the family: catch this one to catch them all.

    Args:
        rule: str. What must hold, as a sentence.
        received: str or None. What came instead, shown after `Received:`.
        way_out: str or None. What to do about it, as a sentence.

    Example:
        >>> print(HashnetError("A code has bits.", "num_bits=0", "Ask for 1 to 1024 bits."))
        A code has bits. Received: num_bits=0. Ask for 1 to 1024 bits.
    """

    def __init__(self, rule: str, received: str | None = None, way_out: str | None = None) -> None:
        breaths = [rule]
        if received is not None:
            breaths.append(f"Received: {received}.")
        if way_out is not None:
            breaths.append(way_out)
        super().__init__(" ".join(breaths))


class ArgumentError(HashnetError):
    """An argument is outside what the function takes."""


class ShapeError(HashnetError):
    """An array has another dtype or shape than the one it must meet."""


class ImageError(HashnetError):
    """A file is not an image that can be read whole and safely."""


class RegionError(ImageError):
    """A region does not lie inside its image."""


class WeightsError(HashnetError):
    """Weights are missing, damaged, unsafe, or of another architecture."""


class BundleError(HashnetError):
    """A bundle is missing, damaged, or of a newer format."""


class ExportError(HashnetError):
    """An export differs from the network it was made of, or has no place."""


class StoreError(HashnetError):
    """An index folder is missing, damaged, or of a newer format."""


class LockedError(StoreError):
    """Another process is writing to this index."""


class BackendError(StoreError):
    """The database that holds an index is down, too slow, or refuses; nothing was answered."""


class UnknownIdError(HashnetError, KeyError):
    """An index holds no image of this id."""

    __str__ = Exception.__str__  # a KeyError's would put the message in quotes


class SkippedWarning(UserWarning):
    """Some images could not be read; an index was made without them."""


class FingerprintError(HashnetError):
    """An index and an encoder, or two artefacts, do not belong together."""


class UnknownNameError(HashnetError):
    """A name is not among the known ones, which the message lists: the first of them, if many.

    Args:
        kind: str. What the name is of, in words: "backbone".
        name: str. What was given.
        known: iterable of str. All names that would do.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        super().__init__(
            f"There is no {kind} of this name.",
            repr(name),
            f"Known ones: {', '.join(names[:NAMES_SHOWN])}{more}.",
        )
