"""How good a ranking is: average precision and its relatives, honest about ties.

Codes of 48 bits know only 49 distances, so a database of thousands is full of ties, and the
order inside a tie is chance. Two families of figures stand side by side here:

- *ties by row*, the order in which an index answers: `map_at`, `precision_at`, `recall_at`.
  They move when the database is shuffled, and flatter a database sorted by class.
- *tie-aware*: the mean over every order of the ties, with the best and the worst order beside
  it. They cannot move. Sums over ranks become sums over distances, so they are fast as well.

The functions on top take one ranking, `(n,)`, or many, `(q, n)`, one query a row;
`evaluate_codes`, `evaluate_features` and `evaluate_rankings` judge a whole set of queries. In
those three a query without any relevant item is left out of every mean and counted in
`queries_without_relevant`.

References:
    McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the
    Presence of Tied Scores", ECIR 2008: tie-aware average precision.
    Lin et al., "Deep Learning of Binary Hash Codes for Fast Image Retrieval", CVPR Workshops
    2015, and its released code: mAP@1000 over what was found, precision at k.
    Jegou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", TPAMI 2011, and
    the literature of metric learning since: Recall@k as the share of queries with a hit.
    Musgrave, Belongie and Lim, "A Metric Learning Reality Check", ECCV 2020: R-precision, MAP@R.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hashnet import codes
from hashnet.errors import ArgumentError, ShapeError, UnknownNameError

KS = (1, 10, 100, 1000)
FOUND_KS = (1, 2, 4, 8)
DENOMINATORS = ("relevant", "found")
# So many distances of features are held at one time: 64 MB.
DISTANCES_A_BLOCK = 1 << 24


class TieAwareAP(NamedTuple):
    """Average precision over all orders of tied items: the mean, the best and the worst order.

    Attributes:
        expected: float64 scalar, or array of shape `(q,)`: the mean over all orders.
        best: float64 scalar, or array of shape `(q,)`: relevant items first in every tie.
        worst: float64 scalar, or array of shape `(q,)`: relevant items last in every tie.
    """

    expected: float | np.ndarray
    best: float | np.ndarray
    worst: float | np.ndarray


# --- One ranking, or one a row -------------------------------------------------------------------


def average_precision(
    relevant: np.ndarray,
    *,
    at: int | None = None,
    num_relevant: int | np.ndarray | None = None,
    denominator: str = "relevant",
) -> float | np.ndarray:
    """Average the precision at the ranks of the relevant items.

    The sum of precision(rank) over the ranks of the relevant items among the first `at`, divided
    by one of two denominators:

    - `"relevant"`: min(`at`, `num_relevant`), so that what was not found costs;
    - `"found"`: the relevant items among the first `at`, as in the release of Lin et al. One hit
      at rank 1 and nothing else scores 1.

    A worked table, relevant items at ranks 1, 3 and 5 of five, `at=3`:

        rank                1     2     3     4     5
        relevant            yes   no    yes   no    yes
        precision(rank)     1/1         2/3
        "found"             (1 + 2/3) / 2          = .8333
        "relevant"          (1 + 2/3) / min(3, 3)  = .5556

    Args:
        relevant: bool array of shape `(n,)` or `(q, n)`, in rank order, nearest first.
        at: int or None. How many ranks count; None for all.
        num_relevant: int, int array of shape `(q,)`, or None. Relevant items in the whole
            database, where `relevant` is only the head of the ranking; None to count them in
            `relevant`. Not with `"found"`.
        denominator: `"relevant"` or `"found"`.

    Returns:
        float, or float64 array of shape `(q,)`; 0 where there is nothing to divide by.

    Raises:
        ShapeError: if `relevant` is no bool array of one or two axes.
        ArgumentError: if `at` is no positive integer, if `num_relevant` is fewer than the
            relevant items listed, or is given with `"found"`.
        UnknownNameError: if there is no such denominator.

    Example:
        >>> relevant = np.array([True, False, True, False, True])
        >>> round(average_precision(relevant, at=3, denominator="found"), 4)
        0.8333
        >>> round(average_precision(relevant, at=3), 4)
        0.5556
    """
    relevant = _checked_relevant(relevant)
    _check_at(at)
    if denominator not in DENOMINATORS:
        raise UnknownNameError("denominator", denominator, DENOMINATORS)
    if denominator == "found" and num_relevant is not None:
        raise ArgumentError(
            'The denominator "found" counts only what the ranking lists.',
            f"num_relevant={num_relevant!r}",
            'Leave num_relevant out, or take the denominator "relevant".',
        )
    head = relevant[..., :at]
    precision = np.cumsum(head, axis=-1) / np.arange(1, head.shape[-1] + 1)
    total = np.where(head, precision, 0.0).sum(axis=-1)
    if denominator == "found":
        divisor = np.count_nonzero(head, axis=-1)
    else:
        divisor = _checked_num_relevant(relevant, num_relevant)
        divisor = divisor if at is None else np.minimum(at, divisor)
    return _plain(_divide(total, divisor))


def precision_at(relevant: np.ndarray, k: int) -> float | np.ndarray:
    """Divide the relevant items among the first `k` by `k`.

    A ranking shorter than `k` is divided by `k` all the same: what is not there is not relevant.

    Args:
        relevant: bool array of shape `(n,)` or `(q, n)`, in rank order, nearest first.
        k: positive int.

    Returns:
        float, or float64 array of shape `(q,)`, 0 to 1.

    Raises:
        ShapeError: if `relevant` is no bool array of one or two axes.
        ArgumentError: if `k` is no positive integer.

    Example:
        >>> precision_at(np.array([True, False, True, False]), 2)
        0.5
    """
    relevant = _checked_relevant(relevant)
    _check_positive("k", k)
    return _plain(np.count_nonzero(relevant[..., :k], axis=-1) / k)


def recall_at(
    relevant: np.ndarray, k: int, *, num_relevant: int | np.ndarray | None = None
) -> float | np.ndarray:
    """Divide the relevant items among the first `k` by all relevant items.

    Args:
        relevant: bool array of shape `(n,)` or `(q, n)`, in rank order, nearest first.
        k: positive int.
        num_relevant: as in `average_precision`.

    Returns:
        float, or float64 array of shape `(q,)`, 0 to 1; 0 where nothing is relevant.

    Raises:
        ShapeError: if `relevant` is no bool array of one or two axes.
        ArgumentError: if `k` is no positive integer, or `num_relevant` is fewer than the
            relevant items listed.

    Example:
        >>> recall_at(np.array([True, False, True, False]), 2, num_relevant=4)
        0.25
    """
    relevant = _checked_relevant(relevant)
    _check_positive("k", k)
    found = np.count_nonzero(relevant[..., :k], axis=-1)
    return _plain(_divide(found, _checked_num_relevant(relevant, num_relevant)))


def tie_aware_average_precision(
    distances: np.ndarray, relevant: np.ndarray, *, at: int | None = None
) -> TieAwareAP:
    """Average precision of one query over all orders of the items at equal distance.

    Args:
        distances: float or int array of shape `(n,)`, smaller is nearer, in any order.
        relevant: bool array of shape `(n,)`, in the same order.
        at: int or None. How many ranks count; None for all. The denominator is
            min(`at`, relevant items).

    Returns:
        TieAwareAP of three floats; 0 where nothing is relevant.

    Raises:
        ShapeError: if the two arrays differ in shape, or `relevant` is not bool.
        ArgumentError: if `at` is no positive integer, or a distance is NaN.

    Example:
        One relevant item tied with one that is not: rank 1 or rank 2, so 1 or 1/2.

        >>> tie_aware_average_precision(np.array([7, 7]), np.array([True, False]))
        TieAwareAP(expected=0.75, best=1.0, worst=0.5)
    """
    distances, relevant = np.asarray(distances), _checked_relevant(relevant)
    if distances.ndim != 1 or distances.shape != relevant.shape:
        raise ShapeError(
            "Every item has one distance and is relevant or not.",
            f"distances.shape={distances.shape}, relevant.shape={relevant.shape}",
            "Pass two arrays of shape (n,), one query at a time.",
        )
    if np.isnan(distances).any():
        raise ArgumentError("Distances are numbers.", "NaN", "Look for NaN in the features.")
    order = np.argsort(distances)
    items, relevant_items = _count_ties(distances[order], relevant[order])
    return TieAwareAP(*map(float, tie_aware_ap_from_counts(items, relevant_items, at=at)))


def tie_aware_ap_from_counts(
    items_per_distance: np.ndarray, relevant_per_distance: np.ndarray, *, at: int | None = None
) -> TieAwareAP:
    """Tie-aware average precision from the number of items at each distance.

    With n_d items at distance d, n+_d of them relevant, N and N+ the same summed over all nearer
    distances, and R = `at`, the expected case is

        1 / min(R, all relevant) * sum over d of n+_d / n_d
            * sum for t = 1 .. min(n_d, R - N) of (N+ + 1 + (t - 1) r_d) / (N + t),
        r_d = (n+_d - 1) / (n_d - 1),

    since an item at place t of its tie is relevant with chance n+_d / n_d, and if it is, each of
    the t - 1 before it is so with chance r_d. The best case puts the relevant items of a tie
    first, the worst case last. Sums of 1 / (N + t) are differences of harmonic numbers, so time
    and memory depend on the number of distances, not of items.

    A worked table, two distances, `at=None`:

        d   items   relevant   orders of relevance   sum of precision(rank)
        0   1       1          y                     1
        1   2       1          y n / n y             2/2 or 2/3, the mean 5/6
        expected (1 + 5/6) / 2 = .9167, best (1 + 1) / 2 = 1, worst (1 + 2/3) / 2 = .8333

    Args:
        items_per_distance: int array of shape `(num_distances,)` or `(q, num_distances)`,
            nearest first; zeros are fine.
        relevant_per_distance: int array of the same shape.
        at: int or None. How many ranks count; None for all.

    Returns:
        TieAwareAP of float64 scalars or arrays of shape `(q,)`; 0 where nothing is relevant.

    Raises:
        ShapeError: if the two are not integer arrays of one shape.
        ArgumentError: if a count is negative, if more items are relevant than there are, or if
            `at` is no positive integer.

    Example:
        >>> ap = tie_aware_ap_from_counts(np.array([[1, 2]]), np.array([[1, 1]]))
        >>> ap.expected.round(4), ap.best.round(4), ap.worst.round(4)
        (array([0.9167]), array([1.]), array([0.8333]))

    Reference:
        McSherry and Najork, ECIR 2008; the truncation at R stops the same sum at rank R.
    """
    items, relevant = _checked_counts(items_per_distance, relevant_per_distance)
    _check_at(at)
    return _ap_of_counts(items, relevant, at)


def found_at(
    items_per_distance: np.ndarray, relevant_per_distance: np.ndarray, k: int
) -> float | np.ndarray:
    """Chance that a relevant item is among the first `k`, over all orders of the ties.

    Its mean over queries is what the literature of metric learning calls Recall@k. If a nearer
    distance has a relevant item the chance is 1; else `t` items of the tie of `n` that reaches
    rank `k`, `r` of them relevant, are listed, and

        1 - (n - r)/n * (n - r - 1)/(n - 1) * ... (t factors)

    Args:
        items_per_distance: int array of shape `(num_distances,)` or `(q, num_distances)`,
            nearest first; zeros are fine.
        relevant_per_distance: int array of the same shape.
        k: positive int.

    Returns:
        float, or float64 array of shape `(q,)`, 0 to 1.

    Raises:
        ShapeError: if the two are not integer arrays of one shape.
        ArgumentError: if a count is negative, if more items are relevant than there are, or if
            `k` is no positive integer.

    Example:
        Of three items at one distance one is relevant.

        >>> [round(found_at(np.array([3]), np.array([1]), k), 4) for k in (1, 2, 3)]
        [0.3333, 0.6667, 1.0]
    """
    items, relevant = _checked_counts(items_per_distance, relevant_per_distance)
    _check_positive("k", k)
    return _plain(_found_of_counts(items, relevant, k))


def r_precision(
    items_per_distance: np.ndarray, relevant_per_distance: np.ndarray
) -> float | np.ndarray:
    """Precision at rank R, the number of relevant items, the mean over all orders of the ties.

    Args:
        items_per_distance: int array of shape `(num_distances,)` or `(q, num_distances)`,
            nearest first; zeros are fine.
        relevant_per_distance: int array of the same shape.

    Returns:
        float, or float64 array of shape `(q,)`, 0 to 1; 0 where nothing is relevant.

    Raises:
        ShapeError: if the two are not integer arrays of one shape.
        ArgumentError: if a count is negative, or if more items are relevant than there are.

    Example:
        Two relevant items: one is first, the other ties with one that is not.

        >>> r_precision(np.array([1, 2]), np.array([1, 1]))
        0.75

    Reference:
        Musgrave et al., ECCV 2020, section 2.2.
    """
    items, relevant = _checked_counts(items_per_distance, relevant_per_distance)
    return _plain(_r_precision_of_counts(items, relevant))


def map_at_r(
    items_per_distance: np.ndarray, relevant_per_distance: np.ndarray
) -> float | np.ndarray:
    """Average precision over the first R ranks, R the number of relevant items:

        1/R * sum for rank = 1 .. R of precision(rank) where the item there is relevant

    the mean over all orders of the ties.

    Args:
        items_per_distance: int array of shape `(num_distances,)` or `(q, num_distances)`,
            nearest first; zeros are fine.
        relevant_per_distance: int array of the same shape.

    Returns:
        float, or float64 array of shape `(q,)`, 0 to 1; 0 where nothing is relevant.

    Raises:
        ShapeError: if the two are not integer arrays of one shape.
        ArgumentError: if a count is negative, or if more items are relevant than there are.

    Example:
        Relevant at ranks 1 and 3, R = 2: rank 3 is too late.

        >>> map_at_r(np.array([1, 1, 1]), np.array([1, 0, 1]))
        0.5

    Reference:
        Musgrave et al., ECCV 2020, section 2.2.
    """
    items, relevant = _checked_counts(items_per_distance, relevant_per_distance)
    return _plain(_map_at_r_of_counts(items, relevant))


# --- A whole set of queries ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a set of queries scored against a database.

    Attributes:
        queries: int. All queries, also those left out of the means.
        queries_without_relevant: int. Those left out: no item of the database is relevant.
        database: int. Items a query is ranked against.
        at: int. The R of `map_at`.
        map_all: TieAwareAP. Mean average precision over the whole database, tie-aware.
        map_at: float. mAP@R, divided by what was found among the first R, ties by row: the
            measure of Lin et al.
        map_at_of_relevant: float. mAP@R, divided by min(R, relevant), ties by row.
        map_at_tie_aware: TieAwareAP. mAP@R, divided by min(R, relevant), tie-aware.
        precision_at: dict of int to float. Ties by row.
        recall_at: dict of int to float. Ties by row.
        found_at: dict of int to float. Share of the queries with a relevant item among the first
            1, 2, 4 and 8, tie-aware: Recall@k as metric learning has it.
        r_precision: float. Precision at rank R, the relevant items of each query, tie-aware.
        map_at_r: float. Average precision over the first R ranks of each query, tie-aware.
        ap_of_query: float64 array of shape `(queries,)`. Tie-aware average precision over the
            whole database, expected case; NaN for queries without any relevant item.
    """

    queries: int
    queries_without_relevant: int
    database: int
    at: int
    map_all: TieAwareAP
    map_at: float
    map_at_of_relevant: float
    map_at_tie_aware: TieAwareAP
    precision_at: dict[int, float]
    recall_at: dict[int, float]
    found_at: dict[int, float]
    r_precision: float
    map_at_r: float
    ap_of_query: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Give the figures as a JSON object, R written into the names: `map_at_1000`."""
        return {
            "queries": self.queries,
            "queries_without_relevant": self.queries_without_relevant,
            "database": self.database,
            f"map_at_{self.at}": self.map_at,
            f"map_at_{self.at}_of_relevant": self.map_at_of_relevant,
            f"map_at_{self.at}_tie_aware": self.map_at_tie_aware.expected,
            f"map_at_{self.at}_tie_aware_best": self.map_at_tie_aware.best,
            f"map_at_{self.at}_tie_aware_worst": self.map_at_tie_aware.worst,
            "map_all": self.map_all.expected,
            "map_all_best": self.map_all.best,
            "map_all_worst": self.map_all.worst,
            "precision_at": {str(k): value for k, value in self.precision_at.items()},
            "recall_at": {str(k): value for k, value in self.recall_at.items()},
            "found_at": {str(k): value for k, value in self.found_at.items()},
            "r_precision": self.r_precision,
            "map_at_r": self.map_at_r,
        }


@dataclass(frozen=True, eq=False)
class CodeEvaluation(Evaluation):
    """An `Evaluation` of codes, and what only whole Hamming distances allow.

    Attributes:
        bits: int. Length of the codes.
        radius: int. Items at this Hamming distance or a smaller one are within it; the pool of
            `threshold = radius + 1`.
        precision_within: float. Mean of relevant / all items within the radius; a query with
            nothing within counts as 0.
        recall_within: float. Mean of relevant items within the radius / all relevant items.
        queries_with_nothing_within: int. Those that counted as 0.
        items_at_distance: int64 array of shape `(bits + 1,)`. Pairs of query and item at each
            Hamming distance, of the queries that have relevant items.
        relevant_at_distance: int64 array of the same shape. Those pairs that are relevant.
    """

    bits: int
    radius: int
    precision_within: float
    recall_within: float
    queries_with_nothing_within: int
    items_at_distance: np.ndarray
    relevant_at_distance: np.ndarray

    def precision_recall_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall of all pairs within 0, 1, ... `bits` bits, all queries together.

        Returns:
            precision: float64 array of shape `(bits + 1,)`; NaN where no pair is so near.
            recall: float64 array of the same shape, ascending to 1.
        """
        items = np.cumsum(self.items_at_distance)
        relevant = np.cumsum(self.relevant_at_distance)
        precision = np.where(items > 0, _divide(relevant, items), np.nan)
        return precision, relevant / relevant[-1]

    def to_dict(self) -> dict[str, Any]:
        """Give the figures as a JSON object."""
        return super().to_dict() | {
            "bits": self.bits,
            "radius": self.radius,
            "precision_within": self.precision_within,
            "recall_within": self.recall_within,
            "queries_with_nothing_within": self.queries_with_nothing_within,
        }


