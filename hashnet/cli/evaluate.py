"""hashnet evaluate: measure an index."""

import argparse
import math
from typing import Any

from hashnet.cli.indexes import opened_for_many, refuse_url
from hashnet.cli.options import (
    add_index,
    add_json,
    add_matcher,
    add_max_pixels,
    add_pool,
    add_rank_by,
    add_rerank,
)
from hashnet.cli.output import Progress, tell

EXAMPLE = "photos.index queries/ --report out"

# What the table calls each stage, and `EvaluationReport.to_dict`.
STAGES = {
    "coarse only": "coarse",
    "coarse then fine": "coarse_to_fine",
    "coarse, fine, re-ranked": "reranked",
    "coarse, fine, verified": "verified",
    "verified, and written": "written",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    parser.add_argument(
        "queries",
        nargs="+",
        metavar="QUERIES",
        help="folders of class folders; with --ground-truth, images and folders of them; or a "
        ".npy or .parquet file of vectors with labels",
    )
    parser.add_argument("--ground-truth", metavar="F", help="JSON file {query: [relevant, ...]}")
    add_pool(parser)
    add_rank_by(parser)
    add_rerank(parser)
    parser.add_argument(
        "--encode-database",
        action="store_true",
        help="encode the images of the index again where class scores cannot be computed otherwise",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="also measure the third stage, verification by local features (index --local)",
    )
    parser.add_argument(
        "--written",
        action="store_true",
        help="with --verify, also measure it together with the text in the queries (index --ocr)",
    )
    add_matcher(parser)
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="write a report with all figures, plots and pictures into this folder",
    )
    add_json(parser)
    add_max_pixels(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet import api
    from hashnet.retrieval.search.query import Query

    refuse_url(arguments.index, "Evaluate an index folder of the same images.")
    query = Query(
        threshold=arguments.threshold,
        pool=arguments.pool,
        rank_by=arguments.rank_by,
        rerank=arguments.rerank,
        rerank_top=arguments.rerank_top,
        rerank_neighbours=arguments.rerank_neighbours,
        verify=arguments.verify,
        written=arguments.written,
        matcher=arguments.matcher,
        matcher_top=arguments.matcher_top,
    )
    with Progress() as progress:
        evaluation = api.evaluate(
            opened_for_many(arguments.index),
            arguments.queries,
            ground_truth=arguments.ground_truth,
            report=arguments.report,
            query=query,
            encode_database=arguments.encode_database,
            progress=progress,
        )
    return tell(evaluation, _print_evaluation, as_json=arguments.json, report=arguments.report)


def _print_evaluation(figures: dict[str, Any]) -> None:
    print(f"{figures['queries']} queries, {figures['database']} images, {figures['bits']} bits\n")
    _print_stages(figures)
    print(f"\n{'codes':22} {'mAP':>8} {'mAP@1000':>9}")
    print(f"{'of this index':22} {figures['map_all']:8.4f} {figures['map_at_1000']:9.4f}")
    without: dict[str, list[str]] = {}
    for name, row in figures["baselines"].items():
        if "map_all" in row:
            print(f"{name:22} {row['map_all']:8.4f} {row['map_at_1000']:9.4f}")
        else:
            without.setdefault(row["not_measured"], []).append(name)
    for reason, names in without.items():
        reason = reason.replace("encode_database=True", "--encode-database")
        print(f"\nNot measured: {', '.join(names)}. {reason}")
    print(f"\n{_protocol(figures)}")


def _print_stages(figures: dict[str, Any]) -> None:
    """A row for each stage: of all queries, or where the last was measured, of the same ones."""
    if "stages" in figures:
        stages = figures["stages"]
        columns: tuple[str, ...] = ("found@1", "found@5", "mAP", "ms")
        rows = {
            title: [row["found_at_1"], row["found_at_5"], row["map_all"], row["milliseconds"]]
            for title, row in _measured(stages).items()
        }
        head = f"stage, {stages['queries']} queries"
    else:
        columns = ("found@1", "P@10", "R-prec", "MAP@R", "mAP", "ms")
        rows = {
            title: [
                row["found_at"]["1"],
                row["precision_at"].get("10", math.nan),
                row["r_precision"],
                row["map_at_r"],
                row["map_all"],
                row["milliseconds"].get("total", row["milliseconds"]["coarse"]),
            ]
            for title, row in _measured(figures).items()
        }
        head = "stage"
    print(f"{head:23} " + " ".join(f"{column:>8}" for column in columns))
    for name, row in rows.items():
        print(f"{name:23} " + " ".join(f"{value:8.4f}" for value in row[:-1]) + f" {row[-1]:8.2f}")


def _measured(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {title: figures[name] for title, name in STAGES.items() if name in figures}


def _protocol(figures: dict[str, Any]) -> str:
    """What was measured, in one line."""
    by = "that have the query's label" if figures["map_by_label"] else "the ground truth lists"
    own = figures["queries_in_the_index"]
    left_out = f"; {own} queries are in the index, each left out of its own ranking" if own else ""
    return (
        f"Relevant: images {by}. mAP: over all {figures['database']} images, ties averaged"
        f"{left_out}. All definitions: --report."
    )
