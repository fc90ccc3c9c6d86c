"""What a search answers. Python, command line and HTTP show these same fields."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from hashnet import extras, images
from hashnet.errors import ImageError
from hashnet.escapes import printable
from hashnet.retrieval.search import notebook
from hashnet.retrieval.search.finder import Found
from hashnet.retrieval.search.grading import Graded
from hashnet.retrieval.search.verify import Verification

if TYPE_CHECKING:
    import pandas

_PRINTED = 10
_KEPT_SIDE = 256  # pixels of the query's picture that goes into a pickle


# A tuple is made in a third of the time of a frozen dataclass, and a search makes many.
class Hit(NamedTuple):
    """One image that was found.

    Attributes:
        id: str. The caller's stable name.
        path: str or None. Where the file is.
        label: str or None.
        bits_apart: int. Differing bits of the two codes (coarse score).
        distance: float. What the fine stage ranks by, 0 for equal images (fine score): see
            `ranking`, or the Euclidean distance of the two features where these alone rank.
        inliers: int or None. Matches that one geometry explains (verification score); None
            where it was not asked for.
        region: (top, left, bottom, right) in pixels of the upright original: the part of the
            image that was found, whose code and feature the scores are of. None for all of it.
        likeness: float or None, 0 to 1: how far its distance stands out from those of the index;
            see `grading`. None where features alone rank, or where too few images tell.
        grade: str or None: "copy", as like as copies are; "alike", which what is verified is at
            the least; or "unlike". None where the likeness is.
        verified_by: str or None. The extractor of the local features that show the same thing;
            its are the inliers. None where none do.
        written: float or None, 0 to 1: how much of what was read in the query was read in this
            image too. None where it was not asked for.
    """

    id: str
    path: str | None
    label: str | None
    bits_apart: int
    distance: float
    inliers: int | None = None
    region: tuple[int, int, int, int] | None = None
    likeness: float | None = None
    grade: str | None = None
    verified_by: str | None = None
    written: float | None = None


@dataclass(frozen=True, repr=False)
class SearchResult(Sequence[Hit]):
    """The answer to one query, a sequence of its hits: `len(result)`, `result[0]`, `result[:3]`.

    Attributes:
        query: str. Path or name of the query.
        threshold: int or None. The pool holds only codes with strictly fewer differing bits; all
            of them where the query gave it. None of a search for the same object, whose pool is
            of images that have local features like the query's.
        pool: int. Number of images in the pool; one with regions is in it where any row is.
        milliseconds: dict of stage (`encode`, `coarse`, `fine`, `verify`, and `rerank` and `read`
            where they were asked for) to float, None for a stage that did not run. Results
            that differ in nothing else are equal.
        hits: tuple of `Hit`, best first.
        histogram: tuple of int or None. Where it was asked for: how many of the images that may
            be found are at Hamming distance 0, 1, ... `num_bits` from the query, by their
            nearest row.
        verifications: tuple of `Verification` or None, one a hit: the places that match, in
            pixels of query and hit; None for a hit that was not compared. None where the search
            did not verify.
        source: the query's image where it is known, for showing it: see `images.Photo`.

    Example:
        >>> hits = (Hit("a", None, "cat", 0, 0.0), Hit("b", None, "dog", 9, 0.7))
        >>> result = SearchResult("a.jpg", 12, 2, {}, hits)
        >>> len(result), result[0].label, [hit.id for hit in result[1:]]
        (2, 'cat', ['b'])
        >>> result
        'a.jpg': 2 hits of a pool of 2 at a Hamming distance below 12
           1    0 bits   0.0000  [cat]  'a'
           2    9 bits   0.7000  [dog]  'b'
    """

    query: str
    threshold: int | None
    pool: int
    milliseconds: dict[str, float | None] = field(compare=False)
    hits: tuple[Hit, ...]
    histogram: tuple[int, ...] | None = None
    verifications: tuple[Verification | None, ...] | None = field(
        default=None, compare=False, repr=False
    )
    source: images.Source | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, place: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[place]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @property
    def pool_in_words(self) -> str:
        """str. Which pool it was, as the command line says."""
        if self.threshold is None:
            return f"local pool of {self.pool}"
        return f"pool of {self.pool} at a Hamming distance below {self.threshold}"

    def to_dict(self) -> dict[str, Any]:
        """dict that JSON can hold, as `hashnet search --json` prints it."""
        # dataclasses.asdict copies every number by itself, which takes as long as the search.
        fields: dict[str, Any] = {
            "query": self.query,
            "threshold": self.threshold,
            "pool": self.pool,
            "milliseconds": self.milliseconds,
            "hits": tuple(hit._asdict() for hit in self.hits),
        }
        if self.histogram is not None:
            fields["histogram"] = self.histogram
        return fields

    def to_pandas(self) -> "pandas.DataFrame":
        """The hits as a table: a row each, best first, with the fields of `Hit` as columns.

        Raises:
            HashnetError: pandas is not installed; the message gives a command that installs it.
        """
        rule = "A table of hits is a DataFrame of pandas."
        table = extras.load("pandas", "pandas", rule)
        return table.DataFrame(list(self.hits), columns=list(Hit._fields))

    def __repr__(self) -> str:
        lines = [f"{self.query!r}: {len(self)} hits of a {self.pool_in_words}"]
        for rank, hit in enumerate(self.hits[:_PRINTED], 1):
            label = "" if hit.label is None else f"  [{printable(hit.label)}]"
            lines.append(f"{ranked_scores(rank, hit)}{label}  {hit.path or hit.id!r}")
        if len(self) > _PRINTED:
            lines.append(f"      and {len(self) - _PRINTED} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows: the query and its hits, with thumbnails."""
        return notebook.of_result(self.query, self.source, self.hits)

    def __getstate__(self) -> dict[str, Any]:
        # Not the whole picture of the query: a small one to show.
        state = dict(vars(self))
        if not isinstance(self.source, str | os.PathLike | None):
            try:
                state["source"] = notebook.thumbnail(self.source, _KEPT_SIDE)
            except ImageError:
                state["source"] = None
        return state


