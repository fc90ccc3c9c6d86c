"""The order of the stages: a code finds a pool, the feature ranks it.

Only this file knows it; everything that searches goes through here.
"""

import os
import time

import numpy as np

from hashnet import images
from hashnet.errors import ArgumentError, ImageError, UnknownNameError
from retrieval.hamming import CodeIndex
from retrieval.hits import Hit, SearchResult
from retrieval.rerank import nearest_features

# The smallest pool that is asked for by default, per hit wanted, and as a part of the index.
POOL = 1000
POOL_PER_HIT = 10
POOL_SHARE = 0.01


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
        label: str | None = None,
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
            label: str or None. Search only images with this label.
            region: (top, left, bottom, right) in pixels of the upright query, or None. Search
                by this part of it.

        Returns:
            A `SearchResult`; its hits are ordered by (distance, row).

        Raises:
            ImageError: the query cannot be read.
            ArgumentError: an argument is out of range, or both threshold and pool are given.
            UnknownNameError: no image has the label; the message lists those there are.
        """
        allowed = self._check(k, threshold, pool, label)
        start = time.perf_counter()
        name = os.fsdecode(query) if isinstance(query, str | os.PathLike) else "image"
        if region is not None:
            query = _crop(query, region)
        code, feature = self.index.encoder.encode_one(query)
        encode = time.perf_counter() - start
        return self._search(name, code, feature, encode, k, threshold, pool, allowed)

    def search_encoded(
        self,
        code: np.ndarray,
        feature: np.ndarray,
        *,
        name: str = "code",
        k: int = 10,
        threshold: int | None = None,
        pool: int | None = None,
        label: str | None = None,
    ) -> SearchResult:
        """Find by a code, uint8 `(code_bytes,)`, and a feature, float32 `(feature_dim,)`.

        For the other arguments, the answer and the errors, see `search`.
        """
        allowed = self._check(k, threshold, pool, label)
        return self._search(name, code, feature, None, k, threshold, pool, allowed)

    def duplicates(self, threshold: int):
        """Pairs of images whose codes differ in strictly fewer than `threshold` bits.

        Args:
            threshold: int.

        Yields:
            (Hit, Hit) pairs; the first has `bits_apart` and `distance` 0, the second those
            between the two.
        """
        for first, second, bits in self._codes.pairs_within(threshold):
            if not len(first):
                continue
            near = self.snapshot.features(first).astype(np.float32)
            far = self.snapshot.features(second).astype(np.float32)
            distances = np.linalg.norm(near - far, axis=1)
            zeros = np.zeros(len(first), dtype=np.int64)
            yield from zip(
                self._hits(first, zeros, zeros), self._hits(second, bits, distances), strict=True
            )

    def _check(self, k, threshold, pool, label):
        """Refuse what no search can take; return the mask of allowed rows."""
        if not isinstance(k, int | np.integer) or k < 1:
            raise ArgumentError("k is a whole number, 1 or more.", f"k={k!r}")
        if threshold is not None and pool is not None:
            raise ArgumentError(
                "A pool is set by a threshold or by its size.", f"{threshold=}, {pool=}"
            )
        if label is None:
            return None
        codes, names = self.snapshot.labels()
        if label not in names:
            raise UnknownNameError("label", label, names)
        return codes == names.index(label)

    def _search(self, name, code, feature, encode, k, threshold, pool, allowed):
        if threshold is None and pool is None:
            pool = max(POOL, POOL_PER_HIT * k, int(POOL_SHARE * self.snapshot.num_items))
        start = time.perf_counter()
        rows, bits, threshold = self._codes.pool(
            code, threshold=threshold, at_least=pool, allowed=allowed
        )
        middle = time.perf_counter()
        best, distances = nearest_features(
            feature, rows, self.snapshot.feature_blocks, k, num_threads=self.num_threads
        )
        self.snapshot.verify_features(best)
        hits = self._hits(best, bits[np.searchsorted(rows, best)], distances)
        end = time.perf_counter()
        milliseconds = {
            "encode": None if encode is None else round(encode * 1000, 3),
            "coarse": round((middle - start) * 1000, 3),
            "fine": round((end - middle) * 1000, 3),
            "verify": None,
        }
        return SearchResult(name, int(threshold), len(rows), milliseconds, tuple(hits))

    def _hits(self, rows, bits, distances):
        return [
            Hit(item.id, item.path, item.label, int(apart), float(distance))
            for item, apart, distance in zip(
                self.snapshot.items(rows), bits, distances, strict=True
            )
        ]


def _crop(query, region):
    image = query if isinstance(query, np.ndarray) else images.read(query)
    top, left, bottom, right = region
    if not (0 <= top < bottom <= image.shape[0] and 0 <= left < right <= image.shape[1]):
        raise ImageError(
            "A region lies inside the query and has an area.",
            f"(top, left, bottom, right) = {region} in {image.shape[0]} x {image.shape[1]} pixels",
        )
    return np.ascontiguousarray(image[top:bottom, left:right])
