"""A plugin for pytest: tests run as where Numba is not installed.

python -m pytest -p tests.without_numba tests/test_engine.py
"""

import sys


def pytest_configure():
    """Not on import: whoever collects all tests imports this file too."""
    sys.modules["numba"] = None
