"""hashnet compare: set features and codes side by side, on photos of the user's own."""

import argparse
from typing import Any

from hashnet.cli.options import add_json, add_max_pixels, backbone, positive_number
from hashnet.cli.output import Progress, tell

EXAMPLE = "photos/ --features f7,gem,rmac --codes 64,128 --report out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTOS",
        help="folders of class folders; with --ground-truth, images and folders of them",
    )
    parser.add_argument(
        "--queries",
        nargs="+",
        metavar="QUERIES",
        help="images and folders that are searched by (the photos themselves, each left out of its "
        "own ranking)",
    )
    parser.add_argument("--ground-truth", metavar="F", help="JSON file {query: [relevant, ...]}")
    parser.add_argument(
        "--features",
        type=_names,
        metavar="NAMES",
        default=["f7"],
        help="separated by commas, the first of them what others are compared with: f7, poolings "
        "such as mean, mac, spoc, rmac, gem, crow, map_gem or gem+mac, aggregated local features "
        "such as sift:vlad, sift:bovw or delf:fisher, names of other backbones, and folders of "
        "bundles (f7)",
    )
    parser.add_argument(
        "--codes",
        type=_lengths,
        metavar="LENGTHS",
        default=[128],
        help="lengths of codes in bits, separated by commas; none for features alone (128)",
    )
    parser.add_argument(
        "--backbone",
        type=backbone,
        metavar="NAME",
        default="efficientnet_lite0",
        help="what gives f7 and the maps that are pooled (%(default)s)",
    )
    parser.add_argument(
        "--most-queries",
        type=positive_number,
        metavar="N",
        default=500,
        help="of more queries chance chooses (%(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of that choice, of fits and tests (%(default)s)"
    )
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="write a page with all figures, plots, and queries that they differ on",
    )
    add_json(parser)
    add_max_pixels(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet.comparing import compare

    with Progress() as progress:
        comparison = compare(
            arguments.photos,
            arguments.queries,
            ground_truth=arguments.ground_truth,
            features=arguments.features,
            bits=arguments.codes,
            backbone=arguments.backbone,
            most_queries=arguments.most_queries,
            report=arguments.report,
            seed=arguments.seed,
            progress=progress,
        )
    return tell(comparison, _print_comparison, as_json=arguments.json, report=arguments.report)


def _print_comparison(figures: dict[str, Any]) -> None:
    print(f"{figures['queries']} queries, {figures['database']} images\n")
    width = max(len("method"), *(len(row["method"]) for row in figures["methods"]))
    head = f"{'mAP':>6} {'interval':>15} {'first':>6} {'bytes':>6} {'encode':>9} {'search':>9}"
    print(f"{'method':{width}} {head} {'difference':>11} {'interval':>17} {'p':>7}")
    for row in figures["methods"]:
        low, high = row["map_interval"]
        line = f"{row['method']:{width}} {row['map']:6.4f} {low:6.4f} - {high:6.4f} "
        line += f"{row['found_at_1']:6.4f} {row['bytes_per_image']:6d} "
        line += f"{row['encode_milliseconds']:6.1f} ms {row['search_milliseconds']:6.2f} ms"
        if "difference" in row:
            low, high = row["difference_interval"]
            line += f" {row['difference']:+11.4f} {low:+7.4f} - {high:+7.4f} {row['p']:7.4f}"
        print(line)
    print(f"\n{figures['protocol']}")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _lengths(text: str) -> list[int]:
    if text == "none":
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of lengths, such as 64,128"
        ) from None
