"""The best and the worst queries of an evaluation, with what was found for them."""

import numpy as np

from hashnet.retrieval.evaluation.results import Example, Row
from hashnet.retrieval.evaluation.scoring import Scorer
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.hits import hits_of
from hashnet.retrieval.search.query import Query

EXAMPLES = 8
HITS_PER_EXAMPLE = 8


def examples(
    engine: Engine, scorer: Scorer, fine: Row, query: Query, seed: int
) -> tuple[list[Example], list[Example]]:
    """The best and the worst queries with their hits; chance chooses among equals.

    Args:
        engine: `Engine`.
        scorer: `Scorer`.
        fine: `Row` of coarse to fine.
        query: `Query`, how pools are found.
        seed: int.

    Returns:
        Two lists of `Example`, best and worst.
    """
    query_set, database = scorer.query_set, scorer.database
    assert fine.evaluation is not None
    ap = fine.evaluation.ap_of_query
    shuffled = np.random.default_rng(seed).permutation(query_set.answerable)
    ordered = shuffled[np.argsort(ap[shuffled], kind="stable")]

    def example(place: int) -> Example:
        own = query_set.own[place]
        found = engine.finder.find(
            query_set.codes[place],
            query_set.features[place],
            HITS_PER_EXAMPLE + int(own >= 0),
            ranking=engine.ranking(query_set.codes[place], query_set.features[place], query),
            threshold=query.threshold,
            at_least=query.pool,
        )
        places = np.flatnonzero(found.image_rows != own)[:HITS_PER_EXAMPLE]
        relevant = query_set.relevant(place, database)[found.image_rows[places]]
        return Example(
            query=query_set.paths[place],
            label=None if query_set.labels is None else query_set.names[query_set.labels[place]],
            average_precision=float(ap[place]),
            hits=tuple(hits_of(found, places)),
            relevant=tuple(relevant.tolist()),
        )

    worst = [example(place) for place in ordered[:EXAMPLES]]
    best = [example(place) for place in ordered[::-1][:EXAMPLES]]
    return best, worst
