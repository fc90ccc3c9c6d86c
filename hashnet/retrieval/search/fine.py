"""Rank the rows of a pool by the exact Euclidean distance of their features.

A distance is defined to the last bit: differences and squares in float64, square i added to
running sum i mod 64 in the order of i, and the 64 sums halved pairwise. NumPy and the compiled
kernel both compute just that, so path, thread count and pool never change an answer.

About a mean, the directions of features from there are compared: differences from the mean,
times one over the root of their sum of squares. All of it in float64 and in the same order.

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
# What a kernel takes where there is no mean, or nothing to add.
_NONE = np.empty(0)


def nearest_features(
    query: np.ndarray,
    rows: np.ndarray,
    features: np.ndarray,
    k: int,
    *,
    mean: np.ndarray | None = None,
    added: np.ndarray | None = None,
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
        mean: float32 or float64 `(feature_dim,)`, finite, or None. Distances are those of the
            directions in which the features lie from there, 0 to 2. What lies just there has no
            direction: it is 1 from all that has one.
        added: float64 `(p,)`, 0 or more, or None. What is added to the square of each row's
            distance.
        num_threads: int. The most threads at one time; the answer does not depend on it.

    Returns:
        rows int64 `(min(k, p),)` and their Euclidean distances float64, sorted by distance and
        then by row.

    Raises:
        ArgumentError: `k` is not 1 or more, the query or the mean is not finite, the rows do not
            ascend, or `features` has no such row.
        ShapeError: the query, the mean, `added` or `features` has another dtype or shape.

    Example:
        >>> import numpy as np
        >>> features = np.array([[0, 0], [3, 4], [0, 1], [3, 4]], np.float32)
        >>> rows, distances = nearest_features(
        ...     np.zeros(2, np.float32), np.array([1, 2, 3]), features, k=2
        ... )
        >>> rows.tolist(), distances.tolist()
        ([2, 1], [1.0, 5.0])
        >>> rows, distances = nearest_features(
        ...     np.ones(2, np.float32), np.arange(3), features, k=2, mean=np.zeros(2)
        ... )
        >>> rows.tolist(), distances.round(3).tolist()
        ([1, 2], [0.142, 0.765])
    """
    query = _checked_query(query)
    features = _checked_features(features, len(query))
    rows = _checked_rows(rows, len(features))
    k = checked_integer(k, 1, "k")
    if mean is not None:
        mean = _checked_query(mean)
        if len(mean) != len(query):
            raise ShapeError("A mean is as long as the features.", described(mean))
        query = directions(query[None], mean)[0]
    if added is not None and (added.dtype != np.float64 or added.shape != rows.shape):
        raise ShapeError("What is added is float64, one number a row.", described(added))
    kernels = compiled.kernels(len(rows) * len(query) * NUMPY_COST * 4)
    if kernels is None:
        squared = _square_distances(query, features, rows, mean, num_threads)
        if added is not None:
            squared += added
    else:
        rows, squared = _perhaps_nearest(
            kernels, query, features, rows, k, mean, added, num_threads
        )
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
    mean: np.ndarray | None,
    added: np.ndarray | None,
    num_threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that may be among the `k` nearest, ascending, and their squared distances."""
    if features.dtype == np.float16:
        features = features.view(np.uint16)
    features, query, rows, mean, added = (
        read_only(_NONE if one is None else one) for one in (features, query, rows, mean, added)
    )
    parts = threads.in_parts(
        lambda first, last: kernels.perhaps_nearest(
            features, query, mean, added, rows, k, first, last
        ),
        len(rows),
        num_threads,
        LEAST_VALUES_A_THREAD // len(query) + 1,
    )
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _square_distances(
    query: np.ndarray,
    features: np.ndarray,
    rows: np.ndarray,
    mean: np.ndarray | None,
    num_threads: int,
) -> np.ndarray:
    squared = np.empty(len(rows))
    step = max(1, CHUNK_VALUES // len(query))

    def fill(first: int, last: int) -> None:
        for start in range(first, last, step):
            chosen = slice(start, min(start + step, last))
            chunk = features[rows[chosen]].astype(np.float64)
            if mean is not None:
                chunk = directions(chunk, mean)
            squared[chosen] = _squared_in_numpy(chunk - query)

    threads.in_parts(fill, len(rows), num_threads, LEAST_VALUES_A_THREAD // len(query) + 1)
    return squared


def directions(chunk: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """In which directions some features lie from a mean.

    Args:
        chunk: float64 `(m, feature_dim)`.
        mean: float64 `(feature_dim,)`.

    Returns:
        float64 `(m, feature_dim)`, each of length 1; of length 0 for what lies just there.

    Example:
        >>> directions(np.array([[3.0, 4.0], [0.0, 0.0]]), np.zeros(2)).tolist()
        [[0.6000000000000001, 0.8], [0.0, 0.0]]
    """
    chunk = chunk - mean
    squared = _squared_in_numpy(chunk)
    inverse = np.divide(1.0, np.sqrt(squared), out=np.zeros(len(chunk)), where=squared > 0)
    chunk *= inverse[:, None]
    return chunk


def _squared_in_numpy(chunk: np.ndarray) -> np.ndarray:
    """The sums of squares of some vectors, float64 `(m, feature_dim)`."""
    squares = np.square(chunk)
    whole = squares.shape[1] // NUM_SUMS * NUM_SUMS
    # Along an axis that is not the last, NumPy adds one after another, in order.
    sums = squares[:, :whole].reshape(len(squares), whole // NUM_SUMS, NUM_SUMS).sum(axis=1)
    sums[:, : squares.shape[1] - whole] += squares[:, whole:]
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
