"""The order of the stages: a code finds a pool, the feature ranks it, local features confirm it.

Only this file knows it; everything that searches goes through here.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hashnet import images, threads
from hashnet.checks import checked_integer
from hashnet.errors import ArgumentError, RegionError, UnknownIdError, UnknownNameError
from hashnet.retrieval.search import feedback
from hashnet.retrieval.search import verify as verification
from hashnet.retrieval.search.finder import threshold_of
from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.search.hits import Hit, SearchResult
from hashnet.retrieval.search.query import Query

# The smallest pool that is asked for by default, per hit wanted, and per root of the index's size:
# tests/bench/pool_size.py measures how the pool that holds the nearest grows with the index.
POOL = 1000
POOL_PER_HIT = 10
POOL_PER_ROOT = 5
# Ids that a refusal names.
IDS_SHOWN = 3
# Pairs of duplicates whose features are in memory at one time.
PAIRS_AT_ONCE = 4096


DEFAULT = Query()


@dataclass(frozen=True)
class _Asked:
    """What a query means in one snapshot.

    Attributes:
        allowed: what passes its filters, as the finder takes it.
        marked: codes and features of the images marked right, and of those marked wrong; or None.
        local: function that gives the query's local features, or None where none are wanted.
        without: str or None. The id of the image that is left out of the hits.
    """

    allowed: Any
    marked: tuple | None
    local: Callable | None = None
    without: str | None = None


class Engine:
    """Searches one snapshot of an index.

    Args:
        index: a `Index`.
        num_threads: int or None. Threads of the stages; None means one for each core this process
            may use. Answers do not depend on it.

    Attributes:
        index: as given.
        num_threads: int, as given, or the cores that None stands for.
        snapshot: the `Snapshot`.
        finder: what finds in it; see `hashnet.retrieval.search.finder`.

    Example:
        >>> from hashnet.retrieval.index import Index
        >>> engine = Engine(Index.open(index_folder))
        >>> result = engine.search("cat.png", Query(k=2))
        >>> [(hit.label, hit.bits_apart) for hit in result.hits][0]
        ('cat', 0)
    """

    def __init__(self, index, *, num_threads: int | None = None):
        self.index = index
        self.num_threads = threads.cores() if num_threads is None else num_threads
        self.snapshot = index.store.snapshot()
        self.finder = finder_of(self.snapshot, num_threads=self.num_threads)

    def search(self, image: images.Source | np.ndarray, query: Query = DEFAULT) -> SearchResult:
        """Find the images most like one image.

        Args:
            image: path, bytes, binary file, or uint8 array `(height, width, 3)`.
            query: a `Query`.

        Returns:
            A `SearchResult`; its hits are ordered by (distance, row) where nothing is verified.
            In an index with regions, each image is found once, by its nearest row in the pool.

        Raises:
            ImageError: the image cannot be read, or a `RegionError`: the region lies outside it.
            StoreError: local features are asked for, and the index has none.
            UnknownNameError: no image has one of the labels; the message lists those there are.
            UnknownIdError: an image marked right or wrong is not in the index, or none of `ids`.
        """
        asked = self._asked(query)
        extractor = self.index.extractor if query.verify else None
        start = time.perf_counter()
        name = os.fsdecode(image) if isinstance(image, str | os.PathLike) else "image"
        if query.region is not None:
            image = _crop(image, query.region)
        elif query.verify and hasattr(image, "read"):
            image = bytes(image.read())  # it is read twice
        code, feature = self.index.encoder.encode_one(image)
        encode = time.perf_counter() - start
        if extractor is not None:
            asked = replace(asked, local=lambda: extractor.extract(_read(image)))
        return self._search(name, code, feature, query, asked, encode)

    def search_encoded(
        self, code: np.ndarray, feature: np.ndarray, query: Query = DEFAULT, *, name: str = "code"
    ) -> SearchResult:
        """Find by a code and a feature.

        For the answer and the errors, see `search`.

        Args:
            code: uint8 `(code_bytes,)`.
            feature: float32 `(feature_dim,)`.
            query: a `Query`, but for what is done with a picture: `region` and `verify`.
            name: str. What the answer calls the query.

        Raises:
            ArgumentError: the query has a region, or is to be verified.
        """
        _refuse_region(query)
        if query.verify:
            raise ArgumentError(
                "Local features are compared between pictures.",
                "verify=True for a code and a feature",
                "Search by the image or its id.",
            )
        return self._search(name, code, feature, query, self._asked(query))

    def search_id(self, id: str, query: Query = DEFAULT) -> SearchResult:
        """Find the images most like one that the index holds; nothing is read or encoded again.

        The image itself is in the pool, and left out of the hits.

        Args:
            id: str.
            query: a `Query` without a region.

        Returns:
            A `SearchResult`; `query` is the id. For the other errors, see `search`.

        Raises:
            UnknownIdError: the index holds no image of this id.
            ArgumentError: the query has a region.

        Example:
            >>> from hashnet.retrieval.index import Index
            >>> [hit.id for hit in Engine(Index.open(index_folder)).search_id("cat").hits]
            ['dog']
        """
        _refuse_region(query)
        asked = self._asked(query)
        row = self._row(id)
        asked = replace(asked, without=id)
        if query.verify:
            asked = replace(asked, local=self.snapshot.candidates([row])[0])
        code, feature = self.snapshot.codes[row], self._checked_features([row])[0][0]
        return self._search(id, code, feature, query, asked)

    def match(
        self, query, id: str, *, region: tuple[int, int, int, int] | None = None
    ) -> verification.Verification:
        """Compare the local features of an image with those of one that the index holds.

        Args:
            query: as for `search`.
            id: str.
            region: as for `search`; the query's places are then those of this part.

        Returns:
            A `Verification`: inliers, matched places and the model.

        Raises:
            ImageError: the query cannot be read.
            UnknownIdError: the index holds no image of this id.
            StoreError: the index has no local features.
        """
        [candidate] = self.snapshot.local_features([self._row(id)])
        image = _read(query) if region is None else _crop(query, region)
        features = self.index.extractor.extract(image)
        return self._verify(features, [candidate])[0]

    def match_id(self, query_id: str, id: str) -> verification.Verification:
        """Compare the local features of two images that the index holds; no file is read.

        Args:
            query_id, id: str.

        Returns:
            As for `match`.

        Raises:
            UnknownIdError: the index holds no image of one of these ids.
            StoreError: the index has no local features.
        """
        features = self.snapshot.local_features(self._rows([query_id, id]))
        return self._verify(features[0], features[1:])[0]

    def confirm(self, features, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The last stage by itself: verify rows that the fine stage has ranked.

        Args:
            features: the query's local features, as `verify.verify` takes them.
            rows: int64 `(n,)`, nearest first.

        Returns:
            order: int64 `(n,)`, places in `rows`: those that show the same thing first, by (most
                inliers, place), then the others as they were.
            inliers: int64 `(n,)`, of each row, in the order of `rows`.

        Raises:
            StoreError: the index has no local features, or they are damaged.
        """
        found = self._verify(features, self.snapshot.candidates(rows))
        inliers = np.array([one.inliers for one in found], np.int64)
        counted = np.where(inliers >= self.min_inliers, inliers, 0)
        return np.argsort(-counted, kind="stable"), inliers

    def histogram(self, code: np.ndarray, query: Query = DEFAULT) -> np.ndarray:
        """Count the images at each number of bits from a code.

        Args:
            code: uint8 `(code_bytes,)`.
            query: a `Query`, of which labels and ids count.

        Returns:
            int64 `(8 * code_bytes + 1,)`; element d counts the images d bits apart.

        Example:
            >>> from hashnet.retrieval.index import Index
            >>> engine = Engine(Index.open(index_folder))
            >>> int(engine.histogram(engine.snapshot.codes[0]).sum())
            2
        """
        return self.finder.histogram(code, allowed=self._allowed(query))

    @property
    def min_inliers(self) -> int:
        """int. From so many inliers on, two images show the same thing.

        Raises:
            UnknownNameError: the index has no local features of a known extractor.
        """
        return self._matching.min_inliers

    @property
    def labels(self) -> list:
        """The labels that images of the snapshot have, a list of str."""
        return list(self.finder.labels)

    def path(self, id: str) -> str | None:
        """Where the file of an image of the index lies, if that is known.

        Args:
            id: str.

        Returns:
            str, or None where it is not known.

        Raises:
            UnknownIdError: the index holds no image of this id.
        """
        return self.snapshot.items([self._row(id)])[0].path

    def duplicates(self, threshold: int):
        """Pairs of images whose codes differ in strictly fewer than `threshold` bits.

        Args:
            threshold: int, 1 or more.

        Yields:
            (Hit, Hit) pairs; the first has `bits_apart` and `distance` 0, the second those
            between the two.

        Example:
            >>> from hashnet.retrieval.index import Index
            >>> pairs = Engine(Index.open(index_folder)).duplicates(threshold=33)
            >>> [(first.id, second.id) for first, second in pairs]
            [('cat', 'dog')]
        """
        threshold = checked_integer(threshold, 1, "threshold")
        for first, second, bits in self.finder.pairs_within(threshold):
            for start in range(0, len(first), PAIRS_AT_ONCE):
                part = slice(start, start + PAIRS_AT_ONCE)
                near, near_items = self._checked_features(first[part])
                far, far_items = self._checked_features(second[part])
                distances = np.linalg.norm(near - far, axis=1)
                zeros = np.zeros(len(near), np.int64)
                yield from zip(
                    _hits(near_items, zeros, zeros.astype(float)),
                    _hits(far_items, bits[part], distances),
                    strict=True,
                )

    def _row(self, id):
        return self._rows([id])[0]

    def _rows(self, ids):
        rows = self.snapshot.rows(ids)
        for id, row in zip(ids, rows, strict=True):
            if row < 0:
                raise UnknownIdError(
                    "A search by id is for an image of the index.",
                    repr(id),
                    "Ids are what hits show; to search by a file, give its path.",
                )
        return rows

    def _asked(self, query):
        marked = None
        if query.right or query.wrong:
            marked = self._marked(query.right), self._marked(query.wrong)
        return _Asked(self._allowed(query), marked)

    def _allowed(self, query):
        """What passes the filters, as the finder takes it."""
        known = self.finder.labels if query.labels else []
        for name in query.labels or ():
            if name not in known:
                raise UnknownNameError("label", name, known)
        return self.finder.allowed(query.labels, query.ids)

    def _refuse_unknown(self, ids):
        """Where nothing was found among some ids, say so if there are no such images."""
        if ids and (self.snapshot.rows(ids) < 0).all():
            more = f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else ""
            raise UnknownIdError(
                "A search among ids needs one that the index holds.",
                ", ".join(map(repr, ids[:IDS_SHOWN])) + more,
                "Ids are what hits show.",
            )

    def _checked_features(self, rows):
        """Features of some rows, float32, compared with their checksums, and their items."""
        items = self.snapshot.verify_features(rows)
        return self.snapshot.features(rows).astype(np.float32), items

    def _marked(self, ids):
        """Codes and features of the images that a person has marked."""
        rows = self._rows(ids)
        return self.snapshot.codes[rows], self._checked_features(rows)[0]

    def _search(self, name, code, feature, query, asked, encode=None):
        """Coarse, fine and, where the query's local features can be had, verification."""
        k = max(query.k, query.verify_top) if asked.local else query.k
        threshold, pool = query.threshold, least_pool(query, self.snapshot.num_items)
        num_bits = self.index.store.num_bits
        if asked.marked:
            code, feature = feedback.move(code, feature, *asked.marked, num_bits=num_bits)
        counts = None
        if query.histogram:
            counts = self.finder.histogram(code, allowed=asked.allowed)
            if threshold is None:  # it need not be counted a second time
                threshold, pool = threshold_of(counts, pool), None
            counts = tuple(counts[: num_bits + 1].tolist())
        found = self.finder.find(
            code,
            feature,
            k if asked.without is None else k + 1,
            threshold=threshold,
            at_least=pool,
            allowed=asked.allowed,
        )
        if not found.pool:
            self._refuse_unknown(query.ids)
        hits = _hits(found.items, found.bits, found.distances, found.regions)
        if asked.without is not None:
            hits = [hit for hit in hits if hit.id != asked.without][:k]
        milliseconds = {
            "encode": None if encode is None else round(encode * 1000, 3),
            "coarse": round(found.coarse_seconds * 1000, 3),
            "fine": round(found.fine_seconds * 1000, 3),
            "verify": None,
        }
        if asked.local:
            start = time.perf_counter()
            hits = self._verified_first(hits, asked.local(), query.verify_top)[: query.k]
            milliseconds["verify"] = round((time.perf_counter() - start) * 1000, 3)
        return SearchResult(name, found.threshold, found.pool, milliseconds, tuple(hits), counts)

    def _verified_first(self, hits, local, top):
        """`hits`, of which those that the query's local features confirm come first."""
        order, inliers = self.confirm(local, self.snapshot.rows([hit.id for hit in hits[:top]]))
        first = [hits[place]._replace(inliers=int(inliers[place])) for place in order]
        return first + hits[top:]

    def _verify(self, features, candidates):
        return verification.verify_all(
            features, candidates, self._matching, num_threads=self.num_threads
        )

    @property
    def _matching(self):
        extractor = self.index.store.extractor
        if extractor not in verification.MATCHING:
            raise UnknownNameError("extractor of local features", extractor, verification.MATCHING)
        return verification.MATCHING[extractor]


