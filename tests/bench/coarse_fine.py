"""What does coarse-to-fine gain over exact and approximate vector search, and what does it lose?

    pip install ".[bench]"
    python -m tests.bench.coarse_fine clusters 60000 4096 --hnsw
    python -m tests.bench.coarse_fine clusters 1000000 1280
    python -m tests.bench.coarse_fine disk 1000000 1280
    python -m tests.bench.coarse_fine trained BUNDLE DATABASE QUERIES

`clusters` draws features around centres, as non-negative and of length 1 as those of networks are,
and learns codes from them without labels (ITQ). `disk` draws the same, chunk by chunk, into an
index on disk, and searches it in a fresh process, with no other contestant. `trained` encodes
labelled images with a bundle. One query at a time and the same threads; every contestant answers
all queries in turn, round after round. Ratios are of the medians within a round.
"""

import argparse
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import types

import faiss
import numpy as np

from hashnet import metrics
from hashnet.encode.encoder import Encoder
from hashnet.network import bundle as bundles
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from hashnet.train import unsupervised_codes
from tests.bench import figures
from tests.bench.disk_search import anonymous_bytes
from tests.bench.train_evaluate import encode

CLUSTER = 60
CHUNK = 20_000
TOP = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    clusters = kinds.add_parser("clusters")
    clusters.add_argument("rows", type=int)
    clusters.add_argument("dimensions", type=int)
    clusters.add_argument("--hnsw", action="store_true", help="build a graph too, which takes long")
    disk = kinds.add_parser("disk")
    disk.add_argument("rows", type=int)
    disk.add_argument("dimensions", type=int)
    trained = kinds.add_parser("trained")
    for name in ("bundle", "database", "queries"):
        trained.add_argument(name)
    for one in (clusters, disk):
        one.add_argument("--bits", type=int, default=64)
    for one in (clusters, disk, trained):
        one.add_argument("--queries-most", type=int, default=200)
        one.add_argument("--pools", type=int, nargs="+", default=[200, 1000, 10_000])
        one.add_argument("--threads", type=int, nargs="+", default=[1, 2])
        one.add_argument("--k", type=int, nargs="+", default=[10, 100], help="hits asked for")
    for one in (clusters, trained):
        one.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.kind == "disk":
            figures.write(*on_disk(options, folder))
            return
        world = (
            clustered(options, folder) if options.kind == "clusters" else encoded(options, folder)
        )
        rows = [
            row
            for threads, k in itertools.product(options.threads, options.k)
            for row in measured(world, threads, k, options)
        ]
    report = {
        "question": "What does coarse-to-fine gain over vector search, and what does it lose?",
        "protocol": f"{len(world.queries)} queries, one at a time, {options.rounds} rounds, in "
        f"each of which every contestant answers them all; {world.about} Milliseconds: median "
        "over queries and rounds, and the 99th percentile. times_as_fast_as_flat: median over "
        "rounds of the medians' ratio to faiss_flat with as many threads. "
        f"recall_at_{TOP}: share of the exact {TOP} nearest by Euclidean distance. map_at_k: "
        f"divided by min(k, relevant); relevant: same {world.relevant}. coarse_to_fine takes codes "
        "and features of the queries as given, reads the index's files and returns ids, paths and "
        "labels; the others return row numbers. Memory: bytes of this process that no file backs, "
        "gained by opening and searching.",
        "rows": rows,
        "build": world.build,
    }
    figures.write(f"coarse_fine_{world.name}", report)


# --- Worlds ---------------------------------------------------------------------------------------


