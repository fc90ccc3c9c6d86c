"""hashnet info: say what an index holds."""

import argparse
import json
import textwrap
from typing import Any

from hashnet.cli.indexes import hint_at_numba, opened, shown
from hashnet.cli.options import add_index, add_json
from hashnet.cli.output import DONE
from hashnet.escapes import printable

EXAMPLE = "photos.index"
WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_index(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    info = opened(arguments.index).info()
    if arguments.json:
        print(json.dumps(info))
        return DONE
    labels, origin = info.pop("labels"), info.pop("origin")
    info["folder"] = shown(info["folder"])
    info["ways"] = ", ".join(info["ways"])
    info["ways_missing"] = "; ".join(f"{way}: {why}" for way, why in info["ways_missing"].items())
    for name, value in info.items():
        _print_line(name, value)
    print("network")
    for name, value in origin.items():
        _print_line(f"  {name}", _in_words(name, value))
    if labels:
        print("labels")
    for label, count in sorted(labels.items()):
        print(f"  {count:15}  {printable(label)}")
    if "://" not in arguments.index:  # a database searches by itself
        hint_at_numba(info["images"])
    return DONE


def _print_line(name: str, value: object) -> None:
    text = printable(str(value))
    wrapper = textwrap.TextWrapper(
        WIDTH, subsequent_indent=" " * 18, break_long_words=False, break_on_hyphens=False
    )
    print(wrapper.fill(f"{name:17} {text}"))


def _in_words(name: str, value: object) -> object:
    """What a bundle says of how it was made: a table or a list of it on one line."""
    if name == "training" and isinstance(value, dict):
        value = _changed(value)
    if name == "history" and isinstance(value, list):
        last = value[-1] if value and isinstance(value[-1], dict) else {}
        return f"{len(value)} epochs, the last: {_in_words('', last)}" if last else len(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words('', one)}" for key, one in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else value


def _changed(settings: dict[str, Any]) -> dict[str, Any] | str:
    """The settings of a training that are not the defaults."""
    from hashnet.train.config import TrainConfig

    usual = TrainConfig().to_dict()
    changed = {name: value for name, value in settings.items() if value != usual.get(name)}
    return changed or "all settings as by default"
