"""Made tests/golden/index_v1, once: an index of format version 1 that must open for ever.

Run it from the root of the repository with the code of that version, `python -m
tests.golden.make_index_v1 FOLDER`; a new format version gets a folder and a script of its own.
The folder has seen two commits, a replaced row, a removed row and a compaction before the last
commit. What it holds is written out in tests/test_store.py.
"""

import pathlib
import sys
import tempfile

import numpy as np

from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item


def features_of(numbers):
    """A feature (n, 3) that tells which image it belongs to."""
    return np.array([[number, number / 4, -number] for number in numbers], np.float16)


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
            encoder_files={"hashnet.json": encoder, "weights/notes.txt": encoder},
        )
    with store.writer() as writer:
        items = [
            Item("cat/1.jpg", "/images/cat/1.jpg", "cat", 1000, 1_600_000_000_000_000_001),
            Item("cat/2.jpg", "/images/cat/2.jpg", "cat", 2000, -5),
            Item("gone before the compaction"),
            Item("odd \udcff\n\0 name", label="", size=0, mtime_ns=0),
        ]
        codes = np.array([[1, 0x10], [2, 0x20], [3, 0x30], [4, 0x40]], np.uint8)
        writer.add(items, codes, features_of([1, 2, 3, 4]))
        writer.remove(["gone before the compaction"])
        writer.compact()
        items = [
            Item("hund/å.jpg", "hund/å.jpg", "hund", 5, 6),
            Item("cat/2.jpg", "/images/cat/2.jpg", "cat", 2001, 7),
            Item("removed"),
            Item("bare"),
        ]
        codes = np.array([[5, 0x50], [6, 0x60], [7, 0x70], [8, 0x80]], np.uint8)
        writer.add(items, codes, features_of([5, 6, 7, 8]))
        writer.remove(["removed"])


if __name__ == "__main__":
    make(sys.argv[1])
