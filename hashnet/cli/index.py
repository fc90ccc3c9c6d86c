"""hashnet index: create or update an index."""

import argparse
import warnings

from hashnet.cli.choices import BACKBONES, EXTRACTORS, PRECISIONS
from hashnet.cli.indexes import say_which
from hashnet.cli.options import add_exclude, add_index, add_label_from, positive_number
from hashnet.cli.output import (
    DONE,
    SKIPPED_SOME,
    Progress,
    name_left_out,
    name_problems,
    say_passed_over,
)
from hashnet.errors import SkippedWarning

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
        "--from-parquet",
        metavar="OUT",
        help="add what hashnet extract has written to OUT, instead of IMAGES",
    )
    parser.add_argument(
        "--bundle",
        metavar="B",
        help="network of a new index: a bundle, or another index, with which search --also then "
        "goes; without it, one is fitted to the images, without labels",
    )
    parser.add_argument(
        "--bits", type=int, metavar="N", help="code length where no bundle is given"
    )
    parser.add_argument(
        "--backbone",
        choices=BACKBONES,
        metavar="NAME",
        help=f"pretrained network where no bundle is given: {', '.join(BACKBONES)} "
        "(efficientnet_lite0)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="in which a new index encodes images and queries; any but float32 flips some "
        "bits, and info says how many (as the bundle says, or float32)",
    )
    add_label_from(parser)
    parser.add_argument(
        "--prune", action="store_true", help="remove the images below IMAGES whose files are gone"
    )
    add_exclude(parser)
    parser.add_argument(
        "--workers", type=positive_number, metavar="N", help="threads that decode images"
    )
    parser.add_argument(
        "--local",
        choices=EXTRACTORS,
        help="also store local features in a new index, for search --verify",
    )
    parser.add_argument(
        "--regions",
        type=positive_number,
        metavar="N",
        help="also store up to N regions of each image in a new index, to find small objects",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet.api import Index

    with Progress() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedWarning)  # they are all named below
        index = Index.of_photos(
            arguments.index,
            arguments.images or (),
            bundle=arguments.bundle,
            bits=arguments.bits,
            backbone=arguments.backbone,
            precision=arguments.precision,
            label_from_folder=arguments.label_from == "folder",
            prune=arguments.prune,
            exclude=arguments.exclude,
            default_excludes=not arguments.no_default_excludes,
            workers=arguments.workers,
            local=arguments.local,
            regions=arguments.regions,
            from_parquet=arguments.from_parquet,
            # Nothing of Parquet files is encoded: then the runtime that opens fastest will do.
            runtime="soonest" if arguments.from_parquet else "auto",
            progress=progress,
        )
    say_which(index)
    report = index.report
    assert report is not None  # `of_photos` has just made it
    name_problems(report.problems)
    name_left_out(report.left_out)
    say_passed_over(report.passed_over)
    counts = f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged"
    if not arguments.from_parquet:
        counts += f", {len(report.removed)} removed, {len(report.problems)} skipped"
    print(counts)
    return SKIPPED_SOME if report.problems else DONE
