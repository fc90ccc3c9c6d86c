"""What a search is asked for, besides the image: one description for every way to search."""

import contextlib
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np

from hashnet.checks import checked_integer
from hashnet.errors import ArgumentError, UnknownNameError
from hashnet.retrieval.search.reranking import METHODS

RANKINGS = ("both", "feature")
MATCHERS = ("nearest", "lightglue")
# All of these are compared with each other: their inner products take 32 MB.
MOST_RERANKED = 2000
DEFAULT_TOP = 500

_YEAR_OR_MONTH = re.compile(r"(\d{4})(?:-(\d\d))?")


@dataclass(frozen=True)
class Query:
    """How many hits are wanted, among which images, and what is made of them.

    Checked when it is made. Engine, sharded search, command line, HTTP and evaluation all take
    it, and its defaults are theirs.

    Attributes:
        k: int, 1 or more. Hits wanted.
        threshold: int, 1 or more, or None. The pool holds the images whose code differs from
            the query's in strictly fewer bits.
        pool: int, 1 or more, or None. Instead of a threshold: so many images or more, those
            whose differing bits weigh least (see `ranking`). With neither, what
            `engine.default_pool` gives.
        labels: collection of str, or one str, or None. Search only images that have one of
            these labels; None means all images, and no label means none of them.
        ids: collection of str, or None. Search only images of these ids. Ids that the index does
            not know are passed over as long as it knows one of them.
        after, before: datetime, date or str, as "2026", "2026-05", "2026-05-01" or
            "2026-05-01T12:30"; or None. Search only photos that were taken at this moment or
            later, and earlier than that one, by their cameras' clocks.
        under: collection of str, or one str, or None. Search only what lies in one of these
            folders of the index, or below: "photos/2026", as ids begin; or the path of a folder.
        region: (top, left, bottom, right) in pixels of the upright query, or None. Search by
            this part of it.
        right, wrong: collections of str. Ids of images that a person has marked; the query
            moves towards the first and away from the others (see `feedback`), as whole
            images, whatever region of them was found.
        text: str, or None. What hits are to show besides: the query moves towards it (see
            `Engine.meaning`).
        text_weight: float, 0 to 1. How far: at 0 the picture alone is searched by, at 1 the text.
        rank_by: str, one of `RANKINGS`. What the fine stage ranks by: `"both"`, the codes and the
            features together (see `ranking`), or `"feature"`, the features alone.
        rerank: str, one of `reranking.METHODS`, or None. How the first `rerank_top` of the fine
            stage are ranked again, by how they lie to each other. Their distances stay those of
            the fine stage, and those behind stay behind.
        rerank_top: int, 1 to `MOST_RERANKED`.
        rerank_neighbours: int, 1 or more, or None for the method's own. How many of the nearest
            expand the query, smooth an image, or are its neighbours.
        until_unlike: bool. Of the `k` hits, only those that are like the query: none of the grade
            "unlike", but for those that `written` finds.
        histogram: bool. Also count the images at each Hamming distance from the query.
        verify: bool. Compare local features of the query with those of candidates: of the nearest
            images and, where the index has a local pool, of those most similar by signatures of
            local features, one for two. What shows the same thing comes first, by (most inliers,
            distance, row); of the nearest all others follow as they were. With a `threshold`, the
            local pool adds nothing outside it.
        same_object: bool. Instead of that, search the local pool alone: the most similar by
            signatures are candidates, whatever their codes. Those that show the same thing come
            first, by (most inliers, similarity, row), then the others by similarity. In an index
            too small for a local pool (`local_pool.LEAST_IMAGES`) all images are candidates, the
            nearest first.
        written: bool. Also read the text in the query's pixels, and look for images in which the
            same was read, in an index that keeps that (`index --ocr`): `Hit.written` says how much
            of it each has. They are candidates too, and those of which the text, the local
            features where these are compared, or both tell come first: see `written.joined`.
        verify_top: int, 1 or more. How many candidates are compared.
        matcher: str, one of `MATCHERS`. How local features are matched: `"nearest"`, those that are
            each other's nearest; with `"lightglue"` a network then matches those of the
            `matcher_top` first once more, and its word on these counts (see `local.lightglue`).
        matcher_top: int, 1 or more.

    Raises:
        ArgumentError: a field is out of its range, both threshold and pool are given,
            `until_unlike` where features alone rank, `same_object` with a threshold, a pool,
            marks, a text, `verify` or `rerank`, `rerank_neighbours` where nothing is ranked again,
            or a matcher where nothing is verified.
        UnknownNameError: there is no such `rank_by`, `rerank` or `matcher`.

    Example:
        >>> query = Query(k=5, labels="cat")
        >>> query.labels, query.pool
        (('cat',), None)
        >>> Query(k=0)
        Traceback (most recent call last):
        hashnet.errors.ArgumentError: k is an integer, 1 or more. ...
    """

    k: int = 10
    threshold: int | None = None
    pool: int | None = None
    labels: Collection[str] | None = None
    ids: Collection[str] | None = None
    after: datetime | None = None
    before: datetime | None = None
    under: Collection[str] | None = None
    region: tuple[int, int, int, int] | None = None
    right: Collection[str] = ()
    wrong: Collection[str] = ()
    text: str | None = None
    text_weight: float = 0.5
    rank_by: str = "both"
    rerank: str | None = None
    rerank_top: int = DEFAULT_TOP
    rerank_neighbours: int | None = None
    until_unlike: bool = False
    histogram: bool = False
    verify: bool = False
    same_object: bool = False
    written: bool = False
    verify_top: int = 100
    matcher: str = "nearest"
    matcher_top: int = 10

    def __post_init__(self) -> None:
        perhaps = ("threshold", "pool", "rerank_neighbours")
        for name in ("k", *perhaps, "rerank_top", "verify_top", "matcher_top"):
            value = getattr(self, name)
            if value is not None or name not in perhaps:
                self._set(name, checked_integer(value, 1, name))
        if self.threshold is not None and self.pool is not None:
            raise ArgumentError(
                "A pool is set by a threshold or by its size.",
                f"threshold={self.threshold}, pool={self.pool}",
                "Give one of the two.",
            )
        if self.rank_by not in RANKINGS:
            raise UnknownNameError("rank_by", self.rank_by, RANKINGS)
        self._check_rerank()
        if self.matcher not in MATCHERS:
            raise UnknownNameError("matcher", self.matcher, MATCHERS)
        if not isinstance(self.text, str | None):
            raise ArgumentError("text is a str.", repr(self.text)[:100])
        weight = self.text_weight
        if isinstance(weight, bool | str) or not 0 <= _number(weight) <= 1:
            raise ArgumentError("text_weight is a number from 0 to 1.", repr(weight))
        for name in ("until_unlike", "histogram", "verify", "same_object", "written"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ArgumentError(f"{name} is True or False.", repr(getattr(self, name)))
        if self.matcher != "nearest" and not (self.verify or self.same_object):
            raise ArgumentError(
                "A matcher is for local features that are compared.",
                f"matcher={self.matcher!r}, and neither verify nor same_object",
                "Ask for one of the two, too.",
            )
        if self.until_unlike and self.rank_by == "feature":
            raise ArgumentError(
                "Where likeness ends is told by codes and features together.",
                "until_unlike=True, rank_by='feature'",
                "Leave one of the two out.",
            )
        for name in ("labels", "under"):
            if isinstance(value := getattr(self, name), str):
                self._set(name, (value,))
        for name in ("after", "before"):
            if (value := getattr(self, name)) is not None:
                self._set(name, _moment(value, name))
        for name in ("labels", "ids", "under", "right", "wrong"):
            value = getattr(self, name)
            if value is not None or name in ("right", "wrong"):
                self._set(name, _texts(value, name))
        if self.region is not None:
            self._set("region", _box(self.region))
        self._check_same_object()

    def _check_rerank(self) -> None:
        if self.rerank is not None and self.rerank not in list(METHODS):
            raise UnknownNameError("rerank", str(self.rerank), METHODS)
        if self.rerank_top > MOST_RERANKED:
            raise ArgumentError(
                f"At most {MOST_RERANKED} images are ranked again.",
                f"rerank_top={self.rerank_top}",
                "All of them are compared with each other; give fewer.",
            )
        if self.rerank is None and self.rerank_neighbours is not None:
            raise ArgumentError(
                "Neighbours are for a way to rank again.",
                f"rerank_neighbours={self.rerank_neighbours} without rerank",
                f"Give rerank, one of {', '.join(METHODS)}.",
            )

    def _check_same_object(self) -> None:
        """What a search of the local pool has no use for is refused, and not passed over."""
        given = {
            "verify": self.verify,
            "threshold": self.threshold is not None,
            "pool": self.pool is not None,
            "right": bool(self.right),
            "wrong": bool(self.wrong),
            "rerank": self.rerank is not None,
            "text": self.text is not None,
        }
        others = [name for name, is_given in given.items() if is_given]
        if self.same_object and others:
            raise ArgumentError(
                "A search for the same object goes by local features alone, verified.",
                f"same_object=True and {', '.join(others)}",
                "Leave one of them out.",
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _moment(value: Any, name: str) -> datetime:
    """By a clock without a zone, as cameras have them."""
    moment = value
    if isinstance(value, str):
        parts = _YEAR_OR_MONTH.fullmatch(value)
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(f"{parts[1]}-{parts[2] or '01'}-01" if parts else value)
    if isinstance(moment, datetime):
        return moment.replace(tzinfo=None)
    if isinstance(moment, date):
        return datetime(moment.year, moment.month, moment.day)  # noqa: DTZ001
    raise ArgumentError(
        f"{name} is a date, or a time of one.",
        repr(value),
        "Write it as 2026-05-01, 2026-05-01T12:30, 2026-05 or 2026.",
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _texts(value: Any, name: str) -> tuple[str, ...]:
    texts = None if isinstance(value, str | bytes) else _listed(value)
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise ArgumentError(f"{name} is a collection of str.", repr(value), "Give a list of them.")
    return texts


def _box(value: Any) -> tuple[int, int, int, int]:
    edges = _listed(value)
    whole = edges is not None and all(
        isinstance(edge, int | np.integer) and not isinstance(edge, bool) for edge in edges
    )
    if edges is None or not whole or len(edges) != 4:
        raise ArgumentError(
            "A region is four whole numbers: top, left, bottom and right.", repr(value)
        )
    top, left, bottom, right = map(int, edges)
    return top, left, bottom, right


def _listed(value: Any) -> tuple[Any, ...] | None:
    try:
        return tuple(value)
    except TypeError:
        return None
