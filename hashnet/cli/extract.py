"""hashnet extract: encode images into Parquet files."""

import argparse
from functools import partial

from hashnet.cli.options import (
    add_exclude,
    add_label_from,
    add_max_pixels,
    part_of_whole,
    positive_number,
)
from hashnet.cli.output import (
    DONE,
    SKIPPED_SOME,
    Progress,
    name_left_out,
    name_problems,
    say_passed_over,
)

EXAMPLE = "photos/ s3://bucket/photos more.txt OUT --bundle my.bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders of them, URIs, and .txt files that list these, one a line",
    )
    parser.add_argument("out", metavar="OUT", help="folder of the Parquet files")
    parser.add_argument(
        "--bundle",
        required=True,
        metavar="B",
        help="the network: a bundle, or an index that carries one (required)",
    )
    add_label_from(parser)
    add_exclude(parser)
    parser.add_argument(
        "--shard",
        type=part_of_whole,
        default=(1, 1),
        metavar="I/N",
        help="encode the I-th of N parts; N machines that see the same files encode all of them",
    )
    parser.add_argument(
        "--workers", type=positive_number, metavar="N", help="threads, or actors with --ray"
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="work on the Ray cluster at ADDRESS; without one, on a cluster started here",
    )
    add_max_pixels(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet.retrieval.extraction.extract import extract

    with Progress() as progress:
        report = extract(
            arguments.images,
            arguments.out,
            arguments.bundle,
            label_from_folder=arguments.label_from == "folder",
            exclude=arguments.exclude,
            default_excludes=not arguments.no_default_excludes,
            part=arguments.shard,
            workers=arguments.workers,
            ray=arguments.ray,
            progress=partial(progress, "encoding"),
        )
    name_problems(report.problems)
    name_left_out(report.left_out)
    say_passed_over(report.passed_over)
    print(f"{report.extracted} extracted, {report.kept} kept, {len(report.problems)} skipped")
    return SKIPPED_SOME if report.problems else DONE
