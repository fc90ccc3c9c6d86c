"""hashnet remove: remove images from an index."""

import argparse

from hashnet.cli.indexes import opened
from hashnet.cli.options import add_index
from hashnet.cli.output import DONE, FAILED, SKIPPED_SOME, name_problems

EXAMPLE = "photos.index /home/me/cat.jpg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    parser.add_argument(
        "ids", nargs="+", metavar="ID", help="ids of images, as list and search show them"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet import images

    removed = opened(arguments.index).remove(arguments.ids)
    unknown = [id for id in arguments.ids if id not in set(removed)]
    name_problems([images.Problem(id, "no image of this id is in the index") for id in unknown])
    print(f"{len(removed)} removed")
    return DONE if not unknown else SKIPPED_SOME if removed else FAILED
