"""How good an index is: labelled queries, searched and scored beside baselines.

The same queries, against the same images, in one run: the codes alone (*coarse*), the pool ranked
by features (*coarse to fine*), the features without hashing, and what plainer codes would give.
What was measured is said in words, in `EvaluationReport.protocol`.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from hashnet import codes, images, metrics
from hashnet.checks import checked_integer
from hashnet.errors import ArgumentError, HashnetError
from hashnet.retrieval.evaluation.ground_truth import Database, answerable, asked_of, encoded
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.engine import DEFAULT, Engine, least_pool
from hashnet.retrieval.search.fine import nearest_features
from hashnet.retrieval.search.hits import Hit, hits_of
from hashnet.retrieval.search.query import Query

COARSE, FINE, VERIFIED = "coarse", "coarse_to_fine", "verified"
FLOAT, CLASS_ID, PROBABILITIES = "float_f7", "class_id", "class_probabilities"

EXAMPLES = 8
HITS_PER_EXAMPLE = 8
# Exact searches without hashing that are timed; each reads every feature.
TIMED_SEARCHES = 10
# Queries whose hits are verified: with 100 pairs of images each, minutes.
VERIFY_QUERIES = 200
# Queries scored at once: bounds the memory of what is known for each pair of query and image.
LABELLED_BLOCK, LISTED_BLOCK = 1024, 256
# Leaving each query out by itself copies the database once a query. From one query for so many
# images on, ranking every image against every other is the faster way.
IMAGES_PER_QUERY = 16
_ROWS_AT_ONCE = 8192
_NO_LABEL, _NOBODYS_LABEL = -1, -2


# --- What comes out -------------------------------------------------------------------------------


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
    milliseconds: dict = field(default_factory=dict)
    pool: dict | None = None
    not_measured: str | None = None

    def to_dict(self, ks: Sequence[int]) -> dict:
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
        verify_top: int. Nearest images of each query that were verified.
        figures: dict of `coarse`, `coarse_to_fine` and `verified` to a dict of `found_at_1` and
            `found_at_5`, the share of the queries with a relevant image among the first one or
            five, `map_all`, and `milliseconds`, the median for one query up to this stage.
        relevant_verified: float or None. Share of the relevant among the verified images that
            geometry confirmed; None where there were none.
        non_relevant_verified: float or None. Share of the others that it confirmed.
        milliseconds: dict of `extract` and `verify` to float, medians; to extract the local
            features of a query is no part of the stage, as its encoding is none.
    """

    queries: int
    verify_top: int
    figures: dict
    relevant_verified: float | None
    non_relevant_verified: float | None
    milliseconds: dict

    def to_dict(self) -> dict:
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

    def to_dict(self) -> dict:
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


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """All that an evaluation found.

    Attributes:
        rows: dict of name to `Row`: `coarse`, `coarse_to_fine`, then the baselines.
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

    rows: dict
    ks: tuple
    curve_ks: tuple
    queries: int
    queries_in_the_index: int
    problems: list
    skipped_queries: list
    map_by_label: dict
    map_by_bits: dict
    bit_share: np.ndarray
    bit_correlation: np.ndarray
    best: list
    worst: list
    protocol: str
    stages: Stages | None = None

    @property
    def coarse(self) -> Row:
        """The codes alone, over the whole database: what papers report."""
        return self.rows[COARSE]

    def to_dict(self) -> dict:
        """Give the report as a JSON object; the figures on top are those of the codes alone."""
        rows = {name: row.to_dict(self.ks) for name, row in self.rows.items()}
        coarse, evaluation = rows[COARSE], self.coarse.evaluation
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
            "baselines": {name: row for name, row in rows.items() if name not in (COARSE, FINE)},
            "protocol": self.protocol,
            COARSE: coarse,
            FINE: rows[FINE],
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


# --- What is done ---------------------------------------------------------------------------------


def evaluate(
    index,
    queries,
    query: Query = DEFAULT,
    *,
    ground_truth: str | os.PathLike | None = None,
    ks: Sequence[int] = metrics.KS,
    at: int = 1000,
    baselines: Mapping[str, Callable] | None = None,
    baseline_bits: Sequence[int] = (),
    encode_database: bool = False,
    verify_queries: int = VERIFY_QUERIES,
    num_threads: int = 1,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> EvaluationReport:
    """Search an index by queries whose answers are known, and score what is found.

    A query that is itself an image of the index, by path, is left out of its own ranking.

    Memory: the codes and class scores of the database, and beside them about 1 GB. Features are
    read where they lie, except that those of an index with removed rows or of float16 are copied.

    Args:
        index: a `Index`.
        queries: path or paths, searched as `images.find` does. The label of a query is
            the first folder below the path given; an image of the index is relevant if its
            label is the same.
        query: a `Query`. How coarse to fine finds its pool, and whether, and how many of, the
            nearest images are also verified by their local features, for a report of the three
            stages side by side. `k` matters for the pool only; what narrows a search, or is made
            of its pictures, is refused.
        ground_truth: path of a JSON file `{query: [relevant, ...]}` or None. With it, labels do
            not matter: the queries are those that it names. A name means the one query or image
            whose path, or id, it is or whose path it ends, by whole folder names.
        ks: ints. Where precision and recall are reported.
        at: int. The R of mAP@R.
        baselines: mapping of name to function, `(features, num_bits, *, seed)` to an object with
            `kernel` `(feature_dim, num_bits)` and `bias` `(num_bits,)`, as those of
            `hashnet.train.label_free`. Fitted to the database's features; a bit is one where
            `feature @ kernel + bias` is at least 0.
        baseline_bits: ints. Code lengths at which the baselines are measured besides the index's.
        encode_database: bool. Read and encode the images of the index again where their class
            scores do not follow from what it holds (networks with `scores_from="feature"`);
            without it, such a network has no class baselines.
        verify_queries: int. So many queries are verified, drawn by chance where there are more;
            the stages before are scored for the same ones.
        num_threads: int. Threads of the search; figures do not depend on it.
        seed: int. Of the order in which ties are listed, of the baselines, of which queries are
            verified, and of which examples are shown among equally good ones.
        progress: called with what is being done, how much is done, and how much there is.

    Returns:
        An `EvaluationReport`.

    Raises:
        ArgumentError: an argument is out of range, the ground truth is no such file, the index
            has no labels where they are needed, or no query has any relevant image.
        StoreError: images are to be verified, and the index has no local features.

    Example:
        >>> import os, shutil
        >>> from hashnet.retrieval.index import Index
        >>> os.makedirs("queries/cat")
        >>> _ = shutil.copy("cat.png", "queries/cat")
        >>> report = evaluate(Index.open(index_folder), "queries")
        >>> report.queries, report.coarse.evaluation.map_all.expected
        (1, 1.0)
    """
    _check(query, at, ks, verify_queries)
    extractor = index.extractor if query.verify else None
    tell = progress or (lambda stage, done, total: None)
    engine = Engine(index, num_threads=num_threads)
    with engine.snapshot as snapshot:
        query = replace(query, pool=least_pool(query, snapshot.num_items))
        database = Database(snapshot)
        asked = asked_of(queries, ground_truth, database)
        asked = encoded(asked, index.encoder, tell)
        asked = answerable(asked, database)
        curve_ks = _curve_ks(len(database.rows))
        judge = _Judge(asked, database, at, sorted({*ks, *curve_ks}), seed, tell)
        num_bits = index.store.num_bits

        rows = {COARSE: judge.codes(COARSE, asked.codes, database.codes(judge.rows), num_bits)}
        rank = judge.ranker(query, num_threads)
        rows[FINE] = judge.coarse_to_fine(num_bits, rank)
        # Both rows begin with the codes, and the time of that was taken once.
        spent = {"coarse": rows[FINE].milliseconds["coarse"]}
        rows[COARSE] = replace(rows[COARSE], milliseconds=spent)
        rows |= judge.without_hashing(num_threads)
        rows |= judge.by_class(index.encoder, encode_database)
        map_by_bits = {"index": {num_bits: rows[COARSE].evaluation.map_all.expected}}
        for name, fit in (baselines or {}).items():
            measured = judge.projected(name, fit, {num_bits, *baseline_bits}, seed, num_bits)
            rows[name] = measured[num_bits]
            map_by_bits[name] = {
                bits: row.evaluation.map_all.expected
                for bits, row in measured.items()
                if row.evaluation
            }
        bit_share, bit_correlation = _bit_statistics(database.codes(database.rows), num_bits)
        stages = None
        if query.verify:
            top = query.verify_top
            stages = judge.stages(rows, rank, engine, extractor, top, verify_queries, seed)
        best, worst = _examples(engine, asked, database, rows[FINE].evaluation, query, seed)
    return EvaluationReport(
        rows=rows,
        ks=tuple(ks),
        curve_ks=curve_ks,
        queries=len(asked),
        queries_in_the_index=int(np.count_nonzero(asked.own >= 0)),
        problems=asked.problems,
        skipped_queries=asked.skipped,
        map_by_label=_map_by_label(asked, rows[COARSE].evaluation),
        map_by_bits=map_by_bits,
        bit_share=bit_share,
        bit_correlation=bit_correlation,
        best=best,
        worst=worst,
        protocol=_protocol(asked, rows, query, at, seed, bool(ground_truth), stages),
        stages=stages,
    )


def _check(query, at, ks, verify_queries):
    taken = replace(
        DEFAULT,
        k=query.k,
        threshold=query.threshold,
        pool=query.pool,
        verify=query.verify,
        verify_top=query.verify_top,
    )
    if query != taken:
        raise ArgumentError(
            "An evaluation searches the whole index by whole images.",
            f"{query}",
            "Of a query, give k, threshold or pool, verify and verify_top.",
        )
    if not len(ks):
        raise ArgumentError("Precision and recall are taken somewhere.", f"{ks=}", "Give one k.")
    for name, value in (("at", at), *(("k", k) for k in ks), ("verify_queries", verify_queries)):
        checked_integer(value, 1, name)


def _curve_ks(num_items):
    """Ranks of a curve from the first to the last: fine at first, coarse farther down."""
    grid = np.unique(np.geomspace(1, num_items, 24).astype(np.int64))
    return tuple(sorted({*grid.tolist(), *(k for k in range(100, 1001, 100) if k <= num_items)}))


# --- Ranking and scoring --------------------------------------------------------------------------


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


class _Judge:
    """Scores rankings of the same database for the same queries.

    Attributes:
        rows: int64 `(n,)`. The database in one random order, so that ties are not listed in
            the order of the index, which may be sorted by class.
    """

    def __init__(self, asked, database, at, ks, seed, tell):
        self.asked, self.database, self.at, self.ks, self.tell = asked, database, at, ks, tell
        self.rows = np.random.default_rng(seed).permutation(database.rows)

    def codes(self, name, query_codes, database_codes, num_bits, *, radius=2):
        """Score codes; `database_codes` belong to `rows`."""
        score = partial(
            metrics.evaluate_codes,
            num_bits=num_bits,
            at=self.at,
            ks=self.ks,
            radius=min(radius, num_bits),
        )
        evaluation = self._scored(name, score, query_codes, database_codes, self.rows)
        return Row(name, evaluation, num_bits)

    def features(self, name, query_features, database_features, rows, *, symmetric=True):
        """Score Euclidean distance."""
        score = partial(metrics.evaluate_features, at=self.at, ks=self.ks)
        evaluation = self._scored(name, score, query_features, database_features, rows, symmetric)
        return Row(name, evaluation)

    def ranker(self, asked_for, num_threads):
        """A function of a query to its pool, nearest first, and seconds of the two stages."""
        asked, database = self.asked, self.database
        index = CodeIndex(
            database.snapshot.codes, live=database.snapshot.live_images, num_threads=num_threads
        )
        threshold, pool = asked_for.threshold, asked_for.pool
        index.prepare(threshold)
        features = database.snapshot.feature_map

        def rank(query):
            own = asked.own[query]
            start = time.perf_counter()
            # A query that is in the index takes a place in its own pool, to be freed again.
            rows, _, _ = index.pool(
                asked.codes[query],
                threshold=threshold,
                at_least=None if pool is None else pool + int(own >= 0),
            )
            middle = time.perf_counter()
            rows = rows[rows != own]
            ranked, _ = nearest_features(
                asked.features[query], rows, features, max(1, len(rows)), num_threads=num_threads
            )
            return ranked, (middle - start, time.perf_counter() - middle)

        return rank

    def coarse_to_fine(self, num_bits, rank):
        """Score the pools, ranked by feature; what is outside a pool is never found."""
        asked, database = self.asked, self.database
        parts, sizes, found, spent = [], [], [], []
        answerable = asked.answerable
        rank(answerable[0])  # the first search pays for loading what is compiled
        for queries in _blocks(answerable, LISTED_BLOCK):
            rankings = []
            for query in queries:
                ranked, seconds = rank(query)
                rankings.append(asked.relevant(query, database)[ranked])
                sizes.append(len(ranked))
                found.append(np.count_nonzero(rankings[-1]) / asked.num_relevant[query])
                spent.append(seconds)
            evaluation = metrics.evaluate_rankings(
                rankings,
                asked.num_relevant[queries],
                database=len(database.rows),
                at=self.at,
                ks=self.ks,
            )
            parts.append((queries, evaluation, evaluation.ap_of_query))
            self.tell(FINE, len(sizes), len(answerable))
        coarse, fine = (np.median(spent, axis=0) * 1000).round(4).tolist()
        return Row(
            FINE,
            self._joined(parts),
            num_bits,
            milliseconds={"coarse": coarse, "fine": fine, "total": round(coarse + fine, 4)},
            pool={
                "mean": float(np.mean(sizes)),
                "median": float(np.median(sizes)),
                "largest": int(max(sizes)),
                "recall": float(np.mean(found)),
            },
        )

    def stages(self, rows, rank, engine, extractor, top, most, seed):
        """Score the first `top` of coarse to fine after verification, beside the stages before."""
        asked, database = self.asked, self.database
        queries = asked.answerable
        if len(queries) > most:
            queries = np.sort(np.random.default_rng(seed).choice(queries, most, replace=False))
        found = {name: [] for name in (COARSE, FINE, VERIFIED)}
        aps, spent, extracting = [], [], []
        # Of the pairs that were verified: [not relevant, relevant], all and confirmed.
        pairs, confirmed = np.zeros(2, np.int64), np.zeros(2, np.int64)
        for done, query in enumerate(queries, 1):
            relevant = asked.relevant(query, database)
            ranked, (coarse, fine) = rank(query)
            start = time.perf_counter()
            features = self._local_features(query, extractor)
            middle = time.perf_counter()
            order, compared = engine.confirm(features, ranked[:top])
            verified = np.concatenate([ranked[:top][order], ranked[top:]])
            spent.append((coarse, fine, time.perf_counter() - middle))
            extracting.append(middle - start)
            passed = np.array([one.inliers for one in compared], int) >= engine.min_inliers
            for kind in (0, 1):
                of_kind = relevant[ranked[:top]] == bool(kind)
                pairs[kind] += np.count_nonzero(of_kind)
                confirmed[kind] += np.count_nonzero(of_kind & passed)
            for name, ranking in (
                (COARSE, self._by_code(query)), (FINE, ranked), (VERIFIED, verified)
            ):  # fmt: skip
                found[name].append([relevant[ranking[:k]].any() for k in (1, 5)])
            aps.append(
                metrics.average_precision(
                    relevant[verified], num_relevant=int(asked.num_relevant[query])
                )
            )
            self.tell(VERIFIED, done, len(queries))
        means = {name: rows[name].evaluation.ap_of_query[queries] for name in (COARSE, FINE)}
        means[VERIFIED] = aps
        milliseconds = np.median(np.cumsum(spent, axis=1), axis=0) * 1000
        figures = {}
        for name, until in zip(found, milliseconds, strict=True):
            first, five = np.mean(found[name], axis=0).tolist()
            figures[name] = {
                "found_at_1": first,
                "found_at_5": five,
                "map_all": float(np.mean(means[name])),
                "milliseconds": round(float(until), 4),
            }
        wrong, right = (
            float(part / whole) if whole else None
            for part, whole in zip(confirmed, pairs, strict=True)
        )
        taken = {
            "extract": round(float(np.median(extracting)) * 1000, 4),
            "verify": round(float(np.median(spent, axis=0)[2]) * 1000, 4),
        }
        return Stages(len(queries), top, figures, right, wrong, taken)

    def _local_features(self, query, extractor):
        """Of a query that the index holds, those stored there."""
        own = self.asked.own[query]
        if own >= 0:
            return self.database.snapshot.local_features([own])[0]
        return extractor.extract(images.read(self.asked.paths[query]))

    def _by_code(self, query):
        """All rows by bits apart, ties in the order of `rows`."""
        rows = self.rows[self.rows != self.asked.own[query]]
        differing = self.database.codes(rows) ^ self.asked.codes[query]
        apart = np.bitwise_count(differing).sum(axis=1, dtype=np.uint16)
        return rows[np.argsort(apart, kind="stable")]

    def without_hashing(self, num_threads):
        """Score the features, each query against every image."""
        asked, database = self.asked, self.database
        row = self.features(FLOAT, asked.features, database.features, database.rows)
        spent = []
        for query in asked.answerable[: TIMED_SEARCHES + 1]:
            start = time.perf_counter()
            features = database.snapshot.feature_map
            nearest_features(
                asked.features[query], database.rows, features, 10, num_threads=num_threads
            )
            spent.append(time.perf_counter() - start)
        # The first one warms up what the others find warm.
        total = round(float(np.median(spent[1:] or spent)) * 1000, 4)
        return {FLOAT: replace(row, milliseconds={"total": total})}

    def by_class(self, encoder, encode_database):
        """Score the network's own classes: the best one as code, and all of them by probability."""
        asked = self.asked
        scores, reason = _class_scores(self.database, encoder, encode_database, self.tell)
        if scores is None:
            return {name: Row(name, not_measured=reason) for name in (CLASS_ID, PROBABILITIES)}
        scores = scores[np.searchsorted(self.database.rows, self.rows)]
        return {
            CLASS_ID: self._class_id(asked.scores.argmax(axis=1), scores.argmax(axis=1), encoder),
            # The one ranking here in which the two sides are not alike.
            PROBABILITIES: self.features(
                PROBABILITIES, *_same_class(asked.scores, scores), self.rows, symmetric=False
            ),
        }

    def _class_id(self, query_class, item_class, encoder):
        known, classes = np.unique(np.append(query_class, item_class), return_inverse=True)
        if len(known) > codes.MAX_BITS:
            reason = (
                f"{len(known)} different classes, more than codes of {codes.MAX_BITS} bits tell"
            )
            return Row(CLASS_ID, not_measured=reason)
        # One bit a class: all other classes are equally far, as ids have no order.
        one_bit_each = codes.pack(np.eye(len(known), dtype=bool))[classes]
        query_codes, item_codes = np.split(one_bit_each, [len(query_class)])
        row = self.codes(CLASS_ID, query_codes, item_codes, len(known), radius=0)
        bits = max(1, math.ceil(math.log2(len(encoder.config.classes))))
        return replace(row, bits=bits)

    def projected(self, name, fit, lengths, seed, own_length):
        """Score codes that are fitted to the features; dict of number of bits to `Row`."""
        features = np.asarray(self.database.features, np.float32)
        order = np.searchsorted(self.database.rows, self.rows)
        rows = {}
        for num_bits in sorted(lengths):
            try:
                weights = fit(features, num_bits, seed=seed)
            except HashnetError as error:
                rows[num_bits] = Row(name, not_measured=str(error))
                continue
            item_codes = _project(features, weights)[order]
            title = name if num_bits == own_length else f"{name} at {num_bits} bits"
            row = self.codes(title, _project(self.asked.features, weights), item_codes, num_bits)
            rows[num_bits] = replace(row, name=name)
        return rows

    def _scored(self, name, score, queries, items, rows, symmetric=True):
        parts, done = [], 0
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
            self.tell(name, done, len(self.asked.answerable))
        return self._joined(parts)

    def _trials(self, rows, symmetric) -> Iterator[_Trial]:
        """Split the queries that can be answered; a query is not ranked against itself."""
        asked = self.asked
        answerable = asked.answerable
        is_own = asked.own[answerable] >= 0
        size = LABELLED_BLOCK if asked.listed is None else LISTED_BLOCK
        for queries in _blocks(answerable[~is_own], size):
            yield _Trial(queries, *self._labels(queries, rows))
        inside = answerable[is_own]
        if not len(inside):
            return
        place_of = np.empty(self.database.snapshot.num_rows, np.int64)
        place_of[rows] = np.arange(len(rows))
        places = place_of[asked.own[inside]]
        all_at_once = (
            symmetric
            and asked.listed is None
            and len(inside) * IMAGES_PER_QUERY > len(rows)
            and len(np.unique(places)) == len(places)
        )
        if all_at_once:
            # The index holds the same code and feature that the query was encoded to. Images
            # that are no queries get a label that nobody has, and so no part in any mean.
            query_labels = np.full(len(rows), _NOBODYS_LABEL, np.int32)
            query_labels[places] = asked.labels[inside]
            yield _Trial(inside, query_labels, self.database.labels[rows], places=places)
            return
        for query, place in zip(inside, places, strict=True):
            query_labels, item_labels = self._labels(np.array([query]), rows)
            others = np.delete(item_labels, place, 0)
            yield _Trial(np.array([query]), query_labels, others, without=int(place))

    def _labels(self, queries, rows):
        asked = self.asked
        if asked.listed is None:
            return asked.labels[queries], self.database.labels[rows]
        # Every query is a class of its own, and an image belongs to those it is relevant to.
        relevant = np.zeros((self.database.snapshot.num_rows, len(queries)), bool)
        for column, query in enumerate(queries):
            relevant[asked.listed[query], column] = True
        return np.eye(len(queries), dtype=bool), relevant[rows]

    def _joined(self, parts):
        """Join evaluations of parts of the queries; each is a mean, and weighs as many queries."""
        first = parts[0][1]
        weights = np.array([len(queries) for queries, _, _ in parts])

        def mean(get):
            return float(
                np.average([get(evaluation) for _, evaluation, _ in parts], weights=weights)
            )

        def mean_ap(name):
            return metrics.TieAwareAP(
                *(
                    mean(lambda one, case=case: getattr(getattr(one, name), case))
                    for case in metrics.TieAwareAP._fields
                )
            )

        def mean_at(name):
            return {k: mean(lambda one, k=k: getattr(one, name)[k]) for k in self.ks}

        ap_of_query = np.full(len(self.asked), np.nan)
        for queries, _, ap in parts:
            ap_of_query[queries] = ap
        joined = {
            "queries": len(self.asked),
            "queries_without_relevant": len(self.asked) - int(weights.sum()),
            "database": len(self.database.rows),
            "map_all": mean_ap("map_all"),
            "map_at_tie_aware": mean_ap("map_at_tie_aware"),
            "map_at": mean(lambda one: one.map_at),
            "map_at_of_relevant": mean(lambda one: one.map_at_of_relevant),
            "precision_at": mean_at("precision_at"),
            "recall_at": mean_at("recall_at"),
            "ap_of_query": ap_of_query,
        }
        if isinstance(first, metrics.CodeEvaluation):
            for name in ("precision_within", "recall_within"):
                joined[name] = mean(lambda one, name=name: getattr(one, name))
            for name in (
                "queries_with_nothing_within",
                "items_at_distance",
                "relevant_at_distance",
            ):
                joined[name] = sum(getattr(evaluation, name) for _, evaluation, _ in parts)
        return replace(first, **joined)