def evaluate_codes(
    query_codes: np.ndarray,
    query_labels: np.ndarray,
    database_codes: np.ndarray,
    database_labels: np.ndarray,
    *,
    num_bits: int,
    at: int = 1000,
    ks: Sequence[int] = KS,
    radius: int = 2,
    exclude_self: bool = False,
) -> CodeEvaluation:
    """Rank a database by Hamming distance from each query, and score the rankings.

    Args:
        query_codes: uint8 array of shape `(q, code_bytes)`.
        query_labels: int or str array of shape `(q,)`, an item is relevant if its label is the
            same; or bool array of shape `(q, num_classes)`, if it shares at least one class.
        database_codes: uint8 array of shape `(n, code_bytes)`.
        database_labels: int or str array of shape `(n,)`, or bool array of shape
            `(n, num_classes)`, as the labels of the queries.
        num_bits: int. Length of the codes.
        at: int. The R of mAP@R.
        ks: ints. Where to take precision and recall.
        radius: int. Largest Hamming distance, inclusive, of precision and recall within a radius.
        exclude_self: bool. Where the queries are the database, row by row: leave each query's
            own row out of its ranking.

    Returns:
        CodeEvaluation.

    Raises:
        ShapeError: if codes or labels do not fit each other or `num_bits`.
        ArgumentError: if an argument is out of range, if there is nothing to rank, if no query
            has any relevant item, or if `exclude_self` is asked for two different sets.

    Example:
        >>> database = np.array([[0b0000], [0b0001], [0b1111]], dtype="uint8") << 4
        >>> result = evaluate_codes(
        ...     database[:1], np.array([5]), database, np.array([5, 5, 9]), num_bits=4
        ... )
        >>> result.map_all.expected, result.precision_at[1], result.precision_within
        (1.0, 1.0, 1.0)
    """
    codes.validate(query_codes, num_bits)
    codes.validate(database_codes, num_bits)
    if not isinstance(radius, int | np.integer) or not 0 <= radius <= num_bits:
        raise ArgumentError(
            f"The radius is an integer from 0 to the {num_bits} bits of the codes.",
            f"radius={radius}",
            "2 is the usual choice.",
        )
    _check_sets("codes", query_codes, database_codes, exclude_self)
    is_relevant = _relevance(query_labels, database_labels, len(query_codes), len(database_codes))
    depth = _checked_depth(at, ks)
    num_ranked = len(database_codes) - exclude_self
    query_words, database_words = _words(query_codes), _words(database_codes)
    # A query's own row is put one farther than any other can be, and cut off there.
    distance_dtype = np.min_scalar_type(num_bits + 1)

    scores, within = [], []
    for block in _blocks(len(query_codes), 256):
        items = np.empty((len(block), num_bits + 1), np.int64)
        relevant_items = np.empty_like(items)
        head = np.empty((len(block), min(depth, num_ranked)), bool)
        for place, query in enumerate(block):
            distance = _bits_apart(query_words[:, query], database_words, distance_dtype)
            relevant = is_relevant(query)
            if exclude_self:
                distance[query], relevant[query] = num_bits + 1, False
            items[place] = np.bincount(distance, minlength=num_bits + 1)[: num_bits + 1]
            relevant_items[place] = np.bincount(distance[relevant], minlength=num_bits + 1)
            # NumPy's stable sort of one or two bytes is a radix sort: linear, and ties by row.
            head[place] = relevant[np.argsort(distance, kind="stable")[: head.shape[1]]]
        ap_all = tie_aware_ap_from_counts(items, relevant_items)
        ap_at = tie_aware_ap_from_counts(items, relevant_items, at=at)
        first = _first_hits(items, relevant_items)
        scores.append(_score(head, relevant_items.sum(axis=1), ap_all, ap_at, first, at, ks))
        within.append(_score_within(items, relevant_items, radius))

    means = _means(_joined(scores), num_ranked, at, ks)
    inside = _joined(within)
    return CodeEvaluation(
        **means,
        bits=num_bits,
        radius=radius,
        precision_within=float(inside["precision"].mean()),
        recall_within=float(inside["recall"].mean()),
        queries_with_nothing_within=int(np.count_nonzero(inside["nothing"])),
        items_at_distance=inside["items"].sum(axis=0),
        relevant_at_distance=inside["relevant"].sum(axis=0),
    )


