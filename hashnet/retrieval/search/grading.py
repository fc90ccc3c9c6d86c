"""How like a query its hits are, and where likeness ends: worked out from the index itself.

Most images of an index are unlike any one query. So the distances to a random sample of them, the
query's *background*, say how far what is unlike lies from this query in this index: their median,
and the spread of their upper half, which a class that the query belongs to hardly touches. A hit
stands out the more, the more spreads it lies below the median and the smaller its distance is:

    contrast = (median - distance) / (spread * distance)
    likeness = contrast ** SLOPE / (contrast ** SLOPE + MIDDLE ** SLOPE)

A hit's likeness depends on the query, the index and the hit's distance, and on nothing else that is
found or asked for. A hit is alike from `ALIKE` on, and below it unlike. Where codes were fitted
without labels, distances mean the same in every index: then few images are helped out by what is
known of others, and a hit nearer than `COPY` is as like as copies are.

tests/bench/likeness_line.py measures it, and chose the numbers on three sets of photos.
"""

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.fine import directions
from hashnet.retrieval.search.ranking import Ranking

COPY, LIKE, UNLIKE = GRADES = ("copy", "alike", "unlike")

SAMPLE = 512
SLOPE, MIDDLE = 1.8, 6.0
ALIKE = 0.5
DISTANCE_OF_COPIES = 0.5
# The background in other indexes, which counts as so many images; and the nearest that it may lie,
# in an index of one thing only.
PRIOR_IMAGES = 25
PRIOR_MEDIAN, PRIOR_SPREAD = 2.06, 0.087
LEAST_MEDIAN = 1.4
# A network that learned from labels sets its own distances: so many images are needed to see them.
LEAST_IMAGES = 50
_UPPER = 0.8413  # as far above the median as a standard deviation, in a normal distribution


class Graded(NamedTuple):
    """How like a hit is.

    Attributes:
        likeness: float, 0 to 1, to four digits.
        grade: str, one of `GRADES`.
    """

    likeness: float
    grade: str


@dataclass(frozen=True)
class Background:
    """How far the images of an index lie from a query, most of which are unlike it.

    Attributes:
        median, spread: float.
        knows_copies: bool. Whether distances tell copies.
    """

    median: float
    spread: float
    knows_copies: bool

    def grade(self, distance: float) -> Graded:
        """Grade a hit.

        Args:
            distance: float, 0 or more, as the fine stage has it.

        Returns:
            A `Graded`.

        Example:
            >>> background = Background(2.0, 0.1, knows_copies=True)
            >>> [background.grade(distance).grade for distance in (0.3, 1.0, 1.9)]
            ['copy', 'alike', 'unlike']
            >>> background.grade(1.0).likeness
            0.7149
        """
        above = max(self.median - distance, 0.0)
        below = MIDDLE * self.spread * distance
        likeness = 1.0
        if below > 0:
            raised = (above / below) ** SLOPE
            likeness = round(raised / (raised + 1.0), 4)
        if self.knows_copies and distance <= DISTANCE_OF_COPIES:
            return Graded(likeness, COPY)
        return Graded(likeness, LIKE if likeness >= ALIKE else UNLIKE)


class Sample:
    """Some images of an index, by which the background of any query is seen.

    Args:
        codes: uint8 `(n, code_bytes)`.
        features: float32 `(n, feature_dim)`; those that are not finite are left out.
        mean: float `(feature_dim,)`, about which features are ranked.
        unsupervised: bool. Whether the codes were fitted without labels.
    """

    def __init__(
        self, codes: np.ndarray, features: np.ndarray, mean: np.ndarray, *, unsupervised: bool
    ) -> None:
        whole = np.isfinite(features).all(axis=1)
        self._codes = CodeIndex(np.ascontiguousarray(codes[whole]))
        # In half the memory, which takes half the time, and is exact enough for a median.
        self._directions = directions(
            features[whole].astype(np.float64), mean.astype(np.float64)
        ).astype(np.float32)
        self._unsupervised = unsupervised

    def background(self, code: np.ndarray, feature: np.ndarray, ranking: Ranking) -> Background:
        """The background of a query.

        Args:
            code: uint8 `(code_bytes,)`.
            feature: float32 `(feature_dim,)`.
            ranking: `Ranking` of the query, about the mean.

        Returns:
            A `Background`.
        """
        num = len(self._directions)
        median = spread = 0.0
        if num:
            distances = self._distances(code, feature, ranking)
            median, upper = np.quantile(distances, (0.5, _UPPER)).tolist()
            spread = upper - median
        if self._unsupervised:
            median = _joined(median, num, PRIOR_MEDIAN)
            median, spread = max(median, LEAST_MEDIAN), _joined(spread, num, PRIOR_SPREAD)
        return Background(median, spread, self._unsupervised)

    def _distances(self, code: np.ndarray, feature: np.ndarray, ranking: Ranking) -> np.ndarray:
        """Those of the fine stage, but for the last digits: float64 `(n,)`."""
        assert ranking.mean is not None
        [query] = directions(feature[None].astype(np.float64), ranking.mean)
        rows = np.arange(len(self._directions))
        steps = self._codes.steps_apart(code, ranking.certainty.steps, rows)
        # Not by a product of matrices, whose last digits depend on the number of threads.
        along = np.einsum("ij,j->i", self._directions, query.astype(np.float32))
        return np.sqrt(np.maximum(2.0 - 2.0 * along, 0.0) + ranking.weight * steps)


def drawn(num_items: int, *, most: int = SAMPLE, seed: int = 0) -> np.ndarray:
    """Draw places at random, nearly the same ones of an index that has grown a little.

    Args:
        num_items: int, 0 or more.
        most: int, 1 or more. How many to draw.
        seed: int.

    Returns:
        int64 `(min(num_items, most),)`, ascending, each from 0 to `num_items - 1`.

    Example:
        >>> len(drawn(1000)), drawn(3).tolist()
        (512, [0, 1, 2])
        >>> len(np.intersect1d(drawn(100_000), drawn(110_000))) > 400
        True

    Reference:
        Li, "Reservoir-Sampling Algorithms of Time Complexity O(n(1 + log(N/n)))", ACM TOMS 1994:
        algorithm L. Each further place comes in with the right chance, and puts another one out.
    """
    chance = random.Random(seed)
    kept = list(range(min(num_items, most)))
    largest, place = 1.0, most - 1
    while True:
        largest *= (1.0 - chance.random()) ** (1 / most)
        place += int(math.log(1.0 - chance.random()) / math.log1p(-largest)) + 1
        if place >= num_items:
            return np.sort(np.array(kept, np.int64))
        kept[chance.randrange(most)] = place


def _joined(measured: float, num: int, prior: float) -> float:
    return (num * measured + PRIOR_IMAGES * prior) / (num + PRIOR_IMAGES)
