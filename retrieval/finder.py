"""The seam between the engine and what holds an index: a *finder* finds in one snapshot.

The engine knows the order of the stages and what an answer looks like; a finder knows how codes
are compared and features ranked where they lie. `LocalFinder` searches arrays and memory maps;
`retrieval.clickhouse` asks a database. Every finder has these attributes and methods, and all
give the same answers (tests/test_contracts.py).
"""

import functools
import time
from dataclasses import dataclass

import numpy as np

from retrieval.hamming import CodeIndex, checked_integer
from retrieval.rerank import nearest_features


@dataclass(frozen=True)
class Found:
    """What a finder answers.

    Attributes:
        rows: int64 `(m,)`, ordered by (distance, row); each of another image.
        items: list of m `retrieval.store.Item`.
        bits: int `(m,)`, bits apart.
        distances: float64 `(m,)`.
        threshold: int. Of the pool.
        pool: int. Images in the pool.
        coarse_seconds, fine_seconds: float.
        regions: list of m (top, left, bottom, right), None for a whole image; or None, where
            the index has no regions.
    """

    rows: np.ndarray
    items: list
    bits: np.ndarray
    distances: np.ndarray
    threshold: int
    pool: int
    coarse_seconds: float
    fine_seconds: float
    regions: list | None = None


class LocalFinder:
    """Finds in a snapshot of an index folder.

    Where images have regions, the pool is of rows, whole images and regions alike, and an image
    is found once, by its row in the pool that is nearest. Filters are for images and all of
    their regions.

    Args:
        snapshot: a `retrieval.store.Snapshot`.
        num_threads: int. Threads of the coarse and fine stages; answers do not depend on it.
    """

    def __init__(self, snapshot, num_threads):
        self._snapshot = snapshot
        self._num_threads = num_threads
        self._codes = CodeIndex(snapshot.codes, live=snapshot.kept, num_threads=num_threads)
        self._owners, self._most_rows = snapshot.owners, 1
        if self._owners is not None and len(self._owners):
            firsts = np.flatnonzero(np.diff(self._owners, prepend=-1))
            self._most_rows = int(np.diff(firsts, append=len(self._owners)).max())

    @property
    def labels(self):
        """list of str, the labels that images have."""
        return self._labels[1]

    def allowed(self, labels, ids):
        """What passes the filters, for the methods below; None where there are none.

        Args:
            labels: list of known labels, or None.
            ids: list of str, or None; an unknown one stands for no image.
        """
        allowed = None
        if labels is not None:
            codes, names = self._labels
            passes = np.zeros(len(names) + 1, bool)  # the last one is for -1, no label
            passes[[names.index(name) for name in labels]] = True
            allowed = passes[codes]
        if ids is not None:
            rows = self._snapshot.rows(ids)
            among = np.zeros(self._snapshot.num_rows, bool)
            among[rows[rows >= 0]] = True
            allowed = among if allowed is None else allowed & among
        if allowed is not None and self._owners is not None:
            allowed = allowed[self._owners]
        return allowed

    def histogram(self, code, *, allowed=None):
        """int64 `(8 * code_bytes + 1,)`: how many images lie at each number of bits.

        With regions, an image lies where its nearest row does.
        """
        if self._owners is None:
            return self._codes.histogram(code, allowed=allowed)
        num_bits = 8 * self._codes.code_bytes
        rows, bits = self._codes.within(code, num_bits + 1, allowed=allowed)
        return np.bincount(self._least_bits(rows, bits), minlength=num_bits + 1)

    def find(self, code, feature, k, *, threshold=None, at_least=None, allowed=None):
        """The `k` images of the pool whose features lie nearest.

        Args:
            code: uint8 `(code_bytes,)`.
            feature: float32 `(feature_dim,)`.
            k: int, 1 or more.
            threshold, at_least: as for `retrieval.hamming.CodeIndex.pool`, of images.
            allowed: from `allowed`.

        Returns:
            A `Found`.
        """
        start = time.perf_counter()
        rows, bits, threshold, pool = self._pool(code, threshold, at_least, allowed)
        middle = time.perf_counter()
        best, distances = nearest_features(
            feature,
            rows,
            self._snapshot.feature_blocks,
            k * self._most_rows,  # among so many rows there are k images
            num_threads=self._num_threads,
        )
        if self._owners is not None:
            _, firsts = np.unique(self._owners[best], return_index=True)
            firsts = np.sort(firsts)[:k]
            best, distances = best[firsts], distances[firsts]
        items = self._snapshot.verify_features(best)
        end = time.perf_counter()
        return Found(
            best,
            items,
            bits[np.searchsorted(rows, best)],
            distances,
            int(threshold),
            pool,
            middle - start,
            end - middle,
            None if self._owners is None else self._snapshot.regions(best),
        )

    def _pool(self, code, threshold, at_least, allowed):
        """Rows of the pool, their bits apart, the threshold, and how many images they show."""
        if self._owners is None or threshold is not None:
            rows, bits, threshold = self._codes.pool(
                code, threshold=threshold, at_least=at_least, allowed=allowed
            )
            images = len(rows)
            if self._owners is not None:
                images = len(self._least_bits(rows, bits))
            return rows, bits, threshold, images
        at_least = checked_integer(at_least, 1, "at_least")
        # So many rows show enough images, or all there are; perhaps at a threshold too high.
        rows, bits, _ = self._codes.pool(code, at_least=at_least * self._most_rows, allowed=allowed)
        least = np.sort(self._least_bits(rows, bits))
        threshold = int(least[:at_least][-1]) + 1 if len(least) else 0
        near = bits < threshold
        return rows[near], bits[near], threshold, int(np.count_nonzero(least < threshold))

    def _least_bits(self, rows, bits):
        """Bits apart of the nearest row of each image that some rows, ascending, show."""
        if not len(rows):
            return bits
        firsts = np.flatnonzero(np.diff(self._owners[rows], prepend=-1))
        return np.minimum.reduceat(bits, firsts)

    def pairs_within(self, threshold):
        """See `retrieval.hamming.CodeIndex.pairs_within`; of whole images."""
        return self._whole_codes.pairs_within(threshold)

    @functools.cached_property
    def _whole_codes(self):
        if self._owners is None:
            return self._codes
        snapshot = self._snapshot
        return CodeIndex(snapshot.codes, live=snapshot.live, num_threads=self._num_threads)

    @functools.cached_property
    def _labels(self):
        return self._snapshot.labels()
