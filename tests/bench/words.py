"""How often do words find the right photo, what does reading photos cost, and looking texts up?

    python -m tests.bench.words DATA [--texts 100000]

DATA is beer_labels of the shared data. The text in its photos and labels is read; then the names of
the breweries are typed, as the names of the photos have them, and searched by what was read: a
brewery's photos are right, and the labels that they show. Then so many texts of six words made of
likely letters are searched by two of their words, in every other query with a letter changed.
Seconds are of one processor; the cold command's are of the whole process.
"""

import argparse
import itertools
import json
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types

import numpy as np

import hashnet
from hashnet import images
from hashnet.ocr.reader import Reader
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.texts import Line, Texts
from hashnet.retrieval.words import lookup
from hashnet.retrieval.words.box import WordBox
from tests.bench import figures

# What names of files say besides those of breweries.
NOT_OF_NAMES = {"logo", "bottle"}
# Of names that go on with that of a beer, how many words the brewery's has: two, but for these.
ONE_WORD = {"NOLA", "Nashville"}
# Files that name a beer alone, whose label names a brewery of the list; and a slip of the pen.
ALSO = {"fat_tire": "New Belgium", "fat_tire2": "New Belgium"}
SLIPS = {"Glarius": "Glarus"}
LETTERS = "etaoinshrdlcumwfgypbvk"
QUERIES = 200


def brewery(path):
    """The name of the brewery of a photo, None where its file is not named after one."""
    stem = pathlib.Path(path).stem
    if stem in ALSO:
        return ALSO[stem]
    if not (stem[0].isupper() and "/main/" in path):
        return None
    words = re.findall(r"[A-Za-z']+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem))
    if "_Bottle" in stem or "Slow_Ride" in stem:
        words = words[: 1 if words[0] in ONE_WORD else 2]
    return " ".join(SLIPS.get(word, word) for word in words if word.lower() not in NOT_OF_NAMES)


def read_all(folder, paths):
    """dict of path to its lines, and the processor seconds of one, reading the file included."""
    reader, found = Reader.open(), {}
    start = time.process_time()
    for path in paths:
        lines = reader.read(images.read(folder / path))
        found[path] = Texts(lines=tuple(Line(*line) for line in lines))
    return found, (time.process_time() - start) / len(paths)


def box_of(scratch, texts):
    """What searches by these texts alone: ids tell nothing."""
    store = Store.create(scratch, num_bits=8, feature_dim=1, fingerprint="", ocr="bench")
    items = [Item(str(number), path, texts=of) for number, (path, of) in enumerate(texts.items())]
    with store.writer() as writer:
        writer.add(items, np.zeros((len(items), 1), "u1"), np.ones((len(items), 1), "f4"))
    return WordBox(Engine(types.SimpleNamespace(store=store)))


def typed(folder, scratch):
    truth = json.loads((folder / "ground_truth.json").read_text(encoding="utf-8"))
    labels = sorted({label for of_query in truth.values() for label in of_query})
    texts, seconds = read_all(folder, [*sorted(truth), *labels])
    boxes = [
        box_of(scratch / name, {path: texts[path] for path in paths})
        for name, paths in (("photos", sorted(truth)), ("labels", labels))
    ]
    photos_of = {}
    for path in sorted(truth):
        photos_of.setdefault(brewery(path), []).append(path)
    del photos_of[None]
    right = [0, 0]
    for name, photos in photos_of.items():
        wanted = photos, [label for photo in photos for label in truth[photo]]
        for kind, (box, paths) in enumerate(zip(boxes, wanted, strict=True)):
            hits = box.search(name, Query(k=1))
            right[kind] += bool(hits) and hits[0].path in paths
    return {
        "read": len(texts),
        "seconds_a_photo": round(seconds, 3),
        "names": len(photos_of),
        "right_photo_first": round(right[0] / len(photos_of), 3),
        "right_label_first": round(right[1] / len(photos_of), 3),
    }


def made_up(number, rng):
    weights = np.arange(len(LETTERS), 0, -1) / (len(LETTERS) * (len(LETTERS) + 1) / 2)
    letters = rng.choice(list(LETTERS), (20_000, 9), p=weights)
    words = ["".join(row[: rng.integers(3, 10)]) for row in letters]
    places = rng.integers(0, len(words), (number, 6)).tolist()
    return [" ".join(words[place] for place in row) for row in places]


def looked_up(folder, scratch, number, rng):
    texts = made_up(number, rng)
    index = hashnet.Index.of_photos(scratch / "index", folder / "db", bits=32)
    store = index.store
    ones = np.ones((number, store.feature_dim), store.feature_dtype)
    with store.writer() as writer:
        items = [Item(f"{row:08x}", texts=Texts(text)) for row, text in enumerate(texts)]
        writer.add(items, np.zeros((number, 4), "u1"), ones)
        start = time.process_time()
        with store.snapshot() as snapshot:
            lookup.settle(snapshot)
        settling = time.process_time() - start
    del ones
    box, spent, found = index.words, [], 0
    for query, row in enumerate(rng.integers(0, number, QUERIES).tolist()):
        words = texts[row].split()[:2]
        if query % 2:
            place = len(words[0]) // 2
            words[0] = f"{words[0][:place]}z{words[0][place + 1 :]}"
        start = time.process_time()
        hits = box.search(" ".join(words), Query(k=10))
        spent.append(time.process_time() - start)
        found += any(hit.id == f"{row:08x}" for hit in hits)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "hashnet", "search", str(scratch / "index"), "--text"]
    start = time.perf_counter()
    for text in texts[:3]:
        subprocess.run([*command, text], check=True, capture_output=True)
    wall = (time.perf_counter() - start) / 3
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cold = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "texts": number,
        "bytes": sum(one.stat().st_size for one in (scratch / "index").glob("texts-*")),
        "seconds_to_settle": round(settling, 2),
        "queries": QUERIES,
        "found_among_ten": round(found / QUERIES, 3),
        "milliseconds": round(statistics.median(spent) * 1000, 2),
        "milliseconds_of_slowest": round(max(itertools.islice(spent, 1, None)) * 1000, 2),
        "cold_command_seconds": round(cold / 3, 2),
        "cold_command_wall_seconds": round(wall, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--texts", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        report = {
            "seed": 0,
            "looked_up": looked_up(
                arguments.data, scratch, arguments.texts, np.random.default_rng(0)
            ),
            "typed": typed(arguments.data, scratch),
        }
    print(json.dumps(report, indent=1))
    figures.write("words", report)


if __name__ == "__main__":
    main()
