"""What does a network serve for classes that its training never saw?

    python -m tests.bench.unseen NAME FOLDER SET=TRAIN:DATABASE:QUERIES:HELD_OUT ...

For each set networks are trained by one recipe on the images of TRAIN whose class is not HELD_OUT,
names with commas between or a JSON file whose `unseen` is a list: by all of it for LOSSES, and for
HEADS by its first phase, the embedding on F7 as it was pretrained. Queries are the images of
QUERIES of the classes held out; DATABASE is a folder of class folders or one of images that are
named after their class. With --catalogue the networks learn from the pictures of CATALOGUE, too,
but for those of HELD_OUT. Sets with the same TRAIN share their networks. Bundles go to FOLDER;
those that are there are not trained again. With --few, codes of the recipe's loss, embedding alone,
are also set beside codes fitted to so many photos of the database, where it holds no others.
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

DRAWS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result, after unseen_")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("sets", nargs="+", metavar="SET=TRAIN:DATABASE:QUERIES:HELD_OUT")
    parser.add_argument("--recipe", default="unseen")
    parser.add_argument("--catalogue", metavar="CATALOGUE")
    parser.add_argument("--losses", nargs="*", default=["supcon_softmax", "supcon", "softmax"])
    parser.add_argument("--heads", nargs="*", default=settings.METRIC_LOSSES)
    parser.add_argument("--few", nargs="*", type=int, default=[])
    options = parser.parse_args()
    recipe = settings.from_recipe(options.recipe)
    rows, few, heads = [], [], {}
    for one in options.sets:
        name, _, paths = one.partition("=")
        train, database, queries, held_out = paths.split(":")
        world = World(name, names_of(held_out), database, queries)
        folder = options.folder / "_".join(pathlib.Path(train).parts[-2:])
        before = Encoder(as_pretrained(folder, recipe))
        items, asked = world.encoded(before)
        rows += world.judged("pretrained", (items.features, asked.features), recipe.num_bits)
        for loss in options.losses:
            encoder = Encoder(trained(folder, options, train, world.held_out, loss))
            items_of, asked_of = world.encoded(encoder)
            rows += world.judged(
                loss,
                (items_of.features, asked_of.features),
                recipe.num_bits,
                codes=(items_of.codes, asked_of.codes),
                minutes=minutes_of(encoder.bundle.folder),
            )
        if train not in heads:
            learned = of_training(before, train, world.held_out, options.catalogue)
            heads[train] = {loss: of_head(*learned, recipe, loss) for loss in options.heads}
        for loss, (kernel, bias, weights, spent) in heads[train].items():
            features = [unit(one.features @ kernel + bias) for one in (items, asked)]
            codes = [np.packbits(weights.bits(one), axis=1) for one in features]
            rows += world.judged(
                f"{loss}, embedding alone", features, recipe.num_bits, codes=codes, minutes=spent
            )
            if loss == recipe.loss:
                few += world.of_few(features, weights, recipe.num_bits, options.few)
    figures.write(
        f"unseen_{options.name}",
        {
            "question": "What does a network serve for classes that its training never saw?",
            "protocol": f"Networks trained by the recipe `{options.recipe}`, {recipe.epochs} "
            f"epochs of phase 2, at {recipe.image_size} pixels, on the photos of other classes"
            f"{' and the pictures that a catalogue has of these' if options.catalogue else ''}, "
            "each by one loss; embedding alone: phase 1, F7 as it was pretrained; softmax: "
            "classification, of the same length. Queries: photos of the classes held out. "
            "Database: those of these classes alone, or of all. R@k: share of the queries with a "
            "relevant image among the first k; R-precision and MAP@R as Musgrave et al. 2020; mAP "
            "over the whole database; all tie-aware, by the Euclidean distance of features, but "
            f"for mAP of codes, of {recipe.num_bits} bits. Codes of training: fitted to the "
            "photos that the network learned from; ours: fitted without labels to the whole "
            "database, as `hashnet refit` does, and index for F7 as it is; ITQ: to the same. "
            "pretrained: F7 as it is. Minutes: of a processor, for training.",
            "settings": recipe.to_dict(),
            "rows": rows,
            "few": few,
        },
    )


class World:
    """A database, and queries of classes that were held out."""

    def __init__(self, name, held_out, database, queries):
        self.name, self.held_out = name, held_out
        self.items, asked = images_of(database), images_of(queries)
        self.asked = {path: label for path, label in asked.items() if label in held_out}

    def encoded(self, encoder):
        """What an encoder makes of the database and of the queries."""
        return [encoder.encode([str(path) for path in one]) for one in (self.items, self.asked)]

    def judged(self, network, features, num_bits, *, codes=None, minutes=0):
        """Rows of figures: against the classes held out alone, and against all."""
        labels, query_labels = (np.array([*one.values()]) for one in (self.items, self.asked))
        by_codes = {} if codes is None else {"of training": codes}
        fits = {"ours": unsupervised_codes.fit}
        if codes is None:
            fits["ITQ"] = unsupervised_codes.itq
        for name, fit in fits.items():
            weights = fit(features[0], num_bits)
            by_codes[name] = [np.packbits(weights.bits(one), axis=1) for one in features]
        unseen = np.isin(labels, self.held_out)
        for kind, kept in (("held out", unseen), ("all", np.ones(len(labels), bool))):
            if kind == "all" and unseen.all():
                continue
            by_feature = metrics.evaluate_features(
                features[1], query_labels, features[0][kept], labels[kept]
            )
            row = {
                "set": self.name,
                "database": kind,
                "images": int(kept.sum()),
                "queries": len(query_labels),
                "network": network,
                "found_at": by_feature.found_at,
                "r_precision": by_feature.r_precision,
                "map_at_r": by_feature.map_at_r,
                "map_features": by_feature.map_all.expected,
                "map_codes": {
                    name: metrics.evaluate_codes(
                        asked, query_labels, items[kept], labels[kept], num_bits=num_bits
                    ).map_all.expected
                    for name, (items, asked) in by_codes.items()
                },
                "processor_minutes": minutes,
            }
            print(row, flush=True)
            yield row

    def of_few(self, features, weights, num_bits, sizes):
        """mAP of codes where the database is a few photos: of training, and fitted to the few."""
        labels, query_labels = (np.array([*one.values()]) for one in (self.items, self.asked))
        for size in sizes:
            figures_of = {"of training": [], "ours": []}
            for seed in range(DRAWS):
                drawn = np.random.default_rng(seed).choice(len(labels), size, replace=False)
                fitted = unsupervised_codes.fit(features[0][drawn], num_bits)
                for name, one in zip(figures_of, (weights, fitted), strict=True):
                    items, asked = (
                        np.packbits(one.bits(rows), axis=1)
                        for rows in (features[0][drawn], features[1])
                    )
                    report = metrics.evaluate_codes(
                        asked, query_labels, items, labels[drawn], num_bits=num_bits
                    )
                    figures_of[name].append(report.map_all.expected)
            means = {name: float(np.mean(values)) for name, values in figures_of.items()}
            row = {"set": self.name, "images": size, "draws": DRAWS, "map_codes": means}
            print(row, flush=True)
            yield row


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


def as_pretrained(folder, recipe):
    """A bundle of the backbone before any training, its H blank."""
    config = pretrained.config_of(known(recipe.backbone), recipe.num_bits)
    content = onnx_graph.content(pretrained.write(config))
    beside = folder.with_name(f"{folder.name}_pretrained")
    return bundles.save_encoder(beside, content, config, origin={})


def trained(folder, options, train, held_out, loss):
    """A bundle that learned by one loss; processor minutes are noted beside it."""
    bundle = folder.with_name(f"{folder.name}_{loss}")
    if not (bundle / bundles.DESCRIPTION).is_file():
        began = time.process_time()
        training(
            train,
            bundle,
            catalogue=options.catalogue,
            recipe=options.recipe,
            loss=loss,
            held_out=tuple(held_out),
        )
        spent = round((time.process_time() - began) / 60, 1)
        bundle.with_suffix(".json").write_text(json.dumps({"minutes": spent}))
    return bundles.load(bundle)


def minutes_of(folder):
    """Processor minutes that a training took."""
    return json.loads(folder.with_suffix(".json").read_text())["minutes"]


def of_training(encoder, train, held_out, catalogue):
    """F7 of the images to learn from, their targets, and how many, the last, are a catalogue's."""
    photos = data.load(train).without(held_out)
    given = [photos]
    if catalogue:
        given.append(data.load_catalogue(catalogue).of(photos.classes))
    f7 = [encoder.encode(list(one.sources)).features for one in given]
    targets = np.concatenate([one.targets for one in given]).astype("float32")
    return np.concatenate(f7), targets, len(targets) - len(photos)


