"""Made tests/golden/index_v3, once: an index of format version 3 that must open for ever.

Run it from the root of the repository with the code of that version, `python -m
tests.golden.make_index_v3 FOLDER`. The folder has seen a compaction, a replaced image, a removed
image, and an image without regions. What it holds is written out in tests/test_store.py.
"""

import pathlib
import sys
import tempfile

import numpy as np

from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.golden.make_index_v1 import features_of


def regions_of(number):
    """Regions, as many as the number says, that tell which image they belong to."""
    return np.array([(number, n, number + 5, n + 6) for n in range(number)], int).reshape(-1, 4)


def add(writer, items, numbers):
    """Images n of code (n, 16 n), and of their regions (n + 1, 16 (n + 1)) and so on."""
    rows = [number + place for number in numbers for place in range(number + 1)]
    codes = np.array([(row, row << 4) for row in rows], np.uint8)
    writer.add(items, codes, features_of(rows), None, [regions_of(number) for number in numbers])


def make(folder):
    with tempfile.TemporaryDirectory() as bundle:
        encoder = pathlib.Path(bundle, "hashnet.json")
        encoder.write_text('{"num_bits": 12}\n')
        store = Store.create(
            folder,
            num_bits=12,
            feature_dim=3,
            feature_dtype="float16",
            fingerprint="golden",
            encoder_files={"hashnet.json": encoder},
            regions_per_image=4,
        )
    with store.writer() as writer:
        items = [
            Item("gone before the compaction"),
            Item("cat/1.jpg", "/images/cat/1.jpg", "cat", 1000, 1_600_000_000_000_000_001),
            Item("nothing to see", size=7, mtime_ns=8),
            Item("cat/2.jpg", "/images/cat/2.jpg", "cat", 2000, -5),
        ]
        add(writer, items, (3, 1, 0, 2))
        writer.remove(["gone before the compaction"])
        writer.compact()
        add(
            writer,
            [Item("cat/2.jpg", "/images/cat/2.jpg", "cat", 2001, 7), Item("removed")],
            (4, 1),
        )
        writer.remove(["removed"])


if __name__ == "__main__":
    make(sys.argv[1])
