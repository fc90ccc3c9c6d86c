"""What does ranking again find, and what does it cost?

Run from the root of the repository, on one or more sets of images:

    python -m tests.bench.reranking NAME=DATABASE:QUERIES[:TRUTH] ...

Sets are given as to tests.bench.ranking, without bundles: codes of 128 bits are fitted to the
database without labels. The first 500 of each query, by the distance of the fine stage, are ranked
again by each method of `hashnet.retrieval.search.reranking`, with its own number of neighbours;
those behind stay as they are.

Writes tests/bench/results/reranking.json.
"""

import argparse
import os
import sys
import time

import numpy as np

from hashnet import codes, metrics
from hashnet.retrieval.search import reranking
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.fine import nearest_features
from hashnet.retrieval.search.query import DEFAULT_TOP
from hashnet.retrieval.search.ranking import ranking_of
from hashnet.train import unsupervised, unsupervised_codes
from tests.bench import figures
from tests.bench.label_free_codes import default_encoder
from tests.bench.ranking import Fitted, load

BITS = 128
FINE = "fine"
FIGURES = ("map_all", "precision_at_10", "found_at_1")
TOPS = (100, DEFAULT_TOP, 1000)


def score(network, packed, features, queries, relevant, own):
    """Dict of way to its figures, means over the queries."""
    index = CodeIndex(packed)
    found = {way: [] for way in (FINE, *reranking.METHODS)}
    for query, right, mine in zip(queries, relevant, own, strict=True):
        code = codes.from_latent(network.latent_of(query))
        ranking = ranking_of(network, network.bundle.mean, code, query)
        rows = np.arange(len(features))
        rows = rows[rows != mine]
        added = ranking.weight * index.steps_apart(code, ranking.certainty.steps, rows)
        ranked, _ = nearest_features(
            query, rows, features, len(rows), mean=ranking.mean, added=added
        )
        top = ranked[:DEFAULT_TOP]
        vectors = reranking.vectors(code, query, packed[top], features[top], ranking)
        for way, of_way in found.items():
            listed = right[ranked]
            if way != FINE:
                listed[: len(top)] = listed[reranking.rerank(vectors, way)]
            first = listed[:10].mean(), listed[0]
            of_way.append([metrics.average_precision(listed), *first])
    return {
        way: dict(zip(FIGURES, np.mean(values, axis=0).round(4).tolist(), strict=True))
        for way, values in found.items()
    }


def milliseconds(dim):
    """Dict of number ranked again to dict of method to processor milliseconds, medians of five."""
    rng = np.random.default_rng(0)
    taken = {}
    for top in TOPS:
        rows = rng.standard_normal((top + 1, dim)) + 0.5 * rng.standard_normal(dim)
        rows = reranking._rounded(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        rows[1:] = rows[1:][np.argsort(-(rows[1:] @ rows[0]))]
        taken[top] = {}
        for method in reranking.METHODS:
            spent = []
            for _ in range(5):
                start = time.process_time()
                reranking.rerank(rows, method)
                spent.append(time.process_time() - start)
            taken[top][method] = round(float(np.median(spent)) * 1000, 1)
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=DATABASE:QUERIES[:TRUTH]")
    options = parser.parse_args()
    rows = []
    with default_encoder() as pretrained:
        prior = unsupervised.prior_of("efficientnet_lite0")
        for text in options.sets:
            name, database, queries, relevant, own = load(text, pretrained.encode)
            mean = unsupervised_codes.mean_feature(database.features, prior)
            fitted = unsupervised_codes.fit(database.features, BITS, prior=prior)
            network = Fitted(fitted, mean)
            packed = np.stack(
                [codes.from_latent(network.latent_of(row)) for row in database.features]
            )
            figured = score(network, packed, database.features, queries.features, relevant, own)
            many = float(relevant.sum(axis=1).mean())
            rows.append(
                {
                    "set": name,
                    "database": len(packed),
                    "queries": len(relevant),
                    "relevant": round(many, 1),
                    **figured,
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    figures.write(
        "reranking",
        {
            "protocol": f"F7 of EfficientNet-Lite0 and codes of {BITS} bits without labels. All "
            "images of the database ranked for each query, no pool drawn, and the first "
            f"{DEFAULT_TOP} of them ranked again. relevant: images that are, in the mean, for a "
            "query. against_fine: the worst and the mean of the differences of mAP to the fine "
            "stage alone, over all sets. milliseconds: of the processor, for so many images of "
            f"{1280 + BITS} numbers, medians of five.",
            "top": DEFAULT_TOP,
            "neighbours": {name: one.neighbours for name, one in reranking.METHODS.items()},
            "rows": rows,
            "against_fine": {
                way: {
                    "worst": round(min(differences), 4),
                    "mean": round(float(np.mean(differences)), 4),
                }
                for way in reranking.METHODS
                for differences in [[row[way]["map_all"] - row[FINE]["map_all"] for row in rows]]
            },
            "milliseconds": milliseconds(1280 + BITS),
            "threads": os.environ.get("OPENBLAS_NUM_THREADS", "all"),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
