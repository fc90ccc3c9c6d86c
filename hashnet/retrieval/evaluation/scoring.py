"""Score rankings of one database for the same queries; a query is not ranked against itself."""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from hashnet import metrics
from hashnet.retrieval.evaluation.ground_truth import Database, QuerySet
from hashnet.retrieval.evaluation.results import Row

# Called with what is being done, how much is done, and how much there is.
Tell = Callable[[str, int, int], object]
# Queries, their evaluation, and the average precision of each.
Part = tuple[np.ndarray, metrics.Evaluation, np.ndarray]

# Queries scored at once: bounds the memory of what is known for each pair of query and image.
LABELLED_BLOCK, LISTED_BLOCK = 1024, 256
# Leaving each query out by itself copies the database once a query. From one query for so many
# images on, ranking every image against every other is the faster way.
IMAGES_PER_QUERY = 16
_NOBODYS_LABEL = -2


@dataclass(frozen=True, eq=False)
class _Trial:
    """Some queries that are ranked together.

    Attributes:
        queries: int64. Which.
        query_labels, item_labels: as for `metrics.evaluate_codes`.
        without: int or None. Place of the one item that is left out.
        places: int64 or None. Not None where all items are ranked against all others: the
            place of each query among them.
    """

    queries: np.ndarray
    query_labels: np.ndarray
    item_labels: np.ndarray
    without: int | None = None
    places: np.ndarray | None = None