def ranked_scores(rank: int, hit: Hit) -> str:
    """How a line about a hit begins: its rank and its scores, in columns.

    Args:
        rank: int, 1 for the first.
        hit: `Hit`.

    Returns:
        str.

    Example:
        >>> ranked_scores(1, Hit("a", None, None, 3, 0.5, grade="alike"))
        '   1    3 bits   0.5000  alike '
        >>> ranked_scores(1, Hit("a", None, None, 3, 0.5, inliers=41, verified_by="sift"))
        '   1    3 bits   0.5000    41 inliers by sift'
    """
    grade = "" if hit.grade is None else f"  {hit.grade:6}"
    inliers = "" if hit.inliers is None else f"  {hit.inliers:4} inliers"
    by = "" if hit.verified_by is None else f" by {hit.verified_by}"
    written = "" if hit.written is None else f"  {hit.written:4.2f} written"
    return f"{rank:4}  {hit.bits_apart:3} bits  {hit.distance:7.4f}{grade}{inliers}{by}{written}"


def hits_of(
    found: Found,
    places: np.ndarray,
    verifications: Sequence[Verification | None] | None = None,
    graded: Sequence[Graded | None] | None = None,
    written: Sequence[float] | None = None,
) -> Iterator[Hit]:
    """Show some of what a finder has found.

    Args:
        found: a `Found`.
        places: int64 `(n,)`, places in it.
        verifications: n `Verification` or None; or None, where nothing was compared.
        graded: n `Graded` or None; or None, where none is known.
        written: n floats, as `Hit` has them; or None, where it was not asked for.

    Yields:
        n `Hit`.
    """
    regions = found.regions or [None] * len(found.items)
    bits, distances = found.bits[places].tolist(), found.distances[places].tolist()
    compared = verifications or [None] * len(places)
    likenesses = graded or [None] * len(places)
    shares = [None] * len(places) if written is None else written
    for place, apart, distance, one, likeness, share in zip(
        places.tolist(), bits, distances, compared, likenesses, shares, strict=True
    ):
        item, region = found.items[place], regions[place]
        inliers = None if one is None else one.inliers
        how_like, grade = likeness or (None, None)
        by = None if one is None or not one.same else one.extractor
        scores = apart, distance, inliers, region, how_like, grade, by, share
        yield Hit(item.id, item.path, item.label, *scores)
