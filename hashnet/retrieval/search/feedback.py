"""Relevance feedback: a person marks hits right or wrong, and the query moves.

A query scores an image by the product of their two features, which have length 1: the larger it
is, the nearer they lie. The query moves as little as it can so that right images and the query
itself score about 1 and wrong ones about 0: regularised least squares, which, unlike the means
of right and of wrong images, follows what tells the two apart. The code moves by the same rule,
on bits of -1 and 1. tests/bench/feedback.py measures it, against means too.

Reference:
    Rocchio, "Relevance feedback in information retrieval", in Salton (ed.), The SMART Retrieval
    System, 1971 (means); Hoerl and Kennard, "Ridge regression", Technometrics, 1970.
"""

import numpy as np

from hashnet import codes

# What wrong images are to score, and how the square of the query's move weighs against the
# squares of what scores miss: chosen by tests/bench/feedback.py on half of its queries.
WRONG, STIFFNESS = 0.0, 0.3


# Codes uint8 `(n, code_bytes)` and features float32 `(n, feature_dim)` of marked images.
Marked = tuple[np.ndarray, np.ndarray]


def move(
    code: np.ndarray,
    feature: np.ndarray,
    right: Marked,
    wrong: Marked,
    *,
    num_bits: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Move a query towards images marked right and away from those marked wrong.

    Args:
        code: uint8 `(code_bytes,)`, the query's.
        feature: float32 `(feature_dim,)`, the query's.
        right: codes uint8 `(n, code_bytes)` and features float32 `(n, feature_dim)`; n may be 0.
        wrong: as `right`.
        num_bits: int. Length of the codes.

    Returns:
        code: uint8 `(code_bytes,)`; where nothing decides a bit, the query's stays.
        feature: float32 `(feature_dim,)`, as long as it was.

    Example:
        >>> code, feature = np.array([0b10000000], "uint8"), np.array([1, 0], "float32")
        >>> right = np.array([[0b11000000]] * 2, "uint8"), np.array([[0, 1]] * 2, "float32")
        >>> none = np.empty((0, 1), "uint8"), np.empty((0, 2), "float32")
        >>> code, feature = move(code, feature, right, none, num_bits=2)
        >>> codes.unpack(code, 2).tolist(), feature.round(2)
        ([True, False], array([0.75, 0.66], dtype=float32))
    """
    wanted = np.repeat([1.0, 1.0, WRONG], [1, len(right[0]), len(wrong[0])])
    bits = codes.unpack(code, num_bits)
    marked = codes.unpack(np.concatenate([right[0], wrong[0]]), num_bits)
    fitted = _fitted(_signs(bits), _signs(marked), wanted)
    moved = _fitted(feature.astype(np.float64), np.concatenate([right[1], wrong[1]]), wanted)
    return codes.pack(np.where(fitted == 0, bits, fitted > 0)), moved.astype(np.float32)


def _fitted(query: np.ndarray, marked: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The vector that scores the query and marked rows as wanted, as long as the query is."""
    length = np.linalg.norm(query)
    rows = _unit(np.concatenate([query[None], marked]))
    missed = wanted - rows @ rows[0]
    moved = rows[0] + rows.T @ np.linalg.solve(
        rows @ rows.T + STIFFNESS * np.eye(len(rows)), missed
    )
    # Where nothing is left of it, no direction is better than its own.
    return _unit(moved[None])[0] * length if moved.any() else query


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths == 0, 1, lengths)


def _signs(bits: np.ndarray) -> np.ndarray:
    return np.where(bits, 1.0, -1.0)
