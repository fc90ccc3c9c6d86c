"""How large must a pool be to hold the exact nearest, and how does that grow with the index?

Run from the root of the repository, on a set of images in class folders:

    python -m tests.bench.pool_size DATABASE QUERIES [--bits 64 128] [--queries-most 1000]

DATABASE and QUERIES are folders of images in class folders; of QUERIES, `--queries-most` are taken
evenly. Databases of growing size are taken from DATABASE, in an order that a seed decides. For
each, H learns without labels from its features, as `hashnet index` has it learn; the ten nearest of
each query by the exact distance of features are looked for among the codes:

- `recall`: share of them in the smallest pool of at least so many rows, by that number;
- `pool_for`: the smallest such number that reaches a recall.

Writes tests/bench/results/pool_size.json.
"""

import argparse
import pathlib
import sys

import numpy as np

from hashnet import codes
from hashnet.retrieval.search.engine import default_pool
from hashnet.train import unsupervised_codes
from tests.bench import figures
from tests.bench.label_free_codes import default_encoder

TOP = 10
LEAST = 3000
POOLS = (100, 300, 1000, 3000, 10_000)
RECALLS = (0.9, 0.95, 0.99)


def compare(database, queries, bits, seed=0):
    """Look for the nearest in databases of growing size.

    Args:
        database: float32 `(n, feature_dim)`, of length 1.
        queries: float32 `(q, feature_dim)`, of length 1.
        bits: ints. Lengths of codes.
        seed: int. Of the order of the database and of H.

    Returns:
        list of dicts, one for each length and size.
    """
    database = database[np.random.default_rng(seed).permutation(len(database))]
    sizes = [len(database)]
    while sizes[0] >= 2 * LEAST:
        sizes.insert(0, sizes[0] // 2)
    rows = []
    for size in sizes:
        part = database[:size]
        nearest = np.argsort(-(queries @ part.T), axis=1, kind="stable")[:, :TOP]
        for num_bits in bits:
            weights = unsupervised_codes.fit(part, num_bits, seed=seed)
            needed = _pools_needed(weights, part, queries, nearest)
            default = default_pool(TOP, size)
            rows.append(
                {
                    "rows": size,
                    "bits": num_bits,
                    "default_pool": default,
                    "recall_in_default_pool": float((needed <= default).mean()),
                    "recall": {str(pool): float((needed <= pool).mean()) for pool in POOLS},
                    "pool_for": {
                        str(recall): int(np.quantile(needed, recall, method="inverted_cdf"))
                        for recall in RECALLS
                    },
                }
            )
            print(rows[-1], file=sys.stderr)
    return rows


def _pools_needed(weights, database, queries, nearest):
    """int `(q, TOP)`: the smallest pool asked for that holds each of the nearest."""
    of_queries, of_database = (
        codes.pack(weights.bits(features)).view(np.uint64) for features in (queries, database)
    )
    needed = np.empty(nearest.shape, np.int64)
    for number, (query, rows) in enumerate(zip(of_queries, nearest, strict=True)):
        apart = np.bitwise_count(of_database ^ query).sum(axis=1, dtype=np.int64)
        nearer = np.cumsum(np.bincount(apart))
        needed[number] = np.where(apart[rows], nearer[apart[rows] - 1], 0) + 1
    return needed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("database")
    parser.add_argument("queries")
    parser.add_argument("--bits", type=int, nargs="+", default=(64, 128))
    parser.add_argument("--queries-most", type=int, default=1000)
    arguments = parser.parse_args()
    paths, queries = (
        sorted(pathlib.Path(folder).glob("*/*"))
        for folder in (arguments.database, arguments.queries)
    )
    chosen = np.linspace(0, len(queries) - 1, min(len(queries), arguments.queries_most))
    with default_encoder() as network:
        database = network.encode(paths).features
        queries = network.encode([queries[place] for place in chosen.astype(int)]).features
    protocol = (
        f"{len(queries)} queries. Features are F7 of the pretrained EfficientNet-Lite0 at 224 "
        "pixels, of length 1; H learns from each database's own, without labels. A pool is the "
        f"smallest that has at least so many rows; looked for are the {TOP} nearest by feature."
    )
    rows = compare(database, queries, arguments.bits)
    figures.write("pool_size", {"protocol": protocol, "rows": rows})


if __name__ == "__main__":
    main()
