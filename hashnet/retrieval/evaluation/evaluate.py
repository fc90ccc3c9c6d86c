"""How good an index is: labelled queries, searched and scored beside baselines.

The same queries, against the same images, in one run: the codes alone (*coarse*), the pool ranked
by the fine stage (*coarse to fine*), and by features alone, as in the paper, the features without
hashing, and what plainer codes would give. What was measured is said in words, in
`EvaluationReport.protocol`.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hashnet import codes, metrics
from hashnet.checks import checked_integer
from hashnet.errors import ArgumentError
from hashnet.retrieval.evaluation.baselines import (
    Projection,
    by_class,
    projected,
    without_hashing,
)
from hashnet.retrieval.evaluation.examples import examples
from hashnet.retrieval.evaluation.ground_truth import (
    Database,
    QuerySet,
    answerable,
    encoded,
    query_set_of,
)
from hashnet.retrieval.evaluation.protocol import protocol
from hashnet.retrieval.evaluation.results import (
    COARSE,
    FINE,
    FINE_F7,
    RERANKED,
    EvaluationReport,
    Row,
)
from hashnet.retrieval.evaluation.scoring import Scorer
from hashnet.retrieval.evaluation.stages import Ranker, coarse_to_fine, ranker, stages
from hashnet.retrieval.search.engine import DEFAULT, Searchable
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.words.beside import WordEngine

# Queries whose hits are verified: with 100 pairs of images each, minutes.
VERIFY_QUERIES = 200
_ROWS_AT_ONCE = 8192


def evaluate(
    index: Searchable,
    queries: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    query: Query = DEFAULT,
    *,
    ground_truth: str | os.PathLike[str] | None = None,
    ks: Sequence[int] = metrics.KS,
    at: int = 1000,
    baselines: Mapping[str, Callable[..., Projection]] | None = None,
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
        query: a `Query`. How coarse to fine finds its pool and ranks it, and whether, and how many
            of, the candidates are also verified by their local features, for a report of the
            stages side by side, and of a search for the same object beside them, and with `written`
            of both and the text in the queries. `k` matters for the pool only; `rerank` gives a row
            beside coarse to fine. What narrows a search, or is made of its pictures, is refused.
        ground_truth: path of a JSON file `{query: [relevant, ...]}` or None. With it, labels do
            not matter: the queries are those that it names. A name means the one query or image
            whose path, or id, it is or whose path it ends, by whole folder names.
        ks: ints. Where precision and recall are reported.
        at: int. The R of mAP@R.
        baselines: mapping of name to function, `(features, num_bits, *, seed)` to an object with
            `kernel` `(feature_dim, num_bits)` and `bias` `(num_bits,)`, as those of
            `hashnet.train.unsupervised_codes`. Fitted to the database's features; a bit is one
            where `feature @ kernel + bias` is at least 0.
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
        StoreError: images are to be verified, and the index has no local features; or found by
            what is written, and it has read nothing.

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
    engine = WordEngine(index, num_threads=num_threads)
    if query.written:
        engine.written("", None)  # refused before work, where nothing was read
    with engine.snapshot as snapshot:
        query = replace(query, pool=engine.least_pool(query))
        database = Database(snapshot)
        query_set = query_set_of(queries, ground_truth, database)
        query_set = answerable(encoded(query_set, index.encoder, tell), database)
        curve_ks = _curve_ks(len(database.rows))
        all_ks = sorted({*ks, *curve_ks})
        scorer = Scorer(query_set, database, at=at, ks=all_ks, seed=seed, tell=tell)
        num_bits = index.store.num_bits
        once = replace(query, rerank=None, rerank_neighbours=None)
        rank = ranker(scorer, engine, once, num_threads)
        rows = _own_rows(scorer, num_bits, rank)
        if query.rerank is not None:
            again = ranker(scorer, engine, query, num_threads)
            rows[RERANKED] = coarse_to_fine(scorer, num_bits, again, RERANKED)
        if query.rank_by == "both" and engine.mean is not None:
            plain = ranker(scorer, engine, replace(once, rank_by="feature"), num_threads)
            rows[FINE_F7] = coarse_to_fine(scorer, num_bits, plain, FINE_F7)
        rows |= without_hashing(scorer, num_threads)
        rows |= by_class(scorer, index.encoder, encode_database)
        map_by_bits = {"index": {num_bits: rows[COARSE].map_all}}
        for name, fit in (baselines or {}).items():
            lengths = {num_bits, *baseline_bits}
            measured = projected(scorer, name, fit, lengths, seed=seed, own_length=num_bits)
            rows[name] = measured[num_bits]
            map_by_bits[name] = {
                bits: row.map_all for bits, row in measured.items() if row.evaluation
            }
        bit_share, bit_correlation = _bit_statistics(database.codes(database.rows), num_bits)
        verified = None
        if extractor is not None:
            verified = stages(
                scorer,
                rows,
                rank,
                engine,
                extractor,
                query,
                most=verify_queries,
                seed=seed,
            )
        best, worst = examples(engine, scorer, rows[FINE], query, seed)
    return EvaluationReport(
        rows=rows,
        ks=tuple(ks),
        curve_ks=curve_ks,
        queries=len(query_set),
        queries_in_the_index=int(np.count_nonzero(query_set.own >= 0)),
        problems=query_set.problems,
        skipped_queries=query_set.skipped,
        map_by_label=_map_by_label(query_set, rows[COARSE]),
        map_by_bits=map_by_bits,
        bit_share=bit_share,
        bit_correlation=bit_correlation,
        best=best,
        worst=worst,
        protocol=protocol(
            query_set, rows, query, at=at, seed=seed, by_list=bool(ground_truth), stages=verified
        ),
        stages=verified,
    )


def _own_rows(scorer: Scorer, num_bits: int, rank: Ranker) -> dict[str, Row]:
    """The codes alone, and the pool ranked by features."""
    database_codes = scorer.database.codes(scorer.rows)
    coarse = scorer.codes(COARSE, scorer.query_set.codes, database_codes, num_bits)
    fine = coarse_to_fine(scorer, num_bits, rank)
    # Both begin with the codes, and the time of that was taken once.
    spent = {"coarse": fine.milliseconds["coarse"]}
    return {COARSE: replace(coarse, milliseconds=spent), FINE: fine}


def _check(query: Query, at: int, ks: Sequence[int], verify_queries: int) -> None:
    taken = replace(
        DEFAULT,
        k=query.k,
        threshold=query.threshold,
        pool=query.pool,
        rank_by=query.rank_by,
        rerank=query.rerank,
        rerank_top=query.rerank_top,
        rerank_neighbours=query.rerank_neighbours,
        verify=query.verify,
        verify_top=query.verify_top,
        matcher=query.matcher,
        matcher_top=query.matcher_top,
        written=query.written,
    )
    if query.written and not query.verify:
        raise ArgumentError(
            "What is written is measured beside verification.",
            "written=True, verify=False",
            "Ask for both.",
        )
    if query != taken:
        raise ArgumentError(
            "An evaluation searches the whole index by whole images.",
            f"{query}",
            "Of a query, give k, threshold or pool, rank_by, rerank, and what is verified and how.",
        )
    if not len(ks):
        raise ArgumentError("Precision and recall need at least one rank.", f"{ks=}", "Give one k.")
    for name, value in (("at", at), *(("k", k) for k in ks), ("verify_queries", verify_queries)):
        checked_integer(value, 1, name)


def _curve_ks(num_items: int) -> tuple[int, ...]:
    """Ranks of a curve from the first to the last: fine at first, coarse farther down."""
    grid = np.unique(np.geomspace(1, num_items, 24).astype(np.int64))
    return tuple(sorted({*grid.tolist(), *(k for k in range(100, 1001, 100) if k <= num_items)}))


def _bit_statistics(packed: np.ndarray, num_bits: int) -> tuple[np.ndarray, np.ndarray]:
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


def _map_by_label(query_set: QuerySet, coarse: Row) -> dict[str, float]:
    if query_set.labels is None or coarse.evaluation is None:
        return {}
    ap = coarse.evaluation.ap_of_query
    found = query_set.answerable
    totals = np.bincount(query_set.labels[found], ap[found])
    counts = np.bincount(query_set.labels[found])
    return {query_set.names[at]: float(totals[at] / counts[at]) for at in np.flatnonzero(counts)}
