"""What do local features find that global ones do not, and what do they cost?

    python -m tests.bench.local DATA [--local sift] [--sets beer_labels landmarks] [--kept FOLDER]

DATA holds beer_labels/ and landmarks/, each with a ground_truth.json {query: [relevant, ...]}. For
each: R@1, R@5 and mAP of the global feature alone, of local features alone (all pairs verified:
those that pass by inliers, then the others by matches; ORB as the baseline, unless
`--without-orb`), and of both (the nearest 100 by feature verified); the time of one verified
candidate; and, for each number of inliers that could be asked for, the shares of relevant and of
other pairs that pass. Labels of one brewery show the same print; their pairs, by the first word of
their names, are counted apart (`look_alikes`). A query is left out of its own ranking.

Settings were chosen on a quarter of the queries. `--part rest` measures
on the others only. `--kept` keeps features of an earlier run, or takes them from there; how long
they took is then not measured: see tests/bench/extractors.py.
"""

import argparse
import json
import pathlib
import re
import tempfile
import time

import numpy as np

from hashnet import images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ImageError
from hashnet.local import delf, extractors, learned
from hashnet.local.features import LocalFeatures, opencv
from hashnet.retrieval.search import verify
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.bench import figures

# Asked for by `Matching.min_inliers`; those of the curve.
LEAST_INLIERS = (8, 10, 11, 12, 15, 18, 20, 25, 30, 40)
PARTS = ("all", "quarter", "rest")
# Bits of ORB as numbers of length 1: the smallest distances are those of fewest differing bits.
ORB = verify.Matching(ratio=0.9, max_distance=None, error=0.015, min_inliers=8)


class Orb:
    """OpenCV's ORB behind the contract of local features."""

    name = "orb"

    def extract(self, image):
        cv2 = opencv()
        shrink = min(1.0, 1024 / max(image.shape[:2]))
        image = images.resize(image, [max(1, round(side * shrink)) for side in image.shape[:2]])
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        points, found = cv2.ORB_create(nfeatures=1000).detectAndCompute(grey, None)
        if not points:
            none = np.zeros((0, 2), np.float32)
            return LocalFeatures(none, np.zeros((0, 256), np.float32), none[:, 0])
        order = np.argsort([-point.response for point in points], kind="stable")
        yx = np.array([points[place].pt[::-1] for place in order], np.float32) / np.float32(shrink)
        bits = np.unpackbits(found[order], axis=1).astype(np.float32)
        scores = np.array([points[place].response for place in order], np.float32)
        return LocalFeatures(yx, (2 * bits - 1) / 16, scores)


def ranked(scores, relevant):
    """R@1, R@5 and average precision of one ranking; ties keep the order of the database."""
    hits = relevant[np.lexsort([np.arange(len(relevant)), *scores])]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return hits[0], hits[:5].any(), precision[hits].sum() / hits.sum()


def summary(rows):
    r1, r5, ap = np.mean(rows, axis=0)
    return {"recall_at_1": round(r1, 4), "recall_at_5": round(r5, 4), "map": round(ap, 4)}


