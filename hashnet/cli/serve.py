"""hashnet serve: search in the browser, and over HTTP."""

import argparse

from hashnet.cli.indexes import hint_at_numba, shown
from hashnet.cli.options import add_index, positive_number, whole_number
from hashnet.cli.output import DONE

EXAMPLE = "photos.index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port",
        type=whole_number,
        default=8000,
        help="port to listen on, 0 for a free one (%(default)s)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="accept requests for this host name; localhost and numbers are accepted anyway",
    )
    parser.add_argument(
        "--token-file",
        metavar="F",
        help="file with the token for changes; without it, $HASHNET_TOKEN; without either, "
        "no changes are allowed",
    )
    parser.add_argument(
        "--show-paths", action="store_true", help="include the paths of files in answers"
    )
    parser.add_argument("--workers", type=positive_number, metavar="N", help="threads that search")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet import system
    from hashnet.retrieval.service import server
    from hashnet.retrieval.service.settings import Settings
    from hashnet.retrieval.store.kinds import kind_of

    workers = arguments.workers or system.cores()
    settings = Settings(
        token=server.token_from(arguments.token_file),
        show_paths=arguments.show_paths,
        hosts=(arguments.host, *arguments.allow_host),
        workers=workers,
    )

    def ready(url: str) -> None:
        print(f"serving {shown(arguments.index)} at {url} (Ctrl-C stops)", flush=True)
        if "://" not in arguments.index:  # a database searches by itself
            with kind_of(arguments.index).open(arguments.index).snapshot() as snapshot:
                hint_at_numba(snapshot.num_items)

    server.serve(
        arguments.index,
        host=arguments.host,
        port=arguments.port,
        settings=settings,
        ready=ready,
    )
    return DONE
