"""What do approximate neighbours of local features cost and miss, beside exact ones?

    python -m tests.bench.local_index DATA [--every 6] [--tree-queries 3]

DATA holds beer_labels/ and landmarks/. All labels and all landmarks lie in one `LocalIndex`, DELF
features as an index folder keeps them; photos of beer_labels ask for the label they show. Exact
comparison, FAISS's inverted file with product codes of 50 bits and, for a few queries, SciPy's
KD-tree: the share of the exact 60 nearest features that each finds, what is found first after
geometry, and processor time of all threads without the query's extraction.
"""

import argparse
import json
import pathlib
import tempfile
import time

import numpy as np

from hashnet.local import extractors
from hashnet.retrieval.search.local_index import METHODS, NEIGHBOURS, LocalIndex
from tests.bench import figures, local
from tests.bench.aggregated import extracted

THREADS = 2
ROUNDING = 1e-6  # of a squared distance


def measure(method, snapshot, descriptors, queries, limits, relevant):
    """Figures of one method for some queries.

    `limits` are how far the last of the exact nearest lies from each feature of each query: plain
    walls and paper give the same descriptor over and over, and any of them is as near.
    """
    index = LocalIndex(snapshot, "delf", method=method, num_threads=THREADS)
    began = time.process_time()
    index.nearest(queries[0].descriptors[:1], 1)  # makes what the method needs
    built = time.process_time() - began
    shares, firsts, seconds, whole = [], [], [], []
    for query, limit, right in zip(queries, limits, relevant, strict=True):
        began = time.process_time()
        places, _ = index.nearest(query.descriptors)
        middle = time.process_time()
        hits = index.search(query)
        whole.append(time.process_time() - middle)
        seconds.append(middle - began)
        squares = np.square(descriptors[places] - query.descriptors[:, None]).sum(axis=-1)
        near = squares <= np.square(limit)[:, None] + ROUNDING
        shares.append(np.mean(near & (places >= 0)))
        firsts.append(bool(hits) and hits[0].row in right)
    return {
        "method": method,
        "queries": len(queries),
        "share_of_the_exact_nearest": round(float(np.mean(shares)), 4),
        "recall_at_1": round(float(np.mean(firsts)), 4),
        "processor_milliseconds_nearest": round(1000 * float(np.median(seconds)), 1),
        "processor_milliseconds_search": round(1000 * float(np.median(whole)), 1),
        "processor_seconds_to_build": round(built, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--every", type=int, default=6, help="only each n-th query")
    parser.add_argument("--tree-queries", type=int, default=3)
    parser.add_argument("--kept", type=pathlib.Path, help="folder that keeps extracted features")
    arguments = parser.parse_args()
    labels, landmarks = arguments.data / "beer_labels", arguments.data / "landmarks"
    truth = json.loads((labels / "ground_truth.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        kept = arguments.kept or pathlib.Path(scratch, "features")
        extractor = extractors.open("delf", local.pretrained(scratch, True))
        found = {}
        for folder, place in ((labels, "db"), (landmarks, "images")):
            files = sorted(p for p in (folder / place).rglob("*") if p.is_file())
            found |= extracted(extractor, folder, [str(p.relative_to(folder)) for p in files], kept)
        asked = extracted(extractor, labels, list(truth)[:: arguments.every], kept)
        snapshot = local.stored(f"{scratch}/index", "delf", list(found.values())).snapshot()
        rows = {path: row for row, path in enumerate(found)}
        relevant = [{rows[path] for path in truth[query] if path in rows} for query in asked]
        exact = LocalIndex(snapshot, "delf", num_threads=THREADS)
        limits = [exact.nearest(query.descriptors)[1][:, -1] for query in asked.values()]
        descriptors = [one.descriptors for one in snapshot.local_features(np.arange(len(found)))]
        descriptors = np.concatenate(descriptors).astype(np.float32)
        table = []
        for method in METHODS:
            count = arguments.tree_queries if method == "tree" else len(asked)
            some = (list(asked.values())[:count], limits[:count], relevant[:count])
            table.append(measure(method, snapshot, descriptors, *some))
        features = len(exact)
    figures.write(
        "local_index",
        {
            "question": "What do approximate neighbours of local features cost and miss?",
            "images": len(found),
            "features": features,
            "neighbours": NEIGHBOURS,
            "threads": THREADS,
            "rows": table,
        },
    )


if __name__ == "__main__":
    main()
