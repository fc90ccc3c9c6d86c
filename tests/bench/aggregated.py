"""What do aggregated local features keep of what exact ones find, in how few bytes?

    python -m tests.bench.aggregated DATA [--local sift] [--words 256 1024]

DATA holds beer_labels/, landmarks/ and clothing10/. Photos of beer_labels ask for the label they
show. *exact*: the local features of every label are matched and verified by geometry.
*aggregated*: signatures, learned of other images (tests/bench/delf_preset.py names them; at most 64
features a word). *then verified*: geometry puts first those of the ten most similar that it
verifies. Time is processor time, of all threads together, without the query's extraction. How
geometry verifies was chosen on a quarter of the queries; `--part rest`, the default, measures on
the others.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import tempfile
import time

import numpy as np

from hashnet import images
from hashnet.errors import ImageError
from hashnet.local import extractors
from hashnet.local.features import LocalFeatures
from hashnet.retrieval.search import verify
from hashnet.retrieval.search.aggregated import AggregatedIndex, learn_codebook
from tests.bench import delf_preset, figures, local

FEATURES_A_WORD = 64
VERIFIED = 10
SEED = 0
THREADS = 2


def extracted(extractor, folder, paths, kept):
    """{path: local features} of the images that can be read; from the folder `kept` if there."""
    found = {}
    for path in paths:
        name = str(pathlib.Path(folder.name, path)).replace(os.sep, "__")
        file = kept / f"{extractor.name}__{name}.npz"
        try:
            if not file.is_file():
                arrays = dataclasses.asdict(extractor.extract(images.read(folder / path)))
                kept.mkdir(exist_ok=True)
                np.savez(file, **arrays)
            with np.load(file) as arrays:
                found[path] = LocalFeatures(**arrays)
        except ImageError:
            continue
    return found


def stored_bytes(features):
    """Bytes of one image in an index folder: float16 descriptors, float32 places."""
    return 2 * features.descriptors.size + 4 * features.yx.size


class Asked:
    """Scores of one way to search, query by query, and its processor time."""

    def __init__(self):
        self.rows, self.seconds = [], []

    def ask(self, search, relevant):
        """Take the keys that `search` returns, the most important last, as numpy.lexsort has it."""
        start = time.process_time()
        keys = search()
        self.seconds.append(time.process_time() - start)
        self.rows.append(local.ranked(keys, relevant))

    def summary(self):
        """Quality, and milliseconds a query."""
        times = 1000 * np.array(self.seconds)
        quartiles = [round(float(one), 2) for one in np.quantile(times, [0.25, 0.75])]
        found = {"median": round(float(np.median(times)), 2), "quartiles": quartiles}
        return {**local.summary(self.rows), "milliseconds": found}


def measure(extractor, data, words, part, every, kept):
    folder = data / "beer_labels"
    truth = json.loads((folder / "ground_truth.json").read_text())
    paths = sorted(str(p.relative_to(folder)) for p in (folder / "db").rglob("*") if p.is_file())
    database = extracted(extractor, folder, paths, kept)
    queries = extracted(extractor, folder, local.part_of(list(truth), part)[::every], kept)
    taught_by = [str(path.relative_to(data)) for path in delf_preset.photos(data)]
    others = extracted(extractor, data, taught_by, kept)
    paths, matching = list(database), verify.MATCHING[extractor.name]
    relevants = {query: np.array([path in truth[query] for path in paths]) for query in queries}

    def inliers(query, candidates):
        stored = [database[path] for path in candidates]
        found = verify.verify_all(query, stored, matching, num_threads=THREADS)
        return np.array([one.inliers for one in found])

    exact = Asked()
    for query, features in queries.items():
        exact.ask(lambda features=features: [-inliers(features, paths)], relevants[query])
    bytes_an_image = np.mean([stored_bytes(one) for one in database.values()])
    rows = [{"method": "exact", **exact.summary(), "bytes_an_image": round(float(bytes_an_image))}]
    taught = np.concatenate([one.descriptors for one in others.values()])
    taught = taught[np.random.default_rng(SEED).permutation(len(taught))]
    for num_words in words:
        few = taught[: FEATURES_A_WORD * num_words]
        codebook = learn_codebook(few, num_words, seed=SEED, num_threads=THREADS)
        index = AggregatedIndex(codebook, num_threads=THREADS)
        index.add(paths, list(database.values()))
        for assignments in (1, 5):
            rows += compared(index, assignments, paths, queries, relevants, inliers, matching)
    return {
        "queries": len(queries),
        "database": len(paths),
        "taught_by": {"images": len(others), "features": len(taught)},
        "features_an_image": round(float(np.mean([len(one) for one in database.values()])), 1),
        "rows": rows,
    }


def compared(index, assignments, paths, queries, relevants, inliers, matching):
    """Rows of one codebook: aggregated alone, and verified."""
    places = {path: place for place, path in enumerate(paths)}

    def similar(features):
        ids, found = index.search(features, k=len(paths), assignments=assignments)
        scores = np.zeros(len(paths))
        scores[[places[id] for id in ids]] = found
        return ids, scores

    def verified(features):
        ids, scores = similar(features)
        counted = np.zeros(len(paths))
        counted[[places[id] for id in ids[:VERIFIED]]] = inliers(features, ids[:VERIFIED])
        counted[counted < matching.min_inliers] = 0
        return [-scores, -counted]

    similar(next(iter(queries.values())))  # loads the compiled loop
    ways = {"aggregated": lambda features: [-similar(features)[1]], "then verified": verified}
    settings = {"words": len(index.codebook), "assignments": assignments}
    settings |= {"bits": index.codebook.shape[1], "bytes_an_image": file_bytes(index)}
    settings |= {"memory_bytes_an_image": round(index.num_bytes / len(paths))}
    settings |= {"codebook_bytes": index.codebook.nbytes}
    for name, way in ways.items():
        asked = Asked()
        for query, features in queries.items():
            asked.ask(lambda way=way, features=features: way(features), relevants[query])
        yield {"method": name, **settings, **asked.summary()}


def file_bytes(index):
    """Bytes an image of the saved file, without the codebook."""
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch, "index.npz")
        index.save(path)
        return round((os.path.getsize(path) - index.codebook.nbytes) / len(index))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--local", default="sift", choices=extractors.NAMES)
    parser.add_argument("--words", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--part", default="rest", choices=local.PARTS, help="of the queries")
    parser.add_argument("--every", type=int, default=1, help="only each n-th query")
    parser.add_argument("--kept", type=pathlib.Path, help="folder that keeps extracted features")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = local.pretrained(scratch, True) if arguments.local == "delf" else None
        extractor = extractors.open(arguments.local, bundle)
        kept = arguments.kept or pathlib.Path(scratch, "features")
        asked = arguments.words, arguments.part, arguments.every
        report = measure(extractor, arguments.data, *asked, kept)
    facts = {"seed": SEED, "local": arguments.local, "part": arguments.part, "threads": THREADS}
    figures.write(f"aggregated_{arguments.local}", {**facts, "verified": VERIFIED, **report})


if __name__ == "__main__":
    main()
