"""hashnet info: say what an index holds."""

import argparse
import json

from hashnet.cli.indexes import opened
from hashnet.cli.options import add_index, add_json
from hashnet.cli.output import DONE, printable

EXAMPLE = "photos.index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    info = opened(arguments.index).info()
    if arguments.json:
        print(json.dumps(info))
        return DONE
    labels = info.pop("labels")
    for name, value in info.items():
        print(f"{name:15} {printable(str(value))}")
    for label, count in sorted(labels.items()):
        print(f"  label {count:9}  {printable(label)}")
    return DONE
