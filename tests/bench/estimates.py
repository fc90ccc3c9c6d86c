"""By which estimate of distances should a pool be taken? Bits, certainty, latents, and factors.

    python -m tests.bench.estimates DATA TINY STAMPS SCRATCH

The arguments are those of `label_free_codes`, whose sets and features these are; besides them,
features drawn around centres as in `coarse_fine clusters`. Codes are learned from each database:

- `hamming`: bits that differ;
- `certainty`: the same, each by steps of how sure the query's latent is of it: what search does;
- `latents`: the query's numbers before the sigmoid against the bits, in full precision;
- `factors`: RaBitQ's estimator (Gao and Long, SIGMOD 2024) in the space that H looks at: numbers of
  the query, and of each row how much of it lies in that space and how well its bits tell its
  direction there, which is one number a row;
- `projection`: what H sees of both, without bits.

`recall` is the share of the exact ten in pools of .1, .3 and 1 % (at least ten): the nearest by
direction from the mean feature, as the fine stage ranks.
Writes tests/bench/results/estimates.json.
"""

import argparse
import pathlib
import sys

import numpy as np

from hashnet import codes
from hashnet.retrieval.search.fine import directions
from hashnet.retrieval.search.ranking import Certainty
from hashnet.train import unsupervised, unsupervised_codes
from tests.bench import figures
from tests.bench.coarse_fine import clusters
from tests.bench.label_free_codes import Reader, default_encoder, searches

BITS = (64, 128)
POOLS = (0.001, 0.003, 0.01)
NEAREST = 10
MADE, DIMENSIONS, ASKED, LEARNED_FROM = 100_000, 1280, 200, 5000


def estimates(database, queries, mean, weights):
    """Arrays `(q, n)` by name, smaller where a row is held to be nearer."""
    signs = np.where(weights.bits(database), np.float32(1), np.float32(-1))
    logits = queries @ weights.kernel + weights.bias
    yield "hamming", -np.sign(logits) @ signs.T
    latents = 1 / (1 + np.exp(-logits))
    sure = [Certainty.of(one, codes.from_latent(one)) for one in latents]
    steps = np.array([one.steps for one in sure], np.float32)
    yield "certainty", -(np.sign(logits) * steps) @ signs.T
    yield "latents", -logits @ signs.T
    # The nearest orthonormal axes to those of H: in them, codes are the corners of a cube.
    left, _, right = np.linalg.svd(weights.kernel.astype(np.float64), full_matrices=False)
    axes = (left @ right).astype(np.float32)
    seen, asked = (directions(each.astype(np.float64), mean) @ axes for each in (database, queries))
    lengths = np.linalg.norm(seen, axis=1)
    corners = signs / np.float32(np.sqrt(signs.shape[1]))
    told = np.maximum((corners * seen).sum(axis=1) / lengths, 1e-3)
    yield "factors", -(asked @ corners.T) * (lengths / told)
    yield "projection", -asked @ seen.T


def compared(name, database, queries, left_out, methods, prior):
    """A dict for each method, length and estimate."""
    mean = unsupervised_codes.mean_feature(database, prior)
    of_queries, rows = (directions(each.astype(np.float64), mean) for each in (queries, database))
    products = of_queries @ rows.T
    if left_out is not None:
        products[left_out] = -np.inf
    nearest = np.argsort(-products, axis=1, kind="stable")[:, :NEAREST]
    pools = [max(NEAREST, round(share * len(database))) for share in POOLS]
    for method, fit in methods.items():
        for num_bits in BITS:
            weights = fit(database[:LEARNED_FROM], num_bits)
            for estimate, values in estimates(database, queries, mean, weights):
                if left_out is not None:
                    values[left_out] = np.inf
                # Equal estimates come in an order that knows nothing of distances.
                drawn = np.random.default_rng(0).permutation(len(database))
                order = drawn[np.argsort(values[:, drawn], axis=1, kind="stable")]
                places = np.argsort(order, axis=1)
                places = np.take_along_axis(places, nearest, axis=1)
                yield {
                    "set": name,
                    "database": len(database),
                    "queries": len(queries),
                    "codes": method,
                    "bits": num_bits,
                    "estimate": estimate,
                    "recall": [round(float((places < pool).mean()), 4) for pool in pools],
                }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "tiny", "stamps", "scratch"):
        parser.add_argument(name, type=pathlib.Path)
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    with default_encoder() as encoder:
        read = Reader(encoder, options.scratch)
        sets = dict(searches(read, options.data, options.tiny, options.stamps))
    prior = unsupervised.prior_of("efficientnet_lite0")
    methods = {
        "fit": lambda *given: unsupervised_codes.fit(*given, prior=prior, seed=0),
        "itq": unsupervised_codes.itq,
    }
    rows = []
    for name, search in sets.items():
        given = (name, search.database, search.queries, search.left_out)
        rows += compared(*given, methods, prior)
        print(rows[-1], file=sys.stderr, flush=True)
    labels, drawn, rng = clusters(MADE, DIMENSIONS)
    queries = drawn(rng.integers(0, labels.max() + 1, ASKED))
    database = np.concatenate([drawn(part) for part in np.array_split(labels, 50)])
    itq = {"itq": methods["itq"]}
    rows += compared("made clusters", database, queries, None, itq, None)
    protocol = (
        "Features are F7 of the pretrained EfficientNet-Lite0, of length 1, and made clusters as "
        f"in the other tables; codes learned from the first {LEARNED_FROM:,} of each database, by "
        "the default fit and by ITQ. Shares of the exact ten, by direction from the mean as the "
        "fine stage ranks, in the first .1, .3 and 1 % (at least ten). certainty is what search "
        "does and stores nothing more; latents are the query's numbers in full; factors are "
        "RaBitQ's, with a number of each row besides its code; projection compares without bits "
        "what H sees."
    )
    figures.write("estimates", {"protocol": protocol, "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
