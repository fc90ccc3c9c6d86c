"""What does it take to extract the local features of a photo?

    python -m tests.bench.extractors DATA [--local sift aliked disk xfeat] [--photos 20]

Photos of DATA/landmarks and DATA/beer_labels, by turns with each extractor in turn, on one thread:
processor time, which a busy machine leaves comparable, of the extraction alone.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np

from hashnet import images
from hashnet.local import extractors, learned
from hashnet.local.features import opencv
from tests.bench import figures, local


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument(
        "--local", nargs="+", default=["sift", *learned.NETWORKS], choices=extractors.NAMES
    )
    parser.add_argument("--photos", type=int, default=20)
    arguments = parser.parse_args()
    opencv().setNumThreads(1)
    paths = []
    for dataset in ("landmarks", "beer_labels"):
        folder = arguments.data / dataset
        _, queries, _ = local.queries_and_database(folder)
        chosen = np.linspace(0, len(queries) - 1, arguments.photos // 2).astype(int)
        paths += [folder / queries[place] for place in chosen]
    seconds = {name: [] for name in arguments.local}
    numbers = {name: [] for name in arguments.local}
    with tempfile.TemporaryDirectory() as scratch:
        opened = {}
        for name in arguments.local:
            opened[name] = local.opened(name, scratch)
            if name in learned.NETWORKS:
                file = pathlib.Path(scratch, learned.file_of(name))
                opened[name] = learned.Learned.open(name, file, num_threads=1)
        for path in paths:
            image = images.read(path)
            for name, extractor in opened.items():
                start = time.process_time()
                numbers[name].append(len(extractor.extract(image)))
                seconds[name].append(time.process_time() - start)
    rows = {
        name: {
            "processor_milliseconds": {
                "median": round(1000 * float(np.median(taken)), 1),
                "quartiles": [round(1000 * float(q), 1) for q in np.quantile(taken, [0.25, 0.75])],
            },
            "features_an_image": round(float(np.mean(numbers[name])), 1),
        }
        for name, taken in seconds.items()
    }
    figures.write("extractors", {"photos": len(paths), "side": learned.SIDE, "extractors": rows})


if __name__ == "__main__":
    main()
