"""What does a pool taken by the certainty of bits gain over one taken by Hamming distance?

    pip install ".[bench]"
    python -m tests.bench.certainty [ROWS] [DIMENSIONS] [--bits 64]

Draws features around centres, as `coarse_fine clusters` does, into an index on disk whose codes are
learned from some of them without labels (ITQ), and searches it by queries of the same centres. One
query at a time; every contestant answers all queries in turn, round after round:

- `hamming`: the pool of at least so many rows by Hamming distance, ranked by feature;
- `certainty`: the same by the bits that differ, each as the query's latent is sure of it;
- `faiss_binary`: as many rows from `IndexBinaryFlat`, ranked by the same fine stage;
- `faiss_ivf_rabitq`: so many rows from `IndexIVFRaBitQ`, 4-bit queries, ranked by the same stage.

Recall is of the exact ten nearest by feature. Writes tests/bench/results/certainty.json.
"""

import argparse
import sys
import tempfile
import time
import types

import faiss
import numpy as np

from hashnet import codes
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.fine import nearest_features
from hashnet.retrieval.search.query import Query
from hashnet.train import unsupervised_codes
from tests.bench import figures
from tests.bench.coarse_fine import CHUNK, CLUSTER, TOP, ExactNearest, clusters, recall, stored

POOLS = (1000, 2000, 3000, 4000, 5000)
TRAINED_ON = 50_000


class Network:
    """Stands for an encoder: what an index's own network would say of a query's latents."""

    def __init__(self, weights):
        self._weights = weights
        self.bundle = types.SimpleNamespace(mean=None)

    def latent_of(self, feature):
        return 1 / (1 + np.exp(-(feature @ self._weights.kernel + self._weights.bias)))


class Both:
    """Takes features for the exact answer and for a FAISS index, which learns from the first."""

    def __init__(self, exact, index):
        self.exact, self.index, self.waiting = exact, index, []

    def add(self, features):
        self.exact.add(features)
        if self.index.is_trained:
            self.index.add(features)
            return
        self.waiting.append(features)
        if sum(map(len, self.waiting)) >= TRAINED_ON:
            self.index.train(np.concatenate(self.waiting))
            for part in self.waiting:
                self.index.add(part)
            self.waiting = []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    parser.add_argument("dimensions", type=int, nargs="?", default=1280)
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
    lists = max(16, int(rows**0.5))
    rabitq = faiss.IndexIVFRaBitQ(faiss.IndexFlatL2(dim), dim, lists)
    rabitq.own_fields = False
    rabitq.qb = 4
    rabitq.cp.niter = 5
    exact = ExactNearest(queries)
    with tempfile.TemporaryDirectory() as folder:
        parts = (drawn(labels[first : first + CHUNK]) for first in range(0, rows, CHUNK))
        store, _ = stored(folder, parts, weights, labels, dim, Both(exact, rabitq))
        report = list(measured(store, weights, queries, exact.rows, rabitq, options))
    figures.write(
        "certainty",
        {
            "question": "What does a pool taken by the certainty of bits gain?",
            "protocol": f"{options.queries} queries, one at a time, {options.threads} threads, "
            f"{options.rounds} rounds, in each of which every contestant answers them all. {rows} "
            f"synthetic features of {dim} float16 numbers on disk, in clusters of {CLUSTER}, ITQ "
            f"codes of {options.bits} bits learned from 5,000 of them. Milliseconds: median over "
            "queries and rounds. times_hamming_5000: median over rounds of the ratio of the "
            "medians. Recall: of the exact ten nearest by feature. hamming and certainty return "
            "ids, paths and labels; FAISS's contestants row numbers.",
            "rows": report,
        },
    )


def measured(store, weights, queries, exact, rabitq, options):
    packed = [codes.pack(bits) for bits in weights.bits(queries)]
    plain = Engine(types.SimpleNamespace(store=store), num_threads=options.threads)
    sure = Engine(
        types.SimpleNamespace(store=store, encoder=Network(weights)), num_threads=options.threads
    )
    binary = faiss.IndexBinaryFlat(options.bits)
    binary.add(np.array(plain.snapshot.codes[:]))
    features = plain.snapshot.feature_map

    def searched(engine, pool):
        query = Query(k=TOP, pool=pool, rank_by="feature")
        return lambda at: [
            int(hit.id) for hit in engine.search_encoded(packed[at], queries[at], query).hits
        ]

    def ranked(at, found):
        rows = np.sort(found[found >= 0])
        return nearest_features(queries[at], rows, features, TOP, num_threads=options.threads)[0]

    def by_rabitq(at, pool, probes):
        parameters = faiss.IVFRaBitQSearchParameters(nprobe=probes, qb=4)
        asked = queries[at : at + 1]
        return ranked(at, rabitq.search(asked, pool, params=parameters)[1][0])

    contestants = {("hamming", pool): searched(plain, pool) for pool in POOLS}
    contestants |= {("certainty", pool): searched(sure, pool) for pool in POOLS}
    contestants["faiss_binary", 5000] = lambda at: ranked(
        at, binary.search(packed[at][None], 5000)[1][0]
    )
    for probes, pool in ((64, 100), (64, 300), (256, 300)):
        contestants[f"faiss_ivf_rabitq, nprobe {probes}", pool] = (
            lambda at, probes=probes, pool=pool: by_rabitq(at, pool, probes)
        )
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
        ratio = np.median(np.array(took[name]) / np.array(took["hamming", 5000]))
        yield {
            "method": name[0],
            "pool": name[1],
            "milliseconds": round(float(np.median(took[name])), 3),
            "times_hamming_5000": round(float(ratio), 3),
            f"recall_at_{TOP}": round(recall(answers, exact), 4),
        }
        print(name, took[name], file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
