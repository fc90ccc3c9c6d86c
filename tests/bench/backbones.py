"""What does a larger backbone buy? Quality and speed of each, as `hashnet index` uses it.

Run from the root of the repository, on an otherwise idle machine:

    python -m tests.bench.backbones DATABASE QUERIES [--backbones NAME ...]

DATABASE and QUERIES are folders of class folders, or several, joined by commas; classes are used
for scoring only. Each backbone takes images at its own size, and its codes are fitted to the
database without labels. Then all of them encode in turn, round after round: one image with all
cores, as a query, and an image on each core, as an index is made.

Writes tests/bench/results/backbones.json.
"""

import argparse
import pathlib
import tempfile

import numpy as np

from hashnet import metrics
from hashnet.encode.encoder import Encoder
from hashnet.network import backbones, runtimes
from hashnet.train import unsupervised
from tests.bench import encode, figures
from tests.bench.label_free_codes import labelled

DEFAULT = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
ROUNDS, SECONDS = 5, 3.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("database")
    parser.add_argument("queries")
    parser.add_argument("--backbones", nargs="+", default=DEFAULT, choices=backbones.BACKBONES)
    options = parser.parse_args()
    database, queries = labelled(options.database), labelled(options.queries)
    with tempfile.TemporaryDirectory() as scratch:
        made = {
            name: made_with(name, database, queries, pathlib.Path(scratch) / name)
            for name in options.backbones
        }
        rates = speeds({name: bundle for name, (bundle, _) in made.items()})
    protocol = (
        "{queries} photos that no fit saw against {database}, relevant: same class; mAP tie-aware, "
        "over the whole database. Each network takes images at its own size; codes of {bits} bits "
        "are fitted to the database without labels. Speed: OpenVINO, float32, all networks in "
        "turn, medians of {rounds} rounds."
    )
    rows = [{"backbone": name, **quality, **rates[name]} for name, (_, quality) in made.items()]
    sizes = {key: rows[0][key] for key in ("queries", "database", "bits")}
    report = {"protocol": protocol.format(**sizes, rounds=ROUNDS), "rows": rows}
    figures.write("backbones", report)


def made_with(name, database, queries, folder):
    """The bundle that `hashnet index` would make, and how well it finds."""
    (paths, labels), (query_paths, query_labels) = database, queries
    bundle = unsupervised.fit_bundle(folder, paths, backbone=name).bundle
    encoder = Encoder(bundle)
    of_database, of_queries = encoder.encode(paths), encoder.encode(query_paths)
    assert not of_database.problems and not of_queries.problems
    by_feature = metrics.evaluate_features(
        of_queries.features, query_labels, of_database.features, labels
    )
    by_code = metrics.evaluate_codes(
        of_queries.codes,
        query_labels,
        of_database.codes,
        labels,
        num_bits=bundle.config.num_bits,
    )
    return bundle, {
        "pixels": bundle.config.image_size,
        "weights": bundle.load_model().count_params(),
        "bits": bundle.config.num_bits,
        "queries": len(query_paths),
        "database": len(paths),
        "map_features": by_feature.map_all.expected,
        "first_is_right": by_feature.precision_at[1],
        "map_codes": by_code.map_all.expected,
    }


def speeds(bundles):
    """dict of name to milliseconds of one image and images/s of many, in turns."""
    contenders = {}
    for name, bundle in bundles.items():
        pixels = np.zeros((1, bundle.config.image_size, bundle.config.image_size, 3), np.uint8)
        threads = Encoder(bundle).num_threads
        for way, count in (("one", 1), ("many", threads)):
            opened = runtimes.open_file(
                bundle.encoder_file, "openvino", concurrent=way == "many", one_by_one=True
            )
            contenders[name, way] = lambda opened=opened, pixels=pixels, count=count: encode.ours(
                opened, pixels, SECONDS, count
            )
    measured = encode.in_turn(contenders, ROUNDS)
    return {
        name: {
            "milliseconds_of_one": 1000 / float(np.median(measured[name, "one"])),
            "images_per_second": float(np.median(measured[name, "many"])),
        }
        for name in bundles
    }


if __name__ == "__main__":
    main()