class Scorer:
    """Scores rankings of the same database for the same queries.

    Args:
        query_set: `QuerySet`, with codes, features and scores.
        database: `Database`.
        at: int. The R of mAP@R.
        ks: ints. Where precision and recall are taken.
        seed: int. Of the order of `rows`.
        tell: called with what is being done, how much is done, and how much there is.

    Attributes:
        query_set, database, at, ks, tell: as given.
        rows: int64 `(n,)`. The database in one random order, so that ties are not listed in
            the order of the index, which may be sorted by class.
    """

    def __init__(
        self,
        query_set: QuerySet,
        database: Database,
        *,
        at: int,
        ks: Sequence[int],
        seed: int,
        tell: Tell,
    ) -> None:
        self.query_set, self.database, self.tell = query_set, database, tell
        self.at, self.ks = at, ks
        self.rows = np.random.default_rng(seed).permutation(database.rows)

    def codes(
        self,
        name: str,
        query_codes: np.ndarray,
        database_codes: np.ndarray,
        num_bits: int,
        *,
        radius: int = 2,
    ) -> Row:
        """Score codes by their Hamming distance.

        Args:
            name: str, of the row.
            query_codes: uint8 `(q, code_bytes)`.
            database_codes: uint8 `(n, code_bytes)`, of `rows`.
            num_bits: int.
            radius: int. Where precision and recall within a distance are taken.

        Returns:
            `Row`.
        """
        score = partial(
            metrics.evaluate_codes,
            num_bits=num_bits,
            at=self.at,
            ks=self.ks,
            radius=min(radius, num_bits),
        )
        evaluation = self._scored(name, score, query_codes, database_codes, self.rows)
        return Row(name, evaluation, num_bits)

    def features(
        self,
        name: str,
        query_features: np.ndarray,
        database_features: np.ndarray,
        rows: np.ndarray,
        *,
        symmetric: bool = True,
    ) -> Row:
        """Score features by their Euclidean distance.

        Args:
            name: str, of the row.
            query_features: float `(q, d)`.
            database_features: float `(n, d)`, of `rows`.
            rows: int64 `(n,)`.
            symmetric: bool. Whether a query that is an image of the index has its feature there.

        Returns:
            `Row`.
        """
        score = partial(metrics.evaluate_features, at=self.at, ks=self.ks)
        evaluation = self._scored(name, score, query_features, database_features, rows, symmetric)
        return Row(name, evaluation)

    def joined(self, parts: Sequence[Part]) -> metrics.Evaluation:
        """Join evaluations of parts of the queries; each is a mean, and weighs as many queries.

        Args:
            parts: queries, evaluation and average precisions of each part.

        Returns:
            `Evaluation`, of the class of the first part's.
        """
        first = parts[0][1]
        weights = np.array([len(queries) for queries, _, _ in parts])

        def mean(get: Callable[[Any], Any]) -> float:
            return float(
                np.average([get(evaluation) for _, evaluation, _ in parts], weights=weights)
            )

        def mean_ap(name: str) -> metrics.TieAwareAP:
            return metrics.TieAwareAP(
                *(
                    mean(operator.attrgetter(f"{name}.{case}"))
                    for case in metrics.TieAwareAP._fields
                )
            )

        def mean_at(name: str) -> dict[int, float]:
            return {k: mean(partial(_value_at, name, k)) for k in getattr(first, name)}

        ap_of_query = np.full(len(self.query_set), np.nan)
        for queries, _, ap in parts:
            ap_of_query[queries] = ap
        joined: dict[str, Any] = {
            "queries": len(self.query_set),
            "queries_without_relevant": len(self.query_set) - int(weights.sum()),
            "database": len(self.database.rows),
            "map_all": mean_ap("map_all"),
            "map_at_tie_aware": mean_ap("map_at_tie_aware"),
            "map_at": mean(operator.attrgetter("map_at")),
            "map_at_of_relevant": mean(operator.attrgetter("map_at_of_relevant")),
            "precision_at": mean_at("precision_at"),
            "recall_at": mean_at("recall_at"),
            "found_at": mean_at("found_at"),
            "r_precision": mean(operator.attrgetter("r_precision")),
            "map_at_r": mean(operator.attrgetter("map_at_r")),
            "ap_of_query": ap_of_query,
        }
        if isinstance(first, metrics.CodeEvaluation):
            for name in ("precision_within", "recall_within"):
                joined[name] = mean(operator.attrgetter(name))
            for name in (
                "queries_with_nothing_within",
                "items_at_distance",
                "relevant_at_distance",
            ):
                joined[name] = sum(getattr(evaluation, name) for _, evaluation, _ in parts)
        return replace(first, **joined)

    def _scored(
        self,
        name: str,
        score: Callable[..., metrics.Evaluation],
        queries: np.ndarray,
        items: np.ndarray,
        rows: np.ndarray,
        symmetric: bool = True,
    ) -> metrics.Evaluation:
        parts: list[Part] = []
        done = 0
        for trial in self._trials(rows, symmetric):
            if trial.places is not None:
                evaluation = score(
                    items, trial.query_labels, items, trial.item_labels, exclude_self=True
                )
                ap = evaluation.ap_of_query[trial.places]
            else:
                others = items if trial.without is None else np.delete(items, trial.without, 0)
                evaluation = score(
                    queries[trial.queries], trial.query_labels, others, trial.item_labels
                )
                ap = evaluation.ap_of_query
            parts.append((trial.queries, evaluation, ap))
            done += len(trial.queries)
            self.tell(name, done, len(self.query_set.answerable))
        return self.joined(parts)

    def _trials(self, rows: np.ndarray, symmetric: bool) -> Iterator[_Trial]:
        """Split the queries that can be answered; a query is not ranked against itself."""
        query_set = self.query_set
        answerable = query_set.answerable
        labels = query_set.labels
        is_own = query_set.own[answerable] >= 0
        size = LABELLED_BLOCK if query_set.listed is None else LISTED_BLOCK
        for queries in blocks(answerable[~is_own], size):
            yield _Trial(queries, *self._labels(queries, rows))
        inside = answerable[is_own]
        if not len(inside):
            return
        place_of = np.empty(self.database.snapshot.num_rows, np.int64)
        place_of[rows] = np.arange(len(rows))
        places = place_of[query_set.own[inside]]
        worth_it = len(inside) * IMAGES_PER_QUERY > len(rows)
        each_once = len(np.unique(places)) == len(places)
        if symmetric and labels is not None and worth_it and each_once:
            # The index holds the same code and feature that the query was encoded to. Images
            # that are no queries get a label that nobody has, and so no part in any mean.
            query_labels = np.full(len(rows), _NOBODYS_LABEL, np.int32)
            query_labels[places] = labels[inside]
            yield _Trial(inside, query_labels, self.database.labels[rows], places=places)
            return
        for query, place in zip(inside, places, strict=True):
            query_labels, item_labels = self._labels(np.array([query]), rows)
            others = np.delete(item_labels, place, 0)
            yield _Trial(np.array([query]), query_labels, others, without=int(place))

    def _labels(self, queries: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        query_set = self.query_set
        if query_set.labels is not None:
            return query_set.labels[queries], self.database.labels[rows]
        assert query_set.listed is not None
        # Every query is a class of its own, and an image belongs to those it is relevant to.
        relevant = np.zeros((self.database.snapshot.num_rows, len(queries)), bool)
        for column, query in enumerate(queries):
            relevant[query_set.listed[query], column] = True
        return np.eye(len(queries), dtype=bool), relevant[rows]


def blocks(places: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Split places into blocks.

    Args:
        places: int64 `(n,)`.
        size: int. Of a block, at most.

    Returns:
        iterator of int64 arrays.
    """
    return (places[start : start + size] for start in range(0, len(places), size))


def _value_at(name: str, k: int, evaluation: metrics.Evaluation) -> float:
    value: float = getattr(evaluation, name)[k]
    return value
