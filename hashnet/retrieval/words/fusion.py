"""One order of what several ways have found: reciprocal rank fusion.

Cormack, Clarke, Buettcher: *Reciprocal Rank Fusion outperforms Condorcet and individual Rank
Learning Methods*, SIGIR 2009. Scores of different ways share no scale; ranks do.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hashnet.retrieval.words.way import Matches

K = 60  # of the paper: how much less the first ranks count than by 1 / rank
# What a photo shows is guessed, and something is always the best guess: such ways count less, so
# that the first by all of them does not stand before the first by what is written.
WEIGHTS = {"class": 0.4, "learned": 0.4, "network": 0.4}


class Fused(NamedTuple):
    """Images that some way has found, in one order.

    Attributes:
        rows: int64 `(m,)`, the best first, equal scores by row.
        scores: float64 `(m,)`: the sum of share^3 / (60 + rank) over the ways that have found it,
            times the `WEIGHTS` of those that guess.
        ways: list of m tuples of str: these ways, in the order in which they were given.
    """

    rows: np.ndarray
    scores: np.ndarray
    ways: list[tuple[str, ...]]


def fused(found: Mapping[str, Matches]) -> Fused:
    """Put what several ways have found into one order.

    Images of equal scores in a way share the best of their ranks: their rows tell nothing. The
    first of a way that has found little of the text is no good hit: it counts by the cube of that
    share, so that what has all of it in one way stands before what has most of it in two.

    Args:
        found: dict of a way's name to its `Matches`.

    Returns:
        `Fused`.

    Example:
        >>> name = Matches(np.array([4, 9]), np.array([2, 1], "f4"))
        >>> ocr = Matches(np.array([9]), np.array([0.5], "f4"))
        >>> best = fused({"name": name, "ocr": ocr})
        >>> best.rows.tolist(), best.ways
        ([9, 4], [('name', 'ocr'), ('name',)])
    """
    rows = np.unique(np.concatenate([np.empty(0, np.int64), *(one.rows for one in found.values())]))
    scores = np.zeros(len(rows))
    by: Sequence[list[str]] = [[] for _ in rows]
    for name, matches in found.items():
        places = np.searchsorted(rows, matches.rows)
        shares = 1.0 if matches.shares is None else matches.shares.astype(np.float64) ** 3
        scores[places] += WEIGHTS.get(name, 1.0) * shares / (K + _ranks(matches.scores))
        for place in places.tolist():
            by[place].append(name)
    best = np.lexsort((rows, -scores))
    return Fused(rows[best], scores[best], [tuple(by[place]) for place in best.tolist()])


def _ranks(scores: np.ndarray) -> np.ndarray:
    """1 for the best, and one more than there are better ones for the others; scores fall."""
    return 1 + np.searchsorted(-scores, -scores, "left")