def _blocks(places, size):
    return (places[start : start + size] for start in range(0, len(places), size))


# --- Baselines ------------------------------------------------------------------------------------


def _class_scores(database, encoder, encode_database, tell):
    """float32 `(n, num_classes)` in the order of rows, or None and why not."""
    if encoder.config.scores_from == "latent":
        return encoder.from_features("scores", database.features), None
    if not encode_database:
        return None, (
            "The class scores of this network do not follow from its features as the index keeps "
            "them. Allow the images of the index to be encoded again (encode_database=True)."
        )
    paths = [item.path for item in database.items]
    if None in paths:
        return None, "Some images of the index have no file to encode again."
    parts = []
    for part in encoder.stream(paths):
        if part.problems:
            problem = part.problems[0]
            return None, f"An image of the index cannot be read: {problem.path}: {problem.reason}"
        parts.append(part.scores)
        tell("encoding the index", int(part.positions[-1]) + 1, len(paths))
    return np.concatenate(parts), None


def _same_class(query_scores, item_scores):
    """Vectors whose Euclidean distance falls as the chance of two images to be of one class rises.

    That chance is the inner product of their class probabilities. One more dimension makes all
    items equally long, so that |q - x|^2 = |q|^2 + |x|^2 - 2 q.x depends on q.x alone.
    """
    squared = np.einsum("nc,nc->n", item_scores, item_scores)
    missing = np.sqrt(np.maximum(squared.max() - squared, 0))
    nothing = np.zeros((len(query_scores), 1), np.float32)
    return np.hstack([query_scores, nothing]), np.hstack([item_scores, missing[:, None]])


