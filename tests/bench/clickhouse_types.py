"""Which column types does the search in ClickHouse want: of codes, and of features?

    pip install ".[clickhouse]"
    python -m tests.bench.clickhouse_types [--rows 2000000]

The same rows lie in tables that differ in one column: a code of 64 bits as FixedString(8) or
UInt64, a feature as Array(Float32) or Array(BFloat16), half the bytes. Each is asked the statement
that a search with a threshold is: it finds, counts and ranks. Pools must be equal; of the ten
nearest it is counted how many are those of float32. In turn, query after query, in this process
(chdb). Writes tests/bench/results/clickhouse_types.json.
"""

import argparse
import hashlib
import statistics
import tempfile
import time

import numpy as np

from hashnet.retrieval.store.clickhouse import connection, tables
from hashnet.retrieval.store.clickhouse import store as clickhouse
from tests.bench import figures
from tests.bench.clickhouse import BATCH, BITS, DIM, QUERIES, K, made

THRESHOLDS = (1, 5)
CODES = {
    "FixedString(8)": ("code", "unhex({code:String})::FixedString(8)"),
    "UInt64": ("reinterpretAsUInt64(code)", "reinterpretAsUInt64(unhex({code:String}))"),
}
FEATURES = {
    "Array(Float32)": "feature",
    "Array(BFloat16)": "arrayMap(number -> toBFloat16(number), feature)",
}
# (type of code, type of feature); the first one is what an index has.
TABLES = [
    ("FixedString(8)", "Array(Float32)"),
    ("UInt64", "Array(Float32)"),
    ("FixedString(8)", "Array(BFloat16)"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", help="folder with room for the tables")
    figures.write("clickhouse_types", measure(**vars(parser.parse_args())))


def measure(*, rows, repeats, threads, scratch):
    """The whole report, as a dict for JSON."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        client = filled(f"chdb://{folder}/bench/photos", rows)
        for number, types in enumerate(TABLES):
            make_table(client, number, *types)
        settings = {"max_threads": threads, "use_query_condition_cache": 0}
        measured = [
            row
            for threshold in THRESHOLDS
            for row in searched(client, threshold, repeats, settings)
        ]
        return {
            "question": "Which column types does the search in ClickHouse want?",
            "protocol": f"{rows} rows of {BITS} bits and {DIM} numbers, as in "
            f"tests/bench/clickhouse.py; {QUERIES} queries and {repeats} repeats, after one round "
            f"to warm up; medians. `same` is the part of the {K} nearest that float32 finds, too.",
            "seed": 0,
            "threads": threads,
            "tables": [
                {"code": code, "feature": feature, **bytes_of(client, number)}
                for number, (code, feature) in enumerate(TABLES)
            ],
            "rows": measured,
        }


def filled(url, rows):
    """A client of an index with so many rows."""
    store = clickhouse.Store.create(
        url,
        num_bits=BITS,
        feature_dim=DIM,
        feature_dtype="float32",
        fingerprint=hashlib.sha256(b"bench").hexdigest(),
        encoder_files={},
    )
    with store.writer() as writer:
        for start in range(0, rows, BATCH):
            writer.add(*made(start, min(BATCH, rows - start)))
    return connection.Place(url).client()


def make_table(client, number, code, feature):
    """A copy of the index's table, with columns of these types."""
    client.command(
        f"CREATE TABLE bench.t{number} (row UInt64 CODEC(NONE), kills UInt64, "
        f"code {code} CODEC(NONE), feature {feature} CODEC(NONE)) ENGINE = MergeTree "
        f"ORDER BY (kills, code) SETTINGS index_granularity = {tables.GRANULE_ROWS}, "
        "min_bytes_for_wide_part = 0"
    )
    client.command(
        f"INSERT INTO bench.t{number} SELECT row, kills, {CODES[code][0]}, {FEATURES[feature]} "
        "FROM bench.photos"
    )
    client.command(f"OPTIMIZE TABLE bench.t{number} FINAL")


def searched(client, threshold, repeats, settings):
    """Rows of one threshold, one for each table."""
    _, codes, features = made(0, QUERIES)
    times = [[] for _ in TABLES]
    same = [[] for _ in TABLES]
    pools = []
    for turn in range(repeats + 1):
        for code, feature in zip(codes, features, strict=True):
            answers = []
            for number, (type_of_code, _) in enumerate(TABLES):
                apart = f"bitHammingDistance(code, {CODES[type_of_code][1]})"
                begin = time.perf_counter()
                [[pool, best]] = client.query(
                    f"SELECT count(), groupArraySorted({K})((L2Distance(feature, "
                    "{feature:Array(Float32)}), row)) "
                    f"FROM bench.t{number} PREWHERE {apart} < {threshold} WHERE kills = 0",
                    parameters={"code": code.tobytes().hex(), "feature": feature.tolist()},
                    settings=settings,
                ).result_rows
                if turn:
                    times[number].append((time.perf_counter() - begin) * 1000)
                answers.append((pool, {row for _, row in best}))
            pools.append(answers[0][0])
            for number, (pool, found) in enumerate(answers):
                if pool != answers[0][0]:
                    raise SystemExit(f"pools differ: {pool} {answers[0][0]}")
                if answers[0][1]:
                    same[number].append(len(found & answers[0][1]) / len(answers[0][1]))
    return [
        {
            "threshold": threshold,
            "code": code,
            "feature": feature,
            "pool": statistics.median(pools),
            "milliseconds": statistics.median(times[number]),
            "quartiles": list(np.quantile(times[number], [0.25, 0.75])),
            "same": float(np.mean(same[number])) if same[number] else None,
        }
        for number, (code, feature) in enumerate(TABLES)
    ]


def bytes_of(client, number):
    """Bytes on disk of the two columns."""
    found = client.query(
        "SELECT column, sum(column_bytes_on_disk) FROM system.parts_columns WHERE active "
        f"AND database = 'bench' AND table = 't{number}' AND column IN ('code', 'feature') "
        "GROUP BY column"
    ).result_rows
    return {f"{column}_bytes": int(size) for column, size in found}


if __name__ == "__main__":
    main()
