"""What does another precision than float32 cost, and what does it give?

Run from the root of the repository, on an otherwise idle machine:

    python -m tests.bench.precision BUNDLE DATABASE QUERIES

BUNDLE is a bundle of float32, DATABASE and QUERIES are folders of class folders. For each precision
that this processor computes in: the share of bits that flip from float32's, mAP by codes and by
exact features (tie-aware, whole database; queries and database in the same precision, and queries
in float32 against the database of the other, which is what an index refuses), images/s as
an index is made, and the size of the file. int8 takes its ranges from DATABASE. Writes
tests/bench/results/precision.json.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np

from hashnet import images, metrics
from hashnet.encode import precision
from hashnet.encode.encoder import Encoder
from hashnet.errors import HashnetError
from hashnet.network import bundle as bundles
from tests.bench import figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("database")
    parser.add_argument("queries")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    report = measure(options.bundle, options.database, options.queries, rounds=options.rounds)
    figures.write("precision", report)


def measure(bundle_folder, database, queries, *, rounds):
    """The whole report, as a dict for JSON."""
    source = bundles.load(bundle_folder)
    files = {"database": _labelled(database), "queries": _labelled(queries)}
    refused = {}
    with tempfile.TemporaryDirectory() as scratch:
        encoders = {"float32": Encoder(source)}
        for name in bundles.PRECISIONS[1:]:
            out = pathlib.Path(scratch) / name
            try:
                made = precision.convert(source, out, name, images_from=[database])
            except HashnetError as error:
                refused[name] = str(error)
                continue
            encoders[name] = Encoder(made)
        encoded, seconds = {}, {name: [] for name in encoders}
        for _ in range(rounds):
            for name, encoder in encoders.items():
                began = time.perf_counter()
                encoded[name] = encoder.encode(files["database"][0])
                seconds[name].append(time.perf_counter() - began)
        asked = {name: encoder.encode(files["queries"][0]) for name, encoder in encoders.items()}
        rows = [
            {
                "precision": name,
                "runtime": encoder.runtime,
                "file_bytes": encoder.bundle.encoder_file.stat().st_size,
                "bits_that_flip": _flipped(encoded[name], encoded["float32"]),
                "map_codes": _map_codes(asked[name], encoded[name], files),
                "map_features": _map_features(asked[name], encoded[name], files),
                "map_codes_queries_in_float32": _map_codes(asked["float32"], encoded[name], files),
                "images_per_second": len(encoded[name]) / float(np.median(seconds[name])),
            }
            for name, encoder in encoders.items()
        ]
    return {
        "question": "What does another precision than float32 cost, and what does it give?",
        "network_of": {"backbone": source.config.backbone, "pixels": source.config.image_size},
        "bits": source.config.num_bits,
        "database": len(encoded["float32"]),
        "queries": len(asked["float32"]),
        "rounds": rounds,
        "rows": rows,
        "refused_by_this_machine": refused,
    }


def _labelled(folder):
    found, *_ = images.find([folder])
    return [file.path for file in found], np.array([file.folder for file in found])


def _flipped(found, expected):
    return float(((found.latents >= 0.5) != (expected.latents >= 0.5)).mean())


def _map_codes(asked, held, files):
    (query_labels, labels), num_bits = _labels(asked, held, files), asked.latents.shape[1]
    found = metrics.evaluate_codes(asked.codes, query_labels, held.codes, labels, num_bits=num_bits)
    return found.map_all.expected


def _map_features(asked, held, files):
    query_labels, labels = _labels(asked, held, files)
    found = metrics.evaluate_features(asked.features, query_labels, held.features, labels)
    return found.map_all.expected


def _labels(asked, held, files):
    return files["queries"][1][asked.positions], files["database"][1][held.positions]


if __name__ == "__main__":
    main()
