"""Is the right image among the candidates that geometry verifies, in an index of many photos?

    python -m tests.bench.local_pool DATA TINYIMAGENET STAMPS CIFAR10 [--local delf] [--kept F]

DATA holds beer_labels/, landmarks/, clothing10/ and grocery/. The 130 labels lie among all other
photos and six crops of each landmark. Photos of bottles ask for their label: the hash pool (the
nearest by code, ranked by F7), the local pool, and both in turn give so many candidates, and
geometry puts first what it verifies of them. `boxes`: the middle of each photo, three fifths of
its sides, asks alone. `settings`: as many of the codebook and the query as were compared, on the
quarter of the queries that they were chosen on. `grown`: a codebook of few photos, before it is
outgrown. `categories`: what verifying candidates of both pools does where a class is sought.
`scale`: made images, whose words are as frequent as those of the photos, in lists mapped from a
file. CIFAR10 holds `train` and `test`, with a folder for each class.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import sys
import tempfile
import time
import types
import zlib

import numpy as np

from hashnet import images, threads
from hashnet.encode.encoder import Encoder
from hashnet.errors import ImageError
from hashnet.local import codebook as codebooks
from hashnet.local import extractors
from hashnet.local.codebook import Codebook
from hashnet.retrieval.search import local_pool, verify
from hashnet.train import unsupervised_codes
from tests.bench import figures, local

SEED = 0
THREADS = 2
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
CROPS = 6
BOX = 0.2  # of each side, on both ends, that a box leaves out
VERIFIED = 100
HASH_POOL, HASH_BITS = 1000, 128
NEIGHBOURS, EXACT_EVERY = 60, 10
GROWN_FROM = 200
EACH = {"train": 300, "test": 30}  # of a class of CIFAR-10
SOME, ASSIGNMENTS = 8, (1, 3, 8)
MADE, MADE_FEATURES = 100_000, 900
INDEXED = ("labels", "landmarks", "crops", "stamps", "grocery", "clothing", "tiny")


def photos(options):
    """{set: list of (path, part)}; a part is None, a number of a crop, or "box"."""

    def found(folder):
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        return [(path, None) for path in files]

    def of_each_class(folder):
        return [
            one for name in sorted(folder.iterdir()) for one in found(name)[: EACH[folder.name]]
        ]

    labels, clothing = options.data / "beer_labels", options.data / "clothing10"
    queries = [labels / name for name in json.loads((labels / "ground_truth.json").read_text())]
    landmarks = found(options.data / "landmarks" / "images")
    return {
        "labels": found(labels / "db"),
        "queries": [(path, None) for path in queries],
        "boxes": [(path, "box") for path in queries],
        "landmarks": landmarks,
        "crops": [(path, crop) for path, _ in landmarks for crop in range(CROPS)],
        "stamps": found(options.stamps),
        "grocery": found(options.data / "grocery"),
        "clothing": found(clothing / "train") + found(clothing / "validation"),
        "clothing_queries": found(clothing / "test"),
        "tiny": found(options.tiny),
        "cifar10": of_each_class(options.cifar / "train"),
        "cifar10_queries": of_each_class(options.cifar / "test"),
    }


def pixels(path, part):
    image = images.read(path)
    height, width = image.shape[:2]
    if part == "box":
        down, across = int(height * BOX), int(width * BOX)
        image = image[down : height - down, across : width - across]
    elif part is not None:
        rng = np.random.default_rng(zlib.crc32(f"{path.name}#{part}".encode()))
        share = rng.uniform(0.4, 0.6)
        top, left = (int(rng.uniform(0, (1 - share) * side)) for side in (height, width))
        image = image[top : top + int(share * height), left : left + int(share * width)]
    return np.ascontiguousarray(image)


class Photos:
    """Features of all photos by set, from the folder `kept` where they are there.

    Args:
        bundle: function that gives the folder of one, called where features are extracted.

    Attributes:
        paths: {set: list of (path, part)} of the images that could be read.
        local: {set: list of objects with `yx` and float16 `descriptors`}.
        features: {set: float32 `(n, d)`}, F7.
    """

    def __init__(self, name, sets, bundle, kept):
        extract = functools.cache(lambda: extractors.open(name, bundle()).extract)
        encode = functools.cache(lambda: Encoder.open(bundle()).encode_one)
        kept.mkdir(exist_ok=True)
        self.paths, self.local, self.features = {}, {}, {}
        for set, listed in sets.items():
            found = self._kept(kept / f"{set}__{name}.npz", listed, extract)
            global_ = self._kept(kept / f"{set}__f7.npz", listed, encode)
            borders = np.cumsum([0, *found["counts"]])
            parts = [slice(*ends) for ends in itertools.pairwise(borders)]
            self.local[set] = [
                types.SimpleNamespace(yx=found["yx"][part], descriptors=found["descriptors"][part])
                for part in parts
            ]
            self.features[set] = global_["features"]
            self.paths[set] = [listed[place] for place in found["places"]]

    def _kept(self, file, listed, opened):
        if not file.is_file():
            function = opened()

            def one(given):
                try:
                    return function(pixels(*given))
                except ImageError:
                    return None

            found = threads.mapped(one, listed, THREADS)
            places = [place for place, one in enumerate(found) if one is not None]
            found = [found[place] for place in places]
            if isinstance(found[0], tuple):
                arrays = {"features": np.stack([feature for _, feature in found])}
            else:
                arrays = {
                    "counts": np.array([len(one) for one in found]),
                    "yx": np.concatenate([one.yx for one in found]),
                    "descriptors": np.concatenate([one.descriptors for one in found], dtype="f2"),
                }
            np.savez(file, places=np.array(places), **arrays)
        with np.load(file) as arrays:
            return dict(arrays)


class Lists:
    """The inverted lists of images, all in one run."""

    def __init__(self, codebook, features, most=None):
        began = time.process_time()
        with threads.blas_threads(1):
            found = threads.mapped(
                lambda one: codebook.signatures(one.descriptors[:most]), features, THREADS
            )
        self.milliseconds_an_image = 1000 * (time.process_time() - began) / len(found)
        self.first_row = 0
        self.lengths = np.array([len(words) for words, _ in found], np.uint16)
        words = np.concatenate([words for words, _ in found])
        order = np.argsort(words, kind="stable")
        self.words, counts = np.unique(words, return_counts=True)
        self.ends = np.cumsum(counts).astype(np.uint32)
        self.rows = np.repeat(np.arange(len(found), dtype=np.uint32), self.lengths)[order]
        self.signatures = np.concatenate([signatures for _, signatures in found])[order]

    @property
    def num_bytes(self):
        arrays = (self.lengths, self.words, self.ends, self.rows, self.signatures)
        return sum(array.nbytes for array in arrays)


def fitted(features, rows, seed=SEED):
    """A codebook of the features of some images, and the seconds it took."""
    descriptors = np.concatenate([features[row].descriptors for row in rows])
    began = time.perf_counter()
    return Codebook.fit(descriptors, seed=seed, num_threads=THREADS), time.perf_counter() - began


class HashPool:
    """The nearest by code, without labels, ranked by F7 about the mean."""

    def __init__(self, features):
        self._weights = unsupervised_codes.itq(features, HASH_BITS)
        self._mean = features.mean(axis=0)
        self._bits = self._weights.bits(features)
        self._features = self._centred(features)

    def _centred(self, features):
        features = features - self._mean
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def search(self, feature, size=HASH_POOL):
        """Rows of a pool of so many, nearest first."""
        apart = (self._bits != self._weights.bits(feature[None])).sum(axis=1)
        pool = np.argsort(apart, kind="stable")[:size]
        near = self._features[pool] @ self._centred(feature[None])[0]
        return pool[np.argsort(-near, kind="stable")]


class Asked:
    """What one way to find candidates finds, query by query."""

    def __init__(self):
        self.first, self.among, self.verified = [], [], []
        self.seconds, self.verify_seconds = [], []

    def ask(self, search, right, verifier=None):
        began = time.perf_counter()
        candidates = search()
        self.seconds.append(time.perf_counter() - began)
        self.first.append(candidates[:1].tolist() == [right])
        self.among.append(right in candidates)
        if verifier is not None:
            began = time.perf_counter()
            order = np.argsort(-verifier.counted(candidates), kind="stable")
            self.verify_seconds.append(time.perf_counter() - began)
            self.verified.append(candidates[order[:1]].tolist() == [right])

    def summary(self, chosen_on):
        """Figures of all queries, and of those that nothing was chosen on."""
        found = {}
        for part, those in (("all", np.ones(len(self.first), bool)), ("rest", ~chosen_on)):
            found[part] = {
                "recall_at_1": round(float(np.mean(np.array(self.first)[those])), 4),
                "among_candidates": round(float(np.mean(np.array(self.among)[those])), 4),
                "recall_at_1_verified": round(float(np.mean(np.array(self.verified)[those])), 4),
            }
        return {**found, "milliseconds": milliseconds(self.seconds)}


class Verifier:
    """The inliers of one query with images, each compared once."""

    def __init__(self, query, stored, matching):
        self._query, self._stored, self._matching = query, stored, matching
        self._known = {}

    def counted(self, rows):
        """int64: inliers with some rows; 0 where these are too few to say anything."""
        new = [row for row in rows.tolist() if row not in self._known]
        candidates = [self._stored[row] for row in new]
        found = verify.verify_all(self._query, candidates, self._matching, num_threads=THREADS)
        self._known |= {row: one.inliers for row, one in zip(new, found, strict=True)}
        inliers = np.array([self._known[row] for row in rows.tolist()], np.int64)
        return np.where(inliers >= self._matching.min_inliers, inliers, 0)


def milliseconds(seconds):
    quartiles = [round(1000 * float(one), 1) for one in np.quantile(seconds, [0.25, 0.75])]
    return {"median": round(1000 * float(np.median(seconds)), 1), "quartiles": quartiles}


def best_first(scores, most):
    """Rows of similarity, the most similar first."""
    order = np.argsort(-scores, kind="stable")[:most]
    return order[scores[order] > 0]


class World:
    """All photos but queries, in one index."""

    def __init__(self, photos, name, folder):
        self.matching = verify.MATCHING[name]
        self.local = [one for set in INDEXED for one in photos.local[set]]
        self.features = np.concatenate([photos.features[set] for set in INDEXED])
        self.num_labels = len(photos.local["labels"])
        self.counts = np.array([len(one.descriptors) for one in self.local])
        self.hash_pool = HashPool(self.features)
        self.asked = {
            "photos": (photos.local["queries"], photos.features["queries"]),
            "boxes": (photos.local["boxes"], photos.features["boxes"]),
        }
        truth = json.loads((folder / "ground_truth.json").read_text())
        names = {
            set: [path.relative_to(folder).as_posix() for path, _ in photos.paths[set]]
            for set in ("labels", "queries")
        }
        asked = names["queries"]
        self.right = [names["labels"].index(truth[query][0]) for query in asked]
        chosen_on = set(local.part_of(list(truth), "quarter"))
        self.chosen_on = np.array([query in chosen_on for query in asked])

    def similar(self, codebook, lists, descriptors, assignments=local_pool.ASSIGNMENTS):
        """float32, of each row."""
        found = codebook.signatures(descriptors, assignments=assignments, num_threads=THREADS)
        return local_pool.similarities([lists], len(lists.lengths), *found, num_threads=THREADS)

    def compared(self, codebook, lists, kind):
        """Rows of a table: candidates of both pools, then of each alone."""
        ways = {"both": Asked(), "hash pool": Asked(), "local pool": Asked()}
        queries, features = self.asked[kind]
        for query, feature, right in zip(queries, features, self.right, strict=True):
            verifier = Verifier(query, self.local, self.matching)

            def by_hash(feature=feature):
                return self.hash_pool.search(feature)[:VERIFIED]

            def by_local(query=query):
                return best_first(self.similar(codebook, lists, query.descriptors), VERIFIED)

            def by_both(by_hash=by_hash, by_local=by_local):
                return local_pool.joined(by_hash(), by_local(), VERIFIED)

            searches = (by_both, by_hash, by_local)
            for asked, search in zip(ways.values(), searches, strict=True):
                asked.ask(search, right, verifier)
        # What the others verify is known by then.
        spent = milliseconds(ways["both"].verify_seconds)
        for way, asked in ways.items():
            yield {"asked": kind, "candidates": way, **asked.summary(self.chosen_on)} | (
                {"milliseconds_to_verify": spent} if way == "both" else {}
            )

    def ranks(self, codebook, lists, assignments=local_pool.ASSIGNMENTS, every=slice(None)):
        """int64: where the right label stands for some queries, 0 for the first."""
        places = []
        queries, right = self.asked["photos"][0], np.array(self.right)
        for place in np.arange(len(queries))[every]:
            scores = self.similar(codebook, lists, queries[place].descriptors, assignments)
            order = best_first(scores, len(scores))
            found = np.flatnonzero(order == right[place])
            places.append(int(found[0]) if len(found) else len(scores))
        return np.array(places)

    def some(self):
        """All labels, and some of the other photos."""
        return [*range(self.num_labels), *range(self.num_labels, len(self.local), SOME)]


def settings(world):
    """What settings find, for the quarter of the queries that they were chosen on."""
    features = [world.local[row] for row in world.some()]
    counts = np.array([len(one.descriptors) for one in features])
    sampled = codebooks.sample(counts, seed=SEED)
    words = codebooks.num_words_for(counts.sum())
    tried = [(words // 16, 32), (words, 32), (words, 64)]
    defaults = codebooks.DESCRIPTORS_A_WORD, codebooks.NUM_BITS
    for num_words, num_bits in tried:
        codebooks.DESCRIPTORS_A_WORD = counts[sampled].sum() / num_words
        codebooks.NUM_BITS = num_bits
        codebook, _ = fitted(features, sampled)
        for most in (300, 500, 1000) if (num_words, num_bits) == (words, 32) else (1000,):
            lists = Lists(codebook, features, most)
            for assignments in ASSIGNMENTS if most == 1000 else (local_pool.ASSIGNMENTS,):
                ranks = world.ranks(codebook, lists, assignments, world.chosen_on)
                yield {
                    "words": codebook.num_words,
                    "bits": num_bits,
                    "most_features": most,
                    "assignments": assignments,
                    "bytes_an_image": round(lists.num_bytes / len(features)),
                    "found_among_first": shares(ranks),
                }
    codebooks.DESCRIPTORS_A_WORD, codebooks.NUM_BITS = defaults


def exact(world, codebook):
    """The nearest of all features beside the local pool, both among some of the photos."""
    features = [world.local[row] for row in world.some()]
    lists = Lists(codebook, features)
    owners = np.repeat(np.arange(len(features)), [len(one.descriptors) for one in features])
    everything = np.concatenate([one.descriptors for one in features])
    ways = {"nearest of all features": Asked(), "local pool": Asked()}
    queries = list(zip(world.asked["photos"][0], world.right, strict=True))
    for query, right in queries[::EXACT_EVERY]:
        searches = (
            lambda query=query: voted(everything, owners, query.descriptors),
            lambda query=query: best_first(
                world.similar(codebook, lists, query.descriptors), VERIFIED
            ),
        )
        for asked, search in zip(ways.values(), searches, strict=True):
            asked.ask(search, right)
    return {
        "images": len(features),
        "features": len(everything),
        "queries": len(queries[::EXACT_EVERY]),
        "rows": [
            {
                "candidates": way,
                "recall_at_1": round(float(np.mean(asked.first)), 4),
                "among_candidates": round(float(np.mean(asked.among)), 4),
                "milliseconds": milliseconds(asked.seconds),
            }
            for way, asked in ways.items()
        ],
    }


def voted(everything, owners, descriptors, at_once=1 << 16):
    """Images, by how many features of the query have one among their nearest."""
    query, best = np.float32(descriptors), []
    with threads.blas_threads(THREADS):
        for first in range(0, len(everything), at_once):
            products = query @ np.float32(everything[first : first + at_once]).T
            count = min(NEIGHBOURS, products.shape[1])
            places = np.argpartition(products, -count, axis=1)[:, -count:]
            best.append((np.take_along_axis(products, places, 1), places + first))
    products, places = (np.concatenate(parts, axis=1) for parts in zip(*best, strict=True))
    nearest = np.argpartition(products, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
    votes = np.zeros(owners[-1] + 1, np.int64)
    for found in owners[np.take_along_axis(places, nearest, 1)]:
        votes[np.unique(found)] += 1
    return best_first(votes, VERIFIED)


def shares(ranks):
    return {str(k): round(float(np.mean(ranks < k)), 4) for k in (1, 10, 50, 100)}


def classes(paths):
    return np.array([path.parent.name for path, _ in paths])


def category(photos, name, database, queries):
    """mAP where classes are sought, before verification and after it, by the candidates."""
    matching, stored = verify.MATCHING[name], photos.local[database]
    counts = np.array([len(one.descriptors) for one in stored])
    codebook, _ = fitted(stored, codebooks.sample(counts, seed=SEED))
    lists, hash_pool = Lists(codebook, stored), HashPool(photos.features[database])
    of_rows, asked = classes(photos.paths[database]), classes(photos.paths[queries])
    precision = {"before": [], "hash pool": [], "both": []}
    for query, feature, wanted in zip(
        photos.local[queries], photos.features[queries], asked, strict=True
    ):
        order = hash_pool.search(feature, len(stored))
        words = codebook.signatures(query.descriptors, assignments=local_pool.ASSIGNMENTS)
        scores = local_pool.similarities([lists], len(stored), *words, num_threads=THREADS)
        by_local = best_first(scores, VERIFIED)
        candidates = {"before": order[:0], "hash pool": order[:VERIFIED]}
        candidates["both"] = local_pool.joined(order[:HASH_POOL], by_local, VERIFIED)
        verifier = Verifier(query, stored, matching)
        for way, rows in candidates.items():
            counted = np.zeros(len(stored), np.int64)
            counted[rows] = verifier.counted(rows)
            ranked = order[np.argsort(-counted[order], kind="stable")]
            precision[way].append(average_precision(of_rows[ranked] == wanted))
    return {
        "database": len(stored),
        "queries": len(asked),
        "map": {way: round(float(np.mean(found)), 4) for way, found in precision.items()},
    }


def average_precision(hits):
    return (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].sum() / hits.sum()


def made(folder, lists, rng):
    """Lists of made images in files, with the words of other ones as often, then mapped."""
    shares = np.diff(lists.ends.astype(np.int64), prepend=0) / len(lists.rows)
    counts = np.minimum(rng.poisson(shares * MADE * MADE_FEATURES), MADE)
    rows = [np.sort(rng.choice(MADE, count, replace=False, shuffle=False)) for count in counts]
    arrays = {
        "lengths": np.bincount(np.concatenate(rows), minlength=MADE).astype(np.uint16),
        "words": lists.words,
        "ends": np.cumsum(counts).astype(np.uint32),
        "rows": np.concatenate(rows).astype(np.uint32),
        "signatures": rng.integers(0, 2**32, counts.sum(), dtype=np.uint32),
    }
    found = {}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        found[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return types.SimpleNamespace(first_row=0, **found)


def out_of_memory(folder):
    """Let the system forget what it keeps of the files of a folder."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def scale(codebook, lists, queries):
    """Bytes and times of many made images, whose lists are mapped from files."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        run = made(folder, lists, np.random.default_rng(SEED))
        num_bytes = sum(path.stat().st_size for path in folder.iterdir())
        asked, seconds, read = [], {"cold": [], "warm": []}, []
        for query in queries:
            asked.append(codebook.signatures(query.descriptors, assignments=local_pool.ASSIGNMENTS))
            places = np.searchsorted(run.words, asked[-1][0])
            read.append(np.diff(np.int64(run.ends), prepend=0)[places % len(run.words)].sum())
        for state, spent in seconds.items():
            for words in asked:
                if state == "cold":
                    out_of_memory(folder)
                began = time.perf_counter()
                local_pool.similarities([run], MADE, *words, num_threads=THREADS)
                spent.append(time.perf_counter() - began)
    return {
        "images": MADE,
        "signatures": len(run.rows),
        "bytes_an_image": round(num_bytes / MADE),
        "entries_a_query": round(float(np.mean(read))),
        "milliseconds": {state: milliseconds(found) for state, found in seconds.items()},
    }


def measured(photos, name, data):
    """(name, figures) of one part of the report after another."""
    world = World(photos, name, data / "beer_labels")
    sampled = codebooks.sample(world.counts, seed=SEED)
    codebook, seconds = fitted(world.local, sampled)
    yield "database", len(world.local)
    yield "features_an_image", round(float(world.counts.mean()), 1)
    yield (
        "codebook",
        {
            "words": codebook.num_words,
            "bits": codebook.num_bits,
            "images": len(sampled),
            "bytes": len(codebook.to_bytes()),
            "seconds": round(seconds, 1),
        },
    )
    lists = Lists(codebook, world.local)
    yield "bytes_an_image", round(lists.num_bytes / len(world.local))
    yield "most_bytes_of_an_image", int(lists.lengths.max()) * (4 + codebook.num_bits // 8)
    yield "processor_milliseconds_an_image", round(lists.milliseconds_an_image, 2)
    yield "rows", [row for kind in world.asked for row in world.compared(codebook, lists, kind)]
    categories = {
        database: category(photos, name, database, f"{database}_queries")
        for database in ("clothing", "cifar10")
    }
    yield "categories", categories
    yield "scale", scale(codebook, lists, world.asked["photos"][0][::4])
    yield "exact", exact(world, codebook)
    rng = np.random.default_rng(SEED)
    few, _ = fitted(world.local, np.sort(rng.permutation(len(world.local))[:GROWN_FROM]))
    found = {
        "grown": shares(world.ranks(few, Lists(few, world.local))),
        "fitted to all": shares(world.ranks(codebook, lists)),
    }
    yield "grown", {"images": GROWN_FROM, "words": few.num_words, "found_among_first": found}
    yield "settings", list(settings(world))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "tiny", "stamps", "cifar"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--local", default="sift", choices=extractors.NAMES)
    parser.add_argument("--kept", type=pathlib.Path, help="folder that keeps extracted features")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = functools.cache(lambda: local.pretrained(scratch, options.local == "delf"))
        kept = options.kept or pathlib.Path(scratch, "features")
        found = Photos(options.local, photos(options), bundle, kept)
        report = {}
        for name, part in measured(found, options.local, options.data):
            report[name] = part
            print(name, json.dumps(part), file=sys.stderr, flush=True)
    figures.write(
        f"local_pool_{options.local}",
        {
            "question": "Is the right image among the candidates that geometry verifies?",
            "local": options.local,
            "seed": SEED,
            "threads": THREADS,
            "verified": VERIFIED,
            "assignments": local_pool.ASSIGNMENTS,
            **report,
        },
    )


if __name__ == "__main__":
    main()
