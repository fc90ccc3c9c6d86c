"""On which kinds of search do codes without labels serve? Ours beside ITQ, PCA-sign, LSH and F7.

    python -m tests.bench.label_free_codes DATA TINY STAMPS SCRATCH [--before COMMIT]

DATA holds clothing10, landmarks, beer_labels and grocery; TINY is tinyimagenet_val, unpacked;
STAMPS is Debian's /usr/share/tuxpaint/stamps. SCRATCH keeps copies and features for another run.

Every method learns H from the features of the database alone; codes of the queries rank all of it:

- `map`: tie-aware mean average precision;
- `recall`: the share of the ten nearest by feature that lie in the first .1, 1 and 5 % by code, in
  at least ten images; those that are tied with the last count by the share of the tie that fits.

`--before` scores `unsupervised_codes.fit` as that commit had it as well. Writes
tests/bench/results/label_free_codes.json.
"""

import argparse
import concurrent.futures
import contextlib
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import types
from typing import NamedTuple

import numpy as np

from hashnet import metrics
from hashnet.encode.encoder import Encoder
from hashnet.network import backbones, bundle, model, onnx_graph, pretrained
from hashnet.train import unsupervised, unsupervised_codes
from tests.bench import copies, figures

BITS = (64, 128)
POOLS = (0.001, 0.01, 0.05)
LEAST_POOL = 10
NEAREST = 10
RANDOM = ("fit", "itq", "lsh")
EACH = 5  # every fifth photo of a set without queries is one
STEP_OF_TINY = 4  # every fourth of its photos is taken


class Search(NamedTuple):
    """A database, queries, and what is relevant to each."""

    kind: str
    database: np.ndarray  # float32 (n, feature_dim)
    queries: np.ndarray  # float32 (q, feature_dim)
    relevant: np.ndarray  # bool (q, n)
    left_out: np.ndarray | None = None  # bool (q, n): the query itself

    def distances(self):
        """Squared distances of the features, but for what a query adds to all of its own."""
        database = self.database.astype(np.float64)
        squares = (database**2).sum(axis=1)
        return self.without_itself(squares - 2 * self.queries.astype(np.float64) @ database.T)

    def without_itself(self, distances):
        """Put what is left out behind all else."""
        if self.left_out is None:
            return distances
        return np.where(self.left_out, distances.max() + 1, distances)


def mean_ap(distances, relevant):
    """Tie-aware, over all queries."""
    pairs = zip(distances, relevant, strict=True)
    return float(np.mean([metrics.tie_aware_average_precision(*pair).expected for pair in pairs]))


def recall(distances, nearest, pool):
    """The share of the nearest among the `pool` first, a tie at its end by the share that fits."""
    ordered, asked = np.sort(distances, axis=1), np.take_along_axis(distances, nearest, axis=1)
    shares = []
    for row, values in zip(ordered, asked, strict=True):
        before, upto = (np.searchsorted(row, values, side) for side in ("left", "right"))
        shares.append(np.clip((pool - before) / (upto - before), 0, 1).mean())
    return float(np.mean(shares))


def score(search, weights, nearest):
    """mAP, and recall in each pool."""
    signs = [
        np.where(weights.bits(features), np.float32(1), np.float32(-1))
        for features in (search.queries, search.database)
    ]
    num_bits = signs[0].shape[1]
    distances = np.rint((num_bits - signs[0] @ signs[1].T) / 2).astype(np.int64)
    distances = search.without_itself(distances)
    size = len(search.database)
    pools = [max(LEAST_POOL, math.ceil(share * size)) for share in POOLS]
    return mean_ap(distances, search.relevant), *(
        recall(distances, nearest, pool) for pool in pools
    )


