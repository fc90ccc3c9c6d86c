"""What one photo more costs in an index of many, in processor time: the writer, and a service.

    python -m tests.bench.commits --rows 1000000 --write

The index is filled by commits of 1024 images, as `hashnet index` does. Then single images are
added, replaced and removed. The writer's time is that of opening it, the change, and closing it;
the service's that of taking over the commit: a snapshot, a finder, labels, and the map of ids.
Images are not encoded here: their codes and features are made up.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np

from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.service.public_ids import PublicIds
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.bench import figures

FEATURE_DIM, NUM_BITS, LABELS = 8, 128, 100


def batch(numbers, rng):
    items = [
        Item(f"/photos/{n % 1000:03d}/{n:08d}.jpg", f"/photos/{n}.jpg", f"class {n % LABELS}", n, n)
        for n in numbers
    ]
    codes = rng.integers(0, 256, (len(items), NUM_BITS // 8), np.uint8)
    return items, codes, rng.random((len(items), FEATURE_DIM)).astype(np.float16)


def filled(folder, num_rows, rng):
    store = Store.create(
        folder,
        num_bits=NUM_BITS,
        feature_dim=FEATURE_DIM,
        feature_dtype="float16",
        fingerprint="bench",
    )
    with store.writer() as writer:
        for start in range(0, num_rows, 1024):
            writer.add(*batch(range(start, min(start + 1024, num_rows)), rng))
    return Store.open(folder)


def timed(act):
    start = time.process_time()
    result = act()
    return (time.process_time() - start) * 1000, result


class Service:
    """What a service holds of one commit, and how it takes over the next."""

    def __init__(self, store, older=None):
        self.version = store.version()
        self.snapshot = store.snapshot()
        self.finder = finder_of(self.snapshot, after=None if older is None else older.finder)
        self.labels = self.snapshot.label_counts()
        self.names = PublicIds.of(self.snapshot)


def measure(store, num_rows, repeats, rng):
    first, service = timed(lambda: Service(store))
    times = {"writer": [], "service": [], "id": []}
    for number in range(repeats):
        kind = number % 3

        def write(kind=kind, number=number):
            with store.writer() as writer:
                if kind == 0:
                    writer.add(*batch([num_rows + number], rng))
                elif kind == 1:
                    writer.add(*batch([number * 7], rng))  # replaces one
                else:
                    items, _, _ = batch([number * 11], rng)
                    writer.remove([items[0].id])

        times["writer"].append(timed(write)[0])
        milliseconds, service = timed(lambda older=service: Service(store, older))
        times["service"].append(milliseconds)
        items, _, _ = batch([number * 13 + 1], rng)
        times["id"].append(timed(lambda item=items[0], s=service: s.snapshot.rows([item.id]))[0])
    return first, times


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=48)
    parser.add_argument("--folder", type=pathlib.Path, help="where the index is or is made")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or pathlib.Path(scratch, "index")
        fill = 0.0
        if folder.exists():
            store = Store.open(folder)
        else:
            fill, store = timed(lambda: filled(folder, options.rows, rng))
        first, times = measure(store, options.rows, options.repeats, rng)
    result = {
        "seed": 0,
        "rows": options.rows,
        "repeats": options.repeats,
        "fill_seconds": round(fill / 1000, 1),
        "service_first_ms": round(first, 1),
        **{
            f"{name}_ms": {
                "median": round(statistics.median(some), 2),
                "worst": round(max(some), 2),
            }
            for name, some in times.items()
        },
    }
    print(json.dumps(result, indent=1))
    if options.write:
        figures.write("commits", result)


if __name__ == "__main__":
    main()
