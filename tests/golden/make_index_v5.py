"""Made tests/golden/index_v5, once: an index of format version 5 that must open for ever.

Run it from the root of the repository with the code of that version, `python -m
tests.golden.make_index_v5 FOLDER`. The folder has seen a compaction, a root that moved, images that
became others, and a removed one. What it holds is written out in tests/test_store.py.
"""

import datetime
import pathlib
import sys
import tempfile

from hashnet.images import Exif
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.roots import Roots
from tests.golden.make_index_v4 import add

TAKEN = datetime.datetime(2026, 5, 1, 12, 30, 59)  # noqa: DTZ001


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
            exif=True,
        )
    with store.writer() as writer:
        writer.set_roots(Roots([("cats", "/images/cats"), ("dogs \udcff", "/images/dogs")]))
        cat = Item("cats/1.jpg", "/images/cats/1.jpg", "cat", 1000, 1_600_000_000_000_000_001)
        cat = cat._replace(ctime_ns=-5, inode=2**64 - 1, content=bytes(range(16)))
        cat = cat._replace(exif=Exif(TAKEN, -33.5, 151.25, "Canon EOS 5D"))
        items = [
            Item("gone before the compaction"),
            cat,
            Item("cats/own", "/elsewhere/own", exif=Exif(camera="Canon EOS 5D")),
            Item("nothing to see", size=7, mtime_ns=8),
        ]
        add(writer, items, [3, 1, 2, 0])
        writer.remove(["gone before the compaction"])
        writer.compact()
        add(writer, [Item("dogs \udcff/a/b.jpg", "/images/dogs/a/b.jpg", "dog", inode=3)], [4])
        writer.set_roots(writer.roots.moved("/images/cats", "/more/cats"))
        copy = cat._replace(id="cats/2.jpg", path="/more/cats/2.jpg", exif=Exif(TAKEN))
        writer.copy([copy], ["cats/1.jpg"])
        moved = Item("cats/3.jpg", "/more/cats/3.jpg", "", 0, 0, 0, 0)
        writer.copy([moved], ["cats/own"], ["cats/own"])


if __name__ == "__main__":
    make(sys.argv[1])
