"""Does what is written in a photo find its label, beside local features and with them?

    hashnet index beers.index DATA/db --ocr --local sift
    python -m tests.bench.written beers.index DATA

DATA is beer_labels of the shared data. Each photo of a bottle or can searches the labels, by what
was read in both, by local features, and by both. One answer is right.
"""

import argparse
import json
import pathlib
import statistics
import time

import hashnet
from hashnet import images
from hashnet.retrieval.search.query import Query
from tests.bench import figures

KINDS = {
    "written": Query(written=True),
    "verified": Query(verify=True),
    "both": Query(verify=True, written=True),
}
FIRST = 5


def ranks_of(index, folder, truth):
    """dict of kind to the rank of the right label of each photo, and processor seconds to read."""
    ranks, seconds = {name: [] for name in KINDS}, []
    for path, labels in sorted(truth.items()):
        image = images.read(folder / path)
        code, feature = index.encoder.encode_one(image)
        local = index.extractor.extract(image)
        start = time.thread_time()
        lines = [line.text for line in index.reader.read(image)]
        seconds.append(time.thread_time() - start)
        for name, query in KINDS.items():
            result = index.engine.search_encoded(code, feature, query, local=local, lines=lines)
            ids = [hit.id for hit in result]
            ranks[name].append(ids.index(labels[0]) + 1 if labels[0] in ids else len(index))
    return ranks, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index")
    parser.add_argument("data", type=pathlib.Path)
    arguments = parser.parse_args()
    truth = json.loads((arguments.data / "ground_truth.json").read_text(encoding="utf-8"))
    index = hashnet.open(arguments.index)
    ranks, seconds = ranks_of(index, arguments.data, truth)
    report = {
        "photos": len(truth),
        "labels": len(index),
        "seconds_to_read": round(statistics.median(seconds), 3),
        "kinds": {
            name: {
                "found_at_1": round(statistics.mean(rank == 1 for rank in found), 4),
                f"found_at_{FIRST}": round(statistics.mean(rank <= FIRST for rank in found), 4),
            }
            for name, found in ranks.items()
        },
    }
    print(json.dumps(report, indent=1))
    figures.write("written", report)


if __name__ == "__main__":
    main()
