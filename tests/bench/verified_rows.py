"""What does a warm query pay for it that no damaged feature tells on its answer?

python -m tests.bench.verified_rows [FOLDER]
"""

import argparse
import pathlib
import tempfile
import time
import types
from unittest import mock

import numpy as np

from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.folder.rows import CommittedRows
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.bench import figures

DIM, BITS, K = 1280, 128, 10
AT_ONCE = 5000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path, help="for an index of half a GB")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--pools", type=int, nargs="+", default=[1000, 10_000])
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = filled(pathlib.Path(folder) / "index", options.rows, rng)
        engine = Engine(types.SimpleNamespace(store=store), num_threads=1)
        codes, features = drawn(options.queries, rng)
        rows = [measured(engine, codes, features, pool) for pool in options.pools]
    figures.write(
        "verified_rows",
        {
            "question": "What does a warm query pay for it that no damaged feature is ranked?",
            "protocol": f"{options.rows} synthetic rows of {DIM} float16 numbers and {BITS} bits, "
            f"k {K}, one thread. Each of {options.queries} queries first reads and verifies its "
            "pool; then it is asked twice more, in either order by turns, once as it is and once "
            "with the look at which rows are verified and at the files' lengths left out. "
            "Processor time of a search, medians; the share is the median over the queries of "
            "what a pair differs by, of the median without.",
            "seed": 0,
            "num_rows": options.rows,
            "queries": options.queries,
            "rows": rows,
        },
    )


def drawn(number, rng):
    return (
        rng.integers(0, 256, (number, BITS // 8), dtype=np.uint8),
        rng.standard_normal((number, DIM), np.float32),
    )


def filled(folder, num_rows, rng):
    store = Store.create(
        folder, num_bits=BITS, feature_dim=DIM, feature_dtype="float16", fingerprint="bench"
    )
    with store.writer() as writer:
        for start in range(0, num_rows, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, num_rows))
            codes, features = drawn(len(numbers), rng)
            items = [Item(f"{row:08}", f"/photos/{row:08}.jpg", None) for row in numbers]
            writer.add(items, codes, features.astype(np.float16))
    return store


def measured(engine, codes, features, pool):
    """Milliseconds of processor time of a query as it is and without the look, by pool."""
    query = Query(k=K, pool=pool)
    times = {"as it is": [], "without": []}
    for number, (code, feature) in enumerate(zip(codes, features, strict=True)):
        first = engine.search_encoded(code, feature, query)
        for way in sorted(times, reverse=number % 2 == 1):
            patched = [
                mock.patch.object(CommittedRows, "feature_map", unlooked),
                mock.patch.object(CommittedRows, "check_files"),
            ]
            for one in patched if way == "without" else ():
                one.start()
            began = time.process_time()
            found = engine.search_encoded(code, feature, query)
            times[way].append(1000 * (time.process_time() - began))
            mock.patch.stopall()
            assert [hit.id for hit in found.hits] == [hit.id for hit in first.hits]
    as_it_is, without = (np.array(times[way]) for way in ("as it is", "without"))
    return {
        "pool": pool,
        "milliseconds": round(float(np.median(as_it_is)), 3),
        "milliseconds_without": round(float(np.median(without)), 3),
        "share": round(float(np.median(as_it_is - without) / np.median(without)), 4),
    }


def unlooked(self, _rows):
    return self._feature_map


if __name__ == "__main__":
    main()