def evaluate_features(
    query_features: np.ndarray,
    query_labels: np.ndarray,
    database_features: np.ndarray,
    database_labels: np.ndarray,
    *,
    at: int = 1000,
    ks: Sequence[int] = KS,
    exclude_self: bool = False,
) -> Evaluation:
    """Rank a database by Euclidean distance from each query, and score the rankings.

    Squared distances come from a matrix product in float32. Its rounding may order items whose
    distances agree to some seven digits of the squared lengths of the features either way, and
    only features of few exact values (such as one-hot ones) keep exact ties.

    Args:
        query_features: float array of shape `(q, feature_dim)`, computed with as float32.
        query_labels: as in `evaluate_codes`.
        database_features: float array of shape `(n, feature_dim)`.
        database_labels: as in `evaluate_codes`.
        at: int. The R of mAP@R.
        ks: ints. Where to take precision and recall.
        exclude_self: bool. Where the queries are the database, row by row: leave each query's
            own row out of its ranking.

    Returns:
        Evaluation.

    Raises:
        ShapeError: if features or labels do not fit each other.
        ArgumentError: if an argument is out of range, if a feature is not finite, if there is
            nothing to rank, if no query has any relevant item, or if `exclude_self` is asked for
            two different sets.

    Example:
        >>> features = np.array([[0.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
        >>> result = evaluate_features(features, np.array([1, 1, 2]), features, np.array([1, 1, 2]))
        >>> result.map_all.expected, result.precision_at[1]
        (1.0, 1.0)
    """
    query_features = _checked_features("query_features", query_features)
    database_features = _checked_features("database_features", database_features)
    _check_sets("features", query_features, database_features, exclude_self)
    is_relevant = _relevance(
        query_labels, database_labels, len(query_features), len(database_features)
    )
    depth = _checked_depth(at, ks)
    num_ranked = len(database_features) - exclude_self
    squared_length = np.einsum("nd,nd->n", database_features, database_features)
    all_rows = np.arange(len(database_features), dtype=np.uint64)

    scores = []
    for block in _blocks(len(query_features), max(1, DISTANCES_A_BLOCK // len(database_features))):
        part = query_features[block.start : block.stop]
        squared = part @ database_features.T
        squared *= -2
        squared += squared_length
        squared += np.einsum("nd,nd->n", part, part)[:, None]
        squared[squared <= 0] = 0
        if exclude_self:
            squared[np.arange(len(block)), list(block)] = np.inf
        head = np.empty((len(block), min(depth, num_ranked)), bool)
        num_relevant = np.empty(len(block), np.int64)
        ap_all, ap_at = np.empty((3, len(block))), np.empty((3, len(block)))
        first = []
        for place, query in enumerate(block):
            # Floats from zero up sort as the integers of the same bits, so distance and row
            # make one integer, and an ordinary fast sort leaves ties by row.
            keys = squared[place].view(np.uint32).astype(np.uint64) << np.uint64(32) | all_rows
            keys.sort()
            keys = keys[:num_ranked]
            relevant = is_relevant(query)[keys & np.uint64(2**32 - 1)]
            ties = _count_ties(keys >> np.uint64(32), relevant)
            ap_all[:, place] = tie_aware_ap_from_counts(*ties)
            ap_at[:, place] = tie_aware_ap_from_counts(*ties, at=at)
            first.append(_first_hits(*(counts[None] for counts in ties)))
            head[place] = relevant[: head.shape[1]]
            num_relevant[place] = np.count_nonzero(relevant)
        cases = TieAwareAP(*ap_all), TieAwareAP(*ap_at)
        scores.append(_score(head, num_relevant, *cases, _joined(first), at, ks))
    return Evaluation(**_means(_joined(scores), num_ranked, at, ks))


def evaluate_rankings(
    rankings: Sequence[np.ndarray],
    num_relevant: np.ndarray,
    *,
    database: int,
    at: int = 1000,
    ks: Sequence[int] = KS,
) -> Evaluation:
    """Score rankings that were made elsewhere, such as pools ranked by the fine stage.

    A ranking may list fewer items than the database has; relevant items that it leaves out are
    never found. Their order is taken as it is, so the three cases of every tie-aware figure
    agree.

    Args:
        rankings: q bool arrays of shape `(p,)`, p free for each: is the item at this rank
            relevant, nearest first.
        num_relevant: int array of shape `(q,)`. Relevant items in the whole database.
        database: int. Items a query is ranked against.
        at: int. The R of mAP@R.
        ks: ints. Where to take precision and recall.

    Returns:
        Evaluation.

    Raises:
        ShapeError: if a ranking is no bool array of one axis, or `num_relevant` does not have one
            integer for each.
        ArgumentError: if a ranking lists more items than the database has, or more relevant
            ones than there are; if an argument is out of range; or if no query has any relevant
            item.

    Example:
        >>> result = evaluate_rankings(
        ...     [np.array([True, False]), np.array([False])], np.array([1, 1]), database=10
        ... )
        >>> result.map_all.expected
        0.5
    """
    num_relevant = np.asarray(num_relevant)
    if num_relevant.shape != (len(rankings),) or not np.issubdtype(num_relevant.dtype, np.integer):
        raise ShapeError(
            "Every ranking needs its number of relevant items.",
            f"{len(rankings)} rankings, {_described('num_relevant', num_relevant)}",
            "Pass an integer array of shape (q,).",
        )
    if not len(rankings):
        raise ArgumentError("There is at least one query.", "0 rankings", "Are the folders empty?")
    rankings = [_checked_relevant(ranking) for ranking in rankings]
    longest = max(map(len, rankings))
    if any(ranking.ndim != 1 for ranking in rankings) or longest > database:
        raise ArgumentError(
            "A ranking lists each item of the database at most once, one query at a time.",
            f"rankings of up to {longest} items, database={database}",
            "Pass a list of arrays of shape (p,).",
        )
    depth = min(_checked_depth(at, ks), longest)

    scores = []
    for query, ranking in enumerate(rankings):
        present = num_relevant[query : query + 1]
        head = np.zeros((1, depth), bool)
        head[0, : len(ranking)] = ranking[:depth]
        ap_all = average_precision(ranking[None], num_relevant=present)
        ap_at = average_precision(ranking[None], at=at, num_relevant=present)
        first = _first_of_ranking(ranking, int(present[0]))
        scores.append(
            _score(
                head, present, TieAwareAP(*[ap_all] * 3), TieAwareAP(*[ap_at] * 3), first, at, ks
            )
        )
    return Evaluation(**_means(_joined(scores), database, at, ks))


# --- Inside ---------------------------------------------------------------------------------------


def _ap_of_counts(
    items: np.ndarray, relevant: np.ndarray, at: int | np.ndarray | None
) -> TieAwareAP:
    """`tie_aware_ap_from_counts` of checked counts; `at` may be an array, one for each query."""
    items_before = np.cumsum(items, axis=-1) - items
    relevant_before = np.cumsum(relevant, axis=-1) - relevant
    num_relevant = relevant.sum(axis=-1)
    # A rank that no ranking reaches cuts nothing off.
    last_rank = np.asarray(items.sum() if at is None else at)
    divisor = np.minimum(last_rank, num_relevant)
    room = np.maximum(last_rank[..., None] - items_before, 0)

    # Expected: (N+ + 1 + (t-1) r) / (N + t) = r + (N+ + 1 - r (N + 1)) / (N + t).
    chance = _divide(relevant, items)
    # A tie of one has no (t - 1): any r will do, 0 too.
    slope = _divide(relevant - 1, items - 1)
    listed = np.minimum(items, room)
    offset = relevant_before + 1 - slope * (items_before + 1)
    expected = chance * (slope * listed + offset * _reciprocals(items_before, listed))

    irrelevant_before = items_before - relevant_before
    found = np.minimum(relevant, room)
    best = found - irrelevant_before * _reciprocals(items_before, found)

    irrelevant_before = irrelevant_before + items - relevant
    found = np.minimum(relevant, np.maximum(room - (items - relevant), 0))
    worst = found - irrelevant_before * _reciprocals(items_before + items - relevant, found)

    return TieAwareAP(*(_divide(case.sum(axis=-1), divisor) for case in (expected, best, worst)))


def _found_of_counts(items: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    listed = np.clip(k - (np.cumsum(items, axis=-1) - items), 0, items)
    none = np.ones(items.shape)
    # Of each tie, the chance that none of the items listed is relevant; k factors at most.
    for place in range(min(k, int(listed.max(initial=0)))):
        chance = _divide(np.maximum(items - relevant - place, 0), items - place)
        none = np.where(place < listed, none * chance, none)
    return 1 - none.prod(axis=-1)


def _r_precision_of_counts(items: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    num_relevant = relevant.sum(axis=-1, keepdims=True)
    listed = np.clip(num_relevant - (np.cumsum(items, axis=-1) - items), 0, items)
    found = (listed * _divide(relevant, items)).sum(axis=-1)
    return _divide(found, num_relevant[..., 0])


def _map_at_r_of_counts(items: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    # Where nothing is relevant any rank will do: there is nothing to find.
    last_rank = np.maximum(relevant.sum(axis=-1), 1)
    return np.asarray(_ap_of_counts(items, relevant, last_rank).expected)


def _first_hits(items: np.ndarray, relevant: np.ndarray) -> dict[str, np.ndarray]:
    """What classes never seen are judged by, of a block of queries, from counts by distance."""
    return {
        "found_at": np.stack([_found_of_counts(items, relevant, k) for k in FOUND_KS], axis=-1),
        "r_precision": _r_precision_of_counts(items, relevant),
        "map_at_r": _map_at_r_of_counts(items, relevant),
    }


def _first_of_ranking(ranking: np.ndarray, num_relevant: int) -> dict[str, np.ndarray]:
    """The same as `_first_hits` of one ranking without ties, which may leave items out."""
    at = max(num_relevant, 1)
    found = [[bool(ranking[:k].any()) for k in FOUND_KS]]
    return {
        "found_at": np.array(found, np.float64),
        "r_precision": np.array([np.count_nonzero(ranking[:num_relevant]) / at]),
        "map_at_r": np.array([average_precision(ranking, at=at, num_relevant=num_relevant)]),
    }


def _blocks(num_items: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, num_items)) for start in range(0, num_items, size))


def _words(packed: np.ndarray) -> np.ndarray:
    """View codes as 64-bit words, `(num_words, n)`; zeros behind the code cancel out."""
    padded = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return np.ascontiguousarray(padded.view(np.uint64).T)


def _bits_apart(query: np.ndarray, database: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Hamming distances of one query, `(num_words,)`, and all items, `(num_words, n)`."""
    distance = np.zeros(database.shape[1], dtype)
    for query_word, database_word in zip(query, database, strict=True):
        distance += np.bitwise_count(database_word ^ query_word)
    return distance


def _reciprocals(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Sum 1 / (start + t) for t = 1 .. count."""
    # One term comes without logarithms, so that they round nothing where there are no ties.
    return np.where(count == 1, 1 / (start + 1), _harmonic(start + count) - _harmonic(start))


_SMALL_HARMONIC = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 64))])


