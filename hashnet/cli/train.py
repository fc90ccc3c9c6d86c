"""hashnet train: train a hash network on labels."""

import argparse
import inspect
import re
import shlex
import sys
from collections.abc import Collection
from typing import Any

from hashnet.cli.choices import BACKBONES
from hashnet.cli.options import add_max_pixels, names
from hashnet.cli.output import DONE, SKIPPED_SOME, name_problems, quiet
from hashnet.train import config

EXAMPLE = "photos/ --bundle my.bundle"
CHOICES = {
    "loss": config.LOSSES,
    "optimizer": config.OPTIMIZERS,
    "schedule": config.SCHEDULES,
    "precision": config.PRECISIONS,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add options that mirror the fields of `TrainConfig`, which also holds their defaults."""
    parser.add_argument(
        "data", metavar="DATA", help="folder of class folders, CSV file, or idx files"
    )
    parser.add_argument(
        "--bundle",
        required=True,
        metavar="B",
        help="folder that the network is written to (required)",
    )
    parser.add_argument(
        "--catalogue",
        metavar="C",
        help="with a loss of features, pictures of the same classes that look otherwise, such as a "
        "shop's own: class folders, a CSV file, or a folder of images that are named after their "
        "class; a batch shows one of each of its classes (none)",
    )
    parser.add_argument(
        "--recipe",
        metavar="R",
        help=f"start from one of {', '.join(config.recipe_names())}, or a TOML file",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a bundle that exists, its delf.onnx included",
    )
    fields = config.TrainConfig.__dataclass_fields__
    meanings = _meanings(config.TrainConfig)
    for name, field in fields.items():
        meaning = _as_help(meanings.get(name, ""), fields)
        # Defaults stay with the dataclass, so that a recipe's value is not covered by them.
        options: dict[str, Any] = {
            "dest": name,
            "default": None,
            "help": f"{meaning} ({default_text(field.default)})".lstrip(),
        }
        if isinstance(field.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(field.default, tuple):
            options.update(type=names, metavar="A,B,...")
        else:
            choices = CHOICES.get(name)
            metavar = None if choices else name.split("_")[-1].upper()
            options.update(type=type(field.default), choices=choices, metavar=metavar)
        parser.add_argument(_flag(name), **options)
    add_max_pixels(parser)


def _flag(field: str) -> str:
    return "--bits" if field == "num_bits" else "--" + field.replace("_", "-")


def default_text(default: object) -> str:
    """A field's default, as the help says it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return str(default) if default not in ("", ()) else "none"


def _meanings(dataclass: type) -> dict[str, str]:
    """What a docstring says of each field; nothing where Python runs without them (-OO)."""
    text = inspect.getdoc(dataclass) or ""
    attributes = text.partition("Attributes:\n")[2].split("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _as_help(meaning: str, fields: Collection[str]) -> str:
    """What a docstring says, for `--help`: options in place of fields, and no types."""
    meaning = re.sub(r"^(int|float|str|bool|tuple of str)[.,] ", "", meaning)
    meaning = meaning.replace("`BACKBONES`", ", ".join(BACKBONES))
    meaning = re.sub(r"^one of `[A-Z]+`[. ]*", "", meaning)
    meaning = re.sub(r"`(\w+)`", lambda m: _flag(m[1]) if m[1] in fields else m[1], meaning)
    meaning = meaning.replace("`", "").replace("%", "%%").rstrip(".")
    return meaning[:1].lower() + meaning[1:]


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hashnet import train

    changes = {
        name: value
        for name, value in vars(arguments).items()
        if name in config.TrainConfig.__dataclass_fields__ and value is not None
    }
    trained = train(
        arguments.data,
        arguments.bundle,
        catalogue=arguments.catalogue,
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