def _refuse_region(query):
    if query.region is not None:
        raise ArgumentError(
            "A region is cut out of a picture.",
            f"region={query.region}, and no picture",
            "Search by the image itself, or without a region.",
        )


def _read(query):
    return query if isinstance(query, np.ndarray) else images.read(query)


def default_pool(k: int, num_items: int) -> int:
    """The smallest pool where neither threshold nor pool is asked for.

    1000, ten for each hit, or five times the square root of the index, whichever is most. Of the
    ten nearest of up to 50,000 images, codes of 128 bits without labels keep 98.7 % in it, and
    the pool that holds 99 % grows a little faster than the root (tests/bench/pool_size.py).

    Args:
        k: int, hits that are wanted.
        num_items: int, images of the index.

    Returns:
        int, images.

    Example:
        >>> default_pool(10, 50), default_pool(500, 50), default_pool(10, 1_000_000)
        (1000, 5000, 5000)
    """
    return max(POOL, POOL_PER_HIT * k, POOL_PER_ROOT * math.isqrt(num_items))


def least_pool(query: Query, num_items: int) -> int | None:
    """The least size of the pool that a query asks for; None where a threshold sets its pool.

    Args:
        query: a `Query`.
        num_items: int, images of the index.

    Returns:
        int or None.

    Example:
        >>> [least_pool(query, 50) for query in (Query(), Query(pool=7), Query(threshold=3))]
        [1000, 7, None]
    """
    if query.threshold is not None or query.pool is not None:
        return query.pool
    return default_pool(max(query.k, query.verify_top) if query.verify else query.k, num_items)


def _hits(items, bits, distances, regions=None):
    regions = regions or [None] * len(items)
    return [
        Hit(item.id, item.path, item.label, apart, distance, None, region)
        for item, apart, distance, region in zip(
            items, bits.tolist(), distances.tolist(), regions, strict=True
        )
    ]


def _crop(query, region):
    image = _read(query)
    top, left, bottom, right = region
    if not (0 <= top < bottom <= image.shape[0] and 0 <= left < right <= image.shape[1]):
        raise RegionError(
            "A region lies inside the query and has an area.",
            f"(top, left, bottom, right) = {region} in {image.shape[0]} x {image.shape[1]} pixels",
        )
    return np.ascontiguousarray(image[top:bottom, left:right])
