"""hashnet aggregate: make one vector of the local features of each image of an index."""

import argparse

from hashnet.cli.options import add_index, add_max_pixels, positive_number
from hashnet.cli.output import DONE, SKIPPED_SOME, Progress, count, name_problems

EXAMPLE = "photos.index vectors.npy --by vlad"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    parser.add_argument(
        "out",
        metavar="OUT",
        help="a .npy file for the vectors, as index --from-vectors takes it; ids, labels, paths "
        "and the codebook come beside it",
    )
    parser.add_argument(
        "--by",
        choices=["bovw", "vlad", "fisher"],
        default="vlad",
        help="visual words counted, differences from them added up, or Fisher vectors of a "
        "mixture of Gaussians (%(default)s)",
    )
    parser.add_argument(
        "--words",
        type=positive_number,
        metavar="N",
        help="visual words, or Gaussians (1024, 16 and 16)",
    )
    parser.add_argument(
        "--codebook",
        metavar="FILE",
        help="use this codebook, which an earlier run has written, and fit none",
    )
    parser.add_argument(
        "--queries",
        nargs="+",
        metavar="PHOTOS",
        help="make vectors of these photos instead, by --codebook, to search with",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the fit (%(default)s)")
    add_max_pixels(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet import api
    from hashnet.aggregating import aggregate

    with Progress() as progress:
        number, problems = aggregate(
            api.open(arguments.index),
            arguments.out,
            arguments.by,
            num_words=arguments.words,
            codebook=arguments.codebook,
            queries=arguments.queries,
            seed=arguments.seed,
            progress=progress,
        )
    name_problems(problems)
    print(f"wrote {count(number, 'vector')} to {arguments.out}")
    return SKIPPED_SOME if problems else DONE
