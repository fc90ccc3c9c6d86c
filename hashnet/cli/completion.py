"""hashnet completion: print the script that completes commands and options in a shell."""

import argparse

from hashnet.cli.choices import SHELLS
from hashnet.cli.output import DONE

EXAMPLE = "bash"
# Names, in the help, of arguments that are files or folders.
_PATHS = frozenset({"B", "BUNDLE", "DATA", "DIR", "F", "IMAGES", "INDEX", "INDEX2", "OUT", "PNG"})
_PATHS |= {"QUERIES", "QUERY", "R"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    import shtab

    from hashnet import cli

    whole = cli.parser()
    for verb in cli.commands(whole).values():
        for action in verb._actions:
            if action.metavar in _PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(whole, shell=arguments.shell))
    return DONE
