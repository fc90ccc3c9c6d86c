"""Made tests/golden/index_v6, once: an index of format version 6 that must open for ever.

Run it from the root of the repository with the code of that version, `python -m
tests.golden.make_index_v6 FOLDER`. It is that of version 5 with a local pool: the folder has seen
two codebooks, a compaction between them, and images that came, were copied and went after the
last. What it holds is written out in tests/test_store.py.
"""

import pathlib
import sys
import tempfile

import numpy as np

from hashnet.local.codebook import Codebook
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item, StoredFeatures

DIM = 4


def codebook_of(seed):
    rng = np.random.default_rng(seed)
    return Codebook.fit(rng.normal(size=(30, DIM)).astype(np.float16), seed=seed)


def local_of(number):
    """Local features of a golden image n: n of them."""
    places = np.arange(number, dtype=np.float32)
    descriptors = np.random.default_rng(number).normal(size=(number, DIM))
    return StoredFeatures(
        np.stack([number + places, np.full(number, 100.5)], axis=1).astype(np.float32),
        descriptors.astype(np.float16),
    )


def add(writer, items, numbers):
    codes = np.array([[number, number << 4 & 255] for number in numbers], np.uint8)
    features = np.array([[number, number / 4] for number in numbers], np.float16)
    writer.add(items, codes, features, list(map(local_of, numbers)))


def make(folder):
    with tempfile.TemporaryDirectory() as bundle:
        encoder = pathlib.Path(bundle, "hashnet.json")
        encoder.write_text('{"num_bits": 12}\n')
        store = Store.create(
            folder,
            num_bits=12,
            feature_dim=2,
            feature_dtype="float16",
            fingerprint="golden",
            encoder_files={"hashnet.json": encoder},
            extractor="sift",
            descriptor_dim=DIM,
        )
    with store.writer() as writer:
        add(writer, [Item("gone before the compaction"), Item("a", None, "cat")], [3, 9])
        writer.set_codebook(codebook_of(0))
        add(writer, [Item("b"), Item("nothing to see")], [20, 0])
        writer.remove(["gone before the compaction"])
        writer.compact()
        writer.set_codebook(codebook_of(1))
        add(writer, [Item("c"), Item("gone")], [7, 5])
        writer.copy([Item("d", label="dog")], ["b"])
        writer.remove(["gone"])


if __name__ == "__main__":
    make(sys.argv[1])
