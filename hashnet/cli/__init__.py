"""The `hashnet` command: a file for each verb, with its options beside what it does.

Answers go to stdout, progress and notes to stderr. Exit status: 0 done, 1 failed, 2 wrong
arguments, 3 done, but some inputs were skipped and named. A verb's file is imported when the verb
is run, and imports what it needs then: `hashnet --help` loads none of them, and `hashnet search`
does not wait for what only training needs.
"""

import argparse
import contextlib
import importlib
import os
import sys
import time
from collections.abc import Collection, Sequence

from hashnet.cli.output import (
    DONE,
    FAILED,
    NORMAL,
    QUIET,
    SKIPPED_SOME,
    VERBOSE,
    WRONG_ARGUMENTS,
    detail,
    escape_what_cannot_be_written,
    fail,
    set_verbosity,
)
from hashnet.errors import ArgumentError, HashnetError
from hashnet.version import __version__

__all__ = [
    "DONE",
    "FAILED",
    "SKIPPED_SOME",
    "VERBS",
    "WRONG_ARGUMENTS",
    "commands",
    "main",
    "parser",
]

# Verb, which is also the name of its file, and what `hashnet --help` says of it.
VERBS = {
    "demo": "train, index, search and evaluate on a bundled sample",
    "index": "create an index of images, or bring it up to date",
    "extract": "encode images into Parquet files, on one machine or many",
    "search": "find the images that are most like a query",
    "list": "list the ids of the images of an index, one a line; with --json labels and paths too",
    "remove": "remove images from an index",
    "info": "show what an index holds and how its network was made",
    "check": "compare every byte of an index with its checksums",
    "compact": "free the space that removed images take",
    "aggregate": "make a vector of the local features of each image, for an index of vectors",
    "refit": "fit codes without labels again, to all that an index holds now",
    "evaluate": "measure how well an index answers queries whose answers are known",
    "compare": "set features and codes side by side, on photos of yours whose answers are known",
    "train": "train a hash network on labelled images",
    "attention": "train the local features of a bundle, for index --local delf",
    "export": "convert a network for another runtime or precision",
    "clickhouse": "print or run the statements that create the tables of an index",
    "serve": "serve an index in the browser and over HTTP",
    "duplicates": "find copies of images, say which to keep, and put the others away",
    "completion": "print a script for completion in a shell",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    Args:
        argv: list of str, the command and its arguments; None for those of this process.

    Returns:
        int: 0 done, 1 failed, 2 wrong arguments, 3 done, but some inputs were skipped and named.

    Raises:
        SystemExit: with status 2 where the arguments cannot be parsed, and 0 after `--help`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow leaves its faster CPU kernels off on some processors that they run on.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    argv = sys.argv[1:] if argv is None else argv
    escape_what_cannot_be_written()
    # What stands first is the verb, or an option of `hashnet` itself, which needs none.
    arguments = parser(argv[:1]).parse_args(argv)
    set_verbosity(arguments.verbosity)
    start = time.perf_counter()
    if getattr(arguments, "max_pixels", None):
        from hashnet import images

        images.set_max_pixels(arguments.max_pixels)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        detail(f"{arguments.command}: {time.perf_counter() - start:.2f} seconds")
        return status
    except ArgumentError as error:
        return fail(error, WRONG_ARGUMENTS)
    except HashnetError as error:
        return fail(error, FAILED)
    except KeyboardInterrupt:
        return fail("stopped; what was committed stays", FAILED)
    except MemoryError:
        return fail("more memory would be needed; what was committed stays", FAILED)
    except BrokenPipeError:
        # The reader has seen enough; python would complain again while it closes stdout.
        _forget_stdout()
        return FAILED
    except OSError as error:
        _forget_stdout()
        return fail(
            HashnetError(
                "A command reads and writes where there is leave, and room.",
                str(error),
                "What was committed stays.",
            ),
            FAILED,
        )


def _forget_stdout() -> None:
    """Drop what could not be written: python would try again, and complain, while it closes it."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def parser(verbs: Collection[str] = tuple(VERBS)) -> argparse.ArgumentParser:
    """The argument parser of all commands.

    Args:
        verbs: the verbs whose options it knows; of all others only the line of help.

    Returns:
        `argparse.ArgumentParser`; what it parses has `run`, a function of it that runs the verb
        and returns the exit status.

    Example:
        >>> parser(["info"]).parse_args(["info", "photos.index"]).index
        'photos.index'
    """
    top = argparse.ArgumentParser(
        prog="hashnet", description="Search photos by example: hash codes find, features rank."
    )
    top.add_argument("--version", action="version", version=f"hashnet {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for verb, text in VERBS.items():
        sub = commands.add_parser(verb, help=text, description=text)
        if verb in verbs:
            module = importlib.import_module(f"hashnet.cli.{verb}")
            module.add_arguments(sub)
            _add_verbosity(sub)
            sub.epilog = f"example: hashnet {verb} {module.EXAMPLE}".rstrip()
            sub.set_defaults(run=module.run)
    return top


def commands(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the verbs, in the order of `hashnet --help`.

    Args:
        top: what `parser` gave.

    Returns:
        dict of verb to `argparse.ArgumentParser`.

    Example:
        >>> next(iter(commands(parser([]))))
        'demo'
    """
    [action] = [one for one in top._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(action.choices)


def _add_verbosity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    for option, verbosity, text in (
        ("verbose", VERBOSE, "say more on stderr: what was chosen, what takes how long"),
        ("quiet", QUIET, "say nothing on stderr but errors and what was skipped"),
    ):
        group.add_argument(
            f"-{option[0]}",
            f"--{option}",
            dest="verbosity",
            action="store_const",
            const=verbosity,
            default=NORMAL,
            help=text,
        )
