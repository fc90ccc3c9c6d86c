"""What an evaluation found: figures of each way of ranking, of each stage, and examples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hashnet import metrics
from hashnet.images import Problem
from hashnet.retrieval.search.hits import Hit

RERANKED = "reranked"
COARSE, FINE, VERIFIED = "coarse", "coarse_to_fine", "verified"
SAME_OBJECT, WRITTEN = "same_object", "written"
# The pool ranked by features alone, as in the paper.
FINE_F7 = "coarse_to_fine_f7"
FLOAT, CLASS_ID, PROBABILITIES = "float_f7", "class_id", "class_probabilities"


@dataclass(frozen=True, eq=False)
class Row:
    """What one way of ranking scored.

    Attributes:
        name: str.
        evaluation: `Evaluation`, or None where it could not be measured.
        bits: int or None. Length of its codes; None where it ranks without codes.
        milliseconds: dict of stage to float, median for one query; empty where not timed.
        pool: dict or None. Mean, median and largest pool, and `recall`: the mean share of the
            relevant images that the pool holds.
        not_measured: str or None. Why there is no evaluation.
    """

    name: str
    evaluation: metrics.Evaluation | None = None
    bits: int | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    pool: dict[str, Any] | None = None
    not_measured: str | None = None

    @property
    def measured(self) -> metrics.Evaluation:
        """The evaluation of a way that could be measured."""
        assert self.evaluation is not None, self.not_measured
        return self.evaluation

    @property
    def map_all(self) -> float:
        """float: mAP over the whole database, expected over every order of ties."""
        return float(self.measured.map_all.expected)

    def to_dict(self, ks: Sequence[int]) -> dict[str, Any]:
        """Give the figures as a JSON object, with precision and recall at `ks` only.

        Args:
            ks: ints, of those that the evaluation was made with.

        Returns:
            dict that JSON can hold.
        """
        if self.evaluation is None:
            return {"not_measured": self.not_measured}
        figures = self.evaluation.to_dict()
        for shared in ("queries", "queries_without_relevant", "database"):
            del figures[shared]
        for name in ("precision_at", "recall_at"):
            figures[name] = {str(k): figures[name][str(k)] for k in ks}
        figures["bits"] = self.bits
        if self.milliseconds:
            figures["milliseconds"] = self.milliseconds
        if self.pool:
            figures["pool"] = self.pool
        return figures


@dataclass(frozen=True, eq=False)
class Stages:
    """What each further stage of a search adds, for the same queries.

    Attributes:
        queries: int. Some of those that have something to find, or all.
        verify_top: int. Candidates of each query that were verified.
        figures: dict of `coarse`, `coarse_to_fine`, `verified` and, where the index has a local
            pool, `same_object`, and where it was asked for, `written`, to a dict of `found_at_1`
            and `found_at_5`, the share of the queries with a relevant image among the first one or
            five, `map_all`, and `milliseconds`, the median for one query up to this stage.
        relevant_verified: float or None. Share of the relevant among the hits of `verified` that
            were compared which one geometry explains; None where there were none.
        non_relevant_verified: float or None. Share of the others that it explains.
        milliseconds: dict of `extract` and `verify`, and of `read` where text was read, to float,
            medians; to extract the local features of a query, or to read it, is no part of the
            stage, as its encoding is none.
    """

    queries: int
    verify_top: int
    figures: dict[str, dict[str, float]]
    relevant_verified: float | None
    non_relevant_verified: float | None
    milliseconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Give the figures as a JSON object."""
        return {
            "queries": self.queries,
            "verify_top": self.verify_top,
            **self.figures,
            "relevant_verified": self.relevant_verified,
            "non_relevant_verified": self.non_relevant_verified,
            "milliseconds": self.milliseconds,
        }