def part_of(queries, part):
    """A fixed quarter of the queries, the rest, or all."""
    first = set(
        np.random.default_rng(0).permutation(len(queries))[: -(-len(queries) // 4)].tolist()
    )
    wanted = {"all": (True, False), "quarter": (True,), "rest": (False,)}[part]
    return [query for place, query in enumerate(queries) if (place in first) in wanted]


def brewery(path):
    """What the labels of one brewery share: a folder, or the first word of their names."""
    folder, name = path.lower().split("/")[-2:]
    return folder if folder == "samadams" else re.split("[ _.]", name)[0]


def curve(inliers, relevant, look_alike):
    """Shares of pairs that pass, by the inliers that are asked for."""
    kinds = {
        "relevant": relevant,
        "others": ~relevant & ~look_alike,
        "look_alikes": ~relevant & look_alike,
    }
    return {
        str(least): {
            kind: round(float((inliers[those] >= least).mean()), 5)
            for kind, those in kinds.items()
            if those.any()
        }
        for least in LEAST_INLIERS
    }


def stored(folder, extractor, found):
    """A store of local features, in their order, whose codes and global features say nothing."""
    store = Store.create(
        folder,
        num_bits=8,
        feature_dim=1,
        fingerprint="bench",
        extractor=extractor,
        descriptor_dim=found[0].descriptors.shape[1],
    )
    ones = np.ones((len(found), 1))
    with store.writer() as writer:
        items = [Item(str(row)) for row in range(len(found))]
        writer.add(items, ones.astype("u1"), ones.astype("f4"), found)
    return store


def opened(name, folder):
    """An extractor, ORB among them; its network is written into the folder where it has one."""
    if name == "orb":
        return Orb()
    if name in learned.NETWORKS:
        learned.export(name, pathlib.Path(folder, learned.file_of(name)))
    return extractors.open(name, folder)


def queries_and_database(folder, part="all", every=1):
    """Relevant images of each query, the queries, and the database."""
    truth = json.loads((folder / "ground_truth.json").read_text())
    queries = part_of(list(truth), part)[::every]
    place = folder / ("db" if (folder / "db").is_dir() else "images")
    database = sorted(str(p.relative_to(folder)) for p in place.rglob("*") if p.is_file())
    return truth, queries, database


def kept_features(file):
    """dict of path to local features that `write_kept` wrote; None for what could not be read."""
    if not file or not file.is_file():
        return {}
    with np.load(file) as arrays:
        borders = np.cumsum(np.maximum(arrays["counts"], 0))[:-1]
        parts = [np.split(arrays[name], borders) for name in ("yx", "descriptors", "scores")]
        return {
            path: None if count < 0 else LocalFeatures(*of_path)
            for path, count, *of_path in zip(
                arrays["paths"].tolist(), arrays["counts"], *parts, strict=True
            )
        }


def write_kept(file, found):
    """Write local features for another run."""
    features = [one for one in found.values() if one is not None]
    np.savez(
        file,
        paths=list(found),
        counts=[-1 if one is None else len(one) for one in found.values()],
        yx=np.concatenate([one.yx for one in features]),
        descriptors=np.concatenate([one.descriptors for one in features]),
        scores=np.concatenate([one.scores for one in features]),
    )


def extracted(folder, paths, extractor, kept=None):
    """dict of path to the local features of what can be read, and seconds or None if kept."""
    file = kept and kept / f"{folder.name}_{extractor.name}.npz"
    found = kept_features(file)
    missing = [path for path in dict.fromkeys(paths) if path not in found]
    seconds = 0.0
    for path in missing:
        try:
            image = images.read(folder / path)
        except ImageError:
            found[path] = None
            continue
        start = time.perf_counter()
        found[path] = extractor.extract(image)
        seconds += time.perf_counter() - start
    if file and missing:
        write_kept(file, found)
    features = {path: found[path] for path in paths if found[path] is not None}
    return features, None if kept else seconds


def measure(folder, names, bundle, model, threads, part, every, kept):
    """What is reported of one set; `names` are of extractors, ORB among them."""
    truth, queries, database = queries_and_database(folder, part, every)
    features, seconds = {}, {}
    for name in names:
        extractor = opened(name, bundle)
        features[name], seconds[name] = extracted(folder, [*queries, *database], extractor, kept)
    readable = [path for path in database if path in features[names[-1]]]
    encoder = Encoder.open(bundle)
    encoded = encoder.encode([folder / path for path in readable])
    readable = [readable[position] for position in encoded.positions]
    asked = [encoder.encode_one(folder / query)[1] for query in queries]
    report = {"queries": len(queries), "database": len(readable), "methods": {}}
    global_scores = [np.linalg.norm(encoded.features - one, axis=1) for one in asked]
    keeps = [np.array([path != query for path in readable]) for query in queries]
    relevants = [np.array([path in truth[query] for path in readable]) for query in queries]
    triples = list(zip(global_scores, keeps, relevants, strict=True))
    report["methods"]["global"] = summary([ranked([d[k]], r[k]) for d, k, r in triples])
    for name, found_in in features.items():
        matching = verify.MATCHING.get(name, ORB)
        alone, both, times, pairs = [], [], [], []
        for query, (distances, keep, relevant) in zip(queries, triples, strict=True):
            candidates = [found_in[path] for path, k in zip(readable, keep, strict=True) if k]
            start = time.perf_counter()
            found = verify.verify_all(
                found_in[query], candidates, matching, model=model, num_threads=threads
            )
            times.append((time.perf_counter() - start) / len(candidates))
            inliers = np.array([one.inliers for one in found])
            matches = np.array([one.matches for one in found])
            distances, relevant = distances[keep], relevant[keep]
            passed = np.where(inliers >= matching.min_inliers, inliers, 0)
            alone.append(ranked([-matches, -passed], relevant))
            top = np.zeros(len(distances), bool)
            top[np.argsort(distances, kind="stable")[:100]] = True
            both.append(ranked([distances, -np.where(top, passed, 0)], relevant))
            alike = np.array([brewery(path) == brewery(query) for path in readable])
            pairs.append(np.stack([inliers, relevant, alike[keep]]))
        inliers, relevant, look_alike = np.concatenate(pairs, axis=1)
        counts = [len(one) for one in found_in.values()]
        report["methods"][name] = {
            **summary(alone),
            "min_inliers": matching.min_inliers,
            "verified_at_inliers": curve(inliers, relevant > 0, look_alike > 0),
            "milliseconds_a_candidate": {
                "median": round(1000 * float(np.median(times)), 3),
                "quartiles": [round(1000 * float(q), 3) for q in np.quantile(times, [0.25, 0.75])],
            },
            "milliseconds_to_extract": None
            if seconds[name] is None
            else round(1000 * seconds[name] / len(counts), 1),
            "features_an_image": round(float(np.mean(counts)), 1),
        }
        report["methods"][f"global, then {name}"] = summary(both)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--local", nargs="+", default=["sift"], choices=extractors.NAMES)
    parser.add_argument("--sets", nargs="+", default=["beer_labels", "landmarks"])
    parser.add_argument("--model", default="homography", choices=verify.MODELS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", default="all", choices=PARTS, help="of the queries")
    parser.add_argument("--kept", type=pathlib.Path, help="folder of features that are kept")
    parser.add_argument("--without-orb", action="store_true", help="which another run measured")
    parser.add_argument("--every", type=int, default=1, help="only each n-th query")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = pretrained(scratch, "delf" in arguments.local)
        sets = {
            name: measure(
                arguments.data / name,
                arguments.local + ([] if arguments.without_orb else ["orb"]),
                bundle,
                arguments.model,
                arguments.threads,
                arguments.part,
                arguments.every,
                arguments.kept,
            )
            for name in arguments.sets
        }
    report = {"seed": verify.SEED, "model": arguments.model, "threads": arguments.threads}
    report["part"] = arguments.part
    figures.write("local_" + "_".join(arguments.local), {**report, "sets": sets})


def pretrained(folder, with_delf):
    """A bundle of the pretrained network, whose F7 is the global feature."""
    from hashnet.network import bundle
    from hashnet.network.model import HashNetConfig, build

    config = HashNetConfig(num_bits=48, classes=("none", "other"))
    bundle.save(pathlib.Path(folder, "b"), build(config), config, origin={"command": "bench"})
    if with_delf:
        delf.export(str(pathlib.Path(folder, "b", delf.FILE)), backbone=config.backbone)
    return pathlib.Path(folder, "b")


if __name__ == "__main__":
    main()
