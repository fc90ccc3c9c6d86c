"""hashnet train: train a hash network on labels."""

import argparse
import dataclasses
import inspect
import re
import shlex
import sys

from hashnet.cli.options import names
from hashnet.cli.output import DONE, SKIPPED_SOME, name_problems, quiet

EXAMPLE = "photos/ --bundle my.bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add options that mirror the fields of `TrainConfig`, which also holds their defaults."""
    from hashnet.train import config

    parser.add_argument("data", metavar="DATA", help="folder of class folders, CSV, or idx files")
    parser.add_argument("--bundle", required=True, metavar="B", help="where the network goes")
    parser.add_argument(
        "--recipe",
        metavar="R",
        help=f"start from one of {', '.join(config.recipe_names())}, or a TOML file",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the bundle that is there already"
    )
    choices = {
        "loss": config.LOSSES,
        "optimizer": config.OPTIMIZERS,
        "schedule": config.SCHEDULES,
        "precision": config.PRECISIONS,
    }
    meanings = _meanings(config.TrainConfig)
    for name, field in _fields().items():
        flag = "--bits" if name == "num_bits" else "--" + name.replace("_", "-")
        # Defaults stay with the dataclass, so that a recipe's value is not covered by them.
        meaning = f"{meanings.get(name, '')} ({field.default!r})".lstrip()
        options = {"dest": name, "default": None, "help": meaning}
        if field.default is True or field.default is False:
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(field.default, tuple):
            options.update(type=names, metavar="A,B,...")
        else:
            options.update(type=type(field.default), choices=choices.get(name))
            options["metavar"] = None if name in choices else name.split("_")[-1].upper()
        parser.add_argument(flag, **options)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet import train

    changes = {
        name: value
        for name, value in vars(arguments).items()
        if name in _fields() and value is not None
    }
    trained = train(
        arguments.data,
        arguments.bundle,
        recipe=arguments.recipe,
        overwrite=arguments.overwrite,
        verbose=not quiet(),
        command=shlex.join(["hashnet", *sys.argv[1:]]),
        **changes,
    )
    name_problems(trained.problems)
    num_bits = trained.bundle.config.num_bits
    print(f"{arguments.bundle}: {num_bits} bits, {trained.minutes:.1f} minutes, {trained.score}")
    return SKIPPED_SOME if trained.problems else DONE


def _fields():
    from hashnet.train.config import TrainConfig

    return {field.name: field for field in dataclasses.fields(TrainConfig)}


def _meanings(dataclass):
    """dict of field to what the docstring says of it, as argparse takes text.

    Empty where Python runs without docstrings (-OO).
    """
    attributes = inspect.getdoc(dataclass).partition("Attributes:\n")[2].split("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()).replace("%", "%%") for name, text in entries}
