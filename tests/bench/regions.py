"""Is a small object in a large scene found, and what does it cost?

    python -m tests.bench.regions DATA [--scenes 100]

DATA holds the folders clothing10, beer_labels and landmarks. Scenes are photos of landmarks into
each of which one small object is pasted; the queries are other views of the objects.
"""

import argparse
import json
import os
import pathlib
import tempfile
import time

import numpy as np
from scipy import ndimage

from hashnet import images
from hashnet.local import delf_head, regions
from hashnet.network import bundle as bundles
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from hashnet.train import unsupervised
from tests.bench import figures

KS = (1, 5, 10)
COUNTS = (4, 8)  # regions
POOL_SHARE = 0.1
GRID = 9


class Grid:
    """Squares, evenly spread, that touch or overlap as little as they can."""

    def propose(self, image, most):
        height, width = image.shape[:2]
        count = int(most**0.5)
        side = min(height, width, round(max(height, width) / count))
        tops = np.linspace(0, height - side, count).round().astype(int)
        lefts = np.linspace(0, width - side, count).round().astype(int)
        return np.array([(t, left, t + side, left + side) for t in tops for left in lefts])


ABOUT = {
    "question": "Is a small object in a large scene found, and what do regions cost?",
    "protocol": "clothing, beer: into each photo of landmarks (longer side up to 1024 "
    "pixels) one photo of a garment, or one beer label, is pasted, its longer side 10 to "
    "25 % of the scene's. Queries: the garment's photo cropped, turned and lit otherwise; "
    "another photo of the bottle or can. recall_at: the share of queries whose scene is "
    "among the first k images. landmarks: the photos as they are, each a query by id; "
    "recall_at: the share of queries with a photo of the same scene among the first k: "
    "what regions cost where the whole image is meant. recall_in_pool: the same with a "
    f"pool of a share of {POOL_SHARE} of the images, chosen by codes. Codes were fitted "
    "to the scenes, without labels. grid: even squares; activation_norm: windows of "
    "hashnet.local.regions by the length of the map's column; attention: by DELF's attention, "
    "which was trained on some of these backgrounds and, in part, on photos of the "
    "garments' set. true_box: the object itself, cut out exactly. Fewer regions are the first "
    "of more. The sizes of windows were chosen with scenes like these in view, by how well "
    "windows cover the objects. Times were taken while others used the same cores.",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--scenes", type=int, default=100, help="of each set (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows, costs = [], []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        proposers = make_proposers(scratch)
        for name, make in (("clothing", clothing), ("beer", beer), ("landmarks", landmarks)):
            world = make(options, scratch / name)
            bundle = scratch / f"{name}.bundle"
            unsupervised.fit_bundle(bundle, world.paths)
            kinds = proposers
            if name == "landmarks":
                kinds = {kind: proposers[kind] for kind in ("none", "attention")}
            for row, cost in world.play(bundle, kinds):
                rows.append({"set": name, **row})
                costs += [{"set": name, **cost}] if cost else []
                print(rows[-1], flush=True)
            # After each set: the sets take long.
            figures.write(
                "regions",
                {**ABOUT, "seed": options.seed, "scenes": options.scenes, "rows": rows}
                | {"costs": costs},
            )


def make_proposers(scratch):
    """By name: an object with `propose`, or None for no regions."""
    found = {"none": None, "grid": Grid()}
    preset = delf_head.Head.load("efficientnet_lite0")
    plain = delf_head.Head(preset.mean, preset.components)
    heads = {"activation_norm": plain, "attention": preset}
    for name, head in heads.items():
        regions.export(scratch / f"{name}.onnx", head=head)
        found[name] = regions.Proposer.open(scratch / f"{name}.onnx")
    return found


class World:
    """Scenes as files; queries as images or ids, and for each the ids that are right."""

    def __init__(self, paths, queries, right, boxes=None):
        self.paths, self.queries, self.right, self.boxes = paths, queries, right, boxes

    def play(self, bundle, proposers):
        """Yield (figures, what it cost or None) of each kind of proposals and number of them."""
        for name, proposer in proposers.items():
            counts = {"none": [0], "grid": [GRID]}.get(name, COUNTS)
            engine, cost = self._indexed(bundle, proposer, counts[-1])
            for count in counts[:-1]:
                yield self._row(name, count, self._fewer(bundle, engine, count), None)
            yield self._row(name, counts[-1], engine, cost)
        if self.boxes:
            known = _Known(self.paths, self.boxes)
            yield self._row("true_box", 1, self._indexed(bundle, known, 1)[0], None)

    def _row(self, name, count, engine, cost):
        row = {"proposals": name, "regions": count, **self._recalls(engine)}
        if cost:
            cost = {"proposals": name, "regions": count, **cost}
        return row, cost

    def _indexed(self, bundle, proposer, count):
        """An engine of the scenes with up to `count` regions each, and what that cost."""
        folder = tempfile.mkdtemp(dir=bundle.parent)
        index = _empty(folder, bundle, count)
        if proposer:
            index.proposer = proposer
        start = time.perf_counter()
        index.add(self.paths, ids=[os.fspath(path) for path in self.paths])
        seconds = time.perf_counter() - start
        held = sum(path.stat().st_size for path in pathlib.Path(folder, "segments").iterdir())
        info = index.info()
        return Engine(index), {
            "seconds_per_image": round(seconds / info["images"], 4),
            "bytes_per_image": round(held / info["images"]),
            "regions_per_image": round(info["regions"] / info["images"], 2),
        }

    def _fewer(self, bundle, engine, count):
        """An engine of the first regions of each image only."""
        snapshot, folder = engine.snapshot, tempfile.mkdtemp(dir=bundle.parent)
        index = _empty(folder, bundle, count)
        firsts = np.flatnonzero(snapshot.live_images)
        place = np.arange(snapshot.num_rows) - snapshot.owners
        kept = np.flatnonzero(place <= count)
        boxes = [
            [box for box in snapshot.regions(kept[snapshot.owners[kept] == first]) if box]
            for first in firsts
        ]
        boxes = [np.array(of_image, int).reshape(-1, 4) for of_image in boxes]
        items = [Item(item.id) for item in snapshot.items(firsts)]
        with index.store.writer() as writer:
            writer.add(items, snapshot.codes[kept], snapshot.features(kept), None, boxes)
        return Engine(index)

    def _recalls(self, engine):
        pool = max(*KS, round(POOL_SHARE * len(self.paths)))
        ranks, in_pool = (
            [
                self._rank(engine, *pair, options)
                for pair in zip(self.queries, self.right, strict=True)
            ]
            for options in ({}, {"pool": pool})
        )
        return {
            "queries": len(self.queries),
            "images": len(self.paths),
            "recall_at": {str(k): round(float(np.mean(np.array(ranks) < k)), 4) for k in KS},
            "recall_in_pool": {str(k): round(float(np.mean(np.array(in_pool) < k)), 4) for k in KS},
        }

    def _rank(self, engine, query, right, options):
        search = engine.search_id if isinstance(query, str) else engine.search
        hits = search(query, k=max(KS), **options).hits
        return next((n for n, hit in enumerate(hits) if hit.id in right), max(KS))


class _Known:
    """Proposes what is known of each image."""

    def __init__(self, paths, boxes):
        self._boxes = {
            images.read(path).tobytes(): box for path, box in zip(paths, boxes, strict=True)
        }

    def propose(self, image, most):
        return np.array([self._boxes[image.tobytes()]])


def _empty(folder, bundle_folder, count):
    """An index with regions, whose proposer is given to it."""
    bundle = bundles.load(bundle_folder)
    Store.create(
        folder,
        num_bits=bundle.config.num_bits,
        feature_dim=bundle.config.feature_dim,
        feature_dtype="float16",
        fingerprint=bundle.fingerprint,
        encoder_files=bundle.files(),
        regions_per_image=count,
    )
    return Index.open(folder)


# --- Scenes -----------------------------------------------------------------------------------


def clothing(options, folder):
    rng = np.random.default_rng(options.seed)
    photos = sorted((options.data / "clothing10/test").glob("*/*"))
    chosen = [photos[place] for place in rng.permutation(len(photos))]
    objects = (images.read(path) for path in chosen)
    return pasted(options, folder, rng, ((photo, otherwise(photo, rng)) for photo in objects))


def beer(options, folder):
    rng = np.random.default_rng(options.seed + 1)
    data = options.data / "beer_labels"
    truth = json.loads((data / "ground_truth.json").read_text())
    pairs = [(data / right[0], data / query) for query, right in sorted(truth.items())]
    pairs = [pairs[place] for place in rng.permutation(len(pairs))]
    return pasted(options, folder, rng, (tuple(map(images.read, pair)) for pair in pairs))


def landmarks(options, folder):
    folder.mkdir()
    data = options.data / "landmarks"
    truth = json.loads((data / "ground_truth.json").read_text())
    paths = _backgrounds(options)
    ids = {f"images/{path.name}": os.fspath(path) for path in paths}
    right = {
        ids[name]: {ids[one] for one in others if one in ids}
        for name, others in truth.items()
        if name in ids
    }
    asked = [name for name, others in right.items() if others]
    return World(paths, asked, [right[name] for name in asked])


def pasted(options, folder, rng, pairs):
    """A `World` of scenes with one object each, from pairs of an object and a query for it."""
    folder.mkdir()
    paths, queries, boxes = [], [], []
    for place, (path, (photo, query)) in enumerate(zip(_backgrounds(options), pairs, strict=False)):
        scene, box = paste(images.read(path), photo, rng)
        paths.append(folder / f"{place:04}.png")
        images.write(paths[-1], scene)
        queries.append(query)
        boxes.append(box)
    return World(paths, queries, [{os.fspath(path)} for path in paths], boxes)


def paste(scene, photo, rng):
    """The scene with the photo somewhere in it, and where: (top, left, bottom, right)."""
    scale = rng.uniform(0.1, 0.25) * max(scene.shape[:2]) / max(photo.shape[:2])
    photo = images.resize(photo, tuple(max(8, round(n * scale)) for n in photo.shape[:2]))
    height, width = photo.shape[:2]
    top, left = (
        rng.integers(0, n - m + 1) for n, m in zip(scene.shape[:2], (height, width), strict=True)
    )
    scene = scene.copy()
    scene[top : top + height, left : left + width] = photo
    return scene, (top, left, top + height, left + width)


def otherwise(photo, rng):
    """Another view: a part of the photo, turned and lit otherwise."""
    size = [int(length * rng.uniform(0.8, 0.95)) for length in photo.shape[:2]]
    top, left = (rng.integers(0, n - m + 1) for n, m in zip(photo.shape[:2], size, strict=True))
    view = photo[top : top + size[0], left : left + size[1]].astype(float)
    view = view * rng.uniform(0.75, 1.25) + rng.uniform(-15, 15)
    view = ndimage.rotate(view, rng.uniform(-12, 12), reshape=False, mode="nearest", order=1)
    return np.clip(view, 0, 255).astype(np.uint8)


def _backgrounds(options):
    paths = sorted((options.data / "landmarks/images").iterdir())
    order = np.random.default_rng(options.seed).permutation(len(paths))
    return [paths[place] for place in order[: options.scenes]]


if __name__ == "__main__":
    main()