@dataclass(frozen=True)
class Example:
    """One query and what was found for it, coarse to fine.

    Attributes:
        query: str, path.
        label: str or None.
        average_precision: float. Coarse to fine, over the whole database.
        hits: tuple of `Hit`, best first.
        relevant: tuple of bool, one a hit.
    """

    query: str
    label: str | None
    average_precision: float
    hits: tuple[Hit, ...]
    relevant: tuple[bool, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give the example as a JSON object."""
        hits = [
            {
                "id": hit.id,
                "path": hit.path,
                "label": hit.label,
                "bits_apart": hit.bits_apart,
                "distance": hit.distance,
                "relevant": relevant,
            }
            for hit, relevant in zip(self.hits, self.relevant, strict=True)
        ]
        return {
            "query": self.query,
            "label": self.label,
            "average_precision": self.average_precision,
            "hits": hits,
        }


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationReport:
    """All that an evaluation found.

    Attributes:
        rows: dict of name to `Row`: `coarse`, `coarse_to_fine`, `reranked` where the query asks for
            it, then the baselines, of which
            `coarse_to_fine_f7` is there where the fine stage ranks by more than features.
        ks: tuple of int. Where precision and recall are reported.
        curve_ks: tuple of int, ascending. All ranks at which every row has precision and recall,
            from 1 to the size of the database; for plots.
        queries: int. Queries that were ranked, those without a relevant image included.
        queries_in_the_index: int. Those left out of their own ranking.
        problems: list of `Problem`. What was skipped or not understood.
        skipped_queries: list of str. Queries that were not ranked, by path or name.
        map_by_label: dict of label to float. Tie-aware mAP of the codes; empty for ground truth.
        map_by_bits: dict of name to dict of bits to float: tie-aware mAP at each length measured.
        bit_share: float64 `(bits,)`. Share of the database in which each bit is one.
        bit_correlation: float64 `(bits, bits)`. Of the bits over the database; 0 for a bit that
            never changes.
        best, worst: list of `Example`.
        protocol: str. What was measured, in words.
        stages: `Stages`, or None where nothing was verified.
    """

    rows: dict[str, Row]
    ks: tuple[int, ...]
    curve_ks: tuple[int, ...]
    queries: int
    queries_in_the_index: int
    problems: list[Problem]
    skipped_queries: list[str]
    map_by_label: dict[str, float]
    map_by_bits: dict[str, dict[int, float]]
    bit_share: np.ndarray
    bit_correlation: np.ndarray
    best: list[Example]
    worst: list[Example]
    protocol: str
    stages: Stages | None = None

    @property
    def coarse(self) -> Row:
        """The codes alone, over the whole database: what papers report."""
        return self.rows[COARSE]

    def __repr__(self) -> str:
        scores = [
            f"{name} {self.rows[name].map_all:.4f}"
            for name in (COARSE, FINE, RERANKED)
            if name in self.rows and self.rows[name].evaluation is not None
        ]
        if self.stages is not None:
            verified = self.stages.figures[VERIFIED]["map_all"]
            scores.append(f"{VERIFIED} {verified:.4f} (of {self.stages.queries} queries)")
        database = self.coarse.measured.database
        return (
            f"{self.queries} queries, {database} images in the database\nmAP: {', '.join(scores)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the report as a JSON object; the figures on top are those of the codes alone."""
        rows = {name: row.to_dict(self.ks) for name, row in self.rows.items()}
        own = [name for name in (COARSE, FINE, RERANKED) if name in rows]
        coarse, evaluation = rows[COARSE], self.coarse.measured
        at = f"map_at_{evaluation.at}"
        across = np.abs(self.bit_correlation[~np.eye(len(self.bit_share), dtype=bool)])
        return {
            "queries": self.queries,
            "database": evaluation.database,
            "bits": self.coarse.bits,
            at: coarse[at],
            "map_all": coarse["map_all"],
            "precision_at": coarse["precision_at"],
            "recall_at": coarse["recall_at"],
            "baselines": {name: row for name, row in rows.items() if name not in own},
            "protocol": self.protocol,
            **{name: rows[name] for name in own},
            **({} if self.stages is None else {"stages": self.stages.to_dict()}),
            "queries_without_relevant": evaluation.queries_without_relevant,
            "queries_in_the_index": self.queries_in_the_index,
            "skipped_queries": self.skipped_queries,
            "problems": [{"path": one.path, "reason": one.reason} for one in self.problems],
            "map_by_label": self.map_by_label,
            "map_by_bits": {
                name: {str(bits): value for bits, value in sorted(points.items())}
                for name, points in self.map_by_bits.items()
            },
            "bit_share": self.bit_share.round(4).tolist(),
            "bit_correlation_mean": float(across.mean()) if across.size else 0.0,
            "bit_correlation_max": float(across.max()) if across.size else 0.0,
            "best_queries": [example.to_dict() for example in self.best],
            "worst_queries": [example.to_dict() for example in self.worst],
        }
