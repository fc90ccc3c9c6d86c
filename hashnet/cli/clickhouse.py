"""hashnet clickhouse: print or run the statements that make an index's tables."""

import argparse

from hashnet.cli.options import positive_number
from hashnet.cli.output import DONE

EXAMPLE = "init clickhouse://db:8123/photos/all --bits 48 --cluster main"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("action", choices=["init"], help="create the tables of an index")
    parser.add_argument("url", metavar="URL", help="clickhouse://HOST:PORT/DB/TABLE")
    parser.add_argument(
        "--bits", type=positive_number, required=True, metavar="N", help="code length"
    )
    parser.add_argument(
        "--cluster", metavar="NAME", help="shard and replicate the tables over this cluster"
    )
    parser.add_argument("--execute", action="store_true", help="also run the statements")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet.retrieval.store.clickhouse import tables
    from hashnet.retrieval.store.clickhouse.store import Store

    entries = None
    if arguments.execute and Store.is_there(arguments.url):
        entries = Store.open(arguments.url).entries  # on machines that the cluster has got since
    statements = tables.ddl(
        arguments.url, num_bits=arguments.bits, cluster=arguments.cluster, entries=entries
    )
    if arguments.execute:
        tables.execute(arguments.url, statements)
    print("".join(f"{statement};\n" for statement in statements), end="")
    return DONE
