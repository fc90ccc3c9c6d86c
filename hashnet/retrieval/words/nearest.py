"""The images whose features lie nearest to where a text does, for the ways that know where."""

from typing import Any

import numpy as np

from hashnet.retrieval.search.engine import Engine, default_pool
from hashnet.retrieval.search.finder import Found
from hashnet.retrieval.search.ranking import Ranking


def nearest(
    engine: Engine,
    code: np.ndarray,
    feature: np.ndarray,
    most: int,
    ranking: Ranking | None,
    allowed: Any,
) -> Found:
    """Find images by code and feature, in a pool that is large enough for so many.

    Args:
        engine: `Engine`.
        code: uint8 `(code_bytes,)`.
        feature: float32 `(feature_dim,)`.
        most: int, 1 or more. Images wanted.
        ranking: `Ranking` or None, of this code and feature.
        allowed: object, what passes the filters, as `Finder.allowed` gives it; None where all do.

    Returns:
        `Found`.
    """
    pool = default_pool(1, engine.snapshot.num_items, by_certainty=True)
    return engine.finder.find(
        code,
        feature,
        most,
        ranking=ranking,
        at_least=max(pool, 2 * most),
        allowed=allowed,
    )


def cosines(vectors: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The cosines between vectors and a direction, the same on any number of threads.

    Args:
        vectors: float `(n, dim)`.
        direction: float `(dim,)`, of length 1.

    Returns:
        float `(n,)`; 0 of a vector of zeros.

    Example:
        >>> cosines(np.array([[0.0, 5.0], [3.0, 4.0], [0.0, 0.0]]), np.array([0.0, 1.0]))
        array([1. , 0.8, 0. ])
    """
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    # Not a product of matrices, whose sums have an order that depends on threads.
    found: np.ndarray = (vectors * direction).sum(axis=1) / lengths
    return found
