"""hashnet duplicates: find copies, say which to keep, and put the others away."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hashnet.cli.indexes import hint_at_numba, opened
from hashnet.cli.options import add_index, whole_number
from hashnet.cli.output import DONE, SKIPPED_SOME, Progress, note
from hashnet.errors import ArgumentError
from hashnet.escapes import printable

if TYPE_CHECKING:
    from hashnet.retrieval.search.duplicates import Copy, DuplicateGroup
    from hashnet.retrieval.search.hits import Hit
    from hashnet.retrieval.tidying import Step

EXAMPLE = "photos.index"
NAMED = 3  # copies that a line names; the others are counted
DRAWN, DRAWN_COPIES = 100, 11  # groups of a picture, and copies of each
COLUMNS = (
    "group",
    "keep",
    "id",
    "path",
    "height",
    "width",
    "bytes",
    "bits_apart",
    "distance",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    parser.add_argument(
        "--threshold",
        type=whole_number,
        metavar="T",
        help="look at pairs at a Hamming distance below T (one bit in sixteen), besides those that "
        "their pixels tell",
    )
    parser.add_argument(
        "--turned",
        action="store_true",
        help="also find copies that lie on a side, on their head, or are mirrored: 16 comparisons "
        "of all pictures with all instead of 9",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json",
        action="store_true",
        help="print a line of JSON for each copy, with the one to keep",
    )
    form.add_argument("--csv", action="store_true", help="print a line of CSV for each image")
    parser.add_argument(
        "--picture",
        metavar="PNG",
        help=f"also draw the first {DRAWN} groups into this file, the image to keep first",
    )
    act = parser.add_mutually_exclusive_group()
    act.add_argument(
        "--move-to",
        metavar="DIR",
        help="say which files would move into DIR, all but the one to keep; with --really, move",
    )
    act.add_argument(
        "--hardlink",
        action="store_true",
        help="say which files of equal bytes would become hard links to the one to keep; with "
        "--really, link",
    )
    parser.add_argument(
        "--really", action="store_true", help="do what --move-to or --hardlink would do"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet import images
    from hashnet.images import sheets
    from hashnet.retrieval.search import compiled

    acts = arguments.move_to is not None or arguments.hardlink
    _refuse(arguments, acts)
    index = opened(arguments.index)
    drawn: list[DuplicateGroup] = []
    taken: set[str] = set()
    number, done, left_alone = 0, 0, 0
    if arguments.csv:
        csv.writer(sys.stdout).writerow(COLUMNS)
    with Progress() as progress:
        groups = index.duplicates(arguments.threshold, turned=arguments.turned, progress=progress)
        for number, group in enumerate(groups, 1):
            _print(number, group, arguments)
            if arguments.picture and len(drawn) < DRAWN:
                drawn.append(group)
            for step in _steps(group, arguments, taken) if acts else ():
                done += step.refused is None
                left_alone += step.refused is not None
    if not number:
        note("no copies found")
    if acts:
        note(_said(arguments, done, left_alone))
    if drawn:
        sheet = sheets.contact_sheet(
            [(group.keep.path, _hits(group.copies)) for group in drawn], first="keep"
        )
        images.write(arguments.picture, sheet)
        note(f"wrote {arguments.picture}")
    if compiled.is_missed() and not (arguments.json or arguments.csv):
        hint_at_numba(len(index))
    return SKIPPED_SOME if arguments.really and left_alone else DONE


def _refuse(arguments: argparse.Namespace, acts: bool) -> None:
    from hashnet import images

    if arguments.really and not acts:
        raise ArgumentError(
            "--really does what another option would do.",
            "--really without --move-to or --hardlink",
            "Give one of them, first without --really to see what it would do.",
        )
    if arguments.picture:
        images.check_target(arguments.picture)
        if os.path.exists(arguments.picture):
            raise ArgumentError(
                "The picture of the groups takes no other file's place.",
                f"--picture {arguments.picture!r}, which is there",
                "Give the picture another name.",
            )


def _print(number: int, group: "DuplicateGroup", arguments: argparse.Namespace) -> None:
    if arguments.json:
        for copy in group.copies:
            print(json.dumps(_fields(number, group, copy)))
    elif arguments.csv:
        rows = csv.writer(sys.stdout)
        for image in (group.keep, *group.copies):
            height, width = image.size or ("", "")
            keeps = "yes" if image is group.keep else "no"
            rows.writerow(
                [
                    number,
                    keeps,
                    image.id,
                    image.path or "",
                    height,
                    width,
                    "" if image.bytes is None else image.bytes,
                    image.bits_apart,
                    f"{image.distance:.4f}",
                ]
            )
    else:
        names = [_named(copy) for copy in group.copies[:NAMED]]
        more = len(group.copies) - len(names)
        names += [f"and {more:,} more"] if more else []
        print(f"{len(group):,} images: keep {_named(group.keep)}  of  {', '.join(names)}")


def _fields(number: int, group: "DuplicateGroup", copy: "Copy") -> dict[str, Any]:
    """A copy and the image to keep, which comes first, as JSON shows them."""
    pair = (group.keep, copy)
    return {
        "group": number,
        "images": len(group),
        "ids": [image.id for image in pair],
        "paths": [image.path for image in pair],
        "sizes": [image.size for image in pair],
        "bytes": [image.bytes for image in pair],
        "bits_apart": copy.bits_apart,
        "distance": copy.distance,
    }


def _named(image: "Copy") -> str:
    name = printable(image.path or image.id)
    return name if image.size is None else f"{name} ({image.size[1]} x {image.size[0]})"


def _steps(
    group: "DuplicateGroup", arguments: argparse.Namespace, taken: set[str]
) -> "Iterator[Step]":
    """Say what is done, or would be, to the copies of a group; and do it if it is to be done."""
    from hashnet.retrieval import tidying

    if arguments.hardlink:
        steps, one, many = tidying.links(group), "link", "linked"
    else:
        steps, one, many = tidying.moves(group, arguments.move_to, taken), "move", "moved"
    for step in steps:
        if arguments.really:
            step = tidying.do(step)
        path, target = printable(step.path), printable(step.target or step.keep)
        if step.refused is not None:
            note(f"left alone {path}: {printable(step.refused)}")
        else:
            note(f"{many if arguments.really else f'would {one}'} {path} to {target}")
        yield step


def _said(arguments: argparse.Namespace, done: int, left_alone: int) -> str:
    did, would = ("linked", "link") if arguments.hardlink else ("moved", "move")
    if not arguments.really:
        return f"would {would} {done:,} files, leave {left_alone:,} alone; --really does it"
    return f"{did} {done:,} files, left {left_alone:,} alone; run hashnet index again to update"


def _hits(copies: "Sequence[Copy]") -> "list[Hit]":
    """The first of some copies as a contact sheet shows them."""
    from hashnet.retrieval.search.hits import Hit

    return [
        Hit(copy.id, copy.path, copy.label, copy.bits_apart, copy.distance)
        for copy in copies[:DRAWN_COPIES]
    ]