def _harmonic(n: np.ndarray) -> np.ndarray:
    """Sum 1 / i for i = 1 .. n, by Euler's expansion where its error is below rounding."""
    large = np.maximum(n, 64).astype(np.float64)
    square = large * large
    series = (1 / 12 - (1 / 120 - 1 / (252 * square)) / square) / square
    expansion = np.log(large) + np.euler_gamma + 0.5 / large - series
    return np.where(n < 64, _SMALL_HARMONIC[np.minimum(n, 63)], expansion)


def _count_ties(distances: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count items and relevant items at each distance of one sorted ranking."""
    if not len(distances):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.flatnonzero(np.append(True, distances[1:] != distances[:-1]))
    holds = np.add.reduceat(relevant, starts, dtype=np.int64) > 0
    # Neighbouring ties without any relevant item may be counted as one: their order is no matter.
    starts = starts[np.append(True, holds[1:] | holds[:-1])]
    items = np.diff(starts, append=len(distances))
    return items, np.add.reduceat(relevant, starts, dtype=np.int64)


def _relevance(
    query_labels: np.ndarray, database_labels: np.ndarray, num_queries: int, num_items: int
) -> Callable[[int], np.ndarray]:
    """Give a function from a query to a new bool array `(n,)`: which items are relevant."""
    query_labels, database_labels = np.asarray(query_labels), np.asarray(database_labels)
    both = (query_labels, database_labels)
    if (len(query_labels), len(database_labels)) != (num_queries, num_items):
        raise ShapeError(
            "Every query and every item needs a label or a row of labels.",
            f"{num_queries} queries with {len(query_labels)} labels, "
            f"{num_items} items with {len(database_labels)} labels",
            "Were some images skipped when they were encoded?",
        )
    single = all(labels.ndim == 1 for labels in both) and any(
        all(np.issubdtype(labels.dtype, kind) for labels in both) for kind in (np.integer, np.str_)
    )
    if single:
        classes = np.unique(np.concatenate(both), return_inverse=True)[1].astype(np.int32)
        class_of_query, class_of_item = classes[:num_queries], classes[num_queries:]
        return lambda query: class_of_item == class_of_query[query]
    multiple = all(labels.ndim == 2 and labels.dtype == np.bool_ for labels in both)
    if multiple and query_labels.shape[1] == database_labels.shape[1]:
        items_of_class = np.ascontiguousarray(database_labels.T)
        return lambda query: items_of_class[query_labels[query]].any(axis=0)
    raise ShapeError(
        "Labels are integers or names of shape (n,), or bool of shape (n, num_classes); both "
        "sets alike.",
        f"{_described('query_labels', query_labels)}, "
        f"{_described('database_labels', database_labels)}",
        "Several labels per image need one bool column for each class.",
    )


def _score(
    head: np.ndarray,
    num_relevant: np.ndarray,
    ap_all: TieAwareAP,
    ap_at: TieAwareAP,
    first: dict[str, np.ndarray],
    at: int,
    ks: Sequence[int],
) -> dict[str, np.ndarray]:
    """Score a block of queries, one row each; `head` holds the first ranks, ties by row."""
    return {
        "num_relevant": num_relevant,
        "ap_all": np.stack(ap_all, axis=1),
        "ap_at": np.stack(ap_at, axis=1),
        "found": np.asarray(average_precision(head, at=at, denominator="found")),
        "of_relevant": np.asarray(average_precision(head, at=at, num_relevant=num_relevant)),
        "precision": np.stack([precision_at(head, k) for k in ks], axis=1),
        "recall": np.stack([recall_at(head, k, num_relevant=num_relevant) for k in ks], axis=1),
        **first,
    }


def _score_within(
    items: np.ndarray, relevant_items: np.ndarray, radius: int
) -> dict[str, np.ndarray]:
    """Score a block of queries by radius, leaving out those without any relevant item."""
    answerable = relevant_items.sum(axis=1) > 0
    items, relevant_items = items[answerable], relevant_items[answerable]
    inside = items[:, : radius + 1].sum(axis=1)
    relevant_inside = relevant_items[:, : radius + 1].sum(axis=1)
    return {
        "precision": _divide(relevant_inside, inside),
        "recall": relevant_inside / relevant_items.sum(axis=1),
        "nothing": inside == 0,
        "items": items.sum(axis=0, keepdims=True),
        "relevant": relevant_items.sum(axis=0, keepdims=True),
    }


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _means(
    scores: dict[str, np.ndarray], database: int, at: int, ks: Sequence[int]
) -> dict[str, Any]:
    """Average over the queries that have relevant items: the fields of an `Evaluation`."""
    answerable = scores["num_relevant"] > 0
    if not answerable.any():
        raise ArgumentError(
            "At least one query has a relevant item in the database.",
            f"{len(answerable)} queries, none with any",
            "Do queries and database use the same labels?",
        )
    mean = {name: values[answerable].mean(axis=0) for name, values in scores.items()}
    return {
        "queries": len(answerable),
        "queries_without_relevant": int(np.count_nonzero(~answerable)),
        "database": database,
        "at": at,
        "map_all": TieAwareAP(*mean["ap_all"].tolist()),
        "map_at": float(mean["found"]),
        "map_at_of_relevant": float(mean["of_relevant"]),
        "map_at_tie_aware": TieAwareAP(*mean["ap_at"].tolist()),
        "precision_at": dict(zip(ks, mean["precision"].tolist(), strict=True)),
        "recall_at": dict(zip(ks, mean["recall"].tolist(), strict=True)),
        "found_at": dict(zip(FOUND_KS, mean["found_at"].tolist(), strict=True)),
        "r_precision": float(mean["r_precision"]),
        "map_at_r": float(mean["map_at_r"]),
        "ap_of_query": np.where(answerable, scores["ap_all"][:, 0], np.nan),
    }


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Divide, with 0 where the divisor is 0."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.zeros(a.shape), where=b != 0)


def _plain(value: np.ndarray) -> float | np.ndarray:
    return float(value) if np.ndim(value) == 0 else value


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ArgumentError(
            f"{name} is a positive integer.",
            f"{name}={value!r}",
            "Ranks count from 1; a number beyond the last rank is fine.",
        )


def _check_at(at: int | None) -> None:
    if at is not None:
        _check_positive("at", at)


def _checked_depth(at: int, ks: Sequence[int]) -> int:
    """Return the deepest rank that mAP@R, precision and recall look at."""
    if not len(ks):
        raise ArgumentError(
            "Precision and recall need at least one rank.",
            f"ks={ks!r}",
            f"{KS} is the usual choice.",
        )
    for k in ks:
        _check_positive("Every k of ks", k)
    _check_positive("at", at)
    return int(max(at, *ks))


def _checked_relevant(relevant: np.ndarray) -> np.ndarray:
    relevant = np.asarray(relevant)
    if relevant.ndim not in (1, 2) or relevant.dtype != np.bool_:
        raise ShapeError(
            "Relevance is a bool array of shape (n,) or (q, n), in rank order.",
            _described("relevant", relevant),
            "Compare labels with ==, and order the result by rank.",
        )
    return relevant


def _checked_num_relevant(
    relevant: np.ndarray, num_relevant: int | np.ndarray | None
) -> np.ndarray:
    listed = np.asarray(np.count_nonzero(relevant, axis=-1))
    if num_relevant is None:
        return listed
    num_relevant = np.asarray(num_relevant)
    if num_relevant.shape not in ((), listed.shape):
        raise ShapeError(
            "Every ranking needs its number of relevant items.",
            f"num_relevant.shape={num_relevant.shape}, relevant.shape={relevant.shape}",
            "Pass one integer, or one for each ranking.",
        )
    if np.any(num_relevant < listed):
        raise ArgumentError(
            "The database has at least the relevant items that a ranking lists.",
            f"num_relevant={num_relevant}, {listed} listed",
            "Was num_relevant counted for the same queries?",
        )
    return num_relevant


def _checked_counts(items: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    items, relevant = np.asarray(items), np.asarray(relevant)
    whole = all(np.issubdtype(counts.dtype, np.integer) for counts in (items, relevant))
    if items.shape != relevant.shape or items.ndim not in (1, 2) or not whole:
        raise ShapeError(
            "Counts are two integer arrays of one shape, (num_distances,) or (q, num_distances).",
            f"{_described('items_per_distance', items)}, "
            f"{_described('relevant_per_distance', relevant)}",
            "Count with np.bincount, with the same minlength.",
        )
    if np.any(relevant < 0) or np.any(relevant > items):
        raise ArgumentError(
            "At each distance the number of relevant items is between 0 and that of all items.",
            "more relevant items than items, or a negative count",
            "Were both counted over the same items?",
        )
    # Signed and wide: sums and differences of small or unsigned counts would wrap around.
    return items.astype(np.int64), relevant.astype(np.int64)


def _checked_features(name: str, features: np.ndarray) -> np.ndarray:
    features = np.asarray(features)
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise ShapeError(
            "Features are a float array of shape (n, feature_dim).",
            _described(name, features),
            "Rank codes with evaluate_codes instead.",
        )
    features = np.ascontiguousarray(features, dtype=np.float32)
    if not np.isfinite(features).all():
        raise ArgumentError(
            "Features are finite.", f"NaN or infinity in {name}", "Look for NaN in the images."
        )
    return features


def _check_sets(name: str, query: np.ndarray, database: np.ndarray, exclude_self: bool) -> None:
    if query.ndim != 2 or database.ndim != 2 or query.shape[1] != database.shape[1]:
        raise ShapeError(
            f"Query and database {name} are two arrays with rows of the same length.",
            f"shapes {query.shape} and {database.shape}",
            "Were both made by the same model?",
        )
    if exclude_self and not np.array_equal(query, database):
        raise ArgumentError(
            "A query can be left out of its own ranking where the queries are the database.",
            f"exclude_self=True with two different sets of {name}",
            "Pass the same array twice, or exclude_self=False.",
        )
    if len(query) < 1 or len(database) < 1 + exclude_self:
        raise ArgumentError(
            "There is at least one query and one item to rank.",
            f"{len(query)} queries, {len(database)} items, exclude_self={exclude_self}",
            "Are the folders empty?",
        )


def _described(name: str, array: np.ndarray) -> str:
    return f"{name}.dtype={array.dtype}, {name}.shape={array.shape}"
