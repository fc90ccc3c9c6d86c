"""What does a learned matcher find among the first hits, and what does it cost?

    python -m tests.bench.matcher DATA [--local aliked] [--kept FOLDER] [--top 10] [--every N]

DATA and KEPT as for tests/bench/local.py. All pairs are compared by nearest features; the first
`--top` of each query, as a search orders them, once more by LightGlue, as `Engine.verify` does. R@1
and mAP before and after; the share of relevant and of other pairs that pass, of all pairs and of
those that the matcher saw; and the processor time of a relevant and of another pair, on one thread.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np

from hashnet.local import lightglue
from hashnet.retrieval.search import verify
from hashnet.threads import mapped
from tests.bench import figures, local


def compared(query, candidates, matching, threads, matcher=None):
    found = verify.verify_all(query, candidates, matching, num_threads=threads, matcher=matcher)
    return np.array([[one.inliers, one.matches, one.same] for one in found]).T


def share(passed, those):
    return round(float(passed[those].mean()), 5) if those.any() else None


def measure(folder, name, kept, top, every, threads):
    truth, queries, database = local.queries_and_database(folder, every=every)
    with tempfile.TemporaryDirectory() as scratch:
        extractor = local.opened(name, scratch)
        features, _ = local.extracted(folder, [*queries, *database], extractor, kept)
    matcher = lightglue.opened(name)
    before, after, seconds = [], [], ([], [])
    kinds = {key: [] for key in ("relevant", "look_alike", "seen", "before", "after")}
    for query in queries:
        paths = [path for path in database if path != query and path in features]
        relevant = np.array([path in truth[query] for path in paths])
        inliers, matches, same = compared(
            features[query], [features[path] for path in paths], verify.MATCHING[name], threads
        )
        counted = np.where(same, inliers, 0)
        before.append(local.ranked([-matches, -counted], relevant))
        kinds["before"].append(same > 0)
        first = np.lexsort((-matches, -counted))[:top]
        by_matcher, seen = np.zeros(len(paths)), np.zeros(len(paths), bool)
        seen[first] = True

        def once_more(place, query=query, paths=paths):
            start = time.thread_time()
            found = compared(
                features[query], [features[paths[place]]], verify.BY_LIGHTGLUE[name], 1, matcher
            )
            return found[:, 0], time.thread_time() - start

        answers = mapped(once_more, first, threads)
        for place, (answer, taken) in zip(first, answers, strict=True):
            inliers[place], matches[place], same[place] = answer
            seconds[int(relevant[place])].append(taken)
            by_matcher[place] = same[place]
        counted = np.where(same, inliers, 0)
        after.append(local.ranked([-matches, -counted, -by_matcher], relevant))
        look_alike = [local.LOOK_ALIKES in query and local.LOOK_ALIKES in path for path in paths]
        for key, of_query in (
            ("relevant", relevant),
            ("look_alike", np.array(look_alike)),
            ("seen", seen),
            ("after", same > 0),
        ):
            kinds[key].append(of_query)
    kinds = {key: np.concatenate(parts) for key, parts in kinds.items()}
    relevant, seen = kinds["relevant"], kinds["seen"]
    others = ~relevant & ~kinds["look_alike"]
    return {
        "queries": len(queries),
        "database": len({*database} & {*features}),
        "nearest": local.summary(before),
        "lightglue": local.summary(after),
        "relevant_among_the_first": share(seen, relevant),
        "pass": {
            stage: {
                "relevant": share(kinds[key], relevant),
                "others": share(kinds[key], others),
                "relevant_of_the_first": share(kinds[key], relevant & seen),
                "others_of_the_first": share(kinds[key], others & seen),
            }
            for stage, key in (("nearest", "before"), ("lightglue", "after"))
        },
        "processor_milliseconds_a_pair": {
            kind: round(1000 * float(np.mean(taken)), 1) if taken else None
            for kind, taken in zip(("other", "relevant"), seconds, strict=True)
        },
        "features_an_image": round(float(np.mean([len(one) for one in features.values()])), 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--local", nargs="+", default=["aliked"], choices=lightglue.KINDS)
    parser.add_argument("--sets", nargs="+", default=["beer_labels", "landmarks"])
    parser.add_argument("--kept", type=pathlib.Path)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--every", type=int, default=1, help="only each n-th query")
    parser.add_argument("--threads", type=int, default=2, help="pairs at one time")
    arguments = parser.parse_args()
    sets = {
        dataset: {
            name: measure(
                arguments.data / dataset,
                name,
                arguments.kept,
                arguments.top,
                arguments.every,
                arguments.threads,
            )
            for name in arguments.local
        }
        for dataset in arguments.sets
    }
    name = "matcher_" + "_".join(arguments.sets)
    figures.write(name, {"top": arguments.top, "every": arguments.every, "sets": sets})


if __name__ == "__main__":
    main()
