"""Codes of an index that began with a few photos and grew, before and after they are fitted again.

python -m tests.bench.refit PHOTOS

PHOTOS are class folders. The share of the ten images nearest by feature (exact, about the mean)
that lie in a pool of the tenth of the index nearest by code, and mAP by code with the folder as
class.
"""

import json
import pathlib
import random
import sys
import tempfile
import time

import numpy as np

import hashnet
from hashnet import codes, metrics
from tests.bench import figures

BEGIN_WITH = (1, 4, 12, 50)
NEAREST, POOL = 10, 0.1


def quality(index):
    """(share of the nearest in the pool, mAP by code), every image asking for the others."""
    ids = sorted(index)
    held = codes.unpack(index.codes(ids), index.encoder.config.num_bits)
    labels = np.array([index[id].label for id in ids])
    bits = np.stack([(held != one).sum(axis=1) for one in held])
    directions = index.features(ids)
    directions = directions - directions.mean(axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = directions @ directions.T
    kept, precisions = [], []
    for place in range(len(ids)):
        others = np.arange(len(ids)) != place
        nearest = np.argsort(-cosines[place][others], kind="stable")[:NEAREST]
        pool = np.argsort(bits[place][others], kind="stable")[: round(POOL * len(ids))]
        kept.append(len(np.intersect1d(nearest, pool)) / NEAREST)
        relevant = labels[others] == labels[place]
        precisions.append(
            metrics.tie_aware_average_precision(bits[place][others], relevant).expected
        )
    return round(float(np.mean(kept)), 4), round(float(np.mean(precisions)), 4)


def main(folder):
    photos = sorted(pathlib.Path(folder).rglob("*.jpg"))
    shuffled = random.Random(0).sample(photos, len(photos))
    rows = []
    with tempfile.TemporaryDirectory() as top:
        whole = hashnet.Index.of_photos(f"{top}/whole", folder, label_from_folder=True)
        reached = quality(whole)
        for number in BEGIN_WITH:
            index = hashnet.Index.of_photos(f"{top}/{number}", shuffled[:number])
            index.update(folder, label_from_folder=True)
            before, drift = quality(index), index.drift()
            start = time.process_time()
            index.refit()
            seconds = time.process_time() - start
            rows.append(
                {
                    "began_with": number,
                    "balance": drift.balance,
                    "outgrown": drift.is_outgrown,
                    "before": before,
                    "after": quality(index),
                    "processor_seconds": round(seconds, 1),
                    "same_network": index.encoder.fingerprint == whole.encoder.fingerprint,
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr)
    classes = len({path.parent for path in photos})
    protocol = (
        f"{len(photos)} photos in {classes} classes, all in the index; the first ones, drawn at "
        "random, made it."
    )
    figures.write("refit", {"protocol": protocol, "fitted_to_all": reached, "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1])