def _project(features, weights):
    return np.concatenate(
        [
            codes.pack(features[start : start + _ROWS_AT_ONCE] @ weights.kernel + weights.bias >= 0)
            for start in range(0, len(features), _ROWS_AT_ONCE)
        ]
    )


# --- What else is shown ---------------------------------------------------------------------------


def _bit_statistics(packed, num_bits):
    """Share of ones, `(num_bits,)`, and correlation, `(num_bits, num_bits)`, of the bits."""
    ones, both = np.zeros(num_bits), np.zeros((num_bits, num_bits))
    for start in range(0, len(packed), _ROWS_AT_ONCE):
        bits = codes.unpack(packed[start : start + _ROWS_AT_ONCE], num_bits).astype(np.float32)
        ones += bits.sum(axis=0)
        both += bits.T @ bits  # whole numbers far below 2^24: exact
    share = ones / len(packed)
    covariance = both / len(packed) - np.outer(share, share)
    deviation = np.sqrt(share * (1 - share))
    scale = np.outer(deviation, deviation)
    correlation = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
    return share, correlation


def _map_by_label(asked, evaluation):
    if asked.labels is None:
        return {}
    answerable = asked.answerable
    totals = np.bincount(asked.labels[answerable], evaluation.ap_of_query[answerable])
    counts = np.bincount(asked.labels[answerable])
    return {asked.names[at]: float(totals[at] / counts[at]) for at in np.flatnonzero(counts)}


