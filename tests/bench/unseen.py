"""What do networks serve that classes never seen were kept from, by the loss they learned by?

    python -m tests.bench.unseen FOLDER SET=TRAIN:DATABASE:QUERIES:HELD_OUT ... --losses ...

For each set a network is trained by each loss on the images of TRAIN whose class is not HELD_OUT,
a list of names or a JSON file whose `unseen` is one, all by one recipe; those by a loss of codes
take as many epochs. Queries are the images of QUERIES of the classes held out; DATABASE is a folder
of class folders or one of images named after their class. Bundles go to FOLDER, those that are
there are not trained again.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np

from hashnet import metrics
from hashnet import train as training
from hashnet.encode.encoder import Encoder
from hashnet.network import bundle as bundles
from hashnet.network import onnx_graph, pretrained
from hashnet.network.backbones import known
from hashnet.train import config as settings
from hashnet.train import data, unsupervised_codes
from tests.bench import figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("sets", nargs="+", metavar="SET=TRAIN:DATABASE:QUERIES:HELD_OUT")
    parser.add_argument("--recipe", default="unseen")
    parser.add_argument("--losses", nargs="+", default=[*settings.METRIC_LOSSES, "orthohash"])
    options = parser.parse_args()
    rows = []
    for one in options.sets:
        name, _, paths = one.partition("=")
        train, database, queries, held_out = paths.split(":")
        held_out = names_of(held_out)
        items, asked = images_of(database), images_of(queries)
        asked = {path: label for path, label in asked.items() if label in held_out}
        encoders = {"pretrained": as_pretrained(options, name)}
        for loss in options.losses:
            encoders[loss] = trained(options, name, train, held_out, loss)
        for network, encoder in encoders.items():
            rows += judged(name, network, encoder, items, asked, held_out)
    figures.write(
        "unseen",
        {
            "question": "What does a network serve for classes that its training never saw?",
            "protocol": "Networks trained by the recipe "
            f"{options.recipe} on the photos of the other classes, each by one loss; with a loss "
            "of codes (orthohash) F7 is the feature. Queries: photos of the classes held out. "
            "Database: photos of these alone, or of all classes. R@k: share of the queries with "
            "a relevant image among the first k; R-precision and MAP@R as Musgrave et al. 2020; "
            "all tie-aware, by the Euclidean distance of features. mAP of codes: tie-aware, over "
            "the whole database. pretrained: F7 as it is, codes fitted without labels to the "
            "database.",
            "settings": settings.from_recipe(options.recipe).to_dict(),
            "rows": rows,
        },
    )


def names_of(held_out):
    """Names in a JSON file, or with commas between."""
    if held_out.endswith(".json"):
        return json.loads(pathlib.Path(held_out).read_text(encoding="utf-8"))["unseen"]
    return held_out.split(",")


def images_of(folder):
    """dict of path to class: of class folders, or of images that are named after their class."""
    folder = pathlib.Path(folder)
    if any(path.is_dir() for path in folder.iterdir()):
        labelled = data.load(folder)
        return dict(zip(labelled.sources, labelled.labels.tolist(), strict=True))
    return {path: path.stem for path in sorted(folder.iterdir())}


def as_pretrained(options, name):
    """The backbone of the recipe before any training; its H is fitted later."""
    folder = options.folder / f"{name}_pretrained"
    config = pretrained.config_of(
        known("efficientnet_lite0"), settings.from_recipe(options.recipe).num_bits
    )
    network = pretrained.write(config)
    bundles.save_encoder(folder, onnx_graph.content(network), config, origin={})
    return Encoder(bundles.load(folder))


def trained(options, name, train, held_out, loss):
    """The network that learned by one loss, with the processor time that it took."""
    folder = options.folder / f"{name}_{loss}"
    if not (folder / bundles.DESCRIPTION).is_file():
        changes = {"loss": loss}
        if loss in settings.CODE_LOSSES:
            changes |= {"embedding": 0, "images_of_class": 0}
        values = {**settings.from_recipe(options.recipe).to_dict(), **changes}
        del values["held_out"]
        began = time.process_time()
        training(train, folder, held_out=tuple(held_out), command=f"{name} by {loss}", **values)
        spent = round((time.process_time() - began) / 60, 1)
        (options.folder / f"{name}_{loss}.json").write_text(json.dumps({"minutes": spent}))
    return Encoder(bundles.load(folder))


def judged(name, network, encoder, items, asked, held_out):
    """Rows of figures: against the classes held out alone, and against all."""
    spent = encoder.bundle.folder.with_suffix(".json")
    minutes = json.loads(spent.read_text())["minutes"] if spent.is_file() else 0
    found, queries = (encoder.encode([str(path) for path in one]) for one in (items, asked))
    labels, query_labels = (np.array([*one.values()]) for one in (items, asked))
    num_bits = encoder.config.num_bits
    codes = found.codes, queries.codes
    if network == "pretrained":
        weights = unsupervised_codes.fit(found.features, num_bits)
        codes = [np.packbits(weights.bits(one.features), axis=1) for one in (found, queries)]
    for kind in ("unseen", "all"):
        kept = np.isin(labels, held_out) if kind == "unseen" else np.ones(len(labels), bool)
        by_feature = metrics.evaluate_features(
            queries.features, query_labels, found.features[kept], labels[kept]
        )
        by_code = metrics.evaluate_codes(
            codes[1], query_labels, codes[0][kept], labels[kept], num_bits=num_bits
        )
        row = {
            "set": name,
            "database": kind,
            "network": network,
            "queries": len(asked),
            "images": int(kept.sum()),
            "found_at": by_feature.found_at,
            "r_precision": by_feature.r_precision,
            "map_at_r": by_feature.map_at_r,
            "map_features": by_feature.map_all.expected,
            "map_codes": by_code.map_all.expected,
            "processor_minutes": minutes,
        }
        print(row, flush=True)
        yield row


if __name__ == "__main__":
    sys.exit(main())
