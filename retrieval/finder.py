"""The seam between the engine and what holds an index: a *finder* finds in one snapshot.

The engine knows the order of the stages and what an answer looks like; a finder knows how codes
are compared and features ranked where they lie. `LocalFinder` searches arrays and memory maps;
`retrieval.clickhouse` asks a database. Every finder has these attributes and methods, and all
give the same answers (tests/test_contracts.py).
"""

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.hamming import CodeIndex
from retrieval.rerank import nearest_features
from retrieval.store import Item, Snapshot


@dataclass(frozen=True)
class Found:
    """What a finder answers.

    Attributes:
        rows: int64 `(m,)`, ordered by (distance, row).
        items: list of m `retrieval.store.Item`.
        bits: int `(m,)`, bits apart.
        distances: float64 `(m,)`.
        threshold: int. Of the pool.
        pool: int. Images in the pool.
        coarse_seconds, fine_seconds: float.
    """

    rows: np.ndarray
    items: list[Item]
    bits: np.ndarray
    distances: np.ndarray
    threshold: int
    pool: int
    coarse_seconds: float
    fine_seconds: float


class LocalFinder:
    """Finds in a snapshot of an index folder.

    Args:
        snapshot: a `retrieval.store.Snapshot`.
        num_threads: int. Threads of the coarse and fine stages; answers do not depend on it.
    """

    def __init__(self, snapshot: Snapshot, num_threads: int) -> None:
        self._snapshot = snapshot
        self._num_threads = num_threads
        self._codes = CodeIndex(snapshot.codes, live=snapshot.live, num_threads=num_threads)

    @property
    def labels(self) -> list[str]:
        """list of str, the labels that images have."""
        return self._labels[1]

    def allowed(self, labels: Sequence[str] | None, ids: Sequence[str] | None) -> np.ndarray | None:
        """What passes the filters, for the methods below; None where there are none.

        Args:
            labels: list of known labels, or None.
            ids: list of str, or None; an unknown one stands for no image.

        Returns:
            bool `(num_rows,)`, or None.
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
        return allowed

    def histogram(self, code: np.ndarray, *, allowed: np.ndarray | None = None) -> np.ndarray:
        """Count the images at each number of bits from a code.

        Args:
            code: uint8 `(code_bytes,)`.
            allowed: from `allowed`.

        Returns:
            int64 `(8 * code_bytes + 1,)`; element d counts the images d bits apart.
        """
        return self._codes.histogram(code, allowed=allowed)

    def find(
        self,
        code: np.ndarray,
        feature: np.ndarray,
        k: int,
        *,
        threshold: int | None = None,
        at_least: int | None = None,
        allowed: np.ndarray | None = None,
    ) -> Found:
        """The `k` images of the pool whose features lie nearest.

        Args:
            code: uint8 `(code_bytes,)`.
            feature: float32 `(feature_dim,)`.
            k: int, 1 or more.
            threshold, at_least: as for `retrieval.hamming.CodeIndex.pool`.
            allowed: from `allowed`.

        Returns:
            A `Found`.
        """
        start = time.perf_counter()
        rows, bits, threshold = self._codes.pool(
            code, threshold=threshold, at_least=at_least, allowed=allowed
        )
        middle = time.perf_counter()
        best, distances = nearest_features(
            feature, rows, self._snapshot.feature_blocks, k, num_threads=self._num_threads
        )
        items = self._snapshot.verify_features(best)
        end = time.perf_counter()
        bits = bits[np.searchsorted(rows, best)]
        return Found(
            best, items, bits, distances, int(threshold), len(rows), middle - start, end - middle
        )

    def pairs_within(self, threshold: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """See `retrieval.hamming.CodeIndex.pairs_within`."""
        return self._codes.pairs_within(threshold)

    @functools.cached_property
    def _labels(self) -> tuple[np.ndarray, list[str]]:
        return self._snapshot.labels()
