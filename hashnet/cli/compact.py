"""hashnet compact: give back the space of removed images."""

import argparse

from hashnet.cli.indexes import opened
from hashnet.cli.options import add_index
from hashnet.cli.output import DONE

EXAMPLE = "photos.index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet.retrieval.words import ways

    store = opened(arguments.index).store
    with store.writer() as writer:
        report = writer.compact()
        with store.snapshot() as snapshot:
            ways.settle(snapshot)
    gone = report.rows_before - report.rows_after - report.regions_gone
    regions = f" and {report.regions_gone} of their regions" if report.regions_gone else ""
    print(f"{gone} removed rows{regions} dropped, {report.bytes_freed} bytes freed")
    return DONE
