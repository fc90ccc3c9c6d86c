"""Arguments that several verbs share, and the types of arguments."""

import argparse
import os
from collections.abc import Callable

from hashnet.cli.choices import BACKBONES, EXTRACTORS


def add_index(parser: argparse.ArgumentParser) -> None:
    """Add INDEX."""
    parser.add_argument(
        "index", metavar="INDEX", help="folder of the index, or clickhouse://HOST:PORT/DB/TABLE"
    )


def add_pool(parser: argparse.ArgumentParser) -> None:
    """Add `--threshold` and `--pool`, of which one may be given."""
    pool = parser.add_mutually_exclusive_group()
    pool.add_argument(
        "--threshold",
        type=whole_number,
        metavar="T",
        help="the pool holds images at a Hamming distance below T",
    )
    pool.add_argument(
        "--pool",
        type=positive_number,
        metavar="N",
        help="the pool holds N images or more, those whose codes differ least",
    )


def add_matcher(parser: argparse.ArgumentParser) -> None:
    """Add `--matcher` and `--matcher-top`."""
    parser.add_argument(
        "--matcher",
        choices=["nearest", "lightglue"],
        default="nearest",
        help="with --verify, what matches local features: lightglue has a network match those of "
        "the first hits once more, for index --local aliked, disk or xfeat (%(default)s)",
    )
    parser.add_argument(
        "--matcher-top",
        type=positive_number,
        metavar="N",
        default=10,
        help="how many hits that network looks at (%(default)s)",
    )


def add_rank_by(parser: argparse.ArgumentParser) -> None:
    """Add `--rank-by`."""
    parser.add_argument(
        "--rank-by",
        choices=["both", "feature"],
        default="both",
        help="rank the pool by codes and features together, or by features alone (%(default)s)",
    )


def add_rerank(parser: argparse.ArgumentParser) -> None:
    """Add `--rerank`, `--rerank-top` and `--rerank-neighbours`."""
    parser.add_argument(
        "--rerank",
        choices=["aqe", "alpha_qe", "dba", "k_reciprocal", "diffusion"],
        help="rank the first hits again, by how they lie to each other: for queries of which an "
        "index holds many images",
    )
    parser.add_argument(
        "--rerank-top",
        type=positive_number,
        metavar="N",
        default=500,
        help="how many are ranked again (%(default)s)",
    )
    parser.add_argument(
        "--rerank-neighbours",
        type=positive_number,
        metavar="N",
        help="how many neighbours it goes by (the method's own)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_label_from(parser: argparse.ArgumentParser, text: str = "") -> None:
    """Add `--label-from`.

    Args:
        parser: `argparse.ArgumentParser`.
        text: str. What else the help says.
    """
    parser.add_argument(
        "--label-from",
        choices=["folder"],
        help="label each image with the first folder below the one given" + text,
    )


def add_exclude(parser: argparse.ArgumentParser) -> None:
    """Add `--exclude` and `--no-default-excludes`.

    Args:
        parser: `argparse.ArgumentParser`.
    """
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out what this names below IMAGES, as in a .gitignore; so does what a "
        ".hashnetignore in a folder says",
    )
    parser.add_argument(
        "--no-default-excludes",
        action="store_true",
        help="also take thumbnails, deleted files and the like (@eaDir, #recycle, *.lrdata, ...), "
        "and names that begin with a dot",
    )


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """Add `--max-pixels`, which `hashnet.cli.main` sees to."""
    parser.add_argument(
        "--max-pixels",
        type=positive_number,
        metavar="N",
        help="decode pictures of up to N pixels (65 million); JPEG photos are read reduced, up to "
        "64 times as large",
    )


def _at_least(least: int, name: str) -> Callable[[str], int]:
    """The type of an argument that is a number of at least so much; `name` is for refusals."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return value

    number.__name__ = name
    return number


whole_number, positive_number = _at_least(0, "whole number"), _at_least(1, "positive number")


def backbone(text: str) -> str:
    """A known name, or what may be a network of one's own: a path, or the name of a preset."""
    if text not in BACKBONES and not os.path.exists(text) and not set(text) & set(":./\\"):
        known = ", ".join(BACKBONES)
        raise argparse.ArgumentTypeError(f"{text!r} is no file, and none of {known}")
    return text


def extractors(text: str) -> str:
    """The name of an extractor, or several with commas between, or auto, by itself."""
    names = text.split(",")
    if "auto" in names and len(names) > 1:
        raise argparse.ArgumentTypeError("auto stands for two extractors, and comes by itself")
    for name in names:
        if name not in (*EXTRACTORS, "auto"):
            raise argparse.ArgumentTypeError(
                f"{name!r} is none of {', '.join(EXTRACTORS)} and auto; several have a comma "
                "between, as sift,aliked"
            )
    return text


class Shown(tuple[str, ...]):
    """Choices that help shows and a shell completes, of a type that looks at what is given."""

    def __contains__(self, given: object) -> bool:
        return True


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(text.split(","))


def part_of_whole(text: str) -> tuple[int, int]:
    """I/N: the part and the number of parts."""
    part, parts = (int(number) for number in text.split("/"))
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text} is not 1/N to N/N")
    return part, parts


part_of_whole.__name__ = "part of a whole, as 1/4"


def region(text: str) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), in pixels."""
    top, left, bottom, right = (int(part) for part in text.split(","))
    return top, left, bottom, right
