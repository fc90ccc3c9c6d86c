"""Made tests/golden/index_v2, once: an index of format version 2 that must open for ever.

Run it from the root of the repository with the code of that version, `python -m
tests.golden.make_index_v2 FOLDER`. The folder has seen a compaction, a replaced row, a removed
row, and an image without local features. What it holds is written out in tests/test_store.py.
"""

import pathlib
import sys
import tempfile

import numpy as np

from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item, StoredFeatures
from tests.golden.make_index_v1 import features_of


def local_of(number):
    """Local features, as many as the number says, that tell which image they belong to."""
    yx = np.array([[number + place, 100.5] for place in range(number)], np.float32).reshape(-1, 2)
    return StoredFeatures(yx, np.array([[0.5, -0.5, 0.5, 0.5]] * number, "f2").reshape(-1, 4))


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
            extractor="sift",
            descriptor_dim=4,
        )
    with store.writer() as writer:
        items = [
            Item("gone before the compaction"),
            Item("cat/1.jpg", "/images/cat/1.jpg", "cat", 1000, 1_600_000_000_000_000_001),
            Item("nothing to see", size=7, mtime_ns=8),
            Item("cat/2.jpg", "/images/cat/2.jpg", "cat", 2000, -5),
        ]
        codes = np.array([[9, 0x90], [1, 0x10], [0, 0], [2, 0x20]], np.uint8)
        local = [local_of(number) for number in (9, 1, 0, 2)]
        writer.add(items, codes, features_of([9, 1, 0, 2]), local)
        writer.remove(["gone before the compaction"])
        writer.compact()
        items = [
            Item("cat/2.jpg", "/images/cat/2.jpg", "cat", 2001, 7),
            Item("removed"),
        ]
        codes = np.array([[3, 0x30], [4, 0x40]], np.uint8)
        writer.add(items, codes, features_of([3, 4]), [local_of(3), local_of(4)])
        writer.remove(["removed"])


if __name__ == "__main__":
    make(sys.argv[1])
