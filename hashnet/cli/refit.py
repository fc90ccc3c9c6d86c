"""hashnet refit: fit the codes of an index again, to the images that it holds now."""

import argparse

from hashnet.cli.options import add_index
from hashnet.cli.output import DONE, Progress, count

EXAMPLE = "photos.index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the fit (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet import api

    with Progress() as progress:
        number = api.open(arguments.index, runtime="soonest").refit(
            seed=arguments.seed, progress=progress
        )
    print(f"codes fitted to {count(number, 'image')}")
    return DONE
