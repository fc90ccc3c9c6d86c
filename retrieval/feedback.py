"""Relevance feedback: a person marks hits right or wrong, and the query moves.

The feature moves as Rocchio moved the words of a query: towards the mean of what is right, away
from the mean of what is wrong. The code follows by a vote of the same weights on every bit.
tests/bench/feedback.py measures it.

Reference:
    Rocchio, "Relevance feedback in information retrieval", in Salton (ed.), The SMART Retrieval
    System, 1971.
"""

import numpy as np

from hashnet import codes

# What the query itself, the right images and the wrong ones weigh: of the weights that
# tests/bench/feedback.py compares, those whose rounds raise mAP the most, by feature and by code.
QUERY, RIGHT, WRONG = 1.0, 3.0, 1.0


def move(
    code: np.ndarray,
    feature: np.ndarray,
    right: tuple[np.ndarray, np.ndarray],
    wrong: tuple[np.ndarray, np.ndarray],
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
        code: uint8 `(code_bytes,)`; where a bit's votes are equal, the query's bit stays.
        feature: float32 `(feature_dim,)`, as long as it was.

    Example:
        >>> code, feature = np.array([0b10000000], "uint8"), np.array([1, 0], "float32")
        >>> right = np.array([[0b11000000]] * 2, "uint8"), np.array([[0, 1]] * 2, "float32")
        >>> none = np.empty((0, 1), "uint8"), np.empty((0, 2), "float32")
        >>> moved = move(code, feature, right, none, num_bits=2)
        >>> codes.unpack(moved[0], 2).tolist(), moved[1].round(1)
        ([True, True], array([0.3, 0.9], dtype=float32))
    """
    moved = QUERY * feature
    bits = codes.unpack(code, num_bits)
    votes = QUERY * _signs(bits)
    for (some_codes, features), weight in ((right, RIGHT), (wrong, -WRONG)):
        if len(some_codes):
            moved = moved + weight * features.mean(axis=0)
            votes = votes + weight * _signs(codes.unpack(some_codes, num_bits)).mean(axis=0)
    length = np.linalg.norm(moved)
    # Where right and wrong cancel the query out, no direction is better than its own.
    moved = feature if length == 0 else moved * (np.linalg.norm(feature) / length)
    return codes.pack(np.where(votes == 0, bits, votes > 0)), moved.astype(np.float32)


def _signs(bits: np.ndarray) -> np.ndarray:
    return np.where(bits, np.float32(1), np.float32(-1))
