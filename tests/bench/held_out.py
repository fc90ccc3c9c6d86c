"""What are codes worth for classes that no training has seen?

    hashnet train PHOTOS/train --bundle BUNDLE --recipe photos --held-out dress,pants,shoes
    python -m tests.bench.held_out BUNDLE PRETRAINED PHOTOS/train PHOTOS/test

PRETRAINED is a bundle of the same backbone as it was before, such as the folder `encoder` of an
index that was made without a bundle. Queries of the classes that were held out and of those that
were not are ranked against the same images, all classes together.
"""

import argparse
import sys

import numpy as np

from hashnet import metrics
from hashnet.encode.encoder import Encoder
from hashnet.network import bundle as bundles
from hashnet.train import data, unsupervised_codes
from tests.bench import figures
from tests.bench.train_evaluate import encode


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("bundle", "pretrained", "database", "queries"):
        parser.add_argument(name)
    options = parser.parse_args()
    trained = Encoder(bundles.load(options.bundle))
    origin = trained.bundle.origin
    num_bits = trained.config.num_bits
    held_out = origin["training"]["held_out"]
    num_classes = len(data.load(options.database).classes)

    worlds = {
        "trained": [encode(trained, path) for path in (options.database, options.queries)],
        "pretrained": [
            encode(Encoder(bundles.load(options.pretrained)), path)
            for path in (options.database, options.queries)
        ],
    }
    rows = []
    for name, ((items, labels), (queries, query_labels)) in worlds.items():
        if name == "trained":
            codes = items.codes, queries.codes
        else:
            weights = unsupervised_codes.itq(items.features, num_bits)
            codes = [np.packbits(weights.bits(one.features), axis=1) for one in (items, queries)]
        unseen = np.isin(query_labels, held_out)
        for kind, asked in (("held out", unseen), ("trained on", ~unseen)):
            by_code = metrics.evaluate_codes(
                codes[1][asked], query_labels[asked], codes[0], labels, num_bits=num_bits
            )
            by_feature = metrics.evaluate_features(
                queries.features[asked], query_labels[asked], items.features, labels
            )
            rows.append(
                {
                    "network": name,
                    "classes": kind,
                    "queries": int(asked.sum()),
                    "map_codes": by_code.map_all.expected,
                    "map_features": by_feature.map_all.expected,
                }
            )
            print(rows[-1], flush=True)
    figures.write(
        "held_out",
        {
            "question": "What are codes worth for classes that no training has seen?",
            "protocol": f"Trained without the photos of {', '.join(held_out)}. Test photos as "
            f"queries against all {len(worlds['trained'][0][0])} training photos of all "
            f"{num_classes} classes; relevant: same class; mAP tie-aware, over the whole "
            f"database. trained: codes of {num_bits} bits and features of the trained network; "
            f"pretrained: the same backbone before, ITQ codes of {num_bits} bits.",
            "rows": rows,
            "training_command": origin["command"],
            "training_minutes": origin["minutes"],
        },
    )


if __name__ == "__main__":
    sys.exit(main())
