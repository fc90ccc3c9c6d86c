"""What does a pool taken by the certainty of bits gain over one taken by Hamming distance?

    pip install ".[bench]"
    python -m tests.bench.certainty [ROWS] [DIMENSIONS] [--bits 64]

Draws features around centres, as `coarse_fine clusters` does, into an index on disk whose codes are
learned from some of them without labels (ITQ), and searches it by queries of the same centres. One
query at a time; every contestant answers all queries in turn, round after round:

- `hamming`: the pool of at least so many rows by Hamming distance, ranked by feature;
- `certainty`: the same by the bits that differ, each as the query's latent is sure of it;
- `faiss_binary`: as many rows from `IndexBinaryFlat`, ranked by the same fine stage;
- `usearch_binary`: as many from USearch's graph over the same codes, ranked by the same stage, up
  to a million rows;
- `faiss_ivf_rabitq`: so many rows from `IndexIVFRaBitQ`, 4-bit queries, ranked by the same stage;
- `faiss_ivf_pq`: so many rows from `IndexIVFPQ`, 64 bytes a row, ranked by the same stage, which
  is what `IndexRefine` does.

Recall is of the exact ten nearest by feature. Writes tests/bench/results/certainty.json, and
certainty_ROWSxDIMENSIONS.json for other than a million rows of 1,280.
"""

import argparse
import sys
import tempfile
import time
import types

import faiss
import numpy as np
import usearch.index

from hashnet import codes
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.fine import nearest_features
from hashnet.retrieval.search.query import Query
from hashnet.train import unsupervised_codes
from tests.bench import figures
from tests.bench.coarse_fine import CHUNK, CLUSTER, TOP, ExactNearest, clusters, recall, stored

POOLS = (1000, 2000, 3000, 4000, 5000)
# Of a million rows; larger indexes are asked for as large a share.
SHARES = 1_000_000
TRAINED_ON = 50  # rows a list, more than FAISS asks for
PQ_BYTES = 64
MOST_OF_GRAPH = 1_000_000  # over more rows a graph takes the better part of an hour to build
DEFAULT = (1_000_000, 1280)


class Network:
    """Stands for an encoder: what an index's own network would say of a query's latents."""

    def __init__(self, weights):
        self._weights = weights
        self.bundle = types.SimpleNamespace(mean=None)

    def latent_of(self, feature):
        return 1 / (1 + np.exp(-(feature @ self._weights.kernel + self._weights.bias)))


class All:
    """Takes features for the exact answer and for FAISS's indexes, which learn from the first."""

    def __init__(self, exact, indexes, trained_on):
        self.exact, self.indexes, self.waiting = exact, indexes, []
        self.trained_on = trained_on
        self.seconds = dict.fromkeys(indexes, 0.0)

    def add(self, features):
        self.exact.add(features)
        if self.waiting is None:
            self._to_each("add", features)
            return
        self.waiting.append(features)
        if sum(map(len, self.waiting)) >= self.trained_on:
            self._to_each("train", np.concatenate(self.waiting))
            for part in self.waiting:
                self._to_each("add", part)
            self.waiting = None

    def _to_each(self, verb, features):
        for name, index in self.indexes.items():
            began = time.perf_counter()
            getattr(index, verb)(features)
            self.seconds[name] += time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int, nargs="?", default=DEFAULT[0])
    parser.add_argument("dimensions", type=int, nargs="?", default=DEFAULT[1])
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows, dim = options.rows, options.dimensions
    faiss.omp_set_num_threads(options.threads)
    labels, drawn, rng = clusters(rows, dim)
    weights = unsupervised_codes.itq(drawn(labels[:5000]), options.bits)
    queries = drawn(rng.integers(0, labels.max() + 1, options.queries))
    flats = [faiss.IndexFlatL2(dim) for _ in range(2)]
    lists = max(16, int(rows**0.5))
    floats = {
        "faiss_ivf_rabitq": faiss.IndexIVFRaBitQ(flats[0], dim, lists),
        "faiss_ivf_pq": faiss.IndexIVFPQ(flats[1], dim, lists, PQ_BYTES, 8),
    }
    for index in floats.values():
        index.own_fields = False
        index.cp.niter = 5
    floats["faiss_ivf_rabitq"].qb = 4
    exact = ExactNearest(queries)
    with tempfile.TemporaryDirectory() as folder:
        parts = (drawn(labels[first : first + CHUNK]) for first in range(0, rows, CHUNK))
        builds = All(exact, floats, TRAINED_ON * lists)
        store, seconds = stored(folder, parts, weights, labels, dim, builds)
        built = {"hashnet": seconds, **builds.seconds}
        report = list(measured(store, weights, queries, exact.rows, floats, built, options))
    of_default = (rows, dim) == DEFAULT
    figures.write(
        "certainty" if of_default else f"certainty_{rows}x{dim}",
        {
            "question": "What does a pool taken by the certainty of bits gain?",
            "protocol": f"{options.queries} queries, one at a time, {options.threads} threads, "
            f"{options.rounds} rounds, in each of which every contestant answers them all. "
            f"{rows:,} synthetic features of {dim:,} float16 numbers on disk, in clusters of "
            f"{CLUSTER}, ITQ codes of {options.bits} bits learned from 5,000 of them. "
            "Milliseconds: median over queries and rounds. times_hamming: median over rounds of "
            "the ratio to the median of the largest pool by Hamming distance. Recall: of the exact "
            "ten nearest by feature. All rank their pools by the same features; memory is of what "
            "finds the pool, without these. hamming and certainty return ids, paths and labels; "
            "the others' contestants row numbers.",
            "num_rows": rows,
            "build_seconds": {name: round(took, 1) for name, took in built.items()},
            "rows": report,
        },
    )