def _examples(engine, asked, database, evaluation, asked_for, seed):
    """The best and the worst queries with their hits; chance chooses among equals."""
    shuffled = np.random.default_rng(seed).permutation(asked.answerable)
    ordered = shuffled[np.argsort(evaluation.ap_of_query[shuffled], kind="stable")]

    def example(query):
        own = asked.own[query]
        found = engine.finder.find(
            asked.codes[query],
            asked.features[query],
            HITS_PER_EXAMPLE + int(own >= 0),
            threshold=asked_for.threshold,
            at_least=asked_for.pool,
        )
        places = np.flatnonzero(found.image_rows != own)[:HITS_PER_EXAMPLE]
        relevant = asked.relevant(query, database)[found.image_rows[places]]
        return Example(
            query=asked.paths[query],
            label=None if asked.labels is None else asked.names[asked.labels[query]],
            average_precision=float(evaluation.ap_of_query[query]),
            hits=tuple(hits_of(found, places)),
            relevant=tuple(relevant.tolist()),
        )

    worst = [example(query) for query in ordered[:EXAMPLES]]
    best = [example(query) for query in ordered[::-1][:EXAMPLES]]
    return best, worst


def _protocol(asked, rows, query, at, seed, by_list, stages):
    """What was measured, in words."""
    evaluation = rows[COARSE].evaluation
    bits, database = rows[COARSE].bits, evaluation.database
    if query.threshold is not None:
        pool_in_words = f"the images with fewer than {query.threshold} bits apart"
    else:
        pool_in_words = f"the smallest pool of at least {query.pool} images by bits apart"
    mean_pool = round(rows[FINE].pool["mean"])
    own = int(np.count_nonzero(asked.own >= 0))
    sentences = [
        f"Queries: {len(asked)} images"
        + (", those that the ground truth names." if by_list else ", each labelled by its folder."),
        f"Skipped, and named among the problems: {len(asked.skipped)}." if asked.skipped else "",
        f"Database: all {database} images of the index.",
        f"{own} of the queries are images of the index, by path; each is left out of its own "
        "ranking."
        if own
        else "No query is an image of the index, by path.",
        "Copies of a query under other names stay in.",
        "Relevant: the images of the index that the ground truth lists for a query; listed images "
        "that the index does not hold are named among the problems and not counted."
        if by_list
        else "Relevant: an image of the index with the label of the query.",
        f"Means are over the {len(asked.answerable)} queries with at least one relevant image; "
        f"{evaluation.queries_without_relevant} queries have none and are left out.",
        f"coarse: all images of the database ranked by bits apart, codes of {bits} bits.",
        f"coarse_to_fine: {pool_in_words}, {mean_pool} images in the mean, ranked by the "
        "Euclidean distance of features. Images outside the pool are not ranked: those that are "
        "relevant count in every denominator and are never found.",
        "float_f7: all images ranked by the Euclidean distance of features, without hashing.",
        *_baselines_in_words(rows),
        "map_all: mean average precision over the whole database, divided by all relevant images, "
        "expected over every order of ties (McSherry and Najork, ECIR 2008), the best and the "
        "worst order beside it.",
        f"map_at_{at}: R = {at}; average precision over the first {at}, divided by the relevant "
        f"images found among them, as in the release of Lin et al. (2015). map_at_{at}_of_relevant "
        f"divides by the smaller of {at} and all relevant images; so does map_at_{at}_tie_aware, "
        "expected over every order of ties.",
        "precision_at k: relevant images among the first k, divided by k; recall_at k: divided by "
        "all relevant images.",
        f"Where a figure is not tie-aware, ties of codes are listed in one random order of the "
        f"database (seed {seed}), not in the order of the index, which may be sorted by class; "
        "ties of features by row.",
        "milliseconds: median of one query at a time, its encoding not counted.",
        *_stages_in_words(stages, seed),
    ]
    return " ".join(filter(None, sentences))


