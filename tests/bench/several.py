"""What do two extractors of local features find together, and what do they cost?

    python -m tests.bench.several DATA [--local sift aliked,sift] [--ways verify] [--kept FOLDER]

DATA and KEPT as for tests/bench/local.py. The photos of a set are an index whose codes are fitted
to them, once for each choice of extractors; its queries ask it with `--verify`, with
`--same-object`, or, where there are features of ALIKED, with `--verify --matcher lightglue`. R@1
and R@5; which extractor has confirmed the first hits; the median milliseconds of a search, without
extraction; and the bytes of the index for each image.
"""

import argparse
import collections
import functools
import pathlib
import tempfile
import types

import numpy as np

from hashnet.api import Index
from hashnet.local import extractors, several
from hashnet.retrieval import vocabulary
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.folder.store import Store
from tests.bench import figures, local

WAYS = {
    "verify": Query(verify=True),
    "same_object": Query(same_object=True),
    "lightglue": Query(verify=True, matcher="lightglue"),
}


class _Opened:
    """An extractor that is opened when the first photo is not kept."""

    def __init__(self, name, folder):
        self.name, self._folder = name, folder

    @functools.cached_property
    def extract(self):
        self._folder.mkdir()
        folder = local.pretrained(self._folder, True) if self.name == "delf" else self._folder
        return local.opened(self.name, folder).extract


class Photos:
    """The photos of a set, encoded, with their local features by extractor."""

    def __init__(self, folder, names, kept, every, scratch):
        self.truth, self.queries, paths = local.queries_and_database(folder, every=every)
        place = folder / ("db" if (folder / "db").is_dir() else "images")
        index = Index.of_photos(scratch / folder.name, place)
        self.encoder = index.encoder
        with index.store.snapshot() as snapshot:
            rows = snapshot.rows_beginning_with("")
            self.items = snapshot.items(rows)
            self.codes, self.features = snapshot.codes[rows], snapshot.features(rows)
        self.paths = [str(pathlib.Path(item.path).relative_to(folder)) for item in self.items]
        self.local = {}
        for name in names:
            extractor = _Opened(name, scratch / f"{folder.name} {name}")
            self.local[name], _ = local.extracted(folder, [*self.queries, *paths], extractor, kept)
        self.encoded = {query: self.encoder.encode_one(folder / query) for query in self.queries}

    def of(self, choice, path):
        found = [self.local[name][path] for name in extractors.names_of(choice)]
        if len(found) == 1:
            return found[0]
        return several.joined(found, 1 + max(one.descriptors.shape[1] for one in found))


def filled(photos, choice, folder):
    """A store of the photos and their local features, with a local pool; and its bytes before."""
    found = [photos.of(choice, path) for path in photos.paths]
    config = photos.encoder.config
    store = Store.create(
        folder,
        num_bits=config.num_bits,
        feature_dim=config.feature_dim,
        feature_dtype=str(photos.features.dtype),
        fingerprint=photos.encoder.fingerprint,
        extractor=choice,
        descriptor_dim=found[0].descriptors.shape[1],
    )
    with store.writer() as writer:
        writer.add(photos.items, photos.codes, photos.features, found)
        with store.snapshot() as snapshot:
            vocabulary.settle(writer, snapshot, num_threads=2)
    return store


def searched(photos, engine, choice, query):
    first, five, seconds, by = [], [], [], collections.Counter()
    for path in photos.queries:
        own = [item.id for item, one in zip(photos.items, photos.paths, strict=True) if one == path]
        result = engine.search_encoded(
            *photos.encoded[path],
            query,
            local=photos.of(choice, path),
            without=own[0] if own else None,
        )
        at = {item.id: one for item, one in zip(photos.items, photos.paths, strict=True)}
        right = [at[hit.id] in photos.truth[path] for hit in result.hits]
        first.append(right[0])
        five.append(any(right[:5]))
        seen = result.verifications[0]
        by[seen.extractor if seen is not None and seen.same else "none"] += 1
        stages = ("coarse", "fine", "verify")
        seconds.append(sum(result.milliseconds[stage] or 0 for stage in stages))
    return {
        "recall_at_1": round(float(np.mean(first)), 4),
        "recall_at_5": round(float(np.mean(five)), 4),
        "first_confirmed_by": dict(sorted(by.items())),
        "milliseconds": round(float(np.median(seconds)), 1),
    }


def measure(folder, choices, ways, kept, every, threads):
    names = sorted({name for choice in choices for name in extractors.names_of(choice)})
    with tempfile.TemporaryDirectory() as scratch:
        photos = Photos(folder, names, kept, every, pathlib.Path(scratch))
        report = {"queries": len(photos.queries), "database": len(photos.paths), "choices": {}}
        for choice in choices:
            store = filled(photos, choice, pathlib.Path(scratch, choice))
            engine = Engine(
                types.SimpleNamespace(store=store, encoder=photos.encoder), num_threads=threads
            )
            report["choices"][choice] = {
                way: searched(photos, engine, choice, query)
                for way, query in ways.items()
                if way != "lightglue" or "aliked" in choice
            } | {"bytes_an_image": round(store.num_bytes() / len(photos.paths))}
            print(folder.name, choice, report["choices"][choice], flush=True)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument(
        "--local", nargs="+", default=["sift", "aliked", "delf", "aliked,sift", "delf,sift"]
    )
    parser.add_argument("--ways", nargs="+", default=["verify", "same_object"], choices=WAYS)
    parser.add_argument("--sets", nargs="+", default=["beer_labels", "landmarks"])
    parser.add_argument("--kept", type=pathlib.Path)
    parser.add_argument("--every", type=int, default=1, help="only each n-th query")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    ways = {way: WAYS[way] for way in options.ways}
    sets = {
        name: measure(
            options.data / name, options.local, ways, options.kept, options.every, options.threads
        )
        for name in options.sets
    }
    report = {"every": options.every, "threads": options.threads, "sets": sets}
    figures.write("several_" + "_".join(ways), report)


if __name__ == "__main__":
    main()
