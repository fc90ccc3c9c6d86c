"""Types are checked nearly everywhere: what is excepted is little, and says why."""

import configparser
import fnmatch
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
SETTINGS = (ROOT / "setup.cfg").read_text(encoding="utf-8")
MOST_EXCEPTED = 0.1  # of all lines


def excepted_modules():
    """Patterns of the modules whose errors mypy does not report."""
    settings = configparser.ConfigParser()
    settings.read_string(SETTINGS)
    for name in settings.sections():
        if name.startswith("mypy-") and settings[name].getboolean("ignore_errors", False):
            yield from name.removeprefix("mypy-").split(",")


def test_less_than_a_tenth_of_the_lines_is_excepted():
    lines = {}
    for path in (ROOT / "hashnet").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        lines[module] = len(path.read_text(encoding="utf-8").splitlines())
    excepted = [
        module
        for pattern in excepted_modules()
        for module in lines
        if fnmatch.fnmatchcase(module, pattern) or module == pattern.removesuffix(".*")
    ]
    share = sum(lines[module] for module in set(excepted)) / sum(lines.values())
    assert share < MOST_EXCEPTED, sorted(set(excepted))


def test_every_exception_says_why():
    for paragraph in re.split(r"\n\n+", SETTINGS):
        if "[mypy-" in paragraph:
            assert paragraph.startswith("# "), paragraph


def test_the_rest_is_checked_strictly():
    settings = configparser.ConfigParser()
    settings.read_string(SETTINGS)
    assert settings["mypy"].getboolean("strict") and settings["mypy"]["packages"] == "hashnet"
