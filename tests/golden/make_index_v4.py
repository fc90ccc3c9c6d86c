"""Made tests/golden/index_v4, once: an index of format version 4 that must open for ever.

Run it from the root of the repository with the code of that version, `python -m
tests.golden.make_index_v4 FOLDER`. The folder has seen a compaction, a replaced, an updated and a
removed image, and so many commits that some of its runs have been taken into others. What it
holds is written out in tests/test_store.py.
"""

import pathlib
import sys
import tempfile

import numpy as np

from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.golden.make_index_v1 import features_of
from tests.golden.make_index_v2 import local_of
from tests.golden.make_index_v3 import regions_of


def add(writer, items, numbers):
    """Images n of code (n, 16 n), n local features, and n regions of codes n + 1 and so on."""
    rows = [number + place for number in numbers for place in range(number + 1)]
    codes = np.array([(row, row << 4) for row in rows], np.uint8)
    local = [local_of(number) for number in numbers]
    regions = [regions_of(number) for number in numbers]
    writer.add(items, codes, features_of(rows), local, regions)


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
            regions_per_image=4,
        )
    with store.writer() as writer:
        items = [
            Item("gone before the compaction"),
            Item("/cat/1.jpg", "/images/cat/1.jpg", "cat", 1000, 1_600_000_000_000_000_001),
            Item("nothing to see", size=7, mtime_ns=8),
        ]
        add(writer, items, [3, 1, 0])
        writer.remove(["gone before the compaction"])
        writer.compact()
        for number in range(9):
            add(writer, [Item(f"/many/{number}", label="")], [number % 3])
        add(writer, [Item("/cat/2.jpg", None, "cat"), Item("/many/3", label="dog")], [2, 4])
        writer.update([Item("/many/1", label="odd \udcff")])
        writer.remove(["/many/0", "/many/8"])


if __name__ == "__main__":
    make(sys.argv[1])
