"""The engine of the newest version of the index, exchanged while others still search the last."""

import hashlib
import logging
import os
import threading
from typing import Any

from hashnet import images
from hashnet.errors import HashnetError, ImageError
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.prototypes import Prototypes
from hashnet.retrieval.service.public_ids import PublicIds
from hashnet.retrieval.words.beside import WordEngine

_log = logging.getLogger(__name__)


class Version:
    """One version of the index, and all that answers questions about it.

    Args:
        index: `Index`.
        version: tuple, as `Store.version` gave it.
        show_paths: bool. As for `PublicIds`.
        after: `Version` of an earlier version, or None: what it knows is taken over.

    Attributes:
        engine: `WordEngine`.
        prototypes: `Prototypes`.
        public_ids: `PublicIds`.
        version: tuple, as `Store.version` gave it.
        index: as given.
    """

    def __init__(
        self,
        index: Index,
        version: tuple[Any, ...],
        show_paths: bool,
        after: "Version | None" = None,
    ) -> None:
        self.version, self.index = version, index
        self.engine: WordEngine = WordEngine(index, after=None if after is None else after.engine)
        self.prototypes = Prototypes(self.engine)
        self.public_ids = (
            PublicIds() if show_paths else PublicIds.of(self.engine.snapshot, _key_of(index))
        )


def _key_of(index: Index) -> bytes:
    """What only those know who can read the index, and what it keeps as long as it is."""
    return hashlib.sha256(repr(index.store.made).encode()).digest()


class ServedIndex:
    """An index that is being served.

    Args:
        place: str or path-like, a folder or the URL of a table.
        show_paths: bool. As for `PublicIds`.

    Attributes:
        current: the `Version` of the newest version. Take it once for each request.

    Raises:
        StoreError, FingerprintError: as `Index.open` does.
    """

    def __init__(self, place: str | os.PathLike[str], *, show_paths: bool) -> None:
        self._show_paths = show_paths
        self._reloading = threading.Lock()
        self._complaint: str | None = None
        index = Index.open(place)
        # Asked before the version is made: what is committed meanwhile is looked at once more.
        self.current = Version(index, index.store.version(), show_paths)

    def refresh(self) -> bool:
        """Take over what was committed since; returns whether there was something.

        If it cannot be read, the last version goes on being served; the log says why, once.
        """
        with self._reloading:
            old = self.current
            try:
                version = old.index.store.version()
                if version != old.version:
                    index = old.index.reopened()
                    self.current = Version(index, version, self._show_paths, old)
            except (HashnetError, OSError) as error:
                if str(error) != self._complaint:
                    _log.warning("the index has changed and cannot be read: %s", error)
                self._complaint = str(error)
                return False
            self._complaint = None
            return version != old.version

    def add(self, id: str, photo: images.Photo, label: str | None) -> None:
        """Encode one picture and add it, or replace the one of this id.

        Args:
            id: str.
            photo: `images.Photo`.
            label: str or None.

        Raises:
            ImageError: it is no picture.
            LockedError, StoreError: another process is writing, or the disk refuses.
        """
        index = self.current.index
        problems = index.add([photo], ids=[id], labels=[label]).problems
        if problems:
            raise ImageError(problems[0].reason)
        self.refresh()

    def remove(self, **what: Any) -> list[str]:
        """Remove images.

        Args:
            **what: as for `Index.remove`.

        Returns:
            list of str, their ids.

        Raises:
            LockedError, StoreError: another process is writing, or the disk refuses.
        """
        removed = self.current.index.remove(**what)
        self.refresh()
        return removed
