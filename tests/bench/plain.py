"""What does Numba bring to a search? The same queries with compiled loops and with NumPy alone.

    pip install ".[fast]"
    python -m tests.bench.plain [--rows 100000 1000000]

Both stages on one index in memory: random codes of 128 bits, and features of 1280 float16. Every
answer without Numba is compared with the compiled one, row by row and bit by bit, before a time
counts. A million rows take 3 GB. Writes tests/bench/results/plain.json.
"""

import argparse
import statistics
import time
from unittest import mock

import numpy as np

from hashnet import system
from hashnet.retrieval.search import compiled
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.engine import default_pool
from hashnet.retrieval.search.fine import nearest_features
from tests.bench import figures

BITS, DIM, K = 128, 1280, 10
# Features repeat after so many rows, each time a little smaller: no two are equal.
DISTINCT = 50_000
WAYS = {"compiled": compiled.load, "numpy": lambda: None}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6])
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    report = {
        "question": "What does Numba bring to a search?",
        "protocol": f"Milliseconds of one query, k={K}, the default pool, medians over "
        f"{options.queries} queries of the least of {options.rounds} rounds, in which both ways "
        "take turns. Every answer was the same to the last bit.",
        "seed": 0,
        "bits": BITS,
        "feature_dim": DIM,
        "feature_dtype": "float16",
        "rows": [measured(rows, options.queries, options.rounds) for rows in options.rows],
    }
    figures.write("plain", report)
    for row in report["rows"]:
        print(row)


def measured(num_rows, num_queries, rounds):
    """The times of an index of so many rows, as a dict for JSON."""
    rng = np.random.default_rng((0, num_rows))
    codes = rng.integers(0, 256, (num_rows, BITS // 8), dtype=np.uint8)
    features = scaled(rng.standard_normal((DISTINCT, DIM), np.float32), num_rows)
    near = rng.integers(0, num_rows, num_queries)
    flips = np.packbits(rng.random((num_queries, BITS)) < 0.1, axis=1)
    asked = rng.standard_normal((num_queries, DIM), np.float32)
    asked += features[near]
    index = CodeIndex(codes, num_threads=system.cores())
    index.prepare()
    least = {way: {stage: [np.inf] * num_queries for stage in ("coarse", "fine")} for way in WAYS}
    pools = []
    for number in range(num_queries):
        for _ in range(rounds):
            answers = {}
            for way, load in WAYS.items():
                with mock.patch.object(compiled, "load", load):
                    taken, answers[way] = searched(
                        index, features, codes[near[number]] ^ flips[number], asked[number]
                    )
                for stage, milliseconds in taken.items():
                    kept = least[way][stage]
                    kept[number] = min(kept[number], milliseconds)
            for one, other in zip(*answers.values(), strict=True):
                assert one.dtype == other.dtype and one.tobytes() == other.tobytes()
        pools.append(len(answers["numpy"][0]))
    return {
        "rows": num_rows,
        "pool": statistics.median(pools),
        "milliseconds": {
            way: {stage: statistics.median(times) for stage, times in stages.items()}
            for way, stages in least.items()
        },
    }


def scaled(base, num_rows):
    """float16 `(num_rows, DIM)`: the features of `base` over and over, smaller each time."""
    features = np.empty((num_rows, DIM), np.float16)
    for start in range(0, num_rows, len(base)):
        part = features[start : start + len(base)]
        part[:] = base[: len(part)] * (1 - start / (2 * num_rows))
    return features


def searched(index, features, code, feature):
    """Milliseconds of both stages, and what they found."""
    began = time.perf_counter()
    rows, bits, _ = index.pool(code, at_least=default_pool(K, len(features)))
    middle = time.perf_counter()
    best, distances = nearest_features(feature, rows, features, K, num_threads=index.num_threads)
    ended = time.perf_counter()
    taken = {"coarse": 1000 * (middle - began), "fine": 1000 * (ended - middle)}
    return taken, (rows, bits, best, distances)


if __name__ == "__main__":
    main()
