"""The files of an index folder as they are read: mapped, and watched.

A mapped page that the disk does not give ends the process by a signal (SIGBUS), which Python cannot
catch: where another program has cut the file off, where a drive has gone, where a block is bad. A
read of the same page by a call is an error. So what is read for the first time is read by calls,
and the map finds it in the system's memory; and the length of each file is looked at before the map
is used.
"""

import contextlib
import os
import pathlib
import threading
import weakref

import numpy as np

from hashnet import system
from hashnet.retrieval.store.folder.contents import Catalogue, open_data
from hashnet.retrieval.store.folder.paths import damaged

_AT_ONCE = 2**20  # bytes


class MappedFiles:
    """The committed rows of all arrays of an index.

    Args:
        folder: pathlib.Path of the index.
        catalogue: `Catalogue` of the commit.

    Attributes:
        maps: dict of name to `numpy.memmap`, read-only, of dtype and shape as `Catalogue.layout`
            says; to a plain one where it has no rows.

    Raises:
        StoreError: a file is missing, too short, or no plain file.
    """

    def __init__(self, folder: pathlib.Path, catalogue: Catalogue) -> None:
        self._folder, self._catalogue = folder, catalogue
        self._descriptors: dict[str, int] = {}
        weakref.finalize(self, _close, self._descriptors)
        # Windows reads from where a file stands, which all threads share.
        self._turn: contextlib.AbstractContextManager[object] = (
            contextlib.nullcontext() if hasattr(os, "pread") else threading.Lock()
        )
        self.maps = {name: self._map(name) for name in catalogue.file_names}
        # Each search asks for it several times.
        self._wanted = [
            (name, descriptor, catalogue.ends[name] * catalogue.row_bytes(name))
            for name, descriptor in self._descriptors.items()
        ]

    def _map(self, name: str) -> np.ndarray:
        self._descriptors[name] = open_data(self._folder, self._catalogue, name)
        dtype, shape = self._catalogue.layout(name)
        shape = (self._catalogue.ends[name], *shape)
        if shape[0] == 0:
            return np.empty(shape, dtype)
        with open(self._descriptors[name], "rb", closefd=False) as file:
            return np.memmap(file, dtype, "r", shape=shape)

    def check(self) -> None:
        """See that all files are still as long as they were.

        Raises:
            StoreError: one is not; it was cut off by another program.
        """
        for name, descriptor, wanted in self._wanted:
            size = os.fstat(descriptor).st_size
            if size < wanted:
                raise self._damaged(name, f"{size} bytes instead of {wanted}")

    def read(self, name: str, start: int, count: int) -> bytes:
        """Bytes of an array's file.

        Args:
            name: str, such as `codes`.
            start, count: int, bytes.

        Returns:
            bytes, so many.

        Raises:
            StoreError: the disk does not give them.
        """
        parts, end = [], start + count
        while start < end:
            try:
                with self._turn:
                    part = system.read_at(self._descriptors[name], end - start, start)
            except OSError as error:
                raise self._damaged(name, error.strerror) from error
            if not part:
                raise self._damaged(name, f"it ends at byte {start} instead of {end}")
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fetch(self, name: str, start: int, count: int) -> None:
        """Have the system read a part of a file, so that the map finds it.

        Args:
            name, start, count: as for `read`.

        Raises:
            StoreError: the disk does not give it.
        """
        for at in range(start, start + count, _AT_ONCE):
            self.read(name, at, min(_AT_ONCE, start + count - at))

    def _damaged(self, name: str, what: object) -> Exception:
        return damaged(self._folder, self._catalogue.file_name(name), what)


def _close(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
