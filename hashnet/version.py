"""The version of HashNet."""

__version__ = "0.1.0"
