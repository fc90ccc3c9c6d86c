"""Flip single bits in the files of an index, and see that none changes an answer unnoticed.

    python -m tests.flips 4000

makes an index with all that one may hold, flips as many bits, one at a time, in whichever file, and
asks the same questions each time: each answer is as before, or an error. It prints how many bits
there were in each kind of file, and how many of them were an error.
"""

import collections
import contextlib
import json
import pathlib
import random
import sys
import tempfile

import numpy as np

from hashnet.errors import HashnetError
from hashnet.images import Exif
from hashnet.local import regions
from hashnet.local.codebook import Codebook
from hashnet.local.features import LocalFeatures
from hashnet.network import bundle as bundles
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.make_images import photo
from tests.scenes import BRIGHT

FEATURES_OF_IMAGE = 40
# What SQLite may leave beside a damaged catalogue.
STRAYS = ("catalogue.sqlite-wal", "catalogue.sqlite-shm", "catalogue.sqlite-journal")


def main(number, seed=0):
    """Flip bits and print what came of it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = make(pathlib.Path(scratch), pathlib.Path(__file__).parent / "golden/bundle_v1")
        print(json.dumps(flip(folder, int(number), int(seed)), indent=1))


def make(scratch, bundle_folder, num_images=60):
    """An index of two commits with local features, words, regions, dates and a deleted image."""
    folder, bundle = scratch / "index", bundles.load(bundle_folder)
    store = Store.create(
        folder,
        num_bits=32,
        feature_dim=64,
        feature_dtype="float16",
        fingerprint=bundle.fingerprint,
        encoder_files=bundle.files() | {regions.FILE: BRIGHT},
        extractor="sift",
        descriptor_dim=128,
        regions_per_image=1,
        exif=True,
    )
    encoder = Index.open(folder).encoder
    chance = np.random.default_rng(0)
    pictures = [photo(64, 64, seed) for seed in range(num_images)]
    encoded = encoder.encode(pictures)
    items = [
        Item(f"{place % 3}/{place}", label=f"label {place % 3}", exif=Exif(camera="camera"))
        for place in range(num_images)
    ]
    half = num_images // 2
    with store.writer() as writer:
        for part in (slice(0, half), slice(half, None)):
            writer.add(
                items[part],
                encoded.codes[part].repeat(2, axis=0),
                encoded.features[part].astype(np.float16).repeat(2, axis=0),
                [local_of(chance) for _ in items[part]],
                [np.array([[0, 0, 32, 32]])] * len(items[part]),
            )
        with store.snapshot() as snapshot:
            found = snapshot.local_features(snapshot.rows([item.id for item in items]))
        writer.set_codebook(Codebook.fit(np.concatenate([one.descriptors for one in found])))
        writer.remove([items[1].id])
    return folder


def local_of(chance):
    """Local features of one image, as SIFT's."""
    descriptors = chance.normal(size=(FEATURES_OF_IMAGE, 128)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    yx = chance.uniform(0, 64, (FEATURES_OF_IMAGE, 2)).astype(np.float32)
    return LocalFeatures(yx, descriptors, np.ones(FEATURES_OF_IMAGE, np.float32))


def answers(folder, encoder):
    """What an index says, through all of its files; of its networks too, where no encoder is given.

    Only the first few are asked for by name: what ranks below them must not matter either.
    """
    boxes = None
    if encoder is None:
        index = Index.open(folder, runtime="onnxruntime", num_threads=1)
        index.encoder.encode([photo(64, 64, 1)])
        boxes = index.proposer.propose(photo(64, 64, 1), 2).tolist()
    else:
        index = Index(Store.open(folder), encoder)
    engine = Engine(index, num_threads=1)
    with engine.snapshot as snapshot:
        local = snapshot.local_features(snapshot.rows(["0/0"]))[0]
        code, feature = index.encoder.encode_one(photo(64, 64, 5))
        told = [
            engine.search_encoded(code, feature, Query(k=4)),
            engine.search_encoded(code, feature, Query(k=2, pool=5, labels=["label 1"])),
            engine.search_encoded(code, feature, Query(k=2, verify=True), local=local),
            engine.search_encoded(code, feature, Query(k=2, same_object=True), local=local),
            engine.search_id("2/5", Query(k=3, under=["2"])),
        ]
        hits = [result.hits for result in told]
        return hits, boxes, [result.pool for result in told], snapshot.label_counts(), engine.grades


def flip(folder, number, seed):
    """Flip so many bits, one after another, and compare answers; dict of file to [bits, errors]."""
    chance, encoder = random.Random(seed), Index.open(folder, num_threads=1).encoder
    wanted = answers(folder, encoder), answers(folder, None)
    names = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size
    ]
    counts = collections.defaultdict(lambda: [0, 0])
    for _ in range(number):
        name = chance.choice(names)
        at, bit = chance.randrange((folder / name).stat().st_size), chance.randrange(8)
        before = (folder / name).read_bytes()
        changed = bytearray(before)
        changed[at] ^= 1 << bit
        (folder / name).write_bytes(changed)
        counts[name][0] += 1
        inside = name.startswith("encoder/")
        try:
            found = answers(folder, None if inside else encoder)
        except HashnetError:
            counts[name][1] += 1
        else:
            assert found == wanted[inside], f"bit {bit} of byte {at} of {name}: another answer"
        (folder / name).write_bytes(before)
        for stray in STRAYS:
            with contextlib.suppress(FileNotFoundError):
                (folder / stray).unlink()
    return dict(counts)


if __name__ == "__main__":
    main(*sys.argv[1:])
