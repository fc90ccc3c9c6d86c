"""hashnet index: create or update an index."""

import argparse
import os
import tempfile

from hashnet.cli.choices import BACKBONES, EXTRACTORS, PRECISIONS
from hashnet.cli.indexes import opened
from hashnet.cli.options import add_index, add_label_from, positive_number
from hashnet.cli.output import DONE, SKIPPED_SOME, Progress, import_keras, name_problems
from hashnet.errors import ArgumentError, HashnetError

EXAMPLE = "photos.index ~/Pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    sources = parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="image files and folders of them"
    )
    # Not "*", which would take nothing where an option stands between INDEX and IMAGES.
    sources.required = False
    parser.add_argument(
        "--from-parquet", metavar="OUT", help="instead of IMAGES: what hashnet extract has made"
    )
    parser.add_argument(
        "--bundle",
        metavar="B",
        help="network of a new index; without it, one is fitted to the images, without labels",
    )
    parser.add_argument(
        "--bits", type=int, metavar="N", help="code length where no bundle is given"
    )
    parser.add_argument(
        "--backbone",
        choices=BACKBONES,
        metavar="NAME",
        help=f"pretrained network where no bundle is given, {', '.join(BACKBONES)} "
        "(efficientnet_lite0)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="that a new index encodes in, images and queries; all but float32 flip some bits, "
        "and info says how many (as the bundle says, or float32)",
    )
    add_label_from(parser)
    parser.add_argument(
        "--prune", action="store_true", help="drop images whose files have vanished from IMAGES"
    )
    parser.add_argument("--workers", type=positive_number, metavar="N", help="decoding threads")
    parser.add_argument(
        "--local",
        choices=EXTRACTORS,
        help="also keep local features in a new index, for search --verify",
    )
    parser.add_argument(
        "--regions",
        type=positive_number,
        metavar="N",
        help="also keep up to N parts of each image in a new index, to find small objects in it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet.retrieval.index import Index

    for option, own in (("bits", "code length"), ("backbone", "backbone")):
        if arguments.bundle and getattr(arguments, option):
            raise ArgumentError(f"A bundle has its own {own}.", f"--bundle and --{option}")
    if arguments.from_parquet:
        return _index_parquet(arguments)
    if not arguments.images:
        raise ArgumentError("An index is made of images.", "none", "Give IMAGES or --from-parquet.")
    if Index.is_there(arguments.index):
        index, known_features = Index.open(arguments.index), {}
        _refuse_another_network(index, arguments)
    else:
        index, known_features = _new_index(arguments)
    with Progress("encoding") as progress:
        report = index.update(
            arguments.images,
            label_from_folder=arguments.label_from == "folder",
            prune=arguments.prune,
            workers=arguments.workers,
            known_features=known_features,
            progress=progress,
        )
    name_problems(report.problems)
    print(
        f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged, "
        f"{len(report.removed)} removed, {len(report.problems)} skipped"
    )
    return SKIPPED_SOME if report.problems else DONE


def _index_parquet(arguments):
    from hashnet.errors import FingerprintError
    from hashnet.network import bundle
    from hashnet.retrieval.extraction.parquet import Extraction
    from hashnet.retrieval.index import Index

    taken = (
        "images",
        "bits",
        "backbone",
        "precision",
        "label_from",
        "prune",
        "workers",
        "local",
        "regions",
    )
    given = [name for name in taken if getattr(arguments, name)]
    if given:
        raise ArgumentError(
            "Parquet files hold codes, features and labels, and nothing else.",
            f"--from-parquet and {', '.join(given)}",
        )
    # Seen before there is an index, which would have to stay empty.
    extraction = Extraction.open(arguments.from_parquet)
    total = extraction.num_images
    if arguments.bundle:
        fingerprint = bundle.load(arguments.bundle).fingerprint
        if fingerprint != extraction.bundle.fingerprint:
            raise FingerprintError(
                "Codes are searched with the network that made them.",
                f"{arguments.bundle} ({fingerprint[:12]}) for {extraction.bundle.fingerprint[:12]}",
                "Leave --bundle out: the Parquet files carry theirs.",
            )
    if Index.is_there(arguments.index):
        index = opened(arguments.index)
    else:
        index = Index.create(
            arguments.index,
            extraction.bundle.folder,
            # Else what such an index stores by itself, which holds float16 exactly.
            feature_dtype="float32" if extraction.feature_dtype == "float32" else None,
            runtime="soonest",
        )
    with Progress("loading") as progress:
        progress(0, total)
        report = index.add_parquet(arguments.from_parquet, progress=progress)
    print(f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged")
    return DONE


def _new_index(arguments):
    """An empty index, and the features that are known from fitting its network."""
    from hashnet import images

    if arguments.bundle:
        return _created(arguments, arguments.bundle), {}
    found, problems = images.find(arguments.images)
    if not found:
        name_problems(problems)
        raise HashnetError(
            "A new index needs at least one image.", f"none in {' '.join(arguments.images)}"
        )
    import_keras()
    from hashnet.train import unsupervised

    asked = {"num_bits": arguments.bits, "backbone": arguments.backbone}
    with tempfile.TemporaryDirectory(prefix="hashnet-") as scratch:
        with Progress("fitting codes") as progress:
            fitted = unsupervised.fit_bundle(
                scratch,
                [file.path for file in found],
                **{name: value for name, value in asked.items() if value is not None},
                origin={"command": "hashnet index"},
                progress=progress,
            )
        index = _created(arguments, scratch)
    if index.encoder.precision != "float32":
        return index, {}  # the features are float32's
    read = [found[position] for position in fitted.positions]
    versions = [(os.path.abspath(file.path), file.size, file.mtime_ns) for file in read]
    return index, dict(zip(versions, fitted.features, strict=True))


def _created(arguments, bundle_folder):
    """A new index in the precision that is asked for, and no trace of it where that fails."""
    from hashnet.encode import precision
    from hashnet.network import bundle
    from hashnet.retrieval.index import Index

    source = bundle.load(bundle_folder)
    kept = {"local": arguments.local, "regions": arguments.regions or 0}
    if arguments.precision in (None, source.precision):
        return Index.create(arguments.index, bundle_folder, **kept)
    with tempfile.TemporaryDirectory(prefix="hashnet-") as scratch:
        converted = precision.convert(
            source, scratch, arguments.precision, images_from=arguments.images
        )
        return Index.create(arguments.index, converted.folder, **kept)


def _refuse_another_network(index, arguments):
    from hashnet.errors import FingerprintError
    from hashnet.network import bundle

    way_out = "Leave the option out to add to this index, or make another index."
    store, config = index.store, index.encoder.config
    for option, kept, what, shown in (
        ("bits", config.num_bits, "code length", f"{config.num_bits} bits"),
        ("backbone", config.backbone, "backbone", config.backbone),
        ("local", store.extractor, "local features", store.extractor or "an index without any"),
        (
            "regions",
            store.regions_per_image,
            "number of regions",
            store.regions_per_image or "none",
        ),
        ("precision", index.encoder.precision, "precision", index.encoder.precision),
    ):
        given = getattr(arguments, option)
        if given not in (None, kept):
            raise FingerprintError(
                f"An index keeps its {what}.", f"--{option} {given} for {shown}", way_out
            )
    if arguments.bundle:
        fingerprint = bundle.load(arguments.bundle).fingerprint
        if fingerprint != index.encoder.fingerprint:
            raise FingerprintError(
                "An index keeps its network.",
                f"{arguments.bundle} ({fingerprint[:12]}) for {index.encoder.fingerprint[:12]}",
                way_out,
            )
