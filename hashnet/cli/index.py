"""hashnet index: create or update an index."""

import argparse
import warnings
from typing import TYPE_CHECKING

from hashnet.cli.choices import BACKBONES, EXTRACTORS, PRECISIONS
from hashnet.cli.indexes import say_which
from hashnet.cli.options import (
    add_exclude,
    add_index,
    add_label_from,
    add_max_pixels,
    positive_number,
)
from hashnet.cli.output import (
    DONE,
    MOST_NAMED,
    SKIPPED_SOME,
    Progress,
    count,
    name_left_out,
    name_problems,
    note,
    printable,
    say_passed_over,
)
from hashnet.errors import SkippedWarning

if TYPE_CHECKING:
    from hashnet.retrieval.ingest import UpdateReport

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
        "--relabel",
        action="store_true",
        help="with --label-from, also where an image has the label of a folder further up",
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove the images below IMAGES whose files are gone or left out now; not those of a "
        "disk that is away, nor more than a tenth of the index",
    )
    # An option of its own: `--prune [all]` would take the IMAGES behind it for its value.
    parser.add_argument(
        "--prune=all",
        dest="prune",
        action="store_const",
        const="all",
        default=False,
        help="the same, however many they are",
    )
    parser.add_argument(
        "--rehash",
        action="store_true",
        help="read and encode all files again, also those of the same size and time as before",
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
    add_max_pixels(parser)


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
            relabel=arguments.relabel,
            prune=arguments.prune,
            rehash=arguments.rehash,
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
    _name_kept(report, arguments.prune)
    counts = f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged"
    if not arguments.from_parquet:
        counts += f", {len(report.removed)} removed, {len(report.problems)} skipped"
    print(counts)
    refused = arguments.prune and report.prunable
    return SKIPPED_SOME if report.problems or refused else DONE


def _name_kept(report: "UpdateReport", prune: object) -> None:
    """Say on stderr what stays in the index though its file was not found, and which labels do."""
    most = sorted(report.away, key=report.away.__getitem__, reverse=True)
    for folder in most[:MOST_NAMED]:
        number = count(report.away[folder], "image")
        note(
            f"away: {number} in {printable(folder)}, which is empty or cannot be reached; "
            f"they stay (hashnet remove drops a folder)"
        )
    if more := most[MOST_NAMED:]:
        number = count(sum(map(report.away.__getitem__, more)), "image")
        note(f"away: {number} in {count(len(more), 'more folder')}; they stay")
    if report.prunable:
        number = count(len(report.prunable), "image")
        way_out = "--prune removes them"
        if prune:
            way_out = "more than a tenth of the index; --prune=all removes them"
        note(f"kept: {number} whose files are gone or left out now; {way_out}")
    if report.labels_kept:
        number = count(report.labels_kept, "label")
        note(f"kept: {number} of earlier runs; --relabel takes those of the folder given now")
