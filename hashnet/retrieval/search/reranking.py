"""Rank the nearest of a pool again, by what they say of each other.

The fine stage compares the query with one image at a time. These methods also look at how the
nearest lie to each other: where many images of one thing are in the index, each of them leads to
the next. Where a query has one right answer, all but alpha_qe blur it: tests/bench/reranking.py
measures both.

    aqe           average query expansion: the nearest join the query, which asks again
    alpha_qe      the same, each as like the query as it is, to a power
    dba           database-side augmentation: each image is the mean of itself and its nearest
    k_reciprocal  the share of neighbours that two images have in common, where both are
                  neighbours of each other
    diffusion     a random walk from the query along the graph of such neighbours

All that they need of the images are the inner products of vectors of length 1 whose Euclidean
distance orders as the fine stage does: `vectors` makes them. They only permute; distances stay
those of the fine stage.

The coordinates of vectors are whole multiples of 2^-24, so that their inner products are exact in
float64, in whatever order a library adds them: answers do not depend on threads or processors.

Reference:
    Chum, Philbin, Sivic, Isard, Zisserman, "Total Recall: Automatic Query Expansion with a
    Generative Feature Model for Object Retrieval", ICCV 2007: average query expansion.
    Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", PAMI 2018,
    section 3.3: alpha-weighted query expansion.
    Arandjelovic, Zisserman, "Three Things Everyone Should Know to Improve Object Retrieval", CVPR
    2012, section 4: database-side augmentation.
    Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR
    2017.
    Iscen, Tolias, Avrithis, Furon, Chum, "Efficient Diffusion on Region Manifolds: Recovering
    Small Objects with Compact CNN Representations", CVPR 2017.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hashnet import codes
from hashnet.checks import described
from hashnet.errors import ShapeError, UnknownNameError
from hashnet.retrieval.search.fine import directions
from hashnet.retrieval.search.ranking import Ranking

# Coordinates are whole multiples of one over this: products of two, and their sums up to 1, are
# whole multiples of its square, which float64 holds exactly.
_SCALE = 2.0**24
# Of alpha-weighted query expansion, and what diffusion raises similarities to.
ALPHA, GAMMA = 3, 3
# Of k-reciprocal encoding: neighbours whose sets of neighbours are averaged, and the weight of the
# distance of before.
K2, LAMBDA = 6, 0.3
# Of diffusion: neighbours of the query, and the chance to walk on.
QUERY_NEIGHBOURS, WALKS_ON = 10, 0.99
_MOST_STEPS, _TOLERANCE = 100, 1e-9  # of conjugate gradients


@dataclass(frozen=True)
class Method:
    """A way to rank again.

    Attributes:
        scores: function of vectors, float64 `(m + 1, d)`, the query's first and then those of
            images, nearest first, and of a number of neighbours; to float64 `(m,)`, larger ones
            first.
        neighbours: int. How many it takes where nobody says.
    """

    scores: Callable[[np.ndarray, int], np.ndarray]
    neighbours: int


def vectors(
    code: np.ndarray,
    feature: np.ndarray,
    packed: np.ndarray,
    features: np.ndarray,
    ranking: Ranking | None,
) -> np.ndarray:
    """A query and some images as vectors whose distance orders as the fine stage does.

    About a mean, a vector is the direction of a feature from there and behind it, for each bit, the
    root of what the bit adds to the square of a distance, halved, with the sign of the bit. All are
    equally long, so that they can be scaled to length 1.

    Args:
        code: uint8 `(code_bytes,)`, of the query.
        feature: float `(d,)`, of the query.
        packed: uint8 `(m, code_bytes)`, of the images.
        features: float32 `(m, d)`, likewise.
        ranking: `Ranking` of the query, or None where features alone rank.

    Returns:
        float64 `(m + 1, e)`, of length 1, the query first; coordinates are whole multiples of
        2^-24.

    Raises:
        ShapeError: codes or features are of another width than the query's.

    Example:
        >>> one = vectors(
        ...     np.zeros(1, np.uint8),
        ...     np.array([3, 4]),
        ...     np.zeros((1, 1), np.uint8),
        ...     np.array([[0, 2]]),
        ...     None,
        ... )
        >>> one.round(6).tolist()
        [[0.6, 0.8], [0.0, 1.0]]
    """
    if features.shape[1:] != feature.shape or packed.shape != (len(features), len(code)):
        raise ShapeError(
            "Codes and features are as wide as the query's.",
            f"{described(packed)} and {described(features)}",
        )
    joined = np.concatenate([feature[None], features]).astype(np.float64)
    centre = np.zeros(len(feature))
    if ranking is None or ranking.mean is None:
        return _rounded(directions(joined, centre))
    parts = [directions(joined, ranking.mean)]
    steps = ranking.certainty.steps
    bits = codes.unpack(np.concatenate([code[None], packed]), len(steps))
    parts.append(np.where(bits, 0.5, -0.5) * np.sqrt(ranking.weight * steps))
    return _rounded(np.concatenate(parts, axis=1) / np.sqrt(1 + ranking.weight * steps.sum() / 4))


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values * _SCALE) / _SCALE


def rerank(vectors: np.ndarray, method: str, neighbours: int | None = None) -> np.ndarray:
    """Rank images again, by what they say of each other.

    Args:
        vectors: float64 `(m + 1, d)`, as from `vectors`: the query's, and those of the images,
            nearest first.
        method: str, one of `METHODS`.
        neighbours: int, 1 or more, or None for the method's own: how many of the nearest expand the
            query, smooth an image, or are an image's neighbours in a graph.

    Returns:
        int64 `(m,)`, places of the images, best first; equal ones stay as they were.

    Raises:
        UnknownNameError: there is no such method.

    Example:
        Two images lie as far from the query; one of them beside its nearest.

        >>> rows = np.array([[1, 0], [0.8, 0.6], [0.6, -0.8], [0.6, 0.8]])
        >>> rerank(rows, "aqe", neighbours=1).tolist()
        [0, 2, 1]
    """
    if method not in METHODS:
        raise UnknownNameError("way to rank again", method, METHODS)
    if len(vectors) < 2:
        return np.empty(0, np.int64)
    known = METHODS[method]
    scores = known.scores(vectors, known.neighbours if neighbours is None else neighbours)
    return np.argsort(-scores, kind="stable")


def _average_expansion(vectors: np.ndarray, neighbours: int) -> np.ndarray:
    """What the sum of the query and its nearest says of each image."""
    asked = vectors[: neighbours + 1] @ vectors[1:].T
    return asked.sum(axis=0)


def _alpha_expansion(vectors: np.ndarray, neighbours: int) -> np.ndarray:
    """The same, where each of the nearest counts by its similarity to the power of alpha."""
    asked = vectors[: neighbours + 1] @ vectors[1:].T
    weights = np.append(1.0, np.maximum(asked[0, : len(asked) - 1], 0) ** ALPHA)
    return (weights[:, None] * asked).sum(axis=0)


def _augmentation(vectors: np.ndarray, neighbours: int) -> np.ndarray:
    """How like the query the mean of each image and its nearest is."""
    like_query = vectors[0] @ vectors[1:].T
    gram = vectors[1:] @ vectors[1:].T
    near = _nearest(gram, neighbours)
    squared = np.zeros(len(gram))
    for column in near.T:  # the square of the length of a sum, term by term
        squared += gram[column[:, None], near].sum(axis=1)
    lengths = np.sqrt(np.maximum(squared, 0))
    along = like_query[near].sum(axis=1)
    return np.divide(along, lengths, out=np.zeros(len(gram)), where=lengths > 0)


def _k_reciprocal(vectors: np.ndarray, neighbours: int) -> np.ndarray:
    """Jaccard distances of sets of neighbours, and a share of the distance of before; negative."""
    gram = vectors @ vectors.T
    distances = np.maximum(2 - 2 * gram, 0)
    largest = distances.max(axis=1, keepdims=True)
    distances = np.divide(distances, largest, out=np.zeros_like(distances), where=largest > 0)
    mutual = _mutual(_nearest(gram, neighbours))
    halved = _mutual(_nearest(gram, round(neighbours / 2)))
    # A neighbour's own neighbours join where two thirds of them are neighbours already. Counts are
    # whole numbers, exact in float32.
    common = mutual.astype(np.float32) @ halved.astype(np.float32)
    joins = mutual & (3 * common >= 2 * halved.sum(axis=1))
    members = mutual | (joins.astype(np.float32) @ halved.astype(np.float32) > 0)
    weights = np.where(members, np.exp(-distances), 0.0)
    means = weights[_nearest(gram, K2 - 1)].mean(axis=1)
    jaccard = 1 - (
        np.minimum(means[0], means[1:]).sum(axis=1) / np.maximum(means[0], means[1:]).sum(axis=1)
    )
    return -((1 - LAMBDA) * jaccard + LAMBDA * distances[0, 1:])


def _diffusion(vectors: np.ndarray, neighbours: int) -> np.ndarray:
    """Where a random walk that begins at the query's nearest stays, once it is over."""
    like_query = np.maximum(vectors[0] @ vectors[1:].T, 0) ** GAMMA
    gram = vectors[1:] @ vectors[1:].T
    affinity = np.where(_mutual(_nearest(gram, neighbours)), np.maximum(gram, 0) ** GAMMA, 0.0)
    np.fill_diagonal(affinity, 0)
    degrees = np.sqrt(affinity.sum(axis=1))
    inverse = np.divide(1.0, degrees, out=np.zeros_like(degrees), where=degrees > 0)
    walk = np.eye(len(gram)) - WALKS_ON * (inverse[:, None] * affinity * inverse)
    start = like_query.copy()
    start[min(QUERY_NEIGHBOURS, neighbours) :] = 0  # they come nearest first
    return _solved(walk, (1 - WALKS_ON) * start)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution of linear equations by conjugate gradients, of a positive definite matrix.

    Sums are NumPy's own, whose order does not depend on the number of threads.
    """
    found, rest = np.zeros_like(right), right.copy()
    step, squared = rest.copy(), np.square(rest).sum()
    least = _TOLERANCE**2 * squared
    for _ in range(_MOST_STEPS):
        if squared <= least:
            break
        moved = np.einsum("ij,j->i", matrix, step)
        length = squared / (step * moved).sum()
        found += length * step
        rest -= length * moved
        before, squared = squared, np.square(rest).sum()
        step = rest + squared / before * step
    return found


def _nearest(gram: np.ndarray, neighbours: int) -> np.ndarray:
    """int64 `(n, m)`: each one itself, and so many others of the largest inner products.

    Equal ones are taken by place: products are whole multiples of 2^-48 and make one integer with
    it, so that no two are equal.
    """
    number = len(gram)
    keys = np.rint(gram * -(_SCALE**2)).astype(np.int64)
    np.fill_diagonal(keys, -(2 * int(_SCALE) ** 2))  # before a copy that rounding made longer
    keys = keys * number + np.arange(number)
    most = min(neighbours + 1, number)
    nearest: np.ndarray = np.sort(np.partition(keys, most - 1, axis=1)[:, :most], axis=1) % number
    return nearest


def _mutual(nearest: np.ndarray) -> np.ndarray:
    """bool `(n, n)`: which are among the nearest of each other."""
    near = np.zeros((len(nearest), len(nearest)), bool)
    np.put_along_axis(near, nearest, True, axis=1)
    return near & near.T


METHODS = {
    "aqe": Method(_average_expansion, 5),
    "alpha_qe": Method(_alpha_expansion, 10),
    "dba": Method(_augmentation, 5),
    "k_reciprocal": Method(_k_reciprocal, 20),
    "diffusion": Method(_diffusion, 50),
}
