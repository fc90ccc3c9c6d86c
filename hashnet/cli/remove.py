"""hashnet remove: remove images from an index."""

import argparse
from typing import TYPE_CHECKING

from hashnet.cli.indexes import opened
from hashnet.cli.options import add_index
from hashnet.cli.output import DONE, FAILED, SKIPPED_SOME, count, name_problems, note
from hashnet.errors import ArgumentError
from hashnet.escapes import printable

if TYPE_CHECKING:
    from hashnet.retrieval.index import Index

EXAMPLE = "photos.index ~/Pictures/2019 '*.gif' --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    what = parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="ids of images, as list and search show them; folders, there or not, for all below "
        "them; or patterns, as in a .gitignore",
    )
    what.required = False  # as in index
    parser.add_argument(
        "--label", action="append", metavar="L", help="remove only images with this label"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the ids, and remove nothing")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet import images

    if not (arguments.images or arguments.label):
        raise ArgumentError(
            "What is removed is named.", "no images and no label", "Name ids, folders or patterns."
        )
    index = opened(arguments.index)
    chosen: dict[str, None] = {}
    problems = []
    if not arguments.images:
        chosen = dict.fromkeys(index.remove(labels=arguments.label, dry_run=True))
        if not chosen:
            label = ", ".join(arguments.label)
            problems.append(images.Problem(label, "no image of this label is in the index"))
    for name in arguments.images or ():
        named = _named(index, name, arguments.label)
        if not named:
            reason = "no image of this id, below this folder or of this pattern is in the index"
            problems.append(images.Problem(name, reason))
        chosen.update(dict.fromkeys(named))
    name_problems(problems)
    if arguments.dry_run:
        for id in chosen:
            print(printable(id))
        note(f"{count(len(chosen), 'image')} would be removed")
    else:
        print(f"{len(index.remove(list(chosen)))} removed")
    return DONE if not problems else SKIPPED_SOME if chosen else FAILED


def _named(index: "Index", name: str, labels: list[str] | None) -> list[str]:
    """Ids of what a name stands for: an image, a file, all below a folder, or a pattern."""
    [id] = index.engine.ids_of([name])
    if id in index:
        return index.remove(id, labels=labels, dry_run=True)
    if below := index.remove(folders=name, labels=labels, dry_run=True):
        return below
    if not any(sign in name for sign in "*?["):
        return []
    return index.remove(patterns=name, labels=labels, dry_run=True)