def clusters(rows, dim):
    """Labels of the rows, a function that draws features of clusters, and the generator."""
    rng = np.random.default_rng(0)
    num_centres = max(1, rows // CLUSTER)
    axes = rng.standard_normal((64, dim), dtype=np.float32)
    centres = rng.standard_normal((num_centres, 64), dtype=np.float32)
    labels = rng.permutation(np.arange(rows) % num_centres)

    def drawn(of):
        points = centres[of] + 0.9 * rng.standard_normal((len(of), 64), dtype=np.float32)
        features = np.maximum(points @ axes + rng.standard_normal((len(of), dim), np.float32), 0)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    return labels, drawn, rng


def clustered(options, folder):
    rows, dim = options.rows, options.dimensions
    labels, drawn, rng = clusters(rows, dim)
    weights = unsupervised_codes.itq(drawn(labels[:5000]), options.bits)
    flat = faiss.IndexFlatL2(dim)
    parts = (drawn(labels[first : first + CHUNK]) for first in range(0, rows, CHUNK))
    store, seconds = stored(folder, parts, weights, labels, dim, flat)
    asked = rng.integers(0, labels.max() + 1, options.queries_most)
    queries = drawn(asked)
    return types.SimpleNamespace(
        name=f"{rows}x{dim}",
        about=f"{rows} synthetic features of {dim} numbers in clusters of {CLUSTER}, ITQ codes of "
        f"{options.bits} bits learned from 5,000 of them.",
        relevant="cluster",
        labels=labels,
        query_labels=asked,
        queries=queries,
        codes=np.packbits(weights.bits(queries), axis=1),
        engine_of=lambda threads: engine(store, threads),
        indexes=approximate(flat, options.hnsw),
        build={"index_seconds": seconds},
    )


def encoded(options, folder):
    encoder = Encoder(bundles.load(options.bundle))
    items, labels = encode(encoder, options.database)
    asked, query_labels = encode(encoder, options.queries)
    most = options.queries_most
    flat = faiss.IndexFlatL2(items.features.shape[1])
    store, seconds = stored(
        folder, [items.features], None, labels, items.features.shape[1], flat, codes=items.codes
    )
    name = pathlib.Path(options.bundle).name
    return types.SimpleNamespace(
        name=name,
        about=f"{len(items)} images encoded by {name}, codes of {encoder.config.num_bits} bits.",
        relevant="class",
        labels=labels,
        query_labels=query_labels[:most],
        queries=asked.features[:most],
        codes=asked.codes[:most],
        engine_of=lambda threads: engine(store, threads),
        indexes=approximate(flat, False),
        build={"index_seconds": seconds},
    )


def stored(folder, parts, weights, labels, dim, flat, codes=None):
    """Write the features into an index and into FAISS; the store and the seconds it took."""
    num_bits = len(weights.bias) if codes is None else 8 * codes.shape[1]
    store = Store.create(
        f"{folder}/index",
        num_bits=num_bits,
        feature_dim=dim,
        feature_dtype="float16",
        fingerprint="bench",
    )
    first, seconds = 0, 0.0
    with store.writer() as writer:
        for features in parts:
            flat.add(features)
            began = time.perf_counter()
            last = first + len(features)
            part = np.packbits(weights.bits(features), axis=1) if codes is None else codes
            items = [
                Item(f"{row:08}", f"/photos/{row:08}.jpg", str(labels[row]))
                for row in range(first, last)
            ]
            writer.add(items, part, features.astype(np.float16))
            seconds += time.perf_counter() - began
            first = last
    return store, seconds


def engine(store, threads):
    return Engine(types.SimpleNamespace(store=store), num_threads=threads)


def approximate(flat, hnsw):
    """FAISS's indexes by name, each with the seconds it took to build."""
    rows, dim = flat.ntotal, flat.d
    features = faiss.vector_to_array(flat.codes).view(np.float32).reshape(rows, dim)
    indexes = {"faiss_flat": (flat, 0.0)}
    began = time.perf_counter()
    lists = max(16, int(rows**0.5))
    ivf = faiss.index_factory(dim, f"IVF{lists},PQ64")
    ivf.train(features[:20_000])
    for first in range(0, rows, CHUNK):
        ivf.add(features[first : first + CHUNK])
    ivf.nprobe = 16
    indexes["faiss_ivf_pq, nprobe 16"] = ivf, time.perf_counter() - began
    if hnsw:
        began = time.perf_counter()
        graph = faiss.IndexHNSWFlat(dim, 16)
        graph.add(features)
        graph.hnsw.efSearch = 200
        indexes["faiss_hnsw, M 16, efSearch 200"] = graph, time.perf_counter() - began
    return indexes


# --- On disk --------------------------------------------------------------------------------------


class ExactNearest:
    """The nearest rows of some queries, kept up to date while rows come chunk by chunk."""

    def __init__(self, queries):
        self.queries = queries
        self.squared = np.full((len(queries), TOP), np.inf, np.float32)
        self.rows = np.full((len(queries), TOP), -1)
        self.num_rows = 0

    def add(self, features):
        squared, rows = faiss.knn(self.queries, features, TOP)
        squared = np.hstack([self.squared, squared])
        rows = np.hstack([self.rows, np.where(rows < 0, rows, rows + self.num_rows)])
        order = np.argsort(squared, axis=1, kind="stable")[:, :TOP]
        self.squared = np.take_along_axis(squared, order, axis=1)
        self.rows = np.take_along_axis(rows, order, axis=1)
        self.num_rows += len(features)


def on_disk(options, folder):
    """The name and the report of a search of features on disk, by a process of its own."""
    rows, dim = options.rows, options.dimensions
    labels, drawn, rng = clusters(rows, dim)
    weights = unsupervised_codes.itq(drawn(labels[:5000]), options.bits)
    asked = rng.integers(0, labels.max() + 1, options.queries_most)
    queries = drawn(asked)
    exact = ExactNearest(queries)
    parts = (drawn(labels[first : first + CHUNK]) for first in range(0, rows, CHUNK))
    _, seconds = stored(folder, parts, weights, labels, dim, exact)
    np.savez(
        f"{folder}/queries.npz", features=queries, codes=np.packbits(weights.bits(queries), axis=1)
    )
    world = types.SimpleNamespace(labels=labels, query_labels=asked)
    report = []
    for threads, k in itertools.product(options.threads, options.k):
        pools = [pool for pool in options.pools if k <= pool < rows]
        arguments = [f"{folder}/index", f"{folder}/queries.npz", k, threads, pools]
        command = [sys.executable, "-m", "tests.bench.disk_search", *map(str, arguments)]
        run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        for answer in json.loads(run.stdout):
            found = [np.array(hits) for hits in answer["rows"]]
            report.append(
                {
                    "method": f"coarse_to_fine, pool {answer['pool']}",
                    "threads": threads,
                    "k": k,
                    "milliseconds": statistics.median(answer["milliseconds"]),
                    "milliseconds_p99": float(np.percentile(answer["milliseconds"], 99)),
                    "milliseconds_first_round": statistics.median(
                        answer["milliseconds_first_round"]
                    ),
                    f"recall_at_{TOP}": recall(found, exact.rows),
                    "map_at_k": mean_average_precision(found, world, k),
                    "mean_pool": float(np.mean(answer["pools"])),
                    "milliseconds_coarse": statistics.median(answer["coarse"]),
                    "milliseconds_fine": statistics.median(answer["fine"]),
                    "memory_bytes": answer["memory_bytes"],
                    "memory_bytes_before": answer["memory_bytes_before"],
                }
            )
            print(report[-1], flush=True)
    return f"coarse_fine_disk_{rows}x{dim}", {
        "question": "How long does coarse to fine take with the features on disk, in what memory?",
        "protocol": f"{len(queries)} queries, one at a time, in a process that only searches; "
        f"{rows} synthetic features of {dim} float16 numbers in clusters of {CLUSTER}, ITQ codes "
        f"of {options.bits} bits learned from 5,000 of them. Milliseconds: median of the "
        "second round of all queries, and its 99th percentile; the index was written just before, "
        "so the system may hold its files in its cache. "
        f"recall_at_{TOP}: share of the exact {TOP} nearest by Euclidean distance. map_at_k: "
        "divided by min(k, relevant); relevant: same cluster. Memory: all bytes of the process "
        "that no file backs, Python and its libraries included.",
        "rows": report,
        "build": {"index_seconds": seconds},
    }


# --- Measuring ------------------------------------------------------------------------------------


def measured(world, threads, k, options):
    faiss.omp_set_num_threads(threads)
    before = anonymous_bytes()
    searcher = world.engine_of(threads)
    searcher.search_encoded(world.codes[0], world.queries[0])
    contestants = {}
    for pool in options.pools:
        if k <= pool < len(world.labels):
            contestants[f"coarse_to_fine, pool {pool}"] = lambda at, pool=pool: (
                searcher.search_encoded(world.codes[at], world.queries[at], Query(k=k, pool=pool))
            )
    for call in contestants.values():
        for at in range(20):
            call(at)
    memory = anonymous_bytes() - before
    for name, (index, _) in world.indexes.items():
        contestants[name] = lambda at, index=index: index.search(world.queries[at : at + 1], k)
    took = {name: [] for name in contestants}
    for _ in range(options.rounds):
        answers = {}
        for name, call in contestants.items():
            answers[name], milliseconds = asked_in_turn(call, len(world.queries))
            took[name].append(milliseconds)
    medians = {name: np.median(rounds, axis=1) for name, rounds in took.items()}
    exact = [answer[1][0] for answer in answers["faiss_flat"]]
    for name, found in answers.items():
        rows = [rows_of(answer) for answer in found]
        row = {
            "method": name,
            "threads": threads,
            "k": k,
            "milliseconds": float(np.median(took[name])),
            "milliseconds_p99": float(np.percentile(took[name], 99)),
            "times_as_fast_as_flat": float(np.median(medians["faiss_flat"] / medians[name])),
            f"recall_at_{TOP}": recall(rows, exact),
            "map_at_k": mean_average_precision(rows, world, k),
        }
        if name.startswith("coarse"):
            row["mean_pool"] = float(np.mean([answer.pool for answer in found]))
            for stage in ("coarse", "fine"):
                times = [answer.milliseconds[stage] for answer in found]
                row[f"milliseconds_{stage}"] = statistics.median(times)
            row["memory_bytes"] = memory
        else:
            row["build_seconds"] = world.indexes[name][1]
            row["memory_bytes"] = index_bytes(world.indexes[name][0])
        print(row, flush=True)
        yield row


def asked_in_turn(call, num_queries):
    """What `call` answers to each query, and the milliseconds that each took."""
    answers, took = [], []
    for at in range(num_queries):
        began = time.perf_counter()
        answers.append(call(at))
        took.append(1000 * (time.perf_counter() - began))
    return answers, took


def rows_of(answer):
    if isinstance(answer, tuple):
        return answer[1][0]
    return np.array([int(hit.id) for hit in answer.hits])


def recall(rows, exact):
    shares = [len(np.intersect1d(a[:TOP], b[:TOP])) / TOP for a, b in zip(rows, exact, strict=True)]
    return float(np.mean(shares))


def mean_average_precision(rows, world, k):
    scores = []
    for found, label in zip(rows, world.query_labels, strict=True):
        right = world.labels[found[found >= 0]] == label
        total = int((world.labels == label).sum())
        scores.append(metrics.average_precision(right, at=k, num_relevant=total))
    return float(np.mean(scores))


def index_bytes(index):
    if index.ntotal * index.d > 10**9:  # too large to write out only to be measured
        return 4 * index.ntotal * index.d if isinstance(index, faiss.IndexFlat) else None
    writer = faiss.VectorIOWriter()
    faiss.write_index(index, writer)
    return writer.data.size()


if __name__ == "__main__":
    sys.exit(main())
