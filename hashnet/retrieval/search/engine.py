"""The order of the stages: a code finds a pool, the feature ranks it, local features confirm it.

Only this file knows it; everything that searches goes through here.
"""

import math
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from hashnet import images, threads
from hashnet.errors import ArgumentError, RegionError, UnknownIdError, UnknownNameError
from hashnet.retrieval.search import feedback
from hashnet.retrieval.search import verify as verification
from hashnet.retrieval.search.finder import threshold_of
from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.search.hits import Hit, SearchResult

# The smallest pool that is asked for by default, per hit wanted, and per root of the index's size:
# tests/bench/pool_size.py measures how the pool that holds the nearest grows with the index.
POOL = 1000
POOL_PER_HIT = 10
POOL_PER_ROOT = 5
# Pairs of duplicates whose features are in memory at one time.
PAIRS_AT_ONCE = 4096
# Hits that local features are asked about, from the nearest on.
VERIFY_TOP = 100


@dataclass(frozen=True)
class _Wanted:
    """What a search is to give, checked; `local` gives the query's local features, if wanted."""

    k: int
    threshold: int | None
    pool: int | None
    allowed: object
    marked: tuple | None
    histogram: bool
    verify_top: int
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
        >>> result = engine.search("cat.png", k=2)
        >>> [(hit.label, hit.bits_apart) for hit in result.hits][0]
        ('cat', 0)
    """

    def __init__(self, index, *, num_threads: int | None = None):
        self.index = index
        self.num_threads = threads.cores() if num_threads is None else num_threads
        self.snapshot = index.store.snapshot()
        self.finder = finder_of(self.snapshot, num_threads=self.num_threads)

    def search(
        self,
        query,
        *,
        k: int = 10,
        threshold: int | None = None,
        pool: int | None = None,
        label: str | Collection[str] | None = None,
        ids: Collection[str] | None = None,
        right: Collection[str] = (),
        wrong: Collection[str] = (),
        histogram: bool = False,
        region: tuple[int, int, int, int] | None = None,
        verify: bool = False,
        verify_top: int = VERIFY_TOP,
    ) -> SearchResult:
        """Find the images most like one image.

        Args:
            query: path, bytes, binary file, or uint8 array `(height, width, 3)`.
            k: int, 1 or more. Hits wanted.
            threshold: int or None. The pool holds the images whose code differs from the
                query's in strictly fewer bits.
            pool: int or None. Instead of a threshold: the smallest threshold that gives a pool
                of at least so many images. With neither, what `default_pool` gives.
            label: str, several, or None. Search only images with this label, or one of these.
            ids: collection of str, or None. Search only images of these ids; one that the index
                does not know stands for no image.
            right, wrong: collections of str. Ids of images that a person has marked; the query
                moves towards the first and away from the others (see `feedback`), as
                whole images, whatever region of them was found.
            histogram: bool. Also count the images at each number of bits apart.
            region: (top, left, bottom, right) in pixels of the upright query, or None. Search
                by this part of it.
            verify: bool. Compare local features of the query with those of the nearest
                images. Those that show the same thing come first, by (most inliers, distance,
                row); all others follow as they were.
            verify_top: int, 1 or more. How many of the nearest are compared; no image is found
                that is not among these, or among the `k` nearest.

        Returns:
            A `SearchResult`; its hits are ordered by (distance, row) where nothing is verified.
            In an index with regions, each image is found once, by its nearest row in the pool.

        Raises:
            ImageError: the query cannot be read.
            StoreError: local features are asked for, and the index has none.
            ArgumentError: an argument is out of range, or both threshold and pool are given.
            UnknownNameError: no image has the label; the message lists those there are.
            UnknownIdError: an image marked right or wrong is not in the index.
        """
        wanted = self._wanted(
            k, threshold, pool, label, ids, right, wrong, histogram, verify_top=verify_top
        )
        extractor = self.index.extractor if verify else None
        start = time.perf_counter()
        name = os.fsdecode(query) if isinstance(query, str | os.PathLike) else "image"
        if region is not None:
            query = _crop(query, region)
        elif verify and hasattr(query, "read"):
            query = bytes(query.read())  # it is read twice
        code, feature = self.index.encoder.encode_one(query)
        encode = time.perf_counter() - start
        if verify:
            wanted = replace(wanted, local=lambda: extractor.extract(_read(query)))
        return self._search(name, code, feature, wanted, encode)

    def search_encoded(
        self,
        code: np.ndarray,
        feature: np.ndarray,
        *,
        name: str = "code",
        k: int = 10,
        threshold: int | None = None,
        pool: int | None = None,
        label: str | Collection[str] | None = None,
        ids: Collection[str] | None = None,
        right: Collection[str] = (),
        wrong: Collection[str] = (),
        histogram: bool = False,
    ) -> SearchResult:
        """Find by a code and a feature.

        For the other arguments, the answer and the errors, see `search`.

        Args:
            code: uint8 `(code_bytes,)`.
            feature: float32 `(feature_dim,)`.
            name: str. What the answer calls the query.
        """
        wanted = self._wanted(k, threshold, pool, label, ids, right, wrong, histogram)
        return self._search(name, code, feature, wanted)

    def search_id(
        self,
        id: str,
        *,
        k: int = 10,
        threshold: int | None = None,
        pool: int | None = None,
        label: str | Collection[str] | None = None,
        ids: Collection[str] | None = None,
        right: Collection[str] = (),
        wrong: Collection[str] = (),
        histogram: bool = False,
        verify: bool = False,
        verify_top: int = VERIFY_TOP,
    ) -> SearchResult:
        """Find the images most like one that the index holds; nothing is read or encoded again.

        The image itself is in the pool, and left out of the hits.

        Args:
            id: str.

        Returns:
            A `SearchResult`; `query` is the id. For the other arguments and errors, see `search`.

        Raises:
            UnknownIdError: the index holds no image of this id.

        Example:
            >>> from hashnet.retrieval.index import Index
            >>> [hit.id for hit in Engine(Index.open(index_folder)).search_id("cat").hits]
            ['dog']
        """
        wanted = self._wanted(
            k, threshold, pool, label, ids, right, wrong, histogram, verify_top=verify_top
        )
        row = self._row(id)
        wanted = replace(wanted, without=id)
        if verify:
            wanted = replace(wanted, local=self.snapshot.candidates([row])[0])
        code, feature = self.snapshot.codes[row], self._checked_features([row])[0][0]
        return self._search(id, code, feature, wanted)

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

    def histogram(
        self,
        code: np.ndarray,
        *,
        label: str | Collection[str] | None = None,
        ids: Collection[str] | None = None,
    ) -> np.ndarray:
        """Count the images at each number of bits from a code.

        Args:
            code: uint8 `(code_bytes,)`.
            label, ids: as for `search`.

        Returns:
            int64 `(8 * code_bytes + 1,)`; element d counts the images d bits apart.

        Example:
            >>> from hashnet.retrieval.index import Index
            >>> engine = Engine(Index.open(index_folder))
            >>> int(engine.histogram(engine.snapshot.codes[0]).sum())
            2
        """
        return self.finder.histogram(code, allowed=self._allowed(label, ids))

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
            threshold: int.

        Yields:
            (Hit, Hit) pairs; the first has `bits_apart` and `distance` 0, the second those
            between the two.

        Example:
            >>> from hashnet.retrieval.index import Index
            >>> pairs = Engine(Index.open(index_folder)).duplicates(threshold=33)
            >>> [(first.id, second.id) for first, second in pairs]
            [('cat', 'dog')]
        """
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

    def _wanted(
        self, k, threshold, pool, label, ids, right, wrong, histogram, *, verify_top=VERIFY_TOP
    ):
        """Refuse what no search can take."""
        if not isinstance(verify_top, int | np.integer) or verify_top < 1:
            raise ArgumentError("verify_top is a whole number, 1 or more.", f"{verify_top=}")
        if not isinstance(k, int | np.integer) or k < 1:
            raise ArgumentError("k is a whole number, 1 or more.", f"k={k!r}")
        if threshold is not None and pool is not None:
            raise ArgumentError(
                "A pool is set by a threshold or by its size.", f"{threshold=}, {pool=}"
            )
        allowed = self._allowed(label, ids)
        right, wrong = _listed(right), _listed(wrong)
        marked = (self._marked(right), self._marked(wrong)) if right or wrong else None
        return _Wanted(k, threshold, pool, allowed, marked, histogram, verify_top)

    def _allowed(self, label, ids):
        """What passes the filters, as the finder takes it."""
        labels = [label] if isinstance(label, str) else None if label is None else list(label)
        known = self.finder.labels if labels else []
        for name in labels or ():
            if name not in known:
                raise UnknownNameError("label", name, known)
        return self.finder.allowed(labels, None if ids is None else _listed(ids))

    def _checked_features(self, rows):
        """Features of some rows, float32, compared with their checksums, and their items."""
        items = self.snapshot.verify_features(rows)
        return self.snapshot.features(rows).astype(np.float32), items

    def _marked(self, ids):
        """Codes and features of the images that a person has marked."""
        rows = self._rows(ids)
        return self.snapshot.codes[rows], self._checked_features(rows)[0]

    def _search(self, name, code, feature, wanted, encode=None):
        """Coarse, fine and, where the query's local features can be had, verification."""
        k, pool = wanted.k, wanted.pool
        if wanted.local:
            k = max(k, wanted.verify_top)
        if wanted.threshold is None and pool is None:
            pool = default_pool(k, self.snapshot.num_items)
        num_bits = self.index.store.num_bits
        if wanted.marked:
            code, feature = feedback.move(code, feature, *wanted.marked, num_bits=num_bits)
        counts, threshold = None, wanted.threshold
        if wanted.histogram:
            counts = self.finder.histogram(code, allowed=wanted.allowed)
            if threshold is None:  # it need not be counted a second time
                threshold, pool = threshold_of(counts, pool), None
            counts = tuple(counts[: num_bits + 1].tolist())
        found = self.finder.find(
            code,
            feature,
            k if wanted.without is None else k + 1,
            threshold=threshold,
            at_least=pool,
            allowed=wanted.allowed,
        )
        hits = _hits(found.items, found.bits, found.distances, found.regions)
        if wanted.without is not None:
            hits = [hit for hit in hits if hit.id != wanted.without][:k]
        milliseconds = {
            "encode": None if encode is None else round(encode * 1000, 3),
            "coarse": round(found.coarse_seconds * 1000, 3),
            "fine": round(found.fine_seconds * 1000, 3),
            "verify": None,
        }
        if wanted.local:
            start = time.perf_counter()
            hits = self._verified_first(hits, wanted.local(), wanted.verify_top)[: wanted.k]
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


def _listed(ids):
    if isinstance(ids, str):
        raise ArgumentError("ids are a collection of str.", repr(ids), "Give [id].")
    return list(ids)


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
