"""Does it cost anything to store features in half the bytes? Rank by both, and compare.

    python -m tests.bench.feature_dtype NAME=BUNDLE:DATABASE:QUERIES ...

DATABASE and QUERIES are what `hashnet train` takes. Every query is ranked against the whole
database by exact Euclidean distance, with the database's features as they were encoded (float32)
and as an index stores them (float16).
"""

import argparse
import sys

import numpy as np

from hashnet import metrics
from hashnet.encode.encoder import Encoder
from hashnet.network import bundle as bundles
from hashnet.retrieval.search.fine import nearest_features
from tests.bench import figures
from tests.bench.train_evaluate import encode

TOP = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=BUNDLE:DATABASE:QUERIES")
    parser.add_argument("--queries", type=int, default=1000, help="at most (%(default)s)")
    options = parser.parse_args()
    rows = []
    for entry in options.sets:
        name, _, places = entry.partition("=")
        rows.append({"set": name, **compare(*places.split(":"), options.queries)})
        print(rows[-1], flush=True)
    figures.write(
        "feature_dtype",
        {
            "question": "Does storing features as float16 change what is found?",
            "protocol": "Queries that are not in the database, ranked against all of it by exact "
            "Euclidean distance. map_all: tie-aware, over the whole database, relevant: same "
            f"class. same_top_{TOP}: the share of the {TOP} nearest by float32 that float16 has "
            "among its own.",
            "rows": rows,
        },
    )


def compare(bundle, database, queries, most):
    encoder = Encoder(bundles.load(bundle))
    items, item_labels = encode(encoder, database)
    asked, labels = encode(encoder, queries)
    features, labels = asked.features[:most], labels[:most]
    row = {"database": len(items), "queries": len(features), "dimensions": features.shape[1]}
    tops = {}
    for dtype in ("float32", "float16"):
        stored = items.features.astype(dtype)
        result = metrics.evaluate_features(features, labels, stored.astype("float32"), item_labels)
        row[f"map_all_{dtype}"] = result.map_all.expected
        row[f"bytes_{dtype}"] = stored[0].nbytes
        pool = np.arange(len(items))
        tops[dtype] = [nearest_features(one, pool, stored, TOP)[0] for one in features]
    same = [len(np.intersect1d(a, b)) for a, b in zip(*tops.values(), strict=True)]
    return {**row, f"same_top_{TOP}": float(np.mean(same)) / TOP}


if __name__ == "__main__":
    sys.exit(main())
