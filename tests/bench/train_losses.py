"""Which loss makes the best codes? All five on one backbone, one schedule, one run.

    python -m tests.bench.train_losses TRAIN QUERIES

Phase 1 only: H and F8 learn on frozen features of the pretrained backbone, so that nothing but
the loss differs. Database: TRAIN; each query is ranked against all of it.
"""

import argparse
import sys
import tempfile

import numpy as np

from hashnet import codes, metrics
from hashnet.train import config, data, supervised
from tests.bench import figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("queries")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--bits", type=int, nargs="+", default=[12, 48])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()

    size = options.image_size
    database, queries = (data.load(p).decoded(size) for p in (options.train, options.queries))
    rows = []
    for num_bits in options.bits:
        for loss in config.CODE_LOSSES:
            scores = [
                score(database, queries, num_bits, loss, seed, options) for seed in options.seeds
            ]
            rows.append(
                {
                    "loss": loss,
                    "bits": num_bits,
                    "map_all_median": round(float(np.median(scores)), 4),
                    "map_all_of_seeds": [round(value, 4) for value in scores],
                }
            )
            print(rows[-1], flush=True)
    report = {
        "question": "Which of the five losses makes the best codes?",
        "protocol": f"{len(queries)} queries that training never saw against the {len(database)} "
        f"training images, {len(database.classes)} classes. H and F8 only, on frozen features of "
        f"the pretrained EfficientNet-Lite0 at {size} pixels, {options.epochs} epochs, AdamW, "
        "cosine schedule, the same for every loss. map_all: tie-aware, over the whole database, "
        f"median of seeds {options.seeds}.",
        "rows": rows,
    }
    figures.write("train_losses", report)


def score(database, queries, num_bits, loss, seed, options):
    """Tie-aware mAP of one training."""
    settings = config.TrainConfig(
        num_bits=num_bits,
        image_size=options.image_size,
        loss=loss,
        head_epochs=options.epochs,
        epochs=0,
        batch=64,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        trained = supervised.train(database, f"{folder}/bundle", settings, verbose=False)
        network = trained.bundle.load_model()
    code = [
        codes.from_latent(
            network.predict(part.sources.astype("float32"), batch_size=64, verbose=0)["latent"]
        )
        for part in (queries, database)
    ]
    result = metrics.evaluate_codes(
        code[0], queries.labels, code[1], database.labels, num_bits=num_bits
    )
    return result.map_all.expected


if __name__ == "__main__":
    sys.exit(main())
