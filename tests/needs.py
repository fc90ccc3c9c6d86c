"""What some tests need of the system: where it is not there, the test skips and says so."""

import os

import pytest


def fork():
    """Fork, or skip the test; 0 in the child, else its number."""
    if not hasattr(os, "fork"):
        pytest.skip("processes do not fork here")
    return os.fork()


def link(path, target):
    """Make a symbolic link, or skip the test."""
    try:
        os.symlink(target, path)
    except OSError as error:
        pytest.skip(f"no symbolic links can be made here: {error}")


def pipe(path):
    """Make a named pipe, or skip the test."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    os.mkfifo(path)
