"""Is the answer of many shards, merged, that of one index? And what does merging take?

    python -m tests.bench.shards [--rows 1000000] [--shards 1 4 16 64]

Rows are drawn around centres and put into one index, and into as many as `--shards` says; each
query is asked of both by a pool of a least size, by a threshold, and with a filter by label. Every
answer is compared wholly: hits, bits apart, distances, threshold and size of the pool. Milliseconds
are of shards searched one after another on one core: on machines of their own they would share
`milliseconds_slowest_shard` beside counting and merging. Writes tests/bench/results/shards.json.
"""

import argparse
import itertools
import pathlib
import tempfile
import time
import types

import numpy as np

from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.sharded import ShardedEngine
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.bench import figures

CENTRES = 200
CHUNK = 10_000
POOL = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    figures.write("shards", measure(**vars(parser.parse_args())))


def measure(*, rows, dimensions, bits, shards, queries, seed):
    """The whole report, as a dict for JSON."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CENTRES, dimensions))
    planes = rng.normal(size=(dimensions, bits))

    def drawn(count):
        features = centres[rng.integers(0, CENTRES, count)] + rng.normal(size=(count, dimensions))
        features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16)
        return features, np.packbits(features.astype(np.float32) @ planes >= 0, axis=1)

    features, codes = drawn(rows)
    asked = list(zip(*drawn(queries), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        single = engine(folder / "single", 0, codes, features)
        measured = []
        for count in shards:
            borders = np.linspace(0, rows, count + 1).astype(int)
            parts = [
                engine(folder / f"{count}-{number}", first, codes[first:last], features[first:last])
                for number, (first, last) in enumerate(itertools.pairwise(borders))
            ]
            measured.append({"shards": count, **compared(single, ShardedEngine(parts), asked)})
    return {
        "question": "Is the answer of many shards, merged, that of one index?",
        "protocol": f"{queries} queries, each by a pool of {POOL} or more, by the threshold that "
        f"gave, and by the pool among one label; {rows} synthetic rows of {dimensions} numbers "
        f"in {CENTRES} clusters, {bits} bits, k = 10, one thread.",
        "seed": seed,
        "rows": measured,
    }


def engine(folder, first, codes, features):
    """An engine over rows that are called by their place in the whole."""
    store = Store.create(
        folder,
        num_bits=8 * codes.shape[1],
        feature_dim=features.shape[1],
        feature_dtype="float16",
        fingerprint="synthetic",
    )
    with store.writer() as writer:
        for start in range(0, len(codes), CHUNK):
            part = slice(start, start + CHUNK)
            rows = range(first + start, first + start + len(codes[part]))
            items = [Item(str(row), None, str(row % 10)) for row in rows]
            writer.add(items, codes[part], features[part])
    return Engine(types.SimpleNamespace(store=store))


def compared(single, sharded, asked):
    """Answers that are identical, and milliseconds of both ways."""
    same, answers, took = (
        0,
        0,
        {"single": [], "sharded": [], "slowest_shard": [], "counting_and_merging": []},
    )
    for feature, code in asked:
        feature = feature.astype(np.float32)
        threshold = single.search_encoded(code, feature, Query(pool=POOL)).threshold
        for options in ({"pool": POOL}, {"threshold": threshold}, {"pool": POOL, "labels": "3"}):
            began = time.perf_counter()
            expected = single.search_encoded(code, feature, Query(**options))
            middle = time.perf_counter()
            answer = sharded.search_encoded(code, feature, Query(**options))
            end = time.perf_counter()
            same += (answer.hits, answer.threshold, answer.pool) == (
                expected.hits,
                expected.threshold,
                expected.pool,
            )
            answers += 1
            took["single"].append(middle - began)
            took["sharded"].append(end - middle)
            alone = []
            for one in sharded.engines:
                began = time.perf_counter()
                one.search_encoded(
                    code, feature, Query(threshold=answer.threshold, labels=options.get("labels"))
                )
                alone.append(time.perf_counter() - began)
            took["slowest_shard"].append(max(alone))
            took["counting_and_merging"].append(max(0.0, end - middle - sum(alone)))
    return {
        "answers": answers,
        "answers_identical": same,
        **{
            f"milliseconds_{name}": 1000 * float(np.median(values)) for name, values in took.items()
        },
    }


if __name__ == "__main__":
    main()
