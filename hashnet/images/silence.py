"""Keeps Pillow's warnings and log lines from a program that cannot act on them."""

import logging
import threading
import warnings
from typing import Any

from PIL import TiffImagePlugin


class _Silence(threading.local):
    """Keeps Pillow's warnings and log lines to itself, in the threads that are decoding for us.

    Pillow warns about files that are a little broken; nobody can act on that, and with warnings
    turned into errors a good picture would be refused. `warnings.catch_warnings` is not for
    threads: it swaps one list that all of them share. This object stands in that list as the
    pattern for module names, and matches any name while its own thread decodes, and none else.
    """

    decoding = False

    def match(self, _module: str) -> bool:
        return self.decoding

    def filter(self, _record: logging.LogRecord) -> bool:
        return not self.decoding

    def __enter__(self) -> None:
        if not warnings.filters or warnings.filters[0] is not _SILENT:
            filters: Any = warnings.filters  # a list, which its stub keeps to itself
            filters.insert(0, _SILENT)
        logging.getLogger(TiffImagePlugin.__name__).addFilter(self)  # the one that logs errors
        self.decoding = True

    def __exit__(self, *_exception: object) -> None:
        self.decoding = False


silence = _Silence()
_SILENT: tuple[Any, ...] = ("ignore", None, Warning, silence, 0)
