"""How long does it take to verify the first 100 hits of a query?

    python -m tests.bench.verify DATA [--local sift delf] [--candidates 100] [--queries 20]
        [--threads 1 2]

DATA holds beer_labels/. Its photos' local features lie in an index, as float16; each query is
compared with the candidates in turn by `Engine.confirm`, reading included, and, in the same turn,
by the plain way: every candidate read and rounded, its product made and the matches that are each
other's nearest given to the same geometry, one after another on one thread. Both must find the
same. Processor time, of all threads together, is what a busy machine leaves comparable.
"""

import argparse
import contextlib
import json
import pathlib
import tempfile
import time
import types

import numpy as np

from hashnet import images
from hashnet.local import extractors
from hashnet.retrieval.search import verify
from hashnet.retrieval.search.engine import Engine
from tests.bench import figures, local


def plain(query, snapshot, rows, matching):
    """Inliers of each row, without any care for time."""
    found = []
    for candidate in snapshot.local_features(rows):
        one, other = (np.rint(x.descriptors * np.float32(4000)) for x in (query, candidate))
        similarity = one @ other.T / np.float32(4000**2)
        every, nearest = np.arange(len(similarity)), similarity.argmax(axis=1)
        mutual = similarity.argmax(axis=0)[nearest] == every
        best = similarity[every, nearest]
        similarity[every, nearest] = -1
        keep = mutual
        if matching.ratio is not None:
            keep &= 1 - best < matching.ratio**2 * (1 - similarity.max(axis=1))
        if matching.max_distance is not None:
            keep &= 1 - best <= matching.max_distance**2 / 2
        extent = float(np.ptp(candidate.yx, axis=0).max())
        one = verify.estimate(
            query.yx[keep],
            candidate.yx[nearest[keep]],
            error=max(3.0, matching.error * extent),
        )
        found.append(one.inliers if keep.sum() >= matching.min_inliers else 0)
    return found


def measure(extractor, photos, queries, threads_of, scratch):
    """Times of all ways, of the features of one extractor."""
    matching = verify.MATCHING[extractor.name]
    seconds, processor_seconds = ({name: [] for name in ("plain", *threads_of)} for _ in range(2))
    features = [extractor.extract(images.read(photo)) for photo in photos]
    features = [one for one in features if len(one) > 1]
    store = local.stored(f"{scratch}/{extractor.name}", extractor.name, features)
    index = types.SimpleNamespace(store=store)
    engines = {threads: Engine(index, num_threads=threads) for threads in threads_of}
    rows = np.arange(len(features))
    for query in features[: queries + 1]:
        with timed("plain", seconds, processor_seconds):
            expected = plain(query, store.snapshot(), rows, matching)
        for threads, engine in engines.items():
            with timed(threads, seconds, processor_seconds):
                _, found = engine.verify(query, rows)
            inliers = np.array([one.inliers for one in found])
            # Ties aside, which the plain way may break otherwise.
            assert np.mean(inliers == expected) > 0.98, (inliers, expected)
    ratios = {t: np.array(seconds[t][1:]) / seconds["plain"][1:] for t in threads_of}
    return {
        "candidates": len(features),
        "features_a_candidate": round(float(np.mean([len(one) for one in features])), 1),
        "milliseconds": _milliseconds(seconds),
        "processor_milliseconds": _milliseconds(processor_seconds),
        "part_of_plain": {str(t): round(float(np.median(one)), 3) for t, one in ratios.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--local", nargs="+", default=["sift"], choices=extractors.NAMES)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    folder = arguments.data / "beer_labels"
    truth = json.loads((folder / "ground_truth.json").read_text())
    photos = [folder / query for query in truth][: arguments.candidates]
    with tempfile.TemporaryDirectory() as scratch:
        bundle = local.pretrained(scratch, "delf" in arguments.local)
        report = {
            name: measure(
                extractors.open(name, bundle), photos, arguments.queries, arguments.threads, scratch
            )
            for name in arguments.local
        }
    figures.write(
        "verify_top", {"seed": verify.SEED, "queries": arguments.queries, "extractors": report}
    )


@contextlib.contextmanager
def timed(name, seconds, processor_seconds):
    start, processor_start = time.perf_counter(), time.process_time()
    yield
    processor_seconds[name].append(time.process_time() - processor_start)
    seconds[name].append(time.perf_counter() - start)


def _milliseconds(seconds):
    # The first one warms up.
    return {str(name): _spread([1000 * s for s in taken[1:]]) for name, taken in seconds.items()}


def _spread(values):
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(middle, 1), "quartiles": [round(low, 1), round(high, 1)]}


if __name__ == "__main__":
    main()
