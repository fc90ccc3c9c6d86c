"""How good are the codes of a trained bundle? Encode, rank, score, and write a JSON file.

    python -m tests.bench.train_evaluate BUNDLE DATABASE QUERIES

DATABASE and QUERIES are what `hashnet train` takes. Encoding runs the bundle's ONNX file. The
result is named after the bundle's folder.
"""

import argparse
import pathlib
import sys
import time

import numpy as np

from hashnet import metrics
from hashnet.encode.encoder import Encoder
from hashnet.network import bundle as bundles
from hashnet.train import data
from tests.bench import figures

FLOAT_QUERIES = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("database")
    parser.add_argument("queries")
    options = parser.parse_args()

    encoder = Encoder(bundles.load(options.bundle))
    began = time.monotonic()
    items, item_labels = encode(encoder, options.database)
    queries, query_labels = encode(encoder, options.queries)
    seconds = time.monotonic() - began
    num_bits = encoder.config.num_bits
    result = metrics.evaluate_codes(
        queries.codes, query_labels, items.codes, item_labels, num_bits=num_bits
    )
    origin = encoder.bundle.origin
    report = {
        "question": "How good are the codes of this bundle?",
        "protocol": f"{len(queries)} queries that training never saw, ranked against "
        f"{len(items)} images by bits apart; relevant: same class. map_all is tie-aware, over "
        "the whole database; map_at_1000 is divided by what was found among the first 1000, "
        "ties by row of the database shuffled with seed 0, as the list of Lin et al. 2015 is.",
        "bits": num_bits,
        **result.to_dict(),
        "baselines": baselines(queries, query_labels, items, item_labels),
        "class_accuracy": float(
            (np.array(encoder.config.classes)[queries.scores.argmax(1)] == query_labels).mean()
        ),
        "bit_balance": [round(float(share), 3) for share in (items.latents >= 0.5).mean(axis=0)],
        "training_command": " ".join(figures.portable(origin["command"].split())),
        "training_minutes": origin["minutes"],
        "training": {
            **{k: v for k, v in origin["training"].items() if k != "logs"},
            "start_from": figures.portable([origin["training"]["start_from"]])[0],
        },
        "history": origin["history"],
        "encoding_images_per_second": round((len(items) + len(queries)) / seconds),
    }
    name = pathlib.Path(options.bundle).name
    figures.write(f"train_{name}", report)
    print(f"{name}: mAP {report['map_all']:.4f}, mAP@1000 {report['map_at_1000']:.4f}")


def encode(encoder, path):
    """Encode what lies there, shuffled, as ties by row would favour some classes else."""
    labelled = data.load(path)
    labelled = labelled.rows(np.random.default_rng(0).permutation(len(labelled)))
    encoded = encoder.encode(list(labelled.sources))
    return encoded, labelled.labels[encoded.positions]


def baselines(queries, query_labels, items, item_labels):
    """mAP over the whole database, tie-aware, of simpler rankings by the same network."""
    num_classes = items.scores.shape[1]
    one_hot = np.eye(num_classes, dtype=bool)
    classes = [np.packbits(one_hot[part.scores.argmax(1)], axis=1) for part in (queries, items)]
    by_class = metrics.evaluate_codes(
        classes[0], query_labels, classes[1], item_labels, num_bits=num_classes
    )
    some = np.random.default_rng(0).permutation(len(queries))[:FLOAT_QUERIES]
    by_feature = metrics.evaluate_features(
        queries.features[some], query_labels[some], items.features, item_labels
    )
    return {
        "class_id_as_code": by_class.map_all.expected,
        f"float_f7_without_hashing_{len(some)}_queries": by_feature.map_all.expected,
    }


if __name__ == "__main__":
    sys.exit(main())