def _stages_in_words(stages, seed):
    """How the stages were set side by side."""
    if stages is not None:
        yield (
            f"stages: the three stages of a search for the same {stages.queries} queries, drawn by "
            f"chance (seed {seed}) where there were more that have something to find. verified: "
            f"the first {stages.verify_top} images of coarse_to_fine compared by local features, "
            "those that one geometry confirms first, by inliers; all others keep their order. "
            "found_at_k: share of the queries with a relevant image among the first k. "
            "milliseconds of a stage: median with those before it; to extract the local features "
            "of a query counts as little as its encoding."
        )


def _baselines_in_words(rows):
    """What the baselines that were measured are."""
    words = {
        CLASS_ID: "the class with the highest score as code; two images are 0 or 1 apart.",
        PROBABILITIES: "ranked by the chance that query and image are of one class, the inner "
        "product of their class probabilities.",
    }
    measured = [name for name in rows if rows[name].evaluation]
    yield from (f"{name}: {words[name]}" for name in words if name in measured)
    if CLASS_ID in measured or PROBABILITIES in measured:
        yield (
            "The class scores of the database come from its stored features through H and F8, or "
            "from encoding its images again."
        )
    fitted = [name for name in measured if name not in (COARSE, FINE, FLOAT, *words)]
    if fitted:
        yield (
            f"{', '.join(fitted)}: codes by linear projections fitted to the features of the "
            "database."
        )
