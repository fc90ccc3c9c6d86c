"""Made tests/golden/index_v7, once: an index of format version 7 that must open for ever.

Run it from the root of the repository with the code of that version, `python -m
tests.golden.make_index_v7 FOLDER`. It keeps texts of its images, which have regions, and has seen
a compaction. What it holds is written out in tests/test_store.py.
"""

import pathlib
import sys
import tempfile

import numpy as np

from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.texts import Line, Texts

LINES = (Line("PALE ÄLE", (1, 2, 30, 400), 0.875), Line("odd \udcff", (0, 0, 1, 1), 0.0))
ALL = Texts("Rex,\nour dog", "beside 狗", "inside", LINES)


def add(writer, items, numbers):
    rows = [number + place for number in numbers for place in range(number + 1)]
    writer.add(
        items,
        np.array([[row, row << 4 & 255] for row in rows], np.uint8),
        np.array([[row, row / 4] for row in rows], np.float16),
        None,
        [
            np.array([(n, place, n + 5, place + 6) for place in range(n)], "i4").reshape(-1, 4)
            for n in numbers
        ],
    )


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
            regions_per_image=4,
            ocr="golden-reader",
        )
    with store.writer() as writer:
        add(writer, [Item("gone before the compaction", texts=ALL), Item("a", texts=ALL)], [3, 2])
        writer.remove(["gone before the compaction"])
        writer.compact()
        add(writer, [Item("b"), Item("c", label="cat", texts=Texts(lines=()))], [0, 1])
        add(writer, [Item("gone", texts=Texts("gone"))], [1])
        writer.copy([Item("d", texts=Texts("a copy"))], ["a"])
        writer.update([Item("b", texts=Texts(inside="later"))])
        writer.remove(["gone"])


if __name__ == "__main__":
    make(sys.argv[1])