def measured(store, weights, queries, exact, floats, built, options):
    packed = [codes.pack(bits) for bits in weights.bits(queries)]
    plain = Engine(types.SimpleNamespace(store=store), num_threads=options.threads)
    sure = Engine(
        types.SimpleNamespace(store=store, encoder=Network(weights)), num_threads=options.threads
    )
    stored_codes = np.array(plain.snapshot.codes[:])
    binary = faiss.IndexBinaryFlat(options.bits)
    binary.add(stored_codes)
    graph = usearch.index.Index(ndim=options.bits, metric="hamming", dtype="b1")
    with_graph = len(stored_codes) <= MOST_OF_GRAPH
    if with_graph:
        began = time.perf_counter()
        graph.add(np.arange(len(stored_codes)), stored_codes, threads=options.threads)
        built["usearch_binary"] = time.perf_counter() - began
    features = plain.snapshot.feature_map([])
    share = max(1, options.rows // SHARES)
    pools = [pool * share for pool in POOLS]

    def searched(engine, pool):
        query = Query(k=TOP, pool=pool, rank_by="feature")
        return lambda at: [
            int(hit.id) for hit in engine.search_encoded(packed[at], queries[at], query).hits
        ]

    def ranked(at, found):
        rows = np.sort(found[found >= 0])
        return nearest_features(queries[at], rows, features, TOP, num_threads=options.threads)[0]

    def by_graph(at, pool):
        graph.expansion_search = pool
        found = graph.search(packed[at], pool, threads=1)
        return ranked(at, found.keys.astype(np.int64))

    def by_lists(at, name, pool, probes):
        of_rabitq = name == "faiss_ivf_rabitq"
        parameters = (
            faiss.IVFRaBitQSearchParameters(nprobe=probes, qb=4)
            if of_rabitq
            else faiss.SearchParametersIVF(nprobe=probes)
        )
        asked = queries[at : at + 1]
        return ranked(at, floats[name].search(asked, pool, params=parameters)[1][0])

    contestants = {("hamming", pool): searched(plain, pool) for pool in pools}
    contestants |= {("certainty", pool): searched(sure, pool) for pool in pools}
    contestants["faiss_binary", pools[-1]] = lambda at: ranked(
        at, binary.search(packed[at][None], pools[-1])[1][0]
    )
    for pool in (pools[0], pools[-1]) if with_graph else ():
        contestants["usearch_binary", pool] = lambda at, pool=pool: by_graph(at, pool)
    for name in floats:
        for probes, pool in ((64, 100), (64, 300), (256, 300), (512, 300)):
            contestants[f"{name}, nprobe {probes}", pool] = lambda at, call=(name, pool, probes): (
                by_lists(at, *call)
            )
    held = {
        "hamming": stored_codes.nbytes,
        "certainty": stored_codes.nbytes,
        "faiss_binary": stored_codes.nbytes,
        "usearch_binary": graph.memory_usage,
        "faiss_ivf_rabitq": len(stored_codes) * (floats["faiss_ivf_rabitq"].code_size + 8),
        "faiss_ivf_pq": len(stored_codes) * (PQ_BYTES + 8),
    }
    took = {name: [] for name in contestants}
    found = {}
    for round_ in range(options.rounds + 1):  # the first warms up
        for name, call in contestants.items():
            spent, answers = [], []
            for at in range(len(queries)):
                began = time.perf_counter()
                answers.append(np.array(call(at)))
                spent.append(1000 * (time.perf_counter() - began))
            found[name] = answers
            if round_:
                took[name].append(np.median(spent))
    for name, answers in found.items():
        ratio = np.median(np.array(took[name]) / np.array(took["hamming", pools[-1]]))
        yield {
            "method": name[0],
            "pool": name[1],
            "milliseconds": round(float(np.median(took[name])), 3),
            "times_hamming": round(float(ratio), 3),
            f"recall_at_{TOP}": round(recall(answers, exact), 4),
            "megabytes": round(held[name[0].partition(",")[0]] / 1e6, 1),
        }
        print(name, took[name], file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
