"""What should the fine stage rank by: features, features about a mean, or features and codes?

Run from the root of the repository, on one or more sets of images:

    python -m tests.bench.ranking NAME=DATABASE:QUERIES[:TRUTH] NAME=BUNDLE@DATABASE:QUERIES ...

DATABASE and QUERIES are folders of class folders; or, with TRUTH, a JSON file {query: [relevant]},
of images. DATABASE may be one folder of images named by their class (`CLASS.jpg`). Without BUNDLE
the codes are fitted to the database without labels; a BUNDLE brings the codes and the mean of the
photos that it was made from, which need not be those of the database.

All images of the database are ranked for each query, no pool drawn:

- `codes`: by Hamming distance, ties averaged;
- `features`: by Euclidean distance of features, the fine stage of the paper;
- `about_mean`: by that of their directions from the mean;
- `both`: by the distance of `hashnet.retrieval.search.ranking`, what searching does.

Writes tests/bench/results/ranking.json.
"""

import argparse
import json
import pathlib
import sys
import types

import numpy as np

from hashnet import codes, metrics
from hashnet.encode.encoder import Encoder
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.fine import nearest_features
from hashnet.retrieval.search.ranking import ranking_of
from hashnet.train import unsupervised, unsupervised_codes
from tests.bench import figures
from tests.bench.label_free_codes import default_encoder

BITS = (64, 128)
WAYS = ("codes", "features", "about_mean", "both")
FIGURES = ("map_all", "precision_at_10", "found_at_1")


class Fitted:
    """Stands for the encoder of an index whose codes are fitted to its features."""

    def __init__(self, weights, mean):
        self.weights = weights
        self.config = types.SimpleNamespace(num_bits=len(weights.bias))
        self.bundle = types.SimpleNamespace(mean=mean)

    def latent_of(self, feature):
        return 1 / (1 + np.exp(-(feature @ self.weights.kernel + self.weights.bias)))


def score(network, packed, features, queries, relevant, own):
    """Dict of way to its figures, means over the queries."""
    index = CodeIndex(packed)
    found = {way: [] for way in WAYS}
    for query, right, mine in zip(queries, relevant, own, strict=True):
        code = codes.from_latent(network.latent_of(query))
        ranking = ranking_of(network, network.bundle.mean, code, query)
        rows = np.arange(len(features))
        rows = rows[rows != mine]
        bits = np.bitwise_count(packed[rows] ^ code).sum(axis=1, dtype=np.int64)
        by_code = metrics.tie_aware_average_precision(bits, right[rows])
        order = np.random.default_rng(0).permutation(len(rows))
        order = order[np.argsort(bits[order], kind="stable")]
        found["codes"].append([by_code.expected, *_first(right[rows[order]])])
        added = ranking.weight * index.steps_apart(code, ranking.certainty.steps, rows)
        for way, options in (
            ("features", {}),
            ("about_mean", {"mean": ranking.mean}),
            ("both", {"mean": ranking.mean, "added": added}),
        ):
            ranked, _ = nearest_features(query, rows, features, len(rows), num_threads=2, **options)
            listed = right[ranked]
            found[way].append([metrics.average_precision(listed), *_first(listed)])
    return {
        way: dict(zip(FIGURES, np.mean(values, axis=0).round(4).tolist(), strict=True))
        for way, values in found.items()
    }


def _first(listed):
    return listed[:10].mean(), listed[0]


def load(text, encode):
    """Name, features and latents of database and queries, relevance, and each query's own row."""
    name, _, places = text.partition("=")
    database, queries, *truth = places.split("@")[-1].split(":")
    paths, labels = images(database)
    asked, wanted = images(queries)
    if not truth:
        relevant = wanted[:, None] == labels
        own = np.full(len(asked), -1)
    else:
        listed = json.loads(pathlib.Path(truth[0]).read_text())
        known = [at for at, path in enumerate(asked) if _named(path, listed)]
        asked = [asked[at] for at in known]
        relevant = np.array(
            [
                [_named(path, listed[_named(query, listed)]) is not None for path in paths]
                for query in asked
            ]
        )
        own = np.array([paths.index(path) if path in paths else -1 for path in asked])
        relevant[np.flatnonzero(own >= 0), own[own >= 0]] = False
    answerable = relevant.any(axis=1)
    asked = [path for path, kept in zip(asked, answerable, strict=True) if kept]
    return name, encode(paths), encode(asked), relevant[answerable], own[answerable]


def images(folder):
    folder = pathlib.Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json")
    flat = all(path.parent == folder for path in paths)
    return paths, np.array([path.stem if flat else path.parent.name for path in paths])


def _named(path, names):
    """Which of some names a path ends with, by whole folder names; or None."""
    parts = path.as_posix().split("/")
    ends = ("/".join(parts[-length:]) for length in range(1, len(parts)))
    return next((end for end in ends if end in names), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=[BUNDLE@]DATABASE:QUERIES[:TRUTH]")
    parser.add_argument("--bits", type=int, nargs="+", default=BITS)
    options = parser.parse_args()
    rows = []
    with default_encoder() as pretrained:
        prior = unsupervised.prior_of("efficientnet_lite0")
        for text in options.sets:
            bundle = text.partition("=")[2].rpartition("@")[0]
            network = Encoder.open(bundle) if bundle else pretrained
            name, database, queries, relevant, own = load(text, network.encode)
            of_set = {"set": name, "database": len(database), "queries": len(queries)}
            if bundle:
                measured = [({"bits": network.config.num_bits, "learned": "from labels"}, network)]
            else:
                mean = unsupervised_codes.mean_feature(database.features, prior)
                measured = [
                    (
                        {"bits": bits, "learned": "without labels"},
                        Fitted(unsupervised_codes.fit(database.features, bits, prior=prior), mean),
                    )
                    for bits in options.bits
                ]
            for of_codes, one in measured:
                packed = np.stack(
                    [codes.from_latent(one.latent_of(row)) for row in database.features]
                )
                figured = score(one, packed, database.features, queries.features, relevant, own)
                rows.append({**of_set, **of_codes, **figured})
                print(rows[-1], file=sys.stderr, flush=True)
    figures.write(
        "ranking",
        {
            "protocol": "F7 of EfficientNet-Lite0, of length 1. All images of the database ranked "
            "for each query, no pool drawn. map_all: mean average precision, ties of codes "
            "averaged. better: the better of codes and features, for each row and figure by "
            "itself; worst and mean: of the differences to it, over all rows.",
            "rows": rows,
            "against_the_better": {
                figure: {
                    way: {
                        "worst": round(min(differences), 4),
                        "mean": round(float(np.mean(differences)), 4),
                    }
                    for way in WAYS
                    for differences in [
                        [
                            row[way][figure] - max(row["codes"][figure], row["features"][figure])
                            for row in rows
                        ]
                    ]
                }
                for figure in FIGURES
            },
        },
    )


if __name__ == "__main__":
    sys.exit(main())
