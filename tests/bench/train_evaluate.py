"""How good are the codes of a trained bundle? Encode, rank, score, and write a JSON file.

    python tests/bench/train_evaluate.py BUNDLE DATABASE QUERIES OUT.json

DATABASE and QUERIES are what `hashnet train` takes. Encoding runs the bundle's ONNX file.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys
import time

import numpy as np

from hashnet import bundle as bundles
from hashnet import metrics
from hashnet.encoder import Encoder
from train import data

FLOAT_QUERIES = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("database")
    parser.add_argument("queries")
    parser.add_argument("out", type=pathlib.Path)
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
        "command": origin["command"],
        "protocol": f"{len(queries)} queries that training never saw, ranked against "
        f"{len(items)} images by bits apart; relevant: same class. map_all is tie-aware, over "
        "the whole database; map_at_1000 is divided by what was found among the first 1000, "
        "ties by row, as Lin et al. 2015 do.",
        "bits": num_bits,
        **result.as_json(),
        "baselines": baselines(queries, query_labels, items, item_labels),
        "class_accuracy": float(
            (np.array(encoder.config.classes)[queries.scores.argmax(1)] == query_labels).mean()
        ),
        "bit_balance": [round(float(share), 3) for share in (items.latents >= 0.5).mean(axis=0)],
        "training_minutes": origin["minutes"],
        "training": origin["training"],
        "history": origin["history"],
        "encoding_images_per_second": round((len(items) + len(queries)) / seconds),
        **surroundings(),
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{options.out}: mAP {report['map_all']:.4f}, mAP@1000 {report['map_at_1000']:.4f}")


def encode(encoder, path):
    """Encode what lies there; images that cannot be read are left out."""
    labelled = data.load(path)
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


def surroundings():
    """Commit, machine and versions."""
    import keras
    import onnxruntime

    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    cpu = [
        line.split(":")[1].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "commit": commit,
        "machine": f"{cpu[0]}, {len(cpu)} cores, shared with other work",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "keras": keras.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }


if __name__ == "__main__":
    sys.exit(main())
