"""What a search answers. Python, command line and HTTP show these same fields."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hashnet.retrieval.search.finder import Found
from hashnet.retrieval.search.verify import Verification


# A tuple is made in a third of the time of a frozen dataclass, and a search makes many.
class Hit(NamedTuple):
    """One image that was found.

    Attributes:
        id: str. The caller's stable name.
        path: str or None. Where the file is.
        label: str or None.
        bits_apart: int. Differing bits of the two codes (coarse score).
        distance: float. Euclidean distance of the two features (fine score).
        inliers: int or None. Matches that one geometry explains (verification score); None
            where it was not asked for.
        region: (top, left, bottom, right) in pixels of the upright original: the part of the
            image that was found, whose code and feature the scores are of. None for all of it.
    """

    id: str
    path: str | None
    label: str | None
    bits_apart: int
    distance: float
    inliers: int | None = None
    region: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class SearchResult:
    """The answer to one query.

    Attributes:
        query: str. Path or name of the query.
        threshold: int. The pool holds codes with strictly fewer differing bits.
        pool: int. Number of images in the pool; one with regions is in it where any row is.
        milliseconds: dict of stage (`encode`, `coarse`, `fine`, `verify`) to float, None for a
            stage that did not run.
        hits: tuple of `Hit`, best first.
        histogram: tuple of int or None. Where it was asked for: how many of the images that may
            be found are 0, 1, ... `num_bits` bits apart from the query, by their nearest row.
        verifications: tuple of `Verification` or None, one a hit: the places that match, in
            pixels of query and hit; None for a hit that was not compared. None where the search
            did not verify.
    """

    query: str
    threshold: int
    pool: int
    milliseconds: dict[str, float | None]
    hits: tuple[Hit, ...]
    histogram: tuple[int, ...] | None = None
    verifications: tuple[Verification | None, ...] | None = field(
        default=None, compare=False, repr=False
    )

    def to_dict(self) -> dict[str, Any]:
        """dict that JSON can hold, as `hashnet search --json` prints it."""
        # dataclasses.asdict copies every number by itself, which takes as long as the search.
        fields = {
            "query": self.query,
            "threshold": self.threshold,
            "pool": self.pool,
            "milliseconds": self.milliseconds,
            "hits": tuple(hit._asdict() for hit in self.hits),
        }
        if self.histogram is not None:
            fields["histogram"] = self.histogram
        return fields


def hits_of(
    found: Found, places: np.ndarray, verifications: Sequence[Verification | None] | None = None
) -> Iterator[Hit]:
    """Show some of what a finder has found.

    Args:
        found: a `Found`.
        places: int64 `(n,)`, places in it.
        verifications: n `Verification` or None; or None, where nothing was compared.

    Yields:
        n `Hit`.
    """
    regions = found.regions or [None] * len(found.items)
    bits, distances = found.bits[places].tolist(), found.distances[places].tolist()
    compared = verifications or [None] * len(places)
    for place, apart, distance, one in zip(places.tolist(), bits, distances, compared, strict=True):
        item = found.items[place]
        inliers = None if one is None else one.inliers
        yield Hit(item.id, item.path, item.label, apart, distance, inliers, regions[place])
