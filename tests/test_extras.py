"""hashnet/extras.py: a missing library is named with a command that installs it."""

import configparser
import pathlib
import re

import pytest

from hashnet import extras
from hashnet.errors import BackendError

ROOT = pathlib.Path(__file__).resolve().parents[1]


def packages_of(extra, setup):
    """What an extra of setup.cfg stands for, with the extras of ours that it names."""
    found = set()
    for line in setup["options.extras_require"][extra].split():
        inner = re.fullmatch(r"hashnet\[(.+)\]", line)
        if inner:
            for name in inner[1].split(","):
                found |= packages_of(name, setup)
        else:
            found.add(line)
    return found


@pytest.mark.parametrize("extra", extras.PACKAGES)
def test_the_packages_that_an_error_names_are_those_of_setup_cfg(extra):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert set(extras.PACKAGES[extra]) == packages_of(extra, setup)


def test_a_missing_library_is_an_error_of_the_kind_asked_for_with_a_command():
    with pytest.raises(BackendError, match=r'A rule\. .*pip install "chdb>=4\.4"'):
        extras.load("no_such_module_of_ours", "clickhouse", "A rule.", BackendError)
