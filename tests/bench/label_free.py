"""How good are codes without labels? Ours beside ITQ, PCA-sign and random hyperplanes.

Run from the root of the repository, on one or more sets of images in class folders:

    python -m tests.bench.label_free NAME=DATABASE:QUERIES ... [--bits 48 64 128 256]

Each of DATABASE and QUERIES is a folder of class folders, or several, joined by commas. Classes
are used for scoring only. Every method learns from the same database features, and codes of the
queries are ranked against codes of the database:

- `map_all`: tie-aware mean average precision over the whole database;
- `recall_at_10_in_pool`: which share of the ten nearest by feature lies in the pool of the
  smallest threshold that holds at least 5 % of the database; `pool` is the share it then holds.

Writes tests/bench/results/label_free.json.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

from hashnet import codes, metrics
from hashnet.encode.encoder import Encoder
from hashnet.network import backbones, bundle, model
from hashnet.train import unsupervised_codes
from tests.bench import figures

METHODS = {
    "fit": unsupervised_codes.fit,
    "itq": unsupervised_codes.itq,
    "pca_sign": unsupervised_codes.pca_sign,
    "lsh": unsupervised_codes.lsh,
}
BITS = (48, 64, 128, 256)
SEEDS = (0, 1, 2)
POOL_SHARE = 0.05
FIGURES = ("map_all", "recall_at_10_in_pool", "pool", "seconds")


def compare(features_by_set, bits=BITS, seeds=SEEDS):
    """Score every method at every length on every set.

    Args:
        features_by_set: dict of name to (database features, database labels, query features,
            query labels); features float32 `(n, feature_dim)`, of length 1, as H takes them.
        bits: ints. Lengths of codes.
        seeds: ints. Each fit is repeated with every seed.

    Returns:
        list of dicts, one for each set, length and method: medians over seeds, and the spread.
    """
    rows = []
    for name, (database, database_labels, queries, query_labels) in features_by_set.items():
        exact = metrics.evaluate_features(queries, query_labels, database, database_labels)
        rows.append({"set": name, "method": "features", "map_all": exact.map_all.expected})
        nearest = _nearest(queries, database, 10)
        for num_bits in bits:
            for method, fit in METHODS.items():
                runs = []
                for seed in seeds:
                    start = time.perf_counter()
                    weights = fit(database, num_bits, seed=seed)
                    seconds = time.perf_counter() - start
                    of_queries, of_database = (
                        codes.pack(weights.bits(features)) for features in (queries, database)
                    )
                    scored = metrics.evaluate_codes(
                        of_queries, query_labels, of_database, database_labels, num_bits=num_bits
                    )
                    recall, pool = _pool_recall(of_queries, of_database, nearest)
                    runs.append((scored.map_all.expected, recall, pool, seconds))
                rows.append(_summary(name, method, num_bits, len(database), len(queries), runs))
                print(rows[-1], file=sys.stderr)
    return rows


def _summary(name, method, num_bits, database, queries, runs):
    figures = dict(zip(FIGURES, zip(*runs, strict=True), strict=True))
    return {
        "set": name,
        "method": method,
        "bits": num_bits,
        "database": database,
        "queries": queries,
        "repeats": len(runs),
        **{key: round(statistics.median(values), 4) for key, values in figures.items()},
        **{f"{key}_range": [round(min(v), 4), round(max(v), 4)] for key, v in figures.items()},
    }


def _nearest(queries, database, count):
    """Find the nearest rows by feature, `(q, count)`, ties by row."""
    squares = (database.astype(np.float64) ** 2).sum(axis=1)
    return np.array(
        [np.argsort(squares - 2 * (database @ query), kind="stable")[:count] for query in queries]
    )


def _pool_recall(query_codes, database_codes, nearest):
    """Share of the nearest in the smallest pool of at least 5 %, and the share in that pool."""
    at_least = int(np.ceil(POOL_SHARE * len(database_codes)))
    recalls, pools = [], []
    for query, rows in zip(query_codes, nearest, strict=True):
        apart = np.bitwise_count(database_codes ^ query).sum(axis=1, dtype=np.int64)
        inside = apart <= np.partition(apart, at_least - 1)[at_least - 1]
        recalls.append(inside[rows].mean())
        pools.append(inside.mean())
    return float(np.mean(recalls)), float(np.mean(pools))


def load(text, encode):
    """Read a set, `NAME=DATABASE:QUERIES`; `encode` turns image paths into features."""
    name, _, folders = text.partition("=")
    parts = []
    for joined in folders.split(":"):
        paths, labels = labelled(joined)
        parts += [encode(paths), labels]
    return name, tuple(parts)


def labelled(folders):
    """Paths below folders of class folders, joined by commas, and the names of their classes."""
    paths = sorted(
        path for folder in folders.split(",") for path in pathlib.Path(folder).glob("*/*")
    )
    return paths, np.array([path.parent.name for path in paths])


@contextlib.contextmanager
def encoder():
    """The default network, with its pretrained weights."""
    classes = backbones.imagenet_classes()
    config = model.HashNetConfig(num_bits=1, classes=classes, scores_from="feature")
    with tempfile.TemporaryDirectory() as folder:
        yield Encoder(bundle.save(folder, model.build(config), config, origin={}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=DATABASE:QUERIES")
    parser.add_argument("--bits", type=int, nargs="+", default=BITS)
    arguments = parser.parse_args()
    with encoder() as network:
        sets = dict(
            load(text, lambda paths: network.encode(paths).features) for text in arguments.sets
        )
    rows = compare(sets, arguments.bits)
    protocol = (
        "Features are F7 of the pretrained EfficientNet-Lite0 at 224 pixels, of length 1. Every "
        "method learns H from the database's features. Codes of the queries rank the whole "
        "database; relevant means of the same class; map_all is tie-aware. Medians over seeds."
    )
    figures.write("label_free", {"protocol": protocol, "seeds": SEEDS, "rows": rows})


if __name__ == "__main__":
    main()
