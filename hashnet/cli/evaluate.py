"""hashnet evaluate: measure an index."""

import argparse
import json

from hashnet.cli.indexes import refuse_url
from hashnet.cli.options import add_index, add_json, add_pool
from hashnet.cli.output import DONE, SKIPPED_SOME, Stages, name_problems, note

EXAMPLE = "photos.index queries/ --report out"

STAGES = {
    "coarse only": "coarse",
    "coarse then fine": "coarse_to_fine",
    "coarse, fine, verified": "verified",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    parser.add_argument(
        "queries", nargs="+", metavar="QUERIES", help="class folders, or images with --ground-truth"
    )
    parser.add_argument("--ground-truth", metavar="F", help="JSON file {query: [relevant, ...]}")
    add_pool(parser)
    parser.add_argument(
        "--encode-database",
        action="store_true",
        help="encode the index's images again where class scores cannot be had otherwise",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="also measure what local features add to the two stages before (index --local)",
    )
    parser.add_argument("--report", metavar="DIR", help="write a report with plots and pictures")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet.retrieval.evaluation import report
    from hashnet.retrieval.evaluation.evaluate import evaluate
    from hashnet.retrieval.index import Index
    from hashnet.retrieval.search.query import Query
    from hashnet.train import label_free

    refuse_url(arguments.index, "Evaluate an index folder of the same images.")
    query = Query(threshold=arguments.threshold, pool=arguments.pool, verify=arguments.verify)
    if arguments.report:
        report.require_plots()
        report.check_place(arguments.report)
    with Stages() as progress:
        evaluation = evaluate(
            Index.open(arguments.index),
            arguments.queries,
            query,
            ground_truth=arguments.ground_truth,
            baselines={
                "lsh": label_free.lsh,
                "pca_sign": label_free.pca_sign,
                "itq": label_free.itq,
            },
            baseline_bits=(12, 24, 64, 128) if arguments.report else (),
            encode_database=arguments.encode_database,
            progress=progress,
        )
    name_problems(evaluation.problems)
    if arguments.report:
        report.write(arguments.report, evaluation)
        note(f"wrote {arguments.report}")
    if arguments.json:
        print(json.dumps(evaluation.to_dict()))
    else:
        _print_evaluation(evaluation.to_dict())
    return SKIPPED_SOME if evaluation.problems else DONE


def _print_evaluation(figures):
    print(
        f"{figures['queries']} queries, {figures['database']} images, {figures['bits']} bits\n\n"
        f"{'':22} {'mAP':>8} {'mAP@1000':>9}"
    )
    print(f"{'these codes':22} {figures['map_all']:8.4f} {figures['map_at_1000']:9.4f}")
    for name, row in figures["baselines"].items():
        if "map_all" in row:
            print(f"{name:22} {row['map_all']:8.4f} {row['map_at_1000']:9.4f}")
        else:
            print(f"{name:22} {row['not_measured']}")
    if "stages" in figures:
        print(
            f"\n{figures['stages']['queries']} queries   {'R@1':>8} {'R@5':>8} {'mAP':>8} {'ms':>9}"
        )
        for title, name in STAGES.items():
            row = figures["stages"][name]
            print(
                f"{title:22} {row['found_at_1']:8.4f} {row['found_at_5']:8.4f} "
                f"{row['map_all']:8.4f} {row['milliseconds']:9.2f}"
            )
    print(f"\n{figures['protocol']}")
