"""hashnet check: verify every byte of an index."""

import argparse
import json

from hashnet.cli.indexes import refuse_url
from hashnet.cli.options import add_index, add_json
from hashnet.cli.output import DONE, FAILED
from hashnet.escapes import printable

EXAMPLE = "photos.index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet.retrieval.store.folder.check import check
    from hashnet.retrieval.store.folder.store import Store
    from hashnet.retrieval.words import learned, lookup

    refuse_url(arguments.index, "ClickHouse verifies its own blocks: CHECK TABLE does it.")

    problems = check(arguments.index)
    if not problems:
        with Store.open(arguments.index).snapshot() as snapshot:
            problems = [*lookup.check(snapshot), *learned.check(snapshot)]
    if arguments.json:
        print(json.dumps({"index": arguments.index, "problems": problems}))
    else:
        print("\n".join(map(printable, problems)) or "every byte is as it was written")
    return FAILED if problems else DONE