def of_head(f7, targets, catalogue, recipe, loss):
    """What phase 1 of a training makes of the embedding, H fitted to it, and processor minutes."""
    from hashnet.train import embedding, metric_losses, supervised
    from hashnet.train.batches import Batches

    began = time.process_time()
    learned_by = metric_losses.create(loss)
    head = embedding.make_head(f7.shape[1], recipe.embedding, targets.shape[1], learned_by)
    embedding.start(head, f7, targets)
    epochs = [
        Batches(
            f7,
            targets,
            recipe.batch,
            (recipe.seed, epoch),
            images_of_class=recipe.images_of_class,
            catalogue=catalogue,
        )
        for epoch in range(recipe.head_epochs)
    ]
    steps = sum(map(len, epochs))
    head.compile(supervised._optimizer(recipe, recipe.head_rate, steps))
    for batches in epochs:
        head.fit(batches, shuffle=False, verbose=0)
    kernel, bias = head.get_layer("embedding").get_weights()
    if recipe.components:
        kernel, bias = embedding.with_components(kernel, bias, f7, recipe.components)
    learned = unit(f7 @ kernel + bias)
    weights = unsupervised_codes.fit(learned, recipe.num_bits, seed=recipe.seed)
    return kernel, bias, weights, round((time.process_time() - began) / 60, 1)


def unit(rows):
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    sys.exit(main())
