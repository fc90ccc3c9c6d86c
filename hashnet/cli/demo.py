"""hashnet demo: the whole way on a bundled sample, in one command."""

import argparse
import json
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hashnet.cli.output import DONE, Progress, note, quiet
from hashnet.errors import HashnetError
from hashnet.quiet import import_keras

if TYPE_CHECKING:
    import numpy as np

    from hashnet.retrieval.search.engine import Engine
    from hashnet.retrieval.search.hits import SearchResult
    from hashnet.train.supervised import Trained

EXAMPLE = ""
BITS = 48
RESULTS = "results.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "--out", default="hashnet-demo", metavar="DIR", help="folder for the results (%(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet import extras, images
    from hashnet.images import sheets
    from hashnet.samples import fashion_mnist

    if not extras.is_installed("keras"):  # better now than when the photos have been written
        raise extras.missing("train", "The demo trains a network.", "no Keras")
    out = _emptied(pathlib.Path(arguments.out))
    note("1/5  writing 4,000 photos and 500 queries of the bundled sample of Fashion-MNIST")
    sample = fashion_mnist()
    photos, queries = (
        _write_photos(out / name, sample[f"{part}_images"], sample[f"{part}_labels"])
        for name, part in (("photos", "train"), ("queries", "test"))
    )
    note(f"2/5  training a hash layer of {BITS} bits on features of a pretrained network")
    trained = _trained(out / "bundle", sample)
    note("3/5  indexing")
    engine = _indexed(out)
    note("4/5  searching")
    answers = [engine.search(path) for path in queries]
    note("5/5  evaluating")
    results = {
        "database": len(photos),
        "queries": len(queries),
        "bits": BITS,
        "training_minutes": round(trained.minutes, 2),
        **_measured(engine, queries, answers),
    }
    picture = out / "results.png"
    shown = range(0, len(queries), len(queries) // 10)
    sheet = [(queries[row], answers[row].hits[:5]) for row in shown]
    images.write(picture, sheets.contact_sheet(sheet))
    (out / RESULTS).write_text(json.dumps(results, indent=1) + "\n")
    print(
        f"{results['queries']} queries against {results['database']} images, {BITS} bits, trained "
        f"in {trained.minutes * 60:.0f} seconds:\n"
        f"  mAP of the codes, whole database, tie-aware   {results['map_all_tie_aware']:.3f}\n"
        "  right class among 10 hits, coarse to fine     "
        f"{results['precision_at_10_coarse_to_fine']:.3f}\n"
        "  one query, from file to hits, median          "
        f"{results['milliseconds_per_query_median']:.1f} ms\n"
        f"  results as a picture                          {picture}\n\n"
        "Now your own photos, no labels needed:\n"
        "  hashnet index photos.index FOLDER\n"
        "  hashnet search photos.index PHOTO --picture hits.png\n"
        "(from a checkout: .venv/bin/hashnet)"
    )
    return DONE


def _emptied(out: pathlib.Path) -> pathlib.Path:
    """The folder of the demo, without what an earlier one has left there."""
    if out.exists() and any(out.iterdir()) and not (out / RESULTS).exists():
        raise HashnetError("The demo needs a folder of its own.", str(out), "Give another --out.")
    shutil.rmtree(out, ignore_errors=True)
    return out


def _trained(bundle: pathlib.Path, sample: Mapping[str, Any]) -> "Trained":
    import_keras()
    from hashnet.train import data, supervised
    from hashnet.train.config import TrainConfig

    settings = TrainConfig(num_bits=BITS, image_size=80, head_epochs=30, epochs=0)
    labelled = data.from_arrays(sample["train_images"], sample["train_labels"])
    return supervised.train(labelled, bundle, settings, command="hashnet demo", verbose=not quiet())


def _indexed(out: pathlib.Path) -> "Engine":
    from hashnet.retrieval.index import Index
    from hashnet.retrieval.search.engine import Engine

    index = Index.create(out / "index", out / "bundle")
    with Progress() as progress:
        index.update(
            [out / "photos"], label_from_folder=True, progress=partial(progress, "encoding")
        )
    return Engine(index)


def _measured(
    engine: "Engine", queries: Sequence[pathlib.Path], answers: "Sequence[SearchResult]"
) -> dict[str, Any]:
    """What `results.json` says of codes, hits and times."""
    import numpy as np

    from hashnet import metrics

    truth = [path.parent.name for path in queries]
    label_codes, names = engine.snapshot.labels()
    evaluation = metrics.evaluate_codes(
        engine.index.encoder.encode(queries).codes,
        np.array(truth),
        engine.snapshot.codes[:],
        np.array(names)[label_codes],
        num_bits=BITS,
    )
    fine = np.mean(
        [
            [hit.label == label for hit in one.hits]
            for one, label in zip(answers, truth, strict=True)
        ]
    )
    milliseconds = [sum(filter(None, one.milliseconds.values())) for one in answers]
    return {
        "map_all_tie_aware": round(float(evaluation.map_all.expected), 4),
        "precision_at_10_coarse_to_fine": round(float(fine), 4),
        "milliseconds_per_query_median": round(float(np.median(milliseconds)), 2),
        "milliseconds_of_stages": answers[-1].milliseconds,
    }


def _write_photos(
    folder: pathlib.Path, pixels: "np.ndarray", labels: Iterable[str]
) -> list[pathlib.Path]:
    """Write grey images as class folders of PNG files; returns their paths."""
    from hashnet import images

    paths = []
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / label / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.to_png(image[..., None].repeat(3, axis=2)))
        paths.append(path)
    return paths
