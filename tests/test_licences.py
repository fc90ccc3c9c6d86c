"""docs/licences.md and tests/lowest.txt follow setup.cfg, whoever changes it."""

import email.message
import importlib.metadata
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import licences, lowest


def test_the_page_names_what_setup_cfg_names_and_what_for():
    page = licences.PAGE.read_text(encoding="utf-8")
    table = page.split("## What setup.cfg names")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([\w-]+) \| .+ \| (.+) \|$", table, re.MULTILINE)
    written = {name: set(extras.split(", ")) for name, extras in rows if name != "package"}
    named = {}
    for extra, lines in lowest.requirements().items():
        for line in lines:
            if not line.startswith("hashnet["):
                named.setdefault(canonicalize_name(Requirement(line).name), set()).add(extra)
    assert written == named, "run: python -m tests.licences"


def test_what_is_needed_is_followed_to_its_end():
    brought = licences.brought("pytest")
    assert {"pytest", "pluggy", "iniconfig"} <= brought and "tensorflow" not in brought
    for name in brought:
        importlib.metadata.version(name)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"License-Expression": "MIT", "License": "a text"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, "BSD License"),
        ({"License": "Files: *\nand more"}, "not stated"),
        ({"License": "Apache 2.0"}, "Apache 2.0"),
        ({}, "not stated"),
    ],
)
def test_a_licence_is_what_the_metadata_tells(fields, told, monkeypatch):
    about = email.message.Message()
    for name, value in fields.items():
        about[name] = value
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _name: about)
    assert licences.licence("any") == told


def test_the_lowest_versions_are_those_of_setup_cfg():
    written = lowest.CONSTRAINTS.read_text(encoding="utf-8")
    assert written == lowest.constraints(), "run: python -m tests.lowest"


@pytest.mark.parametrize("line", ["numpy", "numpy>2.0", "numpy>=2.1"])
def test_a_package_has_one_lower_bound(line, monkeypatch):
    monkeypatch.setattr(
        lowest, "requirements", lambda: {"core": ["numpy>=2.0"], "plots": ["hashnet[fast]", line]}
    )
    with pytest.raises(ValueError, match="Received: plots: numpy"):
        lowest.constraints()
