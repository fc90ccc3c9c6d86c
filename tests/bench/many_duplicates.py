"""Are planted copies found among very many images, in what time and in what memory?

    python -m tests.bench.many_duplicates 1000000 WORK
    python -m tests.bench.many_duplicates 100000 WORK --pictures
    python -m tests.bench.many_duplicates 100000 WORK --chdb

No photo is encoded: features are drawn around centres, codes are learned from some of them (ITQ).
With `--pictures` each image has a file, a picture of its own; copies are edited as people do.
Without, no file is there, and features decide alone. The search is a process of its own, so that
its peak of memory is its own. WORK, on a disk with room, is filled and emptied.
"""

import argparse
import io
import itertools
import json
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from hashnet.retrieval.search.duplicates import find
from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.store.clickhouse import store as clickhouse
from hashnet.retrieval.store.folder import store
from hashnet.retrieval.store.items import Item
from hashnet.train import unsupervised_codes
from tests.bench import figures
from tests.bench.disk_search import anonymous_bytes

DIM, BITS = 1280, 128
CLUSTER, CHUNK = 60, 20_000
SIDE, WAVES = 64, 24  # of a picture: pixels, and frequencies along each side
EDITS = {
    "JPEG 30": lambda image: _compressed(image, 30),
    "half size": lambda image: image.resize((SIDE // 2, SIDE // 2), Image.Resampling.LANCZOS),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "bordered": lambda image: ImageOps.expand(image, 5, 255),
    "cut 5 %": lambda image: image.crop((3, 3, SIDE - 3, SIDE - 3)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--groups", type=int, help="of 2 to 5 copies; one in 50 images otherwise")
    parser.add_argument("--equal", type=int, default=1000, help="images of one more group")
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--chdb", action="store_true", help="in ClickHouse, not in a folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--step", choices=("fill", "search"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "fill":
        store_made(options)
    elif options.step == "search":
        print(json.dumps(measured(options)))
    else:
        report(options)


def report(options):
    """Fill an index and search it in processes of their own, and write what that took."""
    options.work.mkdir(parents=True)
    try:
        found = planted_and_measured(options)
    finally:
        shutil.rmtree(options.work)
    kind = ("_chdb" if options.chdb else "") + ("_pictures" if options.pictures else "")
    figures.write(f"many_duplicates{kind}_{options.rows}", found)


def planted_and_measured(options):
    """Fill an index and search it, and compare with what was planted."""
    began = time.perf_counter()
    step("fill")
    print(f"filled in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    found = json.loads(step("search"))
    group_of = planted(options)
    sizes = np.bincount(group_of)[1:]
    of_copies = "up to .2 apart, which decide alone"
    if options.pictures:
        of_copies = ".1 to .8 apart, and a JPEG of 64 x 64 pixels of each image, copies edited"
    report = {
        "question": "Are planted copies found among very many images, in what time and memory?",
        "protocol": f"Features of {DIM} numbers in clusters of {CLUSTER}, ITQ codes of "
        f"{BITS} bits; features of copies {of_copies}. Recall: of the planted copies, those that "
        "are in the group of the first. Precision: of the copies found, those that were planted "
        "with the image to keep. Memory: the most bytes that no file backs; mapped files, which "
        "the system takes back when it needs room, are counted apart.",
        "about": "with files" if options.pictures else "without files",
        "seed": 0,
        "kind": "chdb" if options.chdb else "folder",
        "rows": options.rows,
        "bits": BITS,
        "feature_dim": DIM,
        "threads": options.threads,
        "planted_groups": len(sizes),
        "planted_copies": int((sizes - 1).sum()),
        "largest_planted": int(sizes.max()),
        **compared(group_of, found.pop("groups")),
        **found,
    }
    print(json.dumps(report, indent=1), file=sys.stderr)
    return report


def step(name):
    """What a process of its own prints."""
    command = [sys.executable, "-m", "tests.bench.many_duplicates", *sys.argv[1:], "--step", name]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def planted(options):
    """int64 `(rows,)`: the planted group of each image, 0 for those that are copies of none."""
    rng = np.random.default_rng(0)
    count = options.rows // 50 if options.groups is None else options.groups
    sizes = [options.equal, *rng.integers(2, 6, count)]
    group_of = np.zeros(options.rows, np.int64)
    group_of[: sum(sizes)] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    return rng.permutation(group_of)


def store_made(options):
    """Write the index: the rows of the first group are equal, those of the others near."""
    group_of, rng = planted(options), np.random.default_rng(1)
    axes = rng.standard_normal((64, DIM), dtype=np.float32)
    centres = rng.standard_normal((max(1, options.rows // CLUSTER), 64), dtype=np.float32)

    def drawn(count):
        of = centres[rng.integers(0, len(centres), count)]
        points = of + 0.9 * rng.standard_normal((count, 64), dtype=np.float32)
        noise = rng.standard_normal((count, DIM), dtype=np.float32)
        features = np.maximum(points @ axes + noise, 0)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    original = np.unique(group_of, return_index=True)[1]
    weights = unsupervised_codes.itq(drawn(5000), BITS)
    firsts = drawn(int(group_of.max()) + 1)
    kinds = {"num_bits": BITS, "feature_dim": DIM, "fingerprint": "bench"}
    if options.chdb:
        index = clickhouse.Store.create(place(options), feature_dtype="float32", **kinds)
    else:
        index = store.Store.create(place(options), feature_dtype="float16", **kinds)
    with index.writer() as writer:
        for start in range(0, options.rows, CHUNK):
            groups = group_of[start : start + CHUNK]
            features = drawn(len(groups))
            copies = groups > 0
            near = firsts[groups[copies]] + moved(rng, groups[copies], options.pictures)
            features[copies] = near / np.linalg.norm(near, axis=1, keepdims=True)
            codes = np.packbits(weights.bits(features), axis=1)
            items = [
                item(options, row, group, row == original[group])
                for row, group in enumerate(groups.tolist(), start)
            ]
            writer.add(items, codes, features.astype(index.feature_dtype))


def moved(rng, groups, pictures):
    """What is added to features of copies: nothing to those that are equal."""
    least, most = (0.1, 0.8) if pictures else (0.02, 0.2)  # how far two such copies are apart
    added = rng.standard_normal((len(groups), DIM), dtype=np.float32)
    added *= rng.uniform(least, most, (len(groups), 1)).astype(np.float32) / np.sqrt(2 * DIM)
    added[groups == 1] = 0
    return added


def item(options, row, group, original):
    """An image, with its file where there are pictures."""
    name = f"{row:08}"
    path = options.work / "pictures" / name[:4] / f"{name}.jpg"
    if options.pictures:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(row, group, original))
    return Item(name, str(path))


def picture(row, group, original):
    """A JPEG file: of a planted group the same picture, edited unless it is the first."""
    rng = np.random.default_rng([group, 0 if group else row])
    places = (np.arange(SIDE) + 0.5) / SIDE
    waves = np.cos(np.pi * np.arange(WAVES)[:, None] * places)
    falling = 1 / (1 + np.add.outer(np.arange(WAVES), np.arange(WAVES)))
    seen = waves.T @ (rng.standard_normal((WAVES, WAVES)) * falling) @ waves
    image = Image.fromarray(np.clip(128 + 45 * seen / seen.std(), 0, 255).astype(np.uint8))
    if group > 1 and not original:
        image = list(EDITS.values())[row % len(EDITS)](image)
    return _compressed(image, 90, whole=False)


def _compressed(image, quality, *, whole=True):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream) if whole else stream.getvalue()


def place(options):
    return f"chdb:///{options.work.resolve()}/db/photos" if options.chdb else options.work / "index"


def measured(options):
    """Search, and say what was found, and what it took, stage by stage."""
    before = anonymous_bytes()
    index = (clickhouse if options.chdb else store).Store.open(place(options))
    with index.snapshot() as snapshot:
        finder = finder_of(snapshot, num_threads=options.threads)
        peaks, stages = Peaks(), Stages()
        with peaks:
            groups = [
                [int(image.id) for image in (group.keep, *group.copies)]
                for group in find(
                    snapshot, finder, BITS // 16, num_threads=options.threads, progress=stages
                )
            ]
        stages("", 0, 0)
    return {
        "groups": groups,
        "stages": stages.took,
        "memory_bytes_before": before,
        "memory_bytes": peaks.anonymous,
        "resident_bytes": peaks.resident,
    }


class Stages:
    """Wall and processor seconds of each stage, called as progress is; and of the rest."""

    def __init__(self):
        self.took = {}
        self._stage, self._began = None, None

    def __call__(self, stage, done, total):
        now = time.perf_counter(), time.process_time()
        if self._stage is not None:
            took = self.took.setdefault(self._stage, {"seconds": 0, "processor_seconds": 0})
            for name, start, end in zip(took, self._began, now, strict=True):
                took[name] += end - start
        self._stage, self._began = stage if done < total else "the rest", now
        if stage and done % (100 * 1024) == 0:
            print(stage, done, total, round(now[1]), file=sys.stderr, flush=True)


class Peaks:
    """The most memory of this process while it is entered."""

    def __enter__(self):
        self.anonymous, self.resident, self._ends = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._ends.wait(0.1):
            self.anonymous = max(self.anonymous, anonymous_bytes())

    def __exit__(self, *_):
        self._ends.set()
        self._thread.join()
        status = pathlib.Path("/proc/self/status").read_text()
        self.resident = int(status.split("VmHWM:")[1].split()[0]) * 1024


def compared(group_of, groups):
    """Recall and precision of the groups found, by places of images."""
    found = np.zeros(len(group_of), np.int64)
    for number, group in enumerate(groups, 1):
        found[group] = number
    planted_with, order = {}, np.argsort(group_of, kind="stable")
    for group, members in itertools.groupby(order[group_of[order] > 0].tolist(), group_of.item):
        planted_with[group] = list(members)
    right = sum(
        max(np.bincount(found[members])[1:].max(initial=1) - 1, 0)
        for members in planted_with.values()
    )
    wanted = sum(len(members) - 1 for members in planted_with.values())
    told = sum(len(group) - 1 for group in groups)
    wrong = sum((group_of[group[1:]] != group_of[group[0]]).sum() for group in groups)
    wrong += sum(len(group) - 1 for group in groups if not group_of[group[0]])
    return {
        "groups": len(groups),
        "copies": told,
        "largest": max(map(len, groups), default=0),
        "recall": right / wanted,
        "precision": 1 - wrong / told if told else 1.0,
    }


if __name__ == "__main__":
    sys.exit(main())
