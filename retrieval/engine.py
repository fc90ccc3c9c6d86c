"""The order of the stages: a code finds a pool, the feature ranks it.

Only this file knows it; everything that searches goes through here.
"""

import functools
import os
import time
from collections.abc import Collection

import numpy as np

from hashnet import images
from hashnet.errors import ArgumentError, RegionError, UnknownIdError, UnknownNameError
from retrieval import feedback
from retrieval.hamming import CodeIndex
from retrieval.hits import Hit, SearchResult
from retrieval.rerank import nearest_features

# The smallest pool that is asked for by default, per hit wanted, and as a part of the index.
POOL = 1000
POOL_PER_HIT = 10
POOL_SHARE = 0.01
# Pairs of duplicates whose features are in memory at one time.
PAIRS_AT_ONCE = 4096


class Engine:
    """Searches one snapshot of an index.

    Args:
        index: a `retrieval.index.Index`.
        num_threads: int. Threads of the coarse and fine stages; answers do not depend on it.

    Example:
        >>> from retrieval.index import Index
        >>> engine = Engine(Index.open(index_folder))
        >>> result = engine.search("cat.png", k=2)
        >>> [(hit.label, hit.bits_apart) for hit in result.hits][0]
        ('cat', 0)
    """

    def __init__(self, index, *, num_threads: int = 1):
        self.index = index
        self.num_threads = num_threads
        self.snapshot = index.store.snapshot()
        self._codes = CodeIndex(
            self.snapshot.codes, live=self.snapshot.live, num_threads=num_threads
        )

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
    ) -> SearchResult:
        """Find the images most like one image.

        Args:
            query: path, bytes, binary file, or uint8 array `(height, width, 3)`.
            k: int, 1 or more. Hits wanted.
            threshold: int or None. The pool holds the images whose code differs from the
                query's in strictly fewer bits.
            pool: int or None. Instead of a threshold: the smallest threshold that gives a pool
                of at least so many images. With neither, 1000, `10 * k` or a hundredth of the
                index, whichever is most.
            label: str, several, or None. Search only images with this label, or one of these.
            ids: collection of str, or None. Search only images of these ids; one that the index
                does not know stands for no image.
            right, wrong: collections of str. Ids of images that a person has marked; the query
                moves towards the first and away from the others (see `retrieval.feedback`).
            histogram: bool. Also count the images at each number of bits apart.
            region: (top, left, bottom, right) in pixels of the upright query, or None. Search
                by this part of it.

        Returns:
            A `SearchResult`; its hits are ordered by (distance, row).

        Raises:
            ImageError: the query cannot be read.
            ArgumentError: an argument is out of range, or both threshold and pool are given.
            UnknownNameError: no image has the label; the message lists those there are.
            UnknownIdError: an image marked right or wrong is not in the index.
        """
        allowed = self._check(k, threshold, pool, label, ids)
        marked = self._marked(right), self._marked(wrong)
        start = time.perf_counter()
        name = os.fsdecode(query) if isinstance(query, str | os.PathLike) else "image"
        if region is not None:
            query = _crop(query, region)
        code, feature = self.index.encoder.encode_one(query)
        encode = time.perf_counter() - start
        return self._search(
            name, code, feature, encode, k, threshold, pool, allowed, marked, histogram
        )

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
        """Find by a code, uint8 `(code_bytes,)`, and a feature, float32 `(feature_dim,)`.

        For the other arguments, the answer and the errors, see `search`.
        """
        allowed = self._check(k, threshold, pool, label, ids)
        marked = self._marked(right), self._marked(wrong)
        return self._search(
            name, code, feature, None, k, threshold, pool, allowed, marked, histogram
        )

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
            >>> from retrieval.index import Index
            >>> [hit.id for hit in Engine(Index.open(index_folder)).search_id("cat").hits]
            ['dog']
        """
        allowed = self._check(k, threshold, pool, label, ids)
        row = self._row(id)
        code, feature = self.snapshot.codes[row], self._verified([row])[0][0]
        marked = self._marked(right), self._marked(wrong)
        return self._search(
            id, code, feature, None, k, threshold, pool, allowed, marked, histogram, without=row
        )

    def path(self, id: str) -> str | None:
        """Where the file of an image of the index lies, if that is known.

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
        """
        for first, second, bits in self._codes.pairs_within(threshold):
            for start in range(0, len(first), PAIRS_AT_ONCE):
                part = slice(start, start + PAIRS_AT_ONCE)
                near, near_items = self._verified(first[part])
                far, far_items = self._verified(second[part])
                distances = np.linalg.norm(near - far, axis=1)
                zeros = np.zeros(len(near), np.int64)
                yield from zip(
                    _hits(near_items, zeros, zeros),
                    _hits(far_items, bits[part], distances),
                    strict=True,
                )

    def _row(self, id):
        [row] = self.snapshot.rows([id])
        if row < 0:
            raise UnknownIdError(
                "A search by id is for an image of the index.",
                repr(id),
                "Ids are what hits show; to search by a file, give its path.",
            )
        return row

    def _check(self, k, threshold, pool, label, ids):
        """Refuse what no search can take; return the mask of allowed rows."""
        if not isinstance(k, int | np.integer) or k < 1:
            raise ArgumentError("k is a whole number, 1 or more.", f"k={k!r}")
        if threshold is not None and pool is not None:
            raise ArgumentError(
                "A pool is set by a threshold or by its size.", f"{threshold=}, {pool=}"
            )
        return self._allowed(label, ids)

    def _allowed(self, label, ids):
        """bool `(num_rows,)`, the rows that pass the filters; None where there are none."""
        allowed = None
        if label is not None:
            wanted = [label] if isinstance(label, str) else list(label)
            codes, names = self._labels
            for name in wanted:
                if name not in names:
                    raise UnknownNameError("label", name, names)
            passes = np.zeros(len(names) + 1, bool)  # the last one is for -1, no label
            passes[[names.index(name) for name in wanted]] = True
            allowed = passes[codes]
        if ids is not None:
            if isinstance(ids, str):
                raise ArgumentError("ids are a collection of str.", repr(ids), "Give [id].")
            rows = self.snapshot.rows(list(ids))
            among = np.zeros(self.snapshot.num_rows, bool)
            among[rows[rows >= 0]] = True
            allowed = among if allowed is None else allowed & among
        return allowed

    @functools.cached_property
    def _labels(self):
        return self.snapshot.labels()

    def _verified(self, rows):
        """Features of some rows, float32, compared with their checksums, and their items."""
        items = self.snapshot.verify_features(rows)
        return self.snapshot.features(rows).astype(np.float32), items

    def _marked(self, ids):
        """Codes and features of the images that a person has marked."""
        if isinstance(ids, str):
            raise ArgumentError("ids are a collection of str.", repr(ids), "Give [id].")
        rows = np.array([self._row(id) for id in ids], np.int64)
        return self.snapshot.codes[rows], self._verified(rows)[0]

    def _search(
        self,
        name,
        code,
        feature,
        encode,
        k,
        threshold,
        pool,
        allowed,
        marked,
        histogram,
        without=None,
    ):
        if threshold is None and pool is None:
            pool = max(POOL, POOL_PER_HIT * k, int(POOL_SHARE * self.snapshot.num_items))
        start = time.perf_counter()
        if any(len(codes) for codes, _ in marked):
            num_bits = self.index.encoder.config.num_bits
            code, feature = feedback.move(code, feature, *marked, num_bits=num_bits)
        counts = None
        if histogram:
            counts = self._codes.histogram(code, allowed=allowed)
            counts = tuple(counts[: self.index.encoder.config.num_bits + 1].tolist())
        rows, bits, threshold = self._codes.pool(
            code, threshold=threshold, at_least=pool, allowed=allowed
        )
        middle = time.perf_counter()
        wanted = k if without is None else k + 1
        best, distances = nearest_features(
            feature, rows, self.snapshot.feature_blocks, wanted, num_threads=self.num_threads
        )
        if without is not None:
            others = best != without
            best, distances = best[others][:k], distances[others][:k]
        items = self.snapshot.verify_features(best)
        hits = _hits(items, bits[np.searchsorted(rows, best)], distances)
        end = time.perf_counter()
        milliseconds = {
            "encode": None if encode is None else round(encode * 1000, 3),
            "coarse": round((middle - start) * 1000, 3),
            "fine": round((end - middle) * 1000, 3),
            "verify": None,
        }
        return SearchResult(name, int(threshold), len(rows), milliseconds, tuple(hits), counts)


def _hits(items, bits, distances):
    return [
        Hit(item.id, item.path, item.label, int(apart), float(distance))
        for item, apart, distance in zip(items, bits, distances, strict=True)
    ]


def _crop(query, region):
    image = query if isinstance(query, np.ndarray) else images.read(query)
    top, left, bottom, right = region
    if not (0 <= top < bottom <= image.shape[0] and 0 <= left < right <= image.shape[1]):
        raise RegionError(
            "A region lies inside the query and has an area.",
            f"(top, left, bottom, right) = {region} in {image.shape[0]} x {image.shape[1]} pixels",
        )
    return np.ascontiguousarray(image[top:bottom, left:right])
