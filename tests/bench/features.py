"""What do features find: of one network by its poolings, and of local features; and their codes?

Run from the root of the repository, on one or more sets of images:

    python -m tests.bench.features [--local] NAME=DATABASE:QUERIES[:TRUTH] ...

DATABASE and QUERIES are folders of class folders, or of images with TRUTH, a JSON file
{query: [relevant]}. `hashnet.compare` compares; what other code lengths and networks find on photos
of one's own, `hashnet compare` says.

Writes tests/bench/results/features.json; with --local, which compares aggregated local features,
features_local_NAME.json for each set.
"""

import argparse
import sys

import hashnet
from hashnet.local.aggregation import KINDS
from hashnet.network.pooling import POOLINGS
from tests.bench import figures

FEATURES = ["f7", *list(POOLINGS)[1:], "map_mac", "map_rmac", "map_gem", "gem+map_rmac"]
LOCAL = ["f7", *(f"sift:{kind}" for kind in KINDS)]
LENGTHS = [128]
SEED = 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=DATABASE:QUERIES[:TRUTH]")
    parser.add_argument("--local", action="store_true", help="aggregated local features")
    options = parser.parse_args()
    sets = {}
    for text in options.sets:
        name, _, places = text.partition("=")
        database, queries, *truth = places.split(":")
        compared = hashnet.compare(
            database,
            queries,
            ground_truth=truth[0] if truth else None,
            features=LOCAL if options.local else FEATURES,
            bits=LENGTHS,
            seed=SEED,
        ).to_dict()
        del compared["problems"]
        sets[name] = compared
        print(name, compared["methods"][0], file=sys.stderr, flush=True)
        if options.local:
            figures.write(f"features_local_{name}", _report({name: compared}))
    if not options.local:
        figures.write("features", _report(sets))


def _report(sets):
    return {"protocol": next(iter(sets.values()))["protocol"], "seed": SEED, "sets": sets}


if __name__ == "__main__":
    sys.exit(main())
