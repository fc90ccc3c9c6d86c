"""The same search in a folder and in ClickHouse (chdb, in this process): time, memory, disk.

    pip install ".[clickhouse]"
    python -m tests.bench.clickhouse [--sizes 1000000 10000000]

Every answer of ClickHouse is compared with the folder's before a time counts. Each kind of index
is filled and searched in a process of its own, so that its peak of memory is its own.
"""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.store.clickhouse import connection
from hashnet.retrieval.store.clickhouse import store as clickhouse
from hashnet.retrieval.store.folder import store
from hashnet.retrieval.store.items import Item
from tests.bench import figures

BITS, DIM, K = 64, 128, 10
CENTRES = 2000
BATCH = 20_000
QUERIES = 20
KINDS = ("folder", "chdb")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**6, 10**7])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", help="folder with room for the indexes")
    parser.add_argument("--name", default="clickhouse", help="of the file of results")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(*options.one, options.sizes[0], options)))
        return
    rows = [row for size in options.sizes for row in compared(size, options)]
    figures.write(
        options.name,
        {
            "question": "What does the same search cost in a folder and in ClickHouse?",
            "protocol": f"{BITS} bits, {DIM} float32 numbers a feature, codes and features near "
            f"{CENTRES} centres; {QUERIES} queries, the {K} nearest, thresholds 1 and 5 and a pool "
            "of 1000; medians over queries and repeats after one round to warm up. Ids, bits "
            "apart and pools were equal and distances within 1e-5. ClickHouse as it is after "
            "its inserts and one OPTIMIZE, without its cache of conditions. With a threshold it "
            "finds, counts and ranks in one statement, which counts as fine.",
            "seed": 0,
            "repeats": options.repeats,
            "threads": options.threads,
            "rows": rows,
        },
    )


def compared(size, options):
    """Rows of one size, one a kind of index."""
    rows = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            command = [sys.executable, "-m", "tests.bench.clickhouse", "--one", kind, folder]
            command += ["--sizes", str(size), "--repeats", str(options.repeats)]
            command += ["--threads", str(options.threads)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(run.stdout.splitlines()[-1]))
    ours, theirs = (row.pop("answers") for row in rows)
    for one, other in zip(ours, theirs, strict=True):
        if one[:-1] != other[:-1] or not np.allclose(one[-1], other[-1], rtol=1e-5, atol=1e-5):
            raise SystemExit(f"answers differ: {one} {other}")
    return rows


def measured(kind, folder, size, options):
    """Fill and search one kind of index; its figures and its answers."""
    filled = (store.Store if kind == "folder" else clickhouse.Store).create(
        f"{folder}/index" if kind == "folder" else f"chdb://{folder}/bench/photos",
        num_bits=BITS,
        feature_dim=DIM,
        feature_dtype="float32",
        fingerprint=hashlib.sha256(b"bench").hexdigest(),
        encoder_files={},
    )
    seconds = 0.0
    with filled.writer() as writer:
        for start in range(0, size, BATCH):
            batch = made(start, min(BATCH, size - start))
            begin = time.perf_counter()
            writer.add(*batch)
            seconds += time.perf_counter() - begin
    if kind == "chdb":
        connection.SETTINGS["max_threads"] = options.threads
        # It would remember which granules hold the pool of a query, and each is asked again.
        connection.SETTINGS["use_query_condition_cache"] = 0
        with filled.writer() as writer:
            writer.compact()
    filling = peak()
    finder = finder_of(filled.snapshot(), num_threads=options.threads)
    _, codes, features = made(0, QUERIES)
    row = {"kind": kind, "size": size, "inserts_per_second": round(size / seconds)}
    answers = []
    for name, pool in (
        ("1", {"threshold": 1}),
        ("5", {"threshold": 5}),
        ("pool", {"at_least": 1000}),
    ):
        times, coarse, pools = [], [], []
        for turn in range(options.repeats + 1):
            for code, feature in zip(codes, features, strict=True):
                begin = time.perf_counter()
                found = finder.find(code, feature, K, **pool)
                if turn:
                    times.append((time.perf_counter() - begin) * 1000)
                    coarse.append(found.coarse_seconds * 1000)
                    pools.append(found.pool)
                else:
                    ids = [item.id for item in found.items]
                    apart = [int(bits) for bits in found.bits]
                    answers.append([found.threshold, found.pool, ids, apart, list(found.distances)])
        row[f"search_{name}"] = {
            "milliseconds": statistics.median(times),
            "quartiles": list(np.quantile(times, [0.25, 0.75])),
            "coarse_milliseconds": statistics.median(coarse),
            "pool": statistics.median(pools),
        }
    row |= {
        "bytes_on_disk": filled.num_bytes(),
        "peak_bytes_filling": filling,
        "peak_bytes": peak(),
    }
    return {**row, "answers": answers}


def made(start, num):
    """Items, codes and features of some rows; the same whoever asks."""
    centres = np.random.default_rng(0)
    codes = centres.integers(0, 256, (CENTRES, BITS // 8), dtype=np.uint8)
    middles = centres.normal(size=(CENTRES, DIM)).astype(np.float32)
    rng = np.random.default_rng((1, start))
    near = rng.integers(0, CENTRES, num)
    flips = np.packbits(rng.random((num, BITS)) < 0.02, axis=1)
    features = middles[near] + rng.normal(scale=0.3, size=(num, DIM)).astype(np.float32)
    items = [Item(f"/photos/{n:09}.jpg", None, str(n % 10)) for n in range(start, start + num)]
    return items, codes[near] ^ flips, features


def peak():
    """Bytes, the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
