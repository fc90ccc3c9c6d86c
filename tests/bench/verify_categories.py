"""Does verification harm where categories are sought, and not one object?

    python -m tests.bench.verify_categories BUNDLE CLOTHING10 CIFAR10 [--queries 200]

CLOTHING10 and CIFAR10 each hold `train` and `test`, with a folder for each class. Of each, up to
so many images of `train` are indexed and of `test` asked for, evenly from the classes. The
first 100 of each answer are verified, by each kind of local features in turn, and mAP over all
images is compared with that before. About ten minutes on two cores.
"""

import argparse
import pathlib
import shutil
import tempfile

import numpy as np

from hashnet import images
from hashnet.local import extractors
from hashnet.retrieval.evaluation.evaluate import evaluate
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.query import Query
from tests.bench import figures

SEED = 0


def drawn(folder, count, into):
    """Copy `count` images, as evenly from the folders of `folder` as they allow; that folder."""
    rng = np.random.default_rng(SEED)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    shares = np.full(len(classes), count // len(classes))
    shares[: count % len(classes)] += 1
    for name, share in zip(classes, shares, strict=True):
        found = [item.path for item in images.find([str(name)])[0]]
        places = rng.permutation(len(found))[:share]
        (into / name.name).mkdir(parents=True)
        for place in sorted(places):
            shutil.copy(found[place], into / name.name)
    return into


def measured(local, bundle, database, queries, scratch):
    """Figures of the stages with one kind of local features."""
    index = Index.create(scratch / f"{local}.index", bundle, local=local)
    index.update([str(database)], label_from_folder=True)
    stages = evaluate(
        index,
        str(queries),
        verify_queries=10**6,
        num_threads=2,
        seed=SEED,
        query=Query(verify=True),
    ).stages
    before, after = (stages.figures[name]["map_all"] for name in ("coarse_to_fine", "verified"))
    return {**stages.to_dict(), "map_change": after / before - 1}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("sets", type=pathlib.Path, nargs="+", metavar="SET")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--local", nargs="+", default=extractors.NAMES)
    options = parser.parse_args()
    sets = {}
    for folder in options.sets:
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            database = drawn(folder / "train", options.images, scratch / "database")
            queries = drawn(folder / "test", options.queries, scratch / "queries")
            sets[folder.name] = {
                local: measured(local, options.bundle, database, queries, scratch)
                for local in options.local
            }
    figures.write(
        "verify_categories",
        {
            "question": "Does verification harm where categories are sought?",
            "protocol": f"Up to {options.images} training images and {options.queries} test images "
            "as queries, evenly from the classes as far as they go; relevant: same class; mAP "
            "over all images. The first 100 are verified; those that pass come first, by inliers.",
            "seed": SEED,
            "sets": sets,
        },
    )


if __name__ == "__main__":
    main()
