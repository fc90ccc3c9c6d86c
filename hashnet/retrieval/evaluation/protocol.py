"""What an evaluation has measured, in words."""

from collections.abc import Iterator

import numpy as np

from hashnet.retrieval.evaluation.ground_truth import QuerySet
from hashnet.retrieval.evaluation.results import (
    CLASS_ID,
    COARSE,
    FINE,
    FINE_F7,
    FLOAT,
    PROBABILITIES,
    RERANKED,
    WRITTEN,
    Row,
    Stages,
)
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.reranking import METHODS


def protocol(
    query_set: QuerySet,
    rows: dict[str, Row],
    query: Query,
    *,
    at: int,
    seed: int,
    by_list: bool,
    stages: Stages | None,
) -> str:
    """What was measured, in words.

    Args:
        query_set: `QuerySet`.
        rows: dict of name to `Row`.
        query: `Query`, how pools were found.
        at, seed: as for `evaluate`.
        by_list: bool. Whether ground truth says what is relevant.
        stages: `Stages`, or None.

    Returns:
        str.
    """
    evaluation = rows[COARSE].measured
    bits, database = rows[COARSE].bits, evaluation.database
    if query.threshold is not None:
        pool_text = f"the images at a Hamming distance below {query.threshold}"
    else:
        pool_text = (
            f"the smallest pool of at least {query.pool} images by Hamming distance, or, where the "
            "latents of queries are known, by the bits that differ, each as the query is sure of it"
        )
    mean_pool = round((rows[FINE].pool or {})["mean"])
    own = int(np.count_nonzero(query_set.own >= 0))
    sentences = [
        f"Queries: {len(query_set)} images"
        + (", those that the ground truth names." if by_list else ", each labelled by its folder."),
        f"Skipped, and named among the problems: {len(query_set.skipped)}."
        if query_set.skipped
        else "",
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
        f"Means are over the {len(query_set.answerable)} queries with at least one relevant image; "
        f"{evaluation.queries_without_relevant} queries have none and are left out.",
        f"coarse: all images of the database ranked by Hamming distance, codes of {bits} bits.",
        f"coarse_to_fine: {pool_text}, {mean_pool} images in the mean, ranked by "
        + (
            "a distance that joins features, about the mean of the network's photos, and codes. "
            "coarse_to_fine_f7: the same pools ranked by the Euclidean distance of features alone. "
            if FINE_F7 in rows
            else "the Euclidean distance of features. "
        )
        + "Images outside the pool are not ranked: those that are "
        "relevant count in every denominator and are never found.",
        f"reranked: of these, the first {query.rerank_top} ranked again by {query.rerank}, with "
        f"{query.rerank_neighbours or METHODS[str(query.rerank)].neighbours} neighbours; its time "
        "is one of the fine stage."
        if RERANKED in rows
        else "",
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
        "found_at k: share of the queries with a relevant image among the first k, which metric "
        "learning calls Recall@k. r_precision: precision at R, the relevant images of the query. "
        "map_at_r: average precision over the first R, divided by R (Musgrave et al., ECCV 2020). "
        "All three expected over every order of ties.",
        f"Where a figure is not tie-aware, ties of codes are listed in one random order of the "
        f"database (seed {seed}), not in the order of the index, which may be sorted by class; "
        "ties of features by row.",
        "milliseconds: median of one query at a time, its encoding not counted.",
        *_stages_in_words(stages, seed),
    ]
    return " ".join(filter(None, sentences))


def _stages_in_words(stages: Stages | None, seed: int) -> Iterator[str]:
    """How the stages were set side by side."""
    if stages is not None:
        yield (
            f"stages: the three stages of a search for the same {stages.queries} queries, drawn by "
            f"chance (seed {seed}) where there were more that have something to find. verified: "
            f"{stages.verify_top} images compared by local features, the first of coarse_to_fine "
            "and, where the index has a local pool, one for two the most similar of it; those that "
            "one geometry explains come first, by inliers; all others keep their order. "
            f"same_object: the {stages.verify_top} most similar of the local pool alone, verified. "
            + (
                "written: as verified, with images in which the same text was read as in the query "
                "among the candidates, ordered by the sum of the shares of inliers and of text. "
                if WRITTEN in stages.figures
                else ""
            )
            + "found_at_k: share of the queries with a relevant image among the first k. "
            "milliseconds of a stage: median with those before it; to extract the local features "
            "of a query counts as little as its encoding."
        )


def _baselines_in_words(rows: dict[str, Row]) -> Iterator[str]:
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
    others = (COARSE, FINE, RERANKED, FINE_F7, FLOAT, *words)
    fitted = [name for name in measured if name not in others]
    if fitted:
        yield (
            f"{', '.join(fitted)}: codes by linear projections fitted to the features of the "
            "database."
        )
