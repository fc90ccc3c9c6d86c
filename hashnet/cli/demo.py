"""hashnet demo: the whole way on a bundled sample, in one command."""

import argparse
import json
import pathlib
import shutil
import sys

from hashnet.cli.output import DONE, Progress
from hashnet.errors import HashnetError
from hashnet.quiet import import_keras

EXAMPLE = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "--out", default="hashnet-demo", metavar="DIR", help="folder for the results (%(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    import numpy as np

    from hashnet import images, metrics
    from hashnet.images import sheets
    from hashnet.samples import fashion_mnist

    import_keras()
    from hashnet.retrieval.index import Index
    from hashnet.retrieval.search.engine import Engine
    from hashnet.train import data, supervised
    from hashnet.train.config import TrainConfig

    out = pathlib.Path(arguments.out)
    results_file = out / "results.json"
    if out.exists() and any(out.iterdir()) and not results_file.exists():
        raise HashnetError("The demo needs a folder of its own.", str(out), "Give another --out.")
    shutil.rmtree(out, ignore_errors=True)

    def say(text):
        print(text, file=sys.stderr, flush=True)

    say("1/5  writing 4,000 photos and 500 queries of the bundled sample of Fashion-MNIST")
    sample = fashion_mnist()
    photos, queries = (
        _write_photos(out / name, sample[f"{part}_images"], sample[f"{part}_labels"])
        for name, part in (("photos", "train"), ("queries", "test"))
    )
    say("2/5  training a hash layer of 48 bits on features of a pretrained network")
    settings = TrainConfig(num_bits=48, image_size=64, epochs=0)
    labelled = data.from_arrays(sample["train_images"], sample["train_labels"])
    trained = supervised.train(labelled, out / "bundle", settings, command="hashnet demo")
    say("3/5  indexing")
    index = Index.create(out / "index", out / "bundle")
    with Progress("encoding") as progress:
        index.update([out / "photos"], label_from_folder=True, progress=progress)
    say("4/5  searching")
    engine = Engine(index)
    answers = [engine.search(path) for path in queries]
    milliseconds = np.median([sum(filter(None, one.milliseconds.values())) for one in answers])
    truth = [path.parent.name for path in queries]
    say("5/5  evaluating")
    encoded = index.encoder.encode(queries)
    label_codes, names = engine.snapshot.labels()
    evaluation = metrics.evaluate_codes(
        encoded.codes,
        np.array(truth),
        engine.snapshot.codes,
        np.array(names)[label_codes],
        num_bits=settings.num_bits,
    )
    fine = np.mean(
        [
            [hit.label == label for hit in one.hits]
            for one, label in zip(answers, truth, strict=True)
        ]
    )
    picture = out / "results.png"
    shown = range(0, len(queries), len(queries) // 10)
    sheet = [(queries[row], answers[row].hits[:5]) for row in shown]
    images.write(picture, sheets.contact_sheet(sheet))
    results = {
        "database": len(photos),
        "queries": len(queries),
        "bits": settings.num_bits,
        "training_minutes": round(trained.minutes, 2),
        "map_all_tie_aware": round(evaluation.map_all.expected, 4),
        "precision_at_10_coarse_to_fine": round(float(fine), 4),
        "milliseconds_per_query_median": round(float(milliseconds), 2),
        "milliseconds_of_stages": answers[-1].milliseconds,
    }
    results_file.write_text(json.dumps(results, indent=1) + "\n")
    print(
        f"{results['queries']} queries against {results['database']} images, 48 bits, trained in "
        f"{trained.minutes * 60:.0f} seconds:\n"
        f"  mAP of the codes, whole database, tie-aware   {evaluation.map_all.expected:.3f}\n"
        f"  right class among 10 hits, coarse to fine     {fine:.3f}\n"
        f"  one query, from file to hits, median          {milliseconds:.1f} ms\n"
        f"  results as a picture                          {picture}\n\n"
        "Now your own photos, no labels needed:\n"
        "  hashnet index photos.index FOLDER\n"
        "  hashnet search photos.index PHOTO --picture hits.png\n"
        "(from a checkout: .venv/bin/hashnet)"
    )
    return DONE


def _write_photos(folder, pixels, labels):
    """Write grey images as class folders of PNG files; returns their paths."""
    from hashnet import images

    paths = []
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / label / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.to_png(image[..., None].repeat(3, axis=2)))
        paths.append(path)
    return paths
