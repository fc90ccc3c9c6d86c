"""Rank the rows of a pool by the exact Euclidean distance of their features.

A distance is defined to the last bit: differences and squares in float64, square i added to
running sum i mod 64 in the order of i, and the 64 sums halved pairwise. NumPy and the compiled
kernel both compute just that, so path, thread count and pool never change an answer.

Where the pool is some times larger than what is asked for, the compiled kernel reckons in float32
first, which takes a fraction of the time, and only rows that may be among the nearest after all
rounding are reckoned to the last bit.
"""

import math
from collections.abc import Iterable
from types import ModuleType

import numpy as np

from hashnet.errors import ArgumentError, ShapeError
from retrieval import compiled
from retrieval.scan import read_only

NUM_SUMS = 64
# Gathering and squaring in NumPy costs this many times the reading of as many bytes of codes.
NUMPY_COST = 4
CHUNK_VALUES = 1 << 18
LEAST_VALUES_A_THREAD = 1 << 20
# Reckoned in float32 first are pools of so many times the rows that are asked for.
ROUGH_FROM = 2
# Squares below that of the first vanish in float32 or lose digits; sums near the second overflow.
LEAST_ROOT = 2.0**-60
LARGEST_SQUARE = 2.0**120


def nearest_features(
    query: np.ndarray,
    rows: np.ndarray,
    blocks: Iterable[tuple[int, np.ndarray]],
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
        blocks: list of `(first_row, features)`, features float32 or float16
            `(n, feature_dim)`, C-contiguous: `features[i]` belongs to row `first_row + i`.
        k: int, 1 or more. With fewer rows in the pool, all are returned.
        num_threads: int. The most threads at one time; the answer does not depend on it.

    Returns:
        rows int64 `(min(k, p),)` and their Euclidean distances float64, sorted by distance and
        then by row.

    Raises:
        ArgumentError: `k` is not 1 or more, the query is not finite, the rows do not ascend,
            or a row lies in no block.
        ShapeError: the query or a block has another dtype or shape.

    Example:
        >>> import numpy as np
        >>> features = np.array([[0, 0], [3, 4], [0, 1], [3, 4]], np.float32)
        >>> rows, distances = nearest_features(
        ...     np.zeros(2, np.float32), np.array([1, 2, 3]), [(0, features)], k=2
        ... )
        >>> rows.tolist(), distances.tolist()
        ([2, 1], [1.0, 5.0])
    """
    query, rows = _checked_query(query), _checked_rows(rows)
    if isinstance(k, (bool, np.bool_)) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ArgumentError("k is a whole number of rows, 1 or more.", f"k={k!r}", "Ask for one.")
    blocks = [(first, _checked_features(features, len(query))) for first, features in blocks]
    kernels = compiled.kernels(len(rows) * len(query) * NUMPY_COST * 4)
    if kernels is not None and len(rows) >= ROUGH_FROM * k:
        rows = _perhaps_nearest(kernels, query, rows, blocks, k, num_threads)
    squared = _square_distances(kernels, query, rows, blocks, num_threads)
    if k < len(rows):
        near = np.flatnonzero(~(squared > np.partition(squared, k - 1)[k - 1]))
        rows, squared = rows[near], squared[near]
    order = np.argsort(squared, kind="stable")[:k]
    return rows[order], np.sqrt(squared[order])


def _perhaps_nearest(
    kernels: ModuleType,
    query: np.ndarray,
    rows: np.ndarray,
    blocks: list[tuple[int, np.ndarray]],
    k: int,
    num_threads: int,
) -> np.ndarray:
    """The rows that may be among the `k` nearest, by distances in float32.

    With n = dim / 64 + 6 additions one after another, each of which rounds by 2^-24 at most, a
    distance e and its rough one r differ by e * n * 2^-24 at most, plus what rounding the query
    moves it by. So a row whose r exceeds the k-th smallest by twice that is not among the
    nearest. What float32 cannot hold makes r infinite or NaN; then nothing is left out.
    """
    with np.errstate(over="ignore"):
        rough_query = query.astype(np.float32)
    rough = _square_distances(kernels, rough_query, rows, blocks, num_threads)
    kth = math.sqrt(np.partition(rough, k - 1)[k - 1])
    moves = query - rough_query
    moved = math.sqrt(moves @ moves)
    share = (len(query) / NUM_SUMS + 16) * 2.0**-23
    lost = math.sqrt(len(query)) * LEAST_ROOT
    limit = (kth * (1 + share) + 2 * moved + lost) ** 2
    return rows if not limit < LARGEST_SQUARE else rows[~(rough > limit)]


def _square_distances(
    kernels: ModuleType | None,
    query: np.ndarray,
    rows: np.ndarray,
    blocks: list[tuple[int, np.ndarray]],
    num_threads: int,
) -> np.ndarray:
    """The squared distance of each row, of the query's type."""
    squared = np.empty(len(rows), query.dtype)
    placed = 0
    for first_row, features in blocks:
        first, last = np.searchsorted(rows, (first_row, first_row + len(features))).tolist()
        inside, answer = rows[first:last] - first_row, squared[first:last]
        placed += last - first
        if kernels is None:
            _square_in_numpy(query, features, inside, answer)
        else:
            _square_compiled(kernels, query, features, inside, answer, num_threads)
    if placed != len(rows):
        raise ArgumentError(
            "Every row of a pool lies in exactly one block of features.",
            f"{len(rows)} rows, of which the blocks hold {placed}",
            "Pass the blocks of the index that the pool was drawn from.",
        )
    return squared


def _square_compiled(
    kernels: ModuleType,
    query: np.ndarray,
    features: np.ndarray,
    rows: np.ndarray,
    squared: np.ndarray,
    num_threads: int,
) -> None:
    if features.dtype == np.float16:
        features = features.view(np.uint16)
    features, query, rows = read_only(features), read_only(query), read_only(rows)
    compiled.in_parts(
        lambda first, last: kernels.square_distances(features, query, rows, squared, first, last),
        len(rows),
        num_threads,
        LEAST_VALUES_A_THREAD // len(query) + 1,
    )


def _square_in_numpy(
    query: np.ndarray, features: np.ndarray, rows: np.ndarray, squared: np.ndarray
) -> None:
    step = max(1, CHUNK_VALUES // len(query))
    for first in range(0, len(rows), step):
        chunk = features[rows[first : first + step]].astype(np.float64)
        squared[first : first + step] = _squared_in_numpy(chunk, query)


def _squared_in_numpy(chunk: np.ndarray, query: np.ndarray) -> np.ndarray:
    squares = np.square(chunk - query)
    sums = np.zeros((len(chunk), NUM_SUMS))
    for first in range(0, len(query), NUM_SUMS):
        part = squares[:, first : first + NUM_SUMS]
        sums[:, : part.shape[1]] += part
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
            _described(query),
            "Pass one feature, as the encoder returns it.",
        )
    if not np.isfinite(query).all():
        raise ArgumentError(
            "A query's feature is finite.",
            f"{np.count_nonzero(~np.isfinite(query))} of {query.size} values NaN or infinite",
            "Encode the image again, or leave it out.",
        )
    return query.astype(np.float64)


def _checked_rows(rows: np.ndarray) -> np.ndarray:
    if not isinstance(rows, np.ndarray) or rows.dtype != np.int64 or rows.ndim != 1:
        raise ShapeError(
            "A pool is an int64 array of rows, of shape (p,).",
            _described(rows),
            "Pass the rows that the coarse search returned.",
        )
    if (rows[1:] <= rows[:-1]).any():
        raise ArgumentError(
            "The rows of a pool ascend.", "rows out of order or twice", "Pass np.unique(rows)."
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
            f"A block of features is a C-contiguous float32 or float16 array of shape (n, {dim}),"
            " as wide as the query.",
            _described(features),
            "Search with the encoder that the index was built with.",
        )
    return np.asarray(features)


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    return type(value).__name__
