"""Rank the rows of a pool by the exact Euclidean distance of their features.

A distance is defined to the last bit: differences and squares in float64, square i added to
running sum i mod 64 in the order of i, and the 64 sums halved pairwise. NumPy and the compiled
kernel both compute just that, so path, thread count and pool never change an answer.

Where the pool is some times larger than what is asked for, the compiled kernel reckons in float32
first, which takes a fraction of the time, and to the last bit only where that may matter.
"""

from types import ModuleType

import numpy as np

from hashnet import threads
from hashnet.checks import checked_integer, described
from hashnet.errors import ArgumentError, ShapeError
from hashnet.retrieval.search import compiled
from hashnet.retrieval.search.coarse.scan import read_only

NUM_SUMS = 64
# Gathering and squaring in NumPy costs this many times the reading of as many bytes of codes.
NUMPY_COST = 4
# In float64 these stay in the second cache, where each step finds what the last has written.
CHUNK_VALUES = 1 << 16
LEAST_VALUES_A_THREAD = 1 << 20


def nearest_features(
    query: np.ndarray,
    rows: np.ndarray,
    features: np.ndarray,
    k: int,
    *,
    num_threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` rows whose features lie nearest to the query's, the nearest first.

    The pool's features are read where they lie, in the order of rows, and never gathered into
    an array of their own; memory maps larger than memory serve as well as arrays.

    Args:
        query: float32 or float64 `(feature_dim,)`, finite.
        rows: int64 `(p,)`, ascending. The pool.
        features: float32 or float16 `(n, feature_dim)`, C-contiguous, of all rows.
        k: int, 1 or more. With fewer rows in the pool, all are returned.
        num_threads: int. The most threads at one time; the answer does not depend on it.

    Returns:
        rows int64 `(min(k, p),)` and their Euclidean distances float64, sorted by distance and
        then by row.

    Raises:
        ArgumentError: `k` is not 1 or more, the query is not finite, the rows do not ascend,
            or `features` has no such row.
        ShapeError: the query or `features` has another dtype or shape.

    Example:
        >>> import numpy as np
        >>> features = np.array([[0, 0], [3, 4], [0, 1], [3, 4]], np.float32)
        >>> rows, distances = nearest_features(
        ...     np.zeros(2, np.float32), np.array([1, 2, 3]), features, k=2
        ... )
        >>> rows.tolist(), distances.tolist()
        ([2, 1], [1.0, 5.0])
    """
    query = _checked_query(query)
    features = _checked_features(features, len(query))
    rows = _checked_rows(rows, len(features))
    k = checked_integer(k, 1, "k")
    kernels = compiled.kernels(len(rows) * len(query) * NUMPY_COST * 4)
    if kernels is None:
        squared = _square_distances(query, features, rows, num_threads)
    else:
        rows, squared = _perhaps_nearest(kernels, query, features, rows, k, num_threads)
    if k < len(rows):
        near = np.flatnonzero(~(squared > np.partition(squared, k - 1)[k - 1]))
        rows, squared = rows[near], squared[near]
    order = np.argsort(squared, kind="stable")[:k]
    return rows[order], np.sqrt(squared[order])


def _perhaps_nearest(
    kernels: ModuleType,
    query: np.ndarray,
    features: np.ndarray,
    rows: np.ndarray,
    k: int,
    num_threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that may be among the `k` nearest, ascending, and their squared distances."""
    if features.dtype == np.float16:
        features = features.view(np.uint16)
    features, query, rows = read_only(features), read_only(query), read_only(rows)
    parts = threads.in_parts(
        lambda first, last: kernels.perhaps_nearest(features, query, rows, k, first, last),
        len(rows),
        num_threads,
        LEAST_VALUES_A_THREAD // len(query) + 1,
    )
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _square_distances(
    query: np.ndarray, features: np.ndarray, rows: np.ndarray, num_threads: int
) -> np.ndarray:
    squared = np.empty(len(rows))
    step = max(1, CHUNK_VALUES // len(query))

    def fill(first: int, last: int) -> None:
        for start in range(first, last, step):
            chosen = slice(start, min(start + step, last))
            squared[chosen] = _squared_in_numpy(features[rows[chosen]].astype(np.float64), query)

    threads.in_parts(fill, len(rows), num_threads, LEAST_VALUES_A_THREAD // len(query) + 1)
    return squared


def _squared_in_numpy(chunk: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The squared distances of some features, float64 `(m, feature_dim)`, which are lost."""
    chunk -= query
    np.square(chunk, out=chunk)
    whole = len(query) // NUM_SUMS * NUM_SUMS
    # Along an axis that is not the last, NumPy adds one after another, in order.
    sums = chunk[:, :whole].reshape(len(chunk), -1, NUM_SUMS).sum(axis=1)
    sums[:, : len(query) - whole] += chunk[:, whole:]
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def _checked_query(query: np.ndarray) -> np.ndarray:
    if (
        not isinstance(query, np.ndarray)
        or query.dtype not in (np.float32, np.float64)
        or query.ndim != 1
        or not query.size
    ):
        raise ShapeError(
            "A query's feature is a float32 array of shape (feature_dim,).",
            described(query),
            "Pass one feature, as the encoder returns it.",
        )
    if not np.isfinite(query).all():
        raise ArgumentError(
            "A query's feature is finite.",
            f"{np.count_nonzero(~np.isfinite(query))} of {query.size} values NaN or infinite",
            "Encode the image again, or leave it out.",
        )
    return query.astype(np.float64)


def _checked_rows(rows: np.ndarray, num_rows: int) -> np.ndarray:
    if not isinstance(rows, np.ndarray) or rows.dtype != np.int64 or rows.ndim != 1:
        raise ShapeError(
            "A pool is an int64 array of rows, of shape (p,).",
            described(rows),
            "Pass the rows that the coarse search returned.",
        )
    if (rows[1:] <= rows[:-1]).any():
        raise ArgumentError(
            "The rows of a pool ascend.", "rows out of order or twice", "Pass np.unique(rows)."
        )
    if len(rows) and not 0 <= rows[0] <= rows[-1] < num_rows:
        raise ArgumentError(
            "The rows of a pool are rows of the features.",
            f"rows {rows[0]} to {rows[-1]} of {num_rows}",
            "Pass the features of the index that the pool was drawn from.",
        )
    return rows


def _checked_features(features: np.ndarray, dim: int) -> np.ndarray:
    if (
        not isinstance(features, np.ndarray)
        or features.dtype not in (np.float32, np.float16)
        or features.ndim != 2
        or features.shape[1] != dim
        or not features.flags.c_contiguous
    ):
        raise ShapeError(
            f"Features are a C-contiguous float32 or float16 array of shape (n, {dim}), as wide as"
            " the query.",
            described(features),
            "Search with the encoder that the index was built with.",
        )
    return np.asarray(features)
