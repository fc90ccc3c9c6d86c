"""Are the copies found that people make of photos, and no pictures of different things?

    pip install imagehash pdqhash && pip install --no-deps imagededup
    python -m tests.bench.duplicates DATA WORK [--photos 60]

WORK keeps the copies, and an index of them, for the next run.
"""

import argparse
import functools
import itertools
import pathlib
import sys
import tempfile
import time
from unittest import mock

import imagehash
import numpy as np
import pdqhash
import sklearn.metrics  # noqa: F401  it looks for PyTorch, and must see that there is none
from PIL import Image

import hashnet
from hashnet.images import likeness
from hashnet.retrieval.index import Index
from tests.bench import copies, figures

# imagededup imports these for its network, which is not measured.
UNUSED = ("torch", "torch.nn", "torch.utils", "torch.utils.data", "pywt", "torchvision")
UNUSED += ("torchvision.transforms", "torchvision.models", "torchvision.models.vision_transformer")
sys.modules.update((name, mock.MagicMock()) for name in UNUSED)
from imagededup.methods import DHash, PHash  # noqa: E402

for name in UNUSED:
    del sys.modules[name]

BITS_OF_PHASH = 10  # imagededup's default
BITS_OF_PDQ = 31  # what its authors advise
# What a person sees in the groups of clothing10 that are reported.
LOOKED_AT = "the same photo in two classes, and two photos of one dress, one of them cut"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--photos", type=int, default=60, help="of each set")
    options = parser.parse_args()
    chosen = copies.photos(options.data, options.photos)
    edited = options.work / "report"
    # Files are read once for all edits, as the peers' are hashed once.
    for name in ("sketch", "sharpness"):
        setattr(likeness, name, functools.cache(getattr(likeness, name)))
    copies.write(chosen, edited)
    known = indexed(options.work / "report.index", edited)
    methods = {
        "hashnet": lambda files: found_by_hashnet(known, files),
        "hashnet --turned": lambda files: found_by_hashnet(known, files, turned=True),
        "imagededup PHash": Dedup(PHash()),
        "imagededup DHash": Dedup(DHash()),
        "imagehash phash": Hashes(phash, BITS_OF_PHASH),
        "PDQ": Hashes(pdq, BITS_OF_PDQ),
    }
    rows = []
    for name, method in methods.items():
        for edit in copies.EDITS:
            row = {"method": name, "edit": edit, **measured(method, edited, edit)}
            print(row, flush=True)
            rows.append(row)
    clothing = different_things(options.data / "clothing10", options.work)
    print(clothing, flush=True)
    report = {
        "question": "Are the copies found that people make, and no pictures of different things?",
        "protocol": f"{len(chosen)} photos of four sets (landmarks, groceries, clothes, beer "
        "labels), and a copy of each by each of 26 edits. For each edit, the photos and their "
        "copies are searched for duplicates by themselves. Recall: copies found with their photo. "
        "Precision: of all pairs found, those of one photo. Thresholds of hashnet were chosen on "
        "160 other photos of these sets and their copies; one fault was seen on these and mended "
        "(like borders made two photos alike); peers have their own defaults "
        f"({BITS_OF_PHASH} of 64 bits for pHash and dHash, {BITS_OF_PDQ} of 256 for PDQ).",
        "photos": len(chosen),
        "rows": rows,
        "clothing10": clothing,
    }
    figures.write("duplicates", report)


def indexed(folder, edited):
    """Codes and features of all files, by path; encoded once."""
    index = hashnet.Index.of_photos(folder, edited)
    ids = list(index)
    return index, dict(zip(ids, zip(index.codes(), index.features(), strict=True), strict=True))


def measured(method, edited, edit):
    """Recall and precision among photos and their copies by one edit."""
    photos = sorted((edited / "original").iterdir())
    files = [str(path) for path in photos]
    files += [str(edited / edit / f"{path.stem}.jpg") for path in photos]
    pairs = {tuple(sorted(pair)) for pair in method(files)}
    names = [tuple(pathlib.Path(path).stem for path in pair) for pair in pairs]
    right = sum(one == other for one, other in names)
    wrong = sorted({"|".join(sorted(pair)) for pair in names if pair[0] != pair[1]})
    return {
        "recall": right / len(photos),
        "precision": right / len(pairs) if pairs else 1.0,
        "wrong_pairs": len(pairs) - right,
        "photos_confused": wrong[:20],
    }


def found_by_hashnet(known, files, **options):
    """Pairs of files that are in one group."""
    whole, encoded = known
    with tempfile.TemporaryDirectory() as folder:
        index = Index.create(pathlib.Path(folder) / "index", whole.store.folder)
        items = [whole[file] for file in files]
        codes = np.stack([encoded[file][0] for file in files])
        features = np.stack([encoded[file][1] for file in files]).astype(index.store.feature_dtype)
        with index.store.writer() as writer:
            writer.add(items, codes, features)
        for group in index.duplicates(**options):
            images = (group.keep, *group.copies)
            yield from itertools.combinations([image.path for image in images], 2)


class Dedup:
    """imagededup, with its own search at its default threshold."""

    def __init__(self, method):
        self._method, self._hashes = method, {}

    def __call__(self, files):
        for file in files:
            if file not in self._hashes:
                self._hashes[file] = self._method.encode_image(file)
        hashes = {file: self._hashes[file] for file in files}
        found = self._method.find_duplicates(
            encoding_map=hashes, num_enc_workers=0, num_dist_workers=0
        )
        return [(file, other) for file, others in found.items() for other in others]


class Hashes:
    """Hashes of bits, all compared with all."""

    def __init__(self, hash_of, bits):
        self._hash_of, self._bits, self._hashes = hash_of, bits, {}

    def __call__(self, files):
        for file in files:
            if file not in self._hashes:
                self._hashes[file] = self._hash_of(file)
        hashes = np.stack([self._hashes[file] for file in files])
        apart = (hashes[:, None] != hashes).sum(axis=2)
        ones, others = np.nonzero(np.triu(apart <= self._bits, 1))
        return [(files[one], files[other]) for one, other in zip(ones, others, strict=True)]


def phash(file):
    return imagehash.phash(Image.open(file)).hash.ravel()


def pdq(file):
    return pdqhash.compute(np.asarray(Image.open(file).convert("RGB")))[0].astype(bool)


def different_things(folder, work):
    """What is found among photos of different clothes."""
    index = hashnet.Index.of_photos(work / "clothing.index", folder)
    began = time.perf_counter()
    groups = list(index.duplicates())
    return {
        "looked_at": LOOKED_AT,
        "photos": len(index),
        "seconds": time.perf_counter() - began,
        "groups": [
            ["/".join(pathlib.Path(image.path).parts[-2:]) for image in (group.keep, *group.copies)]
            for group in groups
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
