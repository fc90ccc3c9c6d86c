"""How shall the features of an extractor be matched, and how many inliers are enough?

    python -m tests.bench.settings DATA --local aliked [--kept FOLDER] [--matcher lightglue]

DATA as for tests/bench/local.py, of whose queries a quarter is asked. For each ratio, distance and
error: mAP of both sets by all pairs verified, and, with the fewest inliers that under 1 % of the
other pairs reach, the share of relevant pairs that do. To be taken is the best mean of the two
mAPs, for a matcher the highest least share of the two sets. What `verify.MATCHING` has was chosen
by such comparisons before this script was there, and has not been chosen anew by it.
"""

import argparse
import itertools
import pathlib
import tempfile

import numpy as np

from hashnet.local import lightglue
from hashnet.retrieval.search import verify
from tests.bench import figures, local

RATIOS = (0.85, 0.9, 0.95)
DISTANCES = (None,)
ERRORS = (0.01, 0.015, 0.03)
OTHERS = 0.01  # share of other pairs that may pass


class Remembering:
    """A matcher that matches each pair once."""

    def __init__(self, matcher):
        self._matcher, self._known = matcher, {}

    def match(self, *pair):
        key = tuple(array.ctypes.data for array in pair)
        if key not in self._known:
            self._known[key] = self._matcher.match(*pair)
        return self._known[key]


def compared(features, pairs, matching, matcher, threads):
    """Inliers and matches of pairs, each (query, its candidates)."""
    for query, candidates in pairs:
        found = verify.verify_all(
            features[query],
            [features[path] for path in candidates],
            matching,
            num_threads=threads,
            matcher=matcher,
        )
        yield np.array([[one.inliers, one.matches] for one in found]).T


def scored(truth, pairs, found):
    """mAP by the matches; the fewest inliers that keep others out, and who passes with them."""
    aps, inliers, relevant, apart = [], [], [], []
    for (query, candidates), (own, matches) in zip(pairs, found, strict=True):
        of_query = np.array([path in truth[query] for path in candidates])
        aps.append(local.ranked([-matches], of_query)[2])
        inliers.append(own)
        relevant.append(of_query)
        apart.append(
            [local.LOOK_ALIKES not in query or local.LOOK_ALIKES not in p for p in candidates]
        )
    inliers, relevant, apart = map(np.concatenate, (inliers, relevant, apart))
    others = inliers[~relevant & np.array(apart, bool)]
    least = next(n for n in range(7, 200) if (others >= n).mean() < OTHERS)
    return {
        "map": round(float(np.mean(aps)), 4),
        "least_inliers": least,
        "relevant_at": {
            str(n): [
                round(float((inliers[relevant] >= n).mean()), 4),
                round(float((others >= n).mean()), 5),
            ]
            for n in sorted({least, 8, 10, 12, 15, 20, 25, 30})
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--local", required=True)
    parser.add_argument("--kept", type=pathlib.Path)
    parser.add_argument("--matcher", default="nearest", choices=["nearest", "lightglue"])
    parser.add_argument("--others", type=int, help="other candidates of a query, by chance")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    name = arguments.local
    matcher = Remembering(lightglue.opened(name)) if arguments.matcher == "lightglue" else None
    grid = list(itertools.product(RATIOS, DISTANCES, ERRORS))
    if matcher is not None:
        grid = [(None, None, error) for error in ERRORS]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        extractor = local.opened(name, scratch)
        sets = {}
        for dataset in ("landmarks", "beer_labels"):
            folder = arguments.data / dataset
            truth, queries, database = local.queries_and_database(folder, "quarter")
            features, _ = local.extracted(folder, [*queries, *database], extractor, arguments.kept)
            pairs = []
            rng = np.random.default_rng(0)
            for query in queries:
                paths = [path for path in database if path != query and path in features]
                if arguments.others is not None:
                    relevant = [path for path in paths if path in truth[query]]
                    others = [path for path in paths if path not in truth[query]]
                    chosen = rng.choice(len(others), arguments.others, replace=False)
                    paths = [*relevant, *(others[one] for one in sorted(chosen))]
                pairs.append((query, paths))
            sets[dataset] = truth, features, pairs
    for ratio, distance, error in grid:
        matching = verify.Matching(ratio, distance, error, 7)
        row = {"ratio": ratio, "max_distance": distance, "error": error}
        for dataset, (truth, features, pairs) in sets.items():
            found = compared(features, pairs, matching, matcher, arguments.threads)
            row[dataset] = scored(truth, pairs, found)
        rows.append(row)
        print(row, flush=True)
    figures.write(f"settings_{name}_{arguments.matcher}", {"part": "quarter", "rows": rows})


if __name__ == "__main__":
    main()
