"""The lowest versions that setup.cfg allows, as constraints for pip: run `python -m tests.lowest`.

`make lowest` installs them and runs the fast tests on them, so that each bound is a promise kept.
"""

import configparser
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "tests" / "lowest.txt"
HEADER = "# The lowest versions that setup.cfg allows. Written by `python -m tests.lowest`.\n"


def requirements():
    """dict of "core" and each extra of setup.cfg to its lines, as they stand there."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = settings["options.extras_require"]
    found = {"core": settings["options"]["install_requires"].split()}
    return found | {extra: extras[extra].split() for extra in extras}


def constraints():
    """The text of `CONSTRAINTS`, one package a line.

    Raises:
        ValueError: a requirement has no lower bound, or two have different ones.
    """
    lowest = {}
    for extra, lines in requirements().items():
        for line in lines:
            if line.startswith("hashnet["):
                continue
            bound = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", line)
            if not bound:
                raise ValueError(f"Each requirement is `name>=version`. Received: {extra}: {line}.")
            name, version = bound.groups()
            if lowest.setdefault(name, version) != version:
                raise ValueError(f"A package has one lower bound. Received: {extra}: {line}.")
    return HEADER + "".join(f"{name}=={lowest[name]}\n" for name in sorted(lowest, key=str.lower))


if __name__ == "__main__":
    CONSTRAINTS.write_text(constraints(), encoding="utf-8")
