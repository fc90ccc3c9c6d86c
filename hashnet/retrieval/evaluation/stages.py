"""Score what each stage of a search adds: the pool ranked by features, then verified."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hashnet import images, metrics
from hashnet.local.features import Extractor
from hashnet.retrieval.evaluation import scoring
from hashnet.retrieval.evaluation.results import (
    COARSE,
    FINE,
    SAME_OBJECT,
    VERIFIED,
    WRITTEN,
    Row,
    Stages,
)
from hashnet.retrieval.evaluation.scoring import Scorer, blocks
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.fine import nearest_features
from hashnet.retrieval.search.hits import SearchResult
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.verify import Features

# A query to the rows of its pool, nearest first, and the seconds of the two stages.
Ranker = Callable[[int], tuple[np.ndarray, tuple[float, float]]]


def ranker(scorer: Scorer, engine: Engine, query: Query, num_threads: int) -> Ranker:
    """What finds and ranks the pool of one query after another.

    Args:
        scorer: `Scorer`.
        engine: `Engine`.
        query: `Query`, how pools are found and ranked.
        num_threads: int.

    Returns:
        function of a query's place to the rows of its pool, nearest first, and the seconds of
        the two stages.
    """
    query_set, database = scorer.query_set, scorer.database
    index = CodeIndex(
        database.snapshot.codes[:], live=database.snapshot.live_images, num_threads=num_threads
    )
    settings, threshold, pool = query, query.threshold, query.pool
    index.prepare(threshold)
    features = database.snapshot.feature_map(database.rows)

    def rank(query: int) -> tuple[np.ndarray, tuple[float, float]]:
        own, code, feature = (
            of_all[query] for of_all in (query_set.own, query_set.codes, query_set.features)
        )
        start = time.perf_counter()
        ranking = engine.ranking(code, feature, settings)
        # A query that is in the index takes a place in its own pool, to be freed again.
        at_least = None if pool is None else pool + int(own >= 0)
        if ranking is None or at_least is None:
            rows, _, _ = index.pool(code, threshold=threshold, at_least=at_least)
        else:
            steps = ranking.certainty.steps
            rows, _ = index.pool_by_steps(code, steps, at_least=at_least)
        middle = time.perf_counter()
        rows, mean, added = rows[rows != own], None, None
        if ranking is not None and ranking.mean is not None:
            mean = ranking.mean
            added = ranking.weight * index.steps_apart(code, ranking.certainty.steps, rows)
        ranked, _ = nearest_features(
            feature,
            rows,
            features,
            max(1, len(rows)),
            mean=mean,
            added=added,
            num_threads=num_threads,
        )
        if settings.rerank is not None:
            ranked = ranked[engine.reranked(code, feature, ranked, ranking, settings)]
        return ranked, (middle - start, time.perf_counter() - middle)

    return rank


def coarse_to_fine(scorer: Scorer, num_bits: int, rank: Ranker, name: str = FINE) -> Row:
    """Score the pools, ranked by the fine stage; what is outside a pool is never found.

    Args:
        scorer: `Scorer`.
        num_bits: int, of the index's codes.
        rank: from `ranker`.
        name: str, of the row.

    Returns:
        `Row`.
    """
    query_set, database = scorer.query_set, scorer.database
    parts, sizes, found, spent = [], [], [], []
    answerable = query_set.answerable
    rank(answerable[0])  # the first search pays for loading what is compiled
    for queries in blocks(answerable, scoring.LISTED_BLOCK):
        rankings = []
        for query in queries:
            ranked, seconds = rank(query)
            rankings.append(query_set.relevant(query, database)[ranked])
            sizes.append(len(ranked))
            found.append(np.count_nonzero(rankings[-1]) / query_set.num_relevant[query])
            spent.append(seconds)
        evaluation = metrics.evaluate_rankings(
            rankings,
            query_set.num_relevant[queries],
            database=len(database.rows),
            at=scorer.at,
            ks=scorer.ks,
        )
        parts.append((queries, evaluation, evaluation.ap_of_query))
        scorer.tell(name, len(sizes), len(answerable))
    coarse, fine = (np.median(spent, axis=0) * 1000).round(4).tolist()
    return Row(
        name,
        scorer.joined(parts),
        num_bits,
        milliseconds={"coarse": coarse, "fine": fine, "total": round(coarse + fine, 4)},
        pool={
            "mean": float(np.mean(sizes)),
            "median": float(np.median(sizes)),
            "largest": int(max(sizes)),
            "recall": float(np.mean(found)),
        },
    )


def stages(
    scorer: Scorer,
    rows: dict[str, Row],
    rank: Ranker,
    engine: Engine,
    extractor: Extractor,
    query: Query,
    *,
    most: int,
    seed: int,
) -> Stages:
    """Score the first of coarse to fine after verification, beside the stages before.

    Args:
        scorer: `Scorer`.
        rows: dict of name to `Row`, with those of the stages before.
        rank: from `ranker`.
        engine: `Engine`.
        extractor: `Extractor`.
        query: `Query`, how pools are found and verified.
        most: int. Queries at most; chance chooses among more.
        seed: int. Of that choice.

    Returns:
        `Stages`.
    """
    query_set, database = scorer.query_set, scorer.database
    queries = query_set.answerable
    if len(queries) > most:
        queries = np.sort(np.random.default_rng(seed).choice(queries, most, replace=False))
    by_pool = {VERIFIED: replace(query, verify=True, written=False)}
    if query.written:
        by_pool[WRITTEN] = replace(query, verify=True)
    if engine.snapshot.codebook is not None:
        by_pool[SAME_OBJECT] = replace(
            query,
            verify=False,
            written=False,
            threshold=None,
            pool=None,
            rerank=None,
            rerank_neighbours=None,
            same_object=True,
        )
    found: dict[str, list[list[bool]]] = {name: [] for name in (COARSE, FINE, *by_pool)}
    spent: dict[str, list[float]] = {name: [] for name in found}
    aps: dict[str, list[float]] = {name: [] for name in by_pool}
    verifying, extracting, reading = [], [], []
    # Of the pairs that were verified: [not relevant, relevant], all, and those that pass.
    pairs, passing = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for done, place in enumerate(queries, 1):
        relevant = query_set.relevant(place, database)
        ranked, (coarse, fine) = rank(place)
        start = time.perf_counter()
        features = _local_features(scorer, place, extractor)
        extracting.append(time.perf_counter() - start)
        lines = None
        if query.written:
            start = time.perf_counter()
            lines = _lines(scorer, place, engine)
            reading.append(time.perf_counter() - start)
        lists = {COARSE: _by_code(scorer, place), FINE: ranked}
        spent[COARSE].append(coarse)
        spent[FINE].append(coarse + fine)
        for name, asked in by_pool.items():
            listed, result = _searched(scorer, engine, place, asked, features, lines, len(ranked))
            lists[name] = listed
            stages_of = {"coarse", "fine", "verify"} & result.milliseconds.keys()
            spent[name].append(sum(result.milliseconds[one] or 0 for one in stages_of) / 1000)
            ap = metrics.average_precision(
                relevant[listed], num_relevant=int(query_set.num_relevant[place])
            )
            aps[name].append(float(ap))
            if name == VERIFIED:
                verifying.append((result.milliseconds["verify"] or 0) / 1000)
                for row, one in zip(listed.tolist(), result.verifications or (), strict=True):
                    if one is not None:
                        kind = int(relevant[row])
                        pairs[kind] += 1
                        passing[kind] += one.same
        for name, listed in lists.items():
            found[name].append([relevant[listed[:k]].any() for k in (1, 5)])
        scorer.tell(VERIFIED, done, len(queries))
    means = {name: rows[name].measured.ap_of_query[queries] for name in (COARSE, FINE)} | aps
    figures = {}
    for name, is_found in found.items():
        first, five = np.mean(is_found, axis=0).tolist()
        figures[name] = {
            "found_at_1": first,
            "found_at_5": five,
            "map_all": float(np.mean(means[name])),
            "milliseconds": round(float(np.median(spent[name])) * 1000, 4),
        }
    wrong, right = (
        float(part / whole) if whole else None for part, whole in zip(passing, pairs, strict=True)
    )
    taken = {
        "extract": round(float(np.median(extracting)) * 1000, 4),
        "verify": round(float(np.median(verifying)) * 1000, 4),
    }
    if reading:
        taken["read"] = round(float(np.median(reading)) * 1000, 4)
    return Stages(len(queries), query.verify_top, figures, right, wrong, taken)


def _searched(
    scorer: Scorer,
    engine: Engine,
    place: int,
    query: Query,
    features: Features,
    lines: list[str] | None,
    num_ranked: int,
) -> tuple[np.ndarray, SearchResult]:
    """The rows that a search finds for a query, best first, and its answer."""
    query_set, snapshot = scorer.query_set, scorer.database.snapshot
    own = int(query_set.own[place])
    if query.pool is not None and own >= 0:  # it takes a place in its own pool
        query = replace(query, pool=query.pool + 1)
    result = engine.search_encoded(
        query_set.codes[place],
        query_set.features[place],
        replace(query, k=num_ranked + query.verify_top),
        local=features,
        lines=lines,
        without=snapshot.items([own])[0].id if own >= 0 else None,
    )
    return snapshot.rows([hit.id for hit in result.hits]), result


def _local_features(scorer: Scorer, query: int, extractor: Extractor) -> Features:
    """Of a query that the index holds, those stored there."""
    own = scorer.query_set.own[query]
    if own >= 0:
        return scorer.database.snapshot.local_features([own])[0]
    return extractor.extract(images.read(scorer.query_set.paths[query]))


def _lines(scorer: Scorer, query: int, engine: Engine) -> list[str]:
    """What is written in a query; of one that the index holds, what is stored there."""
    own = scorer.query_set.own[query]
    if own >= 0:
        return engine.lines(int(own))
    read = engine.index.reader.read(images.read(scorer.query_set.paths[query]))
    return [line.text for line in read]


def _by_code(scorer: Scorer, query: int) -> np.ndarray:
    """All rows by Hamming distance, ties in the order of `rows`."""
    rows = scorer.rows[scorer.rows != scorer.query_set.own[query]]
    differing = scorer.database.codes(rows) ^ scorer.query_set.codes[query]
    apart = np.bitwise_count(differing).sum(axis=1, dtype=np.uint16)
    return rows[np.argsort(apart, kind="stable")]
