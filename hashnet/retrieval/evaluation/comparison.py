"""Ways to describe images, set side by side: what each finds, takes and costs on the same queries.

All images of the database are ranked for each query, no pool drawn: what differs is what they are
ranked by, and nothing else.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hashnet import codes, metrics
from hashnet.images import Problem
from hashnet.retrieval.evaluation import significance
from hashnet.retrieval.evaluation.ground_truth import Database, QuerySet
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.fine import nearest_features
from hashnet.retrieval.search.ranking import Ranking

SHOWN = 5  # hits of a query that a report shows


@dataclass(frozen=True, eq=False)
class Described:
    """Images and queries by one feature.

    Attributes:
        name: str.
        database: float32 `(n, d)`, each of length 1.
        queries: float32 `(q, d)`, likewise.
        milliseconds: float. To compute one, once the network is there; median.
        bytes_per_image: int. What an index keeps of it.
    """

    name: str
    database: np.ndarray
    queries: np.ndarray
    milliseconds: float
    bytes_per_image: int


@dataclass(frozen=True, eq=False)
class Coded:
    """Codes that were fitted to a feature of the database.

    Attributes:
        num_bits: int.
        database: uint8 `(n, code_bytes)`.
        queries: uint8 `(q, code_bytes)`.
        ranking: function of a query's place to its `Ranking`.
    """

    num_bits: int
    database: np.ndarray
    queries: np.ndarray
    ranking: Callable[[int], Ranking]


@dataclass(frozen=True, eq=False)
class Method:
    """What one way of ranking found.

    Attributes:
        name: str: of the feature, and of what is made of it.
        described_by: str, the name of the feature alone.
        bytes_per_image: int. What an index keeps for it.
        encode_milliseconds, search_milliseconds: float, medians, of one image and one query.
        average_precision: float64 `(q,)`, over all images, expected over every order of ties.
        found_at_1: bool `(q,)`. Whether the first hit is relevant, ties by row.
        hits: int64 `(q, SHOWN)` or narrower, rows, best first.
    """

    name: str
    described_by: str
    bytes_per_image: int
    encode_milliseconds: float
    search_milliseconds: float
    average_precision: np.ndarray
    found_at_1: np.ndarray
    hits: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Methods on the same queries, the first of them the one that others are compared with.

    Attributes:
        methods: list of `Method`.
        paths: list of str, of the images of the database.
        queries: list of str, paths.
        relevant: list of int64 arrays, rows, one a query.
        protocol: str. What was measured, in words.
        problems: list of `Problem`. What was skipped or not understood.
        seed: int. Of intervals and tests.
    """

    methods: list[Method]
    paths: list[str]
    queries: list[str]
    relevant: list[np.ndarray]
    protocol: str
    problems: list[Problem] = field(default_factory=list)
    seed: int = 0

    def __repr__(self) -> str:
        scores = ", ".join(f"{one.name} {one.average_precision.mean():.4f}" for one in self.methods)
        return f"{len(self.queries)} queries, {len(self.paths)} images\nmAP: {scores}"

    def figures(self) -> list[dict[str, Any]]:
        """What the methods found and cost.

        Returns:
            list of dict, one a method, that JSON can hold: its name and feature, `map` with
            its interval, `found_at_1`, bytes and milliseconds; and of all but the first
            `difference` of mAP to the first, with its interval, and `p`, the chance of one as large
            by accident (see `significance`).
        """
        first = self.methods[0].average_precision
        differences = [one.average_precision - first for one in self.methods[1:]]
        chances = significance.of_several(
            [significance.randomisation(one, seed=self.seed) for one in differences]
        )
        found = []
        for place, one in enumerate(self.methods):
            values = {
                "method": one.name,
                "feature": one.described_by,
                "map": _rounded(one.average_precision.mean()),
                "map_interval": self._interval(one.average_precision),
                "found_at_1": _rounded(one.found_at_1.mean()),
                "bytes_per_image": one.bytes_per_image,
                "encode_milliseconds": round(one.encode_milliseconds, 2),
                "search_milliseconds": round(one.search_milliseconds, 3),
            }
            if place:
                apart = differences[place - 1]
                values |= {
                    "difference": _rounded(apart.mean()),
                    "difference_interval": self._interval(apart),
                    "p": _rounded(chances[place - 1]),
                }
            found.append(values)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Give the comparison as a JSON object."""
        return {
            "queries": len(self.queries),
            "database": len(self.paths),
            "compared_with": self.methods[0].name,
            "methods": self.figures(),
            "protocol": self.protocol,
            "problems": [{"path": one.path, "reason": one.reason} for one in self.problems],
        }

    def _interval(self, values: np.ndarray) -> list[float]:
        return [_rounded(end) for end in significance.interval(values, seed=self.seed)]


def _rounded(value: float) -> float:
    return round(float(value), 4)


def methods_of(
    feature: Described,
    coded: Sequence[Coded],
    query_set: QuerySet,
    database: Database,
    *,
    num_threads: int,
    tell: Callable[[str, int, int], object],
) -> list[Method]:
    """Rank all images for each query by a feature, by each of its codes, and by both.

    Args:
        feature: `Described`.
        coded: list of `Coded`.
        query_set: `QuerySet`, each with something to find.
        database: `Database`, whose rows are those of `feature`.
        num_threads: int. Figures do not depend on it.
        tell: function of stage, done and total.

    Returns:
        list of `Method`: the feature alone, then for each length of codes these alone and both.
    """
    stored = np.ascontiguousarray(feature.database)
    every = np.arange(len(stored))

    def by_feature(query: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return nearest_features(
            feature.queries[query], rows, stored, len(rows), num_threads=num_threads
        )

    def measured(name: str, num_bytes: int, rank: Any) -> Method:
        precisions, firsts, hits, spent = [], [], [], []
        for query in range(len(query_set)):
            own = int(query_set.own[query])
            rows = every if own < 0 else every[every != own]
            start = time.perf_counter()
            ranked, distances = rank(query, rows)
            spent.append(time.perf_counter() - start)
            relevant = query_set.relevant(query, database)[ranked]
            expected = metrics.tie_aware_average_precision(distances, relevant).expected
            precisions.append(expected)
            firsts.append(relevant[0])
            hits.append(ranked[:SHOWN])
            tell(name, query + 1, len(query_set))
        return Method(
            name,
            feature.name,
            num_bytes,
            feature.milliseconds,
            float(np.median(spent)) * 1000,
            np.array(precisions),
            np.array(firsts),
            np.array(hits),
        )

    found = [measured(feature.name, feature.bytes_per_image, by_feature)]
    for one in coded:
        index = CodeIndex(one.database, num_threads=num_threads)

        def by_code(
            query: int, rows: np.ndarray, one: Coded = one, index: CodeIndex = index
        ) -> tuple[np.ndarray, np.ndarray]:
            bits = index.bits_apart(one.queries[query], rows)
            order = np.argsort(bits, kind="stable")
            return rows[order], bits[order]

        def by_both(
            query: int, rows: np.ndarray, one: Coded = one, index: CodeIndex = index
        ) -> tuple[np.ndarray, np.ndarray]:
            ranking = one.ranking(query)
            steps = index.steps_apart(one.queries[query], ranking.certainty.steps, rows)
            return nearest_features(
                feature.queries[query],
                rows,
                stored,
                len(rows),
                mean=ranking.mean,
                added=ranking.weight * steps,
                num_threads=num_threads,
            )

        of_code, width = f"{feature.name}, {one.num_bits} bits", codes.code_bytes(one.num_bits)
        found.append(measured(of_code, width, by_code))
        both = f"{of_code} and feature"
        found.append(measured(both, width + feature.bytes_per_image, by_both))
    return found
