"""hashnet duplicates: list pairs of near-identical images."""

import argparse
import json

from hashnet.cli.indexes import hint_at_numba, opened
from hashnet.cli.options import add_index, add_json, whole_number
from hashnet.cli.output import DONE, note, printable

EXAMPLE = "photos.index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    parser.add_argument(
        "--threshold",
        type=whole_number,
        metavar="T",
        help="pairs at a Hamming distance below T (one bit in sixteen)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet.retrieval.search import compiled

    index = opened(arguments.index)
    threshold = arguments.threshold
    if threshold is None:
        threshold = index.duplicates_threshold
    found = False
    for first, second in index.duplicates(threshold):
        found = True
        if arguments.json:
            pair = {
                "ids": [first.id, second.id],
                "paths": [first.path, second.path],
                "bits_apart": second.bits_apart,
                "distance": second.distance,
            }
            print(json.dumps(pair))
        else:
            print(
                f"{second.bits_apart:3} bits  {second.distance:7.4f}  "
                f"{printable(first.path or first.id)}  {printable(second.path or second.id)}"
            )
    if not found:
        note(f"no pairs at a Hamming distance below {threshold}")
    if compiled.is_missed() and not arguments.json:
        hint_at_numba(len(index))
    return DONE
