"""Keeps what Pillow and libtiff say from a program that cannot act on it."""

import ctypes
import logging
import threading
import warnings
from typing import Any

from PIL import TiffImagePlugin, _imaging


class _Libtiff:
    """Where libtiff writes what it finds wrong: nowhere, while somebody decodes for us.

    It writes to stderr, by itself, and knows no threads. What it finds wrong Pillow raises as well.
    """

    def __init__(self) -> None:
        self._lock, self._decoding, self._before = threading.Lock(), 0, None
        try:  # a library that Pillow's own was linked with
            linked: Any = ctypes.CDLL(_imaging.__file__)
            self._set: Any = linked.TIFFSetErrorHandler
        except (AttributeError, OSError):  # it is within Pillow's own
            self._set = None
        else:
            self._set.argtypes, self._set.restype = [ctypes.c_void_p], ctypes.c_void_p

    def hush(self) -> None:
        with self._lock:
            self._decoding += 1
            if self._set is not None and self._decoding == 1:
                self._before = self._set(None)

    def unhush(self) -> None:
        with self._lock:
            self._decoding -= 1
            if self._set is not None and not self._decoding:
                self._set(self._before)


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
        _libtiff.hush()

    def __exit__(self, *_exception: object) -> None:
        self.decoding = False
        _libtiff.unhush()


_libtiff = _Libtiff()
silence = _Silence()
_SILENT: tuple[Any, ...] = ("ignore", None, Warning, silence, 0)
