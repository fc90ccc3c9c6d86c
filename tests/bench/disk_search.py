"""Search an index in a process of its own, and print times, answers and memory as JSON.

`python -m tests.bench.coarse_fine disk` starts it: a process that has built nothing shows what a
search takes by itself.
"""

import json
import pathlib
import sys
import time
import types

import numpy as np

from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.folder.store import Store


def main(folder, queries, k, threads, pools):
    """Print, for each pool size, what its queries took and found."""
    asked = np.load(queries)
    before = anonymous_bytes()
    store = types.SimpleNamespace(store=Store.open(folder))
    engine = Engine(store, num_threads=int(threads))
    answers = []
    for pool in json.loads(pools):
        # A round to warm up: kernels are loaded, and rows that queries share are read from disk.
        for timed in (False, True):
            results, took = [], []
            for code, feature in zip(asked["codes"], asked["features"], strict=True):
                began = time.perf_counter()
                results.append(engine.search_encoded(code, feature, Query(k=int(k), pool=pool)))
                took.append(1000 * (time.perf_counter() - began))
            if not timed:
                first_round = took
        answers.append(
            {
                "pool": pool,
                "milliseconds": took,
                "milliseconds_first_round": first_round,
                "coarse": [result.milliseconds["coarse"] for result in results],
                "fine": [result.milliseconds["fine"] for result in results],
                "pools": [result.pool for result in results],
                "rows": [[int(hit.id) for hit in result.hits] for result in results],
                "memory_bytes": anonymous_bytes(),
                "memory_bytes_before": before,
            }
        )
    json.dump(answers, sys.stdout)


def anonymous_bytes():
    """Bytes of this process that no file backs."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main(*sys.argv[1:])