def fit_before(commit):
    """`unsupervised_codes.fit` of another commit."""
    text = subprocess.run(
        ["git", "show", f"{commit}:hashnet/train/unsupervised_codes.py"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    before = types.ModuleType("unsupervised_codes_before")
    sys.modules[before.__name__] = before
    exec(compile(text, before.__name__, "exec"), before.__dict__)
    return before.fit


def compare(name, search, commit, seeds):
    """A dict for each length and method; means over seeds."""
    prior = unsupervised.prior_of("efficientnet_lite0")
    methods = {
        "fit": lambda *given, **options: unsupervised_codes.fit(*given, prior=prior, **options),
        "itq": unsupervised_codes.itq,
        "pca_sign": unsupervised_codes.pca_sign,
        "lsh": unsupervised_codes.lsh,
    }
    if commit is not None:
        before = fit_before(commit)
        methods["before"] = lambda *given, **options: before(*given, prior=prior, **options)
    facts = {"set": name, "kind": search.kind, "database": len(search.database)}
    facts["queries"] = len(search.queries)
    exact = search.distances()
    rows = [{**facts, "method": "features", "map": round(mean_ap(exact, search.relevant), 4)}]
    nearest = np.argsort(exact, axis=1, kind="stable")[:, :NEAREST]
    for num_bits in BITS:
        for method, fit in methods.items():
            runs, seconds = [], []
            for seed in seeds if method in RANDOM else seeds[:1]:
                start = time.process_time()
                weights = fit(search.database, num_bits, seed=seed)
                seconds.append(time.process_time() - start)
                runs.append(score(search, weights, nearest))
            means = [round(statistics.mean(values), 4) for values in zip(*runs, strict=True)]
            rows.append(
                {
                    **facts,
                    "method": method,
                    "bits": num_bits,
                    "repeats": len(runs),
                    "map": means[0],
                    "recall": means[1:],
                    "map_range": [round(edge(run[0] for run in runs), 4) for edge in (min, max)],
                    "fit_processor_seconds": round(statistics.median(seconds), 2),
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


class Reader:
    """Features of folders, kept for another run."""

    def __init__(self, encoder, scratch):
        self.encoder, self.scratch = encoder, scratch

    def __call__(self, name, folder, without=()):
        """Features of the photos below a folder, and their paths."""
        paths = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in copies.SUFFIXES and path.parent.name not in without
        )
        kept = self.scratch / f"{name}.npz"
        if not kept.exists():
            encoded = self.encoder.encode(paths)
            assert not encoded.problems, encoded.problems[0]
            np.savez(kept, features=encoded.features)
        features = np.load(kept)["features"]
        assert len(features) == len(paths), f"{kept} is of other photos"
        return features, paths


def labelled(folders):
    """Paths below folders of class folders, joined by commas, and the names of their classes."""
    paths = sorted(
        path for folder in folders.split(",") for path in pathlib.Path(folder).glob("*/*")
    )
    return paths, np.array([path.parent.name for path in paths])


@contextlib.contextmanager
def default_encoder():
    """The default network, with its pretrained weights."""
    classes = backbones.imagenet_classes()
    config = model.HashNetConfig(num_bits=1, classes=classes, scores_from="feature")
    graph = onnx_graph.content(pretrained.write(config, "imagenet"))
    with tempfile.TemporaryDirectory() as folder:
        yield Encoder(bundle.save_encoder(folder, graph, config, origin={}))


def of_classes(kind, database, names, queries, query_names):
    """Relevant: the same class."""
    return Search(kind, database, queries, np.array(query_names)[:, None] == np.array(names))


def searches(read, data, tiny, stamps):
    """All sets, by name."""
    folders = [read(f"clothing10-{part}", data / "clothing10" / part) for part in ("train", "test")]
    (train, train_paths), (test, test_paths) = folders
    yield (
        "clothing10",
        of_classes(
            "category",
            train,
            [path.parent.name for path in train_paths],
            test,
            [path.parent.name for path in test_paths],
        ),
    )
    for name, folder, step in (("tinyimagenet_val", tiny, STEP_OF_TINY), ("stamps", stamps, 1)):
        features, paths = read(name, folder)
        kinds = np.array(["/".join(path.relative_to(folder).parts[:-1][:2]) for path in paths])
        _, places, counts = np.unique(kinds, return_inverse=True, return_counts=True)
        known = np.flatnonzero(counts[places] >= EACH)[::step]
        asked = np.arange(len(known)) % EACH == EACH - 1
        features, kinds = features[known], kinds[known]
        yield (
            name,
            of_classes("category", features[~asked], kinds[~asked], features[asked], kinds[asked]),
        )
    landmarks, paths = read("landmarks", data / "landmarks" / "images")
    truth = json.loads((data / "landmarks" / "ground_truth.json").read_text("utf-8"))
    places = {f"images/{path.name}": place for place, path in enumerate(paths)}
    asked = [places[name] for name in truth]
    relevant = np.zeros((len(truth), len(paths)), bool)
    for row, names in enumerate(truth.values()):
        relevant[row, [places[name] for name in names]] = True
    itself = np.arange(len(paths)) == np.array(asked)[:, None]
    yield "landmarks", Search("instance", landmarks, landmarks[asked], relevant, itself)
    labels, label_paths = read("beer_labels-db", data / "beer_labels" / "db")
    bottles, bottle_paths = read("beer_labels-queries", data / "beer_labels" / "queries")
    truth = json.loads((data / "beer_labels" / "ground_truth.json").read_text("utf-8"))
    truth = {
        pathlib.Path(query).name: {pathlib.Path(name).name for name in names}
        for query, names in truth.items()
    }
    relevant = [[path.name in truth[asked.name] for path in label_paths] for asked in bottle_paths]
    yield "beer_labels", Search("instance", labels, bottles, np.array(relevant))
    parts = {
        part: read(f"grocery-{part}", data / "grocery" / part)
        for part in ("iconic", "train", "val")
    }
    asked = parts["val"][0], [path.parent.name for path in parts["val"][1]]
    names = [path.stem for path in parts["iconic"][1]]
    yield "grocery, iconic", of_classes("product", parts["iconic"][0], names, *asked)
    names = [path.parent.name for path in parts["train"][1]]
    yield "grocery, by class", of_classes("product", parts["train"][0], names, *asked)
    database = np.concatenate([features for features, _ in parts.values()])
    originals = [path for _, paths in parts.values() for path in paths]
    for name, features, paths, step in (
        ("landmarks", landmarks, sorted(places), 1),
        ("grocery", database, originals, 41),
    ):
        chosen = np.arange(0, len(features), step)
        out = read.scratch / "copies" / name
        inside = data / "landmarks" if name == "landmarks" else pathlib.Path()
        copies.write([(f"{name}_{place:04}", inside / paths[place]) for place in chosen], out)
        edited, edited_paths = read(f"copies-{name}", out, without=("original",))
        origin = np.array([int(path.stem.rpartition("_")[2]) for path in edited_paths])
        relevant = origin[:, None] == np.arange(len(features))
        yield f"copies, {name}", Search("copies", features, edited, relevant)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "tiny", "stamps", "scratch"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--before", metavar="COMMIT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1, help="sets scored at once")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    with default_encoder() as encoder:
        read = Reader(encoder, options.scratch)
        sets = dict(searches(read, options.data, options.tiny, options.stamps))
    with concurrent.futures.ProcessPoolExecutor(options.workers) as pool:
        tasks = [
            pool.submit(compare, *named, options.before, options.seeds) for named in sets.items()
        ]
        rows = [row for task in tasks for row in task.result()]
    protocol = (
        "Features are F7 of the pretrained EfficientNet-Lite0 at 224 pixels, of length 1. Every "
        "method learns H from the database's features; codes of the queries rank all of it. "
        "mAP is tie-aware; relevant: the same class, scene, label or product, or the photo that a "
        f"copy was made from, by one of {len(copies.EDITS)} edits. In brackets, the share of the "
        "exact ten nearest by feature in the first .1, 1 and 5 % by code (at least ten images). "
        f"Seeds where a method draws: {len(options.seeds)}; before: one."
    )
    figures.write(
        "label_free_codes",
        {"protocol": protocol, "before": options.before, "seeds": options.seeds, "rows": rows},
    )


if __name__ == "__main__":
    sys.exit(main())
