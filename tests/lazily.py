"""Modules that are loaded when a test uses them, not when tests are collected.

Each of pytest's workers collects every test file, but TensorFlow is for one of them: it takes
five seconds and 800 MB.
"""

import importlib


class Lazily:
    """Stands for a module until something in it is asked for.

    Args:
        name: str, dotted.
    """

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        # What pytest, doctest and mocks ask of everything that is collected.
        if name.startswith(("_", "pytest_")):
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)
